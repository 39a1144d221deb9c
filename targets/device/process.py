"""Work in a new process of the device part: its memory is its own, and a runtime that crashes takes down only that."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.device.errors import BY_EXIT_CODE, DeviceError, UnsuitedError, says_out_of_memory
from targets.device.probe import EMULATOR

if TYPE_CHECKING:
    from collections.abc import Sequence

# The folder, or the device.pyz, that holds this package.
ROOT = Path(__file__).resolve().parents[2]


def in_new_process(
    command: str, spec: dict[str, Any], subject: str, timeout_s: float, emulator: str | None = None
) -> dict[str, Any]:
    """The answer of `command` (see __main__.COMMANDS) to `spec`, both JSON, in a process that finds this package here.

    subject: what a message says it was about. emulator: the command to start it by; None for what this process was
    started by. Raises what the command raised; UnsuitedError where the process crashes,
    runs out of memory or takes longer than `timeout_s`.
    """
    packed = ROOT.is_file()
    start = [str(ROOT)] if packed else ["-m", __package__ or ""]
    emulator = os.environ.get(EMULATOR, "") if emulator is None else emulator
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    program = [*shlex.split(emulator), sys.executable, *start]
    folder = ROOT.parent if packed else ROOT
    environment = {**os.environ, "PYTHONPATH": path, EMULATOR: emulator}
    return ask([*program, command], folder, environment, spec, subject, timeout_s)


def ask(
    program: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    spec: dict[str, Any],
    subject: str,
    timeout_s: float,
) -> dict[str, Any]:
    """As in_new_process, by a command line that takes `spec` as its last argument, started in `folder`."""
    try:
        done = subprocess.run(
            [*program, json.dumps(spec)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        next_step = "free memory, or use a smaller model: it hangs, or this device is too slow for it"
        raise UnsuitedError(f"{subject}: not loaded and run after {timeout_s:.0f} s", next_step) from e
    answer = _last_line(done.stdout) if done.returncode >= 0 else None
    if answer is None:
        raise _crash(subject, done)
    if done.returncode:
        raise BY_EXIT_CODE[done.returncode](answer["message"], answer["next_step"])
    return answer


def _last_line(printed: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(printed.strip().rpartition("\n")[2])
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _crash(subject: str, done: subprocess.CompletedProcess[str]) -> DeviceError:
    if done.returncode == -signal.SIGKILL:
        return UnsuitedError(f"{subject}: the system killed the process that ran it", "free memory; it likely ran out")
    if says_out_of_memory(done.stderr):
        return UnsuitedError(f"{subject}: not enough memory to run it", "free memory, or use a smaller model")
    if done.returncode < 0:
        # Python knows no name for a real-time signal.
        name = next((s.name for s in signal.Signals if s == -done.returncode), str(-done.returncode))
        next_step = "free memory, or install another version of the runtime"
        return UnsuitedError(f"{subject}: the runtime crashed on it ({name})", next_step)
    return DeviceError(f"{subject}: the process that ran it said: {done.stderr.strip()[-500:]}")
