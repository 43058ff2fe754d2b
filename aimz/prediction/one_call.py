"""One call, from a request and a fit to a result.

`prepare` is pure: it returns the call, its plan and its notes. `carry_out` runs it into a sink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import numpyro

from aimz._version import __version__
from aimz.arrays import Array
from aimz.data import row_fingerprint
from aimz.errors import InputError, Note, OutputWarning, PerformanceWarning
from aimz.execution import Call, Plan, Ready, compile_call, plan_tiles, tiles_into
from aimz.kernel import Inputs, foresight, spread_sites
from aimz.libraries import xr
from aimz.prediction.alongside import check_by_row, check_settings
from aimz.prediction.continuation import carries_outcome
from aimz.prediction.groups import groups_kept
from aimz.prediction.inputs import Given
from aimz.prediction.interventions import Scenario, scenario_of
from aimz.prediction.request import Fitted, Origin, Request, Use
from aimz.prediction.reuse import reused_draws
from aimz.programs import Cache, fingerprint_values
from aimz.results import Schema, first_outcome, labelled_groups, layout_of
from aimz.sampling import Block, Task, density_spec, predict_block
from aimz.store import (
    MemorySink,
    Scratch,
    Sink,
    Variable,
    check_names_storable,
    import_dask,
    sink_in,
    temporary_sink,
)

__all__ = ["Prepared", "Result", "carry_out", "prepare"]


#: Values of the largest posterior that stays where programs read it.
_LASTING = 2**24


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to run, its grid, the words of its key, and what to tell the user.

    `redrawn` names sites whose posterior draws are not used, or not in all rows.
    """

    call: Call
    plan: Plan
    words: tuple[int, int]
    notes: tuple[Note, ...]
    redrawn: tuple[str, ...] = ()

    def check_rows_read(self, fitted: Fitted) -> None:
        """Refuse a stream that was not the fitted rows, where latents of these have been reused.

        Raises
        ------
        InputError
            `rows-not-fitted`.
        """
        block = self.call.block
        if fitted.spec is None or not block.row_posterior:
            return
        read = self.call.source.has_read()
        if read not in (None, (fitted.rows, fitted.fingerprint)):
            site = next(iter(block.row_posterior))
            msg = (
                f"Site '{site}' has one value per fitted row, and these were other rows. Pass the "
                "fitted rows, or predict with in_sample=False to draw it anew."
            )
            raise InputError(msg, code="rows-not-fitted")


@dataclass(frozen=True)
class _Standing:
    """What no value of a call's arguments changes: what is computed, and of which draws."""

    task: Task
    posterior: Mapping[str, Any]
    row_posterior: Mapping[str, Any]
    redraw: Mapping[str, np.ndarray]
    redrawn: tuple[str, ...]
    notes: tuple[Note, ...]
    plan: Plan


# Of each fit, by all that a `_Standing` follows from; it keeps alive what its name tells apart by
# address.
_STANDING: Cache[tuple[Any, ...], _Standing] = Cache(limit=256)
# Draws of each fit where programs read them, by site, dtype and JAX's settings.
_PLACED: Cache[tuple[Any, ...], Any] = Cache(limit=1024)


def prepare(request: Request, given: Given, origin: Origin, words: np.ndarray) -> Prepared:
    """Turn a request on some rows, and where these come from, into a call."""
    arguments, spec, source = given.arguments, given.spec, given.source
    if given.kept is not None:
        check_settings(spec, {**given.settings[0], **given.settings[1]})
        check_by_row(request.sites(spec), density_spec(spec) if request.conditions else spec)
    scenario = scenario_of(spec, *given.settings)
    standing = _standing_of(request, given, origin, scenario)
    notes = (*given.notes, *standing.notes, *_history_notes(request, given, scenario))
    if spec.coupled:
        text = f"Rows are predicted together, not in tiles: {spec.reason}"
        notes = (*notes, Note(PerformanceWarning, text, "rows-coupled"))
    rows = spec.row_inputs - source.names
    block = Block(
        words=words,
        draws=np.arange(request.chains * request.draws, dtype=np.uint32),
        # Where rows do not interact, their numbers come with the tiles.
        rows=np.arange(spec.rows if spec.coupled else 0, dtype=np.uint32),
        inputs={n: v for n, v in arguments.arrays.items() if n not in spec.row_inputs},
        row_inputs={n: v for n, v in arguments.arrays.items() if n in rows},
        params=dict(request.fit.params),
        posterior=dict(standing.posterior),
        row_posterior=dict(standing.row_posterior),
        values=dict(scenario.values),
        row_values=dict(scenario.row_values),
        redraw=dict(standing.redraw),
        kept=given.kept,
    )
    call = Call(request.program, request.group, standing.task, block, source, given.observed)
    of_call = (int(words[0]), int(words[1]))
    return Prepared(call, standing.plan, of_call, notes, standing.redrawn)


