"""What `edgewright diff` compares: a bundle or a file, its graph, and the tensors that are seen while it runs."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.errors import InputError, UnsupportedError
from targets.device.arrays import read_arrays
from targets.device.errors import BundleError
from targets.device.golden import read_golden
from targets.device.probe import architecture
from targets.device.tensors import tensors
from targets.device.verify import find_payload, verify
from targets.int8_kernels import clips_here
from targets.onnx_as_pairs import in_pairs
from targets.onnx_integers import QuantizedGraph
from targets.onnx_taps import observable, tapped
from targets.openvino_graph import RuntimeModel

if TYPE_CHECKING:
    import onnx

ONNX = "onnxruntime_cpu"
OPTIONS: dict[str, Any] = {"threads": 1, "optimization": "all"}
OPENVINO = "openvino"
OPENVINO_OPTIONS: dict[str, Any] = {"threads": 1, "inference_precision": "f32"}

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


def check_feeds(feeds: Feeds, graph: "onnx.ModelProto | RuntimeModel", given: Path, file: Path) -> None:
    """Raises InputError where a user's inputs, read from `file`, are not what the artifact `given` takes."""
    ports = dict(_ports(graph))
    for name, (kind, shape) in ports.items():
        if name not in feeds[0]:
            raise InputError(
                f"{file}: there is no array {name}, which {given} takes; it has {', '.join(feeds[0])}",
                f"give an array for each of {', '.join(ports)}, sample first",
            )
        array = feeds[0][name]
        if array.dtype.name != kind:
            raise InputError(f"{file}: {name} is {array.dtype.name}, {given} takes {kind}", f"save it as {kind}")
        if len(array.shape) != len(shape) or any(d not in (None, n) for d, n in zip(shape, array.shape, strict=True)):
            wanted = ", ".join("any" if d is None else str(d) for d in shape)
            raise InputError(
                f"{file}: a sample of {name} has the shape {list(array.shape)}, {given} takes [{wanted}]",
                "give samples in the shape of the model's input, sample first",
            )
    for name in feeds[0]:
        if not all(np.isfinite(feed[name]).all() for feed in feeds):
            raise InputError(f"{file}: {name} has values that are not finite", "give samples without NaN and Inf")


def _ports(graph: "onnx.ModelProto | RuntimeModel") -> "Iterator[tuple[str, tuple[str, list[int | None]]]]":
    """Name -> element type and shape of each input; None for what is not fixed."""
    if isinstance(graph, RuntimeModel):
        for port in graph.model.inputs:
            shape = [d.get_length() if d.is_static else None for d in port.get_partial_shape()]
            yield port.get_any_name(), (np.dtype(port.get_element_type().to_dtype()).name, shape)
        return
    from onnx.helper import tensor_dtype_to_np_dtype

    weights = {tensor.name for tensor in graph.graph.initializer}
    for port in graph.graph.input:
        kind = port.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        if port.name not in weights:
            yield port.name, (tensor_dtype_to_np_dtype(kind.elem_type).name, shape)


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

    made = {*(name for node in graph.graph.node for name in node.output)}
    names = [name for name in observable(QuantizedGraph(in_pairs(graph))) if name in made]
    with tempfile.TemporaryDirectory() as scratch:
        onnx.save(tapped(graph, names), Path(scratch) / "model.onnx")
        seen = tensors(ONNX, Path(scratch), ["model.onnx"], artifact.options, feeds, artifact.emulator)
    return [{**feed, **sample} for feed, sample in zip(feeds, seen, strict=True)]
