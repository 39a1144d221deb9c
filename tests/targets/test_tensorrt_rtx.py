from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.errors import InputError, UnsupportedError
from targets.profile import Runtime, load_profile
from targets.tensorrt_rtx import TensorrtRtx, build_engine
from tests.models import calibration_of, convolutional, transformer

RTX = load_profile("rtx-4060")


@pytest.fixture
def package(tmp_path):
    return convolutional(tmp_path / "float")


def test_an_engine_is_built_and_said_to_be_unproven(package, tmp_path):
    compiled = TensorrtRtx().compile(package, RTX, 1, tmp_path)
    assert (compiled.status, compiled.files) == ("built", ("model.engine",))
    assert compiled.size_bytes > 100_000
    assert any("compiles its kernels" in note for note in compiled.notes)
    assert any("never executed" in note for note in compiled.notes)
    assert compiled.requires["compute_capability"] == "8.9"


def test_two_builds_of_a_graph_are_the_same_bytes(package, tmp_path):
    for name in ("a", "b"):
        build_engine(package, RTX, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("capability", ["8.7", "9.0", "5.2"])
def test_a_compute_capability_it_does_not_build_for_is_refused_by_number(package, tmp_path, capability):
    with pytest.raises(UnsupportedError, match=f"compute capability {capability}"):
        TensorrtRtx().compile(package, replace(RTX, compute_capability=capability), 1, tmp_path)
    assert not (tmp_path / "model.engine").exists()


def test_a_node_of_another_domain_is_refused_by_name(package, tmp_path):
    graph = onnx.load(package.graph)
    graph.graph.node[1].domain = "com.microsoft"
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(graph, package.graph)
    with pytest.raises(UnsupportedError, match=r"Relu_1 \(com.microsoft.Relu\)"):
        TensorrtRtx().compile(package, RTX, 1, tmp_path)


def test_a_standard_node_it_cannot_take_is_refused_by_name(package, tmp_path):
    graph = onnx.load(package.graph)
    graph.graph.node[-1].output[0] = "inner"
    graph.graph.node.append(helper.make_node("Multinomial", ["inner"], ["drawn"], "the_dice", sample_size=4))
    graph.graph.node.append(helper.make_node("Cast", ["drawn"], ["logits"], "back", to=TensorProto.FLOAT))
    onnx.save(graph, package.graph)
    with pytest.raises(UnsupportedError, match="the_dice"):
        TensorrtRtx().compile(package, RTX, 1, tmp_path)


def test_a_version_that_is_not_here_is_refused_with_what_to_install(package, tmp_path):
    other = replace(RTX, runtimes=(Runtime("tensorrt-rtx", ">=9,<10"),))
    with pytest.raises(UnsupportedError, match="needs an engine of tensorrt-rtx >=9,<10") as caught:
        TensorrtRtx().compile(package, other, 1, tmp_path)
    assert "pip install" in caught.value.next_step


def test_a_profile_without_a_gpu_is_refused():
    with pytest.raises(InputError, match="no compute_capability"):
        TensorrtRtx().capabilities(replace(RTX, compute_capability=None))


def test_pairs_are_symmetric_per_channel_and_leave_the_bias_float(package, tmp_path):
    candidates = {c.name: c for c in TensorrtRtx().candidates(package, RTX, calibration_of(package))}
    graph = onnx.load(candidates["explicit-s8s8"].make(tmp_path).graph).graph
    values = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    pairs = [node for node in graph.node if node.op_type.endswith("QuantizeLinear")]
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    for node in pairs:
        zero_point = values[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    for node in convolutions:
        weights = made_by[node.input[1]]
        assert weights.op_type == "DequantizeLinear"
        assert made_by[weights.input[0]].op_type == "QuantizeLinear"
        assert values[weights.input[1]].shape == (16,)
        assert values[node.input[2]].dtype == np.float32
        assert made_by[node.input[0]].op_type == "DequantizeLinear"


def test_half_precision_keeps_the_types_of_inputs_and_outputs(tmp_path):
    package = transformer(tmp_path / "t")
    candidates = TensorrtRtx().candidates(package, RTX, calibration_of(package))
    assert candidates[0].name == "half"
    (folder := tmp_path / "half").mkdir()
    graph = onnx.load(candidates[0].make(folder).graph).graph
    assert [o.type.tensor_type.elem_type for o in graph.output] == [TensorProto.FLOAT]
    sizes = {
        kind: sum(numpy_helper.to_array(w).size for w in graph.initializer if w.data_type == kind) for kind in (1, 10)
    }
    assert sizes[TensorProto.FLOAT16] > 0.99 * (sizes[TensorProto.FLOAT16] + sizes[TensorProto.FLOAT])
