"""The inputs of a call as the kernel sees them: all rows in memory, or their head and a stream.

Labels are lined up, names and shapes are those that the fit knows, numbers are finite, and latents
that belong to rows find theirs again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from aimz.data import (
    Arguments,
    Known,
    as_array,
    as_jax_sees,
    bind,
    check_finite,
    check_outcome,
    check_weights,
    row_fingerprint,
    row_hashes,
)
from aimz.errors import AimzError, InputError, OutputWarning
from aimz.execute import Call
from aimz.inference import Fit, Note, Problem, without_missing
from aimz.kernel import Inputs, inspect, read_signature
from aimz.labels import column_names, column_order, row_labels
from aimz.lookups import check_lookups
from aimz.programs import fingerprint_values
from aimz.requests import Fitted, Request
from aimz.rows import Stream, is_lazy, load, open_stream
from aimz.sampling import follows_rows
from aimz.scenario import Origin, rows_set
from aimz.spec import KernelSpec
from aimz.support import Support, support_of

__all__ = [
    "Given",
    "argument_hashes",
    "as_head_of",
    "changed_rows",
    "check_fitted_rows",
    "check_same_data",
    "fitted_on",
    "gather",
    "inspected",
    "origin_of",
    "problem_of",
    "row_numbers",
    "support_seen",
]


@dataclass(frozen=True)
class Given:
    """The inputs of a call as the kernel sees them: all rows, or their head and a stream.

    `settings` are the interventions and the conditions, in the order of the rows.
    """

    arguments: Arguments
    spec: KernelSpec
    primary: Any
    fingerprint: int
    settings: tuple[Mapping[str, Any], Mapping[str, Any]]
    stream: Stream | None = None
    observed: np.ndarray | None = None
    notes: tuple[Note, ...] = ()

    @property
    def rows(self) -> int | None:
        """Number of rows; None while it is not known."""
        return self.stream.count if self.stream else self.arguments.rows

    @property
    def key_numbers(self) -> tuple[int, ...]:
        """Numbers that stand for the rows in a key: all of them, or their head and count."""
        if self.stream is None:
            return (self.fingerprint,)
        return (self.fingerprint, self.stream.count or 0)


def inspected(
    kernel: Callable[..., Any],
    names: tuple[str, str],
    given: Mapping[str, Any],
    known: Known,
    specs: dict[Any, KernelSpec] | None = None,
) -> tuple[Arguments, Inputs, KernelSpec]:
    """Arguments in memory, bound to the kernel's signature, and what they show of the kernel.

    `names` are those of the primary input and of the outcome; `specs` has what the same call has
    found out before, and is added to.
    """
    signature = read_signature(kernel, *names)
    if given.get(names[0]) is None:
        msg = f"'{names[0]}' is None: there are no rows. Pass one row per observation."
        raise InputError(msg, code="no-rows")
    always = tuple(name for name in names if given.get(name) is not None)

    def bound(by_row: frozenset[str]) -> tuple[Arguments, Inputs]:
        arguments = bind(
            {n: v for n, v in given.items() if n != names[1] or v is not None},
            names=signature.names,
            required=signature.required,
            known=known,
            always_rows=always,
            by_row=by_row,
        )
        arrays, static = dict(arguments.arrays), dict(arguments.static)
        return arguments, Inputs(arrays, static, arguments.rows, always)

    arguments, inputs = bound(frozenset())
    specs = {} if specs is None else specs
    structure = _structure(inputs)
    spec = specs[structure] = specs.get(structure) or inspect(kernel, inputs, names[1])
    fresh = spec.row_inputs - known.row_inputs - set(always)
    if any(row_labels(given[name]) is not None for name in fresh):
        arguments, inputs = bound(spec.row_inputs)  # only the kernel tells a table from rows
    return arguments, inputs, spec


def _structure(inputs: Inputs) -> Any:
    """All of the inputs but the values of arrays."""
    leaves, form = jax.tree.flatten(dict(inputs.arrays))
    kinds = tuple((np.shape(leaf), np.dtype(leaf.dtype)) for leaf in leaves)
    return form, kinds, tuple(sorted(inputs.static.items())), inputs.rows, inputs.always_rows


def gather(
    request: Request, given: Mapping[str, Any], *, whole: frozenset[str] = frozenset()
) -> Given:
    """The inputs of a streamed call; rows that are not in memory stay where they are.

    Where rows interact they are loaded: each needs the others.

    Raises
    ------
    InputError
        `batch-names`, and what `bind`, `check_finite` and `open_stream` raise.
    """
    primary = request.names[0]
    given, columns = _in_fitted_order(request, given)
    columns_known = request.fitted.known.columns
    stream = open_stream(
        given, primary, batch_size=request.to.batch_size, whole=whole, columns=columns_known
    )
    if stream is None:
        return _in_memory(request, given)
    columns = {**columns, **stream.columns}
    arguments, spec = _read_head(request, given, stream)
    arguments = replace(arguments, columns={**columns, **arguments.columns})
    if spec.coupled:
        loaded = _in_memory(request, {**given, **stream.load()})
        return replace(loaded, arguments=replace(loaded.arguments, labels=stream.labels))
    strays = stream.names - spec.row_inputs - set(request.names)
    if strays and is_lazy(given[primary]):
        return gather(request, given, whole=whole | strays)
    _check_by_piece(given, request.names, spec, stream)
    if stream.count is None:
        draws = request.fit.draws if request.in_sample else {}
        values = {**(request.intervention or {}), **(request.condition or {})}
        stream.count = rows_set(spec, draws, values)
    count = stream.count or arguments.rows
    stream.check = _tile_check(request, arguments, spec, stream)
    labels = stream.labels
    arguments = replace(arguments, rows=count, labels=labels, reference=labels)
    return Given(
        arguments,
        spec.at_rows(count),
        stream.head[primary],
        row_fingerprint(stream.head[primary]),
        _settings(request, arguments, spec),
        stream,
        notes=_notes(request, arguments),
    )


def as_head_of(
    request: Request, own: Given, natural: Mapping[str, Any], replaced: Mapping[str, Any]
) -> Given:
    """The inputs of a streamed call with some arguments replaced, as the head of rows shows them.

    Values of rows are cut to the head; the stream stays as it is.
    """
    stream = own.stream
    assert stream is not None  # noqa: S101  # of streamed calls
    rows = len(stream.head[stream.primary])
    apart = {n: v for n, v in natural.items() if n not in stream.names}
    by_row = own.spec.row_inputs
    cut = {n: v[:rows] if n in by_row and np.ndim(v) else v for n, v in replaced.items()}
    plain = replace(request, intervention=None, condition=None)
    head = _in_memory(plain, {**apart, **stream.head, **cut})
    arguments = replace(
        head.arguments,
        rows=own.arguments.rows,
        labels=own.arguments.labels,
        reference=own.arguments.reference,
    )
    spec = head.spec.at_rows(own.spec.rows)
    settings = _settings(request, arguments, spec)
    return replace(own, arguments=arguments, spec=spec, settings=settings)


def row_numbers(value: Any, primary: str) -> tuple[int, ...]:
    """Numbers that stand for the rows of an input, in memory or read by the piece."""
    if isinstance(value, Iterator):
        msg = f"'{primary}' can be read once only, so its key is not known before. Pass rng_key=."
        raise InputError(msg, code="rng-key")
    stream = open_stream({primary: value}, primary, batch_size=None, whole=frozenset())
    if stream is None:
        return (row_fingerprint(as_jax_sees(as_array(value, primary), primary)),)
    return (row_fingerprint(stream.head[primary]), stream.count or 0)


def problem_of(
    kernel: Callable[..., Any],
    names: tuple[str, str],
    given: Mapping[str, Any],
    weights: Any,
    missing: str,
) -> tuple[Problem, Arguments]:
    """The kernel with the data of a fit, in memory, checked and inspected.

    Raises
    ------
    InputError
        `outcome-missing`, `missing-outcomes`, and what `bind` and the checks of values raise.
    """
    primary, output = names
    given = load(given, primary)
    if given[output] is None:
        msg = f"Fitting needs outcomes: '{output}' is None. Pass one per row."
        raise InputError(msg, code="outcome-missing")
    arguments, inputs, spec = inspected(kernel, names, given, Known())
    check_finite({n: v for n, v in arguments.arrays.items() if n != output})
    check_lookups(spec.lookups, arguments.arrays)
    there = check_outcome(arguments.arrays[output], missing, output)
    rows = None if weights is None else check_weights(weights, arguments, primary)
    problem = Problem(kernel, inputs, spec, rows)
    return (problem if there is None else without_missing(problem, there)), arguments


def support_seen(problem: Problem, arguments: Arguments) -> Support:
    """Where the rows of a fit lie, in the arguments that no site observes."""
    inputs, spec = problem.inputs, problem.spec
    by_row = (spec.row_inputs | set(inputs.always_rows)) & inputs.arrays.keys()
    arrays = {n: inputs.arrays[n] for n in inputs.arrays if n in by_row}
    plain = {n: np.asarray(v) for n, v in arrays.items() if not isinstance(v, dict)}
    return support_of(plain, arguments.columns, leave_out=spec.observed_arguments)


def fitted_on(problem: Problem, arguments: Arguments, fit: Fit, steps: int = 0) -> Fitted:
    """What a fit leaves: its draws, and what later calls must know of its data, no rows."""
    inputs, spec = problem.inputs, problem.spec
    names = (inputs.always_rows[0], spec.output)
    by_row = (spec.row_inputs | {names[0]}) & inputs.arrays.keys() - {names[1]}
    shapes = {name: tuple(np.shape(inputs.arrays[name])[1:]) for name in by_row}
    return Fitted(
        fit=fit,
        spec=spec,
        rows=inputs.rows,
        fingerprint=row_fingerprint(inputs.arrays[names[0]]),
        known=Known(frozenset(spec.row_inputs), arguments.columns, shapes),
        hashes=_data_hashes(problem, arguments),
        labels=arguments.labels if _has_rows(spec) else None,
        steps=steps,
        problem=problem,
    )


def argument_hashes(
    arguments: Arguments, spec: KernelSpec, names: tuple[str, str], kernel: Callable[..., Any]
) -> dict[str, np.ndarray]:
    """Numbers that stand for each argument; for each of its rows, where latents belong to rows.

    A default that the call leaves as it is counts as passed.
    """
    by_row = _has_rows(spec)
    hashes: dict[str, np.ndarray] = {}
    defaults: dict[str, Any] = {}
    for name, value in read_signature(kernel, *names).defaults.items():
        numeric = isinstance(value, bool | int | float)
        if isinstance(value, float) or (numeric and name in spec.row_inputs):
            shape = (arguments.rows,) if name in spec.row_inputs else ()
            defaults[name] = np.broadcast_to(as_jax_sees(as_array(value, name), name), shape)
        elif numeric or isinstance(value, str):
            defaults[name] = value
    for name, value in {**defaults, **arguments.arrays, **arguments.static}.items():
        if name == names[1]:
            continue
        if by_row and name in spec.row_inputs | {names[0]} and not isinstance(value, dict):
            hashes[name] = row_hashes(value)
        else:
            hashes[name] = _hash(value)
    return hashes


def check_same_data(fitted: Fitted, problem: Problem, arguments: Arguments) -> None:
    """Refuse data that a fit did not see, where it is to go on with its own.

    Raises
    ------
    InputError
        `data-differ`
    """
    then, now = fitted.hashes, _data_hashes(problem, arguments)
    for name in sorted(then.keys() | now.keys()):
        if name in then and name in now and np.array_equal(then[name], now[name]):
            continue
        msg = f"'{name}' is not what the model was fitted with. Pass the data of the fit, or refit."
        raise InputError(msg, code="data-differ")


def _data_hashes(problem: Problem, arguments: Arguments) -> dict[str, np.ndarray]:
    """Numbers that stand for all that a fit sees, the outcome and the weights included."""
    names = (problem.inputs.always_rows[0], problem.spec.output)
    seen = {names[1]: arguments.arrays.get(names[1]), "sample_weight": problem.weights}
    hashes = {name: _hash(value) for name, value in seen.items() if value is not None}
    return {**argument_hashes(arguments, problem.spec, names, problem.kernel), **hashes}


def _hash(value: Any) -> np.ndarray:
    return np.array(int(fingerprint_values(value)[:16], 16), np.uint64)


def _has_rows(spec: KernelSpec) -> bool:
    """Whether latents belong to rows, so that a fit must know its rows again."""
    return any(site.kind == "latent" and site.rows != "none" for site in spec.sites)


def origin_of(request: Request, given: Given) -> Origin:
    """Find the rows of a call among the fitted ones, as far as is known before they are read.

    Some of the fitted rows, or all in another order, are recognised by label and value together;
    rows that are only counted are not, because other rows may have their values.
    """
    fitted, names = request.fitted, request.names
    if fitted.spec is None:
        labels = given.arguments.labels
        return Origin(by_hand=True, labels=labels, draw_labels=fitted.draw_labels)
    observed = frozenset(s.name for s in fitted.spec.sites if s.kind == "observed")
    now = argument_hashes(given.arguments, fitted.spec, names, request.kernel)
    if given.stream is not None:  # its own rows are compared while they are read
        now = {n: v for n, v in now.items() if n not in given.stream.names}
        origin = Origin(given.rows in (None, fitted.rows), observed=observed)
        return replace(origin, **_changes(fitted, now, None, given))
    rows: np.ndarray | None = None
    labels = _own_labels(given.arguments)
    same = (fitted.rows, fitted.fingerprint) == (given.rows, given.fingerprint)
    if not same or _differ(labels, fitted.labels):
        then = fitted.hashes.get(names[0])
        if then is None or then.ndim == 0 or now[names[0]].ndim == 0:
            return Origin(is_known=False, observed=observed)
        rows = _found(now[names[0]], then, labels, fitted.labels)
        if rows is None:
            return Origin(is_known=False, observed=observed)
    del now[names[0]]
    return replace(Origin(rows=rows, observed=observed), **_changes(fitted, now, rows, given))


def _changes(
    fitted: Fitted, now: Mapping[str, np.ndarray], rows: np.ndarray | None, given: Given
) -> dict[str, Any]:
    """Where each argument is not the fitted one, and which of them are not traced."""
    changed = {}
    for name in now.keys() & fitted.hashes.keys():
        then, own = fitted.hashes[name], now[name]
        then = then if rows is None or then.ndim == 0 else then[rows]
        if then.ndim == own.ndim == 1 and then.shape == own.shape:
            changed[name] = then != own
        elif then.shape != own.shape or then != own:
            changed[name] = np.array(True)
    changed = {name: differs for name, differs in changed.items() if differs.any()}
    return {"changed": changed, "static": frozenset(changed) & given.arguments.static.keys()}


def changed_rows(natural: Given, scenario: Given) -> dict[str, np.ndarray]:
    """Rows, (row,), in which each argument of a scenario is not the natural one; () for others."""
    changed = {}
    spec, primary = natural.spec, natural.arguments.arrays
    for name, value in scenario.arguments.arrays.items():
        old = primary.get(name)
        by_row = name in spec.row_inputs and not isinstance(value, dict)
        if by_row and old is not None and np.shape(old) == np.shape(value):
            other = np.asarray(old) != np.asarray(value)
            differs = other.reshape(len(other), -1).any(axis=1)
        else:
            differs = np.array(fingerprint_values(old) != fingerprint_values(value))
        if natural.stream is not None:  # the head does not speak for each row
            differs = np.array(differs.any())
        if differs.any():
            changed[name] = differs
    for name, value in scenario.arguments.static.items():
        if natural.arguments.static.get(name) != value:
            changed[name] = np.array(True)
    return changed


def check_fitted_rows(fitted: Fitted, call: Call) -> None:
    """Refuse a stream that was not the fitted rows, where latents of these have been reused."""
    stream = call.stream
    if stream is None or fitted.spec is None or not call.block.row_posterior:
        return
    if (stream.seen, stream.fingerprint()) != (fitted.rows, fitted.fingerprint):
        site = next(iter(call.block.row_posterior))
        msg = (
            f"Site '{site}' has one value per fitted row, and these were other rows. Pass the "
            "fitted rows, or predict with in_sample=False to draw it anew."
        )
        raise InputError(msg, code="rows-not-fitted")


def _own_labels(arguments: Arguments) -> np.ndarray | None:
    """Labels of the rows, unless they only count them."""
    labels = arguments.labels
    counts = labels is not None and np.array_equal(labels, np.arange(arguments.rows))
    return None if counts else labels


def _differ(labels: np.ndarray | None, fitted: np.ndarray | None) -> bool:
    return labels is not None and fitted is not None and not np.array_equal(labels, fitted)


def _found(
    now: np.ndarray, then: np.ndarray, labels: np.ndarray | None, fitted_labels: np.ndarray | None
) -> np.ndarray | None:
    """Where each row of `now` is in `then`; None where one is not, or may be in two places."""
    if labels is None or fitted_labels is None:
        return None
    keys = list(zip(fitted_labels.tolist(), then.tolist(), strict=True))
    places = {key: number for number, key in enumerate(keys)}
    found = [places.get(key) for key in zip(labels.tolist(), now.tolist(), strict=True)]
    return None if len(places) < len(keys) or None in found else np.array(found)


def _check_outcome_given(request: Request, given: Mapping[str, Any]) -> None:
    """Refuse a log density of outcomes that nobody has observed."""
    output = request.names[1]
    if request.conditions and given.get(output) is None:
        msg = f"A log-likelihood needs outcomes: '{output}' is None. Pass one per row."
        raise InputError(msg, code="outcome-missing")


def _in_fitted_order(
    request: Request, given: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, tuple[str, ...]]]:
    """The call's arguments, with the columns of a lazy xarray input in the fitted order."""
    primary = request.names[0]
    value = given[primary]
    names = column_names(value, primary) if is_lazy(value) else None
    if names is None:
        return given, {}
    order = column_order(names, request.fitted.known.columns.get(primary), primary)
    if order is not None:
        given = {**given, primary: value.isel({value.dims[1]: order})}
    return given, {primary: names}


