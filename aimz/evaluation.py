"""One pass over rows: all scenarios of an effect side by side in each tile, reduced there.

Scenarios share the key, the draws and the tiles. Nothing of size rows x draws is kept, unless the
effect on each row is asked for.
"""

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.counterfactual import Replay, Replayed
from aimz.effects import (
    Effect,
    Question,
    Reduction,
    Rows,
    RowSummary,
    Share,
    compared,
    derived,
    directions,
    for_site,
    is_measured,
    measured,
    success_of,
)
from aimz.errors import InputError, OutputWarning
from aimz.estimation import CROSSED, Scenarios
from aimz.execute import Call, Plan, TileRun, compile_call, each_tile, num_draws
from aimz.inference import Note
from aimz.joint import JointRun
from aimz.overlap import Overlap, overlap_of
from aimz.prediction import precision_notes
from aimz.results import Schema, row_dimension, site_dims
from aimz.rows import RowTile
from aimz.sampling import Task, population_block
from aimz.spec import SiteSpec
from aimz.store import Tile
from aimz.support import Support

__all__ = ["effect_of"]

#: Bytes of draws of rows that an effect on each row may hold.
ROW_BYTES = 2**30
_POPULATION = "aimz:population"
# Scenarios to run as one program: it grows with them, and so does the time to compile it.
_TOGETHER = 4
# What is averaged beside scenarios: an event in two worlds at once, and bounds of its probability.
_EVENT, _LOWER, _UPPER = "aimz:event", "aimz:lower", "aimz:upper"
_BOUNDS = {"lower": _LOWER, "upper": _UPPER}


@dataclass
class _Pass:
    """What a pass over the rows has gathered."""

    reduction: Reduction
    summary: RowSummary | None
    overlap: Overlap | None
    unsound: dict[int, np.ndarray] = field(default_factory=dict)  # rows by number of the first
    couplings: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    notes: tuple[Note, ...] = ()


def effect_of(
    question: Question,
    rows: Rows,
    scenarios: Scenarios,
    schema: Schema,
    health: Mapping[str, Any],
    seen: Support | None,
    on_rows: Callable[[int], None],
) -> tuple[Effect, tuple[Note, ...]]:
    """Run scenarios and compare them; returns the effect and what to tell the user.

    Raises
    ------
    InputError
        `too-large`: draws of each row would not fit; `no-mean`, `ratio-undefined`, ...: averages
        that cannot be compared.
    """
    site = scenarios.natural.spec[question.site]
    question = for_site(question, site)
    by_row = question.estimand == "ite"
    if by_row:
        rows = _each_row(rows, scenarios, schema)
    done = _run(question, scenarios, _begun(question, rows, scenarios, seen), on_rows)
    row_dim = row_dimension(scenarios.natural.spec)
    support: xr.Dataset | None = None
    notes: tuple[Note, ...] = ()
    if done.overlap is not None:
        support, notes = done.overlap.account(row_dim, _row_labels(schema, done.rows))
    averages = directions(site, done.reduction.averages())
    shape = _Shape(
        rows.labels,
        schema,
        row_dim if by_row else "group",
        _own_dims(site, averages, schema, row_dim),
    )
    names = list(scenarios.prepared)
    draws = _answer(question, averages, names, shape).rename("effect")
    draws.attrs = _attributes(question, scenarios)
    bounds = {n: averages[key] for n, key in _BOUNDS.items() if key in averages}
    has_bounds = bool(np.all(np.isfinite(bounds.get("upper", np.nan))))
    redrawn = {n for p in scenarios.prepared.values() for n in p.redrawn}
    effect = Effect(
        draws,
        shape.along("scenario", {n: averages[n] for n in names}),
        question,
        int(np.count_nonzero(rows.asked(done.rows))),
        dict(health),
        tuple(sorted(redrawn - done.couplings.keys())),
        bounds=shape.along("bound", bounds) if has_bounds else None,
        couplings=dict(done.couplings),
        support=support,
        row_summary=_row_table(done.summary, shape, row_dim, done.rows),
        scenarios=scenarios.compared,
    )
    return effect, (*notes, *done.notes, *_soundness_notes(done))


