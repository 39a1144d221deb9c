"""uint8 images -> normalized float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from targets.device.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Mapping


def apply(settings: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(x / 255 - mean) / std, one mean and std a channel: uint8 [N, H, W, C] -> float32 [N, C, H, W] or [N, H, W, C].

    settings: input, column, size [H, W], channels, mean, std, layout ("NCHW" or "NHWC"); resize and channel_order say
    how images were brought to that size and colours, for who loads them.
    Raises CallError where the column is missing or not of that dtype and shape.
    """
    name = settings["column"]
    if name not in columns:
        raise CallError(f"no column {name!r} among {', '.join(sorted(columns))}", "give the images under that name")
    images = columns[name]
    height, width = settings["size"]
    expected = (height, width, settings["channels"])
    if images.dtype != np.uint8 or images.shape[1:] != expected:
        raise CallError(
            f"column {name!r} is {images.dtype} {list(images.shape)}, not uint8 [N, {', '.join(map(str, expected))}]",
            f"resize the images to the model's size first{_how(settings)}",
        )
    mean = np.asarray(settings["mean"], np.float32)
    std = np.asarray(settings["std"], np.float32)
    normalized = (images.astype(np.float32) / np.float32(255) - mean) / std
    if settings["layout"] == "NCHW":
        normalized = np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))
    return {settings["input"]: normalized}


def _how(settings: Mapping[str, Any]) -> str:
    if "resize" not in settings:
        return ""
    return f", by a {settings['resize']} filter, colours in the order {settings['channel_order']}"
