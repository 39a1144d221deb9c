import numpy as np
import onnx
import pytest
from onnxruntime.quantization.shape_inference import quant_pre_process

from targets.onnx_float import prepared
from targets.onnx_graph import MOST_OF_SHAPE, inferred
from tests.models import convolutional, transformer


@pytest.mark.parametrize("model", [convolutional, transformer])
def test_a_graph_is_folded_as_onnxruntimes_own_preprocessing_folds_it(tmp_path, model):
    package = model(tmp_path / "model")
    graph = onnx.load(package.graph)
    del graph.graph.value_info[:]
    onnx.save(graph, tmp_path / "float.onnx")
    quant_pre_process(tmp_path / "float.onnx", tmp_path / "theirs.onnx", skip_symbolic_shape=True)
    theirs, ours = onnx.load(tmp_path / "theirs.onnx"), prepared(graph)
    assert [node.op_type for node in ours.graph.node] == [node.op_type for node in theirs.graph.node]
    assert list(ours.graph.initializer) == list(theirs.graph.initializer)
    assert list(ours.metadata_props) == list(theirs.metadata_props)


def test_an_operator_that_the_quantizers_know_no_more_is_replaced():
    sizes = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "sizes")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Upsample", ["x", "sizes"], ["y"])],
        "old",
        [value("x", onnx.TensorProto.FLOAT, (1, 1, 4, 4))],
        [value("y", onnx.TensorProto.FLOAT, (1, 1, 8, 8))],
        [sizes],
    )
    old = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 9)], ir_version=6)
    assert "Upsample" not in [node.op_type for node in prepared(old).graph.node]


@pytest.mark.parametrize("model", [convolutional, transformer])
def test_shapes_do_not_depend_on_what_weights_hold(tmp_path, model):
    graph = prepared(onnx.load(model(tmp_path / "model").graph))
    assert any(np.prod(tensor.dims) > MOST_OF_SHAPE for tensor in graph.graph.initializer)
    ours, theirs = inferred(graph), onnx.shape_inference.infer_shapes(graph).graph
    assert len(ours.value_info) > 5
    for of in ("value_info", "input", "output", "node"):
        assert list(getattr(ours, of)) == list(getattr(theirs, of))
    assert [tensor.name for tensor in ours.initializer] == [tensor.name for tensor in theirs.initializer]
