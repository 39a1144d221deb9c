"""Token ids -> model inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from targets.device.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Mapping


def apply(settings: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Integer columns [N, max_length] named as the model's inputs -> the same as int64.

    Raises CallError where a column is missing, not of integers, or of another length.
    """
    inputs: dict[str, np.ndarray] = {}
    for name in settings["inputs"]:
        if name not in columns:
            raise CallError(f"no column {name!r} among {', '.join(sorted(columns))}", "tokenize the text first")
        ids = columns[name]
        if ids.dtype.kind not in "iu" or ids.ndim != 2 or ids.shape[1] != settings["max_length"]:
            raise CallError(
                f"column {name!r} is {ids.dtype} {list(ids.shape)}, not integers [N, {settings['max_length']}]",
                "pad and cut the token ids to max_length",
            )
        inputs[name] = np.ascontiguousarray(ids, dtype=np.int64)
    return inputs
