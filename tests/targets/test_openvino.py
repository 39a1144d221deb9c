from dataclasses import replace

import numpy as np
import onnx
import openvino
import pytest

from calibration.errors import UnsupportedError
from targets import int8_kernels
from targets.device.versions import in_range, installed_version
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.openvino import Openvino
from targets.profile import Runtime, load_profile
from tests.models import answers_of, calibration_of, convolutional, inputs_of, signal_to_noise_db, transformer

NUC = load_profile("intel-nuc")


def test_fp32_is_fp32_in_storage_and_in_arithmetic(tmp_path):
    package = convolutional(tmp_path / "c")
    (ours := tmp_path / "openvino").mkdir()
    (theirs := tmp_path / "onnxruntime").mkdir()
    compiled = Openvino().compile(package, NUC, 1, ours)
    inputs = inputs_of(package, 16)
    expected = answers_of(OnnxruntimeCpu().compile(package, NUC, 1, theirs), inputs)
    # Of bfloat16 or float16 it would be 45 or 65 dB.
    assert signal_to_noise_db(expected, answers_of(compiled, inputs)) > 100
    assert (ours / "model.bin").stat().st_size >= 4 * package.parameters
    assert compiled.options == {"threads": 1, "inference_precision": "f32"}


@pytest.mark.parametrize("architecture", [convolutional, transformer])
def test_int8_weights_take_a_byte(tmp_path, architecture):
    package = architecture(tmp_path / "float")
    for candidate in Openvino().candidates(package, NUC, calibration_of(package)):
        (folder := tmp_path / candidate.name).mkdir()
        (out := tmp_path / f"{candidate.name}-out").mkdir()
        compiled = Openvino().compile(candidate.make(folder), NUC, 1, out)
        # The rest is scales, shapes and a bias in float.
        assert (compiled.folder / "model.bin").stat().st_size < 1.5 * package.parameters + 2000, candidate.name
        assert compiled.precision == "int8"


def test_the_device_needs_a_runtime_no_older_than_the_format(tmp_path):
    compiled = Openvino().compile(convolutional(tmp_path / "c"), NUC, 1, tmp_path)
    needed = compiled.requires["runtime"]["openvino"]
    assert in_range(installed_version("openvino"), needed)
    assert not in_range("2024.4.0", needed)
    assert in_range("2024.4.0", NUC.runtimes[0].version)


def test_a_device_of_older_versions_only_is_refused(tmp_path):
    old = replace(NUC, runtimes=(Runtime("openvino", ">=2023.1,<2024"),))
    with pytest.raises(UnsupportedError, match=r"the device's .* need not read"):
        Openvino().compile(convolutional(tmp_path / "c"), old, 1, tmp_path)


def test_a_graph_it_cannot_read_is_refused_with_the_operator(tmp_path):
    package = convolutional(tmp_path / "c")
    graph = onnx.load(package.graph)
    graph.graph.node[0].op_type, graph.graph.node[0].domain = "Wobble", "made.up"
    graph.opset_import.append(onnx.helper.make_opsetid("made.up", 1))
    onnx.save(graph, package.graph)
    with pytest.raises(UnsupportedError, match=r"(?s)OpenVINO cannot read model.onnx.*Wobble"):
        Openvino().compile(package, NUC, 1, tmp_path)


def test_another_architecture_is_refused_with_what_to_use():
    arm = replace(NUC, architecture="aarch64", isa=("asimd",))
    with pytest.raises(UnsupportedError, match="aarch64") as caught:
        Openvino().capabilities(arm)
    assert "onnxruntime-cpu" in caught.value.next_step


def test_a_batch_answers_as_its_samples_do(tmp_path):
    package = convolutional(tmp_path / "c")
    compiled = Openvino().compile(package, NUC, 1, tmp_path)
    inputs = inputs_of(package, 7)
    alone = [answers_of(compiled, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(7)]
    assert np.allclose(answers_of(compiled, inputs), np.concatenate(alone), atol=1e-4)


@pytest.mark.parametrize("model", [convolutional, transformer])
def test_sums_that_this_processor_clips_and_the_device_does_not_are_imitated(tmp_path, monkeypatch, model):
    """Without integer kernels OpenVINO computes its FakeQuantize operators in float, where no sum is clipped."""
    package, nuc = model(tmp_path / "model"), load_profile("intel-nuc")
    calibration, inputs = calibration_of(package), inputs_of(package, 32)
    monkeypatch.setattr(int8_kernels, "isa", lambda: frozenset({"avx2"}))
    assert Openvino().capabilities(nuc).imitated == int8_kernels.NOT_CLIPPED
    assert not Openvino().capabilities(load_profile("x86-64-avx2")).imitated
    for route in Openvino().candidates(package, nuc, calibration):
        for folder in (made := tmp_path / route.name, made / "package", made / "compiled", made / "simulated"):
            folder.mkdir()
        quantized = route.make(made / "package")
        compiled = Openvino().compile(quantized, nuc, 1, made / "compiled")
        config = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
        exact = openvino.Core().compile_model(str(made / "compiled" / compiled.files[0]), "CPU", config)
        found = answers_of(Openvino().simulate(quantized, nuc, made / "simulated"), inputs)
        assert signal_to_noise_db(exact(inputs)[0], found) > 30, route.name
