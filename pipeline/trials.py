"""Tries quantization routes: makes each, asks for its answers, times those that are right."""

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.errors import EdgewrightError, UnsupportedError
from pipeline.compiling import compiled, refused_by_runtime
from pipeline.evaluate import answers, loaded, single_samples
from targets.device.errors import DeviceError
from targets.device.golden import sqnr_db
from targets.device.measure import Loadings, block_size, interleave, ratio_interval

if TYPE_CHECKING:
    from pipeline.data import Split
    from pipeline.recipe import Device
    from pipeline.task import Task
    from targets.target import Candidate, Capabilities, CompiledModel, ModelPackage, Target

# What is plainly wrong shows on this many samples: a drop more than three standard errors beyond the limit.
GLANCE = 512
STANDARD_ERRORS = 3.0
# A first loading has answered some feeds already, for the size of a block to be known.
WARM_UP = 5
# Of the validation split: on so many samples the noise of two variants of a route is compared.
COMPARED = 64


@dataclass(eq=False)
class Trial:
    """One route, or the float model.

    candidate: the route; None of the float model. in_float: names of the nodes that it leaves in float.
    package, compiled: what the route made; None where it failed, or what it made was discarded.
    scores: of the float model, of each validation sample, [samples] float64.
    wrong: why its answers are not good enough; empty where they are, or it has none.
    why: why it is rejected or taken; empty while neither is known.
    note: of how it came about, for the report.
    make_seconds: what it took to make; of a route that is looked into, what a variant of it takes.
    figures: of those there are, accuracy (mean of the task's score), drop_points, samples (that both are of),
        size_bytes, latency_ms (median) and ratio_to_float ({value, low95, high95}, above 1 is faster).
    latencies_ms: [blocks, calls], taken in turn with those of every other trial.
    """

    name: str
    precision: str
    candidate: "Candidate | None" = None
    in_float: frozenset[str] = frozenset()
    package: "ModelPackage | None" = None
    compiled: "CompiledModel | None" = None
    latencies_ms: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    wrong: str = ""
    why: str = ""
    note: str = ""
    make_seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def made(self) -> "tuple[ModelPackage, CompiledModel]":
        """Package and artifact. Raises ValueError where there are none."""
        if self.package is None or self.compiled is None:
            raise ValueError(f"{self.name} was not made")
        return self.package, self.compiled

    def computes_like(self, other: "Trial") -> bool:
        """Whether both are the same arithmetic, in one form or another."""
        return self.candidate is not None and other.candidate is not None and self.candidate.same_as(other.candidate)

    def record(self, *, chosen: bool) -> dict[str, Any]:
        """As it stands in choice.json."""
        return {
            "name": self.name,
            "precision": self.precision,
            "chosen": chosen,
            "why": "; ".join(filter(None, [self.why, self.note, *(self.package.notes if self.package else ())])),
            "figures": self.figures,
        }


