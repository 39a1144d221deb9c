"""Trains a quantized package and asks the runtime what came of it: what was trained, and is it better?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from calibration.errors import UnsupportedError
from pipeline.compiling import compiled
from pipeline.distillation import Distillation
from pipeline.evaluate import answers
from pipeline.model import run_model
from pipeline.quantized_module import QuantizedModule
from pipeline.training import predict
from pipeline.training_settings import TrainingSettings
from targets.device.golden import sqnr_db
from targets.onnx_graph import read_graph, write_package
from targets.plugins import load
from targets.target import ModelPackage

if TYPE_CHECKING:
    from pipeline.data import Split
    from pipeline.recipe import Device
    from pipeline.stage import Work
    from pipeline.task import Task

# Between what is trained and what the runtime executes only near ties round otherwise, which leaves more of the signal
# than quantization itself does. Below these bars the runtime computes something else.
LEAST_FIDELITY_DB = 30.0
LEAST_LABEL_AGREEMENT = 0.99


@dataclass(frozen=True)
class Outcome:
    """package: trained, None where the untrained one is to be kept. said: why, in words for the report.

    figures: of what was trained, as in choice.json, with fidelity_db and label_agreement: how far the runtime's answers
        are those of the module that was trained. Empty where nothing was trained.
    """

    package: ModelPackage | None
    said: str
    figures: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Runtime:
    """The device's runtime, or what stands for its answers here.

    float_accuracy: of the model before quantization, on the same samples.
    """

    task: "Task"
    validation: "Split"
    route: "Device"
    recipe_folder: Path
    folder: Path
    float_accuracy: float

    def answers(self, package: ModelPackage, name: str) -> np.ndarray:
        """[samples, classes] of the validation samples."""
        target = load("targets", self.route.target, self.recipe_folder)()
        out = self.folder / name
        out.mkdir()
        if target.capabilities(self.route.profile).answers_as_it_ships:
            return answers(compiled(package, target, self.route, out), self.validation)
        return answers(target.simulate(package, self.route.profile, out), self.validation)

    def figures(self, found: np.ndarray) -> dict[str, Any]:
        """Accuracy, and the points that it is below the float model's."""
        accuracy = float(self.task.score(found, self.validation.labels).mean())
        sign = 1.0 if self.task.higher_is_better else -1.0
        return {"accuracy": accuracy, "drop_points": 100.0 * sign * (self.float_accuracy - accuracy)}


def recover(
    before: ModelPackage,
    runtime: Runtime,
    lesson: Distillation,
    settings: TrainingSettings,
    work: "Work",
    *,
    min_drop: float,
    max_drop: float,
) -> Outcome:
    """Trains a package that lost more than min_drop points; to be kept if it is then better, and within max_drop."""
    if before.precision != "int8":
        return Outcome(None, "not trained: what ships is not int8")
    try:
        module = QuantizedModule(read_graph(before))
        run_model(module, lesson.validation.batch(torch.arange(1)))
    except UnsupportedError as error:
        return Outcome(None, f"not trained: {error.message}")
    untrained = runtime.figures(runtime.answers(before, "untrained"))["drop_points"]
    if untrained <= min_drop:
        return Outcome(None, f"not trained: calibration costs {untrained:.2f} points, and {min_drop:g} are nothing")
    lesson.train(module, settings, True, work.scratch, work.progress)
    folder = runtime.folder / "package"
    folder.mkdir()
    trained = write_package(before, module.graph(), folder, before.precision)
    found, expected = runtime.answers(trained, "trained"), predict(module, lesson.validation)
    figures = runtime.figures(found) | {
        "fidelity_db": sqnr_db(expected, found),
        "label_agreement": float((expected.argmax(-1) == found.argmax(-1)).mean()),
    }
    said = (
        f"trained: {untrained:.2f} points lost became {figures['drop_points']:.2f}; the runtime agrees with what was "
        f"trained to {figures['fidelity_db']:.0f} dB and in {100 * figures['label_agreement']:.1f}% of the labels"
    )
    refusal = _refusal(figures, untrained, max_drop)
    return Outcome(None, f"{said}; not kept: {refusal}", figures) if refusal else Outcome(trained, said, figures)


def _refusal(figures: dict[str, Any], untrained: float, max_drop: float) -> str:
    """Why a trained package is not to be kept; empty where it is."""
    if figures["fidelity_db"] < LEAST_FIDELITY_DB or figures["label_agreement"] < LEAST_LABEL_AGREEMENT:
        return "the runtime computes something else"
    if figures["drop_points"] >= untrained:
        return "it is no better than before"
    if figures["drop_points"] > max_drop:
        return f"{max_drop:g} points are allowed"
    return ""