def _standing_of(request: Request, given: Given, origin: Origin, scenario: Scenario) -> _Standing:
    """What of a call stands while values change; known from an earlier call, where there was one.

    Its name has all that it follows from: the fit, the kernel and what is known of it, what is
    asked, what is set and where arguments have changed. Draws that belong to rows depend on values.
    """
    spec, sites = given.spec, request.sites(given.spec)
    # Where draws are the result, nothing is summed over a tile.
    by_element = request.program is predict_block and request.group != "effect"

    def make() -> _Standing:
        return _stand(request, given, origin, scenario, sites, by_element=by_element)

    draws = request.fit.draws
    if (
        not _lasts(request)
        or spec.coupled
        or given.kept is not None
        or any(name in spec and spec[name].belongs_to_rows for name in draws)
    ):
        return make()
    config: Any = jax.config
    static = tuple((name, type(v), v) for name, v in given.arguments.static.items())
    name = (
        (id(spec), id(given.kernel or request.kernel), request.names[0], static, given.missing),
        (request.conditions, sites, request.in_sample, request.new_groups),
        (given.rows, request.chains, request.draws),
        (scenario.do, scenario.condition, *((n, id(f)) for n, f in scenario.functions.items())),
        (origin.elsewhere, origin.observed, frozenset(origin.changed)),
        (config.jax_enable_x64, config.jax_default_device, by_element),
    )
    return _STANDING.of_owner(request.fitted, name, make)


def _stand(
    request: Request,
    given: Given,
    origin: Origin,
    scenario: Scenario,
    sites: tuple[str, ...],
    *,
    by_element: bool,
) -> _Standing:
    arguments, spec = given.arguments, given.spec
    kernel = given.kernel or request.kernel
    inputs = Inputs(dict(arguments.arrays), dict(arguments.static), spec.rows)
    reuse = reused_draws(
        spec,
        request.fit,
        scenario,
        origin,
        in_sample=request.in_sample,
        foresight=partial(foresight, kernel, inputs, spec),
        grows=request.new_groups == "prior",
    )
    is_new = not request.in_sample and request.new_groups == "refuse"
    groups = groups_kept(spec, reuse.draws) if is_new else ()
    task = Task(
        spread_sites(kernel, spec.spread, request.names[0]),
        spec,
        density_spec(spec) if request.conditions else spec,
        dict(arguments.static),
        sites,
        scenario.do,
        scenario.condition,
        tuple(scenario.functions.items()),
        missing=given.missing,
        unchecked=reuse.unchecked,
    )
    posterior, row_posterior = {}, {}
    for name, value in reuse.draws.items():
        if name in spec and spec[name].follows_rows:
            row_posterior[name] = np.moveaxis(_flat(value), 1 + (spec[name].axis), 1)
        else:
            posterior[name] = _placed(request, name, value)
    notes = (*reuse.notes, *groups)
    size = (given.rows, request.chains, request.draws)
    plan = plan_tiles(spec, *size, by_element=by_element)
    return _Standing(task, posterior, row_posterior, reuse.redraw, reuse.redrawn, notes, plan)


def _flat(draws: Array) -> np.ndarray:
    """Draws of all chains, one after another."""
    return np.reshape(np.asarray(draws), (-1, *np.shape(draws)[2:]))


def _placed(request: Request, name: str, draws: Array) -> Array:
    """Draws of the fit, in the dtype of their site, and few ones where programs read them."""

    def make() -> jax.Array:
        # `jnp.asarray` would compile a program for each shape.
        placed: jax.Array = jax.device_put(_flat(draws), may_alias=False)
        return placed

    if not _lasts(request):  # as they are: a CPU then needs no copy, where they are aligned
        flat = _flat(draws)
        return flat.astype(jax.dtypes.canonicalize_dtype(flat.dtype), copy=False)
    config: Any = jax.config
    place = (name, np.asarray(draws).dtype, config.jax_enable_x64, config.jax_default_device)
    placed: jax.Array = _PLACED.of_owner(request.fit, place, make)
    return placed


