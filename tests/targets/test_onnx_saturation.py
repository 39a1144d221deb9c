"""Whole quantized graphs: the emulation of a CPU without VNNI against such a CPU (QEMU's Haswell), and the repair."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from calibration.errors import UnsupportedError
from calibration.saturation import saturating_matmul
from targets.device.probe import architecture, isa
from targets.int8_kernels import int8_kernels
from targets.onnx_products import optimized, products
from targets.onnx_quantization import quiet
from targets.onnx_repair import rescaled, unsaturated
from targets.onnx_saturation import saturating_layers, without_vnni
from targets.transport.qemu import emulator
from tests.calibration_reader import Readings
from tests.run_onnx import run

SAMPLES = 4
QUANTIZED = ["static", "signed", "qoperator", "per_tensor", "dynamic"]


def network():
    """Images [N, 6, 8, 8] through convolutions, plain, grouped, depthwise and pointwise, to a Gemm and a MatMul."""
    rng = np.random.default_rng(0)
    shapes = {"plain": (16, 6, 3, 3), "grouped": (12, 4, 3, 3), "depthwise": (12, 1, 3, 3), "pointwise": (9, 12, 1, 1)}
    weights = {name: rng.laplace(size=shape) for name, shape in shapes.items()}
    weights |= {"gemm": rng.uniform(-1, 1, (7, 9 * 16)), "matmul": rng.uniform(-1, 1, (7, 5))}
    biases = {f"{name}_bias": rng.normal(size=len(weights[name])) for name in (*shapes, "gemm")}
    constants = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in (weights | biases).items()]
    nodes, x = [], "x"
    for name, group, stride in (("plain", 1, 1), ("grouped", 4, 2), ("depthwise", 12, 1), ("pointwise", 1, 1)):
        inputs = [x, name, f"{name}_bias"]
        side = weights[name].shape[2] // 2
        pads = [side] * 4
        nodes.append(
            helper.make_node("Conv", inputs, [f"{name}_y"], name, group=group, strides=[stride] * 2, pads=pads)
        )
        nodes.append(helper.make_node("Relu", [f"{name}_y"], [f"{name}_relu"]))
        x = f"{name}_relu"
    nodes.append(helper.make_node("Flatten", [x], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "gemm", "gemm_bias"], ["gemm_y"], "gemm", transB=1))
    nodes.append(helper.make_node("Relu", ["gemm_y"], ["gemm_relu"]))
    nodes.append(helper.make_node("MatMul", ["gemm_relu", "matmul"], ["y"], "matmul"))
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *s]) for n, s in (("x", [6, 8, 8]), ("y", [5]))
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def attention():
    """Two products of what is computed: unsigned by unsigned, and unsigned by signed, of an odd inner length."""
    rng = np.random.default_rng(1)
    node = helper.make_node("MatMulInteger", ["x", "v", "zero", ""], ["y"], "values")
    constants = [
        numpy_helper.from_array(np.float32(1 / 127), "scale"),
        numpy_helper.from_array(np.int8(0), "none"),
        numpy_helper.from_array(np.uint8(7), "zero"),
        numpy_helper.from_array(rng.uniform(0.7, 1, (2, 3, 9, 4)).astype(np.float32), "shift"),
    ]
    nodes = [
        helper.make_node("Mul", ["shift", "f"], ["shifted"]),
        helper.make_node("QuantizeLinear", ["shifted", "scale", "none"], ["v"]),
        node,
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, [2, 3, 5, 9]),
        helper.make_tensor_value_info("f", TensorProto.FLOAT, [2, 3, 9, 4]),
        helper.make_tensor_value_info("y", TensorProto.INT32, [2, 3, 5, 4]),
    ]
    graph = helper.make_graph(nodes, "attention", ends[:2], ends[2:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answers(model, feed, *, raw=True):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if raw:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name -> quantized graph; and one feed for all but attention's."""
    folder = tmp_path_factory.mktemp("quantized")
    x = np.random.default_rng(2).uniform(0, 1, (SAMPLES, 6, 8, 8)).astype(np.float32)
    onnx.save(network(), folder / "float.onnx")
    unsigned, signed = QuantType.QUInt8, QuantType.QInt8
    with quiet():
        for name, activations, form in (
            ("static", unsigned, QuantFormat.QDQ),
            ("signed", signed, QuantFormat.QDQ),
            ("qoperator", unsigned, QuantFormat.QOperator),
            ("per_tensor", unsigned, QuantFormat.QDQ),
        ):
            quantize_static(
                *(folder / "float.onnx", folder / f"{name}.onnx", Readings(x)),
                quant_format=form,
                per_channel=name != "per_tensor",
                activation_type=activations,
                weight_type=signed,
            )
        matrices = ["MatMul", "Gemm"]
        quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", matrices, per_channel=True, weight_type=signed)
    return {name: onnx.load(folder / f"{name}.onnx") for name in QUANTIZED}, x


