"""Sums over rows, tile by tile: what an effect keeps of rows x draws values.

Values are added in double precision within a tile, and tiles in their order on the grid whatever
order they are finished in, so that a sum depends on nothing but its terms.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Reduction", "Share"]

type Sums = dict[str, np.ndarray]


@dataclass(frozen=True)
class Share:
    """What one tile adds, for the groups that it holds: sums and weights, (group, draw, ...)."""

    groups: np.ndarray
    sums: Sums
    mass: np.ndarray  # (group, draw), or (group, 1) where draws weigh alike


@dataclass
class Reduction:
    """Weighted sums of each scenario's values by group and draw.

    Parameters
    ----------
    weights : array, shape (rows,), float64
        Weight of each row; 0 leaves it out.
    groups : array, shape (rows,), int
        Group of each row.
    num_groups, draws : int
        Groups, and draws of all chains.
    """

    weights: np.ndarray
    groups: np.ndarray
    num_groups: int
    draws: int
    sums: Sums = field(default_factory=dict)
    mass: np.ndarray | None = None
    _waiting: dict[int, tuple[slice, Share]] = field(default_factory=dict)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def share(
        self, rows: slice, values: Mapping[str, np.ndarray], draw_weights: np.ndarray | None = None
    ) -> Share:
        """What values (row, draw, ...) of some rows add; `draw_weights` are (row, draw)."""
        weights, groups = self.weights[rows], self.groups[rows]
        asked = np.flatnonzero(weights)
        order = asked[np.argsort(groups[asked], kind="stable")]
        if not len(order):
            return Share(np.empty(0, np.intp), {}, np.empty((0, 1)))
        present, starts = np.unique(groups[order], return_index=True)
        factor = weights[order, None]
        if draw_weights is not None:
            factor = factor * draw_weights[order]
        is_plain = draw_weights is None and len(order) == len(weights) and np.all(weights == 1)

        def added(array: np.ndarray) -> np.ndarray:
            if is_plain and len(present) == 1:
                return array.sum(axis=0, dtype=np.float64)[None]
            wide = array[order].astype(np.float64)
            wide *= factor.reshape(*factor.shape, *[1] * (array.ndim - 2))
            return np.add.reduceat(wide, starts, axis=0)

        sums = {name: added(array) for name, array in values.items()}
        return Share(present, sums, np.add.reduceat(factor, starts, axis=0))

    def add(self, number: int, draws: slice, share: Share) -> None:
        """Add the share of tile `number`; it waits until all tiles before it have been added."""
        with self._lock:
            self._waiting[number] = (draws, share)
            while self._next in self._waiting:
                self._add(*self._waiting.pop(self._next))
                self._next += 1

    def _add(self, draws: slice, share: Share) -> None:
        if self.mass is None:
            width = self.draws if share.mass.shape[1] > 1 else 1
            self.mass = np.zeros((self.num_groups, width))
        for name, sums in share.sums.items():
            if name not in self.sums:
                self.sums[name] = np.zeros((self.num_groups, self.draws, *sums.shape[2:]))
            self.sums[name][share.groups, draws] += sums
        if self.mass.shape[1] > 1:
            self.mass[share.groups, draws] += share.mass
        elif draws.start == 0:  # blocks of draws have the same rows
            self.mass[share.groups] += share.mass

    def averages(self) -> Sums:
        """Average of each scenario, (group, draw, ...)."""
        assert self.mass is not None  # noqa: S101  # there is at least one tile
        mass = self.mass
        return {
            name: sums / mass.reshape(*mass.shape, *[1] * (sums.ndim - 2))
            for name, sums in self.sums.items()
        }