def _begun(question: Question, rows: Rows, scenarios: Scenarios, seen: Support | None) -> _Pass:
    total = _draws(scenarios)
    reduction = Reduction(rows.weights, rows.groups, max(1, len(rows.labels)), total)
    asked = question.row_summary
    overlap = overlap_of(scenarios, rows, seen)
    if overlap is not None and scenarios.natural.stream is None:
        overlap.judge_all(scenarios.natural.arguments.rows)
    return _Pass(reduction, None if asked is None else RowSummary(asked, total), overlap)


def _draws(scenarios: Scenarios) -> int:
    plan = scenarios.own.plan
    return plan.chains * plan.draws


def _answer(
    question: Question, averages: Mapping[Any, np.ndarray], names: list[Any], shape: "_Shape"
) -> xr.DataArray:
    if question.is_probability:
        if not np.all(np.isfinite(averages[_EVENT])):
            msg = (
                "What was observed of some rows has probability 0 under some draws, so that "
                "nothing follows from it. Check the outcomes, or the fit."
            )
            raise InputError(msg, code="not-probability")
        return shape.labelled(averages[_EVENT])
    if question.derive is not None:
        return shape.labelled(derived(question, {n: averages[n] for n in names}))
    return _contrasted(question, averages, names, shape)


@dataclass(frozen=True)
class _Shape:
    """How arrays (group, draw, ...) are named; a single group has no axis."""

    labels: pd.Index
    schema: Schema
    dim: str
    own: tuple[str, ...]  # of one outcome

    def labelled(self, values: np.ndarray) -> xr.DataArray:
        schema, dim = self.schema, self.dim
        shape = (len(values), schema.chains, schema.draws, *values.shape[2:])
        array = xr.DataArray(values.reshape(shape), dims=(dim, "chain", "draw", *self.own))
        array = array.assign_coords(chain=np.arange(schema.chains), draw=np.arange(schema.draws))
        array = array.assign_coords(_own_coords(array.sizes, self.own, schema))
        if not len(self.labels):
            return array.isel({dim: 0})
        return array.assign_coords(_label_coords(dim, self.labels, array.dims))

    def along(self, dim: str, parts: Mapping[Any, np.ndarray]) -> xr.DataArray:
        """Several arrays along a dimension that names them."""
        arrays = [self.labelled(values) for values in parts.values()]
        return xr.concat(arrays, xr.DataArray(list(parts), dims=dim, name=dim))


def _label_coords(dim: str, labels: pd.Index, taken: Sequence[Hashable]) -> dict[str, Any]:
    """Labels of groups or rows; combinations in words, and each part by its own name."""
    if not isinstance(labels, pd.MultiIndex):
        return {dim: _plain_labels(labels)}
    names = [str(name) for name in labels.names]
    words = [", ".join(f"{n}={v}" for n, v in zip(names, own, strict=True)) for own in labels]
    parts = {
        name: (dim, _plain_labels(labels.get_level_values(place)))
        for place, name in enumerate(names)
        if name not in taken
    }
    return {dim: words, **parts}


def _plain_labels(labels: pd.Index) -> Any:
    """Labels in a dtype that files hold: dates stay dates, what is no number becomes text."""
    array = labels.to_numpy()  # dates with a time zone are objects
    if array.dtype.kind in "biufmM":
        return array
    return [str(label) for label in labels]


def _contrasted(
    question: Question, averages: Mapping[Any, np.ndarray], names: list[Any], shape: _Shape
) -> xr.DataArray:
    pairs = _contrasts(question, names)
    found = {
        f"{new} vs {old}": compared(question, averages[new], averages[old]) for new, old in pairs
    }
    draws = shape.along("contrast", found)
    if len(pairs) == 1:
        return draws.isel(contrast=0)
    return draws.assign_coords(scenario=("contrast", [new for new, _ in pairs]))


def _contrasts(question: Question, names: list[Any]) -> list[tuple[Any, Any]]:
    """Which scenarios are compared, the new one first."""
    if question.mediator is None:
        return [(name, names[0]) for name in names[1:]]
    old, new, crossed = names
    return [{"nde": (crossed, old), "nie": (new, crossed), "total": (new, old)}[question.estimand]]


