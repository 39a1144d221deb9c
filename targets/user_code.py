"""Loads a user's functions, and says in the user's terms what goes wrong inside them."""

import ast
import hashlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from calibration.errors import EdgewrightError, InputError, near

OURS = frozenset({"pipeline", "targets", "calibration"})
# What may lie below a user's folder and is not theirs: this program, and what is installed.
_NOT_THEIRS = tuple(f"{Path(__file__).resolve().parents[1] / name}{os.sep}" for name in sorted(OURS))


class Running:
    """A context within which an error raised by a user's code becomes an InputError that names the user's line.

    folder: where the user's files are. An error none of whose frames lie there is ours, and passes unchanged.
    """

    def __init__(self, what: str, folder: Path) -> None:
        self._what = what
        self._folder = f"{folder.resolve()}{os.sep}"

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if not isinstance(error, (Exception, SystemExit)) or isinstance(error, EdgewrightError):
            return
        theirs = [f for f in traceback.extract_tb(frames) if self._is_theirs(f.filename)]
        if theirs:
            raise InputError(
                f"{theirs[-1].filename}:{theirs[-1].lineno}: {type(error).__name__}: {error} "
                f"(while running {self._what})",
                "mend the file and run again",
            ) from error

    def _is_theirs(self, file: str) -> bool:
        return (
            file.startswith(self._folder)
            and not file.startswith(_NOT_THEIRS)
            and not {"site-packages", "dist-packages"} & set(Path(file).parts)
        )


def load(reference: str, recipe_folder: Path) -> Any:
    """The object that "file.py:name" stands for, the file relative to the recipe's folder. Runs the file.

    The module has a private name, so it cannot take the place of another; its folder is appended to sys.path for what
    it imports. Raises InputError where there is no such file or name, where a name collides, or where the file fails.
    """
    file, _, name = reference.rpartition(":")
    path = (recipe_folder / file).resolve()
    if path.suffix != ".py" or not name.isidentifier():
        raise InputError(f"{reference!r} does not name a function", 'write it as "file.py:function"')
    files = imported_files(path)
    module = _module(path, reference)
    _check_imports(path, files)
    if not hasattr(module, name):
        public = sorted(n for n in vars(module) if not n.startswith("_"))
        raise InputError(f"{path} has no {name!r}{near(name, public)}", "correct the name behind the colon")
    return getattr(module, name)


def call(reference: str, recipe_folder: Path) -> Any:
    """What the function "file.py:name" returns, called without arguments."""
    function = load(reference, recipe_folder)
    if not callable(function):
        raise InputError(f"{reference} is not a function", "name a function that takes no arguments")
    needed = _needed_arguments(function)
    if needed:
        raise InputError(f"{reference} needs arguments ({', '.join(needed)})", "give each of them a default value")
    with Running(reference, (recipe_folder / reference.rpartition(":")[0]).parent):
        return function()


def _needed_arguments(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of what is written in C
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def imported_files(path: Path) -> tuple[Path, ...]:
    """A user's file and those beside it that it imports, directly or not: found by reading them, not by running them.

    Sorted. Raises InputError where the file is missing, is no Python, or imports a neighbour whose name is one of ours.
    """
    root = path.resolve()
    found: set[Path] = set()
    waiting = [root]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        waiting.extend(_neighbours(file, root.parent))
    return tuple(sorted(found))


def _module(path: Path, what: str) -> ModuleType:
    private = f"_edgewright_user_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if private in sys.modules:
        return sys.modules[private]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    loader = SourceFileLoader(private, str(path))
    spec = ModuleSpec(private, loader, origin=str(path))
    spec.has_location = True  # gives the module its __file__
    module = module_from_spec(spec)
    sys.modules[private] = module
    loaded = False
    try:
        with Running(what, path.parent):
            loader.exec_module(module)
        loaded = True
    finally:
        if not loaded:
            del sys.modules[private]
    return module


def _check_imports(root: Path, files: tuple[Path, ...]) -> None:
    """A neighbour's name may be taken by an installed module, or by a file of another recipe in this process."""
    for file in files:
        relative = file.relative_to(root.parent)
        parts = relative.parent.parts if relative.name == "__init__.py" else relative.with_suffix("").parts
        module = sys.modules.get(".".join(parts))
        origin = getattr(module, "__file__", None)
        if file != root and module is not None and (origin is None or Path(origin).resolve() != file):
            raise InputError(
                f"{root.name} imports {relative}, but {'.'.join(parts)!r} is already {origin or 'a built-in module'}",
                f"rename {file}",
            )


def _neighbours(file: Path, folder: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"there is no file {file}", "correct the path in the recipe") from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise InputError(f"{file}:{line}: this is not Python: {error}", "mend the file and run again") from error
    for name, level in _imports(tree):
        base = folder if level == 0 else file.parents[level - 1]
        for local in _local_files(base, name.split(".") if name else []):
            if folder in local.parents:
                top = local.relative_to(folder).parts[0].removesuffix(".py")
                if top in OURS:
                    raise InputError(
                        f"{file} imports {local}, whose name {top!r} is taken by edgewright", f"rename {local}"
                    )
                yield local.resolve()


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted name, level) of each thing imported; a name behind "from" may be a module too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield base, node.level
            yield from ((f"{base}.{alias.name}".lstrip("."), node.level) for alias in node.names)


def _local_files(base: Path, parts: list[str]) -> Iterator[Path]:
    """The files that importing a dotted name below `base` runs: each package's __init__.py, and the module."""
    for depth in range(len(parts) + 1):
        package = base.joinpath(*parts[:depth])
        if depth and package.with_suffix(".py").is_file():
            yield package.with_suffix(".py")
        elif (depth or not parts) and (package / "__init__.py").is_file():
            yield package / "__init__.py"
