import ast
import os
import subprocess
import sys
import time
import zipfile

import pytest

from targets.device_pyz import PACKAGE, build_device_pyz
from tests.bundles import make_bundle


def test_the_same_sources_give_the_same_bytes(tmp_path):
    first = build_device_pyz(tmp_path / "a.pyz").read_bytes()
    for source in PACKAGE.rglob("*.py"):
        os.utime(source)
    previous = os.umask(0o077)
    try:
        second = build_device_pyz(tmp_path / "b.pyz").read_bytes()
    finally:
        os.umask(previous)
    assert first == second


def test_it_holds_every_source_of_the_device_part_and_nothing_else(tmp_path):
    with zipfile.ZipFile(build_device_pyz(tmp_path / "device.pyz")) as archive:
        names = archive.namelist()
    sources = {f"targets/device/{f.relative_to(PACKAGE).as_posix()}" for f in PACKAGE.rglob("*.py")}
    assert set(names) == sources | {"__main__.py", "targets/__init__.py"}
    assert names == sorted(names)


@pytest.mark.parametrize("source", sorted(PACKAGE.rglob("*.py")), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_every_source_is_python_3_9(source):
    tree = ast.parse(source.read_text(), feature_version=(3, 9))
    first = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    if len(tree.body) > 1:
        assert first[0].module == "__future__", "annotations of newer Pythons must not be evaluated"
    imports = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imports |= {(n.module or "").partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    own = {"numpy", "targets", "onnxruntime", "openvino", "cryptography"}
    assert not {name for name in imports - own if name not in sys.stdlib_module_names}


def test_help_starts_at_once(tmp_path):
    pyz = build_device_pyz(tmp_path / "device.pyz")
    start = time.process_time(), os.times().children_user
    done = subprocess.run([sys.executable, "-S", pyz, "--help"], capture_output=True, text=True, check=True)
    assert os.times().children_user - start[1] < 0.5
    assert "validate" in done.stdout
    assert "fresh-process" not in done.stdout


def test_it_measures_in_fresh_processes_that_come_from_the_same_file(tmp_path):
    bundle = make_bundle(tmp_path, pending_gates=[{"name": "peak_memory_mb", "limit": 200}])
    command = [sys.executable, bundle / "payload" / "device.pyz", "validate", bundle, "--seconds", "0.1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass         gate peak_memory_mb" in done.stdout
    assert "verdict: pass" in done.stdout
