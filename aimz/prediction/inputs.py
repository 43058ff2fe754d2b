"""The inputs of a call as the kernel sees them: all rows in memory, or their head and a stream.

Labels are lined up, names and shapes are those that the fit knows, numbers are finite, and latents
that belong to rows find theirs again.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import jax
import numpy as np

from aimz import programs
from aimz.arrays import is_mapped, pieces
from aimz.data import (
    MISSING,
    Arguments,
    AtHand,
    Casts,
    Known,
    Stream,
    Value,
    bind,
    check_exact,
    check_finite,
    check_outcome,
    is_given,
    load,
    open_stream,
    row_fingerprint,
    row_hashes,
    values_of,
)
from aimz.errors import AimzError, InputError, Note, OutputWarning
from aimz.inference import Problem
from aimz.kernel import (
    Inputs,
    KernelSpec,
    check_whole_numbers,
    drawable,
    in_words,
    inspect,
    is_of_arrays,
    read,
    read_signature,
)
from aimz.kernels import OutcomeUnits
from aimz.outcomes import Presence, check_outcomes, check_reachable, presence_of
from aimz.prediction.alongside import among_the_fitted, as_fitted, rejoined, rows_notes
from aimz.prediction.fitted import has_fitted_rows
from aimz.prediction.groups import with_larger_plates
from aimz.prediction.interventions import rows_set, settings_of
from aimz.prediction.request import Fitted, Request

__all__ = ["Given", "as_head_of", "gather", "inspected", "problem_of"]


@dataclass(frozen=True)
class Given:
    """The inputs of a call as the kernel sees them: all rows, or their head and a stream.

    `settings` are the interventions and the conditions, in the order of the rows. Where the fitted
    rows run along, `kept` are the numbers of the call's rows among them; the arrays are of all.
    """

    arguments: Arguments
    spec: KernelSpec
    primary: Any
    settings: tuple[Mapping[str, Any], Mapping[str, Any]]
    source: AtHand | Stream
    observed: np.ndarray | None = None
    notes: tuple[Note, ...] = ()
    missing: bool = False  # whether outcomes that are data may be missing
    kept: np.ndarray | None = None
    kernel: Callable[..., Any] | None = None  # with plates of more groups than it wrote
    loaded: frozenset[str] = frozenset()  # arguments that were to be read by the piece

    @cached_property
    def fingerprint(self) -> int:
        """Number that stands for the values of the rows, or of their head."""
        return row_fingerprint(self.primary)

    @property
    def rows(self) -> int | None:
        """Number of rows; None while it is not known."""
        return self.source.count

    def has_rows_of(self, fitted: Fitted, *, is_same: bool) -> bool:
        """Whether these are the rows of a fit with their outcomes; see `has_fitted_rows`."""
        return has_fitted_rows(fitted, self.arguments, is_same=is_same)


def inspected(
    kernel: Callable[..., Any],
    names: tuple[str, str],
    values: Mapping[str, Value],
    known: Known,
    specs: dict[Any, KernelSpec] | None = None,
    *,
    may_code: bool = True,
) -> tuple[Arguments, Inputs, KernelSpec]:
    """Arguments in memory, bound to the kernel's signature, and what they show of the kernel.

    `names` are those of the primary input and of the outcome; `specs` has what the same call has
    found out before, and is added to. A kernel that cannot compute with floating-point outcomes
    gets whole ones as codes, if it `may_code` them.
    """
    arguments, inputs = _bound(kernel, names, values, known)
    specs = {} if specs is None else specs
    # All of the inputs but the values of arrays.
    leaves, form = jax.tree.flatten(dict(inputs.arrays))
    kinds = tuple((np.shape(leaf), np.dtype(leaf.dtype)) for leaf in leaves)
    structure = form, kinds, tuple(sorted(inputs.static.items())), inputs.rows, inputs.always_rows
    try:
        spec = specs[structure] = specs.get(structure) or inspect(kernel, inputs, names[1])
    except Exception as error:  # a kernel may raise anything
        codes = _codes(arguments.arrays.get(names[1])) if may_code and is_of_arrays(error) else None
        if codes is not None:
            with contextlib.suppress(TypeError, ValueError):
                coded = {**values, names[1]: Value.of(codes, names[1])}
                return inspected(kernel, names, coded, known, specs)
        meant = in_words(error, arguments, inputs, names)
        if meant is None:
            raise
        raise meant from error
    if inputs.static:
        _check_static_numbers(kernel, inputs)
    if known.steps:  # else `bind` has checked all shapes
        known.check_rows(arguments.arrays, spec.inner_steps)
    fresh = spec.row_inputs - known.row_inputs - set(inputs.always_rows)
    if any(values[name].labels is not None for name in fresh):
        # Only the kernel tells a table from rows.
        arguments, inputs = _bound(kernel, names, values, known, spec.row_inputs)
    return arguments, inputs, spec


def _codes(outcome: Any) -> np.ndarray | None:
    """Floating-point outcomes as whole numbers; None where they are none."""
    array = np.asarray(outcome)
    if array.dtype.kind != "f" or array.ndim == 0:
        return None
    there = ~np.isnan(array)
    known = array[there]
    if not known.size or np.any(known != np.round(known)) or np.any(np.abs(known) > 2**30):
        return None
    return np.where(there, array, MISSING).astype(np.int32)


def _check_static_numbers(kernel: Callable[..., Any], inputs: Inputs) -> None:
    """Refuse a whole number that the kernel only uses after 32 bits have rounded it."""
    for name, value in inputs.static.items():

        def program_of(number: int, name: str = name) -> Any:
            static = {**inputs.static, name: number}
            with programs.TRACE_LOCK:
                reading = read(kernel, inputs.arrays, static, inputs.rows)
                return programs.fingerprint(reading.program, values=True)

        def matters(
            rounded: float, value: int = value, of: Callable[[int], Any] = program_of
        ) -> bool:
            given = of(value)
            return bool(given == of(int(rounded)) and given != of(int(rounded) // 2))

        check_exact(value, name, matters)


def _bound(
    kernel: Callable[..., Any],
    names: tuple[str, str],
    values: Mapping[str, Value],
    known: Known,
    by_row: frozenset[str] = frozenset(),
) -> tuple[Arguments, Inputs]:
    """Arguments in the order of the rows, and as the kernel gets them."""
    always = tuple(n for n in names if n in values and values[n].given is not None)
    if names[0] not in always:
        msg = f"'{names[0]}' is None: there are no rows. Pass one row per observation."
        raise InputError(msg, code="no-rows")
    signature = read_signature(kernel, *names)
    arguments = bind(
        {n: v for n, v in values.items() if n != names[1] or n in always},
        names=signature.names,
        required=signature.required,
        known=known,
        always_rows=always,
        by_row=by_row,
    )
    arrays, static = dict(arguments.arrays), dict(arguments.static)
    return arguments, Inputs(arrays, static, arguments.rows, always, known.spread)


def gather(
    request: Request,
    values: Mapping[str, Value],
    *,
    whole: frozenset[str] = frozenset(),
    natural: Given | None = None,
) -> Given:
    """The inputs of a streamed call; rows that are not in memory stay where they are.

    Where rows interact they are loaded: each needs the others. `natural` are the inputs of which
    these are a scenario, on the same rows.

    Raises
    ------
    InputError
        `batch-names`, and what `bind`, `check_finite` and `open_stream` raise.
    """
    primary = request.names[0]
    known, size = request.fitted.known, request.to.batch_size
    stream = open_stream(values, primary, batch_size=size, whole=whole, known=known)
    kernel: Any = request.kernel
    if isinstance(kernel, OutcomeUnits):
        values = kernel.in_numbers(values, primary)  # refuses rows by the piece
    if stream is None:
        return _in_memory(request, values, natural)
    arguments, spec, notes = _read_head(request, values, stream)
    arguments = replace(arguments, columns={**stream.columns, **arguments.columns})
    if spec.coupled:
        whole_rows = {**values, **values_of(stream.load())}
        loaded = _in_memory(request, whole_rows, labels=stream.labels)
        columns = {**stream.columns, **loaded.arguments.columns}
        arguments = replace(loaded.arguments, labels=stream.labels, columns=columns)
        source = AtHand(arguments.rows, stream.labels)
        return replace(loaded, arguments=arguments, source=source, loaded=stream.names)
    strays = stream.names - spec.row_inputs - set(request.names)
    if strays and stream.is_array:
        return gather(request, values, whole=whole | strays)
    _check_by_piece(values, request.names, spec, stream)
    if stream.count is None:
        draws = request.fit.draws if request.in_sample else {}
        settings = {**(request.intervention or {}), **(request.condition or {})}
        stream.count = rows_set(spec, draws, settings)
    count = stream.count or arguments.rows
    stream.check = _tile_check(request, arguments, spec)
    labels = stream.labels
    arguments = replace(arguments, rows=count, labels=labels, reference=labels)
    return Given(
        arguments,
        spec.at_rows(count),
        stream.head[primary],
        settings_of(request, arguments, spec),
        stream,
        notes=(*notes, *_notes(request, arguments)),
        missing=request.conditions and request.missing == "mask",
    )


def as_head_of(
    request: Request, own: Given, natural: Mapping[str, Value], replaced: Mapping[str, Value]
) -> Given:
    """The inputs of a streamed call with some arguments replaced, as the head of rows shows them.

    Values of rows are cut to the head; the stream stays as it is.
    """
    read = own.source.head
    rows = len(read[request.names[0]])
    apart = {n: v for n, v in natural.items() if n not in read}
    by_row = own.spec.row_inputs
    cut = {n: v.given for n, v in replaced.items()}
    cut = {n: v[:rows] if n in by_row and np.ndim(v) else v for n, v in cut.items()}
    plain = replace(request, intervention=None, condition=None)
    head = _in_memory(plain, values_of({**apart, **read, **cut}))
    arguments = replace(
        head.arguments,
        rows=own.arguments.rows,
        labels=own.arguments.labels,
        reference=own.arguments.reference,
    )
    spec = head.spec.at_rows(own.spec.rows)
    settings = settings_of(request, arguments, spec)
    return replace(own, arguments=arguments, spec=spec, settings=settings)


def problem_of(
    kernel: Callable[..., Any],
    names: tuple[str, str],
    given: Mapping[str, Any],
    weights: Any,
    missing: str,
    known: Known | None = None,
    *,
    has_own_start: bool = False,
) -> tuple[Problem, Arguments]:
    """The kernel with the data of a fit, in memory, checked and inspected.

    `known` is what an earlier fit, which goes on, has seen of the arguments. A fit that
    `has_own_start` may begin where no draw of the prior is.

    Raises
    ------
    InputError
        `outcome-missing`, `missing-outcomes`, and what `bind` and the checks of values raise.
    """
    primary, output = names
    values, ready_made = load(given, primary), cast("Any", kernel)
    if isinstance(ready_made, OutcomeUnits):
        values = ready_made.in_numbers(values, primary)
    if not is_given(values, output):
        msg = f"Fitting needs outcomes: '{output}' is None. Pass one per row."
        raise InputError(msg, code="outcome-missing")
    arguments, inputs, spec = inspected(kernel, names, values, known or Known())
    values[output].check_digits()  # a fit computes in 32 bits
    _check_rows({n: v for n, v in arguments.arrays.items() if n != output}, arguments.columns)
    check_whole_numbers(spec.lookups, spec.totals, arguments.arrays, is_fit=True)
    there = check_outcome(arguments.arrays[output], missing, output)
    unknown = check_outcomes(kernel, inputs, is_fit=True)
    rows = None if weights is None else arguments.weights(weights, primary)
    own = drawable(kernel, inputs)
    if unknown and not has_own_start:
        check_reachable(own, inputs, unknown)
    if there is None:
        return Problem(own, inputs, spec, rows), arguments
    presence = presence_of(own, inputs, spec, there)
    return Problem(own, inputs, spec, rows, presence, _left_out(presence)), arguments


def _check_rows(arrays: Mapping[str, Any], columns: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse numbers that are not finite; those of a file are looked at by pieces."""
    files = {n: v for n, v in arrays.items() if is_mapped(v)}
    check_finite({n: v for n, v in arrays.items() if n not in files}, columns)
    for name, array in files.items():
        first = 0
        for piece in pieces(array, 2**16):
            check_finite({name: piece}, columns, first)
            first += len(piece)


