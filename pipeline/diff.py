"""`edgewright diff A B`: two artifacts on the same inputs, and the first operator of B whose result is off."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibration.divergence import Difference, Finding, Layer, difference, first, joined
from calibration.errors import InputError
from pipeline.compared import ONNX, OPTIONS, Artifact, Feeds, check_feeds, read_artifact, read_feeds, watch
from pipeline.onnx_graph import rename
from targets.device.tensors import tensors
from targets.onnx_as_pairs import in_pairs
from targets.onnx_divergence import compare
from targets.onnx_graph import session_errors
from targets.onnx_integers import QuantizedGraph
from targets.onnx_namesakes import renamed, share_names
from targets.onnx_products import UNKNOWN
from targets.onnx_reference import float_reference, in_float, rounded_constants
from targets.onnx_taps import float_names, observable, tapped
from targets.onnx_unsigned import with_unsigned_activations
from targets.openvino_divergence import alone, compare_openvino
from targets.openvino_graph import RuntimeModel
from targets.openvino_watch import explained
from targets.openvino_watch import watch as watch_openvino

if TYPE_CHECKING:
    import onnx

SCHEMA = 1
# More samples say little more of which operator is wrong, and every tensor of each is held.
SAMPLES = 8
# Of B's layers: with fewer whose weights are like A's, the two are not of one model.
ENOUGH_ALIKE = 0.5
# Operators that a note lists; all are in the JSON.
MENTIONED = 8
# What int8 may leave of the answers, dB, before operators that are not judged make it no verdict at all.
UNEXPLAINED_DB = 15.0
QUANTIZED_REFERENCE = "A is quantized itself: where its quantizer changed the graph, compare both with the float model"


@dataclass(frozen=True)
class Comparison:
    """What `edgewright diff` says.

    answers: B's outputs against A's. notes: what limits what it says. unknown: names of B's operators that were not
    found in A, and so are judged by B's own graph alone.
    """

    a: Artifact
    b: Artifact
    samples: int
    layers: tuple[Layer, ...]
    answers: Difference
    notes: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    @property
    def culprit(self) -> Finding | None:
        """The first finding in topological order."""
        return first(self.layers)

    @property
    def differs(self) -> bool:
        """Whether an operator is wrong, or the answers are and operators that may be the reason were not judged."""
        return self.culprit is not None or self.unexplained

    @property
    def unexplained(self) -> bool:
        return self.culprit is None and bool(self.unknown) and self.answers.sqnr_db < UNEXPLAINED_DB


def diff(a: Path, b: Path, given: Path | None = None, on_a: str = "local", on_b: str = "local") -> Comparison:
    """Runs both and judges each operator of B by the inputs that it really had.

    a, b: as for read_artifact; A says what each operator has to compute. given:
    .npz with the inputs, sample first; None for the golden inputs of a bundle. on_a, on_b: local, or qemu:CPU.
    Raises InputError for what cannot be compared, DeviceError as verifying and running an artifact does.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _compare(*_named_alike(read_artifact(a, on_a), read_artifact(b, on_b), Path(folder)), given)


def _compare(first_: Artifact, second: Artifact, given: Path | None) -> Comparison:
    a, b = first_.given, second.given
    feeds = read_feeds(given) if given else first_.feeds or second.feeds
    if not feeds:
        raise InputError(
            f"neither {a} nor {b} carries inputs", "give --input FILE.npz, with an array for each input, sample first"
        )
    feeds = tuple(feeds)[:SAMPLES]
    notes: list[str] = []
    graph_a, graph_b = first_.read(), second.read()
    if given:
        check_feeds(feeds, graph_a, a, given)
        check_feeds(feeds, graph_b, b, given)
    plain_a, plain_b = first_.run(feeds), second.run(feeds)
    names = sorted(plain_a[0].keys() & plain_b[0].keys())
    if not names:
        raise InputError(
            f"{a} gives {', '.join(plain_a[0])}, {b} gives {', '.join(plain_b[0])}: they have no output in common",
            "give two artifacts of one model",
        )
    for name in names:
        if plain_a[0][name].shape != plain_b[0][name].shape:
            raise InputError(
                f"{name} has the shape {list(plain_a[0][name].shape)} in {a}, {list(plain_b[0][name].shape)} in {b}",
                "give two artifacts of one model",
            )
    try:
        reference = _look_into_reference(first_, graph_a, feeds, plain_a, notes)
        if isinstance(graph_b, RuntimeModel):
            layers = _openvino_layers(reference, second, graph_b, feeds, plain_b, notes)
        else:
            reference = _under_names_of(graph_b, reference, notes)
            layers = _onnx_layers(reference, second, graph_b, feeds, plain_b, notes)
    except session_errors() as error:
        raise InputError(
            f"{a} does not compute what {b} does: {str(error).splitlines()[0]}", "give two artifacts of one model"
        ) from error
    answers = difference(_flat(plain_a, names), _flat(plain_b, names))
    return Comparison(first_, second, len(feeds), tuple(layers), answers, tuple(notes), tuple(reference.unknown))