def _attributes(question: Question, scenarios: Scenarios) -> dict[str, Any]:
    return {
        "estimand": question.estimand,
        "comparison": question.comparison,
        "target": question.target,
        "population": question.population,
        "rung": question.rung,
        "words": " ".join(map(str, scenarios.own.words)),
    }


# ------------------------------------------------------------------ the pass


def _run(
    question: Question, scenarios: Scenarios, found: _Pass, on_rows: Callable[[int], None]
) -> _Pass:
    first, plan = scenarios.own.call, _plan(scenarios, found)
    site = scenarios.natural.spec[question.site]
    replays = None if scenarios.replays is None else Replay(scenarios.replays, plan)
    worlds = None
    if replays is None:
        worlds = _SideBySide(scenarios, plan, sums=_is_plain(question, found, site))
    weigh: TileRun | None = None
    if question.population == "superpopulation":
        weigh = _ready(_population_call(first), plan)
    pairs = [] if question.is_probability else _contrasts(question, list(scenarios.prepared))

    def work(row_tile: RowTile, tile: Tile, device: Any) -> None:
        first_draw = tile.chains.start * plan.draws + tile.draws.start
        if found.overlap is not None and first.stream is not None and not first_draw:
            found.overlap.judge(row_tile)
        if worlds is not None:
            values = worlds(row_tile, tile, device)
        elif replays is not None:
            replayed = replays(row_tile, tile, device)
            _note_soundness(found, tile, replayed)
            values = replayed.values
            if question.is_probability:
                values = {**values, **_events(scenarios, replayed, tile)}
        draws = slice(first_draw, first_draw + num_draws(tile))
        if worlds is not None and worlds.has_sums:
            found.reduction.add(tile.number, draws, _share_of_sums(values, tile))
            return
        if question.population == "finite":
            for name, there in scenarios.arms.items():
                values[name] = _kept(values[name], there[tile.rows], scenarios, tile)
        values = measured(question, site, values)
        weights = None if weigh is None else weigh(row_tile, tile, device)[_POPULATION]
        found.reduction.add(tile.number, draws, found.reduction.share(tile.rows, values, weights))
        if found.summary is not None:
            rows = directions(site, values)
            effects = {pair: _by_row(question, rows, pair) for pair in pairs}
            found.summary.add(tile.rows, draws, effects)

    found.rows = each_tile(first, plan, work, on_rows)
    found.couplings = {} if replays is None else replays.couplings
    runs = [run for own in (worlds, replays) if own is not None for run in own.runs]
    found.notes = precision_notes(*runs)
    return found


def _plan(scenarios: Scenarios, found: _Pass) -> Plan:
    """The grid, and the rows that are asked about."""
    weights = found.reduction.weights
    return replace(scenarios.own.plan, asked=None if weights is None else weights > 0)


class _SideBySide:
    """Values of every scenario as a function of a tile, or where that is enough sums over rows.

    Scenarios in memory run as one program, a few at a time. One that keeps a mediator gets it.
    """

    def __init__(self, scenarios: Scenarios, plan: Plan, *, sums: bool) -> None:
        calls = {name: prepared.call for name, prepared in scenarios.prepared.items()}
        mediator = scenarios.mediator
        self.mediate = None if mediator is None else _ready(mediator, plan)
        is_joint = mediator is None
        self.has_sums = False
        self.alone: dict[Any, TileRun] = {}
        self.joint: list[JointRun] = []
        if not is_joint:
            self.alone = {name: _ready(call, plan) for name, call in calls.items()}
            return
        for names in itertools.batched(calls, _TOGETHER):
            part = {name: calls[name] for name in names}
            self.joint.append(JointRun(part, plan, sums=sums and not plan.whole))
        self.has_sums = all(run.has_sums for run in self.joint)
        if not self.has_sums and any(run.has_sums for run in self.joint):
            self.joint = [JointRun(run.calls, plan, sums=False) for run in self.joint]

    @property
    def runs(self) -> list[TileRun]:
        """What it runs."""
        return [*self.alone.values(), *(joint.run for joint in self.joint)]

    def __call__(self, row_tile: RowTile, tile: Tile, device: Any) -> dict[Any, np.ndarray]:
        given = None if self.mediate is None else self.mediate(row_tile, tile, device)
        values: dict[Any, np.ndarray] = {}
        for joint in self.joint:
            values |= joint(row_tile, tile, device)
        for name, run in self.alone.items():
            found = run(row_tile, tile, device, given if name == CROSSED else None)
            (values[name],) = found.values()
        return values


