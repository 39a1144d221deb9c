"""Bias correction takes off what rounding weights adds to a channel on average."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.onnx_bias import corrected
from targets.onnx_ranges import answers
from tests.models import Graph


def network(kind: str) -> onnx.ModelProto:
    g = Graph(5)
    if kind == "Conv":
        out = g.add("Conv", "x", g.weight(6, 3, 3, 3), g.weight(6, scale=0.1), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    elif kind == "Gemm":
        out = g.add("Gemm", "x", g.weight(6, 10), g.weight(6, scale=0.1), transB=1)
    else:
        out = g.linear("x", 10, 6)
    shape = ("n", 3, 8, 8) if kind == "Conv" else ("n", 10)
    spec = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        g.nodes, "net", [spec], [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)], g.weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def rounded(model: onnx.ModelProto, step: float) -> onnx.ModelProto:
    """With weights between a QuantizeLinear and a DequantizeLinear of this step."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    node = next(node for node in made.graph.node if node.op_type in ("Conv", "Gemm", "MatMul"))
    made.graph.initializer.append(numpy_helper.from_array(np.array(step, np.float32), "step"))
    made.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "zero"))
    quantize = helper.make_node("QuantizeLinear", [node.input[1], "step", "zero"], ["integers"])
    dequantize = helper.make_node("DequantizeLinear", ["integers", "step", "zero"], ["rounded"])
    made.graph.node.insert(0, dequantize)
    made.graph.node.insert(0, quantize)
    node = next(node for node in made.graph.node if node.op_type in ("Conv", "Gemm", "MatMul"))
    node.input[1] = "rounded"
    return made


@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul"])
def test_the_mean_of_each_channel_is_what_it_was(kind):
    model = network(kind)
    rng = np.random.default_rng(0)
    shape = (16, 3, 8, 8) if kind == "Conv" else (16, 10)
    # All positive, as behind a ReLU: the mean is what shifts.
    feeds = [{"x": rng.uniform(0, 1, shape).astype(np.float32)} for _ in range(3)]
    quantized = rounded(model, 0.2)
    made = corrected(model, quantized, feeds)
    assert made is not None

    def channel_means(graph: onnx.ModelProto) -> np.ndarray:
        return answers(graph, feeds).reshape(48, 6, -1).mean(axis=(0, 2))

    shift = np.abs(channel_means(quantized) - channel_means(model)).max()
    left = np.abs(channel_means(rounded(made, 0.2)) - channel_means(model)).max()
    assert shift > 0.01
    assert left < shift / 20


def test_without_a_bias_there_is_nothing_to_move():
    model = network("MatMul")
    del model.graph.node[1]
    model.graph.output[0].name = model.graph.node[0].output[0]
    feeds = [{"x": np.ones((2, 10), np.float32)}]
    assert corrected(model, rounded(model, 0.2), feeds) is None
