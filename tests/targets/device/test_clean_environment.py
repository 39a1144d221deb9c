import json
import os
import subprocess
import sys
import venv

import pytest

from targets.device.errors import UnsuitedError
from targets.device.process import in_new_process
from targets.device_pyz import build_device_pyz
from tests.bundles import make_bundle

NEEDED = ("numpy", "onnxruntime", "cryptography")


@pytest.fixture(scope="module")
def python(tmp_path_factory, repository):
    """A Python that has what a device has, in the versions of constraints.txt, and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True, symlinks=True)
    install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "-c", repository / "constraints.txt", *NEEDED]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "bin/python"


def call(python, *arguments, cwd, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | environment
    return subprocess.run([python, *arguments], cwd=cwd, env=clean, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_device_part_needs_nothing_else(python, tmp_path):
    pending = [{"name": "faster_than_float", "limit": 1.0}, {"name": "peak_memory_mb", "limit": 100}]
    bundle = make_bundle(tmp_path, trial=True, pending_gates=pending)
    pyz = bundle / "payload" / "device.pyz"
    arguments = [pyz, "validate", bundle, "--json", "report.json", "--junit", "report.xml", "--seconds", "0.5"]
    done = call(python, "-W", "error", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == "pass"
    assert {gate["name"]: gate["verdict"] for gate in report["gates"]}["faster_than_float"] == "pass"
    probed = json.loads(call(python, pyz, "probe", cwd=tmp_path).stdout)
    assert [runtime["target"] for runtime in probed["runtimes"]] == ["onnxruntime_cpu"]


@pytest.mark.slow
def test_a_device_without_the_runtime_is_told_to_install_it(python, tmp_path):
    bundle = make_bundle(tmp_path, runner="openvino")
    done = call(python, bundle / "payload" / "device.pyz", "validate", bundle, cwd=tmp_path)
    assert done.returncode == 5
    assert "pip install openvino" in done.stdout
    assert not done.stderr


def test_a_device_without_any_package_is_told_to_install_them(tmp_path):
    """The interpreter alone: -S leaves site-packages out."""
    bundle = make_bundle(tmp_path)
    pyz = build_device_pyz(tmp_path / "device.pyz")
    base = os.path.realpath(sys.executable)
    done = call(base, "-I", "-S", pyz, "validate", bundle, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert "numpy is not installed" in done.stdout
    assert "onnxruntime>=1.17,<2 is not installed" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("library", ["numpy", "onnxruntime"])
def test_a_library_that_does_not_start_is_named(tmp_path, library):
    """As after an upgrade of the system: the package is there, a shared library that it needs is not."""
    bundle = make_bundle(tmp_path)
    (tmp_path / "broken" / library).mkdir(parents=True)
    message = "libgomp.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "broken" / library / "__init__.py").write_text(f"raise ImportError({message!r})")
    pyz = bundle / "payload" / "device.pyz"
    done = call(sys.executable, pyz, "validate", bundle, cwd=tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    assert done.returncode == 5, done.stderr
    assert f"{library} does not start: libgomp.so.1" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("limit_mb", [20, 40, 70, 80])
def test_a_device_short_of_memory_gets_a_verdict_or_is_told_so(tmp_path, limit_mb):
    """Libraries end the process, crash it or leave it unable to print: at each limit another one."""
    bundle = make_bundle(tmp_path)
    limits = f"import resource as r, runpy, sys; r.setrlimit(r.RLIMIT_DATA, ({limit_mb}_000_000,) * 2)"
    start = f"{limits}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = [bundle / "payload" / "device.pyz", "validate", bundle, "--seconds", "0.1"]
    done = call(sys.executable, "-c", start, *arguments, cwd=tmp_path, OPENBLAS_NUM_THREADS="1")
    assert done.returncode in {0, 5}, done.stdout + done.stderr
    verdicts = ("verdict: pass", "not enough memory", "the runtime crashed on it")
    assert any(words in done.stdout for words in verdicts), done.stdout
    assert not done.stderr


def test_a_runtime_that_crashes_leaves_a_report(tmp_path):
    bundle = make_bundle(tmp_path)
    (tmp_path / "broken" / "onnxruntime").mkdir(parents=True)
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    (tmp_path / "broken" / "onnxruntime" / "__init__.py").write_text(crash)
    arguments = ["validate", bundle, "--json", "report.json", "--junit", "report.xml"]
    pyz = bundle / "payload" / "device.pyz"
    done = call(sys.executable, pyz, *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    assert done.returncode == 5, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["verdict"], report["error"]["exit_code"]) == ("refused", 5)
    assert "the runtime crashed on it (SIGSEGV)" in report["error"]["message"]
    assert report["checks"][0]["name"] == "files"
    assert (tmp_path / "report.xml").is_file()


def test_a_runtime_that_hangs_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("while True: pass")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec = {"runner": "onnxruntime_cpu", "folder": ".", "files": [], "options": {}, "feed_file": None}
    with pytest.raises(UnsuitedError, match="tiny: not loaded and run after 2 s"):
        in_new_process("fresh-process", spec, "tiny", timeout_s=2)
