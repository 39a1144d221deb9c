"""Data as the user has it -> clean splits of stored samples, and a record of what was done to them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from calibration.errors import InputError
from pipeline import clean
from pipeline.data import Split, Table
from pipeline.loading import Record, check_alike, complete, encode, read_tables
from pipeline.recipe import DataSource
from pipeline.stage import Work
from pipeline.task import Task


def prepare(work: Work, task: Task, source: DataSource, folder: Path | None) -> None:
    """What the stage does. folder: the teacher's, for its tokenizer."""
    record = Record()
    work.progress(0.0, "reading")
    tables = read_tables(source, work.recipe_folder)
    names: list[str] = []
    encoded: dict[str, tuple[Split, Table]] = {}
    for position, (split, raw) in enumerate(tables.items()):
        work.progress(0.1 + 0.7 * position / len(tables), f"encoding {split}")
        table = complete(raw, task, source.missing, record)
        # The first table holds the training samples.
        names = names or task.label_names(table)
        encoded[split] = unique(encode(task, table, names, folder), table, record)
    work.progress(0.8, "splitting")
    splits = divide(encoded, source, record)
    check_classes(splits, names, tables)
    for split, samples in splits.items():
        samples.save(work.out / split)
    for name, content in task.assets(folder).items():
        (work.out / "tokenizer").mkdir(exist_ok=True)
        (work.out / "tokenizer" / name).write_text(content, "utf-8")
    summary = {
        "schema": 1,
        "labels": names,
        "splits": {split: len(samples) for split, samples in splits.items()},
        "classes": {split: clean.counts(samples.labels, names) for split, samples in splits.items()},
        "removed": record.removed,
        "steps": [*record.steps, *task.rules()],
    }
    (work.out / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), "utf-8")
    work.progress(1.0, ", ".join(f"{len(s)} {name}" for name, s in splits.items()))


def unique(split: Split, table: Table, record: Record) -> tuple[Split, Table]:
    """The split without copies of a sample, and without samples that contradict each other."""
    keep, copies, contradictions = clean.without_duplicates(split)
    if copies:
        record.note(f"removed {copies} copies of samples in {table.file}", "duplicates", copies)
    if contradictions:
        record.note(
            f"removed {contradictions} samples of {table.file} that are the same but have different labels",
            "contradictions",
            contradictions,
        )
    return split.take(keep), table.take(keep)


def divide(encoded: Mapping[str, tuple[Split, Table]], source: DataSource, record: Record) -> dict[str, Split]:
    """train, validation and test: those that were given, and what is cut from the training samples for the others."""
    given = dict(encoded)
    train, table = given.pop("train" if "train" in given else "all")
    held_out = given
    for split, other in held_out.values():
        check_alike(split, other.file, train)
    keep = clean.without_leakage(train, held_out, table, source.leakage)
    if len(keep) < len(train):
        record.note(
            f"removed {len(train) - len(keep)} training samples that are held out too",
            "leakage",
            len(train) - len(keep),
        )
    elif held_out:
        record.note(f"no training sample is in {' or '.join(held_out)}")
    splits = {"train": train.take(keep), **{name: split for name, (split, _) in held_out.items()}}
    for name, share in (("test", source.test_share), ("validation", source.validation_share)):
        if name not in splits:
            stay, off = clean.cut(splits["train"].labels, share, source.seed)
            splits[name] = splits["train"].take(off)
            splits["train"] = splits["train"].take(stay)
            record.note(f"cut {len(off)} samples off for {name}: {share:.0%} of each class, seed {source.seed}")
    return {name: splits[name] for name in ("train", "validation", "test")}


def check_classes(splits: Mapping[str, Split], names: list[str], tables: Mapping[str, Table]) -> None:
    """Raises InputError where a split is empty or a class cannot be learned."""
    file = next(iter(tables.values())).file
    for name, split in splits.items():
        if len(split) == 0:
            raise InputError(
                f"{file}: no samples are left for {name}", f"give more samples, or raise data.{name}_share"
            )
    present = np.unique(splits["train"].labels)
    if len(present) < 2:
        raise InputError(
            f"{file} has samples of one class only, {names[int(present[0])]!r}",
            "give it samples of at least two classes",
        )
    absent = [name for i, name in enumerate(names) if i not in present]
    if absent:
        raise InputError(f"{file} has no training samples of {', '.join(absent)}", "add some, or leave the class out")
    untested = [name for i, name in enumerate(names) if i not in splits["test"].labels]
    if untested and "test" not in tables:
        raise InputError(
            f"{file} has too few samples of {', '.join(untested)}: none is left to test with",
            "add some, raise data.test_share, or leave the class out",
        )