def _is_plain(question: Question, found: _Pass, site: SiteSpec) -> bool:
    """Whether sums over all rows are enough."""
    is_weighed = found.reduction.weights is not None or found.reduction.groups is not None
    is_sum = question.population == "sample" and not is_measured(question, site)
    return not is_weighed and found.summary is None and is_sum


def _share_of_sums(sums: Mapping[Any, np.ndarray], tile: Tile) -> Share:
    """What a tile adds, from sums (draw, part, ...) of its rows."""
    totals = {name: parts.sum(axis=1, dtype=np.float64)[None] for name, parts in sums.items()}
    rows = float(tile.rows.stop - tile.rows.start)
    return Share(np.zeros(1, np.intp), totals, np.full((1, 1), rows))


def _ready(call: Call, plan: Plan) -> TileRun:
    return TileRun(call, compile_call(call, plan), plan)


def _by_row(question: Question, values: Mapping[Any, np.ndarray], pair: tuple[Any, Any]) -> Any:
    """The effect on each row, (row, draw, ...)."""
    new, old = (values[name].astype(np.float64) for name in pair)
    return compared(question, new, old)


def _kept(values: np.ndarray, there: np.ndarray, scenarios: Scenarios, tile: Tile) -> np.ndarray:
    """Values (row, draw, ...) with the observed outcome in the rows where it was observed."""
    assert scenarios.outcome is not None  # noqa: S101  # checked with the question
    own = scenarios.outcome[tile.rows]
    kept = np.broadcast_to(there.reshape(-1, *[1] * (own.ndim - 1)), own.shape)
    absent = scenarios.absent.get(scenarios.natural.spec.output)
    if absent is not None:
        kept = kept & ~absent[tile.rows]
    return np.where(kept[:, None], own[:, None], values)


def _population_call(call: Call) -> Call:
    """Weights of a Bayesian bootstrap, drawn like a site of rows."""
    spec = call.task.spec
    own = SiteSpec(_POPULATION, "deterministic", "leading", 0, (spec.rows,), np.dtype(np.float32))
    results = replace(spec, sites=(*spec.sites, own))
    task = Task(call.task.kernel, spec, results, call.task.static, (_POPULATION,))
    return replace(call, program=population_block, task=task)


# ------------------------------------------------------------------ two worlds at once


def _events(scenarios: Scenarios, replayed: Replayed, tile: Tile) -> dict[str, np.ndarray]:
    """Probability that a unit has a 1 in the second world alone, given what it had in its own.

    Under the monotone coupling it is the part of the uniforms, of those that what was observed
    leaves open, that is above the failures with and below those without. Where the world that was
    is one of the two, their laws alone bound it (Frechet, 1935; Tian and Pearl, 2000,
    doi:10.1023/A:1018912507879), unless another site that is replayed leaves a choice.
    """
    factual = replayed.factual
    assert factual is not None  # noqa: S101  # the outcome itself is asked for
    was = success_of(factual)
    old, new = (success_of(replayed.laws.get(name, factual)) for name in replayed.values)
    is_new = list(scenarios.arms.values())[-1][tile.rows][:, None]
    is_one = np.asarray(scenarios.outcome)[tile.rows][:, None] == 1
    absent = scenarios.absent.get(scenarios.natural.spec.output, np.zeros(tile.rows.stop, bool))
    is_open = absent[tile.rows][:, None]  # nothing was observed, so that nothing is left out
    first = np.where(is_one & ~is_open, 1 - was, 0.0)
    last = np.where(is_one | is_open, 1.0, 1 - was)
    with np.errstate(divide="ignore", invalid="ignore"):
        event = np.minimum(1 - old, last) - np.maximum(1 - new, first)
        event = np.maximum(event, 0.0) / (last - first)
        chance = np.where(is_open, 1.0, np.where(is_one, was, 1 - was))
        upper = np.minimum(new, 1 - old) / chance
    upper = np.where(is_open | (is_one == is_new), upper, 0.0)  # else the event is ruled out
    is_bounded = np.allclose(was, np.where(is_new, new, old), atol=1e-6)
    if replayed.has_other_couplings or not is_bounded:
        upper = np.full_like(upper, np.nan)
    return {_EVENT: event, _LOWER: event, _UPPER: upper}