def _read_head(
    request: Request, given: Mapping[str, Any], stream: Stream
) -> tuple[Arguments, KernelSpec]:
    """Arguments and structure of a call as the first rows of a stream show them."""
    primary, output = request.names
    head = {**given, **stream.head}
    _check_outcome_given(request, head)
    if not request.conditions:
        head.pop(output, None)
    try:
        arguments, _, spec = inspected(
            request.kernel, request.names, head, request.fitted.known, request.seen_specs
        )
    except (TypeError, ValueError) as error:
        others = sorted(n for n in given.keys() - stream.names if np.ndim(given[n]))
        if isinstance(error, AimzError) or not others:
            raise
        msg = (
            f"The kernel does not run on the first rows of '{primary}': {error!s:.80}. If "
            f"'{others[0]}' has one value per row, name it in the batches."
        )
        raise InputError(msg, code="batch-names") from error
    check_finite(arguments.arrays)
    return arguments, spec


def _tile_check(
    request: Request, arguments: Arguments, spec: KernelSpec, stream: Stream
) -> Callable[[Mapping[str, Any], int], None]:
    """What the rows of every tile must keep to, as the head has: finite, and within tables."""
    by_row = spec.row_inputs | set(request.names)
    fitted = _row_hashes(request, spec)
    looked = tuple(lookup for lookup in spec.lookups if lookup.arguments & by_row)

    def check(rows: Mapping[str, Any], first: int) -> None:
        read = {n: v for n, v in rows.items() if n in arguments.arrays}
        check_finite(read)
        count = len(rows[stream.primary])
        for name in fitted.keys() & rows.keys():
            if not np.array_equal(row_hashes(rows[name]), fitted[name][first : first + count]):
                raise _not_fitted(name)
        for start in range(0, count if looked else 0, arguments.rows):
            index = np.minimum(np.arange(start, start + arguments.rows), count - 1)
            parts = {n: v[index] for n, v in read.items()}
            check_lookups(looked, {**arguments.arrays, **parts}, first + start)

    return check


