"""Images in, one of several classes out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.errors import InputError
from pipeline.classification import Classification

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.data import Table


# Of pipeline/images.py.
RESIZE = "bilinear"
RGB = 3


@dataclass(frozen=True, kw_only=True)
class ImageClassification(Classification):
    """size: (height, width) of the model's input; None for the size of the images, which must then be one.
    channels: 1 for grey, 3 for RGB; None for the images' own.
    mean, std: of the pixels' values, scaled to 0..1, for each channel or one for all: the model sees (x - mean) / std.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    columns: ClassVar[tuple[str, ...]] = ("image", "label")
    distributions: ClassVar[tuple[str, ...]] = ("pillow",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels not in (None, 1, 3):
            raise InputError(
                f"channels: {self.channels} is neither 1 (grey) nor 3 (RGB)", "correct the task's settings"
            )
        if self.size is not None and min(self.size) < 1:
            raise InputError(f"size: {list(self.size)} is no size", "give [height, width]")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.channels or 1, self.channels or 3}:
                raise InputError(
                    f"{name}: {len(values)} values do not fit {self.channels or '1 or 3'} channels", "give one for each"
                )
        if min(self.std) <= 0:
            raise InputError(f"std: {list(self.std)} must be above 0", "correct the task's settings")

    def encode(self, table: "Table", tokenizer: Path | None) -> "dict[str, np.ndarray]":
        """uint8 [n, height, width, channels] "image"."""
        from pipeline.images import as_uint8

        return {"image": as_uint8(table, "image", self.size, self.channels)}

    def assets(self, tokenizer: Path | None) -> dict[str, str]:
        """None."""
        return {}

    def rules(self) -> list[str]:
        """How images are brought to one size and number of channels."""
        size = (
            "images keep their size"
            if self.size is None
            else f"images are resized to {self.size[0]} x {self.size[1]}, {RESIZE}"
        )
        colour = {None: "colours are kept", 1: "images are turned to grey", 3: "images are turned to RGB"}[
            self.channels
        ]
        return [size, colour]

    def preprocessing(self, data: Path) -> dict[str, Any]:
        """uint8 [n, height, width, channels] -> float32 [n, channels, height, width], normalised."""
        from pipeline.data import load_split

        _, height, width, channels = load_split(data, "train").columns["image"].shape
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise InputError(
                    f"{name}: {len(values)} values do not fit images of {channels} channels", "give one for each"
                )
        return {
            "kind": "image",
            "input": "pixel_values",
            "column": "image",
            "size": [height, width],
            "channels": channels,
            "mean": list(self.mean if len(self.mean) == channels else self.mean * channels),
            "std": list(self.std if len(self.std) == channels else self.std * channels),
            "layout": "NCHW",
            # What comes before: a device's own loader has to do the same.
            "resize": RESIZE,
            "channel_order": "RGB" if channels == RGB else "grey",
        }

    def augment(self, inputs: "dict[str, torch.Tensor]", view: int) -> "dict[str, torch.Tensor]":
        """View 1 is mirrored; further ones are shifted by one or two pixels to one side, every other one mirrored too.

        The border's pixels fill what a shift uncovers. [n, channels, height, width] in and out.
        """
        from torch.nn import functional

        pixels = inputs["pixel_values"]
        if view % 2 == 1:
            pixels = pixels.flip(3)
        if view >= 2:
            dy, dx = SHIFTS[(view - 2) % len(SHIFTS)]
            height, width = pixels.shape[2:]
            wide = functional.pad(pixels, (2, 2, 2, 2), mode="replicate")
            pixels = wide[:, :, 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]
        return inputs | {"pixel_values": pixels}


SHIFTS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1), (0, 2), (0, -2), (2, 0), (-2, 0))
