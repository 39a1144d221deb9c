"""Makes a model smaller and faster by arithmetic of fewer bits, where that can be shown to cost little."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from calibration.errors import InputError

if TYPE_CHECKING:
    from pipeline.recipe import Device
    from pipeline.refinement import Refinement, Sensitivity
    from pipeline.stage import Work
    from pipeline.task import Task
    from pipeline.trials import Bench, Trial
    from targets.target import Candidate

# Among routes within this of each other the rule's order decides, so that a rebuild chooses the same.
CLEARLY_FASTER = 1.02
# Of the fastest routes so many are looked into, layer by layer.
MOST_REFINED = 2
SECONDS_EACH = 0.6


@dataclass(frozen=True)
class Quantize:
    """Tries the routes that the target offers and keeps one, or the float model where none is worth it.

    dtype: the smallest type that may be used; int8 admits routes to float16 too.
    max_drop: points of the metric, on the validation split, that quantization may cost.
    seconds: for finding layers that are better left in float, after the target's routes have all been tried.
    fast: tries the target's first route alone, as it is: for a first look.

    Writes the chosen package and choice.json, which has everything that was tried, with figures and reasons.
    """

    dtype: Literal["int8", "fp16"] = "int8"
    max_drop: float = 0.5
    seconds: float = 90.0
    fast: bool = False

    takes: ClassVar = ("task", "data", "calibration", "package", "route")
    gives: ClassVar = "package"
    distributions: ClassVar = ("numpy",)
    revision: ClassVar = 3

    def __post_init__(self) -> None:
        if self.max_drop < 0:
            raise InputError(
                f"quantize.max_drop is {self.max_drop:g}: it cannot be negative", "give points, such as 0.5"
            )
        if self.seconds <= 0:
            raise InputError(
                f"quantize.seconds is {self.seconds:g}: it must be above 0",
                "give seconds for finding layers that stay float, such as 90",
            )

    def __call__(
        self, work: "Work", *, task: "Task", data: Path, calibration: Path, package: Path, route: "Device"
    ) -> None:
        """Raises UnsupportedError where the target cannot even take the float model."""
        from calibration.dataset import CalibrationSet
        from pipeline.data import load_split
        from pipeline.trials import Bench
        from targets.calibration_fit import require_fitting
        from targets.onnx_coverage import narrowed
        from targets.onnx_graph import read_graph
        from targets.plugins import load
        from targets.target import ModelPackage

        started = time.monotonic()
        target = load("targets", route.target, work.recipe_folder)()
        able = target.capabilities(route.profile)
        with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
            float_package = ModelPackage.load(package)
            validation = load_split(data, "validation")
            bench = Bench(task, validation, target, route, able, float_package, Path(folder), self.max_drop)
            wanted = ("int8", "fp16") if self.dtype == "int8" else ("fp16",)
            pool = CalibrationSet.load(calibration)
            require_fitting(pool, float_package)
            # First of all, since it raises what the target has to say of a model that it cannot take.
            trials = [bench.float_trial]
            work.progress(0.0, "choosing calibration samples")
            (chosen_samples := Path(folder) / "calibration").mkdir()
            samples = narrowed(read_graph(float_package), pool, chosen_samples, covering=not self.fast)
            candidates = target.candidates(float_package, route.profile, samples)
            offered = [c for c in candidates if c.precision in wanted and c.precision in able.precisions]
            if self.fast:
                offered = [c.as_it_is() for c in offered[:1]]
            work.progress(0.0, f"choosing among {len(offered)} routes, {self.seconds:.0f} s for layers that stay float")
            for position, candidate in enumerate(offered):
                work.progress((1 + position) / (3 + len(offered)), candidate.name)
                trials.append(bench.attempt(candidate))
            choosing = Choosing(bench, trials, work, self.seconds)
            chosen = choosing.by_rule() if not able.executes_here else choosing.by_time(refine=not self.fast)
            chosen.made[0].copy_to(work.out)
            record = {
                "schema": 1,
                "choice": "measured" if able.executes_here else "rule",
                "chosen": chosen.name,
                "seconds": {"for_layers": self.seconds, "used_in_all": round(time.monotonic() - started, 1)},
                "candidates": [trial.record(chosen=trial is chosen) for trial in choosing.trials],
                "sensitivities": [s.record(chosen.in_float) for s in choosing.known.get(chosen.candidate, [])],
            }
        (work.out / "choice.json").write_text(json.dumps(record, indent=1, allow_nan=False))
        work.progress(1.0, f"{chosen.name}: {chosen.why}")


@dataclass
class Choosing:
    """trials: all that was tried, the float model first; `by_time` and `by_rule` add to them and fill their reasons.

    seconds: for looking into routes, layer by layer. known: the sensitivities of the routes that were looked into.
    """

    bench: "Bench"
    trials: list["Trial"]
    work: "Work"
    seconds: float
    known: "dict[Candidate | None, list[Sensitivity]]" = field(default_factory=dict)

    @cached_property
    def _deadline(self) -> float:
        """Of the monotonic clock; the time runs from when it is first asked for."""
        return time.monotonic() + self.seconds

    @property
    def float_trial(self) -> "Trial":
        return self.trials[0]

    def by_time(self, *, refine: bool) -> "Trial":
        """The fastest right one, where that is faster than float; routes are refined and repaired first."""
        made = [trial for trial in self.trials[1:] if trial.compiled is not None]
        if not made:
            return self._none_is_right()
        with self.work.measuring():
            self.bench.time([self.float_trial, *made], self._seconds(len(made)))
            if refine:
                made = self._refined(made)
            right = [trial for trial in made if not trial.why]
            if not right:
                return self._none_is_right()
            if len(right) > 1 or refine:
                self.bench.time([self.float_trial, *right], self._seconds(len(right)))
        return fastest(self.float_trial, right)

    def by_rule(self) -> "Trial":
        """The first of the target's order that is right, or can be made so."""
        right = [trial for trial in self.trials[1:] if not trial.why]
        if not right:
            wrong = [trial for trial in self.trials[1:] if trial.wrong]
            right = list(filter(None, (self._repaired(trial) for trial in wrong[:MOST_REFINED])))[:1]
            if not right:
                return self._none_is_right()
        able = self.bench.capabilities
        return by_rule(self.float_trial, right, able.why_not, judge_size=able.status == "built")

    def _refined(self, made: "list[Trial]") -> "list[Trial]":
        """With the fastest wrong routes made right, then the fastest right ones made faster."""
        found = list(made)
        quickest = max((speed(trial) for trial in made if not trial.why), default=1.0)
        wrong = [trial for trial in made if trial.wrong and speed(trial) > quickest]
        found += filter(
            None, (self._repaired(trial) for trial in sorted(wrong, key=speed, reverse=True)[:MOST_REFINED])
        )
        right = sorted((trial for trial in found if not trial.why), key=speed, reverse=True)
        for trial in right[:MOST_REFINED]:
            refinement = self._refinement()
            if trial.candidate not in self.known:
                self.known[trial.candidate] = refinement.sensitivities(trial)
            better = refinement.faster(trial, self.known[trial.candidate])
            if better is not trial:
                self.trials.append(better)
                found.append(better)
        return found

    def _repaired(self, trial: "Trial") -> "Trial | None":
        refinement = self._refinement()
        self.known[trial.candidate] = refinement.sensitivities(trial)
        repaired = refinement.repaired(trial, self.known[trial.candidate])
        if repaired is not None:
            if self.bench.capabilities.executes_here:
                self.bench.time([self.float_trial, repaired], self._seconds(1))
            self.trials.append(repaired)
        return repaired

    def _refinement(self) -> "Refinement":
        from pipeline.refinement import Refinement

        done = (1 + len(self.trials)) / (3 + len(self.trials))
        return Refinement(self.bench, self._deadline, lambda text: self.work.progress(done, text))

    def _seconds(self, models: int) -> float:
        return SECONDS_EACH * (1 + models)

    def _none_is_right(self) -> "Trial":
        self.float_trial.why = "no route to fewer bits holds the accuracy"
        return self.float_trial


def speed(trial: "Trial") -> float:
    """Times as fast as float; to be asked of those that were timed."""
    return trial.figures["ratio_to_float"]["value"]


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
