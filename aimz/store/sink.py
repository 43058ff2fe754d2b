"""Sinks: where the tiles of a result go, and the simplest of them, which is memory.

A sink has `begin`, `write`, `commit` and `abort`. Nothing exists until `commit`; writing a tile
twice is harmless, and a sink that resumes an earlier run knows the tiles that it already `has`.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from aimz.libraries import xr
from aimz.store.objects import Prefix

__all__ = ["Groups", "Key", "MemorySink", "Sink", "Tile", "Variable", "tree_of"]


type Key = tuple[str, str]
type Groups = Mapping[str, xr.Dataset]

#: A result of this size first frees earlier ones that nobody uses.
LARGE_BYTES = 256 * 2**20
# The memory of large results that may still be in use.
_LARGE: list[weakref.ref[Any]] = []


@dataclass(frozen=True)
class Tile:
    """Some rows by some draws: its number on the grid, its rows, its chains and draws of each."""

    number: int
    rows: slice
    chains: slice
    draws: slice
    digest: str = ""  # of its rows, where they were read by the piece


@dataclass(frozen=True)
class Variable:
    """One array of a result, as it is labelled and cut.

    Parameters
    ----------
    group, name, site : str
        Group of the tree, name in the group, and the kernel's site.
    dims : tuple of str
        Dimensions; `chain` and `draw` lead, unless the variable is observed.
    shape, chunks : tuple of int
        Of the whole and of one tile. The rows count 0 while their number is not known.
    dtype, stored : dtype
        Of the values, and the narrowest that holds every value that the site can take.
    row_axis : int or None
        The axis of the rows.
    has_draws : bool
        False for observed data.
    measure : str
        "angle" or "category" where a difference of two values is no difference of quantities.
    """

    group: str
    name: str
    site: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    stored: np.dtype
    row_axis: int | None
    has_draws: bool = True
    measure: str = ""

    @cached_property
    def key(self) -> Key:
        """What the variable is called in a sink."""
        return (self.group, self.name)

    @cached_property
    def attrs(self) -> Mapping[str, str]:
        """What the labelled array says of itself."""
        return {"site": self.site} | ({"measure": self.measure} if self.measure else {})

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Axes in the order in which a tile's values lie in memory: the rows lead."""
        axes = list(range(len(self.dims)))
        if self.row_axis is not None:
            axes.insert(0, axes.pop(self.row_axis))
        return tuple(axes)

    @cached_property
    def grows(self) -> bool:
        """Whether the number of rows is not known yet."""
        return self.row_axis is not None and self.shape[self.row_axis] == 0

    def place(self, tile: Tile) -> tuple[slice, ...] | None:
        """Where a tile's values go; None where another tile holds the same values."""
        if self.row_axis is None and tile.rows.start:
            return None
        if not self.has_draws and (tile.chains.start or tile.draws.start):
            return None
        index = [slice(0, size) for size in self.shape]
        if self.has_draws:
            index[:2] = [tile.chains, tile.draws]
        if self.row_axis is not None:
            index[self.row_axis] = tile.rows
        return tuple(index)

    def arrange(self, values: np.ndarray, tile: Tile) -> np.ndarray:
        """A tile's values, (row, draw, ...), (draw, ...) or (row, ...), in the variable's order."""
        if not self.has_draws:
            return np.moveaxis(values, 0, self.row_axis or 0)
        chains, draws = tile.chains.stop - tile.chains.start, tile.draws.stop - tile.draws.start
        if self.row_axis is None:
            return values.reshape(chains, draws, *values.shape[1:])
        array = values.reshape(len(values), chains, draws, *values.shape[2:])
        return np.moveaxis(array, 0, self.row_axis)


@runtime_checkable
class Sink(Protocol):
    """Takes tiles of rows by draws and makes them a result, or nothing.

    One that other processes can write into has two methods more: `writer()` gives what can be
    pickled and has `write(tile, values)`, or gives None; and `written(tile, receipt)` takes what
    that has returned of a tile, which is None where it could not be written there.
    """

    def begin(self, variables: Sequence[Variable]) -> None:
        """Prepare for tiles of these variables."""

    def has(self, tile: Tile) -> bool:
        """Whether an earlier run has written this tile, soundly and from the same rows."""

    def write(self, tile: Tile, values: Mapping[Key, np.ndarray]) -> None:
        """Put the values of one tile in place; several threads may write at once."""

    def commit(self, groups: Groups, attrs: Mapping[str, Any], rows: int) -> xr.DataTree:
        """Make the result visible: these groups, with the variables added."""

    def abort(self) -> Path | Prefix | None:
        """Leave nothing that looks like a result; say where a part is kept to be resumed."""


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