def _left_out(presence: Presence) -> tuple[Note, ...]:
    """What is said of rows that are left out though something of them is there."""
    notes = []
    for name, rows in presence.left_out.items():
        text = (
            f"{rows} rows of '{name}' are left out whole, though a part of them is there: its "
            "distribution has no marginal that is known. Observe the parts by sites of their own."
        )
        notes.append(Note(OutputWarning, text, "rows-left-out"))
    return tuple(notes)


def _check_outcome_given(request: Request, values: Mapping[str, Value]) -> None:
    """Refuse a log density of outcomes that nobody has observed."""
    output = request.names[1]
    if not is_given(values, output):
        msg = f"A log-likelihood needs outcomes: '{output}' is None. Pass one per row."
        raise InputError(msg, code="outcome-missing")


def _read_head(
    request: Request, values: Mapping[str, Value], stream: Stream
) -> tuple[Arguments, KernelSpec, tuple[Note, ...]]:
    """Arguments and structure of a call as the first rows of a stream show them."""
    primary, output = request.names
    known, count = request.fitted.known.row_inputs, len(stream.head[primary])
    longer = {n for n in known & values.keys() if np.shape(values[n].given)[:1] != (count,)}
    _check_none_apart(values, primary, frozenset(longer), stream)
    head = {**values, **values_of(stream.head)}
    if request.conditions:
        _check_outcome_given(request, head)
    else:
        head.pop(output, None)
    try:
        arguments, inputs, spec = inspected(
            request.kernel,
            request.names,
            head,
            request.fitted.known,
            request.seen_specs,
            may_code=False,
        )
    except (TypeError, ValueError) as error:
        others = sorted(n for n in values.keys() - stream.names if np.ndim(values[n].given))
        if isinstance(error, AimzError) or not others:
            raise
        msg = (
            f"The kernel does not run on the first rows of '{primary}': {error!s:.80}. If "
            f"'{others[0]}' has one value per row, name it in the batches."
        )
        raise InputError(msg, code="batch-names") from error
    presence = _check_values(request, inputs, spec, arguments.columns, by_piece=True)
    return arguments, spec, _left_out(presence) if presence else ()


