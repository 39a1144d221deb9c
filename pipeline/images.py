"""Images of any kind a source may give -> uint8 arrays of one size."""

import io
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.errors import InputError
from pipeline.data import Table

if TYPE_CHECKING:
    from collections.abc import Generator

    from PIL.Image import Image

EXIF_ORIENTATION = 0x0112
GREY_MODES = frozenset({"1", "L", "LA", "I;16", "I", "F"})


def as_uint8(table: Table, column: str, size: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """The images of a column, uint8 [n, height, width, channels].

    Cells are arrays ([n, height, width] or [n, height, width, 1 or 3] uint8), nested lists, paths relative to the
    table's folder, or the bytes of an image file.

    size: (height, width), None for that of the data; other sizes are resized with Pillow's bilinear filter, which
        averages where it shrinks.
    channels: 1 for grey, 3 for RGB, None for the data's own.

    Raises InputError naming the sample that is no such image, or sizes that differ where none was asked for.
    """
    cells = table.columns[column]
    if cells.dtype != object and cells.dtype.kind not in "US":
        array = _checked_array(table, cells)
        if size in (None, array.shape[1:3]) and channels in (None, array.shape[3]):
            return array
        cells = array
    if size is None or channels is None:
        headers = [_header(table, cells[i], i) for i in range(len(cells))]
        channels = channels or (1 if all(grey for _, grey in headers) else 3)
        size = size or _one_size(table, [s for s, _ in headers])
    out = np.empty((len(cells), *size, channels), dtype=np.uint8)
    for i in range(len(cells)):  # one at a time: photographs do not fit into memory together
        with _opened(table, cells[i], i) as image:
            out[i] = _convert(image, size, channels)
    return out


def _checked_array(table: Table, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        if len(bad):
            raise InputError(
                f"{table.where(int(bad[0]))}: the image has NaN or infinite values ({len(bad)} such samples)",
                "mend or remove them",
            )
    if array.dtype.kind not in "iubf":
        raise InputError(f"{table.file}: images are {array.dtype}, which is no number", "give uint8, 0 to 255")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
        raise InputError(
            f"{table.file}: images have the shape {list(array.shape[1:])}",
            "give [height, width] or [height, width, 1 or 3] a sample",
        )
    if array.dtype.kind == "f" or (array.size and (array.min() < 0 or array.max() > 255)):
        raise InputError(
            f"{table.file}: images are {array.dtype} from {array.min()} to {array.max()}", "give uint8, 0 to 255"
        )
    return array.astype(np.uint8, copy=False)


@contextmanager
def _opened(table: Table, cell: Any, index: int) -> "Generator[Image]":
    from PIL import Image, UnidentifiedImageError

    if isinstance(cell, (np.ndarray, list)):
        yield Image.fromarray(_as_pixels(table, cell, index))
        return
    if not isinstance(cell, (str, bytes, Path)):
        raise InputError(f"{table.where(index)}: an image cannot be a {type(cell).__name__}", "give a path or an array")
    if isinstance(cell, str) and "\0" in cell:
        raise InputError(f"{table.where(index)}: {cell!r} is no path", "correct the path")
    if not isinstance(cell, bytes):
        _require_covered(table, table.folder / cell, index)
    try:
        with Image.open(io.BytesIO(cell) if isinstance(cell, bytes) else table.folder / cell) as image:
            yield image
    except FileNotFoundError as error:
        raise InputError(
            f"{table.where(index)}: there is no file {table.folder / str(cell)}", "correct the path"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{table.where(index)}: this image cannot be read: {error}", "replace or remove it") from error


def _require_covered(table: Table, file: Path, index: int) -> None:
    if not any(file.resolve().is_relative_to(root) for root in table.roots):
        raise InputError(
            f"{table.where(index)}: {file} is in no folder that the recipe names, so a change of it would go unnoticed",
            "name its folder: data: {files: [FOLDER]}",
        )


def _header(table: Table, cell: Any, index: int) -> tuple[tuple[int, int], bool]:
    """((height, width) as shown, whether it is grey) of an image that need not be decoded for it."""
    with _opened(table, cell, index) as image:
        turned = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width), image.mode in GREY_MODES


def _as_pixels(table: Table, cell: "np.ndarray | list[Any]", index: int) -> np.ndarray:
    try:
        one = np.asarray(cell)[None]
    except ValueError as error:
        raise InputError(
            f"{table.where(index)}: the rows of the image differ in length", "mend or remove it"
        ) from error
    array = _checked_array(Table({}, table.where(index), lambda _: table.where(index), table.folder, {}), one)[0]
    return array[..., 0] if array.shape[2] == 1 else array


def _one_size(table: Table, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    other = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
    if other is None:
        return sizes[0]
    (h, w), (h2, w2) = sizes[0], sizes[other]
    raise InputError(
        f"images differ in size: {table.where(0)} is {h} x {w}, {table.where(other)} is {h2} x {w2}",
        f"say which size they are to have: task: {{image-classification: {{size: [{h}, {w}]}}}}",
    )


def _convert(image: "Image", size: tuple[int, int], channels: int) -> np.ndarray:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I"):
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(*size, channels)
