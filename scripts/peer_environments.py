"""Python environments of the tools that ours is compared with: one each, of pinned versions, kept by their digest."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmark import KEPT, ROOT
from packages import pip

PEERS = ROOT / "scripts/peers"


class NotInstalledError(Exception):
    """An environment cannot be made; the message says why."""


def requirements(name: str) -> Path:
    return PEERS / f"{name}.txt"


def environment(name: str) -> Path:
    """The folder of an environment, made where it is not there. Raises NotInstalledError with pip's last words."""
    text = requirements(name).read_text() + sys.version
    folder = KEPT / "envs" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    done, failed = folder / ".installed", folder.with_suffix(".failed")
    if failed.is_file():
        raise NotInstalledError(failed.read_text())
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"installing {name} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        command = [*pip(), "--python", str(folder / "bin/python"), "install", "--quiet", "-r", str(requirements(name))]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode:
            shutil.rmtree(folder)
            reason = (result.stderr.strip() or result.stdout.strip() or "pip failed").splitlines()[-1]
            failed.write_text(reason)
            raise NotInstalledError(reason)
        done.touch()
    return folder


def python(name: str) -> Path:
    """The interpreter of an environment. Raises NotInstalledError."""
    return environment(name) / "bin/python"