def _named_alike(a: Artifact, b: Artifact, folder: Path) -> tuple[Artifact, Artifact]:
    """An .onnx file beside a bundle gets the names that a build gives a model's one input and its output."""
    import onnx

    file, other = (a, b) if b.feeds else (b, a)
    if file.given.suffix != ".onnx" or not other.feeds:
        return a, b
    graph = file.read()
    if isinstance(graph, RuntimeModel):
        return a, b
    weights = {tensor.name for tensor in graph.graph.initializer}
    inputs = [port.name for port in graph.graph.input if port.name not in weights]
    for own, theirs in (
        (inputs, list(other.feeds[0])),
        ([port.name for port in graph.graph.output], list(other.run(other.feeds[:1])[0])),
    ):
        if len(own) == len(theirs) == 1:
            rename(graph, own[0], theirs[0])
    onnx.save(graph, folder / "model.onnx")
    renamed = replace(file, folder=folder, files=("model.onnx",))
    return (renamed, b) if file is a else (a, renamed)


@dataclass(frozen=True)
class Reference:
    """A as B is judged by it.

    graph, in_float: as A's file has it, and its float form; None where it is no ONNX graph, of which tensors can be
    compared by name alone. seen: of each sample, the tensors of the float form, or of A. unknown: names of B's
    operators that are none of A's.
    """

    graph: "onnx.ModelProto | None"
    in_float: "onnx.ModelProto | None"
    seen: Feeds
    unknown: Sequence[str] = ()

    @property
    def quantized(self) -> bool:
        return self.graph is not None and bool(QuantizedGraph(self.graph).activations)


def _look_into_reference(
    artifact: Artifact, graph: "onnx.ModelProto | RuntimeModel", feeds: Feeds, plain: Feeds, notes: list[str]
) -> Reference:
    if isinstance(graph, RuntimeModel):
        notes.append("A is an OpenVINO model: tensors are compared by name, and B's kernels judged by B's own graph")
        watched = watch_openvino(graph, artifact.options, feeds, artifact.emulator)
        _say_changes(notes, "A", plain, watched.found)
        return Reference(None, None, watched.by_tensor())
    seen = watch(artifact, graph, feeds)
    graph = in_pairs(graph)
    _say_changes(notes, "A", plain, seen)
    return Reference(graph, float_reference(graph), _expected(graph, seen))


def _under_names_of(given: "onnx.ModelProto", reference: Reference, notes: list[str]) -> Reference:
    """A float reference under the names of an artifact where names do not say which operator is which.

    Raises InputError where hardly any of the artifact's weights are the reference's.
    """
    if reference.graph is None or reference.in_float is None or reference.quantized:
        return reference
    graph = in_pairs(given)
    # As the quantizers prepare it, and as it is: not every artifact was made of a graph that was prepared.
    forms = [reference.in_float, reference.graph]
    named = [form for form in forms if share_names(form, graph)]
    # Who writes integer operators calls what a ReLU gave by the name of what it took.
    if named and graph is given:
        return replace(reference, in_float=named[0])
    found = min((renamed(form, graph) for form in named or forms), key=lambda each: len(each.unknown))
    if not named:
        notes.append("A names its operators otherwise than B: they were found by what they read, and by their weights")
        if found.alike < ENOUGH_ALIKE:
            raise InputError(
                f"{100 * (1 - found.alike):.0f}% of B's layers have weights like none of A's",
                "give two artifacts of one model",
            )
    if found.unknown:
        more = len(found.unknown) - MENTIONED
        listed = ", ".join(found.unknown[:MENTIONED]) + (f" and {more} more" if more > 0 else "")
        notes.append(f"not found in A, and judged by B's own graph alone: {listed}")
    seen = [{found.names.get(name, name): array for name, array in sample.items()} for sample in reference.seen]
    return replace(reference, in_float=found.model, seen=seen, unknown=found.unknown)


