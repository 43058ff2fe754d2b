"""From scenarios to an effect: all run side by side, tile by tile, and are reduced there.

Scenarios share the key, the draws and the tiles. Their programs are often one: a changed value is
an input. Nothing of size rows x draws is kept, unless the effect on each row is asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
import xarray as xr

from aimz.data import as_array
from aimz.effects import (
    Effect,
    Question,
    Reduction,
    Rows,
    compared,
    in_arm,
    rows_of,
    split_scenario,
)
from aimz.errors import InputError, OutputWarning, nearest
from aimz.execute import Call, TileRun, compile_call, each_tile
from aimz.inference import Note
from aimz.inputs import Given, changed_rows, gather, origin_of
from aimz.kernel import read_signature
from aimz.prediction import Prepared, prepare
from aimz.requests import Request
from aimz.results import Schema
from aimz.rows import RowTile
from aimz.sampling import Task, follows_rows, population_block, predict_block
from aimz.spec import KernelSpec, SiteSpec
from aimz.store import Tile

__all__ = ["Scenarios", "about", "effect_of", "scenarios_of"]

#: Bytes of draws of rows that an effect on each row may hold.
ROW_BYTES = 2**30
_POPULATION = "aimz:population"
_CROSSED = "intervention, with the mediator of the baseline"


@dataclass(frozen=True)
class Scenarios:
    """Prepared scenarios by name, the first the reference, and outcomes kept where they hold.

    `natural` are the inputs that no scenario has changed, `primary` the name of the first of them,
    and `values` these inputs as they were given, labelled ones in the order of the rows.
    `mediator` draws the mediator under the reference, for the last scenario, which keeps it.
    `observed` has for each scenario the rows in which it is what was observed, with `outcome` the
    values there.
    """

    primary: str
    natural: Given
    values: Mapping[str, Any]
    prepared: Mapping[str, Prepared]
    mediator: Call | None = None
    observed: Mapping[str, np.ndarray] = field(default_factory=dict)
    outcome: np.ndarray | None = None


def scenarios_of(
    request: Request,
    question: Question,
    natural: Mapping[str, Any],
    changes: Mapping[str, Mapping[str, Any]],
    key_of: Callable[[Given], jax.Array],
) -> Scenarios:
    """Scenarios on some rows, prepared with one key.

    A latent of rows is drawn anew where an argument differs from the natural one.

    Raises
    ------
    InputError
        `scenario-unknown`, `rows-mismatch`, `rows-lazy`, and what preparing a prediction raises.
    """
    primary = request.names[0]
    own = gather(request, natural)
    if own.stream is not None:
        msg = f"'{primary}' is read by the piece, and effects need its rows in memory. Load it."
        raise InputError(msg, code="rows-lazy")
    (site,) = request.sites(own.spec)
    if not follows_rows(own.spec[site]):
        msg = (
            f"Site '{site}' has no value per row, so there is nothing to average. Ask for a site "
            "of rows, or compare the posterior itself."
        )
        raise InputError(msg, code="site-rows")
    of_rows = {n: v for n, v in natural.items() if n in own.spec.row_inputs - {primary}}
    natural = {**natural, **own.arguments.lined(of_rows, primary)}
    origin = origin_of(request, own)
    key = key_of(own)
    arguments = list(read_signature(request.kernel, *request.names).names)
    sites = [s.name for s in own.spec.sites if s.kind not in ("param", "factor")]
    prepared = {}
    for name, change in changes.items():
        replaced, set_sites = split_scenario(change, natural, arguments, sites)
        replaced = {n: _over_rows(value, own, n) for n, value in replaced.items()}
        asked = replace(request, intervention=set_sites)
        rows = len(replaced.get(primary, natural[primary]))
        if rows != own.rows:
            msg = f"Scenario '{name}' has {rows} rows, but there are {own.rows}. Keep them."
            raise InputError(msg, code="rows-mismatch")
        given = gather(asked, {**natural, **replaced})
        if given.spec.coupled != own.spec.coupled:
            msg = (
                f"Scenario '{name}' makes rows interact, or not, unlike what is natural: no noise "
            )
            raise InputError(msg + "is shared then. Predict each by itself.", code="unpaired")
        now = changed_rows(own, given)
        static = own.arguments.static.keys() | given.arguments.static.keys()
        notes: tuple[Note, ...] = ()
        if change and not static & change.keys():  # what is not traced may lead anywhere
            notes = _path_notes(name, change, question.site, own.spec)
        moved = replace(
            origin,
            changed={**origin.changed, **now},
            static=origin.static | frozenset(now.keys() & static),
        )
        ready = prepare(asked, given, moved, key)
        prepared[name] = replace(ready, notes=(*notes, *ready.notes))
    made = Scenarios(primary, own, natural, prepared)
    return made if question.mediator is None else _mediated(made, question.mediator, site)


def _mediated(scenarios: Scenarios, mediator: str, site: str) -> Scenarios:
    """Scenarios with another at the end: the last one, with the mediator of the first."""
    spec = scenarios.natural.spec
    first, last = (list(scenarios.prepared.values())[n] for n in (0, -1))
    if len(scenarios.prepared) != 2:
        msg = "Mediation compares two scenarios. Pass baseline= and intervention=."
        raise InputError(msg, code="scenario-incomplete")
    below = mediator in spec and site in spec.descendants({mediator})
    if not below or not follows_rows(spec[mediator]):
        valid = [
            s.name for s in spec.sites if follows_rows(s) and site in spec.descendants({s.name})
        ]
        msg = f"mediator='{mediator}' is no site of rows that '{site}' depends on. "
        raise InputError(msg + nearest(mediator, valid), code="mediator-unknown")
    if spec[mediator].is_given:
        msg = f"The call passes '{mediator}', so nothing can change it. Leave it out."
        raise InputError(msg, code="mediator-given")
    call, plan = last.call, last.plan
    shape = list(spec[mediator].shape)
    rows = shape.pop(spec[mediator].row_axis or 0)
    held = np.zeros((), spec[mediator].dtype)
    held = np.broadcast_to(held, (plan.chains * plan.draws, rows, *shape))
    block = call.block._replace(row_posterior={**call.block.row_posterior, mediator: held})
    redraw = {n: v for n, v in block.redraw.items() if n != mediator}
    crossed = replace(last, call=replace(call, block=block._replace(redraw=redraw)))
    task = replace(first.call.task, sites=(mediator,), results=first.call.task.spec)
    drawn = replace(first.call, program=predict_block, task=task)
    return replace(scenarios, prepared={**scenarios.prepared, _CROSSED: crossed}, mediator=drawn)


def _over_rows(value: Any, own: Given, name: str) -> Any:
    """A scalar for an argument of rows, spread over them in a dtype that holds both."""
    if name not in own.spec.row_inputs or np.ndim(value):
        return value
    natural = own.arguments.arrays[name]
    if np.ndim(natural) != 1:
        return value
    return np.full(own.arguments.rows, value, np.result_type(natural.dtype, value))


def _path_notes(
    name: str, change: Mapping[str, Any], site: str, spec: KernelSpec
) -> tuple[Note, ...]:
    """What is said of a change that reaches no outcome, or that data keep from parts of it."""
    reach = spec.descendants(set(change)) | (set(change) & set(spec.names))
    listed = ", ".join(change)
    if site not in reach:
        text = (
            f"Scenario '{name}' changes {listed}, from which no path leads to '{site}'. Set "
            "something that it depends on."
        )
        return (Note(OutputWarning, text, "no-effect"),)
    held = sorted(s.name for s in spec.sites if s.is_given and s.name in reach - {site, *change})
    if not held:
        return ()
    text = (
        f"Scenario '{name}' changes {listed}, but {', '.join(held)} keeps the values that the call "
        "passes. Leave these data out for the whole effect."
    )
    return (Note(OutputWarning, text, "blocked-by-data"),)


def about(
    question: Question,
    changes: Mapping[str, Mapping[str, Any]],
    scenarios: Scenarios,
    options: Mapping[str, Any],
) -> tuple[Rows, Scenarios]:
    """Which rows count, and where the observed outcome stands in for a scenario's.

    `options` are `treatment`, `by`, `weights` and `y`, as they were given.

    Raises
    ------
    InputError
        What `rows_of` and `in_arm` raise; `outcome-missing`.
    """
    primary, arguments = scenarios.primary, scenarios.natural.arguments
    natural, rows = scenarios.values, arguments.rows
    given = arguments.lined(options, primary)
    arms: dict[str, np.ndarray] = {}
    if question.estimand in ("att", "atc") or question.population == "finite":
        arms = in_arm(given["treatment"], natural, primary, rows, changes)
    counts = None
    if question.estimand in ("att", "atc"):
        if len(changes) > 2:
            msg = f"estimand='{question.estimand}' compares two scenarios. Ask for each pair."
            raise InputError(msg, code="scenario-incomplete")
        counts = list(arms.values())[-1 if question.estimand == "att" else 0]
    chosen = rows_of(
        question, rows, natural, primary, treated=counts, by=given["by"], weights=given["weights"]
    )
    if question.population != "finite":
        return chosen, scenarios
    if given["y"] is None:
        msg = "population='finite' keeps observed outcomes: pass y=, one per row."
        raise InputError(msg, code="outcome-missing")
    values = np.asarray(as_array(given["y"], "y"))
    site = scenarios.natural.spec[question.site]
    shape = [rows, *np.delete(site.shape, site.row_axis or 0).astype(int)]
    if site.name != scenarios.natural.spec.output or list(values.shape) != shape:
        msg = (
            f"population='finite' compares '{scenarios.natural.spec.output}' with y=, which must "
            f"have shape {tuple(map(int, shape))}, not {values.shape}. Leave site= out, or pass y "
            "of that shape."
        )
        raise InputError(msg, code="rows-mismatch")
    return chosen, replace(scenarios, observed=arms, outcome=values)


def effect_of(
    question: Question,
    rows: Rows,
    scenarios: Scenarios,
    schema: Schema,
    health: Mapping[str, Any],
    on_rows: Callable[[int], None],
) -> Effect:
    """Run scenarios and compare them.

    Raises
    ------
    InputError
        `too-large`: draws of each row would not fit; `no-mean`, `ratio-undefined`, ...: averages
        that cannot be compared.
    """
    reference = next(iter(scenarios.prepared.values()))
    plan = reference.plan
    redrawn = sorted({n for p in scenarios.prepared.values() for n in p.redrawn})
    total = plan.chains * plan.draws
    by_row = question.estimand == "ite"
    if by_row:
        _check_size(rows, total, len(scenarios.prepared))
        asked = np.cumsum(rows.weights > 0) - 1
        rows = Rows(np.where(rows.weights > 0, 1.0, 0.0), asked, tuple(_labels(rows, schema)))
    reduction = Reduction(rows.weights, rows.groups, max(1, len(rows.labels)), total)
    _run(question, scenarios, reduction, on_rows)
    averages = reduction.averages()
    names = list(averages)
    dim = "row" if by_row else "group"
    parts = [_labelled(averages[n], rows, schema, dim) for n in names]
    together = xr.concat(parts, xr.DataArray(names, dims="scenario", name="scenario"))
    contrasts = {
        f"{new} vs {old}": compared(question, averages[new], averages[old])
        for new, old in _contrasts(question, names)
    }
    parts = [_labelled(values, rows, schema, dim) for values in contrasts.values()]
    draws = xr.concat(parts, xr.DataArray(list(contrasts), dims="contrast", name="contrast"))
    if len(contrasts) == 1:
        draws = draws.isel(contrast=0)
    attrs = {
        "estimand": question.estimand,
        "comparison": question.comparison,
        "target": question.target,
        "population": question.population,
        "rung": question.rung,
        "words": list(reference.words),
    }
    draws.attrs = dict(attrs)
    return Effect(
        draws.rename("effect"), together, question, rows.count, dict(health), tuple(redrawn)
    )


def _run(
    question: Question,
    scenarios: Scenarios,
    reduction: Reduction,
    on_rows: Callable[[int], None],
) -> None:
    plan = next(iter(scenarios.prepared.values())).plan
    runs = {
        name: TileRun(prepared.call, compile_call(prepared.call, plan), plan)
        for name, prepared in scenarios.prepared.items()
    }
    first = next(iter(scenarios.prepared.values())).call
    weigh: TileRun | None = None
    mediate: TileRun | None = None
    if scenarios.mediator is not None:
        mediate = TileRun(scenarios.mediator, compile_call(scenarios.mediator, plan), plan)
    if question.population == "superpopulation":
        call = _population_call(first)
        weigh = TileRun(call, compile_call(call, plan), plan)

    def work(row_tile: RowTile, tile: Tile, device: Any) -> None:
        given = None if mediate is None else mediate(row_tile, tile, device)
        values = {
            name: run(row_tile, tile, device, given if name == _CROSSED else None)[question.site]
            for name, run in runs.items()
        }
        for name, there in scenarios.observed.items():
            values[name] = _kept(values[name], there[tile.rows], scenarios.outcome, tile)
        weights = None if weigh is None else weigh(row_tile, tile, device)[_POPULATION]
        first_draw = tile.chains.start * plan.draws + tile.draws.start
        count = next(iter(values.values())).shape[1]
        share = reduction.share(tile.rows, values, weights)
        reduction.add(tile.number, slice(first_draw, first_draw + count), share)

    each_tile(first, plan, work, on_rows)


def _kept(
    values: np.ndarray, there: np.ndarray, outcome: np.ndarray | None, tile: Tile
) -> np.ndarray:
    """Values (row, draw, ...) with the observed outcome in the rows where it was observed."""
    assert outcome is not None  # noqa: S101  # checked with the question
    own = outcome[tile.rows][:, None]
    return np.where(there.reshape(-1, *[1] * (values.ndim - 1)), own, values)


def _population_call(call: Call) -> Call:
    """Weights of a Bayesian bootstrap, drawn like a site of rows."""
    spec = call.task.spec
    own = SiteSpec(_POPULATION, "deterministic", "leading", 0, (spec.rows,), np.dtype(np.float32))
    results = replace(spec, sites=(*spec.sites, own))
    task = Task(call.task.kernel, spec, results, call.task.static, (_POPULATION,))
    return replace(call, program=population_block, task=task)


def _labels(rows: Rows, schema: Schema) -> list[Any]:
    labels = schema.labels if schema.labels is not None else np.arange(len(rows.weights))
    kept: list[Any] = labels[rows.weights > 0].tolist()
    return kept


def _contrasts(question: Question, names: list[str]) -> list[tuple[str, str]]:
    """Which scenarios are compared, the new one first."""
    if question.mediator is None:
        return [(name, names[0]) for name in names[1:]]
    old, new, crossed = names
    return [{"nde": (crossed, old), "nie": (new, crossed), "total": (new, old)}[question.estimand]]


def _labelled(values: np.ndarray, rows: Rows, schema: Schema, dim: str) -> xr.DataArray:
    """Values (group, draw, ...) with their names; a single group has no axis."""
    shape = (len(values), schema.chains, schema.draws, *values.shape[2:])
    own = [f"outcome_dim_{place}" for place in range(values.ndim - 2)]
    array = xr.DataArray(values.reshape(shape), dims=(dim, "chain", "draw", *own))
    array = array.assign_coords(chain=np.arange(schema.chains), draw=np.arange(schema.draws))
    return array.assign_coords({dim: list(rows.labels)}) if rows.labels else array.isel({dim: 0})


def _check_size(rows: Rows, draws: int, scenarios: int) -> None:
    size = 8 * rows.count * draws * scenarios
    if size > ROW_BYTES:
        msg = (
            f"Draws of the effect on each of {rows.count:,} rows would take {size / 1e9:.1f} GB. "
            "Ask about fewer rows, or for groups of them with estimand='cate' and by=."
        )
        raise InputError(msg, code="too-large")
