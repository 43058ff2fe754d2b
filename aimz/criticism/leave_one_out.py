"""Each row left out of the posterior, in one pass over the rows that keeps no matrix of densities.

A tile of rows has all draws at once, is reduced to three numbers an observation, and is forgotten.
Only where rows interact, whose tiles are blocks of draws, are all rows by all draws in memory.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.criticism.smoothing import LEAST_DRAWS, LeftOut, smoothed_out, tail_length
from aimz.data import RowTile
from aimz.errors import InputError, Note, OutputWarning, nearest
from aimz.execution import Plan, TileRun, compile_call, each_tile, num_draws
from aimz.kernel import KernelSpec
from aimz.libraries import xr
from aimz.prediction import (
    Given,
    Prepared,
    Request,
    origin_of,
)
from aimz.results import Schema, labelled_groups, layout_of
from aimz.store import Tile

if TYPE_CHECKING:
    from arviz_stats import ELPDDataLOO

__all__ = ["leave_out"]


@dataclass
class _Pass:
    """What is known of rows so far, by the first of them; and densities that wait for draws."""

    plan: Plan
    tail: int
    finished: dict[int, tuple[LeftOut, np.ndarray]] = field(default_factory=dict)
    _waiting: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, tile: Tile, densities: np.ndarray) -> None:
        """Take in the draws of some rows, (row, draw, ...): NaN is what does not count."""
        total, first = self.plan.chains * self.plan.draws, tile.rows.start
        if num_draws(tile) < total:
            with self._lock:
                shape = (len(densities), total, *densities.shape[2:])
                every, seen = self._waiting.pop(first, (np.empty(shape), 0))
                start = tile.chains.start * self.plan.draws + tile.draws.start
                every[:, start : start + num_draws(tile)] = densities
                if seen + num_draws(tile) < total:
                    self._waiting[first] = every, seen + num_draws(tile)
                    return
            densities = every
        self.finished[first] = self._reduced(np.asarray(densities, np.float64))

    def _reduced(self, densities: np.ndarray) -> tuple[LeftOut, np.ndarray]:
        by_element = np.moveaxis(densities, 1, -1)
        shape = by_element.shape[:-1]
        flat = by_element.reshape(-1, by_element.shape[-1])
        counts = ~np.isnan(flat).all(axis=1)
        some = smoothed_out(flat if counts.all() else flat[counts], self.tail)
        values = [np.full(len(flat), np.nan) for _ in some]
        for every, value in zip(values, some, strict=True):
            every[counts] = value
        return LeftOut(*(value.reshape(shape) for value in values)), counts.reshape(shape)


def _chosen_site(spec: KernelSpec, sites: tuple[str, ...], site: object) -> str:
    """The observed site whose values are left out: the one that there is, or the one named.

    Raises
    ------
    InputError
        `site-unknown`; `rows-joint`: its density is joint over the rows.
    """
    if site is None and len(sites) > 1:
        listed = ", ".join(f"'{name}'" for name in sites)
        msg = f"The kernel observes {listed:.120}. Say whose values are left out: site='{sites[0]}'"
        raise InputError(f"{msg}.", code="site-unknown")
    name = sites[0] if site is None else site
    if not isinstance(name, str) or name not in sites:
        msg = f"There is no observed site {name!r:.60} to leave out. {nearest(str(name), sites)}"
        raise InputError(msg, code="site-unknown")
    if not spec[name].follows_rows:
        msg = (
            f"Site '{name}' has one log density for all rows together, so that no row can be left "
            "out of it. Write the site with one value per row."
        )
        raise InputError(msg, code="rows-joint")
    return name


def leave_out(
    prepared: Prepared,
    request: Request,
    inputs: Given,
    schema: Schema,
    site: str | None,
    on_rows: Callable[[int], None],
) -> tuple[ELPDDataLOO, tuple[Note, ...]]:
    """Leave out each value of an observed site in turn: ArviZ's record, and what to say of it.

    Raises
    ------
    InputError
        `site-unknown`, `rows-joint`, `draws-few`, `nothing-observed`.
    """
    plan, task = prepared.plan, prepared.call.task
    draws = plan.chains * plan.draws
    if draws < LEAST_DRAWS:
        msg = (
            f"Leaving rows out by weights takes {LEAST_DRAWS} posterior draws or more, to see the "
            f"tail of the weights, and here are {draws}. Draw more: num_samples=."
        )
        raise InputError(msg, code="draws-few")
    name = _chosen_site(task.results, task.sites, site)
    call = replace(prepared.call, task=replace(task, sites=(name,)))
    ready = compile_call(call, plan)
    run = TileRun(call, ready, plan)
    passed = _Pass(plan, tail_length(draws, _efficiency(request.fit.draws, plan)))

    def finish(_: RowTile, tile: Tile, values: Mapping[str, np.ndarray]) -> None:
        passed.add(tile, values[name])

    rows = each_tile(call, plan, run, finish, on_rows, in_order=True)
    (variable,) = layout_of(call, ready, plan, schema)
    coords = labelled_groups((variable,), schema, task.results, rows)[call.group].coords
    axis, dims = task.results[name].axis, variable.dims[2:]
    values, counts = _of_all_rows(passed)
    arrays = [np.moveaxis(value, 0, axis) for value in (*values, counts)]
    named: dict[str, Any] = {"coords": {d: coords[d] for d in dims}, "name": variable.name}
    labelled = [xr.DataArray(array, dims=dims, **named) for array in arrays]
    record = _record(*labelled, row_dim=dims[axis], draws=draws)
    notes = (*_health(record, name), *_limits(request, inputs, name), *ready.notes)
    return record, notes


def _of_all_rows(passed: _Pass) -> tuple[LeftOut, np.ndarray]:
    parts = [passed.finished[first] for first in sorted(passed.finished)]
    values = zip(*(left_out for left_out, _ in parts), strict=True)
    counts = np.concatenate([counts for _, counts in parts])
    return LeftOut(*(np.concatenate(value) for value in values)), counts


def _record(
    elpd: xr.DataArray,
    lost: xr.DataArray,
    k: xr.DataArray,
    counts: xr.DataArray,
    *,
    row_dim: str,
    draws: int,
) -> ELPDDataLOO:
    """ArviZ's record of the values that count, without rows of which none does."""
    from arviz_stats import ELPDDataLOO

    is_there = counts.values
    points = int(is_there.sum())
    if not points:
        msg = "No row counts: all outcomes are missing or masked. Pass some."
        raise InputError(msg, code="nothing-observed")
    others = [dim for dim in counts.dims if dim != row_dim]
    rows = np.flatnonzero(counts.any(others).values)
    good_k = min(1 - 1 / math.log10(draws), 0.7)
    of_points = elpd.values[is_there]
    with np.errstate(invalid="ignore"):  # of what is impossible
        se = float(np.sqrt(points * np.var(of_points, ddof=1))) if points > 1 else 0.0
    return ELPDDataLOO(
        elpd=float(of_points.sum()),
        se=se,
        p=float(lost.values[is_there].sum()),
        n_samples=draws,
        n_data_points=points,
        scale="log",
        warning=not bool((k.values[is_there] <= good_k).all()),
        good_k=good_k,
        elpd_i=elpd.isel({row_dim: rows}),
        pareto_k=k.isel({row_dim: rows}),
    )


