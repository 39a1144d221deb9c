"""This machine as a device."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from targets.device.errors import BY_EXIT_CODE, DeviceError
from targets.device.process import EMULATOR

ROOT = Path(__file__).resolve().parents[2]


def validate(
    bundle: Path, junit: Path | None = None, seconds: float = 5.0, emulator: Sequence[str] = ()
) -> tuple[int, dict[str, Any]]:
    """Runs the device part on a bundle in a fresh process. Returns its exit code and report (schema 1).

    The installed device part runs, never the one in the bundle. bundle: its folder, or the one above it.
    emulator: the command that runs a program of this machine as on another processor.
    Raises DeviceError with what the process said where it wrote no report.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        command = [
            *emulator,
            sys.executable,
            "-m",
            "targets.device",
            "validate",
            str(bundle.resolve()),
            "--json",
            str(file),
        ]
        command += ["--seconds", str(seconds)]
        if junit is not None:
            command += ["--junit", str(junit.resolve())]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, EMULATOR: shlex.join(emulator)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if not file.is_file():
            message = done.stderr.strip().removeprefix("device.pyz: ") or f"the device part exited {done.returncode}"
            raise BY_EXIT_CODE.get(done.returncode, DeviceError)(message)
        return done.returncode, json.loads(file.read_text())
