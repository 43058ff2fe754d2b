"""Questions about scenarios: what `effect` and `estimate_effect` are asked, and how they answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aimz.choices import check_switches, progress_bar
from aimz.data import Value, numbers_of, values_of
from aimz.effects import (
    Behind,
    Effect,
    Question,
    Rows,
    Scenarios,
    about,
    effect_of,
    scenarios_of,
)
from aimz.errors import InputError, Note
from aimz.inference import Fit
from aimz.kernel import read_signature
from aimz.kernels import OutcomeUnits
from aimz.libraries import xr
from aimz.model.predicting import Planned, labelled, planned
from aimz.model.setup import Setup
from aimz.prediction import (
    Delivery,
    Fitted,
    Request,
    Use,
    difference,
    located,
    subtracting,
)
from aimz.results import check_labels
from aimz.sampling import predict_block
from aimz.store import Scratch

__all__ = [
    "Asked",
    "answered",
    "arguments_of",
    "asked",
    "difference_of",
    "subtracted",
    "trees_or_arguments",
]


@dataclass(frozen=True)
class Asked:
    """A question of some rows, and the scenarios that are ready to run on them."""

    request: Request
    question: Question
    rows: Rows
    scenarios: Scenarios


def asked(
    setup: Setup,
    request: Request,
    question: Question,
    natural: Mapping[str, Value],
    changes: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Value],
) -> tuple[Asked, tuple[Note, ...]]:
    """Prepare scenarios, and say which rows count; `options` are those of `aimz.effects.about`."""
    scenarios = scenarios_of(
        request,
        question,
        natural,
        changes,
        lambda inputs: setup.words(
            request.rng_key, request.use, inputs.fingerprint, *inputs.source.unread
        ),
    )
    rows, scenarios = about(question, scenarios, options)
    notes = dict.fromkeys(note for one in scenarios.prepared.values() for note in one.notes)
    return Asked(request, question, rows, scenarios), tuple(notes)


def answered(
    setup: Setup, asked: Asked, behind: Callable[[], Behind | None]
) -> tuple[Effect, tuple[Note, ...]]:
    """Run the scenarios in one pass over the rows."""
    request, scenarios = asked.request, asked.scenarios
    natural = scenarios.natural
    seen, lost = located(request.fitted)
    schema = setup.schema(request.chains, request.draws, natural.arguments.labels)
    check_labels(natural.spec, schema)
    shown = request.to.progress
    with progress_bar(natural.rows, desc="effect", unit="row", shown=shown) as bar:
        effect, notes = effect_of(
            asked.question,
            asked.rows,
            scenarios,
            schema,
            request.fit.attrs,
            seen,
            bar.update,
        )
    if request.fit.log_weights is not None:
        effect, doubts = _judged(request.fit, effect)
        notes = (*notes, *doubts)
    return replace(effect, behind=behind), (*lost, *notes)


def _judged(fit: Fit, effect: Effect) -> tuple[Effect, tuple[Note, ...]]:
    """An effect that also says what the weights of the fit's draws make of it."""
    values = np.asarray(effect)  # (chain, draw, ...)
    judged = fit.judged(values.reshape(values.shape[0] * values.shape[1], -1))
    doubts = () if effect.fault else judged.notes  # of the whole fit it was said when it was made
    diagnostics = {**effect.diagnostics, **judged.attrs}
    draws = effect.draws.assign_attrs(judged.attrs)
    return replace(effect, draws=draws, diagnostics=diagnostics), doubts