def _efficiency(draws: Mapping[str, Any], plan: Plan) -> float:
    """Effective draws a draw, the mean over all latents: by ArviZ's rule 1 of a single chain."""
    if plan.chains == 1 or not draws:
        return 1.0
    from arviz_stats import base

    ess: Any = base.array_stats.ess  # type: ignore[attr-defined]  # as its documentation has it
    sizes = [
        np.ravel(ess(value, chain_axis=0, draw_axis=1, method="mean"))
        for value in map(np.asarray, draws.values())
    ]
    return float(np.concatenate(sizes).mean() / (plan.chains * plan.draws))


def _health(record: ELPDDataLOO, site: str) -> list[Note]:
    """What Pareto k says of the values that cannot be trusted; what it cannot judge is told."""
    k = record.pareto_k.values[~np.isnan(record.elpd_i.values)]
    high, unknown = int((k > record.good_k).sum()), int(np.isnan(k).sum())
    if not high + unknown:
        return []
    unjudged = f", and of {unknown} it cannot be told" if unknown else ""
    text = (
        f"Pareto k of {high} of {record.n_data_points} values of '{site}' is above "
        f"{record.good_k:.2f}{unjudged}: leaving them out changes the posterior too much for "
        "weights. Refit without them, or let the model expect outliers."
    )
    return [Note(OutputWarning, text, "pareto-k")]


def _limits(request: Request, inputs: Given, site: str) -> list[Note]:
    """Where what is left out is not what the fit has learned from that row."""
    fitted, spec = request.fitted, inputs.spec
    notes = []
    if not _are_fitted(request, inputs):
        text = (
            "These are not the rows of the fit, in their order and with its arguments. Only rows "
            "that a posterior has learned from can be left out of it: of others, ask score."
        )
        notes.append(Note(OutputWarning, text, "loo-other-rows"))
    if spec[site].parents & {site, *spec.descendants({site})}:
        text = (
            f"Values of '{site}' depend on those before them. Each is left out given all others "
            "as they were, which is no forecast: for that, fit the first rows and predict the rest."
        )
        notes.append(Note(OutputWarning, text, "loo-given-others"))
    if spec[site].scaled or "sample_weight" in fitted.hashes:
        text = (
            f"The likelihood of '{site}' was weighted in the fit, but one row's part is left out "
            "as if it had weight 1. Fit without weights to leave rows out."
        )
        notes.append(Note(OutputWarning, text, "loo-weighted"))
    return notes


def _are_fitted(request: Request, inputs: Given) -> bool:
    """Whether the rows may be those that the posterior has learned from, as far as is known."""
    fitted = request.fitted
    read = inputs.source.has_read()
    if fitted.spec is not None and read is not None:
        return read == (fitted.rows, fitted.fingerprint)
    origin = origin_of(request, inputs)
    is_same = origin.is_known and not origin.leading and not origin.changed
    return inputs.has_rows_of(fitted, is_same=is_same)