def _note_soundness(found: _Pass, tile: Tile, replayed: Replayed) -> None:
    unsound = ~replayed.is_sound.all(axis=1)
    before = found.unsound.get(tile.rows.start, False)
    found.unsound[tile.rows.start] = before | unsound


def _soundness_notes(found: _Pass) -> tuple[Note, ...]:
    rows = sum(int(flags.sum()) for flags in found.unsound.values())
    if not rows:
        return ()
    text = (
        f"In {rows:,} of {found.rows:,} rows what was observed is so improbable under some draws "
        "that it says nothing of the noise. Check the outcomes, or the fit."
    )
    return (Note(OutputWarning, text, "noise-lost"),)


# ------------------------------------------------------------------ rows


def _each_row(rows: Rows, scenarios: Scenarios, schema: Schema) -> Rows:
    """A group of its own for each row that is asked about."""
    count = scenarios.natural.rows
    if count is None:
        msg = "The number of rows is not known before the end. Load them, or ask for row_summary=."
        raise InputError(msg, code="rows-lazy")
    asked = rows.asked(count)
    size = 8 * int(asked.sum()) * _draws(scenarios) * len(scenarios.prepared)
    if size > ROW_BYTES:
        msg = (
            f"Draws of the effect on each of {int(asked.sum()):,} rows would take "
            f"{size / 1e9:.1f} GB. Ask about fewer rows, or pass row_summary=True to 'ate'."
        )
        raise InputError(msg, code="too-large")
    labels = _row_labels(schema, count)[asked]
    return Rows(asked.astype(np.float64), np.cumsum(asked) - 1, pd.Index(labels))


def _row_labels(schema: Schema, rows: int) -> Any:
    """Labels of the rows; numbers that only count them take no memory."""
    return schema.labels if schema.labels is not None else pd.RangeIndex(rows)


def _row_table(
    summary: RowSummary | None, shape: _Shape, row_dim: str, rows: int
) -> xr.Dataset | None:
    """Summaries of the effect on each row, by contrast."""
    if summary is None:
        return None
    tables = {}
    for (new, old), columns in summary.columns().items():
        variables = {
            name: ((*(["quantile"] if name == "quantiles" else []), row_dim, *shape.own), values)
            for name, values in columns.items()
        }
        table = xr.Dataset(variables)
        own = _own_coords(table.sizes, shape.own, shape.schema)
        labels = {row_dim: _row_labels(shape.schema, rows)}
        quantiles = {"quantile": list(summary.asked.quantiles)}
        tables[f"{new} vs {old}"] = table.assign_coords({**labels, **quantiles, **own})
    if len(tables) == 1:
        return next(iter(tables.values()))
    contrast = xr.DataArray(list(tables), dims="contrast", name="contrast")
    return xr.concat(tables.values(), contrast)


def _own_dims(
    site: SiteSpec, averages: Mapping[Any, np.ndarray], schema: Schema, row_dim: str
) -> tuple[str, ...]:
    """Names of the dimensions of one outcome; means of categories have one more."""
    named = [n for n in site_dims(site, len(site.shape), schema, row_dim) if n != row_dim]
    more = next(iter(averages.values())).ndim - 2 - len(named)
    return (*named, *["category"] * more)


def _own_coords(
    sizes: Mapping[Hashable, int], dims: tuple[str, ...], schema: Schema
) -> dict[str, Any]:
    known = {dim: schema.coords.get(dim, ()) for dim in dims}
    return {
        dim: list(labels) if len(labels) == sizes[dim] else np.arange(sizes[dim])
        for dim, labels in known.items()
    }
