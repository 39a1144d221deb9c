"""report.json, schema 1, as types. docs/report.md says what each field means; what is not known is null."""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from calibration.errors import InputError
from pipeline.gates import Gate, SliceResult, Verdict
from pipeline.intervals import Upper
from targets.target import Status

SCHEMA = 1


@dataclass(frozen=True)
class ExecutedOn:
    """Where the artifact ran; None in a report whose artifact was not executed."""

    cpu: str
    isa: tuple[str, ...]
    runtime: str
    version: str
    threads: int
    emulated: bool


@dataclass(frozen=True)
class Latency:
    """Of one inference, batch 1, in milliseconds; n runs."""

    p50: float
    p90: float
    p99: float
    n: int


@dataclass(frozen=True)
class Baseline:
    """What the artifact is held against."""

    what: str
    size_bytes: int
    peak_memory_bytes: int | None = None
    latency_ms: Latency | None = None


@dataclass(frozen=True)
class Artifact:
    """What ships. load_ms: of a fresh process."""

    precision: str
    size_bytes: int
    peak_memory_bytes: int | None = None
    load_ms: float | None = None
    latency_ms: Latency | None = None


@dataclass(frozen=True)
class Ratio:
    """With a two-sided 95% interval."""

    value: float
    low95: float
    high95: float


@dataclass(frozen=True)
class Ratios:
    """Baseline / artifact: above 1 is better.

    latency_p50_to_float: of the artifact's own network in float, where that is neither the baseline nor what ships.
    """

    latency_p50: Ratio | None = None
    size: float | None = None
    peak_memory: float | None = None
    latency_p50_to_float: Ratio | None = None


@dataclass(frozen=True)
class Accuracy:
    """teacher and artifact are in `unit`; the drop is in percentage points, above zero is worse."""

    metric: str
    unit: str
    higher_is_better: bool
    teacher: float
    artifact: float
    drop_points: Upper
    samples: int


@dataclass(frozen=True)
class Measure:
    """A further figure of a task: perplexity, tokens/s."""

    name: str
    unit: str
    higher_is_better: bool
    baseline: float
    artifact: float
    ratio: Ratio | None = None


@dataclass(frozen=True)
class Cost:
    """Of one inference. Each is None where nothing counted it."""

    macs: int | None = None
    bytes_moved: int | None = None
    instructions: int | None = None
    cpu_seconds_per_inference: float | None = None


@dataclass(frozen=True)
class StageRecord:
    """digest: of what the artifact is made from; contents: sha256 of the names and bytes of its files, "" if not known.

    seconds and peak memory are those of the run that made the artifact; reason is empty where it was cached.
    """

    name: str
    digest: str
    cached: bool
    reason: str
    seconds: float
    peak_memory_bytes: int | None = None
    contents: str = ""


@dataclass(frozen=True)
class Rejected:
    """Something that was tried, and why it does not ship (or, as `chosen`, why it does).

    figures: whatever was measured of it while choosing; see docs/report.md.
    """

    candidate: str
    why: str
    figures: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Sensitivity:
    """What a region of the network changes when it alone goes back to float, in the route that was looked into.

    noise_db: the answers' signal-to-noise ratio with it in float, less that without. ratio: the time without over that
    with it, None where nothing was timed. in_float: those of its nodes that ship as float.
    """

    region: str
    nodes: tuple[str, ...]
    noise_db: float
    ratio: Ratio | None
    in_float: tuple[str, ...]

    @property
    def ships_as(self) -> Literal["float", "int8", "mixed"]:
        return "float" if set(self.in_float) == set(self.nodes) else "mixed" if self.in_float else "int8"


@dataclass(frozen=True)
class ClippingLayer:
    """A layer whose sums the device's processor clips, had its weights no regard to that; see SaturatingLayer."""

    node: str
    channels: float
    clipped: float
    changed: float
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Clipping:
    """What the device's processor clips, and what that would cost without the guard that ships.

    unguarded: accuracy and drop_points of the route that ships, without its guard.
    """

    what: str
    unguarded: dict[str, float]
    layers: tuple[ClippingLayer, ...]


@dataclass(frozen=True)
class Refusal:
    """Why there is no bundle, and what to do about it."""

    stage: str
    reason: str
    next_step: str = ""


