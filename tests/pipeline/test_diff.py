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
from tests.models import calibration_of, convolutional, inputs_of, recurrent, renamed_inside
from tests.processor import GUARD

CODE = "import sys; sys.argv[0] = 'edgewright'; from pipeline.cli import main; main()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """float.onnx, int8.onnx, wrong.onnx, whose first convolution has its weights transposed, and in.npz.

    fused.onnx is int8.onnx with integer operators.
    """
    folder = tmp_path_factory.mktemp("diff")
    package = convolutional(folder / "float")
    able = OnnxruntimeCpu().capabilities(load_profile("host"))
    for name, fused in (("int8", False), ("fused", True)):
        (folder / name).mkdir()
        scheme = StaticScheme("uint8", guard=GUARD, fused=fused)
        graph = FloatGraph(package, calibration_of(package))
        made = static("static", scheme, graph, able).as_it_is().make(folder / name)
        (folder / f"{name}.onnx").write_bytes(made.graph.read_bytes())
    (folder / "float.onnx").write_bytes(package.graph.read_bytes())
    wrong = onnx.load(folder / "int8.onnx")
    name = next(n for n in wrong.graph.node if n.op_type == "Conv").name
    own = next(n for n in onnx.load(package.graph).graph.node if n.name == name)
    tensor = next(t for t in wrong.graph.initializer if t.name == f"{own.input[1]}_quantized")
    swapped = np.ascontiguousarray(numpy_helper.to_array(tensor).swapaxes(2, 3))
    tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
    onnx.save(wrong, folder / "wrong.onnx")
    arrays = inputs_of(package, 4)
    np.savez(folder / "in.npz", **arrays)
    return folder


def wrong_operator(folder):
    """The first convolution."""
    return next(n.name for n in onnx.load(folder / "float.onnx").graph.node if n.op_type == "Conv")


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
