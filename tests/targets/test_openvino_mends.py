"""What OpenVINO computes otherwise than the model says is computed as it says it, in float and in int8."""

import numpy as np
import onnx
import openvino
import pytest
from openvino import opset13

from targets.onnx_ranges import answers
from targets.openvino import Openvino
from targets.openvino_mends import set_pools_apart
from targets.profile import load_profile
from targets.target import TensorSpec
from tests.models import BATCH, CLASSES, Graph, answers_of, save, signal_to_noise_db

NUC = load_profile("intel-nuc")


def built(graph, folder, shape, last):
    """A head of `last` inputs behind the graph's last node."""
    graph.add("Identity", graph.linear(graph.nodes[-1].output[0], last, CLASSES), out="logits")
    return save(graph, folder, [TensorSpec("x", "float32", (BATCH, *shape))], "convolutional", {}, 20)


def assert_right(package, folder):
    (out := folder / "out").mkdir()
    inputs = {"x": np.random.default_rng(0).normal(size=(3, *package.inputs[0].shape[1:])).astype(np.float32)}
    expected = answers(onnx.load(package.graph), [inputs])
    assert signal_to_noise_db(expected, answers_of(Openvino().compile(package, NUC, 1, out), inputs)) > 60


@pytest.mark.parametrize("rising", ["Gelu", "Abs", "HardSwish", "Mish", "Mul", "LeakyRelu", "Relu", "Sigmoid"])
def test_an_activation_behind_a_pool_stays_behind_it(tmp_path, rising):
    g = Graph(0)
    x = g.add("MaxPool", g.conv("x", 2, 6), kernel_shape=[2, 2], strides=[2, 2])
    if rising == "Mul":
        g.add("ReduceMean", g.add("Mul", x, g.add("Sigmoid", x)), g.constant(np.array([2, 3])), keepdims=0)
    else:
        slope = {"alpha": -0.5} if rising == "LeakyRelu" else {}
        g.add("ReduceMean", g.add(rising, x, **slope), g.constant(np.array([2, 3])), keepdims=0)
    assert_right(built(g, tmp_path / "float", (2, 8, 8), 6), tmp_path)


def test_a_pool_that_is_an_output_keeps_its_name():
    image = opset13.parameter([-1, 2, 8, 8], np.float32, name="x")
    pool = opset13.max_pool(image, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    pool.get_tensor().set_names({"pooled"})
    after = opset13.gelu(pool, "erf").output(0)
    after.get_tensor().set_names({"activated"})
    model = openvino.Model([opset13.result(pool), opset13.result(after)], [image], "two")
    set_pools_apart(model)
    model.validate_nodes_and_infer_types()
    assert [sorted(port.get_names()) for port in model.outputs] == [["pooled"], ["activated"]]


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("keeps", [0, 1])
@pytest.mark.parametrize("behind", ["Add", "Mul"])
def test_behind_a_reduction_each_channel_has_its_own(tmp_path, axis, keeps, behind):
    g = Graph(0)
    x = g.add("ReduceMean", "x", g.constant(np.array([axis])), keepdims=keeps)
    size = {1: 8, 2: 6, -1: 6}[axis]
    shape = (1, size) if not keeps else (1, 1, size) if axis == 1 else (1, size, 1)
    x = g.add(behind, g.add("Relu", x), g.constant(g.rng.uniform(0.5, 2, shape).astype(np.float32)))
    g.add("Flatten", x)
    assert_right(built(g, tmp_path / "float", (6, 8), size), tmp_path)


@pytest.mark.parametrize("heads", [3, 5])
def test_behind_a_matrix_product_each_head_has_its_own(tmp_path, heads):
    g = Graph(0)
    x = g.add("MatMul", "x", g.weight(7, 5))
    g.add("Flatten", g.add("Add", x, g.constant(g.rng.normal(size=(1, heads, 1, 1)).astype(np.float32))))
    assert_right(built(g, tmp_path / "float", (heads, 4, 7), heads * 20), tmp_path)


def test_a_layer_norm_is_still_one(tmp_path):
    """Written out, it is found by its reductions."""
    g = Graph(0)
    last = g.constant(np.array([-1]))
    centred = g.add("Sub", "x", g.add("ReduceMean", "x", last))
    variance = g.add("ReduceMean", g.add("Mul", centred, centred), last)
    deviation = g.add("Sqrt", g.add("Add", variance, g.constant(np.float32(1e-5))))
    scaled = g.add("Mul", g.add("Div", centred, deviation), g.weight(8, scale=1.0))
    g.add("Flatten", g.add("Add", scaled, g.weight(8, scale=1.0)))
    package = built(g, tmp_path / "float", (6, 8), 48)
    assert_right(package, tmp_path)
    compiled = openvino.Core().compile_model(tmp_path / "out/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ordered_ops()]
    assert "MVN" in kinds
    assert "Reduce" not in kinds
