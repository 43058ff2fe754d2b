"""Passes over the rows that keep no draws: the score of each row, and which rows count.

A row counts if some of its data are there and no mask of the kernel leaves them all out. Nothing of
size rows x draws is held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from aimz.data import RowTile
from aimz.errors import InputError, Note
from aimz.execution import Call, TileRun, compile_call, each_tile, plan_tiles
from aimz.libraries import xr
from aimz.prediction.one_call import Prepared
from aimz.sampling import DENSITY, WEIGHT, density_spec, presence_block, scored
from aimz.store import Tile

__all__ = ["RowScores", "of_rows_that_count", "presence_in", "row_scores"]


# Draws that are asked which elements count: as a rule all say the same.
_DRAWS = 16


@dataclass(frozen=True)
class RowScores:
    """For each row the log of its density averaged over the draws, and what it counts."""

    densities: np.ndarray
    weights: np.ndarray
    notes: tuple[Note, ...] = ()

    def mean(self, weights: np.ndarray | None = None) -> float:
        """Mean over the rows that count.

        Raises
        ------
        InputError
            `nothing-observed`
        """
        counts = self.weights if weights is None else self.weights * weights
        rows = counts != 0
        if not rows.any():
            msg = "No row counts: all outcomes are missing, masked or of weight 0. Pass some."
            raise InputError(msg, code="nothing-observed")
        return float(np.average(self.densities[rows], weights=counts[rows]))


@dataclass
class _LogMeans:
    """Logarithms of means of exponentials over draws, and means of weights, by the first row.

    Tiles are added in the order of their numbers, so that their order of arrival is irrelevant.
    """

    sums: dict[int, np.ndarray] = field(default_factory=dict)  # peak, scaled sum, weight: (3, row)
    _waiting: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, tile: Tile, densities: np.ndarray, weights: np.ndarray) -> None:
        """Take in the draws of some rows, (row, draw) each."""
        wide = densities.astype(np.float64)
        peak = wide.max(axis=1)
        scaled = np.exp(wide - _finite(peak)[:, None]).sum(axis=1)
        shares = np.stack([peak, scaled, weights.sum(axis=1, dtype=np.float64)])
        with self._lock:
            self._waiting[tile.number] = (tile.rows.start, shares)
            while self._next in self._waiting:
                first, its_shares = self._waiting.pop(self._next)
                self.sums[first] = (
                    its_shares if first not in self.sums else _joined(self.sums[first], its_shares)
                )
                self._next += 1

    def means(self, draws: int) -> RowScores:
        """What all draws say of all rows."""
        peak, scaled, weights = np.concatenate([self.sums[n] for n in sorted(self.sums)], axis=1)
        with np.errstate(divide="ignore"):
            return RowScores(peak + np.log(scaled / draws), weights / draws)


def _joined(before: np.ndarray, more: np.ndarray) -> np.ndarray:
    peak = np.maximum(before[0], more[0])
    old, new = (sums[1] * np.exp(sums[0] - _finite(peak)) for sums in (before, more))
    return np.stack([peak, old + new, before[2] + more[2]])


def _finite(peak: np.ndarray) -> np.ndarray:
    """A number to subtract: of a row that no draw finds possible, 0."""
    return np.where(np.isneginf(peak), 0.0, peak)


def row_scores(prepared: Prepared, on_rows: Callable[[int], None]) -> RowScores:
    """Score the rows of a prepared call of `score_block`.

    Raises
    ------
    InputError
        `rows-joint`
    """
    plan = prepared.plan
    call = replace(prepared.call, task=scored(prepared.call.task))
    run = TileRun(call, compile_call(call, plan), plan)
    means = _LogMeans()

    def finish(_: RowTile, tile: Tile, values: Mapping[str, np.ndarray]) -> None:
        densities = values[DENSITY]
        means.add(tile, densities, values.get(WEIGHT, np.ones_like(densities)))

    each_tile(call, plan, run, finish, on_rows)
    return replace(
        means.means(plan.chains * plan.draws), notes=(*run.ready.notes, *call.source.notes)
    )


def presence_in(call: Call, sites: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Which densities of some sites count, (row, ...): those that are there and not masked."""
    count = min(_DRAWS, len(call.block.draws))
    block = call.block._replace(
        draws=call.block.draws[:count],
        posterior={n: v[:count] for n, v in call.block.posterior.items()},
        row_posterior={n: v[:count] for n, v in call.block.row_posterior.items()},
    )
    task = replace(call.task, sites=sites, results=density_spec(call.task.spec))
    call = replace(call, program=presence_block, task=task, block=block)
    plan = plan_tiles(task.spec, call.source.count, 1, count)
    run = TileRun(call, compile_call(call, plan), plan)
    by_tile: dict[int, dict[str, np.ndarray]] = {}

    def finish(_: RowTile, tile: Tile, found: Mapping[str, np.ndarray]) -> None:
        values = {n: v.any(axis=1) for n, v in found.items()}
        seen = by_tile.setdefault(tile.rows.start, values)
        for name, value in values.items():
            seen[name] = seen[name] | value

    each_tile(call, plan, run, finish, lambda _: None)
    parts = [by_tile[first] for first in sorted(by_tile)]
    return {name: np.concatenate([flags[name] for flags in parts]) for name in sites}


def _rows_that_count(call: Call, densities: xr.Dataset, row_dim: str) -> np.ndarray | None:
    """Rows, (row,) of bool, of which some data count; None where all do by their structure.

    Rows that were read by the piece cannot be asked again: of these the log densities tell, which
    are NaN where they do not count.

    Raises
    ------
    InputError
        `nothing-observed`: none does.
    """
    spec, results = call.task.spec, density_spec(call.task.spec)
    sites = tuple(n for n in spec.data_sites if results[n].follows_rows)
    if not sites or not (call.task.missing or any(spec[n].masked for n in sites)):
        return None
    if not call.source.can_repeat:
        first = densities.isel(chain=0, draw=0).to_array()
        others = [dim for dim in first.dims if dim != row_dim]
        presence = {"": np.asarray(first.notnull().any(others))}
    else:
        presence = presence_in(call, sites)
    counts = [value.reshape(len(value), -1).any(axis=1) for value in presence.values()]
    rows: np.ndarray = np.logical_or.reduce(counts)
    if not rows.any():
        msg = "No row counts: all outcomes are missing or masked. Pass some."
        raise InputError(msg, code="nothing-observed")
    return rows


def _without_rows(
    tree: xr.DataTree, counts: np.ndarray, row_dim: str, groups: tuple[str, ...]
) -> xr.DataTree:
    """A result in which some groups have only the rows that count; the store keeps all."""
    left_out = int((~counts).sum())
    if not left_out:
        return tree
    numbers = np.flatnonzero(counts)
    for name in groups:
        if name in tree.children and row_dim in tree[name].dims:
            group = tree[name].to_dataset().isel({row_dim: numbers})
            tree[name] = xr.DataTree(group.assign_attrs(rows_left_out=left_out))
    return tree


def of_rows_that_count(call: Call, tree: xr.DataTree) -> xr.DataTree:
    """A result of densities without the rows that do not count."""
    row_dim = call.task.results.row_dim
    counts = _rows_that_count(call, tree[call.group].to_dataset(), row_dim)
    if counts is None:
        return tree
    return _without_rows(tree, counts, row_dim, (call.group, "observed_data"))
