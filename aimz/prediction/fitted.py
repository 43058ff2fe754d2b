"""What a fit remembers of its data, no rows, and how the rows of later calls are found in it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from aimz.arrays import Array
from aimz.data import Arguments, Known, row_fingerprint, row_hashes
from aimz.errors import InputError, Note, OutputWarning
from aimz.inference import Fit, Problem
from aimz.kernel import KernelSpec, coded_columns, read_signature
from aimz.overlap import Support, support_of
from aimz.prediction.request import Fitted, LateSupport
from aimz.programs import fingerprint_values

__all__ = ["argument_hashes", "check_same_data", "fitted_on", "has_fitted_rows", "located"]


def located(fitted: Fitted) -> tuple[Support | None, tuple[Note, ...]]:
    """Where the rows of a fit lie, if that can still be found out, and what to tell the user."""
    late = fitted.seen
    if not isinstance(late, LateSupport):
        return late, ()
    if late.found is None:
        for name, value in late.arrays.items():
            if not np.array_equal(_hashed(value, like=late.hashes[name]), late.hashes[name]):
                text = (
                    f"'{name}' has been changed in place since the fit, so where the fitted rows "
                    "lie is not known. Fit again, or pass fit a copy."
                )
                return None, (Note(OutputWarning, text, "support-lost"),)
        late.found = support_of(
            late.arrays, late.columns, leave_out=late.leave_out, codes=late.codes
        )
    return late.found, ()


def fitted_on(problem: Problem, arguments: Arguments, fit: Fit, steps: int = 0) -> Fitted:
    """What a fit leaves: its draws, and what later calls must know of its data, no rows."""
    inputs, spec = problem.inputs, problem.spec
    names = (inputs.always_rows[0], spec.output)
    by_row = (spec.row_inputs | {names[0]}) & inputs.arrays.keys() - {names[1]}
    shapes = {name: tuple(np.shape(inputs.arrays[name])[1:]) for name in by_row}
    hashes = _data_hashes(problem, arguments)
    wholes = {
        name: tuple(None if size == inputs.rows else size for size in np.shape(value))
        for name, value in inputs.arrays.items()
        if name not in by_row and name != names[1] and np.ndim(value) > 1
    }
    return Fitted(
        fit=fit,
        spec=spec,
        rows=inputs.rows,
        fingerprint=row_fingerprint(inputs.arrays[names[0]]),
        known=Known(
            frozenset(spec.row_inputs),
            arguments.columns,
            shapes,
            spec.spread,
            spec.inner_steps,
            wholes,
        ),
        hashes=hashes,
        labels=arguments.labels if _has_rows(spec) else None,
        steps=steps,
        seen=None if steps else _late_support(problem, arguments, hashes),  # a step sees its rows
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
            number = np.asarray(value, jax.dtypes.canonicalize_dtype(np.asarray(value).dtype))
            defaults[name] = np.broadcast_to(number, shape)
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


def has_fitted_rows(fitted: Fitted, arguments: Arguments, *, is_same: bool) -> bool:
    """Whether these are the fitted rows with their outcomes; in any order, where that says nothing.

    `is_same` is whether the rows are the fitted ones in their order, apart from the outcomes: all
    that is known where the rows of the fit are not at hand, or have been changed since.
    """
    spec = fitted.spec
    if spec is None:
        return is_same
    then = _rows_at_hand(fitted)
    if then is None or spec.coupled:
        outcomes, number = arguments.arrays.get(spec.output), fitted.hashes.get(spec.output)
        if outcomes is None or number is None:
            return is_same
        return is_same and np.array_equal(_hash(outcomes), number)
    always = fitted.problem.inputs.always_rows if fitted.problem else ()
    now = {name: arguments.arrays[name] for name in then if name in arguments.arrays}
    if now.keys() != then.keys():
        return False
    by_row = {n for n in then if len(np.atleast_1d(then[n])) == fitted.rows}
    by_row &= spec.row_inputs | {spec.output, *always}
    if any(not np.array_equal(then[n], now[n], equal_nan=True) for n in then.keys() - by_row):
        return False
    seen, asked = ([row_hashes(rows[n]) for n in sorted(by_row)] for rows in (then, now))
    return np.array_equal(_sorted_rows(seen), _sorted_rows(asked))


def _rows_at_hand(fitted: Fitted) -> Mapping[str, Array] | None:
    """The arguments of the fit, in the process that fitted, while nobody has changed them."""
    arrays = fitted.problem.inputs.arrays if fitted.problem else {}
    for name, value in arrays.items():
        number = fitted.hashes.get(name)
        if isinstance(value, dict) or number is None:
            return None
        if not np.array_equal(_hashed(value, like=number), number):
            return None
    return arrays or None


def _sorted_rows(columns: list[np.ndarray]) -> np.ndarray:
    rows = np.stack(columns, axis=1)
    return rows[np.lexsort(rows.T)]


def _late_support(
    problem: Problem, arguments: Arguments, hashes: Mapping[str, np.ndarray]
) -> LateSupport:
    """Where the rows of a fit lie, in the arguments that no site observes; not yet found."""
    inputs, spec = problem.inputs, problem.spec
    by_row = (spec.row_inputs | set(inputs.always_rows)) & inputs.arrays.keys()
    arrays = {n: inputs.arrays[n] for n in inputs.arrays if n in by_row}
    plain = {n: np.asarray(v) for n, v in arrays.items() if not isinstance(v, dict)}
    used = {n: v for n, v in plain.items() if n not in spec.observed_arguments}
    codes = coded_columns(spec.lookups, arguments.arrays)
    were = {n: hashes[n] for n in used}
    return LateSupport(used, arguments.columns, spec.observed_arguments, codes, were)


def _data_hashes(problem: Problem, arguments: Arguments) -> dict[str, np.ndarray]:
    """Numbers that stand for all that a fit sees, the outcome and the weights included."""
    names = (problem.inputs.always_rows[0], problem.spec.output)
    seen = {names[1]: arguments.arrays.get(names[1]), "sample_weight": problem.weights}
    hashes = {name: _hash(value) for name, value in seen.items() if value is not None}
    return {**argument_hashes(arguments, problem.spec, names, problem.kernel), **hashes}


def _hash(value: Array) -> np.ndarray:
    return np.array(int(fingerprint_values(value)[:16], 16), np.uint64)


def _hashed(value: Array, *, like: np.ndarray) -> np.ndarray:
    """What stands for an argument, or for each of its rows."""
    return row_hashes(value) if like.ndim else _hash(value)


def _has_rows(spec: KernelSpec) -> bool:
    """Whether latents belong to rows, or rows interact, so that a fit must know its rows again."""
    return spec.coupled or any(site.kind == "latent" and site.rows != "none" for site in spec.sites)
