"""Documents and labels of a result, as Zarr has them, kept in memory until its last tile is there.

Where nothing can be renamed, or changed in part, chunks go to their place whole, as they come, and
all that says what they are goes there in the end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.libraries import zarr
from aimz.store.chunks import array_in, check_dtype, chunk_name, packed_object, write_labels
from aimz.store.elsewhere import Seen, TileWriter, writer_to
from aimz.store.manifest import describe, sealed
from aimz.store.objects import MARKER
from aimz.store.sink import Groups, Key, Tile, Variable

__all__ = ["Draft"]


@dataclass
class Draft:
    """Arrays of a result without their chunks."""

    variables: dict[Key, Variable] = field(default_factory=dict)
    arrays: dict[Key, Any] = field(default_factory=dict)
    _files: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, variables: Sequence[Variable]) -> None:
        """Make the arrays."""
        for variable in variables:
            check_dtype(variable)
        self.variables = {variable.key: variable for variable in variables}
        root = zarr.create_group(self._store, zarr_format=3)
        self.arrays = {key: array_in(root, v, {}) for key, v in self.variables.items()}

    def documents(self) -> dict[str, bytes]:
        """What Zarr says of groups and arrays, a group before what is in it."""
        names = [name for name in self._files if name.rpartition("/")[2] == MARKER]
        return {n: self._files[n].to_bytes() for n in sorted(names, key=lambda n: n.count("/"))}

    def names(self, tile: Tile) -> list[str]:
        """Names of the chunks that hold a tile."""
        places = {key: variable.place(tile) for key, variable in self.variables.items()}
        return [chunk_name(self.arrays[k], p) for k, p in places.items() if p is not None]

    def chunks(self, tile: Tile, values: Mapping[Key, np.ndarray]) -> Iterator[tuple[str, bytes]]:
        """The chunks that hold a tile's values, one after another."""
        for key, array in values.items():
            place = self.variables[key].place(tile)
            if place is not None:
                yield chunk_name(self.arrays[key], place), self._packed(key, place, array)

    def writer(self, place: Seen) -> TileWriter | None:
        """What writes tiles in another process, which sees the same place."""
        paths = [array.path for array in self.arrays.values()]
        documents = {path: self._files[f"{path}/{MARKER}"].to_bytes() for path in paths}
        return writer_to(place, self.variables, self.arrays, documents)

    def completed(
        self,
        groups: Groups,
        attrs: Mapping[str, Any],
        rows: int,
        made_from: tuple[Mapping[str, str], Mapping[int, str]],
    ) -> tuple[dict[str, bytes], bytes]:
        """Documents and labels of the result, by name, and its root, which seals them.

        `made_from` are digests of what the result follows from, and of the tiles.
        """
        for key, variable in self.variables.items():
            if variable.grows:
                self._resize(key, rows, exactly=True)
        placed = {"artifact_path": attrs["artifact_path"]}
        for name, group in groups.items():
            write_labels(self._store, name, group.assign_attrs(placed).compute())
        describe(self._store, self.documents(), attrs, *made_from)
        root = sealed(self._files[MARKER].to_bytes())
        files = {**self.documents(), **{k: v.to_bytes() for k, v in self._files.items()}}
        del files[MARKER]
        return files, root

    @property
    def _store(self) -> Any:
        return zarr.storage.MemoryStore(self._files)

    def _packed(self, key: Key, place: tuple[slice, ...], values: np.ndarray) -> bytes:
        """What the object of a chunk holds."""
        variable = self.variables[key]
        if variable.grows:
            self._resize(key, place[variable.row_axis or 0].stop)
        array = self.arrays[key]
        return packed_object(variable, array, self._files[f"{array.path}/{MARKER}"], place, values)

    def _resize(self, key: Key, rows: int, *, exactly: bool = False) -> None:
        axis = self.variables[key].row_axis or 0
        with self._lock:
            array = self.arrays[key]
            if exactly or rows > array.shape[axis]:
                shape = list(array.shape)
                shape[axis] = rows if exactly else max(rows, 2 * shape[axis])
                array.resize(tuple(shape))
