"""The same question of another fit: of changed rows, from a clean start, with the same settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from aimz.effects import Behind, Change, Effect
from aimz.libraries import pd
from aimz.model.asking import Asked
from aimz.model.fitting import Data, fit
from aimz.model.setup import Setup
from aimz.prediction import Fitted, Use

__all__ = ["behind_of"]


def behind_of(
    setup: Setup, asked: Asked, model: Callable[..., Any], given: Mapping[str, Any]
) -> Behind | None:
    """What is behind an effect that `effect` of a model was asked with `given` for."""
    fitted, natural = asked.request.fitted, asked.scenarios.natural
    if fitted.problem is None:
        return None
    is_same = fitted.fingerprint == natural.fingerprint and natural.rows == fitted.rows
    again = partial(_again, setup, model, given, fitted, is_same)
    may_refit = not fitted.by_hand and fitted.course is not None
    return Behind(fitted.problem, fitted.known.columns, again, is_same, may_refit)


def _again(
    setup: Setup,
    model: Callable[..., Any],
    given: Mapping[str, Any],
    fitted: Fitted,
    is_same: bool,  # noqa: FBT001  # bound by position
    change: Change | None,
) -> Effect:
    """Fit the problem of a fit with a change, and ask for the same effect."""
    change = Change() if change is None else change
    kernel = setup.kernel if change.kernel is None else change.kernel
    setup = replace(setup, kernel=kernel)
    problem, course = fitted.problem, fitted.course
    assert problem is not None and course is not None  # noqa: S101, PT018  # asked by `may_refit`
    arguments = {**problem.inputs.static, **_framed(problem.inputs.arrays, fitted, change.arrays)}
    weights = problem.weights
    if change.weights is not None:
        weights = change.weights if weights is None else np.asarray(weights) * change.weights
    missing = "raise" if problem.presence is None else "mask"
    key = setup.key(None, Use.FIT, change.number)
    settings = replace(course, progress=False)
    with warnings.catch_warnings():  # they were shown of the fit itself
        warnings.simplefilter("ignore")
        refitted, _ = fit(setup, Data(arguments, weights, missing), settings, key, None, "warn")
        names: Any = dict(zip(("param_input", "param_output"), setup.names, strict=True))
        labels: Any = {"coords": setup.coords, "dims": setup.dims, "num_samples": setup.num_samples}
        other = model(kernel, setup.rng_key, setup.inference, **names, **labels)
        other._fitted = refitted  # noqa: SLF001  # a model of our own
        effect: Effect = other.effect(**_options(setup, given, change, arguments, is_same))
    return effect


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
    options |= {**change.options, "progress": False, "rng_key": None}
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
