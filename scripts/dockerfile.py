"""Reads the part of the Dockerfile language that this project uses: stages of plain instructions, in order.

An instruction, flag or form that is not known is refused with its line, never passed over.
"""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NoReturn

KNOWN = ("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "RUN", "USER", "WORKDIR")


@dataclass(frozen=True)
class Instruction:
    """One instruction. `text` is what follows its name, with continued lines joined."""

    line: int
    name: str
    text: str

    def refuse(self, why: str) -> NoReturn:
        raise SystemExit(f"Dockerfile:{self.line}: {self.name}: {why}")

    def words(self, variables: dict[str, str]) -> list[str]:
        """The text as words, $NAME and ${NAME} filled in. An unset variable is empty, as Docker has it."""
        filled = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: variables.get(m[1] or m[2], ""), self.text)
        return shlex.split(filled)

    def pairs(self, variables: dict[str, str]) -> dict[str, str]:
        """NAME=VALUE words. A value that starts with $ and is quoted stays one word."""
        pairs = [word.partition("=") for word in self.words(variables)]
        return {name: value for name, _, value in pairs}

    def command(self) -> list[str]:
        """A JSON list, the form of ENTRYPOINT and CMD in which signals reach the program."""
        if not self.text.startswith("["):
            self.refuse("only the JSON form is known")
        return json.loads(self.text)

    def copied(self, variables: dict[str, str]) -> tuple[str | None, list[str], str]:
        """(stage or None for the context, sources, destination) of a COPY."""
        flags = [word for word in self.words(variables) if word.startswith("--")]
        *sources, destination = [word for word in self.words(variables) if not word.startswith("--")]
        if any(not flag.startswith("--from=") for flag in flags):
            self.refuse(f"unknown flag in {flags}")
        if not sources or any(set("*?[") & set(source) for source in sources):
            self.refuse("sources are named one by one, without wildcards")
        return (flags[0].removeprefix("--from=") if flags else None), sources, destination


@dataclass(frozen=True)
class Stage:
    """What is built on `base`, the name of an earlier stage or of an image."""

    name: str
    base: str
    line: int
    instructions: tuple[Instruction, ...]


def parse(text: str) -> list[Stage]:
    """The stages of a Dockerfile. Exits with the line of what it does not know."""
    stages: list[Stage] = []
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            match instruction.text.split():
                case [base]:
                    name = str(len(stages))
                case [base, "AS" | "as", name]:
                    pass
                case _:
                    instruction.refuse("expected FROM IMAGE [AS NAME]")
            stages.append(Stage(name, base, instruction.line, ()))
        elif instruction.name not in KNOWN:
            instruction.refuse(f"not one of {', '.join(KNOWN)}")
        elif not stages:
            instruction.refuse("before the first FROM")
        else:
            last = stages[-1]
            stages[-1] = Stage(last.name, last.base, last.line, (*last.instructions, instruction))
    return stages


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    start, parts = 0, list[str]()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("#") or (not line and not parts):
            continue
        start = start if parts else number
        parts.append(line.removesuffix("\\").strip())
        if not line.endswith("\\"):
            name, _, rest = " ".join(parts).partition(" ")
            found.append(Instruction(start, name.upper(), rest.strip()))
            parts = []
    if parts:
        raise SystemExit(f"Dockerfile:{start}: the last line ends in a backslash")
    return found


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore leaves `path`, relative to the context, out.

    The last pattern that fits the path or a folder above it decides.
    """
    folders = [PurePosixPath(path), *PurePosixPath(path).parents][:-1]
    out = False
    for pattern in patterns:
        bare = pattern.removeprefix("!").removeprefix("**/")
        anywhere = pattern.removeprefix("!").startswith("**/")
        fits = (
            f.match(bare) if anywhere else (f.match(bare) and len(f.parts) == len(PurePosixPath(bare).parts))
            for f in folders
        )
        if any(fits):
            out = not pattern.startswith("!")
    return out
