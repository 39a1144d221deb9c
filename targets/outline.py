"""A user's dataclass as its text states it, without running the file: what `plan` knows of a user's stage or task."""

import ast
from collections.abc import Mapping
from dataclasses import field, make_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from calibration.errors import InputError

TYPES: Mapping[str, Any] = MappingProxyType(
    {t.__name__: t for t in (int, float, str, bool, tuple, list, dict)} | {"Literal": Literal, "Any": Any, "Path": Path}
)


def outline(file: Path, name: str) -> type:
    """A dataclass with the fields, defaults and class variables of the class `name` of `file`, and none of its methods.

    Raises InputError naming the line of what only running the file would tell.
    """
    node = _class(file, name)
    fields: list[Any] = []
    constants: dict[str, Any] = {}
    for part in node.body:
        match part:
            case ast.Assign(targets=[ast.Name(id=key)], value=value):
                constants[key] = _literal(file, value)
            case ast.AnnAssign(target=ast.Name(id=key), annotation=kind, value=value) if "ClassVar" in ast.unparse(
                kind
            ):
                constants |= {} if value is None else {key: _literal(file, value)}
            case ast.AnnAssign(target=ast.Name(id=key), annotation=kind, value=value):
                fields.append((key, _type(file, kind), *([] if value is None else [_default(file, value)])))
            case _:
                pass
    annotations = dict.fromkeys(constants, ClassVar[Any])
    return make_dataclass(name, fields, frozen=True, namespace={**constants, "__annotations__": annotations})


def _class(file: Path, name: str) -> ast.ClassDef:
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file") from error
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{file}:{getattr(error, 'lineno', None) or 1}: this is not Python: {error}") from error
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        raise InputError(f"{file} defines no class {name!r}", f"it defines: {', '.join(classes) or 'none'}")
    for base in classes[name].bases:
        if ast.unparse(base).rpartition(".")[2] not in ("Stage", "Task", "Protocol", "object"):
            raise _unreadable(file, base, "what the class inherits")
    return classes[name]


def _literal(file: Path, node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "frozenset" and len(node.args) == 1:
        return frozenset(_literal(file, node.args[0]))
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise _unreadable(file, node, "this value") from error


def _default(file: Path, node: ast.expr) -> Any:
    """The default of a field; that of field(default_factory=list) is the list itself, made anew for each instance."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("field")):
        value = _literal(file, node)
        return field(default_factory=lambda: value) if isinstance(value, list | dict) else value
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if "default" in given:
        return _literal(file, given["default"])
    factory = ast.unparse(given["default_factory"]) if "default_factory" in given else ""
    if factory in ("list", "dict", "tuple"):
        return field(default_factory=TYPES[factory])
    raise _unreadable(file, node, "this default")


def _type(file: Path, node: ast.expr) -> Any:
    """The type that an annotation of plain types stands for."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str() as text):
            return _type(file, ast.copy_location(ast.parse(text, mode="eval").body, node))
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(file, left) | _type(file, right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return Literal[_literal(file, choices)]  # pyright: ignore[reportInvalidTypeForm]
        case ast.Subscript(value=ast.Name(id=name), slice=parts) if name in ("tuple", "list", "dict"):
            inner = parts.elts if isinstance(parts, ast.Tuple) else [parts]
            given = tuple(... if ast.unparse(part) == "..." else _type(file, part) for part in inner)
            return TYPES[name][given]
        case _:
            raise _unreadable(file, node, "this type")


def _unreadable(file: Path, node: ast.expr, what: str) -> InputError:
    return InputError(
        f"{file}:{node.lineno}: {what}, {ast.unparse(node)!r}, is known only once the file is run; it is not run here",
        "fields and class variables of plain types with plain values can be read without running the file",
    )
