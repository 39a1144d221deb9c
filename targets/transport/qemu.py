"""Another processor than this machine's, in QEMU user mode: its answers, not its speed."""

import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from calibration.errors import InputError, UnsupportedError
from targets.device.errors import DeviceError
from targets.device.manifest import read_manifest
from targets.device.probe import EMULATOR, architecture
from targets.device.verify import find_payload
from targets.device_pyz import build_device_pyz
from targets.profile import load_profile, profile_names
from targets.transport.local import run_device_part
from targets.transport.processors import PROCESSORS, matching

# How `-cpu help` lists a processor: "x86 Haswell ...", and in newer versions "  Haswell ...".
LISTED = re.compile(r"^(?:x86)?\s+([A-Za-z0-9][\w.-]*)", re.MULTILINE)
# A root folder of another architecture, and where its Python is in there.
SYSROOT = "EDGEWRIGHT_SYSROOT"
PYTHONS = ("usr/bin/python3", "usr/local/bin/python3")
# Which processor a program is for, in its ELF header (elf(5): e_machine).
MACHINES = {62: "x86_64", 183: "aarch64"}
# The first QEMU that shows programs the emulated processor in /proc/cpuinfo. With an older one a runtime that is for
# another architecture than this machine's finds this machine's there, and crashes.
OLDEST = (8, 2)
# What would lead another architecture's Python to this machine's packages and libraries.
OF_THIS_MACHINE = ("PYTHONPATH", "PYTHONHOME", "LD_PRELOAD", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Emulated:
    """A processor by QEMU's name. emulator: the command that runs a program as there. python: a program it can run."""

    cpu: str
    architecture: str
    emulator: tuple[str, ...]
    python: str

    def environment(self) -> dict[str, str]:
        """Of a process of `python`, which can start others the same way."""
        foreign = self.architecture != architecture()
        kept = {k: v for k, v in os.environ.items() if not (foreign and k in OF_THIS_MACHINE)}
        return kept | {EMULATOR: shlex.join(self.emulator)}


def emulated(cpu: str) -> Emulated:
    """QEMU's processor `cpu`, such as "Haswell" or "cortex-a76". This machine's architecture is looked through first.

    Raises UnsupportedError where QEMU or, for another architecture, its Python is not installed or will not do;
    InputError where QEMU does not know the processor.
    """
    here = architecture()
    programs = {name: program for name in sorted(PROCESSORS, key=here.__ne__) if (program := _program(name))}
    for name, program in programs.items():
        if cpu not in _known(program):
            continue
        if name == here:
            return Emulated(cpu, name, (program, "-cpu", cpu), sys.executable)
        _refuse_old(program)
        root = _sysroot(name)
        python = next(root / python for python in PYTHONS if (root / python).is_file())
        # What is not in the root folder is taken from this machine's.
        return Emulated(cpu, name, (program, "-cpu", cpu, "-L", str(root)), str(python))
    if any(cpu in table for name, table in PROCESSORS.items() if name not in programs) or not programs:
        raise UnsupportedError(
            f"qemu: QEMU user mode is not installed for {cpu}", "Debian and Ubuntu: apt install qemu-user-static"
        )
    commands = " and ".join(f"`{Path(program).name} -cpu help`" for program in programs.values())
    raise InputError(f"qemu: there is no processor {cpu!r}", f"see {commands}")


def emulator(cpu: str) -> list[str]:
    """The command that runs a program as on `cpu`; raises what `emulated` raises."""
    return list(emulated(cpu).emulator)


def validate(bundle: Path, cpu: str, junit: Path | None = None) -> tuple[int, dict[str, Any]]:
    """As local.validate, on an emulated `cpu`: answers are judged; time and memory say nothing and are not taken.

    cpu: QEMU's name, or an architecture: then the processor that matches the bundle's device. Raises what `emulated`
    raises, and UnsupportedError where QEMU has no such processor.
    """
    there = emulated(processor_for(bundle, cpu) if cpu in PROCESSORS else cpu)
    with tempfile.TemporaryDirectory() as name:
        # Alone in its folder: beside it here are this machine's packages.
        program = build_device_pyz(Path(name) / "device.pyz")
        command = [*there.emulator, there.python, str(program)]
        return run_device_part(command, Path(name), there.environment(), bundle, junit)


def processor_for(bundle: Path, architecture: str) -> str:
    """The oldest processor of an architecture that has what the bundle's device has.

    Of a device that is no profile of ours only what the bundle requires is known.
    """
    try:
        manifest = read_manifest(find_payload(bundle))
    except DeviceError:
        # On whichever processor: the device part refuses it there, with a report.
        return matching(architecture, ())
    if manifest.requires.architecture != architecture:
        return matching(architecture, ())
    isa = set(manifest.requires.isa)
    if manifest.device in profile_names():
        profile = load_profile(manifest.device)
        isa |= set(profile.isa) if profile.architecture == architecture else set()
    return matching(architecture, isa)


def _program(name: str) -> str | None:
    """qemu-NAME, which Debian before 13 calls qemu-NAME-static."""
    return shutil.which(f"qemu-{name}") or shutil.which(f"qemu-{name}-static")


@cache
def _known(program: str) -> frozenset[str]:
    """The processors that it lists; an old version then ends with 1."""
    listed = subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=False).stdout
    return frozenset(LISTED.findall(listed.partition("Recognized CPUID flags")[0]))


def _refuse_old(program: str) -> None:
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\d+)\.(\d+)", shown)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        raise UnsupportedError(
            f"qemu: {program} is version {'.'.join(version.groups()) if version else 'unknown'}: programs for another"
            " architecture would find this machine's processor in /proc/cpuinfo",
            f"install QEMU {OLDEST[0]}.{OLDEST[1]} or newer: Debian 13's qemu-user has 10",
        )


def _sysroot(name: str) -> Path:
    """The folder that $EDGEWRIGHT_SYSROOT names, if it has a Python for that architecture."""
    next_step = f"set {SYSROOT} to a root folder for {name} with Python, numpy and the runtime (README, On the device)"
    if not os.environ.get(SYSROOT):
        raise UnsupportedError(f"qemu: this machine has no Python for {name}", next_step)
    root = Path(os.environ[SYSROOT]).resolve()
    python = next((root / python for python in PYTHONS if (root / python).is_file()), None)
    if python is None:
        raise UnsupportedError(f"qemu: {SYSROOT}: {root} has no {' or '.join(PYTHONS)}", next_step)
    with python.open("rb") as file:
        header = file.read(20)
    found = MACHINES.get(struct.unpack("<H", header[18:])[0]) if header.startswith(b"\x7fELF") else None
    if found != name:
        raise UnsupportedError(f"qemu: {SYSROOT}: {python} is for {found or 'another system'}, not {name}", next_step)
    return root
