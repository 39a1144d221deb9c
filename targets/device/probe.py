"""What this device is, read from the kernel and from package metadata: no heavy import, hundredths of a second."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import threading
from pathlib import Path
from typing import Any

from targets.device.runners import runner_class, runner_names
from targets.device.versions import installed_version

MB = 1_000_000
# Where this process is emulated: the command that emulates it, which a child has to be started by too.
EMULATOR = "EDGEWRIGHT_EMULATOR"
ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
# The flags that decide which kernels a neural network gets, oldest first.
RELEVANT = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni"),
    *("avx512_bf16", "avx512_fp16", "avx_vnni_int8", "amx_tile", "amx_int8", "amx_bf16"),
    *("neon", "vfpv4", "asimd", "asimdhp", "asimddp", "sve", "i8mm", "bf16", "sve2", "sme"),
)
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def read(path: str) -> str:
    """A small file of the kernel's; empty where there is none."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def architecture() -> str:
    """As uname says, under the name the profiles use: x86_64, aarch64, armv7l."""
    machine = platform.machine().lower()
    return ARCHITECTURES.get(machine, machine)


def _field(names: str) -> str:
    match = re.search(rf"^(?:{names})\s*:\s*(.+)$", read("/proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else ""


def isa() -> tuple[str, ...]:
    """All flags of /proc/cpuinfo, sorted; empty where they are another processor's, as under QEMU user mode."""
    found = _field("flags|Features")
    x86_flags = "Features" not in read("/proc/cpuinfo")
    if not found or x86_flags != (architecture() in ("x86_64", "i686")) or (x86_flags and emulated()):
        return ()
    return tuple(sorted(found.split()))


def relevant_isa() -> list[str]:
    """Those flags that matter to a neural network."""
    flags = set(isa())
    return [flag for flag in RELEVANT if flag in flags]


def emulated() -> bool:
    """Does QEMU user mode translate this process?

    QEMU presents itself as the program under /proc/self, but not under a thread's own folder there; the processor
    that older versions show in /proc/cpuinfo is the host's.
    """
    thread = f"/proc/self/task/{threading.get_native_id()}/exe"
    try:
        if Path(thread).readlink().name.startswith("qemu-"):
            return True
    except OSError:
        return False
    shown = read("/proc/cpuinfo")
    foreign = {"x86_64": "CPU implementer", "aarch64": "GenuineIntel|AuthenticAMD"}.get(architecture())
    return foreign is not None and re.search(foreign, shown) is not None


def cpu_model() -> str:
    """The processor's name; of a board without one, the board's; of an emulated one, QEMU's."""
    emulator = shlex.split(os.environ.get(EMULATOR, ""))
    if "-cpu" in emulator:
        return f"QEMU {emulator[emulator.index('-cpu') + 1]}"
    board = read("/proc/device-tree/model").strip("\0\n ")
    part = f"ARM implementer {_field('CPU implementer')} part {_field('CPU part')}" if _field("CPU part") else ""
    return _field("model name|Model|Hardware") or board or part or architecture()


def cores() -> int:
    """Those this process may run on."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Of the machine, or of the control group where that has less; 0 where the kernel does not say."""
    match = re.search(r"^MemTotal:\s*(\d+) kB", read("/proc/meminfo"), re.MULTILINE)
    limits = [int(text) for text in (read(path).strip() for path in MEMORY_LIMITS) if text.isdecimal()]
    return min([int(match[1]) * 1024, *limits]) if match else min(limits, default=0)


def runtimes() -> list[dict[str, str]]:
    """{target, version} of each runtime that is installed and has a runner here."""
    found = ((name, installed_version(runner_class(name).distribution)) for name in runner_names())
    return [{"target": name, "version": f"=={version}"} for name, version in found if version is not None]


def precisions() -> list[str]:
    """What the processor has instructions for, best first."""
    flags = set(isa())
    known = {
        "int8": {"avx2", "avx512_vnni", "avx_vnni", "asimd", "asimddp", "neon"},
        "fp16": {"avx512_fp16", "asimdhp"},
    }
    return [name for name, any_of in known.items() if flags & any_of] + ["fp32"]


def probe() -> dict[str, Any]:
    """This device as the fields of a DeviceProfile; memory and storage in units of 10^6 bytes."""
    return {
        "name": "host",
        "description": cpu_model(),
        "architecture": architecture(),
        "isa": list(isa()),
        "cores": cores(),
        "memory_mb": memory_bytes() // MB,
        "storage_mb": shutil.disk_usage(Path.cwd()).total // MB,
        "runtimes": runtimes(),
        "precisions": precisions(),
        "compute_capability": None,
    }