def _check_values(
    request: Request,
    inputs: Inputs,
    spec: KernelSpec,
    columns: Mapping[str, tuple[str, ...]],
    natural: Given | None = None,
    *,
    by_piece: bool = False,
) -> Presence | None:
    """Refuse numbers that are not finite, except outcomes that may be missing, and some are.

    Those that a scenario leaves as they are have been looked at with the `natural` inputs.
    """
    output, arrays = request.names[1], inputs.arrays
    seen = {} if natural is None else natural.arguments.arrays
    new = {n: v for n, v in arrays.items() if n != output and v is not seen.get(n)}
    check_finite(new, columns)
    if output not in arrays:
        return None
    outcome = np.asarray(arrays[output])
    if by_piece and request.missing == "mask" and outcome.dtype.kind == "f":
        outcome = outcome.copy()
        outcome[: len(outcome) > 1] = np.nan  # those of later rows may be missing
    there = check_outcome(outcome, request.missing, output)
    check_outcomes(request.kernel, inputs, is_fit=False)
    if there is None:
        return None
    arrays = {**arrays, output: outcome}
    return presence_of(request.kernel, replace(inputs, arrays=arrays), spec, there)


def _tile_check(
    request: Request, arguments: Arguments, spec: KernelSpec
) -> Callable[[Mapping[str, Any], int, Casts], None]:
    """What the rows of every tile must keep to, as the head has: finite, and within tables."""
    by_row = spec.row_inputs | set(request.names)
    fitted = _row_hashes(request, spec)
    lookups = tuple(lookup for lookup in spec.lookups if lookup.arguments & by_row)
    totals = tuple(total for total in spec.totals if total.value.arguments & by_row)
    looks = bool(lookups or totals)
    # It may travel: of the request and the arguments it holds what it needs.
    primary, output = request.names
    may_lack = output if request.missing == "mask" else ""
    names, columns, of_head = frozenset(arguments.arrays), arguments.columns, arguments.rows
    tables = arguments.arrays if looks else {}

    def check(rows: Mapping[str, Any], first: int, casts: Casts) -> None:
        read = {n: v for n, v in rows.items() if n in names}
        finite = {n: np.where(np.isnan(v), 0, v) for n, v in read.items() if n == may_lack}
        check_finite({**read, **finite}, columns, first)
        count = len(rows[primary])
        for name in fitted.keys() & rows.keys():
            if not np.array_equal(row_hashes(rows[name]), fitted[name][first : first + count]):
                raise _not_fitted(name)
        for start in range(0, count if looks else 0, of_head):
            index = np.minimum(np.arange(start, start + of_head), count - 1)
            parts = {n: v[index] for n, v in read.items()}
            arrays = {**tables, **parts}
            check_whole_numbers(lookups, totals, arrays, first=first + start, casts=casts)

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
    values: Mapping[str, Value], names: tuple[str, str], spec: KernelSpec, stream: Stream
) -> None:
    """Refuse row arguments that are not read with the rows, or that are but do not belong there."""
    primary, output = names
    strays = sorted(stream.names - spec.row_inputs - set(names))
    if strays:
        msg = (
            f"The batches name '{strays[0]}', which the kernel does not read row by row. Pass it "
            "to the method by name."
        )
        raise InputError(msg, code="batch-names")
    _check_none_apart(values, primary, spec.row_inputs | {output}, stream)
    if output in stream.names:
        _check_outcomes(stream.head[output], spec, len(stream.head[output]))


