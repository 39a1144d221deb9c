"""Which operator is which where names say nothing."""

import numpy as np
import onnx
import pytest

from targets.onnx_as_pairs import in_pairs
from targets.onnx_float import FloatGraph
from targets.onnx_namesakes import renamed, share_names
from targets.onnx_quantization import StaticScheme, static
from targets.onnx_reference import float_reference
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from tests.models import calibration_of, convolutional, recurrent, renamed_inside, transformer
from tests.processor import GUARD

NETWORKS = [convolutional, transformer, recurrent]


def pair(network, folder, *, fused=False):
    """A float graph, and what is quantized of it."""
    package = network(folder / "float")
    (folder / "made").mkdir()
    able = OnnxruntimeCpu().capabilities(load_profile("host"))
    scheme = StaticScheme("uint8", guard=GUARD, fused=fused)
    made = static("static", scheme, FloatGraph(package, calibration_of(package)), able).as_it_is().make(folder / "made")
    return float_reference(onnx.load(package.graph)), in_pairs(onnx.load(made.graph))


def by_place(model):
    """Which operator gives what to which, by names."""
    return {(node.op_type, node.name, tuple(node.output)) for node in model.graph.node}


@pytest.mark.parametrize("network", NETWORKS)
def test_an_artifact_shares_the_names_of_what_it_was_made_from(network, tmp_path):
    reference, artifact = pair(network, tmp_path)
    assert share_names(reference, artifact)
    assert not share_names(renamed_inside(reference), artifact)
    assert not share_names(renamed_inside(reference, tensors=False), artifact)
    assert not share_names(renamed_inside(reference, nodes=False), artifact)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_all_operators_are_found_whatever_they_are_called(network, fused, tmp_path):
    reference, artifact = pair(network, tmp_path, fused=fused)
    as_it_is = renamed(reference, artifact)
    assert as_it_is.unknown == []
    otherwise = renamed(renamed_inside(reference), artifact)
    assert otherwise.unknown == []
    known = by_place(artifact)
    assert by_place(otherwise.model) & known == by_place(as_it_is.model) & known


def test_alike_operators_are_told_apart_by_their_weights(tmp_path):
    """Queries, keys and values are products of one tensor by matrices of one shape, here in another order."""
    reference, artifact = pair(transformer, tmp_path)
    shuffled = renamed_inside(reference)
    ready = {port.name for port in shuffled.graph.input} | {tensor.name for tensor in shuffled.graph.initializer}
    pending, order = list(shuffled.graph.node), []
    while pending:
        # Always the last that can be next.
        able = [i for i, node in enumerate(pending) if all(name in ready for name in node.input if name)]
        order.append(pending.pop(able[-1]))
        ready.update(order[-1].output)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(order)
    found = renamed(shuffled, artifact)
    assert found.unknown == []
    assert by_place(found.model) == by_place(renamed(renamed_inside(reference), artifact).model)


def test_behind_what_is_not_found_weights_tell(tmp_path):
    """One exporter writes a mean over pixels as GlobalAveragePool and Flatten, another as ReduceMean."""
    reference, artifact = pair(convolutional, tmp_path)
    other = renamed_inside(reference)
    mean = next(node for node in other.graph.node if node.op_type == "ReduceMean")
    at = list(other.graph.node).index(mean)
    pool = onnx.helper.make_node("GlobalAveragePool", mean.input[:1], ["pooled"], "pool")
    flat = onnx.helper.make_node("Flatten", ["pooled"], list(mean.output), "flat")
    other.graph.node.remove(mean)
    other.graph.node.insert(at, pool)
    other.graph.node.insert(at + 1, flat)
    found = renamed(other, artifact)
    assert [name.partition("_")[0] for name in found.unknown] == ["ReduceMean"]
    head = next(node for node in artifact.graph.node if node.op_type == "Gemm")
    assert head.name in {node.name for node in found.model.graph.node}


def test_other_weights_are_not_taken_for_its_own(tmp_path):
    reference, artifact = pair(convolutional, tmp_path)
    other = renamed_inside(reference)
    rng = np.random.default_rng(5)
    for tensor in other.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            new = rng.normal(size=array.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
    mean = next(node for node in other.graph.node if node.op_type == "ReduceMean")
    mean.op_type = "ReduceMax"
    # What stands before it is known by its place; what comes behind it as the only one with weights of its shape.
    found = renamed(other, artifact)
    assert [name.partition("_")[0] for name in found.unknown] == ["ReduceMean"]
    assert found.alike == 0
    assert renamed(renamed_inside(reference), artifact).alike == 1
