"""Rows of a kernel whose rows interact, asked about without the others.

Some of the fitted rows, or all in another order, mean what they meant in the fit only beside the
others: a walk goes on from the rows before, an area leans on its neighbours. So the whole fitted
set runs, with the call's values in the place of the fitted ones, and the rows asked for are
returned. Rows are recognised by label and value together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from aimz.arrays import Array
from aimz.data import Arguments, Value, index_of, row_hashes
from aimz.errors import InputError, Note, OutputWarning
from aimz.inference import Problem
from aimz.kernel import KernelSpec
from aimz.libraries import pd
from aimz.prediction.request import Request, Use

__all__ = [
    "among_the_fitted",
    "as_fitted",
    "check_by_row",
    "check_settings",
    "differ",
    "found",
    "own_labels",
    "rejoined",
    "rows_notes",
]


def among_the_fitted(request: Request, arguments: Arguments) -> np.ndarray | None:
    """Where the rows of a call are among the fitted ones, if these have to run along; else None.

    Raises
    ------
    InputError
        `rows-together`: latents belong to rows that interact, and the fitted rows are not at hand.
    """
    fitted, spec = request.fitted, request.fitted.spec
    if spec is None or not spec.coupled or request.use != Use.PREDICT or not request.in_sample:
        return None
    primary = arguments.arrays[request.names[0]]
    then = fitted.hashes.get(request.names[0])
    if then is None or then.ndim == 0 or isinstance(primary, dict):
        return None
    now, labels = row_hashes(primary), own_labels(arguments)
    if np.array_equal(now, then) and not differ(labels, fitted.labels):
        return None
    places = found(now, then, labels, fitted.labels)
    if places is None or fitted.problem is not None:
        return places
    held = _of_rows(spec, request.fit.draws)
    if held:
        msg = (
            f"Rows interact, and site '{held[0]}' belongs to the fitted rows, of which these are a "
            "part or another order. A loaded model has no rows: pass all of them, in their order."
        )
        raise InputError(msg, code="rows-together")
    return None


def as_fitted(request: Request, arguments: Mapping[str, Value]) -> frozenset[str]:
    """Arguments as long as the fitted rows, unlike those of the call, which are the fitted ones."""
    fitted, (primary, _) = request.fitted, request.names
    if fitted.problem is None or len(arguments[primary].given) == fitted.rows:
        return frozenset()
    then = fitted.problem.inputs.arrays
    return frozenset(
        name
        for name in arguments.keys() & then.keys() - set(request.names)
        if np.shape(arguments[name].given) == np.shape(then[name])
        and np.ndim(arguments[name].given)
        and np.array_equal(arguments[name].array, then[name])
    )


def rejoined(request: Request, arguments: Arguments, places: np.ndarray) -> dict[str, Any]:
    """Arguments of all fitted rows, with the values of a call in the place of its rows.

    Raises
    ------
    InputError
        `rows-together`: rows that are asked about twice, or joined by other values than fitted.
    """
    fitted = request.fitted
    problem, spec = fitted.problem, fitted.spec
    assert problem is not None and spec is not None  # noqa: PT018, S101  # from the caller
    if len(np.unique(places)) < len(places):
        msg = "Rows that interact are asked about twice in one call. Ask about each of them once."
        raise InputError(msg, code="rows-together")
    by_row = spec.row_inputs | set(request.names)
    whole = dict(arguments.arrays)
    for name in whole.keys() & problem.inputs.arrays.keys():
        then = _seen(problem, name, request.names[1])
        if np.shape(whole[name])[:1] == (fitted.rows,) != (len(places),):
            whole[name] = _joined(name, then, whole[name], places)
        elif name in by_row and not isinstance(whole[name], dict):
            if np.shape(then)[1:] != np.shape(whole[name])[1:]:
                msg = (
                    f"'{name}' goes on after the fitted steps for some of the fitted rows, and "
                    "those interact with the others. Pass all fitted rows, with their steps."
                )
                raise InputError(msg, code="rows-together")
            whole[name] = _in_place(then, whole[name], places)
        elif _is_square(then, fitted.rows):
            whole[name] = _joined(name, then, whole[name], places)
    return whole


def _seen(problem: Problem, name: str, output: str) -> Any:
    """An argument as the fit saw it; an outcome that was there stands in for a missing one."""
    value = problem.inputs.arrays[name]
    if name != output or isinstance(value, dict) or np.asarray(value).dtype.kind != "f":
        return value
    there = np.isfinite(np.asarray(value))
    return value if there.all() else np.where(there, value, np.asarray(value)[there][0])


def _in_place(then: Array, now: Array, places: np.ndarray) -> np.ndarray:
    now = np.asarray(now)
    both = np.array(then, np.result_type(np.asarray(then).dtype, now.dtype))
    both[places] = now
    return both


def _is_square(value: Array, rows: int) -> bool:
    return not isinstance(value, dict) and np.shape(value)[:2] == (rows, rows)


def _joined(name: str, then: Array, now: Array, places: np.ndarray) -> Any:
    """A matrix of rows by rows: the fitted one, or its part for the rows of the call."""
    then, now = np.asarray(then), np.asarray(now)
    is_square = _is_square(then, len(then))
    of_these = then[np.ix_(places, places)] if is_square else then
    if np.array_equal(now, then) or np.array_equal(now, of_these):
        return then
    msg = (
        f"'{name}' joins the rows and is not the fitted one, while some of the fitted rows are "
        "asked about. Pass the fitted one, or all fitted rows in their order."
    )
    raise InputError(msg, code="rows-together")


def check_settings(spec: KernelSpec, names: Mapping[str, Any]) -> None:
    """Refuse to set a site of rows where the others run along: theirs would be set, too."""
    for name in names:
        if name in spec and spec[name].belongs_to_rows:
            msg = (
                f"Site '{name}' is set for some of the fitted rows, and the others, with which "
                "they interact, run along. Ask about all fitted rows, and pass a value for each."
            )
            raise InputError(msg, code="rows-together")


def check_by_row(names: Collection[str], results: KernelSpec) -> None:
    """Refuse a density of all rows at once, where it is asked for some of them."""
    for site in (results[name] for name in names):
        if site.kind == "observed" and not site.follows_rows:
            msg = (
                f"Site '{site.name}' has one density for all fitted rows together, of which these "
                "are some or another order. Pass all of them, in their order."
            )
            raise InputError(msg, code="rows-together")


def rows_notes(request: Request, arguments: Arguments, spec: KernelSpec) -> tuple[Note, ...]:
    """What is said of rows that interact and are not the fitted ones."""
    fitted = request.fitted
    if fitted.spec is None or spec.in_priors or request.use != Use.PREDICT:
        return ()
    by_row = (spec.row_inputs | {request.names[0]}) & arguments.arrays.keys()
    plain = sorted(n for n in by_row if not isinstance(arguments.arrays[n], dict))
    now = {n: row_hashes(arguments.arrays[n]) for n in plain if fitted.hashes.get(n) is not None}
    other = [n for n, hashes in now.items() if not _same(hashes, fitted.hashes[n])]
    pooled = [n for n in other if n in spec.pooled]
    if pooled:
        text = (
            f"The kernel computes a statistic of '{pooled[0]}' over the rows, and these are not "
            "the fitted ones: it is theirs, not the fit's. Compute it before, and pass the result."
        )
        return (Note(OutputWarning, text, "rows-statistic"),)
    primary = request.names[0]
    if not request.in_sample or primary not in other or _of_rows(spec, request.fit.draws):
        return ()
    if _same(now[primary][: fitted.rows], fitted.hashes[primary]):
        return ()
    text = (
        "Rows interact, and these are not the fitted ones: what those say of them is lost. Pass "
        "the fitted rows before these, or in_sample=False if they have nothing in common."
    )
    return (Note(OutputWarning, text, "rows-alone"),)


def _same(now: np.ndarray, then: np.ndarray) -> bool:
    return then.ndim == 0 or np.array_equal(now, then)


def _of_rows(spec: KernelSpec, draws: Mapping[str, Any]) -> list[str]:
    """Latents that the posterior holds and that belong to rows."""
    return [s.name for s in spec.sites if s.name in draws and s.belongs_to_rows]


def own_labels(arguments: Arguments) -> np.ndarray | None:
    """Labels of the rows, unless they only count them."""
    labels = arguments.labels
    counts = labels is not None and np.array_equal(labels, np.arange(arguments.rows))
    return None if counts else labels


def differ(labels: np.ndarray | None, fitted: np.ndarray | None) -> bool:
    """Whether rows have labels, and others than the fitted ones."""
    return labels is not None and fitted is not None and not np.array_equal(labels, fitted)


def found(
    now: np.ndarray, then: np.ndarray, labels: np.ndarray | None, fitted_labels: np.ndarray | None
) -> np.ndarray | None:
    """Where each row of `now` is in `then`; None where one is not, or may be in two places."""
    if labels is None or fitted_labels is None:
        return None
    index = index_of(fitted_labels)
    if index.is_unique:
        places = index.get_indexer(index_of(labels))
        is_there = bool((places >= 0).all()) and np.array_equal(then[places], now)
        return np.asarray(places) if is_there else None
    labelled = pd.MultiIndex.from_arrays([index, then])
    if not labelled.is_unique:
        return None
    places = labelled.get_indexer(pd.MultiIndex.from_arrays([index_of(labels), now]))
    return None if (places < 0).any() else np.asarray(places)
