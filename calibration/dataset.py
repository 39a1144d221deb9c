"""The samples that set the ranges of a quantized model."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np

from calibration import mapped
from calibration.errors import InputError

# Samples that are read, written or hashed at once.
BLOCK = 64


class Feeds(Sequence[dict[str, np.ndarray]]):
    """The samples of a set as model feeds, each read when it is asked for: memory is that of one feed."""

    def __init__(self, inputs: Mapping[str, np.ndarray], starts: range, samples: int) -> None:
        self._inputs, self._starts, self._samples = inputs, starts, samples

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...
    @overload
    def __getitem__(self, index: slice) -> "Feeds": ...
    def __getitem__(self, index: int | slice) -> "dict[str, np.ndarray] | Feeds":
        if isinstance(index, slice):
            if index.step not in (None, 1):
                raise ValueError(f"feeds are taken in order, not with a step of {index.step}")
            return Feeds(self._inputs, self._starts[index], self._samples)
        start = self._starts[index]
        end = min(start + self._starts.step, self._samples)
        return {name: mapped.rows(array, slice(start, end)) for name, array in self._inputs.items()}


@dataclass(frozen=True)
class CalibrationSet:
    """Model inputs, already preprocessed, of representative samples.

    inputs: name -> array whose first axis is the sample, of the dtype that the model takes; memory-mapped where the set
        was loaded, so that it is best read through `feeds`.
    ids: content digest of each sample before preprocessing, so that a sample can be recognised in another split.
    labels: class of each sample, [samples] int64.
    seed: of the choice; the same data and seed give the same set.
    preprocessing: the settings that made the inputs; None where they are not known.
    wanted: how many samples are to set ranges, where the set is a pool to choose from by what a model makes of them; 0
        where all are.
    """

    inputs: Mapping[str, np.ndarray]
    ids: tuple[str, ...]
    labels: np.ndarray
    seed: int
    preprocessing: Mapping[str, Any] | None = None
    wanted: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """sha256 over names, dtypes, shapes and bytes of the inputs."""
        h = hashlib.sha256()
        for name, array in sorted(self.inputs.items()):
            h.update(f"{name}{array.dtype}{array.shape}".encode())
            for start in range(0, len(array), BLOCK):
                h.update(np.ascontiguousarray(mapped.rows(array, slice(start, start + BLOCK))).data)
        return h.hexdigest()

    def feeds(self, batch: int = 1) -> Feeds:
        """The set as model feeds of `batch` samples each, the last of what is left."""
        return Feeds(self.inputs, range(0, len(self), batch), len(self))

    def take(self, index: np.ndarray, folder: Path) -> "CalibrationSet":
        """The samples at these positions, [n] int64, as a set that is stored in an empty folder."""
        parts = np.array_split(index, max(1, -(-len(index) // BLOCK)))
        blocks = ({name: mapped.rows(array, part) for name, array in self.inputs.items()} for part in parts)
        ids = tuple(self.ids[i] for i in index)
        return replace(self, ids=ids, labels=self.labels[index], wanted=0).save(folder, blocks)

    def save(self, folder: Path, blocks: Iterable[Mapping[str, np.ndarray]] | None = None) -> "CalibrationSet":
        """Writes calibration.json, labels and one .npy an input; returns the set as `load` does.

        blocks: the inputs, in order and in the memory of one block, of a set that is being made; else its own are.
        """
        stream = iter(self.feeds(BLOCK) if blocks is None else blocks)
        first = next(stream, {})
        files = {name: f"input{position}.npy" for position, name in enumerate(first)}
        mapped.write({name: folder / file for name, file in files.items()}, len(self), chain([first], stream))
        np.save(folder / "labels.npy", self.labels, allow_pickle=False)
        record = {"schema": 2, "seed": self.seed, "wanted": self.wanted, "ids": list(self.ids), "inputs": files}
        (folder / "calibration.json").write_text(json.dumps(record | {"preprocessing": self.preprocessing}))
        return self.load(folder)

    @classmethod
    def load(cls, folder: Path) -> "CalibrationSet":
        record = json.loads((folder / "calibration.json").read_text())
        inputs = {name: mapped.load(folder / file) for name, file in record["inputs"].items()}
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        return cls(inputs, tuple(record["ids"]), labels, record["seed"], record["preprocessing"], record["wanted"])


def choose_balanced(labels: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Indices, sorted, of `samples` samples with as equal a share of each class as the data allows.

    labels: [n] integers. Raises InputError when there are no samples.
    """
    if len(labels) == 0:
        raise InputError("the calibration set is empty", "give data.calibration at least two samples of each class")
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    ranked = [(rank, int(index)) for group in shuffled for rank, index in enumerate(group)]
    ranked.sort()
    return np.sort(np.array([index for _, index in ranked[:samples]], dtype=np.int64))
