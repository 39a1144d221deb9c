"""What a back end is: a stateless object, one runtime, one file."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet
    from targets.profile import DeviceProfile

Status = Literal["ready", "built", "deferred_build"]


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output. `shape` holds ints and names of symbolic dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ModelPackage:
    """A model as ONNX, with what is needed to run it. Saved as package.json in `folder`, beside the files it names.

    graphs: name -> file; a single-graph model has the one name "model". A route of a target may leave its runtime's own
        format here (OpenVINO's .xml, with its .bin in external_data): no other target then takes the package.
    states: a KV cache and the like: {input, output, dtype, shape} each; empty for a stateless model.
    dims: symbolic dimension -> (min, opt, max).
    driver: how the graphs are called; a file of targets/device/drivers.
    preprocessing: settings for the file of targets/device/preprocess that its "kind" names.
    assets: tokenizer and other files that travel with the model.
    precision: "fp32", "fp16" or "int8".
    architecture: "convolutional", "recurrent" or "transformer"; what placements and rules may depend on.
    macs, parameters: of one sample.
    notes: what a quantization route decided on its way, for the report.
    """

    folder: Path
    graphs: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: dict[str, tuple[int, int, int]]
    preprocessing: dict[str, Any]
    precision: str
    architecture: str
    macs: int
    parameters: int
    driver: str = "single"
    states: tuple[dict[str, Any], ...] = ()
    external_data: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    torch_description: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def graph(self) -> Path:
        """The file of a single-graph model."""
        return self.folder / self.graphs["model"]

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the package but package.json, relative to the folder."""
        return (*self.graphs.values(), *self.external_data, *self.assets)

    def copy_to(self, folder: Path) -> "ModelPackage":
        """The same package, saved in another folder with its files."""
        copy_files(self.folder, self.files, folder)
        copied = replace(self, folder=folder)
        copied.save()
        return copied

    def save(self) -> None:
        record = asdict(self) | {"schema": 1}
        del record["folder"]
        (self.folder / "package.json").write_text(json.dumps(record, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> "ModelPackage":
        record = json.loads((folder / "package.json").read_text())
        specs = {
            key: tuple(TensorSpec(s["name"], s["dtype"], tuple(s["shape"])) for s in record[key])
            for key in ("inputs", "outputs")
        }
        return cls(
            folder=folder,
            graphs=record["graphs"],
            **specs,
            dims={k: (v[0], v[1], v[2]) for k, v in record["dims"].items()},
            preprocessing=record["preprocessing"],
            precision=record["precision"],
            architecture=record["architecture"],
            macs=record["macs"],
            parameters=record["parameters"],
            driver=record["driver"],
            states=tuple(record["states"]),
            external_data=tuple(record["external_data"]),
            assets=tuple(record["assets"]),
            torch_description=record["torch_description"],
            notes=tuple(record.get("notes", ())),
        )


@dataclass(frozen=True)
class Capabilities:
    """What a target can do for a profile, on this build machine.

    executes_here: the artifact runs natively on this machine in a runtime of the profile's range, so it may be timed.
    answers_here: its answers can be computed here, by the same runtime on this machine's architecture, though its
        latency cannot be judged (a Raspberry Pi's ONNX file on x86-64). True wherever executes_here is.
    why_not: why it does not execute here; empty where it does.
    status: of an artifact that compile() makes here.
    precisions: those that the runtime, the profile and this target have in common, best for speed first.
    opset, ir_version: the newest that the oldest runtime of the profile's range reads.
    imitated: what of the device's arithmetic this machine does otherwise and simulate() imitates; empty where nothing.
    clips: what the device's arithmetic would take from int8 weights that have no regard to it; empty where nothing, or
        where it is not counted.
    """

    executes_here: bool
    answers_here: bool
    why_not: str
    status: Status
    precisions: tuple[str, ...]
    opset: int
    ir_version: int
    imitated: str = ""
    clips: str = ""

    @property
    def answers_as_it_ships(self) -> bool:
        """Whether what ships gives the device's answers here; else simulate() stands for it."""
        return self.answers_here and not self.imitated


@dataclass(frozen=True)
class Region:
    """A part of a float graph that is left in float, or not, as a whole: the names of its nodes, and one for people.

    parts: the regions that it joins, where it does.
    """

    name: str
    nodes: tuple[str, ...]
    parts: "tuple[Region, ...]" = ()


class Make(Protocol):
    """Writes a quantized ModelPackage into an empty folder and returns it."""

    def __call__(self, folder: Path, in_float: frozenset[str] = frozenset()) -> ModelPackage:
        """in_float: names of nodes that stay float. Raises EdgewrightError where the route cannot take the model: the
        candidate is then rejected with that reason.
        """
        ...


@dataclass(frozen=True)
class Candidate:
    """A quantization route.

    regions, kinds: find what `make` can leave in float, in the graph's order, and kinds of operators; none where the
        route has no such choice.
    plain: like make, but without a look at what would be better than the route's defaults; None where there is no such
        look.
    form_of: name of the route that computes the same by other operators; empty where there is none.
    unguarded: like make, but without regard to what the device's processor clips; None where there is no such regard.
    """

    name: str
    precision: str
    make: Make
    regions: Callable[[], Sequence[Region]] = tuple
    kinds: Callable[[], Sequence[Region]] = tuple
    plain: Make | None = None
    form_of: str = ""
    unguarded: Make | None = None

    def same_as(self, other: "Candidate") -> bool:
        """Whether both are the same arithmetic."""
        return (self.form_of or self.name) == (other.form_of or other.name)

    def as_it_is(self) -> "Candidate":
        """The same route, made without deliberation."""
        return replace(self, make=self.plain or self.make, plain=None)


@dataclass(frozen=True)
class CompiledModel:
    """What runs on the device. Saved as compiled.json in `folder`, beside `files`.

    runner: the file of targets/device/runners that executes it.
    options: session options; those that were measured are those that ship. {"threads": 1, ...}
    requires: {"architecture", "isa": [flags], "runtime": {name: version range}, "python_packages": [names]}
    build: for a deferred build, what the device runs to compile: {"command": [...], "produces": file}; else None.
    """

    folder: Path
    target: str
    runner: str
    files: tuple[str, ...]
    precision: str
    status: Status
    options: dict[str, Any]
    requires: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: dict[str, Any]
    driver: str
    assets: tuple[str, ...] = ()
    build: dict[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, package: ModelPackage, folder: Path, **own: Any) -> "CompiledModel":
        """A package's artifact, saved in `folder` beside its files; `own` are the fields that no package decides."""
        copy_files(package.folder, package.assets, folder)
        compiled = cls(
            folder=folder,
            precision=package.precision,
            inputs=package.inputs,
            outputs=package.outputs,
            preprocessing=package.preprocessing,
            driver=package.driver,
            assets=package.assets,
            **own,
        )
        compiled.save()
        return compiled

    @property
    def size_bytes(self) -> int:
        """Of the model files alone, without tokenizer and the like."""
        return sum((self.folder / f).stat().st_size for f in self.files)

    def save(self) -> None:
        record = asdict(self) | {"schema": 1}
        del record["folder"]
        (self.folder / "compiled.json").write_text(json.dumps(record, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> "CompiledModel":
        record = json.loads((folder / "compiled.json").read_text())
        del record["schema"]
        for key in ("inputs", "outputs"):
            record[key] = tuple(TensorSpec(s["name"], s["dtype"], tuple(s["shape"])) for s in record[key])
        for key in ("files", "assets", "notes"):
            record[key] = tuple(record[key])
        return cls(folder=folder, **record)


def copy_files(source: Path, files: Iterable[str], folder: Path) -> None:
    """Copies files, named relative to `source`, to the same names under another folder."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, folder / file)


class Target(Protocol):
    """A back end. Its file is targets/<name>.py and its class the file's name in CamelCase; it takes no arguments.

    distributions: the Python distributions whose versions change what it produces.
    accepts: the forms of a model it can take, of "onnx" and "torch".
    """

    distributions: ClassVar[tuple[str, ...]]
    accepts: ClassVar[frozenset[str]]

    def capabilities(self, profile: "DeviceProfile") -> Capabilities:
        """What can be done for this profile from here. Runs no model and imports no heavy library."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Tool name -> version, from package metadata. Raises UnsupportedError where the tool is not installed."""
        ...

    def decides_by(self, profile: "DeviceProfile") -> dict[str, Any]:
        """All of a profile (and, for a timed choice, of this machine) that candidates and the choice depend on.

        Profiles with equal answers share one quantized model. JSON values only.
        """
        ...

    def candidates(
        self, package: ModelPackage, profile: "DeviceProfile", calibration: "CalibrationSet"
    ) -> Sequence[Candidate]:
        """Quantization routes, the rule's preferred one first: where nothing can be timed, the first that holds the
        accuracy is taken.
        """
        ...

    def compile(self, package: ModelPackage, profile: "DeviceProfile", threads: int, out: Path) -> CompiledModel:
        """Writes the artifact into `out` and returns it, saved.

        Raises UnsupportedError naming the node it cannot take.
        """
        ...

    def simulate(self, package: ModelPackage, profile: "DeviceProfile", out: Path) -> CompiledModel:
        """Like compile, but a model that a runner of this machine can answer with, whose answers stand for the
        artifact's where capabilities.answers_as_it_ships is false. Says nothing of its speed.
        """
        ...
