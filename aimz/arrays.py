"""Names of what is computed with, for annotations; and arrays whose numbers are in a file.

The pages of a mapped file that have been read count as memory of the process until they are given
back. Nothing is lost by that: they are read again.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

__all__ = ["Array", "Seed", "give_back", "is_large", "is_mapped", "pieces", "stamp_of"]


#: Numbers in memory or on a device, or what stands for them while a program is traced.
type Array = jax.Array | np.ndarray
#: What `as_key` makes a random key of: a number, a key of JAX, or the two words of an old one.
type Seed = int | Array

#: Rows, and bytes of them as the kernel sees them, up to which the rows of a fit are held.
HELD_ROWS, HELD_BYTES = 2**20, 2**30


def is_large(rows: int, bytes_of_row: int) -> bool:
    """Whether so many rows of a fit stay in a file, if they are in one."""
    return rows > HELD_ROWS or rows * bytes_of_row > HELD_BYTES


def is_mapped(array: object) -> bool:
    """Whether an array is a view of a file."""
    return _file_of(array) is not None


def give_back(array: np.ndarray) -> None:
    """Give the pages of a file that is only read back to the system."""
    file = _file_of(array)
    pages: Any = file
    while isinstance(pages, np.ndarray):
        pages = pages.base
    if file is not None and file.mode == "r":  # others may hold what is in no file
        pages.madvise(mmap.MADV_DONTNEED)


def stamp_of(array: object) -> tuple[int, int, int] | None:
    """Which file an array is a view of, how large that is, and when it was written.

    None of an array that is in no file, or in one without a name.
    """
    file = _file_of(array)
    try:
        about = None if file is None or file.filename is None else Path(file.filename).stat()
    except OSError:  # gone: who has it mapped keeps it
        return None
    return None if about is None else (about.st_ino, about.st_size, about.st_mtime_ns)


def _file_of(array: object) -> np.memmap | None:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return array if isinstance(array, np.memmap) else None


def pieces(array: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """So many rows of an array after another; pages of a file are given back behind them."""
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
        if is_mapped(array):
            give_back(array)