@dataclass(frozen=True)
class Bench:
    """Where routes are tried, against the float model, on the validation split.

    folder: for what is made. max_drop: points of the metric that a route may cost.
    aside: answers for the float model while this thread does something else.
    whole: whether that is all of the validation samples; on some of them shows only what is plainly wrong.
    """

    task: "Task"
    validation: "Split"
    target: "Target"
    device: "Device"
    capabilities: "Capabilities"
    float_package: "ModelPackage"
    folder: Path
    max_drop: float
    aside: Executor
    whole: bool = True

    @property
    def held(self) -> str:
        """What a route that is not wrong does, in words."""
        few = f"is not plainly wrong on {len(self.validation)} validation samples"
        return "holds the accuracy" if self.whole else few

    def begin(self) -> None:
        """Has the float model answer aside; who asks for its trial, waits for it."""
        _ = self._float

    @property
    def float_trial(self) -> Trial:
        """The model as it is. Raises UnsupportedError where the target or its runtime cannot take it."""
        return self._float.result()

    @cached_property
    def _float(self) -> "Future[Trial]":
        return self.aside.submit(self._try_float)

    def _try_float(self) -> Trial:
        # Not loaded apart: the build has run this graph before, when it was exported.
        out = self._folder() / "compiled"
        made = self.target.compile(self.float_package, self.device.profile, self.device.threads, out)
        try:
            scores = self._scores(self._answering(self.float_package, made), self.validation)
        except DeviceError as error:
            raise refused_by_runtime(error) from error
        trial = Trial("float", self.float_package.precision, package=self.float_package, compiled=made, scores=scores)
        trial.figures = {
            "accuracy": float(scores.mean()),
            "drop_points": 0.0,
            "samples": len(scores),
            "size_bytes": made.size_bytes,
        }
        return trial

    def attempt(self, candidate: "Candidate") -> Trial:
        """Makes a route's model with care and checks its answers: on few samples first, on all if those are hopeful."""
        trial = Trial(candidate.name, candidate.precision, candidate)
        with self._refusing(trial):
            self._make(trial, candidate.make)
            self.check(trial)
        return trial

    def sketch(self, candidate: "Candidate") -> Trial:
        """Makes a route's model as it is, for its speed; its answers are not checked."""
        trial = Trial(candidate.name, candidate.precision, candidate)
        with self._refusing(trial):
            self._make(trial, candidate.plain or candidate.make)
        return trial

    def made_with_care(self, sketch: Trial) -> Trial:
        """The same route, made as well as it can be, its answers checked; the speed is that of the sketch."""
        if sketch.candidate is None:
            raise ValueError(f"{sketch.name} is no route")
        if sketch.candidate.plain is None:
            with self._refusing(sketch):
                self.check(sketch)
            return sketch
        self.discard(sketch)
        trial = self.attempt(sketch.candidate)
        trial.figures = sketch.figures | trial.figures
        return trial

    def variant(self, of: Trial, in_float: frozenset[str]) -> Trial | None:
        """The same route with these nodes in float, its answers not checked; None where it cannot be made."""
        if of.candidate is None:
            raise ValueError(f"{of.name} is no route")
        trial = Trial(of.name, of.precision, of.candidate, in_float)
        try:
            self._make(trial, partial(of.candidate.make, in_float=in_float))
        except (EdgewrightError, DeviceError):
            return None
        return trial

    def unguarded(self, of: Trial) -> Trial | None:
        """The same route made without regard to what the device's processor clips; None where there is no such way."""
        if of.candidate is None or of.candidate.unguarded is None:
            return None
        trial = Trial(of.name, of.precision, of.candidate, of.in_float)
        with self._refusing(trial):
            self._make(trial, partial(of.candidate.unguarded, in_float=of.in_float))
            self.check(trial)
        return trial

    def check(self, trial: Trial) -> None:
        """Fills `wrong` and `why`. Raises EdgewrightError or DeviceError where the answers cannot be had."""
        trial.wrong = trial.why = self._check_answers(trial, self._answering(*trial.made))

    def noise_db(self, trial: Trial) -> float:
        """Signal-to-noise ratio of its answers to some validation samples, the float model's being the signal."""
        samples = self.validation.take(self._compared)
        found = answers(self._answering(*trial.made), samples)
        return sqnr_db(self._float_answers, found.astype(np.float64))

    def discard(self, trial: Trial) -> None:
        """Removes what a variant wrote."""
        if trial.compiled is not None:
            shutil.rmtree(trial.compiled.folder.parent)
            trial.compiled = trial.package = None

    @cached_property
    def _compared(self) -> np.ndarray:
        return spread(len(self.validation), COMPARED)

    @cached_property
    def _float_answers(self) -> np.ndarray:
        return answers(self._answering(*self.float_trial.made), self.validation.take(self._compared)).astype(np.float64)

    @contextmanager
    def _refusing(self, trial: Trial) -> Generator[None]:
        """What a route is refused for becomes its reason."""
        try:
            yield
        except (EdgewrightError, DeviceError) as error:
            # Where a route's files were while it was tried says nothing to who reads of it.
            trial.why = re.sub(rf"{re.escape(str(self.folder))}/[^/]+/", "", error.message)

    def _make(self, trial: Trial, make: "Callable[[Path], ModelPackage]") -> None:
        start = time.monotonic()
        folder = self._folder()
        trial.package = make(folder / "package")
        trial.compiled = compiled(trial.package, self.target, self.device, folder / "compiled")
        trial.figures["size_bytes"] = trial.compiled.size_bytes
        trial.make_seconds = time.monotonic() - start

    def _check_answers(self, trial: Trial, model: "CompiledModel") -> str:
        """Fills accuracy and drop; why the answers are not good enough, empty where they are."""
        sign = 1.0 if self.task.higher_is_better else -1.0
        for most in sorted({min(GLANCE, len(self.validation)), len(self.validation)}):
            rows = spread(len(self.validation), most)
            scores = self._scores(model, self.validation.take(rows))
            points = 100.0 * sign * (self.float_trial.scores[rows] - scores)
            drop, error = float(points.mean()), float(points.std() / np.sqrt(len(points)))
            trial.figures |= {"accuracy": float(scores.mean()), "drop_points": drop, "samples": len(rows)}
            final = self.whole and len(rows) == len(self.validation)
            allowed = self.max_drop + (0.0 if final else STANDARD_ERRORS * error)
            if drop > allowed:
                return f"costs {drop:.2f} points on {len(rows)} validation samples; {self.max_drop:g} are allowed"
        return ""

    def time(self, trials: Sequence[Trial], seconds: float, *, reload: bool = False) -> None:
        """Times what ships, on single samples, all in turn; the first trial is what the others are compared with.

        reload: whether each is loaded again and again, for a difference of a percent or two to be sure of; without it
        the intervals know nothing of what a loading has to itself, which is enough to see what is worth a closer look.
        """
        models = [trial.compiled for trial in trials if trial.compiled is not None]
        feeds = single_samples(models[0], self.validation)
        if reload:
            latencies = Loadings([partial(loaded, model) for model in models], feeds, WARM_UP).measure(seconds)
        else:
            runners = [loaded(model) for model in models]
            block = block_size(runners, feeds, seconds)
            latencies = interleave(runners, feeds, seconds=seconds, block=block, warmup=WARM_UP)
        for trial, taken in zip(trials, latencies, strict=True):
            trial.latencies_ms = taken
            trial.figures["latency_ms"] = float(np.median(taken))
            if trials[0] is self.float_trial:
                trial.figures["ratio_to_float"] = ratio_interval(latencies[0], taken)

    def _folder(self) -> Path:
        """For one package and what comes of it."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for part in ("package", "compiled"):
            (folder / part).mkdir()
        return folder

    def _answering(self, package: "ModelPackage", compiled: "CompiledModel") -> "CompiledModel":
        """What gives the answers of a package here: what ships, or a simulation of it."""
        if self.capabilities.answers_as_it_ships:
            return compiled
        folder = compiled.folder.parent / "simulated"
        if (folder / "compiled.json").exists():
            return type(compiled).load(folder)
        folder.mkdir()
        return self.target.simulate(package, self.device.profile, folder)

    def _scores(self, model: "CompiledModel", samples: "Split") -> np.ndarray:
        """[samples] float64. Raises UnsupportedError where an answer is no number."""
        outputs = answers(model, samples)
        if not np.isfinite(outputs).all():
            raise UnsupportedError("its answers have NaN or infinity")
        return self.task.score(outputs, samples.labels)


def spread(samples: int, most: int) -> np.ndarray:
    """Positions of at most so many of the samples, from the first to the last: [min(samples, most)] int64."""
    return np.linspace(0, samples - 1, min(most, samples)).astype(np.int64)
