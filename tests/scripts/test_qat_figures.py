"""Channels whose ranges differ are a case that calibration loses on, only if the network stays the same."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from qat_figures import uneven

from targets.onnx_equalization import equalized
from targets.onnx_ranges import answers
from tests.models import Graph


@pytest.fixture
def network():
    """Three convolutions, the second depthwise, with a ReLU between."""
    g = Graph(0)
    x = g.add("Conv", "x", g.weight(8, 2, 3, 3), g.weight(8), kernel_shape=[3, 3])
    x = g.add("Relu", x)
    x = g.add("Conv", x, g.weight(8, 1, 3, 3), g.weight(8), kernel_shape=[3, 3], group=8)
    x = g.add("Relu", x)
    g.add("Conv", x, g.weight(4, 8, 1, 1), g.weight(4), kernel_shape=[1, 1], out="y")
    spec = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 2, 12, 12))
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 4, 8, 8))
    graph = helper.make_graph(g.nodes, "net", [spec], [out], g.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def distance(model: onnx.ModelProto) -> float:
    """How many times the largest weight of one channel of the first convolution is that of another."""
    name = model.graph.node[0].input[1]
    weight = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)
    reach = np.abs(weight).max(axis=(1, 2, 3))
    return float(reach.max() / reach.min())


def test_the_network_stays_the_same_while_its_channels_differ(network):
    feeds = [{"x": np.random.default_rng(0).normal(size=(4, 2, 12, 12)).astype(np.float32)}]
    made = uneven(network, 100.0)
    np.testing.assert_allclose(answers(made, feeds), answers(network, feeds), rtol=1e-4, atol=1e-4)
    assert distance(made) > 8 * distance(network)
    even = equalized(made)
    assert even is not None
    assert distance(even) < distance(made) / 4


def test_a_spread_of_one_changes_nothing(network):
    made = uneven(network, 1.0)
    assert [t.raw_data for t in made.graph.initializer] == [t.raw_data for t in network.graph.initializer]
