"""A part of a YAML document -> the frozen dataclass whose fields are its keys, or every problem it has."""

import json
import re
from dataclasses import fields
from typing import Any, TypeVar

from calibration.errors import EdgewrightError, near
from targets.yaml_source import Document, Key, Problem

T = TypeVar("T")


def check(kind: type[T], value: Any, at: Key, document: Document, problems: list[Problem]) -> T | None:
    """`value`, which stands at `at`, as an instance of the dataclass `kind`; None where a problem was added.

    Types are strict: "3" is no number and 1 no truth value; a list stands for a tuple. Unknown keys are problems here
    and in nested dataclasses.
    """
    if not isinstance(value, dict):
        problems.append(document.problem(at, f"this must be keys with values, as in {{key: value}}, not {value!r}"))
        return None
    known = [f.name for f in fields(kind) if f.init]  # pyright: ignore[reportArgumentType]
    given: dict[str, Any] = {}
    for name, part in value.items():  # pyright: ignore[reportUnknownVariableType]
        if name in known:
            given[name] = part
        else:
            problems.append(document.problem((*at, name), f"unknown key {name!r}{near(name, known)}", on_key=True))
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    # A configuration of the list around it also holds for a plain dataclass, which has none of its own.
    config = ConfigDict(extra="forbid", strict=True)
    adapter: TypeAdapter[list[T]] = TypeAdapter(list[kind], config=config)  # pyright: ignore[reportInvalidTypeForm]
    try:
        return adapter.validate_json(json.dumps([given]))[0]
    except ValidationError as error:
        problems += _mistakes([dict(mistake) for mistake in error.errors(include_url=False)], at, document)
    except EdgewrightError as error:
        # A class that checks itself starts its message with the field's name: "samples: 1 is ...".
        named = [word for word in re.findall(r"\w+", error.message.partition(":")[0]) if word in given]
        problems.append(document.problem((*at, *named[:1]), error.message))
    return None


def _mistakes(found: list[dict[str, Any]], at: Key, document: Document) -> list[Problem]:
    """The errors of pydantic as problems, those of one place together."""
    said: dict[Key, list[dict[str, Any]]] = {}
    for mistake in found:
        place = (*at, *mistake["loc"][1:])
        # pydantic's location goes on with the arm of a union that did not fit: that is no place in the file.
        while mistake["type"] not in ("missing", "unexpected_keyword_argument") and place not in document.values:
            place = place[:-1]
        said.setdefault(place, []).append(mistake)
    return [
        document.problem(place, _words(place, mistakes), mistakes[0]["type"] == "unexpected_keyword_argument")
        for place, mistakes in said.items()
    ]


def _words(place: Key, mistakes: list[dict[str, Any]]) -> str:
    name, value = place[-1] if place else "this", mistakes[0].get("input")
    match str(mistakes[0]["type"]):
        case "missing":
            return f"the key {name!r} is missing"
        case "unexpected_keyword_argument":
            return f"unknown key {name!r}"
        case "value_error" | "assertion_error":
            reason = mistakes[0]["msg"].partition(", ")[2]
            return reason if isinstance(value, dict) else f"{name}: {reason}"
        case _:
            pass
    expected = " or ".join(dict.fromkeys(m["msg"].removeprefix("Input should be ") for m in mistakes))
    quotes = any(m["type"] == "string_type" for m in mistakes) and isinstance(value, int | float)
    return f"{name} must be {expected}, not {json.dumps(value)}" + (" (put it in quotes)" if quotes else "")
