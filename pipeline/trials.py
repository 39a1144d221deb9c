"""Tries quantization routes: makes each, asks for its answers, times those that are right."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.errors import EdgewrightError, UnsupportedError
from pipeline.evaluate import answers, single_samples
from targets.device.errors import DeviceError
from targets.device.measure import block_size, interleave, ratio_interval
from targets.device.runners import load_runner

if TYPE_CHECKING:
    from pipeline.data import Split
    from pipeline.recipe import Device
    from pipeline.task import Task
    from targets.target import Candidate, Capabilities, CompiledModel, ModelPackage, Target

# What is plainly wrong shows on this many samples: a drop more than three standard errors beyond the limit.
GLANCE = 512
STANDARD_ERRORS = 3.0
WARM_UP = 20


@dataclass
class Trial:
    """One route, or the float model.

    package: what the route made; None of the float model, and where the route failed.
    scores: of the float model, of each validation sample, [samples] float64.
    why: why it is rejected or taken; empty while neither is known.
    figures: of those there are, accuracy (mean of the task's score), drop_points, size_bytes, latency_ms (median) and
        ratio_to_float ({value, low95, high95}, above 1 is faster).
    latencies_ms: [blocks, runs in a block], taken in turn with those of every other trial.
    """

    name: str
    precision: str
    package: "ModelPackage | None" = None
    compiled: "CompiledModel | None" = None
    latencies_ms: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    why: str = ""
    figures: dict[str, Any] = field(default_factory=dict[str, Any])

    def record(self, *, chosen: bool) -> dict[str, Any]:
        """As it stands in choice.json."""
        return {
            "name": self.name,
            "precision": self.precision,
            "chosen": chosen,
            "why": "; ".join([self.why, *(self.package.notes if self.package else ())]),
            "figures": self.figures,
        }


@dataclass(frozen=True)
class Bench:
    """Where routes are tried, against the float model, on the validation split.

    folder: for what is made. max_drop: points of the metric that a route may cost.
    """

    task: "Task"
    validation: "Split"
    target: "Target"
    device: "Device"
    capabilities: "Capabilities"
    float_package: "ModelPackage"
    folder: Path
    max_drop: float

    @cached_property
    def float_trial(self) -> Trial:
        """The model as it is. Raises UnsupportedError where the target cannot take it."""
        compiled = self._compiled("float", self.float_package)
        scores = self._scores(self._answering("float", self.float_package, compiled), self.validation)
        trial = Trial("float", self.float_package.precision, compiled=compiled, scores=scores)
        trial.figures = {
            "accuracy": float(scores.mean()),
            "drop_points": 0.0,
            "size_bytes": compiled.size_bytes,
        }
        return trial

    def attempt(self, candidate: "Candidate") -> Trial:
        """Makes a route's model and checks its answers: on few samples first, on all where those are not hopeless."""
        trial = Trial(candidate.name, candidate.precision)
        folder = self.folder / candidate.name / "package"
        folder.mkdir(parents=True)
        try:
            trial.package = candidate.make(folder)
            trial.compiled = self._compiled(candidate.name, trial.package)
            trial.figures["size_bytes"] = trial.compiled.size_bytes
            answering = self._answering(candidate.name, trial.package, trial.compiled)
            trial.why = self._check_answers(trial, answering)
        except (EdgewrightError, DeviceError) as error:
            trial.why = error.message
        return trial

    def _check_answers(self, trial: Trial, model: "CompiledModel") -> str:
        """Fills accuracy and drop; why the answers are not good enough, empty where they are."""
        sign = 1.0 if self.task.higher_is_better else -1.0
        glance = np.linspace(0, len(self.validation) - 1, min(GLANCE, len(self.validation))).astype(int)
        for rows in (glance, np.arange(len(self.validation))):
            scores = self._scores(model, self.validation.take(rows))
            points = 100.0 * sign * (self.float_trial.scores[rows] - scores)
            drop, error = float(points.mean()), float(points.std() / np.sqrt(len(points)))
            trial.figures |= {"accuracy": float(scores.mean()), "drop_points": drop}
            allowed = self.max_drop + (STANDARD_ERRORS * error if len(rows) < len(self.validation) else 0.0)
            if drop > allowed:
                return f"costs {drop:.2f} points on {len(rows)} validation samples; {self.max_drop:g} are allowed"
        return ""

    def time(self, trials: Sequence[Trial], seconds: float) -> None:
        """Times what ships, on single samples, all in turn; the first trial is the float model."""
        models = [trial.compiled for trial in trials if trial.compiled is not None]
        runners = [load_runner(m.runner, m.folder, list(m.files), m.options) for m in models]
        feeds = single_samples(models[0], self.validation)
        block = block_size(runners, feeds)
        latencies = interleave(runners, feeds, seconds=seconds, block=block, warmup=WARM_UP)
        for trial, taken in zip(trials, latencies, strict=True):
            trial.latencies_ms = taken
            trial.figures["latency_ms"] = float(np.median(taken))
            trial.figures["ratio_to_float"] = ratio_interval(latencies[0], taken)

    def _compiled(self, name: str, package: "ModelPackage") -> "CompiledModel":
        folder = self.folder / name / "compiled"
        folder.mkdir(parents=True)
        return self.target.compile(package, self.device.profile, self.device.threads, folder)

    def _answering(self, name: str, package: "ModelPackage", compiled: "CompiledModel") -> "CompiledModel":
        """What gives the answers of a package here: what ships, or a simulation of it."""
        if self.capabilities.answers_here:
            return compiled
        folder = self.folder / name / "simulated"
        folder.mkdir(parents=True)
        return self.target.simulate(package, self.device.profile, folder)

    def _scores(self, model: "CompiledModel", samples: "Split") -> np.ndarray:
        """[samples] float64. Raises UnsupportedError where an answer is no number."""
        outputs = answers(model, samples)
        if not np.isfinite(outputs).all():
            raise UnsupportedError("its answers have NaN or infinity")
        return self.task.score(outputs, samples.labels)
