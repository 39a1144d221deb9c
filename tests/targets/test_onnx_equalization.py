"""Equalization changes weights and no answer."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.onnx_equalization import equalized
from targets.onnx_ranges import answers
from tests.models import Graph


def network(seed: int, between: str, *, depthwise: bool) -> onnx.ModelProto:
    """Two convolutions, the channels of the first of very different sizes, and an operator between them."""
    g = Graph(seed)
    first = g.weight(6, 2, 3, 3)
    lopsided = numpy_helper.to_array(g.weights[-1]) * np.logspace(-2, 2, 6, dtype=np.float32)[:, None, None, None]
    g.weights[-1].CopyFrom(numpy_helper.from_array(lopsided, first))
    x = g.add("Conv", "x", first, g.weight(6, scale=1.0), kernel_shape=[3, 3])
    if between:
        settings = {"kernel_shape": [2, 2], "strides": [2, 2]} if between.endswith("Pool") else {}
        x = g.add(between, x, **settings)
    second = g.weight(6, 1, 3, 3) if depthwise else g.weight(4, 6, 3, 3)
    g.add("Conv", x, second, g.weight(6 if depthwise else 4), kernel_shape=[3, 3], group=6 if depthwise else 1, out="y")
    spec = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 2, 12, 12))
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", None, None, None))
    graph = helper.make_graph(g.nodes, "net", [spec], [out], g.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def reach(model: onnx.ModelProto, position: int) -> np.ndarray:
    """The largest weight of each output channel of a convolution."""
    name = [node for node in model.graph.node if node.op_type == "Conv"][position].input[1]
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)
    return np.abs(weight).max(axis=(1, 2, 3))


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("between", ["", "Relu", "LeakyRelu", "MaxPool", "AveragePool"])
def test_answers_stay_and_channels_become_more_alike(between, depthwise):
    model = network(1, between, depthwise=depthwise)
    feeds = [{"x": np.random.default_rng(0).normal(size=(4, 2, 12, 12)).astype(np.float32)}]
    made = equalized(model)
    assert made is not None
    np.testing.assert_allclose(answers(made, feeds), answers(model, feeds), rtol=1e-3, atol=1e-3)
    before, after = reach(model, 0), reach(made, 0)
    assert after.max() / after.min() < before.max() / before.min() / 10


@pytest.mark.parametrize("between", ["Sigmoid", "Tanh", "HardSwish"])
def test_what_does_not_scale_with_its_input_stays_between(between):
    assert equalized(network(1, between, depthwise=False)) is None


def test_a_channel_of_zeros_stays_zero():
    model = network(1, "Relu", depthwise=False)
    weight = model.graph.initializer[0]
    array = numpy_helper.to_array(weight).copy()
    array[3] = 0
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    made = equalized(model)
    assert made is not None
    assert reach(made, 0)[3] == 0
    assert np.isfinite(reach(made, 0)).all()


def test_a_result_that_others_read_too_is_not_rescaled():
    model = network(1, "Relu", depthwise=False)
    relu = next(node.output[0] for node in model.graph.node if node.op_type == "Relu")
    model.graph.output.append(helper.make_tensor_value_info(relu, TensorProto.FLOAT, None))
    assert equalized(model) is None
