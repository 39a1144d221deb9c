"""What tasks that put a sample into one class have in common."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calibration.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.data import Table


@dataclass(frozen=True, kw_only=True)
class Classification:
    """classes: the class names in the order of the model's outputs; None for those of the training labels, sorted."""

    classes: tuple[str, ...] | None = None

    metric: ClassVar[str] = "accuracy"
    unit: ClassVar[str] = "fraction"
    higher_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise InputError(
                f"classes: {list(self.classes)} must be at least two different names", "correct the task's settings"
            )

    def label_names(self, table: "Table") -> list[str]:
        """The class names (pipeline/labels.py)."""
        from pipeline.labels import class_names

        return class_names(table, self.classes)

    def labels(self, table: "Table", names: list[str]) -> "np.ndarray":
        """The position of each label among the names, [n] int64. Raises InputError where one is unknown."""
        from pipeline.labels import positions

        return positions(table, names)

    def loss(self, outputs: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """Cross entropy of logits [n, classes] and labels [n], the mean over the samples."""
        from torch.nn import functional

        return functional.cross_entropy(outputs, labels)

    def distillation_loss(self, outputs: "torch.Tensor", teacher: "torch.Tensor", temperature: float) -> "torch.Tensor":
        """KL divergence from the softened teacher's answers to the student's, [n, classes] logits each.

        The mean over the samples, times temperature^2, which keeps the gradient's size the same at any temperature
        (Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2).
        """
        from torch.nn import functional

        student = functional.log_softmax(outputs / temperature, dim=1)
        target = functional.log_softmax(teacher / temperature, dim=1)
        return functional.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2

    def score(self, outputs: "np.ndarray", labels: "np.ndarray") -> "np.ndarray":
        """1 where the largest logit is the label's, else 0; [n] float64. The mean is the accuracy."""
        return (outputs.argmax(axis=1) == labels).astype("float64")

    def slices(self, labels: "np.ndarray", names: list[str]) -> "dict[str, np.ndarray]":
        """One slice a class: name -> mask over the samples."""
        return {name: labels == i for i, name in enumerate(names)}

    def dims(self) -> dict[str, tuple[int, int, int]]:
        """The batch is free."""
        return {"batch": (1, 1, 256)}
