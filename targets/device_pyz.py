"""Builds device.pyz: the device part as one file that any Python from 3.9 runs."""

import zipfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent / "device"
# What the file starts with, what it calls, and the empty parent that keeps the package's name the same as here.
SHEBANG = b"#!/usr/bin/env python3\n"
MAIN = b"import sys\n\nfrom targets.device.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n"
# The earliest that the format can say: the same sources give the same bytes at any time, on any machine.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


def build_device_pyz(out: Path) -> Path:
    """Writes device.pyz to the file `out` and returns it. Stored, not compressed: zlib's output varies."""
    files = {"__main__.py": MAIN, "targets/__init__.py": b""}
    for source in PACKAGE.rglob("*.py"):
        files[f"targets/device/{source.relative_to(PACKAGE).as_posix()}"] = source.read_bytes()
    with out.open("wb") as f:
        f.write(SHEBANG)
        with zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, TIMESTAMP)
                entry.create_system = 3
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, files[name])
    out.chmod(0o755)
    return out
