"""`edgewright diff A B`: two artifacts on the same inputs, and the first operator of B whose result is off."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.divergence import Difference, Finding, Layer, difference, first, joined
from calibration.errors import InputError, UnsupportedError
from pipeline.onnx_graph import rename
from targets.device.arrays import read_arrays
from targets.device.errors import BundleError
from targets.device.golden import read_golden
from targets.device.probe import architecture
from targets.device.tensors import tensors
from targets.device.verify import find_payload, verify
from targets.int8_kernels import clips_here
from targets.onnx_divergence import compare
from targets.onnx_graph import session_errors
from targets.onnx_integers import QuantizedGraph
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
ONNX = "onnxruntime_cpu"
OPTIONS: dict[str, Any] = {"threads": 1, "optimization": "all"}
OPENVINO = "openvino"
OPENVINO_OPTIONS: dict[str, Any] = {"threads": 1, "inference_precision": "f32"}
QUANTIZED_REFERENCE = "A is quantized itself: where its quantizer changed the graph, compare both with the float model"

Feeds = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Artifact:
    """A model that can be run: what the user gave, the runner and its files and options, and where it runs.

    feeds: golden inputs of a bundle, one sample each; none where it is a file.
    """

    given: Path
    runner: str
    folder: Path
    files: tuple[str, ...]
    options: dict[str, Any]
    feeds: tuple[dict[str, np.ndarray], ...]
    on: str = "local"

    @property
    def emulator(self) -> list[str]:
        """The command that runs a program where this artifact runs.

        Raises InputError where it is not known, UnsupportedError where diff cannot look into it.
        """
        transport, _, processor = self.on.partition(":")
        if self.on == "local":
            return []
        if transport == "qemu" and processor:
            from targets.transport.qemu import emulated

            there = emulated(processor)
            if there.architecture != architecture():
                raise UnsupportedError(
                    f"diff does not look into processors of another architecture: {processor} is {there.architecture}",
                    f"`edgewright validate BUNDLE --on {self.on}` compares a bundle's answers there",
                )
            return list(there.emulator)
        raise InputError(f"there is no way to run an artifact on {self.on!r}", "use local or qemu:CPU")

    @property
    def saturates(self) -> bool:
        """Whether kernels may clip sums of two products to 16 bits where it runs."""
        return self.on != "local" or clips_here()

    def read(self) -> "onnx.ModelProto | RuntimeModel":
        """The graph, its weights inside. Raises InputError where it cannot be read."""
        return RuntimeModel.read(self.folder / self.files[0]) if self.runner == OPENVINO else read_onnx(self)

    def run(self, feeds: Feeds) -> list[dict[str, np.ndarray]]:
        """The artifact as it is: its outputs for each feed."""
        return tensors(self.runner, self.folder, self.files, self.options, feeds, self.emulator)


@dataclass(frozen=True)
class Comparison:
    """What `edgewright diff` says. answers: B's outputs against A's; notes: what limits what it says."""

    a: Artifact
    b: Artifact
    samples: int
    layers: tuple[Layer, ...]
    answers: Difference
    notes: tuple[str, ...]

    @property
    def culprit(self) -> Finding | None:
        """The first finding in topological order."""
        return first(self.layers)


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
            layers = _onnx_layers(reference, second, graph_b, feeds, plain_b, notes)
    except session_errors() as error:
        raise InputError(
            f"{a} does not compute what {b} does: {str(error).splitlines()[0]}", "give two artifacts of one model"
        ) from error
    answers = difference(_flat(plain_a, names), _flat(plain_b, names))
    return Comparison(first_, second, len(feeds), tuple(layers), answers, tuple(notes))


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
    """A as B is judged by it. graph: as A's file has it, and its float form; None where it is no ONNX graph, of which
    tensors can be compared by name alone. seen: of each sample, the tensors of the float form, or of A.
    """

    graph: "onnx.ModelProto | None"
    in_float: "onnx.ModelProto | None"
    seen: Feeds


def _look_into_reference(
    artifact: Artifact, graph: "onnx.ModelProto | RuntimeModel", feeds: Feeds, plain: Feeds, notes: list[str]
) -> Reference:
    if isinstance(graph, RuntimeModel):
        notes.append("A is an OpenVINO model: tensors are compared by name, and B's kernels judged by B's own graph")
        watched = watch_openvino(graph, artifact.options, feeds, artifact.emulator)
        _say_changes(notes, "A", plain, watched.found)
        return Reference(None, None, watched.by_tensor())
    seen = watch(artifact, graph, feeds)
    _say_changes(notes, "A", plain, seen)
    return Reference(graph, float_reference(graph), _expected(graph, seen))


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
    like = graph if reference.graph is None else reference.graph
    if QuantizedGraph(like).activations and like != graph:
        notes.append(QUANTIZED_REFERENCE)
    in_float = float_reference(graph) if reference.in_float is None else reference.in_float
    closed = [node.name for node in graph.graph.node if node.op_type in UNKNOWN]
    if closed:
        notes.append(f"quantized inside, where nothing is seen, and not judged: {', '.join(closed)}")
    rounded = rounded_constants(like)
    judged = compare(in_float, graph, reference.seen, seen, rounded, unknown=closed, saturates=artifact.saturates)
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
    if QuantizedGraph(reference.graph).activations:
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


def read_artifact(path: Path, on: str = "local") -> Artifact:
    """A bundle, its payload, an .onnx file, or an .xml file of OpenVINO's with its .bin. A bundle is verified first.

    Raises InputError where it is none of these, UnsupportedError where it is for another runtime; DeviceError
    where a bundle is not what it claims.
    """
    if path.is_dir():
        payload = path if (path / "manifest.json").is_file() else find_payload(path)
        manifest, _ = verify(payload)
        feeds = tuple(read_golden(payload, manifest).feeds()) if manifest.golden else ()
        if manifest.runner not in (ONNX, OPENVINO):
            raise UnsupportedError(
                f"{path}: diff looks into ONNX graphs and OpenVINO models; this bundle's is for {manifest.runner}",
                "compare what it was made from, or a bundle for onnxruntime-cpu or openvino",
            )
        return Artifact(path, manifest.runner, payload, manifest.model_files, manifest.options, feeds, on)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder", "give a bundle, an .onnx file or OpenVINO's .xml")
    if path.suffix == ".xml":
        files = path.name, path.with_suffix(".bin").name
        return Artifact(path, OPENVINO, path.parent, files, OPENVINO_OPTIONS, (), on)
    if path.suffix != ".onnx":
        raise InputError(f"{path}: not a model that can be compared", "give a bundle, an .onnx file or OpenVINO's .xml")
    return Artifact(path, ONNX, path.parent, (path.name,), OPTIONS, (), on)


def read_feeds(file: Path) -> tuple[dict[str, np.ndarray], ...]:
    """Inputs of an .npz, one sample each; arrays may be called NAME, or input.NAME as in golden.npz.

    Raises InputError where it cannot be read, or arrays have not the same number of samples.
    """
    try:
        arrays = read_arrays(file)
    except BundleError as error:
        raise InputError(error.message, "give an .npz with an array for each input, sample first") from error
    named = {name[6:]: array for name, array in arrays.items() if name.startswith("input.")} or arrays
    if len({len(array) for array in named.values()}) != 1:
        counts = ", ".join(f"{name} {len(array)}" for name, array in named.items())
        raise InputError(
            f"{file}: arrays of different numbers of samples: {counts}", "give each input the same samples"
        )
    samples = len(next(iter(named.values())))
    return tuple({name: array[i : i + 1] for name, array in named.items()} for i in range(samples))


def read_onnx(artifact: Artifact) -> "onnx.ModelProto":
    """The graph of an artifact, its weights inside. Raises InputError where it is no ONNX graph."""
    import onnx
    from google.protobuf.message import DecodeError

    file = artifact.folder / artifact.files[0]
    try:
        return onnx.load(file)
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        raise InputError(f"{file} is not a valid ONNX model: {error}", "export it again") from error


def watch(artifact: Artifact, graph: "onnx.ModelProto", feeds: Feeds) -> list[dict[str, np.ndarray]]:
    """The feeds and every tensor that can be looked at without changing which kernels run."""
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        onnx.save(tapped(graph, observable(QuantizedGraph(graph))), Path(scratch) / "model.onnx")
        seen = tensors(ONNX, Path(scratch), ["model.onnx"], artifact.options, feeds, artifact.emulator)
    return [{**feed, **sample} for feed, sample in zip(feeds, seen, strict=True)]


def _expected(graph: "onnx.ModelProto", seen: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    return in_float(graph, seen) if QuantizedGraph(graph).activations else seen


def _say_changes(notes: list[str], name: str, plain: Feeds, watched: Feeds) -> None:
    """Whether looking at inner tensors, which keeps a runtime from fusing over them, changed the answers."""
    names = sorted(plain[0].keys() & watched[0].keys())
    change = difference(_flat(plain, names), _flat(watched, names))
    if change.relative > 1e-4:
        notes.append(
            f"looking into {name} changed its answers ({change.sqnr_db:.1f} dB): its runtime fuses operators otherwise "
            "when their results are looked at"
        )


def _flat(run: Feeds, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([joined([sample[name] for sample in run]).ravel().astype(np.float64) for name in names])
