"""Samples: as a source gives them (Table), and as prepare stores them (Split)."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errors import InputError

SPLITS = ("train", "validation", "test")
# What others call them; case does not matter.
SPLIT_NAMES = {split: split for split in SPLITS} | dict.fromkeys(("valid", "val", "dev"), "validation")


@dataclass(frozen=True)
class Table:
    """Raw samples of one source.

    columns: name -> array whose first axis is the sample; a missing value is None in an object array.
    file: what was read, as the user knows it.
    where: sample index -> the place to look at: "mails.jsonl:17", "data.npz row 17".
    folder: paths to image files in a column are relative to it.
    classes: names of integer labels, column -> names, where the source states them.
    roots: the files and folders that the recipe names, whose changes are noticed.
    """

    columns: dict[str, np.ndarray]
    file: str
    where: Callable[[int], str]
    folder: Path
    classes: Mapping[str, list[str]]
    roots: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def take(self, index: np.ndarray) -> "Table":
        """The samples at these positions ([n] int64), each still known by where it came from."""
        where = self.where
        columns = {name: array[index] for name, array in self.columns.items()}
        return replace(self, columns=columns, where=lambda i: where(int(index[i])))

    def rename(self, names: Mapping[str, str]) -> "Table":
        """Columns under other names: {new: old}. Raises InputError where an old one does not exist."""
        for old in names.values():
            if old not in self.columns:
                raise InputError(
                    f"{self.file} has no column {old!r}, which data.columns names; it has {', '.join(self.columns)}",
                    "correct data.columns in the recipe",
                )
        back = {old: new for new, old in names.items()}
        columns = {back.get(n, n): a for n, a in self.columns.items() if n not in names or n in back}
        classes = {back.get(n, n): c for n, c in self.classes.items()}
        return replace(self, columns=columns, classes=classes)


@dataclass(frozen=True)
class Split:
    """Samples as they are stored, in memory-mapped arrays whose first axis is the sample.

    columns: what task.encode gave: uint8 [n, height, width, channels] "image"; int64 [n, length] "input_ids" ...
    labels: [n] int64.
    ids: [n] S64: hex sha256 of each sample as it is stored, its label not included (`sample_ids`).
    """

    columns: dict[str, np.ndarray]
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Split":
        """The samples at these positions, [n] int64."""
        return Split({k: a[index] for k, a in self.columns.items()}, self.labels[index], self.ids[index])

    def save(self, folder: Path) -> None:
        """Writes one .npy a column into a new folder."""
        folder.mkdir()
        for name, array in {**self.columns, "label": self.labels, "id": self.ids}.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)


def sample_ids(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Hex sha256 of each sample over its stored arrays, [n] S64. Samples with equal ids are the same to a model."""
    arrays = [np.ascontiguousarray(array) for _, array in sorted(columns.items())]
    n = len(arrays[0])
    rows = [a.reshape(n, -1).view(np.uint8).reshape(n, -1) for a in arrays]
    return np.array([hashlib.sha256(b"".join(r[i].tobytes() for r in rows)).hexdigest() for i in range(n)], dtype="S64")


def load_split(folder: Path, name: str) -> Split:
    """A split ("train", "validation", "test") of a folder that prepare wrote; its arrays are memory-mapped."""
    arrays = {f.stem: np.load(f, mmap_mode="r", allow_pickle=False) for f in sorted((folder / name).glob("*.npy"))}
    labels, ids = arrays.pop("label"), arrays.pop("id")
    return Split(arrays, labels, ids)


def summary(folder: Path) -> dict[str, Any]:
    """What prepare wrote down of what it did."""
    return json.loads((folder / "summary.json").read_text())


def label_names(folder: Path) -> list[str]:
    """The class names, in the order of the labels."""
    return summary(folder)["labels"]
