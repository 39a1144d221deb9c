"""Trains the student on the teacher's answers (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from pipeline.stage import Work
    from pipeline.task import Task


@dataclass(frozen=True)
class Distill:
    """temperature: softens the teacher's answers. label_weight: the labels' share of the loss, from 0 to 1.

    learning_rate, weight_decay: None takes the optimizer's default. warmup_share: of all steps.
    patience: epochs without a better validation score before it stops; the best epoch's weights are kept in any case.
    precision: "auto" trains in bfloat16 where the CPU has instructions for it.
    """

    epochs: int = 3
    temperature: float = 4.0
    label_weight: float = 0.1
    optimizer: Literal["adamw", "sgd", "lamb"] = "adamw"
    learning_rate: float | None = None
    weight_decay: float | None = None
    batch_size: int = 128
    warmup_share: float = 0.1
    clip_norm: float = 1.0
    patience: int | None = None
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    takes: ClassVar = ("task", "data", "logits", "model")
    gives: ClassVar = "model"
    distributions: ClassVar = ("torch", "transformers", "safetensors")
    needs_student: ClassVar = True
    revision: ClassVar = 1

    def __post_init__(self) -> None:
        from pipeline.training_settings import check

        check(self)

    def __call__(self, work: "Work", *, task: "Task", data: Path, logits: Path, model: Path) -> None:
        from pipeline.distillation import Distillation
        from pipeline.model import ModelRecord, load_model, save_model
        from pipeline.training_settings import settings_of

        lesson = Distillation.load(task, data, logits)
        module, record = load_model(model, work.recipe_folder), ModelRecord.load(model)
        done = lesson.train(module, settings_of(self), record.trained, work.scratch, work.progress)
        record = replace(record, trained=True, history=(*record.history, {"stage": "distill", **done}))
        save_model(module, record, work.out, config=model / "config")
