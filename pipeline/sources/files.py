"""Reads one .npz, .csv or .jsonl file."""

import csv
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errors import InputError
from pipeline.data import Table
from pipeline.sources.tables import as_column, make_table

SUFFIXES = (".npz", ".csv", ".jsonl")


def read_file(path: Path) -> Table:
    """One file as a table. Raises InputError naming the line or array that cannot be read."""
    readers = {".npz": _read_npz, ".csv": _read_csv, ".jsonl": _read_jsonl}
    if path.suffix not in readers:
        raise InputError(f"{path} is none of {', '.join(SUFFIXES)}", "convert it, or read it in a file.py:function")
    table = readers[path.suffix](path)
    if len(table) == 0:
        raise InputError(f"{path} holds no samples", "give it at least two samples of each class")
    return table


def _read_npz(path: Path) -> Table:
    columns: dict[str, np.ndarray] = {}
    name = ""
    try:
        # First as an archive: numpy would also take a single array, and leaves a file open that is neither.
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                columns[name] = arrays[name]
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error) and name:
            why, next_step = f"array {name!r} is pickled", "save it with a number or string dtype, not as objects"
        else:
            why, next_step = str(error), "save it again with numpy.savez"
        raise InputError(f"{path} cannot be read: {why}", next_step) from error
    return make_table(columns, path.name, path.parent)


def _read_csv(path: Path) -> Table:
    rows: list[list[str]] = []
    lines: list[int] = []
    # As csv wants them: split at line breaks alone, which str.splitlines does not.
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise InputError(f"{path} is empty", "give it a line of column names and one line for each sample")
        if len(set(header)) != len(header):
            raise InputError(f"{path}:1: two columns have one name ({', '.join(header)})", "rename one")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{path}:{reader.line_num}: {len(row)} fields, but the header has {len(header)}",
                    "mend the line; fields with a comma or a line break stand in double quotes",
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: {error}", "mend the line") from error
    columns = {name: as_column([row[i] or None for row in rows]) for i, name in enumerate(header)}
    return make_table(columns, path.name, path.parent, lambda i: f"{path.name}:{lines[i]}")


def _read_jsonl(path: Path) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}:{error.colno}: {error.msg}", "write one JSON object a line") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, or of brackets
            raise InputError(f"{path}:{number}: this cannot be read: {error}", "mend the line") from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path}:{number}: this is {type(row).__name__}, not an object", "write one JSON object a line"
            )
        rows.append(row)
        lines.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: as_column([row.get(name) for row in rows]) for name in names}
    return make_table(columns, path.name, path.parent, lambda i: f"{path.name}:{lines[i]}")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: this is not UTF-8: {error.reason}", "save the file as UTF-8") from error