def _check_none_apart(
    values: Mapping[str, Value], primary: str, by_row: frozenset[str], stream: Stream
) -> None:
    """Refuse arguments of rows at hand beside rows that are not, with whose head they compare."""
    apart = {name for name in by_row - stream.names if is_given(values, name)}
    for name in sorted(name for name in apart if np.ndim(values[name].given)):
        msg = (
            f"'{primary}' is read by the piece, so '{name}' must be: name it in the batches, or "
            "pass the name of its column in the file."
        )
        raise InputError(msg, code="batch-names")


def _in_memory(
    request: Request,
    values: Mapping[str, Value],
    natural: Given | None = None,
    labels: np.ndarray | None = None,
) -> Given:
    primary, output = request.names
    if request.conditions:
        _check_outcome_given(request, values)
    named = {n: v for n, v in values.items() if n != output or request.conditions}
    places, arguments = _rejoined(request, named, natural, labels)
    own = values_of({**arguments.arrays, **arguments.static}) if arguments else named
    bound, inputs, spec = inspected(
        request.kernel, request.names, own, request.fitted.known, request.seen_specs
    )
    arguments = arguments or bound
    larger = None
    if request.new_groups == "prior":
        larger = with_larger_plates(request.kernel, spec, arguments.arrays)
        if larger is not None:
            _, inputs, spec = inspected(larger, request.names, own, request.fitted.known)
    elif request.fitted.known.wholes:
        request.fitted.known.check_wholes(arguments.arrays)
    if spec.misfit is not None and request.fitted.spec is None:  # else the fit has shown them so
        raise InputError(spec.misfit[0], code=spec.misfit[1])
    presence = _check_values(request, inputs, spec, arguments.columns, natural)
    way_out = "new_groups='prior' to draw new groups"
    if spec.lookups or spec.totals:
        check_whole_numbers(spec.lookups, spec.totals, arguments.arrays, way_out=way_out)
    arguments, outcome = _with_outcome(request, values.get(output), arguments, spec, places)
    notes = _notes(request, arguments)
    if spec.coupled and places is None and natural is None:
        notes = (*notes, *rows_notes(request, arguments, spec))
    return Given(
        arguments,
        spec,
        arguments.arrays[primary],
        settings_of(request, arguments, spec),
        AtHand(arguments.rows, arguments.labels),
        observed=outcome if output in spec else None,
        notes=(*(_left_out(presence) if presence else ()), *notes),
        missing=presence is not None,
        kept=places,
        kernel=larger,
    )


