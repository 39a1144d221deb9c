"""This machine as a device."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from targets.device.errors import BY_EXIT_CODE, DeviceError
from targets.device.probe import EMULATOR

ROOT = Path(__file__).resolve().parents[2]


def validate(bundle: Path, junit: Path | None = None, seconds: float = 5.0) -> tuple[int, dict[str, Any]]:
    """Runs the device part on a bundle in a fresh process. Returns its exit code and report (schema 1).

    The installed device part runs, never the one in the bundle. bundle: its folder, or the one above it.
    Raises DeviceError with what the process said where it wrote no report.
    """
    environment = {**os.environ, EMULATOR: ""}
    return run_device_part([sys.executable, "-m", "targets.device"], ROOT, environment, bundle, junit, seconds)


def run_device_part(
    program: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    bundle: Path,
    junit: Path | None,
    seconds: float = 5.0,
) -> tuple[int, dict[str, Any]]:
    """As validate, by the command that starts the device part, run in `folder`."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "report.json"
        command = [*program, "validate", str(bundle.resolve()), "--json", str(file), "--seconds", str(seconds)]
        if junit is not None:
            command += ["--junit", str(junit.resolve())]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        if not file.is_file():
            message = done.stderr.strip().removeprefix("device.pyz: ") or f"the device part exited {done.returncode}"
            raise BY_EXIT_CODE.get(done.returncode, DeviceError)(message)
        return done.returncode, json.loads(file.read_text())
