"""What an effect hands to `aimz.decisions`: draws of what treating each row or group gains."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

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
    sizes: ArrayLike | None,
    features: pd.DataFrame | None,
) -> Gains:
    """Net gains of each row or group, whose shares of the rows must be known.

    Raises
    ------
    InputError
        `effect-scale`, `effect-several`, `rows-mismatch`.
    """
    if effect.question.comparison != "difference":
        msg = "Gains are differences. Ask for the effect by comparison='difference'."
        raise InputError(msg, code="effect-scale")
    dims = [str(dim) for dim in effect.draws.dims if dim not in ("chain", "draw")]
    if len(dims) > 1 or "contrast" in dims:
        msg = f"A decision is of one contrast and one outcome, not of {' by '.join(dims)}."
        raise InputError(msg, code="effect-several")
    draws = effect.draws.transpose(*dims, "chain", "draw").to_numpy()
    draws = draws if dims else draws[None]
    labels = labels_of(effect.draws, dims[0]) if dims else ["everybody"]
    if sizes is None and dims and effect.question.meaning.unit != "row":
        msg = "Pass sizes=, the number of rows in each group: an effect by group does not hold it."
        raise InputError(msg, code="rows-mismatch")
    mass = np.ones(len(draws)) if sizes is None else np.asarray(sizes, np.float64)
    costs = np.asarray(cost, np.float64)
    if costs.shape not in ((), (len(draws),)):
        msg = f"cost= is one number, or one for each of the {len(draws)} rows or groups."
        raise InputError(msg, code="rows-mismatch")
    if mass.shape != (len(draws),) or not (mass >= 0).all() or not mass.sum() > 0:
        msg = f"sizes= has one number of rows for each of the {len(draws)} groups."
        raise InputError(msg, code="rows-mismatch")
    if features is not None and len(features) != len(draws):
        msg = f"features= has {len(features)} rows, and the effect {len(draws)}."
        raise InputError(msg, code="rows-mismatch")
    return Gains(draws, mass / mass.sum(), labels, features, value, costs)
