"""Quantization-aware training: where calibration alone loses too much, the quantized graph itself is trained."""

import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from calibration.errors import InputError
from pipeline.training_settings import TrainingSettings

if TYPE_CHECKING:
    from pipeline.quantization_aware_training import Outcome
    from pipeline.recipe import Device
    from pipeline.stage import Work
    from pipeline.task import Task


@dataclass(frozen=True)
class Qat(TrainingSettings):
    """Trains weights and scales of the Q/DQ graph that quantize chose, on the teacher's answers and the labels.

    min_drop: points of the metric on the validation split; where calibration lost no more, nothing is trained.
    The rest is of TrainingSettings.

    Writes a package with the same graph and the trained numbers, or the package as it was where training is not needed,
    not possible, or no better in the runtime; and choice.json, which says which and why.

    Where quantize's choice.json has "trainable", {"name": a candidate's, "max_drop": points}, the folder `trainable`
    beside it holds that candidate's package: faster than the chosen one, but further from the float model than is
    allowed. Then that one is trained, and kept if it comes within max_drop.
    """

    min_drop: float = 0.3
    epochs: int = 2
    # In fewer bits the module would round otherwise than the runtime does.
    precision: Literal["float32"] = field(default="float32", init=False)

    takes: ClassVar = ("task", "data", "logits", "model", "package", "route")
    gives: ClassVar = "package"
    distributions: ClassVar = ("torch", "onnx")
    revision: ClassVar = 2
    needs_torch: ClassVar = True
    follows: ClassVar = "quantize"

    def __post_init__(self) -> None:
        if not 0 <= self.min_drop < float("inf"):
            raise InputError(f"min_drop: {self.min_drop:g} is not 0 or above", "give points, such as 0.3")
        super().__post_init__()

    def __call__(
        self, work: "Work", *, task: "Task", data: Path, logits: Path, model: Path, package: Path, route: "Device"
    ) -> None:
        """Raises InputError where the model exists only as ONNX, or where the training diverges."""
        from pipeline.data import load_split
        from pipeline.distillation import Distillation
        from pipeline.model import ModelRecord
        from pipeline.quantization_aware_training import Runtime, recover
        from pipeline.stages.quantize import TRAINABLE
        from targets.target import ModelPackage

        if "onnx" in ModelRecord.load(model).source:
            raise InputError(
                "qat: a model that exists only as ONNX is not trained", "give its factory, or leave qat out"
            )
        choice = json.loads((package / "choice.json").read_text())
        trainable = choice.get("trainable")
        with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
            accuracy = next(c["figures"]["accuracy"] for c in choice["candidates"] if c["name"] == "float")
            validation = load_split(data, "validation")
            outcome = recover(
                ModelPackage.load(package / TRAINABLE if trainable else package),
                Runtime(task, validation, route, work.recipe_folder, Path(folder), accuracy),
                Distillation.load(task, data, logits),
                self,
                work,
                min_drop=self.min_drop,
                max_drop=trainable["max_drop"] if trainable else float("inf"),
            )
            shipped = (outcome.package or ModelPackage.load(package)).copy_to(work.out)
        replace(shipped, notes=(*shipped.notes, outcome.said)).save()
        (work.out / "choice.json").write_text(json.dumps(noted(choice, outcome), indent=1, allow_nan=False))
        work.progress(1.0, outcome.said)


def noted(choice: dict[str, Any], outcome: "Outcome") -> dict[str, Any]:
    """Quantize's record, with what came of the training as a further candidate, or as a note of the chosen one."""
    chosen = next(c for c in choice["candidates"] if c["chosen"])
    if not outcome.figures:
        others = [c if c is not chosen else c | {"why": f"{c['why']}; {outcome.said}"} for c in choice["candidates"]]
        return choice | {"candidates": others}
    kept = outcome.package is not None
    name = f"{choice['trainable']['name'] if 'trainable' in choice else chosen['name']}-trained"
    tried = {"name": name, "precision": "int8", "chosen": kept, "why": outcome.said, "figures": outcome.figures}
    if not kept:
        return choice | {"candidates": [*choice["candidates"], tried]}
    others = [
        c if c is not chosen else c | {"chosen": False, "why": f"{c['why']}; {name} is better"}
        for c in choice["candidates"]
    ]
    return choice | {"chosen": name, "candidates": [*others, tried]}
