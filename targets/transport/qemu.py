"""Another processor than this machine's, in QEMU user mode: its answers, not its speed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.errors import InputError, UnsupportedError
from targets.device.probe import architecture
from targets.device.process import EMULATOR
from targets.transport import local

PROGRAMS = {
    "x86_64": ("qemu-x86_64-static", "qemu-x86_64"),
    "aarch64": ("qemu-aarch64-static", "qemu-aarch64"),
}
# How `-cpu help` lists a processor: "x86 Haswell  (...)", "  cortex-a76", newer versions with a family before it.
LISTED = re.compile(r"^(?:x86)?\s+([A-Za-z0-9][\w.-]*)", re.MULTILINE)
# The folder of another architecture's Python, and where it is below.
SYSROOT = "EDGEWRIGHT_SYSROOT"
PYTHONS = ("usr/bin/python3", "usr/local/bin/python3")
# The first that shows the emulated processor in /proc/cpuinfo; a runtime crashes on finding another architecture's.
OLDEST_FOREIGN = (8, 2)
# What would lead another architecture's Python to this machine's packages.
OF_THIS_PYTHON = ("PYTHONPATH", "PYTHONHOME", "LD_PRELOAD", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Emulated:
    """A processor by QEMU's name. emulator: the command that runs a program as there. python: a program it can run."""

    cpu: str
    architecture: str
    emulator: tuple[str, ...]
    python: str

    def environment(self) -> dict[str, str]:
        """Of a process of `python`."""
        foreign = self.architecture != architecture()
        kept = {k: v for k, v in os.environ.items() if not (foreign and k in OF_THIS_PYTHON)}
        return kept | {EMULATOR: shlex.join(self.emulator)}


def emulated(cpu: str) -> Emulated:
    """QEMU's processor `cpu`, such as "Haswell" or "cortex-a76". This machine's architecture is looked through first.

    Raises UnsupportedError where QEMU or, for another architecture, its Python is not installed, InputError where
    QEMU does not know the processor.
    """
    here = architecture()
    installed = {name: program for name in sorted(PROGRAMS, key=here.__ne__) if (program := _program(name))}
    if not installed:
        raise UnsupportedError("QEMU user mode is not installed", "Debian and Ubuntu: apt install qemu-user-static")
    for name, program in installed.items():
        # An old version ends with 1, having listed them.
        listed = subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=False).stdout
        if cpu not in LISTED.findall(listed):
            continue
        if name == here:
            return Emulated(cpu, name, (program, "-cpu", cpu), sys.executable)
        root = sysroot(name)
        python = next(p for p in PYTHONS if (root / p).exists())
        return Emulated(cpu, name, (program, "-cpu", cpu, "-L", str(root)), str(root / python))
    raise InputError(
        f"qemu: there is no processor {cpu!r}",
        " and ".join(f"`{Path(program).name} -cpu help`" for program in installed.values()) + " lists them",
    )


def _program(name: str) -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS[name])), None)


def sysroot(name: str) -> Path:
    """The folder that $EDGEWRIGHT_SYSROOT names. Raises UnsupportedError where it holds no Python."""
    folder = Path(os.environ.get(SYSROOT, "")).resolve()
    if SYSROOT not in os.environ or not any((folder / python).exists() for python in PYTHONS):
        raise UnsupportedError(
            f"qemu: no Python for {name}",
            f"set {SYSROOT} to a folder that has {PYTHONS[0]} with numpy and the runtime for {name}",
        )
    return folder


def emulator(cpu: str) -> list[str]:
    """The command that runs a program as on `cpu`; raises what `emulated` raises."""
    return list(emulated(cpu).emulator)


def validate(bundle: Path, cpu: str, junit: Path | None = None) -> tuple[int, dict[str, Any]]:
    """As local.validate, on an emulated `cpu`: answers are judged; time and memory say nothing and are not taken.

    Raises what `emulator` raises.
    """
    return local.validate(bundle, junit, emulator=emulator(cpu))