def _with_outcome(
    request: Request,
    outcome: Value | None,
    arguments: Arguments,
    spec: KernelSpec,
    places: np.ndarray | None,
) -> tuple[Arguments, np.ndarray | None]:
    """Arguments, and outcomes in the order of the rows, to be kept beside a prediction of them.

    Densities are computed in double precision, so an outcome that is one number keeps its digits
    there, unless it is a row among the fitted ones, which have another scale.
    """
    if outcome is None or outcome.given is None:
        return arguments, None
    primary, output = request.names
    own = outcome.in_columns(request.fitted.known.names(output, outcome.columns))
    lined = arguments.lined({output: own}, primary)[output]
    _check_outcomes(lined.seen, spec, arguments.rows)
    is_data = request.conditions and places is None
    # Whole numbers may be what the kernel needs.
    if is_data and lined.rounded is not None and arguments.arrays[output].dtype == np.float32:
        arrays = {**arguments.arrays, output: np.asarray(lined.array)}
        return replace(arguments, arrays=arrays), lined.seen
    return arguments, lined.seen


def _rejoined(
    request: Request,
    values: Mapping[str, Value],
    natural: Given | None,
    labels: np.ndarray | None,
) -> tuple[np.ndarray | None, Arguments | None]:
    """Numbers of the call's rows among the fitted ones, and arguments of all of these; or None.

    `labels` are those of rows that were read by the piece.
    """
    fitted = request.fitted
    if fitted.spec is None or not fitted.spec.coupled or not is_given(values, request.names[0]):
        return None, None
    by_row = fitted.spec.row_inputs - as_fitted(request, values)
    known = replace(fitted.known, row_inputs=by_row)
    own, _ = _bound(request.kernel, request.names, values, known, by_row)
    own = own if labels is None else replace(own, labels=labels)
    places = among_the_fitted(request, own) if natural is None else natural.kept
    if places is None:
        return None, None
    return places, replace(own, arrays=rejoined(request, own, places))


