"""`edgewright diff` on OpenVINO models: nothing in sound ones, and planted faults at their operators."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from openvino import opset13

from calibration.divergence import first
from pipeline.diff import diff
from targets.onnx_ranges import open_session
from targets.onnx_reference import float_reference
from targets.onnx_taps import float_names
from targets.openvino import Openvino
from targets.openvino_divergence import alone, compare_openvino
from targets.openvino_format import save_openvino
from targets.openvino_graph import RuntimeModel
from targets.openvino_taps import GIVEN
from targets.openvino_watch import watch
from targets.profile import load_profile
from tests.models import calibration_of, convolutional, inputs_of, transformer

OPTIONS = {"threads": 1, "inference_precision": "f32"}
SAMPLES = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Model and route -> folder with float.onnx, model.xml and in.npz."""
    folders = {}
    for kind in (convolutional, transformer):
        root = tmp_path_factory.mktemp(kind.__name__)
        package = kind(root / "float")
        host = load_profile("host")
        for candidate in Openvino().candidates(package, host, calibration_of(package)):
            folder = root / candidate.name
            for path in (folder, folder / "made"):
                path.mkdir()
            Openvino().compile(candidate.as_it_is().make(folder / "made"), host, 1, folder)
            (folder / "float.onnx").write_bytes(package.graph.read_bytes())
            np.savez(folder / "in.npz", **inputs_of(package, SAMPLES))
            folders[kind.__name__, candidate.name.removesuffix("-unsaturated")] = folder
    return folders


@pytest.fixture(scope="module")
def convolutions(made):
    """The reference, its tensors, and an OpenVINO model of it that was run."""
    folder = made["convolutional", "nncf"]
    with np.load(folder / "in.npz") as arrays:
        feeds = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(SAMPLES)]
    reference = float_reference(onnx.load(folder / "float.onnx"))
    names = sorted(float_names(reference))
    session = open_session(reference, names)
    expected = [feed | dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
    return reference, expected, watch(RuntimeModel.read(folder / "model.xml"), OPTIONS, feeds)


ROUTES = [
    *(("convolutional", name) for name in ("nncf", "nncf-mixed", "static-by-sign", "static-u8s8")),
    *(("transformer", name) for name in ("static-by-sign", "static-u8s8-products", "nncf-weights")),
]


@pytest.mark.parametrize("route", ROUTES, ids="-".join)
def test_a_sound_model_raises_no_alarm(made, route):
    found = diff(made[route] / "float.onnx", made[route] / "model.xml", made[route] / "in.npz")
    assert found.culprit is None
    pairs = [(s.own.sqnr_db, s.expected_db) for s in found.layers if s.own and s.expected_db is not None]
    # What an operator adds by itself is its own rounding.
    assert all(own > expected - 1 for own, expected in pairs)
    assert pairs or route[1] == "nncf-weights"


def test_integers_are_what_was_given_to_round(convolutions):
    """Cut apart, each part gives what the next one's integers are the rounding of."""
    _, _, watched = convolutions
    graph = watched.graph
    assert graph.fakes
    for op, fake in graph.fakes.items():
        assert fake.how is not None
        step = float(fake.how.scale.max())
        low, high = watched.values(op).min() - step / 2, watched.values(op).max() + step / 2
        assert np.abs(np.clip(watched.targets(op), low, high) - watched.values(op)).max() < 1.5 * step


def test_every_tensor_keeps_its_name(convolutions):
    reference, expected, watched = convolutions
    judged = compare_openvino(reference, watched, expected)
    assert judged.notes == []
    layers = judged.layers
    assert {layer.tensor for layer in layers} <= expected[0].keys()
    assert [layer.tensor for layer in alone(watched, expected)] == [layer.tensor for layer in layers]


@pytest.mark.parametrize("judge", ["by A", "by itself"])
def test_a_wrong_kernel_is_named(convolutions, judge):
    """As if a kernel had given integers some steps away from what it should."""
    reference, expected, watched = convolutions
    op, fake = next((op, fake) for op, fake in watched.graph.fakes.items() if "pixel_values" not in fake.sources)
    off = 5 * float(fake.how.scale.max())
    found = [s | {GIVEN + op: np.where(s[GIVEN + op] > 0, s[GIVEN + op] - off, 0)} for s in watched.found]
    spoilt = replace(watched, found=found)
    if judge == "by A":
        layers = compare_openvino(reference, spoilt, expected, saturates=False).layers
    else:
        layers = alone(spoilt, expected)
    finding = first(layers)
    assert finding is not None
    assert finding.kind == "values"
    assert finding.tensor in fake.sources
    if judge == "by A":
        index = [node.output[0] for node in reference.graph.node].index(finding.tensor)
        assert finding.op == [n.name for n in reference.graph.node[: index + 1] if n.op_type == "Conv"][-1]


def change(graph, node, position, how):
    """Puts another Constant in place of the one behind an input of a node."""
    port = graph.nodes[node].input(position)
    while (source := port.get_source_output().get_node()).get_type_name() != "Constant":
        port = source.input(0)
    data = source.get_data()
    port.replace_source_output(opset13.constant(how(data).astype(data.dtype)).output(0))


def transposed(graph):
    name = next(n for n, node in graph.nodes.items() if node.get_type_name() == "Convolution")
    change(graph, name, 1, lambda weights: weights.swapaxes(2, 3))
    return name.removesuffix("/WithoutBiases")


def narrowed(graph):
    name = list(graph.fakes)[1]
    for position in (1, 2, 3, 4):
        change(graph, name, position, lambda end: end / 4)
    return name


def without_bias(graph):
    name = next(n for n in graph.nodes if n.removesuffix("/WithoutBiases") != n).removesuffix("/WithoutBiases")
    change(graph, name, 1, np.zeros_like)
    return name


@pytest.mark.parametrize(
    ("spoil", "kind"), [(transposed, "layout"), (narrowed, "saturation"), (without_bias, "fusion")]
)
def test_a_planted_fault_is_pinned_to_its_operator(made, tmp_path, spoil, kind):
    folder = made["convolutional", "nncf"]
    graph = RuntimeModel.read(folder / "model.xml")
    op = spoil(graph)
    save_openvino(graph.model, tmp_path)
    found = diff(folder / "float.onnx", tmp_path / "model.xml", folder / "in.npz")
    assert found.culprit is not None
    assert (found.culprit.op, found.culprit.kind) == (op, kind)


def test_other_pairs_are_compared_by_name(made):
    folder = made["convolutional", "nncf"]
    same = diff(folder / "model.xml", folder / "model.xml", folder / "in.npz")
    assert (same.culprit, same.answers.max_error) == (None, 0)
    assert all(layer.total is not None and layer.total.max_error == 0 for layer in same.layers)
    other = diff(folder / "model.xml", made["convolutional", "static-u8s8"] / "model.xml", folder / "in.npz")
    assert other.culprit is None
    assert sum(layer.total is not None for layer in other.layers) > 2
    turned = diff(folder / "model.xml", folder / "float.onnx", folder / "in.npz")
    assert turned.culprit is None
    assert any("by name" in note for note in turned.notes)