def whole_convolution():
    """ConvInteger of signed weights, whose kernel takes them as the first matrix."""
    weights = np.random.default_rng(5).integers(-128, 128, (8, 6, 3, 3)).astype(np.int8)
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"], "whole")
    ends = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, [2, 6, 7, 7]),
        helper.make_tensor_value_info("y", TensorProto.INT32, [2, 8, 5, 5]),
    ]
    graph = helper.make_graph([node], "whole", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def haswell(models, tmp_path_factory):
    """Name -> first output of the graph that ships, on a Haswell; and name -> feed of those that are made by hand."""
    folder = tmp_path_factory.mktemp("haswell")
    graphs, x = models
    rng = np.random.default_rng(3)
    feeds = {
        "attention": {
            "x": rng.integers(128, 256, (2, 3, 5, 9)).astype(np.uint8),
            "f": rng.choice([-1, 1, 1, 1], (2, 3, 9, 4)).astype(np.float32),
        },
        "whole": {"x": rng.integers(0, 256, (2, 6, 7, 7)).astype(np.uint8)},
    }
    for name, graph in (graphs | {"attention": attention(), "whole": whole_convolution()}).items():
        onnx.save(graph, folder / f"{name}.onnx")
        np.savez(folder / f"{name}.npz", **feeds.get(name, {"x": x}))
    script = run.__globals__["__file__"]
    subprocess.run([*emulator("Haswell"), sys.executable, script, folder], check=True, capture_output=True)
    return {name: np.load(folder / f"{name}.npy") for name in (*graphs, *feeds)}, feeds


@pytest.mark.parametrize("name", QUANTIZED)
def test_it_gives_the_answers_of_such_a_processor(models, haswell, name):
    graphs, x = models
    emulated = answers(without_vnni(graphs[name]), {"x": x})
    np.testing.assert_allclose(emulated, haswell[0][name], rtol=1e-5, atol=1e-6)
    exact = answers(without_vnni(graphs[name], layers=()), {"x": x})
    assert (exact != emulated).any()


@pytest.mark.parametrize("name", QUANTIZED)
def test_it_gives_the_answers_of_this_processor(models, name):
    graphs, x = models
    layers = () if int8_kernels(architecture(), isa()) == "vnni" else None
    emulated = answers(without_vnni(graphs[name], layers), {"x": x})
    np.testing.assert_allclose(emulated, answers(graphs[name], {"x": x}, raw=False), rtol=1e-5, atol=1e-6)


def test_products_of_computed_operands_clip_too(haswell):
    given, feed = haswell[0], haswell[1]["attention"]
    assert (answers(without_vnni(attention()), feed) == given["attention"]).all()
    assert (answers(without_vnni(attention(), layers=()), feed) != given["attention"]).mean() > 0.5
    (layer,) = saturating_layers(attention(), [feed])
    assert layer.weights == ""
    assert 0 < layer.clipped < 1


def test_a_product_whose_weights_come_first_is_exact(haswell):
    given, feeds = haswell
    assert products(optimized(whole_convolution())) == []
    weights = numpy_helper.to_array(whole_convolution().graph.initializer[0]).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(feeds["whole"]["x"].astype(int), (3, 3), (2, 3))
    assert (np.einsum("nchwrs,ocrs->nohw", windows, weights) == given["whole"]).all()


@pytest.mark.parametrize("name", QUANTIZED)
def test_it_knows_which_layers_are_summed_in_pairs(models, name):
    graphs, _ = models
    weights = {p.w.removesuffix("_quantized") for p in products(optimized(graphs[name]))}
    assert "depthwise" not in weights
    assert "matmul" in weights
    if name in ("static", "qoperator", "per_tensor"):
        assert weights == {"plain", "grouped", "pointwise", "gemm", "matmul"}
    # The runtime makes signed activations unsigned: they are no protection.
    if name == "signed":
        assert weights & {"plain", "grouped", "pointwise", "gemm"}


def test_the_report_counts_what_is_clipped():
    rng = np.random.default_rng(4)
    x, w = rng.integers(0, 256, (8, 11)).astype(np.uint8), rng.integers(-127, 128, (11, 6)).astype(np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"], "product")
    ends = [helper.make_tensor_value_info("x", TensorProto.UINT8, [None, 11])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.INT32, [None, 6]))
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (layer,) = saturating_layers(model, [{"x": x[:5]}, {"x": x[5:]}])
    products_of_rows = x[:, :, None].astype(int) * w[None]
    pairs = products_of_rows[:, 0:10:2] + products_of_rows[:, 1:10:2]
    exact, clipped = x.astype(int) @ w.astype(int), saturating_matmul(x, w)
    assert layer.node == "product"
    assert layer.clipped == pytest.approx((np.clip(pairs, -(2**15), 2**15 - 1) != pairs).mean())
    assert layer.changed == pytest.approx((exact != clipped).mean())
    expected = 10 * np.log10((exact**2.0).sum() / ((exact - clipped) ** 2.0).sum())
    assert layer.sqnr_db == pytest.approx(expected, rel=1e-4)


def test_a_graph_without_products_has_no_layer_to_report():
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, [None, 11]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"], "only")], "one", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert saturating_layers(model, [{"x": np.zeros((2, 11), np.uint8)}]) == []


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_is_repaired_is_the_same_on_both(models, name):
    graphs, x = models
    floats = {tensor.name: numpy_helper.to_array(tensor) for tensor in network().graph.initializer}
    reference = answers(network(), {"x": x})
    for known in (floats, None):
        repaired = unsaturated(graphs[name], floats=known)
        assert not any(product.can_clip.any() for product in products(optimized(repaired)))
        # Any input: also one that fills the range.
        for feed in ({"x": x}, {"x": 100 * x}):
            exact = answers(without_vnni(repaired, layers=()), feed)
            assert (answers(without_vnni(repaired), feed) == exact).all()
        error = np.abs(answers(repaired, {"x": x}, raw=False) - reference).max()
        seven_bits = rescaled(graphs[name], {p.name: 2.0 for p in products(optimized(graphs[name]))})
        coarse = np.abs(answers(without_vnni(seven_bits, layers=()), {"x": x}) - reference).max()
        clipped = np.abs(answers(without_vnni(graphs[name]), {"x": x}) - reference).max()
        assert error < clipped
        assert error < 2 * coarse


def test_only_the_chosen_layers_are_touched(models):
    graph = models[0]["static"]
    chosen = next(p for p in products(optimized(graph)) if p.w == "plain_quantized")
    repaired = unsaturated(graph, [chosen.name])
    before, after = ({t.name: numpy_helper.to_array(t) for t in g.graph.initializer} for g in (graph, repaired))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("plain") for name in changed)
    safe = ~chosen.can_clip
    assert (before["plain_quantized"][safe] == after["plain_quantized"][safe]).all()


def test_an_operator_that_sums_in_an_unknown_way_is_refused():
    graph = onnx.ModelProto()
    graph.graph.node.append(helper.make_node("QAttention", ["x"], ["y"], "heads", domain="com.microsoft"))
    with pytest.raises(UnsupportedError, match="heads"):
        products(graph)
