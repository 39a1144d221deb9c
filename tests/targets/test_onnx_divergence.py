"""What quantizers do on purpose raises no alarm: other routes, and weights that were changed before."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline.diff import diff
from targets.onnx_equalization import equalized
from targets.onnx_float import FloatGraph
from targets.onnx_integers import QuantizedGraph
from targets.onnx_quantization import StaticScheme, dynamic, static
from targets.onnx_reference import float_reference
from targets.onnx_rescaling import as_rounded
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from tests.models import calibration_of, convolutional, inputs_of, transformer
from tests.processor import GUARD


@pytest.fixture(params=[convolutional, transformer])
def package(request, tmp_path):
    made = request.param(tmp_path / "float")
    np.savez(tmp_path / "in.npz", **inputs_of(made, 4))
    return made


def quantize(package, folder, route, model=None):
    """The file that a route makes of a package's graph, or of another in its place."""
    able = OnnxruntimeCpu().capabilities(load_profile("host"))
    graph = FloatGraph(package, calibration_of(package), model)
    if route == "dynamic":
        candidate = dynamic("dynamic", graph, able, GUARD)
    else:
        operators = ("MatMul", "Gemm", "Conv", "Gather")
        candidate = static("static", StaticScheme("uint8", operators, guard=GUARD), graph, able).as_it_is()
    folder.mkdir()
    return candidate.make(folder).graph


def trained(model):
    """As if training had gone on: each weight moves by a fifth of what they are on average."""
    rng = np.random.default_rng(7)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            moved = array + 0.2 * array.std() * rng.normal(size=array.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return model


def test_the_dynamic_route_raises_no_alarm(package, tmp_path):
    found = diff(package.graph, quantize(package, tmp_path / "made", "dynamic"), tmp_path / "in.npz")
    assert found.culprit is None


def test_of_weights_that_were_trained_a_note_is_left(package, tmp_path):
    other = trained(float_reference(onnx.load(package.graph)))
    made = quantize(package, tmp_path / "made", "static", other)
    found = diff(package.graph, made, tmp_path / "in.npz")
    assert found.culprit is None
    assert any("trained further" in note for note in found.notes)
    same = diff(package.graph, quantize(package, tmp_path / "plain", "static"), tmp_path / "in.npz")
    assert not any("trained further" in note for note in same.notes)


def test_a_fault_in_a_trained_artifact_is_still_named(tmp_path):
    package = convolutional(tmp_path / "float")
    np.savez(tmp_path / "in.npz", **inputs_of(package, 4))
    other = trained(float_reference(onnx.load(package.graph)))
    model = onnx.load(quantize(package, tmp_path / "made", "static", other))
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    del node.input[2]
    onnx.save(model, tmp_path / "wrong.onnx")
    found = diff(package.graph, tmp_path / "wrong.onnx", tmp_path / "in.npz")
    assert found.culprit is not None
    assert (found.culprit.op, found.culprit.kind) == (node.name, "fusion")


def test_unrelated_weights_are_no_training(tmp_path):
    package = convolutional(tmp_path / "float")
    np.savez(tmp_path / "in.npz", **inputs_of(package, 4))
    other = float_reference(onnx.load(package.graph))
    for tensor in other.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 4:
            drawn = np.random.default_rng(1).normal(size=array.shape) * array.std()
            tensor.CopyFrom(numpy_helper.from_array(drawn.astype(np.float32), tensor.name))
    found = diff(package.graph, quantize(package, tmp_path / "made", "static", other), tmp_path / "in.npz")
    assert found.culprit is not None
    assert found.culprit.kind == "weights"


def test_equalization_is_done_again_only_where_it_was_done(tmp_path):
    package = convolutional(tmp_path / "float")
    reference = float_reference(onnx.load(package.graph))
    even = equalized(reference)
    assert even is not None
    plain = QuantizedGraph(onnx.load(quantize(package, tmp_path / "plain", "static")))
    assert as_rounded(reference, plain) is None
    changed = as_rounded(reference, QuantizedGraph(onnx.load(quantize(package, tmp_path / "made", "static", even))))
    assert changed is not None
    for ours, theirs in zip(changed.graph.initializer, even.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(ours), numpy_helper.to_array(theirs))
