"""Rows as hashes: whether they are the fitted ones, and which of them they are."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from aimz.arrays import pieces

__all__ = ["canonical_rows", "digest_of", "row_fingerprint", "row_hashes"]


# Values to hash at a time.
_PIECE = 2**20


def row_fingerprint(array: Any) -> int:
    """Number that stands for the values of the rows, whatever container or dtype held them."""
    array = np.atleast_1d(array)
    digest = hashlib.blake2b(digest_size=4)
    for part in canonical_rows(array):
        digest.update(part)
    digest.update(str(array.shape).encode())
    return int.from_bytes(digest.digest(), "little")


def row_hashes(array: Any) -> np.ndarray:
    """A number, uint64, for the values of each row, whatever container or dtype held them."""
    array = np.asarray(array)
    hashes = np.full(len(array), 0xCBF29CE484222325, np.uint64)
    start = 0
    for part in canonical_rows(array):
        words = part.reshape(len(part), -1).view(np.uint32)
        own = hashes[start : start + len(part)]
        # FNV-1a by words, with a shift that lets the high bits reach the low.
        for column in words.T:
            own[:] = (own ^ column) * np.uint64(0x100000001B3)
            own ^= own >> np.uint64(29)
        start += len(part)
    return hashes


def canonical_rows(array: np.ndarray) -> Iterator[np.ndarray]:
    """The values of rows, a piece at a time, in one dtype: equal numbers have equal bytes."""
    size = max(1, _PIECE // max(1, math.prod(array.shape[1:])))
    parts = [array[start : start + size] for start in range(0, len(array), size)]
    is_single = array.dtype == np.float32 or all(
        np.array_equal(part.astype(np.float32), part) for part in parts
    )
    dtype = np.dtype(np.float32 if is_single else np.float64)
    for piece in pieces(array, size) if isinstance(array.base, np.memmap) else parts:
        yield np.ascontiguousarray(piece, dtype) + dtype.type(0)  # -0.0 and 0.0 are one value


def digest_of(arrays: Mapping[str, Any]) -> str:
    """Digest of the arrays of a tile, with their names, dtypes and shapes."""
    digest = hashlib.blake2b(digest_size=12)
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data)
    return digest.hexdigest()