def _row_hashes(request: Request, spec: KernelSpec) -> dict[str, np.ndarray]:
    """What the fit knows of each row of its arguments, where latents of these rows are reused."""
    held = request.fit.draws.keys() & spec.names
    if not request.in_sample or not any(spec[name].rows != "none" for name in held):
        return {}
    primary = request.names[0]
    return {n: v for n, v in request.fitted.hashes.items() if v.ndim == 1 and n != primary}


def _not_fitted(name: str) -> InputError:
    msg = (
        f"'{name}' is not the fitted one in some rows, and latents of rows that are read by the "
        "piece are not drawn anew. Load the rows, or predict with in_sample=False."
    )
    return InputError(msg, code="rows-not-fitted")


def _check_by_piece(
    given: Mapping[str, Any], names: tuple[str, str], spec: KernelSpec, stream: Stream
) -> None:
    """Refuse row arguments that are not read with the rows, or that are but do not belong there."""
    primary, output = names
    named = {name for name, value in given.items() if value is not None}
    strays = sorted(stream.names - spec.row_inputs - set(names))
    if strays:
        msg = (
            f"The batches name '{strays[0]}', which the kernel does not read row by row. Pass it "
            "to the method by name."
        )
        raise InputError(msg, code="batch-names")
    apart = (spec.row_inputs | {output}) - stream.names
    for name in sorted(name for name in apart & named if np.ndim(given[name])):
        msg = f"'{primary}' is read by the piece, so '{name}' must be: name it in the batches."
        raise InputError(msg, code="batch-names")
    if output in stream.names:
        _check_outcomes(stream.head[output], spec)


