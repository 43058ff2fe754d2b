"""What an effect hands to `aimz.decisions`: draws of what treating each row or group gains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aimz.choices import number_of
from aimz.data import Value, lined_up, values_of
from aimz.decisions import Gains
from aimz.effects.robustness import Answer
from aimz.effects.wording import labels_of
from aimz.errors import InputError
from aimz.libraries import pd

__all__ = ["gains_of"]


def gains_of(
    effect: Answer,
    value: float,
    cost: ArrayLike,
    sizes: ArrayLike | Mapping[Any, float] | None,
    features: pd.DataFrame | ArrayLike | None,
) -> Gains:
    """Net gains of each row or group, whose shares of the rows must be known.

    What has labels is put in the order of the effect's, as far as it has any.

    Raises
    ------
    InputError
        `effect-scale`, `effect-several`, `rows-mismatch`, `row-labels`, `not-numeric`.
    """
    dims = _dims_of(effect)
    draws = effect.draws.transpose(*dims, "chain", "draw").to_numpy()
    draws = draws if dims else draws[None]
    labels = labels_of(effect.draws, dims[0]) if dims else ["everybody"]
    if sizes is None and dims and effect.question.meaning.unit != "row":
        msg = "Pass sizes=, the number of rows in each group: an effect by group does not hold it."
        raise InputError(msg, code="rows-mismatch")
    sizes = pd.Series(sizes) if isinstance(sizes, Mapping) else sizes
    lined = values_of({"cost": cost, "sizes": sizes, "features": features})
    if dims and dims[0] in effect.draws.coords:
        lined = lined_up(lined, effect.draws[dims[0]].values, len(draws), "effect")
    mass = np.ones(len(draws)) if sizes is None else _numbers(lined["sizes"])
    costs = _numbers(lined["cost"])
    if costs.shape not in ((), (len(draws),)):
        msg = f"cost= is one number, or one for each of the {len(draws)} rows or groups."
        raise InputError(msg, code="rows-mismatch")
    if mass.shape != (len(draws),) or not (mass >= 0).all() or not mass.sum() > 0:
        msg = f"sizes= has one number of rows for each of the {len(draws)} groups."
        raise InputError(msg, code="rows-mismatch")
    table = None if features is None else _table(lined["features"], len(draws))
    worth = number_of(value, "value=")
    return Gains(draws, mass / mass.sum(), labels, table, worth, costs)


def _dims_of(effect: Answer) -> list[str]:
    """The dimension of rows or groups, where there is one."""
    if effect.question.comparison != "difference":
        msg = "Gains are differences. Ask for the effect by comparison='difference'."
        raise InputError(msg, code="effect-scale")
    dims = [str(dim) for dim in effect.draws.dims if dim not in ("chain", "draw")]
    if len(dims) > 1 or "contrast" in dims:
        msg = f"A decision is of one contrast and one outcome, not of {' by '.join(dims)}."
        raise InputError(msg, code="effect-several")
    return dims


def _numbers(value: Value) -> np.ndarray:
    return np.asarray(value.array, np.float64)


def _table(features: Value, rows: int) -> pd.DataFrame:
    """Numbers that a tree may split on, with the names of their columns."""
    array = _numbers(features)
    if array.ndim != 2 or len(array) != rows:
        msg = f"features= has shape {array.shape}, and the effect {rows} rows. Pass one per row."
        raise InputError(msg, code="rows-mismatch")
    names = features.columns or [f"feature {place}" for place in range(array.shape[1])]
    return pd.DataFrame(array, columns=list(names))
