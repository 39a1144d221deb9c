"""Arrays that stay on disk: what was read of them does not stay in memory."""

import mmap
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np


def release(array: np.ndarray) -> None:
    """Gives back the memory that reading a memory-mapped array took; its pages are read again when they are wanted.

    Mapped pages count as this process's own, so that a scan of a file takes the memory of the whole file otherwise.
    Arrays that are not mapped, or that may have been written to, are left as they are.
    """
    if isinstance(array.base, mmap.mmap) and not array.flags.writeable:
        array.base.madvise(mmap.MADV_DONTNEED)


def rows(array: np.ndarray, which: slice | np.ndarray) -> np.ndarray:
    """These rows of an array: copies where it is mapped, so that nothing of the file stays in memory."""
    if not isinstance(array.base, mmap.mmap):
        return array[which]
    taken = np.array(array[which])
    release(array)
    return taken


def load(file: Path) -> np.ndarray:
    """An .npy file, memory-mapped for reading."""
    return np.load(file, mmap_mode="r", allow_pickle=False)


def write(files: Mapping[str, Path], length: int, blocks: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Writes .npy files whose first axis has `length` rows, from blocks of some rows of each: name -> array."""
    with ExitStack() as stack:
        opened: dict[str, IO[bytes]] = {}
        for block in blocks:
            for name, array in block.items():
                if name not in opened:
                    opened[name] = stack.enter_context(files[name].open("wb"))
                    header = {
                        "descr": np.lib.format.dtype_to_descr(array.dtype),
                        "fortran_order": False,
                        "shape": (length, *array.shape[1:]),
                    }
                    np.lib.format.write_array_header_2_0(opened[name], header)
                opened[name].write(np.ascontiguousarray(array).data)
