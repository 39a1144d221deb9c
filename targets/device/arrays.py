"""Reads .npz files that may be broken."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np

from targets.device.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

# What zipfile and numpy raise on bytes that are no archive, a wrong checksum, an encrypted or half-written member.
# TypeError: of a single array, which is no archive.
BROKEN = (OSError, ValueError, EOFError, KeyError, SyntaxError, NotImplementedError, RuntimeError, TypeError)


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Name -> array; each has at least one axis. Raises BundleError naming the file where it is not such an archive.

    Pickled objects are refused.
    """
    try:
        # Opened here: numpy leaves a file open that it finds to be no archive.
        with file.open("rb") as f, np.load(f, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (*BROKEN, zipfile.BadZipFile, zlib.error, AttributeError) as e:
        raise BundleError(f"{file}: not readable as .npz: {e}", "build the bundle again") from e
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.ndim == 0 or len(array) == 0:
            raise BundleError(f"{file}: {name} holds no sample", "build the bundle again")
    return arrays
