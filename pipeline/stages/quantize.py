"""Makes a model smaller and faster by arithmetic of fewer bits, where that can be shown to cost little."""

import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from calibration.errors import InputError

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet
    from pipeline.recipe import Device
    from pipeline.stage import Work
    from pipeline.task import Task
    from pipeline.trials import Bench, Trial


# Of the calibration set: on so many samples what is clipped is counted.
CLIPPING_SAMPLES = 64


TRAINABLE = "trainable"
# With `fast`, of the validation split: what a route that is wrong altogether shows on.
QUICK_SAMPLES = 128


@dataclass(frozen=True)
class Quantize:
    """Tries the routes that the target offers and keeps one, or the float model where none is worth it.

    dtype: the smallest type that may be used; int8 admits routes to float16 too.
    max_drop: points of the metric, on the validation split, that quantization may cost.
    seconds: for finding layers that are better left in float, after the target's routes have all been tried.
    fast: tries the target's first route alone, as it is, on some validation samples, which refuse only what is plainly
        wrong: for a first look.

    Writes the chosen package and choice.json, which has everything that was tried, with figures and reasons; in
    `trainable` a route that is faster and loses too much, for stage `qat`.
    """

    dtype: Literal["int8", "fp16"] = "int8"
    max_drop: float = 0.5
    seconds: float = 90.0
    fast: bool = False

    takes: ClassVar = ("task", "data", "calibration", "package", "route")
    gives: ClassVar = "package"
    distributions: ClassVar = ("numpy",)
    revision: ClassVar = 15

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < float("inf"):
            raise InputError(
                f"quantize.max_drop is {self.max_drop:g}: it must be a number from 0 on", "give points, such as 0.5"
            )
        if not 0 < self.seconds < float("inf"):
            raise InputError(
                f"quantize.seconds is {self.seconds:g}: it must be a number above 0",
                "give seconds for finding layers that stay float, such as 90",
            )

    def __call__(
        self, work: "Work", *, task: "Task", data: Path, calibration: Path, package: Path, route: "Device"
    ) -> None:
        """Raises UnsupportedError where the target cannot even take the float model."""
        from calibration.dataset import CalibrationSet
        from pipeline.choosing import Choosing
        from pipeline.data import load_split
        from pipeline.trials import Bench, spread
        from targets.calibration_fit import require_fitting
        from targets.onnx_coverage import narrowed
        from targets.onnx_graph import read_graph
        from targets.plugins import load
        from targets.target import ModelPackage

        started = time.monotonic()
        target = load("targets", route.target, work.recipe_folder)()
        able = target.capabilities(route.profile)
        with tempfile.TemporaryDirectory(dir=work.scratch) as folder, ThreadPoolExecutor(1) as aside:
            float_package = ModelPackage.load(package)
            validation = load_split(data, "validation")
            some = validation.take(spread(len(validation), QUICK_SAMPLES)) if self.fast else validation
            whole = len(some) == len(validation)
            bench = Bench(task, some, target, route, able, float_package, Path(folder), self.max_drop, aside, whole)
            wanted = ("int8", "fp16") if self.dtype == "int8" else ("fp16",)
            pool = CalibrationSet.load(calibration)
            require_fitting(pool, float_package)
            bench.begin()
            if not self.fast:
                # First of all, since it raises what the target has to say of a model that it cannot take.
                _ = bench.float_trial
            work.progress(0.0, "choosing calibration samples")
            (chosen_samples := Path(folder) / "calibration").mkdir()
            samples = narrowed(None if self.fast else read_graph(float_package), pool, chosen_samples)
            candidates = target.candidates(float_package, route.profile, samples)
            offered = [c for c in candidates if c.precision in wanted and c.precision in able.precisions]
            if self.fast:
                offered = [c.as_it_is() for c in offered[:1]]
            layers = "" if self.fast else f", then {self.seconds:.0f} s at most for layers that stay float"
            work.say(f"quantize: trying {len(offered)} route{'s' * (len(offered) != 1)}{layers}")
            choosing = Choosing(bench, offered, work, self.seconds, refine=not self.fast)
            chosen = choosing.choose()
            chosen.made[0].copy_to(work.out)
            record: dict[str, Any] = {
                "schema": 1,
                "choice": "measured" if able.executes_here else "rule",
                "chosen": chosen.name,
                "seconds": {"for_layers": self.seconds, "used_in_all": round(time.monotonic() - started, 1)},
                "candidates": [trial.record(chosen=trial is chosen) for trial in choosing.trials],
                "clipping": clipping(bench, chosen, samples),
                "sensitivities": [s.record(chosen.in_float) for s in choosing.known_of(chosen)],
            }
            if (trainable := choosing.trainable(chosen)) is not None:
                (work.out / TRAINABLE).mkdir()
                trainable.made[0].copy_to(work.out / TRAINABLE)
                record["trainable"] = {"name": trainable.name, "max_drop": self.max_drop}
        (work.out / "choice.json").write_text(json.dumps(record, indent=1, allow_nan=False))
        work.progress(1.0, f"{chosen.name}: {chosen.why}")


def clipping(bench: "Bench", chosen: "Trial", samples: "CalibrationSet") -> "dict[str, Any] | None":
    """What the device's processor would clip, layer by layer, had the chosen route no regard to it, and its price.

    None where nothing is clipped there, or how it sums is not known.
    """
    from targets.onnx_graph import read_graph
    from targets.onnx_saturation import saturating_layers

    without = bench.unguarded(chosen) if bench.capabilities.clips else None
    # Without a figure its answers could not be had: then what it clips cannot be counted either.
    if without is None or without.package is None or "accuracy" not in without.figures:
        return None
    layers = saturating_layers(read_graph(without.package), samples.feeds(1)[:CLIPPING_SAMPLES])
    return {
        "what": bench.capabilities.clips,
        "unguarded": {key: without.figures[key] for key in ("accuracy", "drop_points") if key in without.figures},
        "layers": [asdict(layer) | {"sqnr_db": layer.sqnr_db if layer.changed else None} for layer in layers],
    }
