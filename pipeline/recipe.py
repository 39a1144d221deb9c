"""What to build, for which devices: the objects that a recipe's YAML stands for. docs/recipes.md has every key."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from targets.profile import DeviceProfile

if TYPE_CHECKING:
    from pipeline.stage import Stage
    from pipeline.task import Task


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: exactly one of factory, folder, onnx and (for a student) keep_layers.

    factory: "file.py:function" that returns a torch.nn.Module; weights: the file that is loaded into it.
    folder: a Hugging Face model folder.
    keep_layers: the teacher's architecture and weights with only these of its layers, counted from 0.
    files: what the factory reads besides Python files, so that a change of it is noticed.
    allow_pickle: weights may be a pickle, of which torch loads tensors only; else safetensors.
    """

    factory: str | None = None
    weights: str | None = None
    folder: str | None = None
    onnx: str | None = None
    keep_layers: tuple[int, ...] | None = None
    files: tuple[str, ...] = ()
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class DataSource:
    """Where samples come from.

    source, test, calibration: a folder, .npz, .csv, .jsonl, a Hugging Face dataset folder, or "file.py:function".
    columns: the task's name of a column -> the source's.
    missing: what becomes of samples with missing values; a mapping gives the value for each column.
    leakage: what becomes of training samples that are in a given test or validation split too.
    test_share, validation_share: of each class, cut from the training samples where no such split is given.
    files: what the source reads besides itself (data of a "file.py:function", images that a .csv names), so that a
        change of it is noticed.
    """

    source: str
    test: str | None = None
    calibration: str | None = None
    columns: dict[str, str] | None = None
    missing: Literal["refuse", "drop"] | dict[str, str | int | float] = "refuse"
    leakage: Literal["refuse", "drop"] = "refuse"
    test_share: float = 0.2
    validation_share: float = 0.1
    seed: int = 0
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Budget:
    """Limits; None is no limit. Drops are points of the metric; ratios are baseline / artifact: above 1 is better."""

    accuracy_drop: float | None = None
    worst_slice_drop: float | None = None
    latency_ratio: float | None = None
    size_ratio: float | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    peak_memory_mb: float | None = None
    size_mb: float | None = None


@dataclass(frozen=True)
class Device:
    """One device of a recipe: its hardware, the runtime that is used there, and the limits that hold for it."""

    profile: DeviceProfile
    target: str
    budget: Budget
    threads: int = 1

    @property
    def name(self) -> str:
        return self.profile.name


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been checked.

    folder: what its paths are relative to.
    version: monotonic; expires: ISO 8601 or None; both go into the manifest.
    stages: (name, instance) in the recipe's order: the middle stages, and those of the rest that were given settings.
    """

    path: Path
    folder: Path
    name: str
    version: int
    expires: str | None
    task_name: str
    task: "Task"
    data: DataSource
    teacher: ModelSource
    student: ModelSource | None
    stages: "tuple[tuple[str, Stage], ...]"
    devices: tuple[Device, ...]

    @property
    def user_files(self) -> tuple[Path, ...]:
        """The Python files that a build of this recipe runs, without those that they import."""
        models = [m for m in (self.teacher, self.student) if m is not None]
        remote = [f for m in models if m.folder and m.trust_remote_code for f in (self.folder / m.folder).glob("*.py")]
        named: list[Any] = [m.factory for m in models]
        named += [self.data.source, self.data.test, self.data.calibration, self.task_name]
        named += [name for name, _ in self.stages] + [device.target for device in self.devices]
        files = {self.folder / n.rpartition(":")[0] for n in named if n and n.rpartition(":")[0].endswith(".py")}
        return tuple(sorted({*files, *remote}))


def hastened(recipe: Recipe) -> Recipe:
    """The recipe with a first look at int8 only: quantize tries the target's first route alone, as it is."""
    from pipeline.stages.quantize import Quantize

    stages = ((name, replace(s, fast=True) if isinstance(s, Quantize) else s) for name, s in recipe.stages)
    return replace(recipe, stages=tuple(stages))


def load_recipe(path: Path, devices: list[str] | None = None, run_user_code: bool = False) -> Recipe:
    """Reads and checks a recipe.

    devices: names to build for, instead of all of the recipe's; a profile that is not in the recipe gets its budget.
    run_user_code: whether a stage or task of the user's own may be imported; if not, its text is read for its fields.
    Raises InputError stating every mistake at once, each with file:line:column and the line itself.
    """
    from pipeline.recipe_reader import RecipeReader

    return RecipeReader(path, run_user_code).read(devices)
