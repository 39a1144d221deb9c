"""Models with weights and values that quantizers trip over: what is made is right, or the route is refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.errors import UnsupportedError
from targets.onnx_float import FloatGraph
from targets.onnx_quantization import StaticScheme, static
from targets.onnx_ranges import answers
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from targets.target import ModelPackage
from tests.models import calibration_of, convolutional, signal_to_noise_db

READS = OnnxruntimeCpu().capabilities(load_profile("host"))
Weights = dict[str, np.ndarray]


def with_weights(package: ModelPackage, change: Callable[[Weights], None]) -> None:
    """Changes the weights of a package: w0, w1 of the stem, w2, w3 of the convolution after it, and so on."""
    model = onnx.load(package.graph)
    weights = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    change(weights)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    onnx.save(model, package.graph)


def zero_channels(weights: Weights) -> None:
    weights["w2"][3] = 0
    weights["w4"][:2] = 0


def zero_channel_and_bias(weights: Weights) -> None:
    weights["w2"][3], weights["w3"][3] = 0, 0


def tiny_weights(weights: Weights) -> None:
    weights["w2"] *= np.float32(1e-38)


def dead_activation(weights: Weights) -> None:
    """Below zero everywhere before a Relu."""
    weights["w2"][:], weights["w3"][:] = 0, -1


SCHEMES = {"u8": StaticScheme("uint8"), "s8": StaticScheme("int8"), "symmetric": StaticScheme("int8", symmetric=True)}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("change", [zero_channels, zero_channel_and_bias, tiny_weights, dead_activation])
def test_weights_and_activations_of_zero_quantize(tmp_path, change, scheme):
    package = convolutional(tmp_path / "model")
    with_weights(package, change)
    calibration = calibration_of(package)
    (tmp_path / "out").mkdir()
    made = static("route", scheme, FloatGraph(package, calibration), READS).make(tmp_path / "out")
    expected, found = (answers(onnx.load(file), calibration.feeds(8)) for file in (package.graph, made.graph))
    assert signal_to_noise_db(expected, found) > 20


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_an_operator_that_is_not_of_onnx_stays_in_float_and_what_follows_it_does_not(tmp_path, scheme):
    package = convolutional(tmp_path / "model")
    model = onnx.load(package.graph)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Gelu", "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, package.graph)
    calibration = calibration_of(package)
    (tmp_path / "out").mkdir()
    made = static("route", scheme, FloatGraph(package, calibration), READS).make(tmp_path / "out")
    expected, found = (answers(onnx.load(file), calibration.feeds(8)) for file in (package.graph, made.graph))
    assert signal_to_noise_db(expected, found) > 20
    assert "computed in float: 3 Gelu" in made.notes


@pytest.mark.parametrize("opset", [7, 9, 12])
def test_a_model_of_an_old_opset_quantizes_channel_by_channel(tmp_path, opset):
    package = convolutional(tmp_path / "model")
    model = onnx.load(package.graph)
    (mean,) = (node for node in model.graph.node if node.op_type == "ReduceMean")
    flat = onnx.helper.make_node("Flatten", ["pooled"], [mean.output[0]], "flat")
    mean.CopyFrom(onnx.helper.make_node("GlobalAveragePool", [mean.input[0]], ["pooled"], "pool"))
    model.graph.node.insert(list(model.graph.node).index(mean) + 1, flat)
    model.opset_import[0].version = opset
    onnx.save(model, package.graph)
    calibration = calibration_of(package)
    routes = OnnxruntimeCpu().candidates(package, load_profile("x86-64-avx2"), calibration)
    expected = answers(onnx.load(package.graph), calibration.feeds(8))
    for route in routes:
        (out := tmp_path / route.name).mkdir()
        found = answers(onnx.load(route.make(out).graph), calibration.feeds(8))
        assert signal_to_noise_db(expected, found) > 20, route.name


def test_a_range_that_float32_cannot_span_is_refused_by_the_tensor(tmp_path):
    package = convolutional(tmp_path / "model")
    with_weights(package, lambda weights: weights.__setitem__("w0", weights["w0"] * np.float32(1e-30)))
    calibration = calibration_of(package)
    (name,) = calibration.inputs
    for reach, refused in ((1e30, False), (3e38, True)):
        wide = replace(calibration, inputs={name: np.clip(calibration.inputs[name], -1, 1) * np.float32(reach)})
        route = static("route", StaticScheme("uint8"), FloatGraph(package, wide), READS)
        out = tmp_path / f"{reach:g}"
        out.mkdir()
        if refused:
            with pytest.raises(UnsupportedError, match=r"tensor pixel_values goes from -3e\+38 to 3e\+38"):
                route.make(out)
            continue
        expected, found = (answers(onnx.load(g), wide.feeds(8)) for g in (package.graph, route.make(out).graph))
        assert signal_to_noise_db(expected, found) > 20


def test_values_beyond_float32_are_refused_by_the_tensor(tmp_path):
    package = convolutional(tmp_path / "model")
    with_weights(package, lambda weights: weights.__setitem__("w0", weights["w0"] * np.float32(1e38)))
    with pytest.raises(UnsupportedError, match=r"tensor t.*: it has NaN or infinity on calibration samples"):
        static("route", StaticScheme("uint8"), FloatGraph(package, calibration_of(package)), READS).make(tmp_path)