def _notes(request: Request, arguments: Arguments) -> tuple[Note, ...]:
    """What is said of columns that have lost their names since the fit."""
    named = request.fitted.known.named.keys()
    lost = sorted((named & arguments.arrays.keys()) - arguments.columns.keys())
    if not lost:
        return ()
    text = (
        f"'{lost[0]}' has no column names, but the model was fitted with names. Its columns are "
        "taken in the fitted order."
    )
    return (Note(OutputWarning, text, "columns-unnamed"),)


def _check_outcomes(outcomes: np.ndarray, spec: KernelSpec, rows: int) -> None:
    """Refuse outcomes that are not shaped like the site that they are kept beside."""
    if spec.output not in spec:
        return
    site = spec[spec.output]
    shape = list(site.shape)
    if site.follows_rows:
        shape[site.axis] = rows
    if not site.follows_rows or np.moveaxis(outcomes, 0, site.axis).shape != (*shape,):
        msg = (
            f"'{site.name}' has shape {outcomes.shape}, but the site has shape {(*shape,)}. Pass "
            "one outcome per row, of the site's shape."
            if site.follows_rows
            else f"Site '{site.name}' has shape {(*shape,)}, not a value for each of {rows} rows: "
            "its densities are no row's. Observe every row in the kernel; give the first ones a "
            "law of their own, or a mask."
        )
        raise InputError(msg, code="shape")
