"""Scenarios of an effect, prepared on the same rows, draws and key; what is asked of which rows.

Their programs are often one: a changed value is an input. `aimz.effects.one_pass` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from aimz.data import Value, check_exact
from aimz.effects.changes import AllAtOnce, ByPiece, Names, Natural, Split, check_resolved
from aimz.effects.counterfactual import Replays
from aimz.effects.question import Question
from aimz.effects.wording import Compared, in_words
from aimz.errors import InputError, Note, OutputWarning, nearest
from aimz.execution import Call
from aimz.kernel import read_signature
from aimz.kernels import OutcomeUnits
from aimz.libraries import pd
from aimz.prediction import (
    Given,
    Origin,
    Prepared,
    Request,
    gather,
    origin_of,
    prepare,
)
from aimz.sampling import predict_block

__all__ = ["CROSSED", "Scenarios", "scenarios_of"]


#: Name of the scenario that keeps the mediator of another.
CROSSED = "intervention, with the mediator of the baseline"


@dataclass(frozen=True)
class Scenarios:
    """Prepared scenarios by name, the first the reference, and outcomes kept where they hold.

    `natural` are the inputs that no scenario has changed, `own` is the world of these, `primary`
    the name of the first of them, and `values` these inputs as they were read, labelled ones in
    the order of the rows. `mediator` draws the mediator under the reference, for the last scenario,
    which keeps it. `arms` has for each scenario the rows in which it is what was, where that is
    asked, `outcome` what was observed, where it is not `absent`: for each observed site with such
    elements, (row, ...) of bool. `replays` is the plan of counterfactuals. `compared` are the
    scenarios in words.
    """

    primary: str
    natural: Given
    values: Natural
    prepared: Mapping[str, Prepared]
    own: Prepared
    changes: Mapping[Any, Split]
    compared: Compared
    mediator: Call | None = None
    arms: Mapping[Any, np.ndarray] = field(default_factory=dict)
    outcome: np.ndarray | None = None
    absent: Mapping[str, np.ndarray] = field(default_factory=dict)
    replays: Replays | None = None


def scenarios_of(
    request: Request,
    question: Question,
    natural: Mapping[str, Value],
    changes: Mapping[str, Mapping[str, Any]],
    words_of: Callable[[Given], np.ndarray],
) -> Scenarios:
    """Scenarios on some rows, prepared with the words of one key.

    A latent of rows is drawn anew where an argument differs from the natural one.

    Raises
    ------
    InputError
        `scenario-unknown`, `rows-mismatch`, `rows-lazy`, and what preparing a prediction raises.
    """
    primary = request.names[0]
    request = replace(request, seen_specs={})
    factual = gather(request, natural)
    (site,) = request.sites(factual.spec)
    if not factual.spec[site].follows_rows:
        msg = (
            f"Site '{site}' has no value per row, so there is nothing to average. Ask for a site "
            "of rows, or compare the posterior itself."
        )
        raise InputError(msg, code="site-rows")
    if factual.kept is not None and (question.mediator or question.rung == "counterfactual"):
        what = f"mediator='{question.mediator}'" if question.mediator else "rung='counterfactual'"
        msg = (
            f"{what} needs all rows of a kernel whose rows interact, and these are some of the "
            "fitted ones. Ask about all of them, in their order, and weigh those you mean."
        )
        raise InputError(msg, code="rows-together")
    of_rows = {n: v for n, v in natural.items() if n in factual.spec.row_inputs - {primary}}
    natural = {**natural, **factual.arguments.lined(of_rows, primary)}
    if factual.loaded:
        natural |= _loaded(factual)
    origin, words = origin_of(request, factual), words_of(factual)
    if question.mediator is not None:  # drawn in every scenario: that is the question
        origin = replace(origin, observed=origin.observed | {question.mediator})
    prepared, splits = {}, {}
    defaults = read_signature(request.kernel, *request.names).defaults
    read, kernel = natural, cast("Any", request.kernel)
    if isinstance(kernel, OutcomeUnits):
        read = kernel.in_numbers(natural, primary)
    starts = {**defaults, **{n: value.given for n, value in read.items()}}
    way: AllAtOnce | ByPiece
    if primary in factual.source.names:  # it comes with the tiles
        way = ByPiece(request, factual, primary)
    else:
        way = AllAtOnce(request, factual, primary, request.fitted.known.columns.get(primary, ()))
    start = Natural(natural, primary, starts, way.columns)
    for name, change in changes.items():
        splits[name], prepared[name] = _prepared(name, change, question, way, start, origin, words)
    check_resolved(splits, start)
    world = prepare(request, factual, origin, words)
    made = Scenarios(primary, factual, start, prepared, world, splits, in_words(changes))
    return made if question.mediator is None else _mediated(made, question.mediator, site)


def _loaded(factual: Given) -> dict[str, Value]:
    """What has been loaded of rows that interact, in place of what it was read from."""
    arrays, columns = factual.arguments.arrays, factual.arguments.columns
    tables = {n: arrays[n] for n in factual.loaded if n in arrays}
    tables |= {
        n: pd.DataFrame(v, columns=list(columns[n])) for n, v in tables.items() if n in columns
    }
    return {n: Value.of(v, n) for n, v in tables.items()}


def _prepared(
    name: str,
    change: Mapping[str, Any],
    question: Question,
    way: AllAtOnce | ByPiece,
    start: Natural,
    origin: Origin,
    words: np.ndarray,
) -> tuple[Split, Prepared]:
    """What a scenario changes, and the scenario."""
    request, factual = way.request, way.factual
    arguments = read_signature(request.kernel, *request.names).names
    sites = [s.name for s in factual.spec.sites if s.kind not in ("param", "factor")]
    split, values = way.split(name, change, start, Names(arguments, sites))
    asked = replace(request, intervention=split.sites, condition=split.condition)
    split = replace(split, arguments={n: value.given for n, value in values.items()})
    replaced = {n: _over_rows(name, value, factual) for n, value in values.items()}
    its_inputs, now = way.inputs(name, asked, start.values, replaced)
    if factual.spec.measured:
        _check_measured(name, split, question, factual, its_inputs)
    if its_inputs.spec.coupled != factual.spec.coupled:
        msg = f"Scenario '{name}' makes rows interact, or not, unlike what is natural: no noise "
        raise InputError(msg + "is shared then. Predict each by itself.", code="unpaired")
    static = factual.arguments.static.keys() | its_inputs.arguments.static.keys()
    notes: tuple[Note, ...] = ()
    traced = factual.arguments.arrays.keys()
    if change and not split.arguments.keys() - traced:  # what is not traced may lead anywhere
        notes = _path_notes(name, split, question, factual)
    moved = replace(
        origin,
        changed={**origin.changed, **now},
        static=origin.static | frozenset(now.keys() & static),
    )
    ready = prepare(asked, its_inputs, moved, words)
    ready = replace(ready, call=way.call(name, ready.call, its_inputs, values, now))
    replays = question.rung == "counterfactual"  # what data hold otherwise
    own_notes = tuple(n for n in ready.notes if not (replays and n.code == "blocked-by-data"))
    return split, replace(ready, notes=(*notes, *own_notes))


def _mediated(scenarios: Scenarios, mediator: str, site: str) -> Scenarios:
    """Scenarios with another at the end: the last one, with the mediator of the first."""
    spec = scenarios.natural.spec
    first, last = (list(scenarios.prepared.values())[n] for n in (0, -1))
    scenarios.natural.source.need_all("mediation needs its rows")
    if len(scenarios.prepared) != 2:
        msg = "Mediation compares two scenarios. Pass baseline= and intervention=."
        raise InputError(msg, code="scenario-incomplete")
    below = mediator in spec and site in spec.descendants({mediator})
    if not below or not spec[mediator].follows_rows:
        valid = [
            s.name for s in spec.sites if s.follows_rows and site in spec.descendants({s.name})
        ]
        msg = f"mediator='{mediator}' is no site of rows that '{site}' depends on. "
        raise InputError(msg + nearest(mediator, valid), code="mediator-unknown")
    if spec[mediator].is_given:
        msg = f"The call passes '{mediator}', so nothing can change it. Leave it out."
        raise InputError(msg, code="mediator-given")
    call, plan = last.call, last.plan
    shape = list(spec[mediator].shape)
    rows = shape.pop(spec[mediator].axis)
    held = np.zeros((), spec[mediator].dtype)
    held = np.broadcast_to(held, (plan.chains * plan.draws, rows, *shape))
    block = call.block._replace(row_posterior={**call.block.row_posterior, mediator: held})
    redraw = {n: v for n, v in block.redraw.items() if n != mediator}
    crossed = replace(last, call=replace(call, block=block._replace(redraw=redraw)))
    task = replace(first.call.task, sites=(mediator,), results=first.call.task.spec)
    drawn = replace(first.call, program=predict_block, task=task)
    return replace(scenarios, prepared={**scenarios.prepared, CROSSED: crossed}, mediator=drawn)


def _over_rows(scenario: str, value: Value, factual: Given) -> Value:
    """One value for an argument of rows, a number or one row, spread over them."""
    name = value.name
    natural: Any = factual.arguments.arrays.get(name)
    if name not in factual.spec.row_inputs or isinstance(natural, dict):
        return value
    if np.ndim(value.given) == 0:
        _ = value.array  # refuses text and dates
    shape, one_row = np.shape(value.given), np.shape(natural)[1:]
    if shape == () or (one_row and shape in (one_row, (1, *one_row))):
        check_exact(value.given, name)
        content, now = np.asarray(value.given), np.asarray(natural)
        if now.dtype == bool and np.isin(content, (0, 1)).all():
            content = content.astype(bool)
        # In a dtype that holds it and what is natural.
        dtype = np.result_type(now.dtype, content.dtype)
        spread = np.broadcast_to(content.astype(dtype), (factual.arguments.rows, *one_row))
        # Of rows that are read by the piece, more of them than memory may hold.
        return Value.of(spread if factual.source.names else np.array(spread), name)
    if shape[1:] != one_row and value.columns is None:
        msg = (
            f"Scenario '{scenario}' sets '{name}' to an array of shape {shape}, but the rows have "
            f"shape {(factual.arguments.rows, *one_row)}. Pass that shape, one row, or a number."
        )
        raise InputError(msg, code="rows-mismatch")
    return value


def _path_notes(name: str, change: Split, question: Question, factual: Given) -> tuple[Note, ...]:
    """What is said of a change that reaches no outcome, or of which something keeps a part back."""
    spec, listed = factual.spec, ", ".join(change.names)
    below = change.reach(spec, factual.arguments.arrays) | change.sites.keys()
    if question.site not in below | change.condition.keys():
        text = (
            f"Scenario '{name}' changes {listed}, from which no path leads to '{question.site}'. "
            "Set something that it depends on."
        )
        return (Note(OutputWarning, text, "no-effect"),)
    notes = []
    pooled = [argument for argument in change.arguments if argument in spec.pooled]
    if pooled:
        text = (
            f"Scenario '{name}' changes '{pooled[0]}', of which the kernel computes a statistic "
            "over the rows: it changes along, and may cancel a shift. If it is to stay, compute it "
            "before, and pass the result."
        )
        notes.append(Note(OutputWarning, text, "rows-statistic"))
    new, below = change.arguments.keys(), below - {question.site, *change.sites}
    held = sorted(
        s.name for s in spec.sites if s.is_given and s.name in below and not s.observes & new
    )
    if held and question.rung != "counterfactual":  # which replays them
        text = (
            f"Scenario '{name}' changes {listed}, but {', '.join(held)} keeps the values that the "
            "call passes. Leave these data out for the whole effect."
        )
        notes.append(Note(OutputWarning, text, "blocked-by-data"))
    return tuple(notes)


def _check_measured(
    name: str, change: Split, question: Question, factual: Given, its_inputs: Given
) -> None:
    """Refuse a change of what the kernel sets against its own mean or the like: they cancel."""
    spec = factual.spec
    for source, column in sorted(spec.measured, key=str):
        is_set = source in change.sites and spec[source].follows_rows
        pair = [g.arguments.arrays.get(source) for g in (factual, its_inputs)]
        if source in change.arguments and not any(part is None for part in pair):
            then, now = (np.asarray(part) for part in pair)
            if column is not None:
                then, now = then[:, column], now[:, column]
            is_set = not np.array_equal(then, now)
        if is_set and question.site in spec.descendants(change.sites, arguments=change.arguments):
            msg = (
                f"Scenario '{name}' changes '{source}', which the kernel sets against a statistic "
                "of it over the rows, as in x - x.mean(): it changes along, and cancels the "
                "change. Pass the statistic as an argument."
            )
            raise InputError(msg, code="statistic-cancels")