def _lasts(request: Request) -> bool:
    """Whether draws are those of the fit, and few enough to be kept where programs read them."""
    draws = request.fit.draws
    is_of_fit = request.fit is request.fitted.fit and request.use is Use.PREDICT
    return is_of_fit and sum(map(np.size, draws.values())) <= _LASTING


def _history_notes(request: Request, given: Given, scenario: Scenario) -> tuple[Note, ...]:
    """What is said of an outcome that is to go on from a past that nothing gives."""
    fitted, output = request.fitted, request.names[1]
    is_known = output in {*scenario.condition, *scenario.do} or request.conditions
    steps = given.spec.inner_steps
    more_rows = not steps and given.kept is None and 0 < fitted.rows < (given.rows or 0)
    goes_on = more_rows or 0 < fitted.known.steps < steps
    if request.use is Use.PRIOR or is_known or not goes_on or not carries_outcome(given.spec):
        return ()
    if row_fingerprint(given.primary[: fitted.rows]) != fitted.fingerprint:
        return ()
    text = (
        f"'{output}' follows from its own past, which is not given, so it starts anew in the "
        f"first {'step' if steps else 'row'}. Pass condition={{'{output}': ...}} with the "
        "outcomes that are known."
    )
    return (Note(OutputWarning, text, "history-missing"),)


# ------------------------------------------------------------------ carried out
@dataclass(frozen=True)
class Result:
    """What a result carries beside its draws: labels, other groups, and attributes."""

    schema: Schema
    make_groups: Callable[[], Mapping[str, xr.Dataset]]
    attrs: Mapping[str, Any]

    @cached_property
    def groups(self) -> Mapping[str, xr.Dataset]:
        """Groups beside the predictive one."""
        import_dask(wait=True)
        return self.make_groups()


def carry_out(
    prepared: Prepared,
    result: Result,
    request: Request,
    scratch: Callable[[], Scratch],
    on_rows: Callable[[int], None],
) -> tuple[xr.DataTree, Sequence[Note]]:
    """Run a call into a sink, label what comes out and commit it; on any error, abort.

    Temporary stores go below what `scratch` makes. Returns the tree, and what the sink noted.
    """
    call, plan = prepared.call, prepared.plan
    ready = compile_call(call, plan)
    variables = layout_of(call, ready, plan, result.schema, first_outcome(call))
    if request.to.store == "persistent":
        check_names_storable(variables, result.groups)
    sink = _sink_of(request, scratch, lambda: _identity(prepared, ready, variables))
    try:
        sink.begin(variables)
        rows = tiles_into(sink, call, ready, plan, variables)(on_rows)
        if call.source.names:
            prepared.check_rows_read(request.fitted)
        labelled = labelled_groups(variables, result.schema, call.task.results, rows)
        labelled = {
            name: group.assign_attrs({**result.attrs, "group": name})
            for name, group in labelled.items()
        }
        tree = sink.commit({**result.groups, **labelled}, result.attrs, rows)
    except BaseException as error:  # also Ctrl-C: nothing looks like a result; rethrown as it is
        directory = sink.abort()
        if directory is not None:
            error.add_note(
                f"The finished part is in {directory}: the same call with the same output_dir goes "
                "on."
            )
        raise
    return tree, (*ready.notes, *call.source.notes, *getattr(sink, "notes", ()))


def _sink_of(
    request: Request, scratch: Callable[[], Scratch], identity: Callable[[], Mapping[str, str]]
) -> Sink:
    """Where the request wants its result."""
    to = request.to
    if to.output_dir is not None:
        return sink_in(to.output_dir, request.method, identity())
    if isinstance(to.store, str):
        return MemorySink() if to.store == "memory" else temporary_sink(scratch(), request.method)
    return to.store


def _identity(prepared: Prepared, ready: Ready, variables: Sequence[Variable]) -> Mapping[str, str]:
    """Digests of everything that a result follows from, by what a user would call it."""
    block, source = prepared.call.block, prepared.call.source
    rows = ({**block.row_inputs, **source.head}, prepared.plan.rows)
    parts = {
        "kernel": ready.run.identity,
        "posterior": (block.posterior, block.row_posterior, block.params, block.redraw),
        "inputs": (block.inputs, rows, prepared.call.observed, block.kept),
        "interventions or conditions": (block.values, block.row_values),
        "key": prepared.words,
        "versions": (__version__, jax.__version__, numpyro.__version__),
        "backend": jax.default_backend(),
        "layout": (repr(prepared.plan), repr(variables)),
    }
    return {name: fingerprint_values(content) for name, content in parts.items()}
