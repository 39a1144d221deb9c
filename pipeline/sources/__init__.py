"""Reads a data source into tables of raw samples."""

from pathlib import Path

from calibration.errors import InputError
from pipeline.data import Table
from pipeline.sources import files, folders, hugging_face, tables

KINDS = "a folder, .npz, .csv, .jsonl, a Hugging Face dataset folder, or file.py:function"


def read(source: str, recipe_folder: Path) -> dict[str, Table]:
    """The samples of a source: {"all": table}, or one table for each split it comes with ("train", "test", ...).

    source: a path relative to the recipe's folder, or "file.py:function". Raises InputError naming the file, and the
    row or line, that cannot be read.
    """
    if ":" in source:
        return tables.from_function(source, recipe_folder)
    path = recipe_folder / source
    if path.is_file():
        return {"all": files.read_file(path)}
    if not path.is_dir():
        raise InputError(f"there is no data at {path}", f"correct the path; a data source is {KINDS}")
    for reader in (hugging_face.read_folder, folders.read_files, folders.read_classes):
        found = reader(path)
        if found:
            return found
    raise InputError(
        f"{path} holds nothing that can be read",
        "put a subfolder of images for each class there, or train/ and test/ with such subfolders, or train.npz and "
        "test.npz (.csv, .jsonl), or a Hugging Face dataset",
    )