def _onnx_layers(
    reference: Reference,
    artifact: Artifact,
    graph: "onnx.ModelProto",
    feeds: Feeds,
    plain: Feeds,
    notes: list[str],
) -> list[Layer]:
    if artifact.saturates:
        graph = with_unsigned_activations(graph)
    seen = watch(artifact, graph, feeds)
    _say_changes(notes, "B", plain, seen)
    graph = in_pairs(graph)
    like = graph if reference.graph is None else reference.graph
    if reference.quantized and like != graph:
        notes.append(QUANTIZED_REFERENCE)
    in_float = float_reference(graph) if reference.in_float is None else reference.in_float
    closed = [node.name for node in graph.graph.node if node.op_type in UNKNOWN]
    if closed:
        notes.append(f"quantized inside, where nothing is seen, and not judged: {', '.join(closed)}")
    rounded = rounded_constants(like)
    unknown = [*closed, *reference.unknown]
    judged = compare(in_float, graph, reference.seen, seen, rounded, unknown=unknown, saturates=artifact.saturates)
    notes += judged.notes
    return judged.layers


def _openvino_layers(
    reference: Reference, artifact: Artifact, graph: RuntimeModel, feeds: Feeds, plain: Feeds, notes: list[str]
) -> list[Layer]:
    watched = watch_openvino(graph, artifact.options, feeds, artifact.emulator)
    _say_changes(notes, "B", plain, watched.found)
    if watched.blurred:
        notes.append("OpenVINO rounds activations before weights of 8 bits as they come: such products are not judged")
    if reference.graph is None or reference.in_float is None:
        return explained(watched, alone(watched, reference.seen))
    if reference.quantized:
        notes.append(QUANTIZED_REFERENCE)
    rounded = rounded_constants(reference.graph)
    judged = compare_openvino(reference.in_float, watched, reference.seen, rounded, artifact.saturates)
    notes += judged.notes
    return explained(watched, judged.layers)


def layers_of(
    reference: "onnx.ModelProto", artifact: "onnx.ModelProto", feeds: Feeds, emulator: Sequence[str] = ()
) -> list[Layer]:
    """The comparison of two ONNX graphs in ONNX Runtime: `reference` as float_reference gives it, run here.

    emulator: the command by which the artifact is run. For benches and tests that hold graphs in memory.
    """
    import onnx

    runs: list[list[dict[str, np.ndarray]]] = []
    for model, names, how in (
        (reference, sorted(float_names(reference)), ()),
        (artifact, observable(QuantizedGraph(artifact)), emulator),
    ):
        with tempfile.TemporaryDirectory() as scratch:
            onnx.save(tapped(model, names), Path(scratch) / "model.onnx")
            seen = tensors(ONNX, Path(scratch), ["model.onnx"], OPTIONS, feeds, how)
        runs.append([{**feed, **sample} for feed, sample in zip(feeds, seen, strict=True)])
    return compare(reference, artifact, runs[0], runs[1]).layers


def _expected(graph: "onnx.ModelProto", seen: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    return in_float(graph, seen) if QuantizedGraph(graph).activations else seen


def _say_changes(notes: list[str], name: str, plain: Feeds, watched: Feeds) -> None:
    """Whether looking at inner tensors, which keeps a runtime from fusing over them, changed the answers."""
    change = _change(plain, watched)
    if change.relative > 1e-4:
        notes.append(
            f"looking into {name} changed its answers ({change.sqnr_db:.1f} dB): its runtime fuses operators otherwise "
            "when their results are looked at"
        )


def _change(plain: Feeds, other: Feeds) -> Difference:
    names = sorted(plain[0].keys() & other[0].keys())
    return difference(_flat(plain, names), _flat(other, names))


def _flat(run: Feeds, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([joined([sample[name] for sample in run]).ravel().astype(np.float64) for name in names])
