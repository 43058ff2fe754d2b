"""Large arrays beside the tiles, such as a posterior: written once, and then linked.

Results of one fit hold the same draws. Where an earlier result in the same place has a file with
exactly the bytes that are to be written, the new one gets a second name for it (a hard link): the
bytes are on disk once, and yet every result is complete by itself, and may be moved, copied or
removed alone.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aimz.libraries import xr, zarr
from aimz.store.chunks import array_in, chunk_path, packed_chunk
from aimz.store.sink import Variable

__all__ = ["earlier_results", "write_large"]


#: Bytes of the smallest array that is written here, and of a chunk of one.
LARGE_BYTES, CHUNK_BYTES = 2**16, 8 * 2**20
#: How many earlier results are looked at, the newest first.
MOST_EARLIER = 8
_PIECE = 2**20


def earlier_results(directories: Iterable[Path]) -> list[Path]:
    """The newest complete results in some directories, whose names tell when they were made."""
    found = (path for folder in directories for path in folder.glob("[0-9]*Z_*"))
    complete = [path for path in found if path.suffix != ".incomplete" and not path.is_symlink()]
    return sorted(complete, key=lambda path: path.name, reverse=True)[:MOST_EARLIER]


def write_large(
    store: zarr.storage.LocalStore, root: Any, name: str, group: xr.Dataset, earlier: Iterable[Path]
) -> xr.Dataset:
    """Write the large arrays of a group, or link them; returns what is left to be written."""
    earlier = list(earlier)
    large = [str(key) for key, value in group.data_vars.items() if _is_large(value)]
    for key in large:
        value = group[key].variable
        chunks = _chunks(value)
        variable = Variable(
            group=name,
            name=key,
            site=str(value.attrs["site"]),
            dims=tuple(map(str, value.dims)),
            shape=value.shape,
            chunks=chunks,
            dtype=value.dtype,
            stored=value.dtype,
            row_axis=None,
        )
        array = array_in(root, variable, {})
        for place in _places(value.shape, chunks):
            data = packed_chunk(variable, _filled(value[place].to_numpy(), chunks))
            path = chunk_path(store, array, place)
            inside = path.relative_to(store.root)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # it may be another result's too
            if not any(_linked(folder / inside, path, data) for folder in earlier):
                with path.open("wb") as file:
                    file.writelines(data)
    return group.drop_vars(large)


def _is_large(value: xr.DataArray) -> bool:
    """Whether an array is worth it, and is stored as it lies in memory: draws of a posterior."""
    is_plain = value.dtype.kind == "f" and value.dtype.isnative and set(value.attrs) == {"site"}
    return is_plain and value.nbytes >= LARGE_BYTES and value.dims[:2] == ("chain", "draw")


def _chunks(value: xr.Variable) -> tuple[int, ...]:
    """Some draws of one chain."""
    draws, own = value.shape[1], value.shape[2:]
    most = max(1, CHUNK_BYTES // (value.dtype.itemsize * math.prod(own)))
    return (1, math.ceil(draws / math.ceil(draws / most)), *own)


def _places(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    own = tuple(slice(0, size) for size in shape[2:])
    for chain, first in itertools.product(range(shape[0]), range(0, shape[1], chunks[1])):
        draws = slice(first, min(first + chunks[1], shape[1]))
        yield slice(chain, chain + 1), draws, *own


def _filled(values: np.ndarray, chunks: tuple[int, ...]) -> np.ndarray:
    """Values of a chunk, with zeros at the end where it goes on after the array."""
    lacking = chunks[1] - values.shape[1]
    if not lacking:
        return values
    return np.pad(values, [(0, 0), (0, lacking), *((0, 0) for _ in chunks[2:])])


def _linked(earlier: Path, path: Path, data: tuple[Any, bytes]) -> bool:
    """Whether an earlier file is this user's and holds these bytes, and is now this one too."""
    size = sum(len(memoryview(part).cast("B")) for part in data)
    try:
        known = earlier.lstat()
        if known.st_size != size or earlier.is_symlink() or not _is_own(known):
            return False
        os.link(earlier, path)
    except (OSError, NotImplementedError):  # not there, or no links here, or too many
        return False
    if _holds(path, data):
        return True
    path.unlink()
    return False


def _is_own(known: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or known.st_uid == os.getuid()


def _holds(path: Path, data: tuple[Any, bytes]) -> bool:
    """Whether a file has exactly these bytes."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        for part in data:
            held = memoryview(part).cast("B")
            for first in range(0, len(held), _PIECE):
                piece = held[first : first + _PIECE]
                if file.read(len(piece)) != piece:
                    return False
        return not file.read(1)
    return False
