"""`edgewright diff`: what can be compared, what is printed, and with which code it ends."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.errors import InputError, UnsupportedError
from pipeline.diff import diff, read_artifact, read_feeds
from pipeline.onnx_graph import rename
from pipeline.report.divergence import headline, print_divergence, record, render
from targets.onnx_float import FloatGraph
from targets.onnx_quantization import StaticScheme, static
from targets.onnx_ranges import answers
from targets.onnx_unsigned import with_unsigned_activations
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from tests import models
from tests.bundles import make_bundle
from tests.models import calibration_of, convolutional, inputs_of, recurrent
from tests.pipeline.diffs import write_artifacts, wrong_operator

CODE = "import sys; sys.argv[0] = 'edgewright'; from pipeline.cli import main; main()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diff")
    write_artifacts(folder)
    return folder


def test_int8_against_float(folder):
    found = diff(folder / "float.onnx", folder / "int8.onnx", folder / "in.npz")
    assert found.culprit is None
    assert found.answers.sqnr_db > 15
    pairs = [(s.own.sqnr_db, s.expected_db) for s in found.layers if s.own and s.expected_db is not None]
    assert len(pairs) > 5
    # What an operator adds by itself is its own rounding.
    assert all(abs(own - expected) < 1 for own, expected in pairs)


def test_wrong_weights_are_named_with_their_operator(folder):
    found = diff(folder / "float.onnx", folder / "wrong.onnx", folder / "in.npz")
    assert found.culprit is not None
    assert (found.culprit.kind, found.culprit.op) == ("layout", wrong_operator(folder))
    # Each operator is judged by its own inputs: those behind it are right.
    assert sum(bool(layer.findings) for layer in found.layers) == 1


def test_an_artifact_against_itself(folder):
    found = diff(folder / "int8.onnx", folder / "int8.onnx", folder / "in.npz")
    assert found.culprit is None
    assert found.answers.max_error == 0


def test_a_bundle_brings_its_inputs(tmp_path):
    bundle = make_bundle(tmp_path)
    for path in (bundle, bundle.parent, bundle / "payload"):
        found = diff(path, bundle)
        assert (found.culprit, found.samples) == (None, 6)


def test_a_file_may_have_other_names_than_the_bundle_made_of_it(tmp_path):
    bundle = make_bundle(tmp_path)
    graph = onnx.load(bundle / "payload" / "model.onnx")
    for port, name in ((graph.graph.input[0], "x"), (graph.graph.output[0], "out")):
        rename(graph, port.name, name)
    onnx.save(graph, tmp_path / "own.onnx")
    for pair in ((tmp_path / "own.onnx", bundle), (bundle, tmp_path / "own.onnx")):
        found = diff(*pair)
        assert (found.culprit, found.answers.max_error) == (None, 0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((2, 1, 12, 12), np.float32)}, "there is no array pixel_values"),
        ({"pixel_values": np.ones((2, 1, 12, 12))}, "is float64, .* takes float32"),
        (
            {"pixel_values": np.ones((2, 1, 12, 11), np.float32)},
            r"has the shape \[1, 1, 12, 11\], .* takes \[any, 1, 12",
        ),
        ({"pixel_values": np.ones((2, 12, 12), np.float32)}, r"has the shape \[1, 12, 12\]"),
        ({"pixel_values": np.full((2, 1, 12, 12), np.nan, np.float32)}, "not finite"),
    ],
)
def test_inputs_that_are_not_the_models_are_refused(folder, tmp_path, arrays, message):
    np.savez(tmp_path / "in.npz", **arrays)
    with pytest.raises(InputError, match=message):
        diff(folder / "float.onnx", folder / "int8.onnx", tmp_path / "in.npz")


def test_two_models_are_no_pair(folder, tmp_path):
    other = onnx.load(folder / "int8.onnx")
    head = next(node for node in other.graph.node if node.op_type == "Gemm")
    shape = numpy_helper.from_array(np.int64([-1, 8]), "halves")
    other.graph.initializer.append(shape)
    other.graph.node.insert(
        list(other.graph.node).index(head), onnx.helper.make_node("Reshape", [head.input[0], "halves"], ["half"])
    )
    weights = numpy_helper.from_array(np.ones((8, 4), np.float32), "half_weights")
    other.graph.initializer.append(weights)
    del head.attribute[:]
    head.input[:] = ["half", "half_weights"]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="logits has the shape"):
        diff(folder / "float.onnx", tmp_path / "other.onnx", folder / "in.npz")


def test_sums_of_signed_activations_that_overflow_on_an_older_processor_are_named(tmp_path):
    """There the runtime makes them unsigned: looked at as they are, they would go through kernels that clip nothing."""
    package = convolutional(tmp_path / "float")
    heavy = onnx.load(package.graph)
    for tensor in heavy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(np.sign(array) * np.abs(array).mean(), tensor.name))
    onnx.save(heavy, package.graph)
    able = OnnxruntimeCpu().capabilities(load_profile("host"))
    (tmp_path / "made").mkdir()
    route = static("static", StaticScheme("int8"), FloatGraph(package, calibration_of(package)), able).as_it_is()
    made = route.make(tmp_path / "made").graph
    np.savez(tmp_path / "in.npz", **inputs_of(package, 4))
    found = diff(package.graph, made, tmp_path / "in.npz", on_b="qemu:Haswell")
    assert found.culprit is not None
    assert found.culprit.kind == "saturation"
    # It is looked at on the kernels that it ships with, so that looking changes nothing.
    assert found.notes == ()
    signed, unsigned = onnx.load(made), with_unsigned_activations(onnx.load(made))
    assert np.array_equal(answers(signed, [inputs_of(package, 4)]), answers(unsigned, [inputs_of(package, 4)]))


def write_dense(file, width, *, scaled=False):
    """Two layers, [1, 4] -> [1, 2], over `width` hidden values, which may be multiplied with factors of their own."""
    rng = np.random.default_rng(0)
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w", "b"], ["hidden"], "widen"),
        onnx.helper.make_node("MatMul", ["scaled" if scaled else "hidden", "v"], ["y"], "narrow"),
    ]
    if scaled:
        nodes.insert(1, onnx.helper.make_node("Mul", ["hidden", "s"], ["scaled"], "smooth"))
    shapes = {"w": (4, width), "b": (width,), "v": (width, 2)} | ({"s": (width,)} if scaled else {})
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, s]) for n, s in (("x", 4), ("y", 2))]
    graph = onnx.helper.make_graph(nodes, "dense", ports[:1], ports[1:], weights)
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)]), file)


@pytest.mark.parametrize(("width", "other", "scaled"), [(3, 256, False), (256, 3, False), (1, 5, False), (3, 5, True)])
def test_two_models_whose_constants_have_other_shapes_are_no_pair(tmp_path, width, other, scaled):
    write_dense(tmp_path / "a.onnx", width)
    write_dense(tmp_path / "b.onnx", other, scaled=scaled)
    np.savez(tmp_path / "in.npz", x=np.ones((2, 4), np.float32))
    with pytest.raises(InputError, match="does not compute what"):
        diff(tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "in.npz")


def test_an_lstm_that_quantizes_inside_is_not_judged(tmp_path):
    package = recurrent(tmp_path / "float")
    (tmp_path / "made").mkdir()
    route = OnnxruntimeCpu().candidates(package, load_profile("host"), calibration_of(package))[0]
    made = route.make(tmp_path / "made")
    np.savez(tmp_path / "in.npz", **inputs_of(package, 4))
    found = diff(package.graph, made.graph, tmp_path / "in.npz")
    assert found.culprit is None
    assert any("not judged: lstm_quant" in note for note in found.notes)
    assert headline(found) == "nothing that is judged differs by more than expected"


def test_page_and_json_name_the_operator(folder, capsys):
    found = diff(folder / "float.onnx", folder / "wrong.onnx", folder / "in.npz")
    assert found.culprit is not None
    page = render(found)
    assert found.culprit.op in page
    assert page.count("<tr>") == len(found.layers) + 1
    written = json.loads(json.dumps(record(found), allow_nan=False))
    assert written["first"]["op"] == found.culprit.op
    assert len(written["layers"]) == len(found.layers)
    print_divergence(found)
    assert f"{found.culprit.op} (layout)" in capsys.readouterr().out


def test_outputs_of_other_shapes_are_no_pair(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "CLASSES", 7)
    other = convolutional(tmp_path / "other")
    with pytest.raises(InputError, match=r"logits has the shape \[1, 4\] in .*, \[1, 7\] in "):
        diff(folder / "float.onnx", other.graph, folder / "in.npz")


def test_what_cannot_be_compared_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="carries inputs"):
        diff(folder / "float.onnx", folder / "int8.onnx")
    with pytest.raises(InputError, match="no such file"):
        read_artifact(tmp_path / "gone")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"broken\.onnx"):
        diff(tmp_path / "broken.onnx", folder / "int8.onnx", folder / "in.npz")
    np.savez(tmp_path / "uneven.npz", a=np.zeros((2, 1)), b=np.zeros((3, 1)))
    with pytest.raises(InputError, match="different numbers"):
        read_feeds(tmp_path / "uneven.npz")
    with pytest.raises(UnsupportedError, match="tensorrt"):
        read_artifact(make_bundle(tmp_path, runner="tensorrt_rtx"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["float.onnx", "int8.onnx", "--input", "in.npz"], 0, ""),
        (["float.onnx", "wrong.onnx", "--input", "in.npz"], 3, ""),
        (["float.onnx", "int8.onnx", "--input", "gone.npz"], 2, "gone.npz"),
        (["float.onnx", "int8.onnx", "--input", "in.npz", "--on", "moon"], 2, "'moon'"),
        (["float.onnx", "int8.onnx", "--input", "in.npz", "--on", "qemu:cortex-a76"], 5, "another architecture"),
        (["float.onnx", "spoilt"], 4, "model.onnx"),
    ],
)
def test_exit_codes(folder, tmp_path_factory, repository, arguments, code, words):
    if "spoilt" in arguments and not (folder / "spoilt").exists():
        payload = make_bundle(folder / "spoilt") / "payload"
        (payload / "model.onnx").write_bytes(b"another")
    done = subprocess.run(
        [sys.executable, "-c", CODE, "diff", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
