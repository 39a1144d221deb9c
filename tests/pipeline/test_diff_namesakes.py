"""`edgewright diff` where names or operators are others: a float model of another exporter, and integer operators."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.errors import InputError
from pipeline.diff import diff
from pipeline.report.divergence import headline, record
from tests.models import renamed_inside
from tests.pipeline.diffs import write_artifacts, wrong_operator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diff")
    write_artifacts(folder)
    return folder


@pytest.mark.parametrize(("nodes", "tensors"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("made", ["int8.onnx", "fused.onnx"])
def test_a_file_of_another_exporter(folder, tmp_path, made, nodes, tensors):
    other = renamed_inside(onnx.load(folder / "float.onnx"), nodes=nodes, tensors=tensors)
    onnx.save(other, tmp_path / "other.onnx")
    found = diff(tmp_path / "other.onnx", folder / made, folder / "in.npz")
    assert found.culprit is None
    assert [note for note in found.notes if "names its operators otherwise" in note]
    as_named = diff(folder / "float.onnx", folder / made, folder / "in.npz")
    assert [(s.tensor, s.own, s.total) for s in found.layers] == [(s.tensor, s.own, s.total) for s in as_named.layers]


def test_wrong_weights_are_named_whatever_the_file_calls_them(folder, tmp_path):
    onnx.save(renamed_inside(onnx.load(folder / "float.onnx")), tmp_path / "other.onnx")
    found = diff(tmp_path / "other.onnx", folder / "wrong.onnx", folder / "in.npz")
    assert found.culprit is not None
    assert (found.culprit.kind, found.culprit.op) == ("layout", wrong_operator(folder))


def test_what_is_missing_in_the_other_exporters_file_is_not_judged(folder, tmp_path):
    """A has another mean than B: B's is not found, its answers differ, and no operator is blamed for it."""
    other = renamed_inside(onnx.load(folder / "float.onnx"))
    mean = next(node for node in other.graph.node if node.op_type == "ReduceMean")
    mean.op_type = "ReduceMax"
    onnx.save(other, tmp_path / "other.onnx")
    found = diff(tmp_path / "other.onnx", folder / "int8.onnx", folder / "in.npz")
    assert (found.culprit, found.differs, found.unexplained) == (None, True, True)
    assert [name.partition("_")[0] for name in found.unknown] == ["ReduceMean"]
    assert headline(found).startswith("the answers differ by more than int8 explains; 1 operator of B")
    assert record(found)["differs"]
    assert record(found)["not_judged"] == list(found.unknown)


def test_weights_of_another_model_are_no_pair(folder, tmp_path):
    other = renamed_inside(onnx.load(folder / "float.onnx"))
    rng = np.random.default_rng(5)
    for tensor in other.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(rng.normal(size=array.shape).astype(np.float32), tensor.name))
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="100% of B's layers have weights like none of A's"):
        diff(tmp_path / "other.onnx", folder / "int8.onnx", folder / "in.npz")


def test_integer_operators_are_looked_into(folder):
    """Each as the pairs of the same scheme, whose numbers are the same."""
    found = diff(folder / "float.onnx", folder / "fused.onnx", folder / "in.npz")
    pairs = diff(folder / "float.onnx", folder / "int8.onnx", folder / "in.npz")
    assert (found.culprit, found.notes) == (None, ())
    assert [s.total for s in found.layers] == [s.total for s in pairs.layers]


def test_two_artifacts_of_integer_operators(folder):
    found = diff(folder / "fused.onnx", folder / "fused.onnx", folder / "in.npz")
    assert (found.culprit, found.answers.max_error) == (None, 0)


def test_wrong_weights_of_an_integer_operator_are_named(folder, tmp_path):
    wrong = onnx.load(folder / "fused.onnx")
    node = [node for node in wrong.graph.node if node.op_type == "QLinearConv"][1]
    tensor = next(t for t in wrong.graph.initializer if t.name == node.input[3])
    swapped = np.ascontiguousarray(numpy_helper.to_array(tensor).swapaxes(2, 3))
    tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    found = diff(folder / "float.onnx", tmp_path / "wrong.onnx", folder / "in.npz")
    assert found.culprit is not None
    assert (found.culprit.kind, found.culprit.op) == ("layout", node.name)
    assert sum(bool(layer.findings) for layer in found.layers) == 1


def test_a_wrong_scale_of_an_integer_operator_is_named(folder, tmp_path):
    wrong = onnx.load(folder / "fused.onnx")
    node = [node for node in wrong.graph.node if node.op_type == "QLinearConv"][1]
    given = next(t for t in wrong.graph.initializer if t.name == node.input[1])
    wrong.graph.initializer.append(numpy_helper.from_array(2 * numpy_helper.to_array(given), "twice"))
    node.input[1] = "twice"
    onnx.save(wrong, tmp_path / "wrong.onnx")
    found = diff(folder / "float.onnx", tmp_path / "wrong.onnx", folder / "in.npz")
    assert found.culprit is not None
    assert found.culprit.kind == "scale"
    assert found.culprit.op.startswith(f"{node.name}::")


def test_wrong_attributes_of_an_integer_operator_are_named(folder, tmp_path):
    wrong = onnx.load(folder / "fused.onnx")
    node = [node for node in wrong.graph.node if node.op_type == "QLinearConv"][1]
    for attribute, value in (("dilations", [2, 2]), ("pads", [2, 2, 2, 2])):
        kept = [a for a in node.attribute if a.name != attribute]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(attribute, value)])
    onnx.save(wrong, tmp_path / "wrong.onnx")
    for name in ("float.onnx", "other.onnx"):
        onnx.save(renamed_inside(onnx.load(folder / "float.onnx")), tmp_path / "other.onnx")
        a = folder / name if (folder / name).is_file() else tmp_path / name
        found = diff(a, tmp_path / "wrong.onnx", folder / "in.npz")
        assert found.culprit is not None
        assert found.culprit.op == node.name
        # What is left out stands for the standard's default, and is no difference.
        assert "dilations [2, 2] for" in found.culprit.why
        assert "auto_pad" not in found.culprit.why
