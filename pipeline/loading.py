"""From what a recipe says of its data to stored samples: the same way for training, test and calibration data."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.errors import InputError
from pipeline import clean, sources
from pipeline.data import Split, Table, sample_ids
from pipeline.recipe import DataSource
from pipeline.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Record:
    """What was done, in words and in numbers of samples."""

    steps: list[str] = field(default_factory=list)
    removed: dict[str, int] = field(default_factory=dict)

    def note(self, step: str, kind: str = "", samples: int = 0) -> None:
        self.steps.append(step)
        if kind:
            self.removed[kind] = self.removed.get(kind, 0) + samples


def read_tables(source: DataSource, recipe_folder: Path) -> dict[str, Table]:
    """The training samples ("train" or "all") first, then splits that came with them or data.test; columns renamed."""
    tables = _read(source.source, source, recipe_folder)
    if source.test is not None:
        if "test" in tables:
            raise InputError(
                f"data.test is given, but {source.source} has test samples of its own", "remove one of the two"
            )
        test = _read(source.test, source, recipe_folder)
        tables = {"train" if name == "all" else name: table for name, table in tables.items()}
        tables["test"] = test["test"] if "test" in test else next(iter(test.values()))
    first = "train" if "train" in tables else "all"
    if first not in tables:
        raise InputError(f"{source.source} has no training samples, only {', '.join(tables)}", "add a train split")
    return {name: tables[name] for name in (first, "validation", "test") if name in tables}


def _read(name: str, source: DataSource, recipe_folder: Path) -> dict[str, Table]:
    roots = tuple((recipe_folder / root).resolve() for root in (name, *source.files))
    tables = sources.read(name, recipe_folder)
    return {split: replace(table.rename(source.columns or {}), roots=roots) for split, table in tables.items()}


def complete(table: Table, task: Task, missing: "str | Mapping[str, Any]", record: Record) -> Table:
    """The table with every column the task needs and no missing value in them, by the recipe's rule `missing`."""
    clean.require_columns(table, task.columns)
    record.note(f"read {len(table)} samples from {table.file}")
    kept, found = clean.handle_missing(table, task.columns, missing)
    if len(kept) < len(table):
        record.note(f"removed {len(table) - len(kept)} samples with missing values", "missing", len(table) - len(kept))
    elif found:
        record.note(f"filled in missing values of {found} samples")
    return kept


def encode(task: Task, table: Table, names: list[str], tokenizer: Path | None) -> Split:
    """The stored samples of a table, in its order."""
    if len(table) == 0:
        raise InputError(f"{table.file} has no samples left", "give it at least two samples of each class")
    labels = task.labels(table, names)
    columns = task.encode(table, tokenizer)
    return Split(columns, labels, sample_ids(columns))


def check_alike(split: Split, file: str, training: Split) -> None:
    """Raises InputError naming the column of `split`, read from `file`, that has other samples than training has."""
    for name, array in split.columns.items():
        expected = training.columns[name]
        if array.shape[1:] != expected.shape[1:] or array.dtype != expected.dtype:
            raise InputError(
                f"{file}: {name} is {array.dtype} {list(array.shape[1:])} a sample, but {expected.dtype} "
                f"{list(expected.shape[1:])} in the training data",
                "prepare both the same way",
            )


def load_calibration(
    task: Task, source: DataSource, training: Split, names: list[str], recipe_folder: Path, tokenizer: Path | None
) -> Split:
    """The samples of data.calibration (else data.source's training ones), stored as prepare does; copies stay.

    names: the class names of prepare's record. Raises InputError naming what is wrong with them.
    """
    tables = _read(source.calibration or source.source, source, recipe_folder)
    table = tables.get("all") or tables.get("train") or next(iter(tables.values()))
    split = encode(task, complete(table, task, source.missing, Record()), names, tokenizer)
    check_alike(split, table.file, training)
    return split
