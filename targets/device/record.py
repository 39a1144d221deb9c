"""Typed reading of decoded JSON, with errors that name the key."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from targets.device.errors import BundleError

Default = TypeVar("Default")
REQUIRED: Any = object()


class Record:
    """A JSON object at a place such as "manifest.json: requires". A key that has a default may be absent or null."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise BundleError(f"{where}: expected an object, found {_shown(value)}", "build the bundle again")
        self._value: dict[str, Any] = value
        self._where = where

    def all_texts(self) -> dict[str, str]:
        """The whole object as name -> text."""
        return {key: self.text(key) for key in self._value}

    def text(self, key: str, default: Default = REQUIRED) -> str | Default:
        """Printable text: it is shown on a terminal."""
        value = self._value.get(key)
        if value is None and default is not REQUIRED:
            return default
        if not isinstance(value, str) or not value.isprintable():
            raise self._wrong(key, "text", value)
        return value

    def integer(self, key: str, *, minimum: int) -> int:
        value = self._value.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self._wrong(key, f"an integer of at least {minimum}", value)
        return value

    def number(self, key: str, default: Default = REQUIRED) -> float | Default:
        value = self._value.get(key)
        if value is None and default is not REQUIRED:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e18:
            raise self._wrong(key, "a number", value)
        return float(value)

    def mapping(self, key: str, default: Default = REQUIRED) -> dict[str, Any] | Default:
        value = self._value.get(key)
        if value is None and default is not REQUIRED:
            return default
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return value

    def record(self, key: str) -> Record:
        return Record(self._value.get(key), f"{self._where}: {key}")

    def records(self, key: str) -> list[Record]:
        return [Record(item, f"{self._where}: {key}[{i}]") for i, item in enumerate(self._list(key))]

    def texts(self, key: str) -> tuple[str, ...]:
        items = self._list(key)
        if not all(isinstance(item, str) and item.isprintable() for item in items):
            raise self._wrong(key, "a list of text", items)
        return tuple(items)

    def shape(self, key: str) -> tuple[int | str, ...]:
        items = self._list(key)
        if not all(type(item) in (int, str) for item in items):
            raise self._wrong(key, "a list of integers and names", items)
        return tuple(items)

    def _list(self, key: str) -> list[Any]:
        value = self._value.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return value

    def _wrong(self, key: str, expected: str, value: object) -> BundleError:
        return BundleError(
            f"{self._where}: {key}: expected {expected}, found {_shown(value)}", "build the bundle again"
        )


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "a number out of range"
    return "nothing" if value is None else ascii(value)[:80]
