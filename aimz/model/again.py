"""The same question of another fit: of changed rows, from a clean start, with the same settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from aimz.data import Arguments
from aimz.effects import Behind, Change, Effect, changes_of
from aimz.inference import Fit
from aimz.libraries import pd
from aimz.model.asking import Asked
from aimz.model.fitting import Data, fit
from aimz.model.setup import Setup
from aimz.prediction import Fitted, Use, check_same_data

__all__ = ["behind_of"]


def behind_of(
    setup: Setup, asked: Asked, model: Callable[..., Any], given: Mapping[str, Any]
) -> Behind | None:
    """What is behind an effect that `effect` of a model was asked with `given` for."""
    fitted, natural = asked.request.fitted, asked.scenarios.natural
    if fitted.problem is None:
        return None
    inputs = fitted.problem.inputs  # maybe the user's own arrays, changed in place since
    now = Arguments(inputs.arrays, inputs.static, inputs.rows, None)
    check_same_data(fitted, fitted.problem, now)
    is_same = fitted.fingerprint == natural.fingerprint and natural.rows == fitted.rows
    again = partial(_again, setup, model, given, fitted, is_same)
    may_refit = not fitted.by_hand and fitted.course is not None
    changes = changes_of(given["baseline"], given["intervention"], given["scenarios"])
    return Behind(fitted.problem, fitted.known.columns, again, is_same, may_refit, changes)


def _again(
    setup: Setup,
    model: Callable[..., Any],
    given: Mapping[str, Any],
    fitted: Fitted,
    is_same: bool,  # noqa: FBT001  # bound by position
    change: Change,
) -> Effect:
    """Fit the problem of a fit with a change, and ask for the same effect."""
    kernel = setup.kernel if change.kernel is None else change.kernel
    problem = fitted.problem
    assert problem is not None  # noqa: S101  # else there is nothing behind the effect
    arguments = {**problem.inputs.static, **_framed(problem.inputs.arrays, fitted, change.arrays)}
    if change.draws is not None:
        fitted = replace(fitted, fit=_some_draws(fitted.fit, change.draws))
    with warnings.catch_warnings():  # they were shown of the fit itself
        warnings.simplefilter("ignore")
        if change.draws is None:
            fitted = _refitted(replace(setup, kernel=kernel), fitted, arguments, change)
        names: Any = dict(zip(("param_input", "param_output"), setup.names, strict=True))
        labels: Any = {"coords": setup.coords, "dims": setup.dims, "num_samples": setup.num_samples}
        other = model(kernel, setup.rng_key, setup.inference, **names, **labels)
        other._fitted = fitted  # noqa: SLF001  # a model of our own
        effect: Effect = other.effect(**_options(setup, given, change, arguments, is_same))
    return effect


def _refitted(setup: Setup, fitted: Fitted, arguments: Mapping[str, Any], change: Change) -> Fitted:
    """A fit of changed data from a clean start, with the settings of another."""
    problem, course = fitted.problem, fitted.course
    assert problem is not None and course is not None  # noqa: S101, PT018  # asked by `may_refit`
    weights = problem.weights
    if change.weights is not None:
        weights = change.weights if weights is None else np.asarray(weights) * change.weights
    missing = "raise" if problem.presence is None else "mask"
    key = setup.key(None, Use.FIT, change.number)
    data, settings = Data(arguments, weights, missing), replace(course, progress=False)
    return fit(setup, data, settings, key, None, "warn")[0]


def _some_draws(whole: Fit, count: int) -> Fit:
    """Some draws of a fit, spread evenly over them, as one chain."""
    if not whole.draws:
        return whole
    chains, draws = next(iter(whole.draws.values())).shape[:2]
    places = np.linspace(0, chains * draws - 1, min(count, chains * draws)).astype(int)
    taken = {
        name: np.asarray(values).reshape(1, chains * draws, *np.shape(values)[2:])[:, places]
        for name, values in whole.draws.items()
    }
    return whole.with_draws(taken)


def _framed(
    arrays: Mapping[str, Any], fitted: Fitted, changed: Mapping[str, Any]
) -> dict[str, Any]:
    """Arrays of a fit, some changed, with the names of their columns."""
    columns = fitted.known.columns
    return {
        name: pd.DataFrame(np.asarray(values), columns=list(columns[name]))
        if name in columns and np.ndim(values) == 2
        else values
        for name, values in {**arrays, **changed}.items()
    }


def _options(
    setup: Setup,
    given: Mapping[str, Any],
    change: Change,
    arguments: Mapping[str, Any],
    is_same: bool,  # noqa: FBT001  # one of the facts
) -> dict[str, Any]:
    """What `effect` is called with again: what was given, of the changed rows where they are."""
    primary, output = setup.names
    options = {n: v for n, v in given.items() if n not in ("self", "kwargs", "progress")}
    options["inputs"] = {**given["kwargs"], **(given["inputs"] or {})}
    options |= {"progress": False, **change.options}
    if change.draws is not None:  # of the rows of the fit, wherever it was asked
        of_fit = {n: arguments[n] for n in options["inputs"] if n in arguments and n != output}
        return options | {"X": arguments[primary], "inputs": options["inputs"] | of_fit}
    if not is_same:
        return options
    own = {n: arguments[n] for n in change.arrays if n not in (primary, output)}
    options["inputs"] |= own
    if primary in change.arrays:
        options["X"] = arguments[primary]
    if output in change.arrays and options["y"] is not None:
        options["y"] = arguments[output]
    if change.weights is not None:
        own_weights = options["weights"]
        options["weights"] = change.weights if own_weights is None else own_weights * change.weights
    return options
