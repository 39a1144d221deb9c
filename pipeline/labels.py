"""Labels as a source gives them -> positions among class names."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from calibration.errors import InputError
from pipeline.data import Table

# Beyond it a whole number is no position of a model's output.
LARGEST_LABEL = 2**31


def class_names(table: Table, given: Sequence[str] | None) -> list[str]:
    """The class names: those given, or that the source states, or the labels sorted.

    Integer labels without names must be 0, 1, ... without a gap, since they are positions in the model's outputs.
    Raises InputError naming the sample whose label breaks that, or where there are fewer than two classes.
    """
    names = list(given or table.classes.get("label", ()))
    if not names:
        values = label_values(table)
        if isinstance(values, np.ndarray):
            names = [str(i) for i in range(_contiguous(table, values))]
        else:
            names = sorted(set(values))
    if len(names) < 2:
        where = "the task's `classes` name" if given else f"{table.file} has"
        raise InputError(f"{where} one class only, {names[0]!r}", "give samples of at least two classes")
    return names


def positions(table: Table, names: list[str]) -> np.ndarray:
    """The position of each label among the names, [n] int64. Raises InputError naming one that is unknown."""
    values = label_values(table)
    if isinstance(values, np.ndarray):
        bad = np.flatnonzero((values < 0) | (values >= len(names)))
        if len(bad):
            raise InputError(
                f"{table.where(int(bad[0]))}: label {values[bad[0]]} is out of range: there are {len(names)} "
                f"classes, 0 to {len(names) - 1} ({len(bad)} such labels)",
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


def label_values(table: Table) -> "np.ndarray | list[str]":
    """Labels as names where the source names them; else integers, [n], where all are (1, 1.0, "1"), or strings."""
    cells = table.columns["label"]
    if "label" in table.classes:
        return _named(table, cells, table.classes["label"])
    if cells.ndim != 1:
        raise InputError(
            f"{table.file}: labels have the shape {list(cells.shape)}", "give one label a sample, not one-hot rows"
        )
    odd = [
        i for i, cell in enumerate(cells) if not isinstance(cell, (str, int, float, np.integer, np.floating, np.bool_))
    ]
    if odd:
        kind = cells.dtype if cells.dtype != object else type(cells[odd[0]]).__name__
        raise InputError(f"{table.where(odd[0])}: a label cannot be of the type {kind}", "give integers or names")
    if cells.dtype.kind in "iub":
        return cells.astype(np.int64)
    if cells.dtype.kind != "f" and not all(_is_integer(c) for c in cells):
        for i, cell in enumerate(cells):
            if isinstance(cell, float):
                raise InputError(f"{table.where(i)}: label {cell} is not a class", "give integers or names")
        return [_printable(table, i, str(c)) for i, c in enumerate(cells)]
    values = cells.astype(np.float64)
    bad = np.flatnonzero((values != np.floor(values)) | (np.abs(values) > LARGEST_LABEL))
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


def _printable(table: Table, index: int, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{table.where(index)}: label {name!a} is no text: {error.reason}", "correct it") from error
    return name


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
