"""What a student learns from: samples, and the teacher's cached answers to them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.data import load_split
from pipeline.samples import Samples
from pipeline.task import Task
from pipeline.training import Progress, batch_loss, train
from pipeline.training_settings import TrainingSettings


@dataclass(frozen=True)
class Distillation:
    """teacher: logits [n, classes] of each view of the training samples, memory-mapped."""

    task: Task
    samples: Samples
    validation: Samples
    teacher: Sequence[np.ndarray]

    @classmethod
    def load(cls, task: Task, data: Path, logits: Path) -> "Distillation":
        """Opens the data and the teacher's answers."""
        settings = task.preprocessing(data)
        samples, validation = (Samples(load_split(data, name), settings) for name in ("train", "validation"))
        files = sorted(logits.glob("train.*.npy"), key=lambda f: int(f.name.split(".")[1]))
        return cls(task, samples, validation, [np.load(f, mmap_mode="r", allow_pickle=False) for f in files])

    def train(
        self, module: nn.Module, settings: TrainingSettings, trained: bool, scratch: Path, progress: Progress
    ) -> dict[str, Any]:
        """Trains the module in place; see pipeline.training.train."""
        return train(
            module,
            self.task,
            self.samples,
            self.validation,
            settings,
            teacher=self.teacher,
            trained=trained,
            scratch=scratch,
            progress=progress,
        )

    def losses(
        self, module: nn.Module, settings: TrainingSettings, size: int, count: int
    ) -> Iterator[Callable[[], torch.Tensor]]:
        """The loss of `count` batches of `size` samples, each computed when called, in float32 and eval mode."""
        order = torch.randperm(len(self.samples), generator=torch.Generator().manual_seed(settings.seed))
        for index in order[: size * count].split(size):
            yield lambda part=index: batch_loss(module, self.task, self.samples, settings, self.teacher, part, 0, False)
