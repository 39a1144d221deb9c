"""What tasks that put a sample into one class have in common."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from calibration.errors import InputError
from pipeline.data import Table

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Classification:
    """classes: the class names in the order of the model's outputs; None for those of the training labels, sorted."""

    classes: tuple[str, ...] | None = None

    metric: ClassVar = "accuracy"
    unit: ClassVar = "fraction"
    higher_is_better: ClassVar = True

    def label_names(self, table: Table) -> list[str]:
        """The class names: `classes`, or those that the source states, or the training labels sorted.

        Integer labels without names must be 0, 1, ... without a gap, since they are positions in the model's outputs.
        Raises InputError naming the sample whose label breaks that, or where there are fewer than two classes.
        """
        names = list(self.classes or table.classes.get("label", ()))
        if not names:
            values = label_values(table)
            if isinstance(values, np.ndarray):
                names = [str(i) for i in range(_contiguous(table, values))]
            else:
                names = sorted(set(values))
        if len(names) < 2:
            raise InputError(
                f"{table.file} has one class only, {names[0]!r}", "give it samples of at least two classes"
            )
        return names

    def labels(self, table: Table, names: list[str]) -> np.ndarray:
        """The position of each label among the names, [n] int64. Raises InputError where one is unknown."""
        values = label_values(table)
        if isinstance(values, np.ndarray):
            bad = np.flatnonzero((values < 0) | (values >= len(names)))
            if len(bad):
                raise InputError(
                    f"{table.where(int(bad[0]))}: label {values[bad[0]]} is out of range: there are {len(names)} classes, "
                    f"0 to {len(names) - 1} ({len(bad)} such labels)",
                    "correct the labels",
                )
            return values
        position = {name: i for i, name in enumerate(names)}
        unknown = [i for i, value in enumerate(values) if value not in position]
        if unknown:
            raise InputError(
                f"{table.where(unknown[0])}: label {values[unknown[0]]!r} is none of {', '.join(names)} "
                f"({len(unknown)} such labels)",
                "correct the labels, or list all classes in the task's `classes`",
            )
        return np.array([position[value] for value in values], dtype=np.int64)

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

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """1 where the largest logit is the label's, else 0; [n] float64. The mean is the accuracy."""
        return (outputs.argmax(axis=1) == labels).astype(np.float64)

    def slices(self, labels: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """One slice a class: name -> mask over the samples."""
        return {name: labels == i for i, name in enumerate(names)}

    def dims(self) -> dict[str, tuple[int, int, int]]:
        """The batch is free."""
        return {"batch": (1, 1, 256)}


def label_values(table: Table) -> "np.ndarray | list[str]":
    """Labels as integers, [n] int64, where they all are (1, 1.0, "1"), else as strings; as names where the source has them."""
    cells = table.columns["label"]
    if "label" in table.classes:
        return _named(table, cells, table.classes["label"])
    if cells.ndim != 1:
        raise InputError(
            f"{table.file}: labels have the shape {list(cells.shape)}", "give one label a sample, not one-hot rows"
        )
    if cells.dtype.kind in "iub":
        return cells.astype(np.int64)
    if cells.dtype.kind != "f" and not all(_is_integer(c) for c in cells):
        for i, cell in enumerate(cells):
            if isinstance(cell, float):
                raise InputError(f"{table.where(i)}: label {cell} is not a class", "give integers or names")
        return [str(c) for c in cells]
    values = cells.astype(np.float64)
    bad = np.flatnonzero(values != np.floor(values))
    if len(bad):
        raise InputError(f"{table.where(int(bad[0]))}: label {cells[bad[0]]} is not a class", "give integers or names")
    return values.astype(np.int64)


def _named(table: Table, cells: np.ndarray, names: list[str]) -> list[str]:
    bad = [i for i, c in enumerate(cells) if not 0 <= c < len(names)]
    if bad:
        raise InputError(
            f"{table.where(bad[0])}: label {cells[bad[0]]} is out of range: the source names {len(names)} classes, "
            f"0 to {len(names) - 1} ({len(bad)} such labels)",
            "correct the labels",
        )
    return [names[c] for c in cells]


def _is_integer(cell: Any) -> bool:
    text = str(cell).removesuffix(".0").removeprefix("-")
    return text.isascii() and text.isdigit()


def _contiguous(table: Table, values: np.ndarray) -> int:
    """How many classes there are. Raises InputError where the labels are not 0, 1, ..."""
    found = np.unique(values)
    broken = np.flatnonzero(found != np.arange(len(found)))
    if not len(broken):
        return len(found)
    odd, below = int(found[broken[0]]), int(broken[0])
    others = f"labels of the other training samples run from 0 to {below - 1}" if below else "labels begin with 0"
    raise InputError(
        f"{table.where(int(np.flatnonzero(values == odd)[0]))}: label {odd} is out of range: {others}",
        "correct the labels, or list all classes in the task's `classes`",
    )
