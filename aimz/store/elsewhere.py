"""Tiles that another process writes, where it sees the same store: chunks whole, or not at all.

It may write a tile twice, or after another process has: the bytes are the same. Which tiles are
finished, and when the result is one, is said by the process that has begun it alone.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aimz.errors import StoreError
from aimz.libraries import cloudpickle, zarr
from aimz.store.chunks import chunk_name, packed_object
from aimz.store.objects import RECORD, Prefix
from aimz.store.sink import Key, Tile, Variable

__all__ = ["WRITING", "FolderSeen", "PrefixSeen", "Seen", "TileWriter", "writer_to"]


#: Folder, in an unfinished store, of chunks that are being written.
WRITING = ".writing"


class Seen(Protocol):
    """A place of chunks, which can be pickled."""

    def is_seen(self) -> bool:
        """Whether this process sees the store that another has begun."""

    def write(self, chunks: Iterator[tuple[str, bytes]]) -> object:
        """Put chunks in their places, each whole or not at all; what the sink gets as a receipt."""


@dataclass(frozen=True)
class PrefixSeen:
    """Objects of a run, known by its record: nobody else has one of its name."""

    place: Prefix

    def is_seen(self) -> bool:
        return self.place.changed(RECORD) is not None

    def write(self, chunks: Iterator[tuple[str, bytes]]) -> bool:
        for name, value in chunks:
            self.place.write(name, value)
        return True


@dataclass(frozen=True)
class FolderSeen:
    """A folder, known by its name, which has the time in it, and its number in the file system."""

    path: Path
    number: int

    def is_seen(self) -> bool:
        return self.path.stat().st_ino == self.number

    def write(self, chunks: Iterator[tuple[str, bytes]]) -> bool:
        for name, value in chunks:
            self._put(name, value)
        return True

    def _put(self, name: str, value: bytes) -> None:
        final = self.path / name
        newborn = self.path / WRITING / uuid.uuid4().hex
        for folder in reversed([newborn.parent, *self._between(final)]):
            folder.mkdir(exist_ok=True)  # and no parents: a store that is gone stays so
        newborn.write_bytes(value)
        newborn.replace(final)

    def _between(self, file: Path) -> Iterator[Path]:
        """Folders of a file inside the store, the innermost first."""
        for folder in file.parents:
            if folder == self.path:
                return
            yield folder


@dataclass
class TileWriter:
    """Writes tiles of a store that another process has begun.

    Parameters
    ----------
    place : Seen
        Where the chunks go.
    variables, paths : mapping
        Variables, and where their arrays are in the store.
    documents : mapping of bytes
        What Zarr says of the arrays, by path.
    """

    place: Seen
    variables: Mapping[Key, Variable]
    paths: Mapping[Key, str]
    documents: Mapping[str, bytes]
    _arrays: dict[Key, Any] = field(default_factory=dict)
    _is_seen: bool | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}, "_is_seen": None}

    def write(self, tile: Tile, values: Mapping[Key, np.ndarray]) -> object:
        """Write a tile; None where that cannot be done from here, and its values must be sent."""
        if self._is_seen is None:
            self._is_seen = self._sees_it()
        if self._is_seen:
            with contextlib.suppress(StoreError, OSError):
                return self.place.write(self._packed(tile, values))
        return None

    def _sees_it(self) -> bool:
        with contextlib.suppress(StoreError, OSError):
            return self.place.is_seen()
        return False

    def _packed(self, tile: Tile, values: Mapping[Key, np.ndarray]) -> Iterator[tuple[str, bytes]]:
        buffer = zarr.core.buffer.default_buffer_prototype().buffer
        for key, array in values.items():
            variable = self.variables[key]
            place = variable.place(tile)
            if place is None:
                continue
            path = self.paths[key]
            document = buffer.from_bytes(self.documents[path])
            if key not in self._arrays:
                store = zarr.storage.MemoryStore({f"{path}/zarr.json": document})
                self._arrays[key] = zarr.open_array(store, path=path, mode="r")
            its = self._arrays[key]
            yield chunk_name(its, place), packed_object(variable, its, document, place, array)


def writer_to(
    place: Seen,
    variables: Mapping[Key, Variable],
    arrays: Mapping[Key, Any],
    documents: Mapping[str, bytes],
) -> TileWriter | None:
    """What writes a store's tiles in another process; None where none can."""
    if any(variable.grows for variable in variables.values()):
        return None
    paths = {key: array.path for key, array in arrays.items()}
    writer = TileWriter(place, variables, paths, documents)
    try:
        cloudpickle.dumps(writer)
    except Exception:  # noqa: BLE001  # whatever a client says that lives in this process only
        return None
    return writer
