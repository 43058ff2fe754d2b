"""Comparisons of outcomes: differences, ratios, odds, and what is derived from them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aimz.errors import InputError

__all__ = ["COMPARISONS", "Comparison", "Derived", "not_kept"]


# A share nearer to 1 has odds that rounding moves by more than a thousandth.
_RESOLVED = 1e3 * np.finfo(np.float64).epsneg


type Comparison = Callable[[np.ndarray, np.ndarray], np.ndarray]
type Derived = Callable[[Mapping[Any, np.ndarray]], np.ndarray]


def _odds(share: np.ndarray) -> np.ndarray:
    if np.any((share <= 0) | (share >= 1)):
        msg = (
            "An odds ratio needs probabilities between 0 and 1, and an average outcome is "
            f"{float(share[(share <= 0) | (share >= 1)].flat[0]):.3g}. Use comparison='difference'."
        )
        raise InputError(msg, code="not-probability")
    if np.any(1 - share < _RESOLVED):
        msg = (
            "An average outcome is so near 1 that its odds are lost in rounding. Swap the codes 0 "
            "and 1 of the outcome and ask again: near 0 they are kept."
        )
        raise InputError(msg, code="not-probability")
    odds: np.ndarray = share / (1 - share)
    return odds


def _ratio(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    if np.any(old == 0):
        msg = "The baseline's total is 0 in a draw, so there is no ratio. Compare by 'difference'."
        raise InputError(msg, code="ratio-undefined")
    ratio: np.ndarray = new / old
    return ratio


def _difference(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.asarray(new - old)


def _lift(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.asarray(_ratio(new, old) - 1.0)


def _odds_ratio(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.asarray(_odds(new) / _odds(old))


def not_kept(*averages: np.ndarray) -> np.ndarray:
    """Stand for a comparison that a pickle does not keep."""
    del averages
    msg = "A pickled effect does not keep its comparison, which was a function. Compare anew."
    raise InputError(msg, code="comparison-absent")


COMPARISONS: dict[str, tuple[Comparison, float]] = {
    "difference": (_difference, 0.0),
    "ratio": (_ratio, 1.0),
    "lift": (_lift, 0.0),
    "odds_ratio": (_odds_ratio, 1.0),
}