@dataclass(frozen=True)
class Report:
    """One device's build. `status` and `choice` are None where the build was refused before they were settled.

    notes: what the user should know of the calibration samples and the teacher, a sentence each.
    """

    recipe: str
    device: str
    target: str
    verdict: Verdict
    status: Status | None = None
    choice: Literal["measured", "rule", "measured_on_device"] | None = None
    executed_on: ExecutedOn | None = None
    baseline: Baseline | None = None
    artifact: Artifact | None = None
    ratios: Ratios | None = None
    accuracy: Accuracy | None = None
    measures: tuple[Measure, ...] = ()
    slices: tuple[SliceResult, ...] = ()
    churn: Upper | None = None
    gates: tuple[Gate, ...] = ()
    energy: dict[str, Any] = field(default_factory=lambda: {"method": "none"})
    cost: Cost = Cost()
    stages: tuple[StageRecord, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    tools: dict[str, str] = field(default_factory=dict[str, str])
    chosen: Rejected | None = None
    refusal: Refusal | None = None
    sensitivities: tuple[Sensitivity, ...] = ()
    clipping: Clipping | None = None
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise InputError(f"schema: {self.schema} is not one that is read here", f"give a report of schema {SCHEMA}")
        for where, number in _numbers(asdict(self), ""):
            if not math.isfinite(number):
                raise InputError(f"{where}: {number} is not a number that JSON has", "leave out what is not known")

    @property
    def pending_gates(self) -> tuple[str, ...]:
        """Names of the gates that the device has to judge."""
        return tuple(gate.name for gate in self.gates if gate.verdict == "deferred")

    def to_json(self) -> dict[str, Any]:
        """JSON values, keys in the order of the schema."""
        record = json.loads(dumps(asdict(self)))
        return {key: record[key] for key in _ORDER}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], file: str = "report.json") -> "Report":
        """Reads what `to_json` gave, or a later version wrote: unknown keys are ignored.

        Raises InputError naming the file and the key whose value is missing or of another type.
        """
        try:
            return _read(cls, record, "")
        except InputError as error:
            raise InputError(f"{file}: {error.message}", error.next_step or "let a build write it anew") from None


_ORDER = (
    *("schema", "recipe", "device", "target", "status", "verdict", "choice", "executed_on", "baseline", "artifact"),
    *("ratios", "accuracy", "measures", "slices", "churn", "gates", "energy", "cost", "stages", "rejected", "tools"),
    *("chosen", "refusal", "sensitivities", "clipping", "notes"),
)


def dumps(record: Mapping[str, Any]) -> str:
    """The text of report.json. Raises ValueError for NaN and infinities, which JSON does not have."""
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def _numbers(value: Any, where: str) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return [n for key, v in items for n in _numbers(v, f"{where}.{key}" if where else key)]
    if isinstance(value, list | tuple):
        return [n for i, v in enumerate(cast("tuple[Any, ...]", value)) for n in _numbers(v, f"{where}[{i}]")]
    return [(where, value)] if isinstance(value, float) else []


def _read(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the type `kind` says, or InputError with its path."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _read(next(a for a in arguments if a is not type(None)), value, where)
    if origin in (tuple, dict):
        return _read_many(origin, arguments, value, where)
    if is_dataclass(kind):
        return _read_object(kind, value, where)
    if origin is Literal and value not in arguments:
        raise _mismatch(where, " or ".join(map(str, arguments)), value)
    return value if kind is Any or origin is Literal else _read_plain(kind, value, where)


def _read_plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        raise _mismatch(where, names[kind], value)
    return value


def _read_many(origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_read(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {str(key): _read(arguments[1], v, f"{where}.{key}") for key, v in value.items()}
    raise _mismatch(where, "a list" if origin is tuple else "an object", value)


def _read_object(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _mismatch(where or "the file", "an object", value)
    hints = get_type_hints(kind)
    known: dict[str, Any] = {}
    for f in fields(kind):
        path = f"{where}.{f.name}" if where else f.name
        if f.name in value:
            known[f.name] = _read(hints[f.name], value[f.name], path)
        elif f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{path} is missing")
    return kind(**known)


def _mismatch(where: str, expected: str, value: Any) -> InputError:
    return InputError(f"{where}: expected {expected}, found {value!r}")
