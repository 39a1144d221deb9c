"""YAML with the place of every key and value, so that a mistake can be pointed at in the file."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from calibration.errors import InputError

Key = tuple[str | int, ...]
"""The way to a value from the top: ("stages", 0, "distill", "epochs")."""

MAX_VALUES = 100_000
"""Aliases can make a short text stand for a huge one; no recipe comes near this many values."""


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong at one place. line and column count from 1."""

    line: int
    column: int
    message: str


@dataclass(frozen=True)
class Document:
    """One YAML file as JSON values, with the places they stand at.

    values, keys: way to a value -> (line, column) of the value, and of the key in front of it.
    """

    path: Path
    lines: tuple[str, ...]
    value: Any
    values: Mapping[Key, tuple[int, int]]
    keys: Mapping[Key, tuple[int, int]]

    def problem(self, at: Key, message: str, on_key: bool = False) -> Problem:
        """A problem with the value (or the key) at `at`, or, where that is not in the file, with what would hold it."""
        place = (self.keys if on_key else self.values).get(at)
        while place is None and at:
            at = at[:-1]
            place = self.values.get(at)
        return Problem(*(place or (1, 1)), message)

    def refuse(self, problems: Iterable[Problem], next_step: str = "") -> NoReturn:
        """Raises InputError that states every problem, each with file:line:column and the line itself."""
        told = [_told(self.path, self.lines, problem) for problem in sorted(set(problems))]
        raise InputError("\n".join(told), next_step)


def read_document(path: Path, problems: list[Problem]) -> Document:
    """Reads a YAML 1.2 file (core schema) of plain values.

    Duplicate keys, keys that are not text, and tags are added to `problems`. Raises InputError where the file cannot
    be read or is no YAML at all.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from error
    lines = tuple(text.splitlines())
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = Problem(*place, f"this is not YAML: {error.problem or error.context}")
        raise InputError(_told(path, lines, problem)) from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: this is not YAML: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: the values are nested too deeply") from error
    reader = _Reader(problems)
    value = None if node is None else reader.read(node, (), ())
    return Document(path, lines, value, reader.values, reader.keys)


def _told(path: Path, lines: tuple[str, ...], problem: Problem) -> str:
    told = f"{path}:{problem.line}:{problem.column}: {problem.message}"
    if problem.line > len(lines):
        return told
    return f"{told}\n    {lines[problem.line - 1]}\n    {' ' * (problem.column - 1)}^"


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core schema: `no`, `on`, `2027-01-01` and `1:30` are text, `1e-3` is a number, unlike in YAML 1.1."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's name and type)


for _tag, _pattern, _first in (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


class _Reader:
    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        self.values: dict[Key, tuple[int, int]] = {}
        self.keys: dict[Key, tuple[int, int]] = {}

    def read(self, node: yaml.Node, at: Key, inside: tuple[int, ...]) -> Any:
        """The JSON value of a node; `inside` holds the nodes around it, to notice one that contains itself."""
        self.values[at] = _place(node)
        if id(node) in inside or len(self.values) > MAX_VALUES:
            self.add(node, "an alias repeats what it is part of" if id(node) in inside else "there are too many values")
            return None
        inside = (*inside, id(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, at, inside)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(part, (*at, i), inside) for i, part in enumerate(node.value)]
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, at: Key, inside: tuple[int, ...]) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for key, part in node.value:
            name = self.scalar(key) if isinstance(key, yaml.ScalarNode) else None
            if not isinstance(name, str):
                self.add(key, "a key is a word; put it in quotes if it is meant as one")
            elif name in read:
                self.add(key, f"{name!r} stands here a second time (first in line {self.keys[(*at, name)][0]})")
            else:
                self.keys[(*at, name)] = _place(key)
                read[name] = self.read(part, (*at, name), inside)
        return read

    def scalar(self, node: yaml.Node) -> Any:
        text = str(node.value)
        match str(node.tag).removeprefix("tag:yaml.org,2002:"):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" | "float" as kind:
                try:
                    return int(text) if kind == "int" else float(text)
                except ValueError:
                    self.add(node, f"{text[:40]!r} is not a number that can be read")
            case tag:
                self.add(node, f"the tag {tag!r} is not allowed here: plain values only")
        return None

    def add(self, node: yaml.Node, message: str) -> None:
        self.problems.append(Problem(*_place(node), message))


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
