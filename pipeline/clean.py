"""What prepare does to samples before they are used: missing values, duplicates, leakage, splits."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from calibration.errors import InputError
from pipeline.data import Split, Table


def require_columns(table: Table, names: Sequence[str]) -> None:
    """Raises InputError where the table lacks a column, with how to say which of its columns it is."""
    for name in names:
        if name not in table.columns:
            near = (
                get_close_matches(name, table.columns, 1) or [c for c in table.columns if c not in names] or ["..."]
            )[0]
            raise InputError(
                f"{table.file} has no column {name!r}; it has {', '.join(table.columns)}",
                f"say which one it is: data: {{columns: {{{name}: {near}}}}}",
            )


def handle_missing(table: Table, names: Sequence[str], rule: "str | Mapping[str, Any]") -> tuple[Table, int]:
    """The table without missing values in the named columns, and how many samples had one.

    rule: "refuse", "drop", or column -> the value to put in. Raises InputError naming the samples that no rule covers,
    or a number that is NaN or infinite, which is damage and never a missing value.
    """
    absent = np.zeros(len(table), dtype=bool)
    filled = np.zeros(len(table), dtype=bool)
    columns = dict(table.columns)
    for name in names:
        missing = _missing(table, name)
        if not isinstance(rule, str) and name in rule and missing.any():
            columns[name] = columns[name].copy()
            columns[name][missing] = rule[name]
            filled |= missing
        else:
            absent |= missing
            if missing.any() and rule != "drop":
                first = ", ".join(table.where(int(i)) for i in np.flatnonzero(missing)[:3])
                raise InputError(
                    f"{first}: {name} is missing ({missing.sum()} such samples)",
                    f"correct them, or say what to do: data: {{missing: drop}} or {{missing: {{{name}: VALUE}}}}",
                )
    kept = replace(table, columns=columns)
    return (kept.take(np.flatnonzero(~absent)) if absent.any() else kept), int((absent | filled).sum())


def _missing(table: Table, name: str) -> np.ndarray:
    column = table.columns[name]
    if column.dtype.kind == "f":
        _refuse(table, name, np.asarray(~np.isfinite(column.reshape(len(column), -1)).all(axis=1)))
    if column.dtype != object:
        return np.zeros(len(column), dtype=bool)
    _refuse(table, name, np.array([isinstance(v, float) and not np.isfinite(v) for v in column], dtype=bool))
    return np.array([v is None for v in column], dtype=bool)


def _refuse(table: Table, name: str, bad: np.ndarray) -> None:
    if bad.any():
        first = ", ".join(table.where(int(i)) for i in np.flatnonzero(bad)[:3])
        raise InputError(f"{first}: {name} is NaN or infinite ({bad.sum()} such samples)", "correct or remove them")


def without_duplicates(split: Split) -> tuple[np.ndarray, int, int]:
    """(positions to keep, [n] int64; samples removed as copies; samples removed as contradictions).

    Of samples that are the same the first stays; where they carry different labels none does.
    """
    labels: dict[bytes, set[int]] = defaultdict(set)
    for sample, label in zip(split.ids.tolist(), split.labels.tolist(), strict=True):
        labels[sample].add(label)
    seen: set[bytes] = set()
    keep: list[int] = []
    contradictions = 0
    for i, sample in enumerate(split.ids.tolist()):
        if len(labels[sample]) > 1:
            contradictions += 1
        elif sample not in seen:
            seen.add(sample)
            keep.append(i)
    return np.array(keep, dtype=np.int64), len(split) - len(keep) - contradictions, contradictions


def without_leakage(train: Split, held_out: Mapping[str, tuple[Split, Table]], table: Table, rule: str) -> np.ndarray:
    """Positions of the training samples that are in none of the held-out splits, [n] int64.

    held_out: name -> (split, the table it came from). rule: "refuse" or "drop". Raises InputError with the count and
    examples of samples in both, where they are refused.
    """
    position = {sample: i for i, sample in enumerate(train.ids.tolist())}
    leaked: set[int] = set()
    for name, (split, other) in held_out.items():
        both = [(position[sample], j) for j, sample in enumerate(split.ids.tolist()) if sample in position]
        if both and rule == "refuse":
            pairs = "; ".join(f"{table.where(i)} = {other.where(j)}" for i, j in both[:3])
            raise InputError(
                f"{len(both)} samples of {name} are among the training samples too ({pairs}): a score on them "
                "would prove nothing",
                "remove them, or let them be removed from the training samples: data: {leakage: drop}",
            )
        leaked |= {i for i, _ in both}
    return np.array([i for i in range(len(train)) if i not in leaked], dtype=np.int64)


def cut(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions that stay, positions that are cut off), sorted [n] int64, each class in the same share.

    A class keeps at least one sample. The same labels, share and seed give the same cut.
    """
    rng = np.random.default_rng(seed)
    off: list[np.ndarray] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        off.append(members[: min(round(len(members) * share), len(members) - 1)])
    cut_off = np.sort(np.concatenate(off)) if off else np.empty(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), cut_off), cut_off


def counts(labels: np.ndarray, names: list[str]) -> dict[str, int]:
    """Class name -> number of samples."""
    found = Counter(labels.tolist())
    return {name: found[i] for i, name in enumerate(names)}
