"""Columns that are in memory already, and what makes them a table."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errors import InputError
from pipeline.data import SPLITS, Table
from targets import user_code


def make_table(
    columns: Mapping[str, Any],
    file: str,
    folder: Path,
    where: Callable[[int], str] | None = None,
    classes: Mapping[str, list[str]] | None = None,
) -> Table:
    """A table of equally long columns. Raises InputError naming the column whose length differs, or that has none."""
    arrays: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        arrays[str(name)] = values if isinstance(values, np.ndarray) else as_column(list(values))
    lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "none"
        raise InputError(
            f"the columns of {file} differ in length ({told})", "give every column one value for each sample"
        )
    return Table(arrays, file, where or (lambda i: f"{file} row {i}"), folder, classes or {})


def as_column(values: list[Any]) -> np.ndarray:
    """[n] values as integers or floats where all are, else as objects; None stands for a missing value."""
    kinds = {type(v) for v in values}
    if kinds and kinds <= {int, bool} and all(abs(v) < 2**63 for v in values):
        return np.array(values, dtype=np.int64)
    if kinds and kinds <= {int, float}:
        return np.array(values, dtype=np.float64)
    column = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):  # one by one: numpy would unpack a nested list
        column[i] = value
    return column


def from_function(reference: str, recipe_folder: Path) -> dict[str, Table]:
    """What a user's "file.py:function" returns: {column: array}, or such a mapping for each split."""
    made = user_code.call(reference, recipe_folder)
    folder = (recipe_folder / reference.rpartition(":")[0]).parent
    if isinstance(made, Mapping) and made:
        splits = made if all(isinstance(v, Mapping) for v in made.values()) else {"all": made}
        unknown = set(splits) - {"all", *SPLITS}
        if not unknown and all(_is_columns(v) for c in splits.values() for v in c.values()):
            return {
                split: make_table(columns, reference if split == "all" else f"{reference} {split}", folder)
                for split, columns in splits.items()
            }
    raise InputError(
        f"{reference} returned {_describe(made)}, which is no data",
        'return {column: array}, or {"train": {column: array}, "test": {column: array}}',
    )


def _is_columns(value: Any) -> bool:
    return isinstance(value, (np.ndarray, list, tuple))


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_describe(v)}" for k, v in list(value.items())[:4]) + "}"
    return type(value).__name__
