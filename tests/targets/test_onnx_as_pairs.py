"""Integer operators written as float operators between pairs: the same integers, under the same names."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from targets.onnx_as_pairs import OPERATORS, in_pairs
from targets.onnx_float import FloatGraph
from targets.onnx_integers import QuantizedGraph
from targets.onnx_quantization import StaticScheme, static
from targets.onnx_taps import tapped
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from targets.target import TensorSpec
from tests import models
from tests.models import BATCH, CHANNELS, CLASSES, Graph, calibration_of, convolutional, inputs_of, transformer
from tests.processor import GUARD


def made_of_everything(folder):
    """A network of the operators that onnxruntime's quantizer has integers for, beside those of the other models."""
    g = Graph(3)
    x = g.conv("pixel_values", 1, CHANNELS)
    a, b = g.add("LeakyRelu", x, alpha=0.1), g.add("Sigmoid", x)
    x = g.add("Concat", g.add("Mul", a, b), g.add("Add", a, a), axis=1)
    x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.add("GlobalAveragePool", g.add("Transpose", x, perm=[0, 1, 3, 2]))
    x = g.add("Reshape", x, g.constant(np.array([0, 2 * CHANNELS], np.int64)))
    x = g.add("Softmax", g.add("Gemm", x, g.weight(8, 2 * CHANNELS), g.weight(8, scale=0.1), transB=1), axis=1)
    g.add("Gemm", x, g.weight(8, CLASSES), g.weight(CLASSES, scale=0.1), out="logits")
    settings = {"kind": "image", "input": "pixel_values", "column": "image", "size": [12, 12], "channels": 1}
    settings |= {"mean": [0.5], "std": [0.5], "layout": "NCHW"}
    spec = TensorSpec("pixel_values", "float32", (BATCH, 1, 12, 12))
    return models.save(g, folder, [spec], "convolutional", settings, 20)


def fused(package, folder):
    folder.mkdir()
    able = OnnxruntimeCpu().capabilities(load_profile("host"))
    scheme = StaticScheme("uint8", guard=GUARD, fused=True)
    made = static("static", scheme, FloatGraph(package, calibration_of(package)), able).as_it_is().make(folder)
    return onnx.load(made.graph)


def run(model, feeds, names):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(names, feeds)


@pytest.mark.parametrize("network", [convolutional, transformer, made_of_everything])
def test_the_same_integers_under_the_same_names(network, tmp_path):
    package = network(tmp_path / "float")
    graph = fused(package, tmp_path / "made")
    pairs = in_pairs(graph)
    onnx.checker.check_model(pairs)
    assert not [node.op_type for node in pairs.graph.node if node.op_type.startswith(("QLinear", "QGemm"))]
    given = {name for node in graph.graph.node for name in node.output}
    names = [name for name in QuantizedGraph(pairs).activations if name in given]
    assert len(names) > 5
    feeds = inputs_of(package, 4)
    expected, found = (run(tapped(model, names), feeds, names) for model in (graph, pairs))
    for name, a, b in zip(names, expected, found, strict=True):
        # Integers are rounded once in both; kernels of sigmoids and softmax look values up in tables.
        apart = np.abs(a.astype(int) - b.astype(int))
        assert apart.max() <= 2, name
        assert apart.mean() < 0.1, name


def test_which_operators_there_are(tmp_path):
    found = set()
    for network in (convolutional, transformer, made_of_everything):
        folder = tmp_path / network.__name__
        found |= {node.op_type for node in fused(network(folder), folder / "made").graph.node}
    # onnxruntime's quantizer writes no graph that loads where both values of a Where are computed.
    assert found >= OPERATORS.keys() - {"QLinearWhere"} | {"QLinearConcat"}


def test_what_has_none_stays_as_it_is(tmp_path):
    graph = onnx.load(convolutional(tmp_path).graph)
    assert in_pairs(graph) is graph


def graph_of(nodes, constants):
    """From x [n, 2] to y."""
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 2]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], tensors)
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


def quantized(node):
    """Between a quantizer of x and a reader that gives y."""
    return [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_quantized"], "q"),
        node,
        helper.make_node("DequantizeLinear", ["y_quantized", "s", "z"], ["y"], "d"),
    ]


PARAMETERS = {"s": np.float32(0.5), "z": np.uint8(3)}
INPUT = np.float32([[1, 2], [3, -1]])


def test_scales_of_columns():
    operands = ["x_quantized", "s", "z", "w", "ws", "wz", "s", "z"]
    weights = {"w": np.int8([[1, 2], [3, 4]]), "ws": np.float32([0.1, 0.2]), "wz": np.zeros(2, np.int8)}
    model = graph_of(quantized(helper.make_node("QLinearMatMul", operands, ["y_quantized"], "m")), PARAMETERS | weights)
    pairs = QuantizedGraph(in_pairs(model))
    (constant,) = (c for c in pairs.constants.values() if c.op)
    assert constant.values == pytest.approx(np.array([[0.1, 0.4], [0.3, 0.8]]))
    expected, found = (run(graph, {"x": INPUT}, ["y"])[0] for graph in (model, pairs.model))
    assert found == pytest.approx(expected)


def test_a_choice_of_two():
    operands = ["which", "x_quantized", "s", "z", "w", "s", "z", "s", "z"]
    chosen = {"which": np.array([True, False]), "w": np.uint8([[9, 9], [9, 9]])}
    node = helper.make_node("QLinearWhere", operands, ["y_quantized"], "choose", domain="com.microsoft")
    model = graph_of(quantized(node), PARAMETERS | chosen)
    expected, found = (run(graph, {"x": INPUT}, ["y"])[0] for graph in (model, in_pairs(model)))
    assert found.tolist() == expected.tolist() == [[1, 3], [3, 3]]
