"""Cuts channels, heads and hidden units that matter least, and trains what is left to recover."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from calibration.errors import InputError
from pipeline.training_settings import TrainingSettings

if TYPE_CHECKING:
    from torch import nn

    from pipeline.distillation import Distillation
    from pipeline.model import ModelRecord
    from pipeline.stage import Work
    from pipeline.task import Task

# What the importance is estimated from: enough that another draw cuts nearly the same channels.
IMPORTANCE_BATCHES, IMPORTANCE_BATCH_SIZE = 32, 16


@dataclass(frozen=True)
class Prune(TrainingSettings):
    """macs: the share of multiply-accumulates that stays, reached from below. round_to: widths are multiples of it.

    The rest is of TrainingSettings: the recovery learns from the teacher's answers too, by default at a third of the
    learning rate of the training before. 0 epochs leave the recovery out.
    """

    macs: float = 0.7
    round_to: int = 8
    epochs: int = 2

    takes: ClassVar = ("task", "data", "logits", "model")
    gives: ClassVar = "model"
    distributions: ClassVar = ("torch", "torch-pruning", "transformers", "safetensors")
    revision: ClassVar = 1
    least_epochs: ClassVar = 0

    def __post_init__(self) -> None:
        if not 0 < self.macs < 1:
            raise InputError(f"macs: {self.macs:g} is not between 0 and 1", "give the share that stays, as 0.7")
        if self.round_to < 1:
            raise InputError(f"round_to: {self.round_to} is less than 1", "give 8, or 1 for any width")
        super().__post_init__()

    def __call__(self, work: "Work", *, task: "Task", data: Path, logits: Path, model: Path) -> None:
        from pipeline.distillation import Distillation
        from pipeline.model import ModelRecord, load_model, save_model

        record = ModelRecord.load(model)
        lesson = Distillation.load(task, data, logits)
        # A run that was killed in its recovery goes on with the cut it made, which is kept beside the checkpoint.
        pruned = work.scratch / "pruned"
        if not pruned.is_dir():
            work.progress(0.0, "choosing what to cut")
            self._cut(lesson, load_model(model, work.recipe_folder), record, work, model / "config")
        module, record = load_model(pruned, work.recipe_folder), ModelRecord.load(pruned)
        if self.epochs:
            done = lesson.train(module, self._recovery(record), True, work.scratch, work.progress)
            record = replace(record, history=(*record.history, {"stage": "prune", **done}))
        save_model(module, record, work.out, config=pruned / "config")

    def _recovery(self, record: "ModelRecord") -> TrainingSettings:
        """The settings; without a learning rate of its own, a third of what the model was trained with before."""
        before = record.history[-1]["settings"] if record.history else None
        if self.learning_rate is None and before is not None and before["optimizer"] == self.optimizer:
            return replace(self, learning_rate=before["learning_rate"] / 3)
        return self

    def _cut(
        self, lesson: "Distillation", module: "nn.Module", record: "ModelRecord", work: "Work", config: Path
    ) -> None:
        """Leaves the pruned model, not yet recovered, in work.scratch / "pruned"."""
        import shutil

        import torch

        from pipeline.channel_groups import cut, find_groups
        from pipeline.edits import channels_edit, structure
        from pipeline.model import save_model
        from pipeline.pruning import Costs, choose, taylor_importance

        inputs = lesson.samples.batch(torch.arange(min(4, len(lesson.samples))))
        groups = find_groups(module, inputs, self.round_to)
        losses = lesson.losses(module, self, IMPORTANCE_BATCH_SIZE, IMPORTANCE_BATCHES)
        cuts = choose(Costs(module, inputs, groups), taylor_importance(module, inputs, groups, losses), self.macs)
        before = structure(module)
        cut(module, inputs, groups, cuts)
        edited = replace(record, edits=(*record.edits, channels_edit(before, structure(module))))
        new = work.scratch / "pruned.new"
        shutil.rmtree(new, ignore_errors=True)
        saved = save_model(module, edited, new, config=config)
        if saved.macs > self.macs * record.macs:
            raise InputError(
                f"prune: {saved.macs} of {record.macs} multiply-accumulates are left, more than macs: {self.macs:g}",
                "lower macs a little",
            )
        new.rename(work.scratch / "pruned")
