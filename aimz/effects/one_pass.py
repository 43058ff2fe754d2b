"""One pass over rows: all scenarios of an effect side by side in each tile, reduced there.

Scenarios share the key, the draws and the tiles. Nothing of size rows x draws is kept, unless the
effect on each row is asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from aimz.data import RowTile
from aimz.effects.answer import (
    AnswerShape,
    answer_of,
    attributes_of_effect,
    compared,
    contrasts_of,
    own_dims,
    row_labels,
    row_table,
)
from aimz.effects.comparisons import comparison_at, directions, is_measured, measured
from aimz.effects.counterfactual import Replay, Replayed
from aimz.effects.outside import Judged, Overlap, overlap_of
from aimz.effects.population import Rows
from aimz.effects.probabilities import BOUNDS, events_of
from aimz.effects.question import Question
from aimz.effects.reduction import Reduction, RowSummary, Share
from aimz.effects.result import Effect
from aimz.effects.scenarios import CROSSED, Scenarios
from aimz.errors import InputError, Note, OutputWarning
from aimz.execution import Call, JointRun, Plan, TileRun, compile_call, each_tile, num_draws
from aimz.kernel import SiteSpec
from aimz.libraries import pd, xr
from aimz.overlap import Support
from aimz.results import Schema
from aimz.sampling import Task, population_block
from aimz.store import Tile

__all__ = ["effect_of"]


#: Bytes of draws of rows that an effect on each row may hold.
ROW_BYTES = 2**30
_POPULATION = "aimz:population"
# Scenarios to run as one program: it grows with them, and so does the time to compile it.
_TOGETHER = 4


@dataclass
class _Pass:
    """What a pass over the rows has gathered."""

    reduction: Reduction
    summary: RowSummary | None
    overlap: Overlap | None
    unsound: dict[int, np.ndarray] = field(default_factory=dict)  # rows by number of the first
    couplings: dict[str, str] = field(default_factory=dict)
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
    compare = comparison_at(site, question.comparison, question.compare)
    question = replace(question, compare=compare)
    by_row = question.meaning.unit == "row"
    if by_row:
        rows = _each_row(rows, scenarios, schema)
    done = _run(question, rows, scenarios, overlap_of(scenarios, rows, seen), on_rows)
    row_dim = scenarios.natural.spec.row_dim
    support: xr.Dataset | None = None
    notes: tuple[Note, ...] = ()
    if done.overlap is not None:
        support, notes = done.overlap.account(row_dim, row_labels(schema, done.rows))
    averages = directions(site, done.reduction.averages())
    shape = AnswerShape(
        rows.labels,
        schema,
        row_dim if by_row else "group",
        own_dims(site, averages, schema, row_dim),
    )
    names = list(scenarios.prepared)
    draws = answer_of(question, averages, names, shape).rename("effect")
    draws.attrs = attributes_of_effect(question, scenarios, health)
    bounds = {n: averages[key] for n, key in BOUNDS.items() if key in averages}
    has_bounds = bool(np.all(np.isfinite(bounds.get("upper", np.nan))))
    redrawn = {n for p in scenarios.prepared.values() for n in p.redrawn}
    effect = Effect(
        draws,
        shape.along("scenario", {n: averages[n] for n in names}),
        question,
        done.rows if rows.weights is None else int(np.count_nonzero(rows.weights > 0)),
        dict(health),
        tuple(sorted(redrawn - done.couplings.keys())),
        bounds=shape.along("bound", bounds) if has_bounds else None,
        couplings=dict(done.couplings),
        support=support,
        row_summary=None
        if done.summary is None
        else row_table(done.summary, shape, row_dim, done.rows),
        scenarios=scenarios.compared,
    )
    compared_averages = [averages[n] for n in names]
    return effect, (*notes, *done.notes, *_last_notes(done, scenarios, compared_averages))


# ------------------------------------------------------------------ the pass
def _run(
    question: Question,
    rows: Rows,
    scenarios: Scenarios,
    overlap: Overlap | None,
    on_rows: Callable[[int], None],
) -> _Pass:
    first, plan, weights = scenarios.own.call, scenarios.own.plan, rows.weights
    if weights is not None:
        plan = replace(plan, asked=weights > 0)
    total, asked = plan.chains * plan.draws, question.row_summary
    reduction = Reduction(weights, rows.groups, max(1, len(rows.labels)), total)
    running = _Pass(reduction, None if asked is None else RowSummary(asked, total), overlap)
    site = scenarios.natural.spec[question.site]
    work = _in_each_tile(
        question,
        scenarios,
        plan,
        running.reduction,
        by_row=running.summary is not None,
    )
    pairs = [] if question.meaning.is_joint else contrasts_of(question, list(scenarios.prepared))

    def finish(_: RowTile, tile: Tile, computed: _Computed) -> None:
        first_draw = tile.chains.start * plan.draws + tile.draws.start
        draws = slice(first_draw, first_draw + num_draws(tile))
        if running.overlap is not None and computed.outside is not None:
            running.overlap.note(tile.rows.start, computed.outside)
        if computed.share is not None:
            running.reduction.add(tile.number, draws, computed.share)
            return
        values = computed.values
        if computed.replayed is not None:
            _note_soundness(running, tile, computed.replayed)
            running.couplings.update(computed.replayed.couplings)
            if question.meaning.is_joint:
                values = {**values, **events_of(scenarios, computed.replayed, tile)}
        if question.population == "finite":
            for name, there in scenarios.arms.items():
                values[name] = _kept(values[name], there[tile.rows], scenarios, tile)
        values = measured(question.target, site, values)
        share = running.reduction.share(tile.rows, values, computed.weights)
        running.reduction.add(tile.number, draws, share)
        if running.summary is not None:
            turned = directions(site, values)
            effects = {pair: _by_row(question, turned, pair) for pair in pairs}
            running.summary.add(tile.rows, draws, effects)

    is_small = work.shared is not None  # a tile's answer is its share alone
    compute: Callable[[RowTile, Tile, jax.Device], _Computed] = work
    if running.overlap is not None and not first.source.can_repeat:
        compute = _Judging(work, running.overlap)
    running.rows = each_tile(first, plan, compute, finish, on_rows, is_small=is_small)
    notes = (note for run in work.worlds.runs for note in run.ready.notes)
    running.notes = tuple(dict.fromkeys([*notes, *first.source.notes]))
    return running


@dataclass(frozen=True)
class _Computed:
    """What a tile adds; or values by scenario, (row, draw, ...), with the weights of the rows."""

    share: Share | None
    values: dict[Any, np.ndarray] = field(default_factory=dict)
    weights: np.ndarray | None = None
    replayed: Replayed | None = None
    outside: Judged | None = None  # of rows that were read with the tile


@dataclass(frozen=True)
class _InATile:
    """Scenarios as a function of a tile."""

    worlds: _SideBySide | Replay
    weigh: TileRun | None
    shared: tuple[str, SiteSpec, Reduction] | None  # where a share is enough

    def __call__(self, row_tile: RowTile, tile: Tile, device: jax.Device) -> _Computed:
        computed = self.worlds(row_tile, tile, device)
        weights = None if self.weigh is None else self.weigh(row_tile, tile, device)[_POPULATION]
        if isinstance(computed, Replayed):
            return _Computed(None, computed.values, weights, computed)
        if isinstance(self.worlds, _SideBySide) and self.worlds.has_sums:
            # Sums are (draw, part, ...) of the tile's rows.
            sums = {n: parts.sum(axis=1, dtype=np.float64)[None] for n, parts in computed.items()}
            rows = float(tile.rows.stop - tile.rows.start)
            return _Computed(Share(np.zeros(1, np.intp), sums, np.full((1, 1), rows)))
        if self.shared is None:
            return _Computed(None, computed, weights)
        target, site, reduction = self.shared
        return _Computed(reduction.share(tile.rows, measured(target, site, computed), weights))


@dataclass(frozen=True)
class _Judging:
    """Scenarios as a function of a tile, whose rows come with it and are judged where they are."""

    work: _InATile
    overlap: Overlap

    def __call__(self, row_tile: RowTile, tile: Tile, device: jax.Device) -> _Computed:
        computed = self.work(row_tile, tile, device)
        if tile.chains.start or tile.draws.start:
            return computed
        return replace(computed, outside=self.overlap.judge(row_tile))


def _in_each_tile(
    question: Question,
    scenarios: Scenarios,
    plan: Plan,
    reduction: Reduction,
    *,
    by_row: bool,
) -> _InATile:
    """What is computed of each tile of a plan; `by_row`: something is asked of each row."""
    site = scenarios.natural.spec[question.site]
    weigh = None
    if question.population == "superpopulation":
        weigh = _ready(_population_call(scenarios.own.call), plan)
    if scenarios.replays is not None:
        return _InATile(Replay(scenarios.replays, plan), weigh, None)
    is_weighed = reduction.weights is not None or reduction.groups is not None
    is_shared = not by_row and question.population != "finite"
    is_sum = question.population == "sample" and not is_measured(question.target, site)
    worlds = _SideBySide(scenarios, plan, sums=is_shared and is_sum and not is_weighed)
    return _InATile(worlds, weigh, (question.target, site, reduction) if is_shared else None)


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
            together = {name: calls[name] for name in names}
            self.joint.append(JointRun(together, plan, sums=sums and not plan.whole))
        self.has_sums = all(run.has_sums for run in self.joint)
        if not self.has_sums and any(run.has_sums for run in self.joint):
            self.joint = [JointRun(run.calls, plan, sums=False) for run in self.joint]

    @property
    def runs(self) -> list[TileRun]:
        """What it runs."""
        return [*self.alone.values(), *(joint.run for joint in self.joint)]

    def __call__(self, row_tile: RowTile, tile: Tile, device: jax.Device) -> dict[Any, np.ndarray]:
        mediators = None if self.mediate is None else self.mediate(row_tile, tile, device)
        values: dict[Any, np.ndarray] = {}
        for joint in self.joint:
            values |= joint(row_tile, tile, device)
        for name, run in self.alone.items():
            results = run(row_tile, tile, device, mediators if name == CROSSED else None)
            (values[name],) = results.values()
        return values


def _ready(call: Call, plan: Plan) -> TileRun:
    return TileRun(call, compile_call(call, plan), plan)


def _population_call(call: Call) -> Call:
    """Weights of a Bayesian bootstrap, drawn like a site of rows."""
    spec = call.task.spec
    weight_site = SiteSpec(
        _POPULATION, "deterministic", "leading", 0, (spec.rows,), np.dtype(np.float32)
    )
    results = replace(spec, sites=(*spec.sites, weight_site))
    task = Task(call.task.kernel, spec, results, call.task.static, (_POPULATION,))
    return replace(call, program=population_block, task=task)


def _by_row(question: Question, values: Mapping[Any, np.ndarray], pair: tuple[Any, Any]) -> Any:
    """The effect on each row, (row, draw, ...)."""
    new, old = (values[name].astype(np.float64) for name in pair)
    return compared(question, new, old)


def _kept(values: np.ndarray, there: np.ndarray, scenarios: Scenarios, tile: Tile) -> np.ndarray:
    """Values (row, draw, ...) with the observed outcome in the rows where it was observed."""
    assert scenarios.outcome is not None  # noqa: S101  # checked with the question
    observed = scenarios.outcome[tile.rows]
    is_observed = np.broadcast_to(there.reshape(-1, *[1] * (observed.ndim - 1)), observed.shape)
    absent = scenarios.absent.get(scenarios.natural.spec.output)
    if absent is not None:
        is_observed = is_observed & ~absent[tile.rows]
    return np.where(is_observed[:, None], observed[:, None], values)


def _note_soundness(running: _Pass, tile: Tile, replayed: Replayed) -> None:
    unsound = ~replayed.is_sound.all(axis=1)
    before = running.unsound.get(tile.rows.start, False)
    running.unsound[tile.rows.start] = before | unsound


def _last_notes(
    done: _Pass, scenarios: Scenarios, averages: Sequence[np.ndarray]
) -> tuple[Note, ...]:
    """What is said of rows whose noise is lost, and of scenarios that are the same."""
    changed = {n for split in scenarios.changes.values() for n in split.arguments}
    unmoved: tuple[Note, ...] = ()
    if changed - scenarios.natural.arguments.arrays.keys():
        unmoved = _unmoved_notes(scenarios, averages)
    rows = sum(int(flags.sum()) for flags in done.unsound.values())
    if not rows:
        return unmoved
    text = (
        f"In {rows:,} of {done.rows:,} rows what was observed is so improbable under some draws "
        "that it says nothing of the noise. Check the outcomes, or the fit."
    )
    return (Note(OutputWarning, text, "noise-lost"), *unmoved)


def _unmoved_notes(scenarios: Scenarios, averages: Sequence[np.ndarray]) -> tuple[Note, ...]:
    """What is said of arguments that are not traced, may lead anywhere, and led nowhere."""
    changed = {name for split in scenarios.changes.values() for name in split.names}
    traced = changed & scenarios.natural.arguments.arrays.keys()
    is_set = any(split.sites or split.condition for split in scenarios.changes.values())
    if (
        not changed
        or traced
        or is_set
        or not all(np.array_equal(averages[0], own) for own in averages)
    ):
        return ()
    text = (
        f"The scenarios differ in '{min(changed)}' and agree in every draw: no path leads to what "
        "is compared, or only through latents that keep their posterior draws. Set such a latent, "
        "or fit with each value."
    )
    return (Note(OutputWarning, text, "no-effect"),)


# ------------------------------------------------------------------ rows
def _each_row(rows: Rows, scenarios: Scenarios, schema: Schema) -> Rows:
    """A group of its own for each row that is asked about."""
    count = scenarios.natural.rows
    if count is None:
        msg = "The number of rows is not known before the end. Load them, or ask for row_summary=."
        raise InputError(msg, code="rows-lazy")
    asked = rows.asked(count)
    draws = scenarios.own.plan.chains * scenarios.own.plan.draws
    size = 8 * int(asked.sum()) * draws * len(scenarios.prepared)
    if size > ROW_BYTES:
        msg = (
            f"Draws of the effect on each of {int(asked.sum()):,} rows would take "
            f"{size / 1e9:.1f} GB. Ask about fewer rows, or pass row_summary=True to 'ate'."
        )
        raise InputError(msg, code="too-large")
    labels = row_labels(schema, count)[asked]
    return Rows(asked.astype(np.float64), np.cumsum(asked) - 1, pd.Index(labels))
