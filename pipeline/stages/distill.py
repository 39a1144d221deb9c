"""Trains the student on the teacher's answers (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.training_settings import TrainingSettings

if TYPE_CHECKING:
    from pipeline.stage import Work
    from pipeline.task import Task


@dataclass(frozen=True)
class Distill(TrainingSettings):
    """Its keys are those of TrainingSettings, which see."""

    takes: ClassVar = ("task", "data", "logits", "model")
    gives: ClassVar = "model"
    distributions: ClassVar = ("torch", "transformers", "safetensors")
    needs_student: ClassVar = True
    revision: ClassVar = 1

    def __call__(self, work: "Work", *, task: "Task", data: Path, logits: Path, model: Path) -> None:
        from pipeline.distillation import Distillation
        from pipeline.model import ModelRecord, load_model, save_model

        lesson = Distillation.load(task, data, logits)
        module, record = load_model(model, work.recipe_folder), ModelRecord.load(model)
        done = lesson.train(module, self, record.trained, work.scratch, work.progress)
        record = replace(record, trained=True, history=(*record.history, {"stage": "distill", **done}))
        save_model(module, record, work.out, config=model / "config")
