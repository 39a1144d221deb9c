"""What a task is: how samples become model inputs, and how outputs are scored."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.data import Table


class Task(Protocol):
    """A frozen dataclass whose fields are its YAML keys. Its file is pipeline/tasks/<name>.py, its class the file's
    name in CamelCase.

    columns: the columns a data source must have, the label's last: ("image", "label").
    metric, unit, higher_is_better: as they stand in report.json.
    """

    columns: ClassVar[tuple[str, ...]]
    metric: ClassVar[str]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]
    distributions: ClassVar[tuple[str, ...]]

    def encode(self, table: "Table", tokenizer: Path | None) -> "dict[str, np.ndarray]":
        """Raw columns -> the arrays that are stored, compact, sample first (uint8 images; token ids).

        tokenizer: the teacher's folder, for text. Raises InputError naming the sample that does not fit.
        """
        ...

    def label_names(self, table: "Table") -> list[str]:
        """The class names, in the order of the labels, from the training samples."""
        ...

    def labels(self, table: "Table", names: list[str]) -> "np.ndarray":
        """The label of each sample, [n] int64. Raises InputError naming the sample whose label is none of the names."""
        ...

    def assets(self, tokenizer: Path | None) -> dict[str, str]:
        """Text files that travel with the model, name -> contents: the tokenizer, as encode sets it."""
        ...

    def rules(self) -> list[str]:
        """What encode does to a sample, in words, for the record."""
        ...

    def preprocessing(self, data: Path) -> dict[str, Any]:
        """The settings that turn stored arrays into model inputs: for targets/device/preprocess, and manifest.json.

        data: prepare's folder, for what comes from the data (the size of images).
        """
        ...

    def dims(self) -> dict[str, tuple[int, int, int]]:
        """Symbolic dimensions of the model inputs: name -> (min, opt, max)."""
        ...

    def augment(self, inputs: "dict[str, torch.Tensor]", view: int) -> "dict[str, torch.Tensor]":
        """A label-preserving variant of the inputs: the same for the same view, unchanged for view 0."""
        ...

    def loss(self, outputs: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """The supervised loss, a scalar."""
        ...

    def distillation_loss(self, outputs: "torch.Tensor", teacher: "torch.Tensor", temperature: float) -> "torch.Tensor":
        """How far the student's outputs are from the teacher's, a scalar."""
        ...

    def score(self, outputs: "np.ndarray", labels: "np.ndarray") -> "np.ndarray":
        """Per-sample contribution to the metric, [samples] float64; the metric is its mean."""
        ...

    def slices(self, labels: "np.ndarray", names: list[str]) -> "dict[str, np.ndarray]":
        """Slice name -> boolean mask over the samples; one a class for classification."""
        ...
