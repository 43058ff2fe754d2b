"""Results in memory."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aimz.libraries import xr
from aimz.store.sink import Groups, Key, Tile, Variable

__all__ = ["MemorySink", "tree_of"]


#: A result of this size first frees earlier ones that nobody uses.
LARGE_BYTES = 256 * 2**20
# The memory of large results that may still be in use.
_LARGE: list[weakref.ref[Any]] = []


@dataclass
class MemorySink:
    """A sink of NumPy arrays."""

    variables: dict[Key, Variable] = field(default_factory=dict)
    arrays: dict[Key, np.ndarray] = field(default_factory=dict)
    pieces: dict[Key, dict[int, np.ndarray]] = field(default_factory=dict)

    def begin(self, variables: Sequence[Variable]) -> None:
        self.variables = {variable.key: variable for variable in variables}
        self.arrays, self.pieces = {}, {}  # those of an earlier call belong to its result
        sizes = {v.key: math.prod(v.shape) * v.dtype.itemsize for v in variables}
        if sum(sizes.values()) > LARGE_BYTES and any(ref() is not None for ref in _LARGE):
            gc.collect()  # trees refer to their parents, so one that was dropped may still be here
        _LARGE[:] = [ref for ref in _LARGE if ref() is not None]
        for key, variable in self.variables.items():
            if variable.grows:
                self.pieces[key] = {}
                continue
            self.arrays[key] = _empty(variable.shape, variable)
            if sizes[key] > LARGE_BYTES:
                _LARGE.append(weakref.ref(self.arrays[key].base))

    def has(self, tile: Tile) -> bool:
        return False

    def write(self, tile: Tile, values: Mapping[Key, np.ndarray]) -> None:
        for key, array in values.items():
            place = self.variables[key].place(tile)
            if place is None:
                continue
            if key in self.arrays:
                self.arrays[key][place] = array
            else:
                self._fill_piece(self.variables[key], tile, place, array)

    def commit(self, groups: Groups, attrs: Mapping[str, Any], rows: int) -> xr.DataTree:
        for key, pieces in self.pieces.items():
            ordered = [pieces[start] for start in sorted(pieces)]
            self.arrays[key] = np.concatenate(ordered, axis=self.variables[key].row_axis)
        made: dict[str, dict[Any, Any]] = {}
        for (group, name), variable in self.variables.items():
            values = (variable.dims, self.arrays[group, name], variable.attrs)
            made.setdefault(group, {})[name] = values
        filled = dict(groups)
        for name in made.keys() & filled.keys():
            before = filled[name]
            data = {**before.data_vars, **made[name]}
            filled[name] = xr.Dataset(data, coords=before.coords, attrs=before.attrs)
        return tree_of(filled, attrs)

    def abort(self) -> Path | None:
        self.arrays, self.pieces = {}, {}
        return None

    def _fill_piece(
        self, variable: Variable, tile: Tile, place: tuple[slice, ...], array: np.ndarray
    ) -> None:
        """Keep the rows of a tile apart while nobody knows how many rows there will be."""
        axis, count = variable.row_axis or 0, tile.rows.stop - tile.rows.start
        shape = (*variable.shape[:axis], count, *variable.shape[axis + 1 :])
        pieces = self.pieces[variable.key]
        piece = pieces.setdefault(tile.rows.start, _empty(shape, variable))
        piece[(*place[:axis], slice(0, count), *place[axis + 1 :])] = array


def tree_of(groups: Groups, attrs: Mapping[str, Any]) -> xr.DataTree:
    """DataTree of named groups."""
    tree: xr.DataTree = xr.DataTree()
    # Set after they are made: `from_dict` and the constructor would copy each of them.
    tree.children = {name: xr.DataTree(group) for name, group in groups.items()}
    tree.attrs.update(attrs)
    return tree


def _empty(shape: tuple[int, ...], variable: Variable) -> np.ndarray:
    """An array whose memory has the rows first, as tiles come."""
    ordered = [shape[axis] for axis in variable.order]
    return np.empty(ordered, variable.dtype).transpose(np.argsort(variable.order))