def _in_memory(request: Request, given: Mapping[str, Any]) -> Given:
    primary, output = request.names
    _check_outcome_given(request, given)
    kept = {n: v for n, v in given.items() if n != output or request.conditions}
    arguments, _, spec = inspected(
        request.kernel, request.names, kept, request.fitted.known, request.seen_specs
    )
    check_finite(arguments.arrays)
    check_lookups(spec.lookups, arguments.arrays)
    outcome = given.get(output)
    if outcome is not None:
        outcome = arguments.lined({output: outcome}, primary)[output]
        outcome = np.asarray(as_jax_sees(as_array(outcome, output), output))
        _check_outcomes(outcome, spec)
    X = arguments.arrays[primary]
    return Given(
        arguments,
        spec,
        X,
        row_fingerprint(X),
        _settings(request, arguments, spec),
        observed=outcome if output in spec else None,
        notes=_notes(request, arguments),
    )


def _settings(
    request: Request, arguments: Arguments, spec: KernelSpec
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Interventions and conditions, those with labels in the order of the rows."""
    do, given = (
        {name: _lined_site(value, name, arguments, spec, request.names[0]) for name, value in v}
        for v in ((request.intervention or {}).items(), (request.condition or {}).items())
    )
    return do, given


def _lined_site(value: Any, name: str, arguments: Arguments, spec: KernelSpec, primary: str) -> Any:
    """A value for a site with its rows in the order of the call's, whichever axis they are."""
    if name not in spec or not follows_rows(spec[name]) or callable(value):
        return value
    axis, dims = spec[name].row_axis or 0, getattr(value, "dims", ())
    if not axis or len(dims) <= axis:
        return arguments.lined({name: value}, primary)[name] if not axis else value
    turned = value.transpose(dims[axis], ...)
    return arguments.lined({name: turned}, primary)[name].transpose(*dims)


def _notes(request: Request, arguments: Arguments) -> tuple[Note, ...]:
    """What is said of columns that have lost their names since the fit."""
    lost = sorted(request.fitted.known.columns.keys() & arguments.arrays.keys())
    lost = [name for name in lost if name not in arguments.columns]
    if not lost:
        return ()
    text = (
        f"'{lost[0]}' has no column names, but the model was fitted with names. Its columns are "
        "taken in the fitted order."
    )
    return (Note(OutputWarning, text, "columns-unnamed"),)


def _check_outcomes(outcomes: np.ndarray, spec: KernelSpec) -> None:
    """Refuse outcomes that are not shaped like the site that they are kept beside."""
    if spec.output not in spec:
        return
    site = spec[spec.output]
    if not follows_rows(site) or np.moveaxis(outcomes, 0, site.row_axis or 0).shape != site.shape:
        msg = (
            f"'{site.name}' has shape {outcomes.shape}, but the site has shape {site.shape}. Pass "
            "one outcome per row, of the site's shape."
        )
        raise InputError(msg, code="shape")
