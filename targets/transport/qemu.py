"""Another x86-64 processor than this machine's, in QEMU user mode: its answers, not its speed."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from calibration.errors import InputError, UnsupportedError
from targets.device.probe import architecture
from targets.transport import local

PROGRAMS = ("qemu-x86_64-static", "qemu-x86_64")


def emulator(cpu: str) -> list[str]:
    """The command that runs a program of this machine as on `cpu`, one of QEMU's names, such as "Haswell".

    Raises UnsupportedError where QEMU is not installed or this machine is no x86-64, InputError where it does not know
    the processor.
    """
    if architecture() != "x86_64":
        raise UnsupportedError(
            f"qemu: this machine is {architecture()}; it runs this machine's Python as on another x86-64 processor",
            "validate on an x86-64 machine, or on the device",
        )
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise UnsupportedError("QEMU user mode is not installed", "Debian and Ubuntu: apt install qemu-user-static")
    # It ends with 1, having listed them.
    listed = subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=False).stdout
    known = [line.split()[1] for line in listed.splitlines() if line.startswith("x86 ")]
    if cpu not in known:
        raise InputError(f"qemu: there is no processor {cpu!r}", f"`{Path(program).name} -cpu help` lists them")
    return [program, "-cpu", cpu]


def validate(bundle: Path, cpu: str, junit: Path | None = None) -> tuple[int, dict[str, Any]]:
    """As local.validate, on an emulated `cpu`: answers are judged; time and memory say nothing and are not taken.

    Raises what `emulator` raises.
    """
    return local.validate(bundle, junit, emulator=emulator(cpu))
