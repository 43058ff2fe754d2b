"""Sums over rows, tile by tile: what an effect keeps of rows x draws values.

Values are added in double precision within a tile, and tiles in their order on the grid whatever
order they are finished in, so that a sum depends on nothing but its terms.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Reduction", "RowSummary", "Share", "Summarised"]


type Sums = dict[Any, np.ndarray]


@dataclass(frozen=True)
class Summarised:
    """What is asked of the draws of each row."""

    quantiles: tuple[float, ...]
    threshold: float


@dataclass(frozen=True)
class Share:
    """What one tile adds, for the groups that it holds: sums and weights, (group, draw, ...).

    Unless draws weigh by themselves, the mass is that of any draw, (group, 1).
    """

    groups: np.ndarray
    sums: Sums
    mass: np.ndarray
    by_draw: bool = False


@dataclass
class Reduction:
    """Weighted sums of each scenario's values by group and draw.

    Parameters
    ----------
    weights : array, shape (rows,), float64, optional
        Weight of each row; 0 leaves it out. Default all alike.
    groups : array, shape (rows,), int, optional
        Group of each row. Default one group.
    num_groups, draws : int
        Groups, and draws of all chains.
    """

    weights: np.ndarray | None
    groups: np.ndarray | None
    num_groups: int
    draws: int
    sums: Sums = field(default_factory=dict)
    mass: np.ndarray | None = None
    _waiting: dict[int, tuple[slice, Share]] = field(default_factory=dict)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets what rows weigh and not what has been added."""
        return Reduction, (self.weights, self.groups, self.num_groups, self.draws)

    def share(
        self, rows: slice, values: Mapping[str, np.ndarray], draw_weights: np.ndarray | None = None
    ) -> Share:
        """What values (row, draw, ...) of some rows add; `draw_weights` are (row, draw)."""
        count = rows.stop - rows.start
        weights = np.ones(count) if self.weights is None else self.weights[rows]
        groups = np.zeros(count, np.intp) if self.groups is None else self.groups[rows]
        asked = np.flatnonzero(weights)
        order = asked[np.argsort(groups[asked], kind="stable")]
        by_draw = draw_weights is not None
        if not len(order):
            return Share(np.empty(0, np.intp), {}, np.empty((0, 1)), by_draw)
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
        return Share(present, sums, np.add.reduceat(factor, starts, axis=0), by_draw)

    def add(self, number: int, draws: slice, share: Share) -> None:
        """Add the share of tile `number`; it waits until all tiles before it have been added."""
        with self._lock:
            self._waiting[number] = (draws, share)
            while self._next in self._waiting:
                self._add(*self._waiting.pop(self._next))
                self._next += 1

    def _add(self, draws: slice, share: Share) -> None:
        if self.mass is None:
            width = self.draws if share.by_draw else 1
            self.mass = np.zeros((self.num_groups, width))
        for name, sums in share.sums.items():
            if name not in self.sums:
                self.sums[name] = np.zeros((self.num_groups, self.draws, *sums.shape[2:]))
            self.sums[name][share.groups, draws] += sums
        if share.by_draw and len(share.groups):
            self.mass[share.groups, draws] += share.mass
        elif not share.by_draw and draws.start == 0:  # blocks of draws have the same rows
            self.mass[share.groups] += share.mass

    def averages(self) -> Sums:
        """Average of each scenario, (group, draw, ...)."""
        assert self.mass is not None  # noqa: S101  # there is at least one tile
        mass = self.mass
        return {
            name: sums / mass.reshape(*mass.shape, *[1] * (sums.ndim - 2))
            for name, sums in self.sums.items()
        }


@dataclass
class RowSummary:
    """Summaries over draws of each row's effect; draws are kept until a row has all of them.

    Parameters
    ----------
    asked : Summarised
        Quantiles, and the threshold above which draws are counted.
    draws : int
        Draws of all chains.
    """

    asked: Summarised
    draws: int
    _done: dict[int, dict[Any, Sums]] = field(default_factory=dict)  # by number of the first row
    _waiting: dict[int, list[tuple[slice, Mapping[Any, np.ndarray]]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, rows: slice, draws: slice, effects: Mapping[Any, np.ndarray]) -> None:
        """Add draws, (row, draw, ...), of the effects on some rows, by contrast."""
        with self._lock:
            parts = self._waiting.setdefault(rows.start, [])
            parts.append((draws, effects))
            if sum(span.stop - span.start for span, _ in parts) < self.draws:
                return
            del self._waiting[rows.start]
        parts.sort(key=lambda span: span[0].start)
        whole = {
            contrast: np.concatenate([piece[contrast] for _, piece in parts], axis=1)
            for contrast in effects
        }
        self._done[rows.start] = {name: self._summary(values) for name, values in whole.items()}

    def _summary(self, values: np.ndarray) -> Sums:
        return {
            "mean": values.mean(axis=1),
            "sd": values.std(axis=1, ddof=1) if values.shape[1] > 1 else 0.0 * values[:, 0],
            "quantiles": np.quantile(values, self.asked.quantiles, axis=1),
            "probability": (values > self.asked.threshold).mean(axis=1),
        }

    def columns(self) -> dict[Any, Sums]:
        """Each summary of all rows, by contrast: (row, ...), and (quantile, row, ...)."""
        parts = [self._done[first] for first in sorted(self._done)]
        return {
            contrast: {
                name: np.concatenate(
                    [p[contrast][name] for p in parts], axis=int(name == "quantiles")
                )
                for name in parts[0][contrast]
            }
            for contrast in parts[0]
        }
