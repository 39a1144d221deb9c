"""Reads a dataset folder as the Hugging Face datasets library and hub write it, with pyarrow alone.

Either save_to_disk's (state.json and Arrow streams, below dataset_dict.json where there are splits) or parquet files
whose names begin with the split. Files of .jsonl and .csv named by the split are read like any other folder's.
Column types are in the schema's metadata: https://huggingface.co/docs/datasets/about_dataset_features
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.errors import InputError, UnsupportedError
from pipeline.data import SPLIT_NAMES, Table
from pipeline.sources.tables import as_column, make_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa


def read_folder(folder: Path) -> dict[str, Table]:
    """The splits of a dataset folder, {"all": table} where it has none, {} where the folder is no such dataset."""
    if (folder / "dataset_dict.json").is_file():
        splits = _part(folder / "dataset_dict.json", "splits")
        return {SPLIT_NAMES.get(s, s): _read_saved(folder / s, f"{folder.name}/{s}") for s in map(str, splits)}
    if (folder / "state.json").is_file():
        return {"all": _read_saved(folder, folder.name)}
    files = sorted(f for pattern in ("*.parquet", "*/*.parquet") for f in folder.glob(pattern))
    groups: dict[str, list[Path]] = {}
    for file in files:
        named = re.match(rf"({'|'.join(SPLIT_NAMES)})(?![a-z])", file.name)
        split = SPLIT_NAMES[str(named[1])] if named else "all"
        groups.setdefault(split, []).append(file)
    if "all" in groups and len(groups) > 1:
        raise InputError(
            f"{groups['all'][0]} belongs to no split, but {len(groups) - 1} of the others do", "name it train-*.parquet"
        )
    return {
        s: _table([_parquet(f) for f in fs], folder.name if s == "all" else f"{folder.name}/{s}", fs[0].parent)
        for s, fs in groups.items()
    }


def _read_saved(folder: Path, name: str) -> Table:
    entries = _part(folder / "state.json", "_data_files")
    if not all(isinstance(entry, dict) and isinstance(entry.get("filename"), str) for entry in entries):
        raise InputError(f"{folder / 'state.json'} names no data files", "save the dataset again")
    files = [folder / entry["filename"] for entry in entries]
    return _table([_stream(f) for f in files], name, folder)


def _table(parts: "Sequence[pa.Table]", name: str, folder: Path) -> Table:
    columns: dict[str, Any] = {}
    classes: dict[str, list[str]] = {}
    features = _features(parts[0])
    for column in parts[0].column_names:
        values = [v for part in parts for v in part.column(column).to_pylist()]
        kind = features.get(column, {})
        if kind.get("_type") == "ClassLabel":
            classes[column] = kind["names"]
            values = [None if v == -1 else v for v in values]  # the library's mark for a label that is not known
        elif kind.get("_type") == "Image":
            values = [None if v is None else v["bytes"] or v["path"] for v in values]
        columns[column] = as_column(values)
    return make_table(columns, name, folder, classes=classes)


def _features(table: "pa.Table") -> dict[str, dict[str, Any]]:
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(metadata)["info"]["features"] if metadata else {}
    return {name: kind for name, kind in features.items() if isinstance(kind, dict)}


def _stream(path: Path) -> "pa.Table":
    arrow = _pyarrow()
    try:
        with arrow.memory_map(str(path)) as source:
            return arrow.ipc.open_stream(source).read_all()
    except (OSError, arrow.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read: {error}", "save the dataset again") from error


def _parquet(path: Path) -> "pa.Table":
    arrow = _pyarrow()
    from pyarrow import parquet

    try:
        return parquet.read_table(path)
    except (OSError, arrow.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read: {error}", "save the dataset again") from error


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UnsupportedError(
            "Hugging Face dataset folders are read with pyarrow, which is not installed",
            'pip install "edgewright[datasets]"',
        ) from error
    return pa


def _part(path: Path, key: str) -> list[Any]:
    """The list under a key of a JSON file. Raises InputError where there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}", "save the dataset again") from error
    part = content.get(key) if isinstance(content, dict) else None
    if not isinstance(part, list) or not part:
        raise InputError(f"{path} has no list {key!r}", "save the dataset again")
    return part
