"""The scripts: well-formed, from any folder, and quick and silent where nothing is to be done."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest


def shell_scripts(repository: Path) -> list[Path]:
    files = [path for path in (repository / "scripts").iterdir() if path.is_file() and not path.suffix]
    return [*files, repository / ".ci/run"]


def test_scripts_are_well_formed_and_can_be_run(repository: Path) -> None:
    for path in shell_scripts(repository):
        first, text = path.read_text().split("\n", 1)
        assert os.access(path, os.X_OK), path
        if "bash" in first:
            assert "\nset -euo pipefail\n" in text or "\nset -uo pipefail\n" in text, path
            subprocess.run(["bash", "-n", str(path)], check=True)


def test_an_environment_that_is_there_is_left_as_it_is(repository: Path, tmp_path: Path) -> None:
    if not (repository / ".venv/.installed").exists():
        pytest.fail("run the tests with scripts/test: it makes .venv")
    result = subprocess.run(
        [str(repository / "scripts/environment"), "rtx"], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout == ""


def test_an_unknown_bench_is_refused_with_the_names_there_are(repository: Path) -> None:
    result = subprocess.run([str(repository / "scripts/bench"), "none"], check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert "main" in result.stderr


@pytest.mark.nightly
def test_an_installation_that_was_killed_is_done_again_in_a_path_with_spaces(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a copy of it"
    for name in ("pipeline", "targets", "calibration", "scripts"):
        shutil.copytree(repository / name, copy / name)
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(repository / name, copy)
    first = subprocess.Popen([str(copy / "scripts/environment")], start_new_session=True)
    while not (copy / ".venv/lib").exists() or not list((copy / ".venv").glob("lib/python*/site-packages/numpy")):
        time.sleep(0.2)
        assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    again = subprocess.run([str(copy / "scripts/environment")], check=True, capture_output=True, text=True)
    assert "did not finish" in again.stdout
    subprocess.run([str(copy / ".venv/bin/edgewright"), "--help"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([str(copy / ".venv/bin/python"), "-m", "pip", "check"], check=True)
