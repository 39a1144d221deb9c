"""Stored arrays of a batch -> model inputs. One file a kind, numpy only; build and device call the same code."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from targets.device.errors import BundleError
from targets.device.plugins import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


@lru_cache(maxsize=1)
def preprocess_kinds() -> tuple[str, ...]:
    """The kinds this version has."""
    return tuple(names(__path__))


def preprocess(settings: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Applies the file of this package that settings["kind"] names.

    columns: stored arrays, sample first. Returns the model's inputs, sample first.
    Raises BundleError where the kind is unknown, CallError where a column is missing or has the wrong shape.
    """
    kind = settings.get("kind")
    if kind not in preprocess_kinds():
        raise BundleError(
            f"preprocessing.kind: {kind!r} is not known", f"this version has {', '.join(preprocess_kinds())}"
        )
    return import_module(f"{__name__}.{kind}").apply(settings, columns)
