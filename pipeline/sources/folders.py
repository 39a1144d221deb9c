"""Reads a folder of files, or of one subfolder of images for each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibration.errors import InputError
from pipeline.data import SPLIT_NAMES, SPLITS, Table
from pipeline.sources.files import SUFFIXES, read_file
from pipeline.sources.tables import make_table

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})


def read_files(folder: Path) -> dict[str, Table]:
    """train.npz, test.npz, validation.npz (.csv, .jsonl), or {} where there are none."""
    found: dict[str, Table] = {}
    for split in SPLITS:
        files = [folder / f"{split}{suffix}" for suffix in SUFFIXES if (folder / f"{split}{suffix}").is_file()]
        if len(files) > 1:
            raise InputError(f"{folder} has {' and '.join(f.name for f in files)}", "leave one file for each split")
        if files:
            found[split] = read_file(files[0])
    if found and "train" not in found:
        raise InputError(f"{folder} has {', '.join(t.file for t in found.values())} but no train file", "add train.npz")
    return found


def read_classes(folder: Path) -> dict[str, Table]:
    """Class folders of images, or train/ and test/ with class folders in each; {} where there are none.

    Raises InputError where some folders are splits and others are not: neither reading of them is safe.
    """
    folders = _subfolders(folder)
    splits = {f: SPLIT_NAMES[f.name.lower()] for f in folders if f.name.lower() in SPLIT_NAMES}
    others = [f.name for f in folders if f not in splits]
    if "train" in splits.values() and (not others or any(_subfolders(f) for f in splits)):
        if others:
            raise InputError(
                f"{folder} has {', '.join(f.name for f in splits)}, which are splits, beside {', '.join(others[:5])}",
                "leave train/, test/ and validation/ there and nothing else, or class folders alone",
            )
        if len(set(splits.values())) < len(splits):
            raise InputError(
                f"{folder} has several folders for one split: {', '.join(f.name for f in splits)}", "leave one of them"
            )
        return {split: _read_class_folders(f, _subfolders(f), f"{folder.name}/{f.name}") for f, split in splits.items()}
    if any(_images(f) for f in folders):
        return {"all": _read_class_folders(folder, folders, folder.name)}
    return {}


def _read_class_folders(folder: Path, classes: Sequence[Path], name: str) -> Table:
    files = [(file, c.name) for c in classes for file in _images(c)]
    if not files:
        raise InputError(
            f"{folder} has no class folder with images", f"put {', '.join(sorted(IMAGES))} files in one folder a class"
        )
    paths = np.array([str(file.relative_to(folder)) for file, _ in files], dtype=object)
    names = sorted({label for _, label in files})
    labels = np.array([names.index(label) for _, label in files], dtype=np.int64)
    return make_table({"image": paths, "label": labels}, name, folder, lambda i: f"{name}/{paths[i]}", {"label": names})


def _subfolders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        f
        for f in folder.rglob("*")
        if f.suffix.lower() in IMAGES and not any(part.startswith(".") for part in f.relative_to(folder).parts)
    )
