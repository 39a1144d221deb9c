"""Smoothing moves outliers of activations into weights and changes no answer."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.onnx_ranges import answers, open_session
from targets.onnx_smoothing import smoothed
from tests.models import Graph

WIDTH = 12


def network(product: str, *, trans_b: bool = False, also_read: str = "") -> onnx.ModelProto:
    """A normalization whose channels are of very different sizes, and a product behind it."""
    g = Graph(3)
    scale = g.constant(np.logspace(-1, 2, WIDTH, dtype=np.float32))
    x = g.add("LayerNormalization", "x", scale, g.weight(WIDTH, scale=1.0), out="normalized")
    weight = g.weight(8, WIDTH) if trans_b else g.weight(WIDTH, 8)
    y = g.add("Gemm", x, weight, g.weight(8), transB=1) if trans_b else g.add(product, x, weight)
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)]
    if also_read:
        outputs.append(helper.make_tensor_value_info(g.add(also_read, x), TensorProto.FLOAT, None))
    spec = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", WIDTH))
    graph = helper.make_graph(g.nodes, "net", [spec], outputs, g.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def feeds() -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(0).normal(size=(16, WIDTH)).astype(np.float32)}]


def spread(model: onnx.ModelProto) -> float:
    """How much more the widest channel of the normalization reaches than the narrowest."""
    [normalized] = open_session(model, ["normalized"]).run(["normalized"], feeds()[0])
    largest = np.abs(normalized).max(axis=0)
    return float(largest.max() / largest.min())


@pytest.mark.parametrize("trans_b", [False, True])
def test_answers_stay_and_activations_become_more_alike(trans_b):
    model = network("MatMul", trans_b=trans_b)
    made = smoothed(model, feeds())
    assert made is not None
    np.testing.assert_allclose(answers(made, feeds()), answers(model, feeds()), rtol=1e-3, atol=1e-3)
    assert spread(made) < spread(model) / 5


def test_what_others_read_too_is_not_rescaled():
    assert smoothed(network("MatMul", also_read="Relu"), feeds()) is None


def test_weights_that_are_read_twice_are_not_rescaled():
    model = network("MatMul")
    product = next(node for node in model.graph.node if node.op_type == "MatMul")
    model.graph.node.append(helper.make_node("Abs", [product.input[1]], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    assert smoothed(model, feeds()) is None


def test_a_channel_that_is_always_zero_gives_no_infinity():
    model = network("MatMul")
    for position in (1, 2):
        name = model.graph.node[0].input[position]
        tensor = next(t for t in model.graph.initializer if t.name == name)
        array = numpy_helper.to_array(tensor).copy()
        array[5] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, name))
    made = smoothed(model, feeds())
    assert made is not None
    assert np.isfinite(answers(made, feeds())).all()
