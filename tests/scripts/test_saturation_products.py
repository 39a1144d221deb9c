"""Integer products by themselves, emulated and on a CPU without VNNI (QEMU's Haswell)."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
from saturation_figures import CPU, RUNNER
from saturation_products import operands_and_results, same_inputs

from calibration.saturation import HIGHEST, LOWEST
from targets import onnx_clipped_sums
from targets.onnx_products import optimized
from targets.onnx_quantization import quiet
from targets.onnx_saturation import without_vnni
from targets.transport.qemu import emulator
from tests.calibration_reader import Readings

SAMPLES, WIDTH, OUTPUTS, SIDE, CHANNELS = 4, 32, 24, 6, 8
KINDS = ("dynamic", "static")


def graph_of(nodes, constants, x, y):
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *s]) for n, s in (("x", x), ("y", y))]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def matrices():
    """Two products of one input, then a third, with a bias, of their sum times a gain."""
    rng = np.random.default_rng(0)
    constants = {
        **{name: rng.uniform(-1, 1, (WIDTH, WIDTH)) for name in ("a", "b")},
        "c": rng.uniform(-1, 1, (WIDTH, OUTPUTS)),
        "bias": rng.normal(size=OUTPUTS),
        "gain": np.array([0.7]),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"], "first"),
        helper.make_node("MatMul", ["x", "b"], ["xb"], "second"),
        helper.make_node("Add", ["xa", "xb"], ["sum"]),
        helper.make_node("Mul", ["sum", "gain"], ["more"]),
        helper.make_node("MatMul", ["more", "c"], ["product"], "third"),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    return graph_of(nodes, constants, [WIDTH], [OUTPUTS])


def convolutions():
    """A convolution and a depthwise one, which is exact."""
    rng = np.random.default_rng(1)
    constants = {"plain": rng.uniform(-1, 1, (CHANNELS, 4, 3, 3)), "each": rng.uniform(-1, 1, (CHANNELS, 1, 3, 3))}
    nodes = [
        helper.make_node("Conv", ["x", "plain"], ["h"], "plain", pads=[1] * 4),
        helper.make_node("Relu", ["h"], ["positive"]),
        helper.make_node("Conv", ["positive", "each"], ["y"], "each", group=CHANNELS, pads=[1] * 4),
    ]
    return graph_of(nodes, constants, [4, SIDE, SIDE], [CHANNELS, SIDE, SIDE])


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """Name -> 8-bit graph and its inputs."""
    folder = tmp_path_factory.mktemp("quantized")
    rng = np.random.default_rng(2)
    x = {
        "dynamic": rng.uniform(0, 1, (SAMPLES, WIDTH)).astype(np.float32),
        "static": rng.uniform(0, 1, (SAMPLES, 4, SIDE, SIDE)).astype(np.float32),
    }
    for name, graph in (("dynamic", matrices()), ("static", convolutions())):
        onnx.save(graph, folder / f"{name}.float.onnx")
    files = {name: (folder / f"{name}.float.onnx", folder / f"{name}.onnx") for name in KINDS}
    with quiet():
        quantize_dynamic(*files["dynamic"], weight_type=QuantType.QInt8)
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(*files["static"], Readings(x["static"]), per_channel=True, **types)
    return {name: (onnx.load(files[name][1]), x[name]) for name in KINDS}


@pytest.fixture(scope="module")
def there(quantized, tmp_path_factory):
    """Name -> what such a processor gave; `drifted` is of a dynamic graph with another gain than the artifact's."""
    folder = tmp_path_factory.mktemp("there")
    names = {}
    for name, kind in (("dynamic", "dynamic"), ("static", "static"), ("drifted", "dynamic")):
        graph, x = quantized[kind]
        executed = optimized(graph)
        names[name] = operands_and_results(executed)
        del executed.graph.output[:]
        executed.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in names[name])
        for tensor in executed.graph.initializer:
            if name == "drifted" and tensor.name == "gain":
                tensor.CopyFrom(numpy_helper.from_array(np.array([0.71], np.float32), "gain"))
        onnx.save(executed, folder / f"{name}.raw.onnx")
        np.savez(folder / f"{name}.npz", x=x)
    subprocess.run([*emulator(CPU), sys.executable, RUNNER, folder], check=True, capture_output=True)
    recorded = {}
    for name, tensors in names.items():
        arrays = np.load(folder / f"{name}.raw.out.npz")
        x = quantized["static" if name == "static" else "dynamic"][1]
        recorded[name] = {"x": x[:, None]} | {tensor: arrays[str(place)] for place, tensor in enumerate(tensors)}
    return recorded


@pytest.mark.parametrize("name", KINDS)
def test_every_product_of_the_same_inputs_is_equal(quantized, there, name):
    found = same_inputs(quantized[name][0], there[name])
    results = {"dynamic": 2 * WIDTH + OUTPUTS, "static": 2 * CHANNELS * SIDE * SIDE}
    assert found.integers == SAMPLES * results[name]
    assert found.equal == found.clipped_equal == 1
    assert found.clipped > 0


def test_what_moves_between_the_products_does_not_count(quantized, there):
    """The third product got other inputs there than it gets end to end."""
    graph = quantized["dynamic"][0]
    assert same_inputs(graph, there["drifted"]).equal == 1
    *_, third = [node.output[0] for node in optimized(graph).graph.node if "MatMul" in node.op_type]
    assert (there["drifted"][third] != there["dynamic"][third]).all()


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("dynamic", LOWEST, HIGHEST - 1),
        ("dynamic", LOWEST + 1, HIGHEST),
        ("dynamic", 2 * LOWEST, 2 * HIGHEST),
        ("static", 2 * LOWEST, 2 * HIGHEST),
    ],
)
def test_an_emulation_that_clips_elsewhere_is_not_equal(quantized, there, monkeypatch, name, lowest, highest):
    monkeypatch.setattr(onnx_clipped_sums, "LOWEST", lowest)
    monkeypatch.setattr(onnx_clipped_sums, "HIGHEST", highest)
    found = same_inputs(quantized[name][0], there[name])
    assert found.equal < 0.9999
    assert found.clipped_equal < 1


def test_a_product_taken_for_exact_is_not_equal(quantized, there, monkeypatch):
    def none(graph, layers=None):
        return without_vnni(graph, layers=())

    monkeypatch.setattr("saturation_products.without_vnni", none)
    found = same_inputs(quantized["dynamic"][0], there["dynamic"])
    assert found.equal < 1
    assert found.clipped_equal == 0


def test_one_sum_that_is_off_by_one_is_counted(quantized, there):
    graph, _ = quantized["dynamic"]
    fused = next(node for node in optimized(graph).graph.node if node.op_type == "MatMulIntegerToFloat")
    result = there["dynamic"][fused.output[0]].copy()
    constants = {t.name: numpy_helper.to_array(t) for t in optimized(graph).graph.initializer}
    scale = constants[fused.input[3]]
    result[0, 0, 0] += there["dynamic"][fused.input[2]][0] * scale.ravel()[0]
    found = same_inputs(graph, there["dynamic"] | {fused.output[0]: result})
    assert round(found.equal * found.integers) == found.integers - 1