def arguments_of(
    setup: Setup,
    method: Callable[..., Any],
    options: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """The kernel's arguments of a method, with those whose names are options of it.

    `options` are what the method was called with, by name, and `arguments` its further keywords.
    An option that may be meant for the kernel is refused.
    """
    inputs = {} if options["inputs"] is None else options["inputs"]
    if not isinstance(inputs, Mapping):
        msg = "inputs= is a dict of the kernel's arguments by name. Pass inputs={'name': ...}."
        raise InputError(msg, code="option-unknown")
    signature = read_signature(setup.kernel, *setup.names)
    own = inspect.signature(method).parameters
    clear = {*inputs, *setup.names, "X"}
    for name in sorted(own.keys() & set(signature.names) - clear):
        is_missing = name in signature.required and name not in arguments
        if is_missing or (name != "inputs" and options[name] is not own[name].default):
            msg = (
                f"'{name}' is an option of {method.__name__} and an argument of the kernel. Pass "
                f"the kernel's as inputs={{'{name}': ...}}."
            )
            raise InputError(msg, code="option-ambiguous")
    for name in arguments.keys() & inputs.keys():
        msg = f"{method.__name__} has got '{name}' as an argument and in inputs=. Pass it once."
        raise InputError(msg, code="argument-twice")
    return {**arguments, **inputs}


def trees_or_arguments(
    setup: Setup,
    pairs: Sequence[tuple[xr.DataTree | None, Mapping[str, Any] | None]],
    in_memory: Mapping[str, Any],
    on_batch: bool,  # noqa: FBT001
) -> list[xr.DataTree | dict[str, Any]]:
    """For each scenario of `estimate_effect` its output, or the arguments of its prediction.

    Two that are both to be predicted share a key, whatever they change.
    """
    _check_pairs(pairs)
    primary = setup.names[0]
    given = [dict(arguments) for _, arguments in pairs if arguments]
    check_switches(on_batch=on_batch)
    shared = dict(in_memory) if on_batch else {}
    for name, (_, arguments) in zip(("args_baseline", "args_intervention"), pairs, strict=True):
        if arguments is not None and arguments.keys().isdisjoint((primary, "X")):
            msg = f"{name} lacks '{primary}'. Pass all arguments of predict."
            raise InputError(msg, code="argument-missing")
    if len(given) == 2 and not all("rng_key" in arguments for arguments in given):
        rows = given[0].get(primary, given[0].get("X"))
        kernel: Any = setup.kernel
        if isinstance(kernel, OutcomeUnits):
            rows = kernel.in_numbers(values_of({primary: rows}), primary)[primary]
        shared["rng_key"] = setup.key(None, Use.PREDICT, *numbers_of(rows, primary))
    return [
        {**shared, **_with_rows(arguments or {}, primary)} if tree is None else tree
        for tree, arguments in pairs
    ]


def subtracted(
    setup: Setup,
    trained: Callable[..., Fitted],
    predict: Callable[..., xr.DataTree],
    scenarios: Sequence[xr.DataTree | dict[str, Any]],
    scratch: Callable[[], Scratch],
) -> Planned | None:
    """The prediction of the intervention, which subtracts that of the baseline on its way to disk.

    Its notes are those of both. None where one of the two is there already, is to be kept, or does
    not line up with the other: they are made apart then.
    """
    arguments: list[dict[str, Any]] = [one for one in scenarios if isinstance(one, dict)]
    if len(arguments) < 2 or any({"store", "output_dir"} & {*one} for one in arguments):
        return None
    if not all(hasattr(one.get("X"), "shape") for one in arguments):  # batches are read only once
        return None
    fitted = trained(with_draws=True)
    calls = [planned(setup, *_prediction_of(setup, fitted, predict, one)) for one in arguments]
    baseline, intervention = ((call.prepared, labelled(setup, call)) for call in calls)
    taken = subtracting(baseline, intervention, scratch())
    if taken is None:
        return None
    sink, said = taken
    notes = (*(note for call in calls for note in call.prepared.notes), *said)
    call = calls[1]
    return replace(
        call,
        request=replace(call.request, to=replace(call.request.to, store=sink)),
        prepared=replace(call.prepared, notes=notes),
    )


def difference_of(
    trees: Sequence[xr.DataTree], scratch: Scratch, show: Callable[[Sequence[Note]], None]
) -> xr.DataTree:
    """The second of two results less the first, after what is to be said of them was shown."""
    baseline, intervention = trees
    notes, subtract = difference(baseline, intervention, scratch)
    show(notes)
    return subtract()


def _prediction_of(
    setup: Setup, fitted: Fitted, predict: Callable[..., xr.DataTree], arguments: Mapping[str, Any]
) -> tuple[Request, dict[str, Any]]:
    """What `predict` asks for with these arguments, and those of the kernel."""
    bound = inspect.signature(predict).bind(**arguments)
    bound.apply_defaults()
    options = dict(bound.arguments)
    X, others, sites = (options.pop(name) for name in ("X", "kwargs", "return_sites"))
    delivery = {name: options.pop(name) for name in Delivery.__dataclass_fields__}
    request = setup.request(
        fitted,
        program=predict_block,
        method="predict",
        group="posterior_predictive" if options["in_sample"] else "predictions",
        return_sites=sites,
        to=Delivery(**delivery),
        **options,
    )
    return request, setup.arguments(predict, others, X)


def _with_rows(arguments: Mapping[str, Any], primary: str) -> dict[str, Any]:
    """Arguments of `predict`, which takes the rows as `X`, whatever the kernel calls them."""
    if primary not in arguments:
        return dict(arguments)
    return {("X" if name == primary else name): value for name, value in arguments.items()}


def _check_pairs(
    pairs: Sequence[tuple[xr.DataTree | None, Mapping[str, Any] | None]],
) -> None:
    """Refuse scenarios that are neither an output nor its arguments, or both."""
    if any((tree is None) == (arguments is None) for tree, arguments in pairs):
        msg = (
            "Each scenario needs either an output or its arguments. Pass output_baseline or "
            "args_baseline, and output_intervention or args_intervention."
        )
        raise InputError(msg, code="scenario-incomplete")
    for pair in pairs:
        for given, kind in zip(pair, (xr.DataTree, Mapping), strict=True):
            if given is not None and not isinstance(given, kind):
                msg = (
                    "An output is a DataTree, as predict gives it, and arguments are a dict of "
                    f"those of predict: one is {type(given).__name__}."
                )
                raise InputError(msg, code="scenario-incomplete")
