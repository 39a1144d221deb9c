"""Names in YAML -> classes: a file of ours, else an installed entry point; or `file.py:Name`, the user's."""

import re
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

from calibration.errors import InputError, near
from targets import user_code

Kind = Literal["targets", "stages", "tasks"]

PACKAGES: dict[Kind, str] = {"targets": "targets", "stages": "pipeline.stages", "tasks": "pipeline.tasks"}


def load(kind: Kind, name: str, folder: Path | None = None) -> type:
    """The class that a name stands for; importing a user's file runs it.

    folder: what `file.py:Name` is relative to. Raises InputError, with near names, where there is no such thing.
    """
    if user_file(name):
        return user_code.load(name, folder or Path())
    if _is_ours(kind, name):
        return getattr(import_module(f"{PACKAGES[kind]}.{name.replace('-', '_')}"), _class_name(name))
    for entry in entry_points(group=f"edgewright.{kind}", name=name):
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            raise InputError(f"the entry point {name!r} ({entry.value}) cannot be loaded: {error}") from error
    raise InputError(*unknown(kind, name))


def exists(kind: Kind, name: str, folder: Path | None = None) -> bool:
    """Whether `load` would find something. Imports nothing."""
    if split := user_file(name, folder):
        return split[0].is_file()
    return _is_ours(kind, name) or bool(entry_points(group=f"edgewright.{kind}", name=name))


def names(kind: Kind) -> list[str]:
    """Every name there is, ours and installed ones, sorted. Imports nothing."""
    found = [path.stem.replace("_", "-") for path in _folder(kind).glob("*.py")]
    installed = [entry.name for entry in entry_points(group=f"edgewright.{kind}")]
    return sorted({*(name for name in found if _is_ours(kind, name)), *installed})


def unknown(kind: Kind, name: str) -> tuple[str, str]:
    """(message, next step) for a name that stands for nothing."""
    singular = kind.removesuffix("s")
    return f"there is no {singular} {name!r}{near(name, names(kind))}", "one of your own is named as file.py:Class"


def user_file(name: str, folder: Path | None = None) -> tuple[Path, str] | None:
    """`file.py:Name` -> (file, "Name"); None for any other name."""
    file, colon, attribute = name.rpartition(":")
    return ((folder or Path()) / file, attribute) if colon and file.endswith(".py") else None


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _folder(kind: Kind) -> Path:
    # Found beside this file and not by importing the package: that would run it.
    return Path(__file__).resolve().parents[1].joinpath(*PACKAGES[kind].split("."))


def _is_ours(kind: Kind, name: str) -> bool:
    """Whether a file of ours defines the class that the name promises. targets/target.py's is a protocol, no target."""
    file = _folder(kind) / f"{name.replace('-', '_')}.py"
    if not re.fullmatch("[a-z][a-z0-9-]*", name) or not file.is_file():
        return False
    found = re.search(rf"^class {_class_name(name)}\b(.*):", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found is not None and "Protocol" not in found[1]
