"""What has to hold of the files that would be released: what is in them, that they work, that a rebuild is equal."""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"pipeline", "targets", "calibration"}
MIB = 1 << 20


def build_wheel(folder: Path) -> Path:
    """The wheel, built from the working copy into an empty folder by the build backend that is installed here."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


def top_level(wheel: Path) -> set[str]:
    """The names at the top of a wheel, its metadata's folder left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {name.split("/")[0] for name in archive.namelist() if ".dist-info/" not in name}


def version_is_in_changelog(_: Path) -> str:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    return (
        "" if newest and newest[1] == version else f"pyproject.toml says {version}, CHANGELOG.md {newest and newest[1]}"
    )


def top_level_is_the_packages(folder: Path) -> str:
    found = top_level(next(folder.glob("*.whl")))
    return "" if found == PACKAGES else f"found {', '.join(sorted(found))}"


def every_file_is_in_the_wheel(folder: Path) -> str:
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    kept = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return "" if packed == kept else f"differs from the working copy in {', '.join(sorted(packed ^ kept))}"


def wheel_runs(folder: Path) -> str:
    """The command, run from the wheel's files in another folder, finds its device profiles."""
    unpacked = folder / "unpacked"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(unpacked)]
    subprocess.run([*install, str(next(folder.glob("*.whl")))], check=True)
    code = "import sys, pipeline.cli as c; print(c.__file__, file=sys.stderr); sys.argv[1:] = ['devices']; c.main()"
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-P", "-c", code]
    result = subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)
    if str(unpacked) not in result.stderr:
        return f"it was not the wheel's code that ran: {result.stderr}"
    return "" if result.returncode == 0 and "intel-nuc" in result.stdout else result.stdout + result.stderr


def wheel_can_be_made_again(folder: Path) -> str:
    with tempfile.TemporaryDirectory() as other:
        again = build_wheel(Path(other))
        digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (next(folder.glob("*.whl")), again)}
    return "" if len(digests) == 1 else "two builds of one working copy differ"


def source_distribution_is_small(folder: Path) -> str:
    code = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as files:
        names = {"/".join(name.split("/")[1:]) for name in files.getnames()}
    data = sorted(name for name in names if name.startswith(("recipes/fashion-mnist/", "recipes/spam/", "dist/")))
    if data or archive.stat().st_size > 4 * MIB:
        return f"{archive.stat().st_size / MIB:.1f} MiB, with {data[:3]}"
    return "" if {"LICENSE", "recipes/fashion.yaml"} <= names else "LICENSE or recipes/fashion.yaml is missing"


CHECKS: tuple[Callable[[Path], str], ...] = (
    version_is_in_changelog,
    top_level_is_the_packages,
    every_file_is_in_the_wheel,
    wheel_runs,
    wheel_can_be_made_again,
    source_distribution_is_small,
)


def main() -> None:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        build_wheel(Path(folder))
        for check in CHECKS:
            why = check(Path(folder))
            failed += bool(why)
            print(
                f"{'FAILS' if why else 'holds'}  {check.__name__.replace('_', ' ')}{': ' if why else ''}{why}",
                flush=True,
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
