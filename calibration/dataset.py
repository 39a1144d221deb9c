"""The samples that set the ranges of a quantized model."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errors import InputError


@dataclass(frozen=True)
class CalibrationSet:
    """Model inputs, already preprocessed, of representative samples.

    inputs: name -> array whose first axis is the sample, of the dtype that the model takes.
    ids: content digest of each sample before preprocessing, so that a sample can be recognised in another split.
    labels: class of each sample, [samples] int64.
    seed: of the choice; the same data and seed give the same set.
    """

    inputs: dict[str, np.ndarray]
    ids: tuple[str, ...]
    labels: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """sha256 over names, dtypes, shapes and bytes of the inputs."""
        h = hashlib.sha256()
        for name, array in sorted(self.inputs.items()):
            h.update(f"{name}{array.dtype}{array.shape}".encode())
            h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()

    def feeds(self, batch: int = 1) -> list[dict[str, np.ndarray]]:
        """The set as model feeds of `batch` samples each, the last of what is left."""
        return [{name: array[i : i + batch] for name, array in self.inputs.items()} for i in range(0, len(self), batch)]

    def save(self, folder: Path) -> None:
        arrays: dict[str, Any] = {"label": self.labels} | {f"input.{k}": v for k, v in self.inputs.items()}
        np.savez(folder / "calibration.npz", **arrays)
        (folder / "calibration.json").write_text(json.dumps({"schema": 1, "seed": self.seed, "ids": self.ids}))

    @classmethod
    def load(cls, folder: Path) -> "CalibrationSet":
        record = json.loads((folder / "calibration.json").read_text())
        with np.load(folder / "calibration.npz", allow_pickle=False) as arrays:
            inputs = {k.removeprefix("input."): arrays[k] for k in arrays.files if k.startswith("input.")}
            return cls(inputs, tuple(record["ids"]), arrays["label"], record["seed"])


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
