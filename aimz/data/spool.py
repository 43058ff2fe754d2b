"""Rows that are too many to be held: read once, checked, and written to a file that is mapped.

The file has no name, so it goes with its last array, or with the process.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import IO, Any

import numpy as np

from aimz.arrays import is_large, pieces
from aimz.errors import InputError

__all__ = ["spooled"]


def spooled(batches: Iterator[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Arrays of all rows of some batches, mapped from a file; in memory where they are few.

    Batches have the same names, shapes of rows and dtypes.

    Raises
    ------
    InputError
        `no-room`: the disk is full.
    """
    files: dict[str, IO[bytes]] = {}
    like: dict[str, np.ndarray] = {}
    rows = 0
    place = _place()
    arrays = {}
    with ExitStack() as stack:  # maps keep their files
        for batch in batches:
            for name, part in batch.items():
                like.setdefault(name, part[:0].copy())
                if name not in files:
                    files[name] = stack.enter_context(_opened(place))
                _write(files[name], part, place)
            rows += len(next(iter(batch.values())))
        for name, file in files.items():
            none = like[name]
            shape = (rows, *none.shape[1:])
            # A file of no bytes has no map.
            empty = np.zeros(shape, none.dtype) if not rows * math.prod(none.shape[1:]) else None
            arrays[name] = np.memmap(file, none.dtype, "r", shape=shape) if empty is None else empty
    bytes_of_row = sum(array[:1].nbytes for array in arrays.values())
    if not is_large(rows, bytes_of_row):
        return {name: np.array(array) for name, array in arrays.items()}
    return arrays


def _place() -> str | None:
    """Where the files are: /tmp may be memory."""
    asked = any(name in os.environ for name in ("TMPDIR", "TEMP", "TMP"))
    return None if asked or not os.access("/var/tmp", os.W_OK) else "/var/tmp"  # noqa: S108


def _opened(place: str | None) -> IO[bytes]:
    """A file without a buffer: a full disk says so when it is written, not when it is shut."""
    try:
        return tempfile.TemporaryFile(dir=place, buffering=0)
    except OSError as error:
        raise _no_room(place, error) from error


def _write(file: IO[bytes], part: np.ndarray, place: str | None) -> None:
    try:
        for piece in pieces(part, 2**16):
            left = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
            while len(left):  # what no longer fits is left over
                left = left[file.write(left.data) :]
    except OSError as error:
        raise _no_room(place, error) from error


def _no_room(place: str | None, error: OSError) -> InputError:
    msg = (
        f"There is no room for the rows in {place or tempfile.gettempdir()}, where a fit keeps "
        f"those that memory should not hold ({error.strerror}). Set TMPDIR to a larger disk."
    )
    return InputError(msg, code="no-room")
