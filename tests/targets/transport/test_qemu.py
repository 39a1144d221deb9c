import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.errors import InputError, UnsupportedError
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from targets.transport.qemu import emulator, validate
from tests.bundles import make_bundle
from tests.models import calibration_of, convolutional, inputs_of, transformer
from tests.processor import CLIPS
from tests.run_onnx import run

AVX2 = load_profile("x86-64-avx2")


def test_a_bundle_is_judged_by_its_answers_alone(tmp_path):
    make_bundle(tmp_path, trial=True, pending_gates=[{"name": "faster_than_float", "limit": 1.0}])
    code, report = validate(tmp_path, "Haswell")
    assert (code, report["verdict"]) == (0, "pass")
    assert report["executed_on"]["emulated"]
    assert report["latency_ms"] is None
    assert {g["name"]: g["verdict"] for g in report["gates"]}["faster_than_float"] == "pending"


def test_a_processor_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="no processor 'Hasswell'"):
        emulator("Hasswell")


def test_without_qemu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(UnsupportedError, match="not installed"):
        emulator("Haswell")


@pytest.mark.parametrize("model", [convolutional, transformer])
def test_the_artifact_for_avx2_answers_there_as_here(tmp_path, model):
    """To the bit where nothing is computed in float; the plain route's, beside it, only where this processor clips."""
    package = model(tmp_path / "model")
    calibration = calibration_of(package)
    heavy = onnx.load(package.graph)
    for tensor in heavy.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim > 1:
            # Weights of one size: each pair of neighbours with one sign is in danger.
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.sign(array) * np.abs(array).mean(), tensor.name))
    onnx.save(heavy, package.graph)
    folder = tmp_path / "both"
    folder.mkdir()
    for name, profile in (("guarded", AVX2), ("plain", replace(AVX2, isa=(*AVX2.isa, "avx_vnni")))):
        (made := tmp_path / name).mkdir()
        (compiled := tmp_path / f"{name}-compiled").mkdir()
        target = OnnxruntimeCpu()
        quantized = target.candidates(package, profile, calibration)[0].make(made)
        target.compile(replace(quantized, precision="int8"), profile, 1, compiled)
        shutil.copy(compiled / "model.onnx", folder / f"{name}.onnx")
        np.savez(folder / f"{name}.npz", **inputs_of(package, 32))
    run(folder)
    here = {name: np.load(folder / f"{name}.npy") for name in ("guarded", "plain")}
    script = Path(__file__).parents[2] / "run_onnx.py"
    subprocess.run([*emulator("Haswell"), sys.executable, script, folder], check=True, capture_output=True)
    there = {name: np.load(folder / f"{name}.npy") for name in ("guarded", "plain")}
    reach = np.abs(here["guarded"]).max()
    assert np.abs(here["guarded"] - there["guarded"]).max() <= 0.02 * reach
    if CLIPS:
        assert np.abs(here["plain"] - there["plain"]).max() <= 0.02 * reach
    else:
        assert np.abs(here["plain"] - there["plain"]).max() > 0.05 * reach
