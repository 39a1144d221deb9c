"""Makes a model smaller and faster by arithmetic of fewer bits, where that can be shown to cost little."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from calibration.errors import InputError

if TYPE_CHECKING:
    from pipeline.recipe import Device
    from pipeline.stage import Work
    from pipeline.task import Task
    from pipeline.trials import Bench, Trial

# Among routes within this of each other the rule's order decides, so that a rebuild chooses the same.
CLEARLY_FASTER = 1.02


@dataclass(frozen=True)
class Quantize:
    """Tries the routes that the target offers and keeps one, or the float model where none is worth it.

    dtype: the smallest type that may be used; int8 admits routes to float16 too.
    max_drop: points of the metric, on the validation split, that quantization may cost.
    seconds: of timing, all routes together, where the artifact runs on this machine.

    Writes the chosen package and choice.json, which has everything that was tried, with figures and reasons.
    """

    dtype: Literal["int8", "fp16"] = "int8"
    max_drop: float = 0.5
    seconds: float = 3.0

    takes: ClassVar = ("task", "data", "calibration", "package", "route")
    gives: ClassVar = "package"
    distributions: ClassVar = ("numpy",)
    revision: ClassVar = 2

    def __post_init__(self) -> None:
        if self.max_drop < 0:
            raise InputError(
                f"quantize.max_drop is {self.max_drop:g}: it cannot be negative", "give points, such as 0.5"
            )
        if self.seconds <= 0:
            raise InputError(f"quantize.seconds is {self.seconds:g}: it must be above 0", "give seconds of timing")

    def __call__(
        self, work: "Work", *, task: "Task", data: Path, calibration: Path, package: Path, route: "Device"
    ) -> None:
        """Raises UnsupportedError where the target cannot even take the float model."""
        from calibration.dataset import CalibrationSet
        from pipeline.data import load_split
        from pipeline.trials import Bench
        from targets.plugins import load
        from targets.target import ModelPackage

        target = load("targets", route.target, work.recipe_folder)()
        able = target.capabilities(route.profile)
        with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
            float_package = ModelPackage.load(package)
            validation = load_split(data, "validation")
            bench = Bench(task, validation, target, route, able, float_package, Path(folder), self.max_drop)
            work.progress(0.0, "float")
            trials = [bench.float_trial]
            wanted = ("int8", "fp16") if self.dtype == "int8" else ("fp16",)
            candidates = target.candidates(float_package, route.profile, CalibrationSet.load(calibration))
            offered = [c for c in candidates if c.precision in wanted and c.precision in able.precisions]
            for position, candidate in enumerate(offered):
                work.progress((1 + position) / (2 + len(offered)), candidate.name)
                trials.append(bench.attempt(candidate))
            chosen = self.choose(bench, trials, work)
            (chosen.package or float_package).copy_to(work.out)
            record = {
                "schema": 1,
                "choice": "measured" if able.executes_here else "rule",
                "chosen": chosen.name,
                "candidates": [trial.record(chosen=trial is chosen) for trial in trials],
            }
        (work.out / "choice.json").write_text(json.dumps(record, indent=1, allow_nan=False))
        work.progress(1.0, f"{chosen.name}: {chosen.why}")

    def choose(self, bench: "Bench", trials: Sequence["Trial"], work: "Work") -> "Trial":
        """The trial to keep, all of them with their reasons filled in. The first is the float model."""
        right = [trial for trial in trials[1:] if not trial.why]
        if not right:
            trials[0].why = "no route to fewer bits holds the accuracy"
            return trials[0]
        if not bench.capabilities.executes_here:
            return by_rule(
                trials[0], right, bench.capabilities.why_not, judge_size=bench.capabilities.status == "built"
            )
        work.progress(0.9, "timing")
        with work.measuring():
            bench.time([trials[0], *right], self.seconds)
        return fastest(trials[0], right)


def by_rule(float_trial: "Trial", right: Sequence["Trial"], why_not: str, *, judge_size: bool) -> "Trial":
    """The first in the target's order; where the size of what ships is known and speed is not, it must be smaller."""
    float_size = float_trial.figures["size_bytes"]
    chosen = None
    for trial in right:
        if judge_size and trial.figures["size_bytes"] >= float_size:
            trial.why = f"is not smaller than float: {trial.figures['size_bytes']} bytes, float {float_size}"
        elif chosen is None:
            trial.why = f"the first of the target's order that holds the accuracy; not timed: {why_not}"
            chosen = trial
        else:
            trial.why = f"{chosen.name} comes before it in the target's order"
    float_trial.why = f"{chosen.name} is preferred" if chosen else "no route to fewer bits is smaller"
    return chosen or float_trial


def fastest(float_trial: "Trial", right: Sequence["Trial"]) -> "Trial":
    """The fastest of those that are faster than float beyond doubt; the earlier of two that are about the same."""
    from targets.device.measure import ratio_interval

    def ratio(trial: "Trial") -> dict[str, Any]:
        return trial.figures["ratio_to_float"]

    faster = [trial for trial in right if ratio(trial)["low95"] > 1.0]
    chosen = faster[0] if faster else float_trial
    for trial in faster[1:]:
        if ratio_interval(chosen.latencies_ms, trial.latencies_ms)["low95"] > CLEARLY_FASTER:
            chosen = trial
    for trial in right:
        times = f"{ratio(trial)['value']:.2f} x the speed of float (95%: {ratio(trial)['low95']:.2f} or more)"
        if trial is chosen:
            trial.why = f"the fastest that holds the accuracy: {times}"
        elif trial in faster:
            trial.why = f"{times}; {chosen.name} is faster, or as fast and before it in the target's order"
        else:
            trial.why = f"not faster than float: {times}"
    float_trial.why = f"{chosen.name} is faster" if faster else "no route that holds the accuracy is faster"
    return chosen
