"""Comparisons of outcomes: differences, ratios, odds, and what is derived from them.

Outcomes that are no quantities are first made what can be averaged and compared. A category without
an order is averaged as the share of each category, an angle as its cosine and sine: its average is
the direction of the mean vector (Mardia and Jupp, 2000, "Directional statistics"), and the
difference of two is a turn between -pi and pi.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aimz.errors import InputError
from aimz.families import turn
from aimz.kernel import SiteSpec

__all__ = [
    "COMPARISONS",
    "Comparison",
    "Derived",
    "comparison_at",
    "directions",
    "is_measured",
    "measured",
    "not_kept",
]


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


def comparison_at(site: SiteSpec, comparison: str, compare: Comparison) -> Comparison:
    """How values of a site are compared: differences of angles are turns.

    Raises
    ------
    InputError
        `not-quantity`: a ratio of angles.
    """
    if not site.is_angle:
        return compare
    if comparison in ("ratio", "lift", "odds_ratio"):
        msg = (
            f"'{site.name}' is an angle, of which there are differences and no ratios. Ask for "
            "comparison='difference'."
        )
        raise InputError(msg, code="not-quantity")
    return turn if comparison == "difference" else compare


def is_measured(target: str, site: SiteSpec) -> bool:
    """Whether outcomes of a site must be turned into what can be averaged."""
    return target == "prediction" and (site.is_angle or site.categories > 0)


def measured(
    target: str, site: SiteSpec, values: Mapping[Any, np.ndarray]
) -> dict[Any, np.ndarray]:
    """Outcomes (row, draw, ...) with a last axis of categories, or of cosine and sine."""
    if not is_measured(target, site):
        return dict(values)
    if site.is_angle:
        return {n: np.stack([np.cos(v), np.sin(v)], -1) for n, v in values.items()}
    codes = np.arange(site.categories)
    return {n: v[..., None] == codes for n, v in values.items()}


def directions(site: SiteSpec, averages: Mapping[Any, np.ndarray]) -> dict[Any, np.ndarray]:
    """Averages, as angles where the site is one."""
    if not site.is_angle:
        return dict(averages)
    return {n: np.arctan2(v[..., 1], v[..., 0]) for n, v in averages.items()}
