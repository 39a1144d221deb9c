"""Stored samples as torch inputs."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from pipeline.data import Split
from targets.device.preprocess import preprocess

# Up to this size the model inputs of a whole split are made once and held; beyond, each batch makes its own.
HELD_BYTES = 1 << 31


class Samples:
    """The inputs and labels of a split: `batch(index)` -> {name: [batch, ...]}, the same as on the device.

    labels: [n] int64.
    """

    def __init__(self, split: Split, preprocessing: Mapping[str, Any], held_bytes: int = HELD_BYTES) -> None:
        self._columns, self._settings = split.columns, dict(preprocessing)
        self.labels = torch.from_numpy(np.array(split.labels, dtype=np.int64))
        self._held: dict[str, torch.Tensor] | None = None
        if len(split) == 0:
            return
        one = self.batch(torch.arange(1))
        if sum(t.nbytes for t in one.values()) * len(split) <= held_bytes:
            parts = [self.batch(index) for index in torch.arange(len(split)).split(4096)]
            self._held = {name: torch.cat([p[name] for p in parts]) for name in one}

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        """The inputs of the samples at these positions, [batch] int64."""
        if self._held is not None:
            return {name: t[index] for name, t in self._held.items()}
        rows = index.numpy()
        arrays = preprocess(self._settings, {name: np.asarray(a[rows]) for name, a in self._columns.items()})
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """(index, inputs) over all samples in order."""
        for index in torch.arange(len(self)).split(size):
            yield index, self.batch(index)


def channels_last(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Images in the memory format that convolutions on a CPU are fastest with; anything else unchanged."""
    return {name: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for name, t in inputs.items()}
