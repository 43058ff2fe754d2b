"""From a request and a fit to a call that can be carried out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.arrays import Array
from aimz.data import Arguments, row_fingerprint
from aimz.errors import Note, OutputWarning, PerformanceWarning
from aimz.execution import Call, Plan, plan_tiles
from aimz.kernel import Inputs, foresight, spread_sites
from aimz.prediction.alongside import check_by_row, check_settings
from aimz.prediction.continuation import carries_outcome
from aimz.prediction.groups import groups_kept
from aimz.prediction.inputs import Given
from aimz.prediction.interventions import Scenario, scenario_of
from aimz.prediction.request import Origin, Request, Use
from aimz.prediction.reuse import Reuse, reused_draws
from aimz.programs import call_words
from aimz.sampling import Block, Task, density_spec

__all__ = ["Prepared", "make_block", "prepare"]


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


def prepare(request: Request, given: Given, origin: Origin, key: jax.Array) -> Prepared:
    """Turn a request on some rows, and where these come from, into a call."""
    arguments, spec, source = given.arguments, given.spec, given.source
    kernel = given.kernel or request.kernel
    if given.kept is not None:
        check_settings(spec, {**given.settings[0], **given.settings[1]})
        check_by_row(request.sites(spec), density_spec(spec) if request.conditions else spec)
    scenario = scenario_of(spec, *given.settings)
    inputs = Inputs(dict(arguments.arrays), dict(arguments.static), spec.rows)
    reuse = reused_draws(
        spec,
        request.fit,
        scenario,
        origin,
        in_sample=request.in_sample,
        foresight=partial(foresight, kernel, inputs, spec),
        grows=request.new_groups,
    )
    groups = () if request.in_sample or request.new_groups else groups_kept(spec, reuse.draws)
    notes = (*given.notes, *reuse.notes, *groups, *_history_notes(request, given, scenario))
    if spec.coupled:
        text = f"Rows are predicted together, not in tiles: {spec.reason}"
        notes = (*notes, Note(PerformanceWarning, text, "rows-coupled"))
    task = Task(
        spread_sites(kernel, spec.spread, request.names[0]),
        spec,
        density_spec(spec) if request.conditions else spec,
        dict(arguments.static),
        request.sites(spec),
        scenario.do,
        scenario.condition,
        tuple(scenario.functions.items()),
        missing=given.missing,
        unchecked=reuse.unchecked,
    )
    words = call_words(key)
    block = make_block(
        task,
        arguments,
        scenario,
        reuse,
        request.fit.params,
        words=words,
        num_draws=request.chains * request.draws,
        kept=given.kept,
    )
    read_whole = {n: v for n, v in block.row_inputs.items() if n not in source.names}
    block = block._replace(row_inputs=read_whole)
    plan = plan_tiles(spec, given.rows, request.chains, request.draws)
    call = Call(request.program, request.group, task, block, source, given.observed)
    return Prepared(call, plan, (int(words[0]), int(words[1])), notes, reuse.redrawn)


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


def make_block(
    task: Task,
    arguments: Arguments,
    scenario: Scenario,
    reuse: Reuse,
    params: Mapping[str, Any],
    *,
    words: Array,
    num_draws: int,
    kept: np.ndarray | None = None,
) -> Block:
    """All the arrays of one result, rows and draws complete."""
    spec = task.spec
    posterior, row_posterior = {}, {}
    for name, value in reuse.draws.items():
        flat = np.reshape(np.asarray(value), (-1, *np.shape(value)[2:]))
        if name in spec and spec[name].follows_rows:
            row_posterior[name] = np.moveaxis(flat, 1 + (spec[name].axis), 1)
        else:
            posterior[name] = jnp.asarray(flat)
    rows = {n: v for n, v in arguments.arrays.items() if n in spec.row_inputs}
    whole = {n: v for n, v in arguments.arrays.items() if n not in spec.row_inputs}
    return Block(
        words=words,
        draws=np.arange(num_draws, dtype=np.uint32),
        rows=np.arange(task.spec.rows, dtype=np.uint32),
        inputs=whole,
        row_inputs=rows,
        params=dict(params),
        posterior=posterior,
        row_posterior=row_posterior,
        values=dict(scenario.values),
        row_values=dict(scenario.row_values),
        redraw=dict(reuse.redraw),
        kept=kept,
    )
