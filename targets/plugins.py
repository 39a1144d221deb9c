"""Names in YAML -> classes: a file of ours, else an installed entry point; or `file.py:Name`, the user's."""

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from calibration.errors import InputError

Kind = Literal["targets", "stages", "tasks"]

PACKAGES: dict[Kind, str] = {"targets": "targets", "stages": "pipeline.stages", "tasks": "pipeline.tasks"}
OURS = ("calibration", "targets", "pipeline")

# What running a user's file may raise for reasons that are the user's to mend.
USER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip


def load(kind: Kind, name: str, folder: Path | None = None) -> type:
    """The class that a name stands for; importing a user's file runs it.

    folder: what `file.py:Name` is relative to. Raises InputError, with near names, where there is no such thing.
    """
    if split := user_file(name, folder):
        return load_object(*split)
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


def near(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the one that was likely meant, else all that are known."""
    by_lower = {word.lower(): word for word in known}
    close = get_close_matches(name.lower(), by_lower, 1, 0.6)
    if close:
        return f" (did you mean {by_lower[close[0]]!r}?)"
    return f" (there are: {', '.join(by_lower.values())})" if by_lower else ""


def user_file(name: str, folder: Path | None = None) -> tuple[Path, str] | None:
    """`file.py:Name` -> (file, "Name"); None for any other name."""
    file, colon, attribute = name.rpartition(":")
    return ((folder or Path()) / file, attribute) if colon and file.endswith(".py") else None


def load_object(file: Path, name: str) -> Any:
    """What a user's file calls `name`. The file is run once, under a private name; its folder is appended to sys.path.

    Raises InputError where the file is missing, fails, has no such name, or where a module beside it would be hidden
    by one of ours.
    """
    file = file.resolve()
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    for ours in OURS:
        for hidden in (file.parent / f"{ours}.py", file.parent / ours / "__init__.py"):
            if hidden.exists() and not hidden.is_relative_to(Path(__file__).resolve().parents[1]):
                raise InputError(
                    f"{hidden} has the name of a package of edgewright", "rename it: it cannot be imported"
                )
    module_name = "_user_" + hashlib.sha256(str(file).encode()).hexdigest()[:16]
    if module_name not in sys.modules:
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise InputError(f"{file} is no Python file", "its name must end in .py")
        sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except USER_ERRORS as error:
            del sys.modules[module_name]
            raise InputError(f"{file}: running it fails: {type(error).__name__}: {error}") from error
    module = sys.modules[module_name]
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise InputError(f"{file} has no {name!r}{near(name, public)}")
    return getattr(module, name)


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
