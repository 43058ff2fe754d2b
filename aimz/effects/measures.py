"""Outcomes that are no quantities: categories and angles, as what can be averaged and compared.

A category without an order is averaged as the share of each category, an angle as its cosine and
sine: its average is the direction of the mean vector (Mardia and Jupp, 2000, "Directional
statistics"), and the difference of two is a turn between -pi and pi.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpyro.distributions import constraints

from aimz.effects.question import Question
from aimz.errors import InputError
from aimz.spec import SiteSpec

__all__ = ["directions", "for_site", "is_measured", "measured"]

# Without an order: a difference of ordered codes counts the steps between them.
_CATEGORIES = ("CategoricalLogits", "CategoricalProbs")


def for_site(question: Question, site: SiteSpec) -> Question:
    """A question whose differences are turns, where the site is an angle.

    Raises
    ------
    InputError
        `not-quantity`: a ratio of angles.
    """
    if not _is_angle(site):
        return question
    if question.comparison in ("ratio", "lift", "odds_ratio"):
        msg = (
            f"'{site.name}' is an angle, of which there are differences and no ratios. Ask for "
            "comparison='difference'."
        )
        raise InputError(msg, code="not-quantity")
    return replace(question, compare=_turn) if question.comparison == "difference" else question


def is_measured(question: Question, site: SiteSpec) -> bool:
    """Whether outcomes of a site must be turned into what can be averaged."""
    return question.target == "prediction" and (_is_angle(site) or _categories(site) > 0)


def measured(
    question: Question, site: SiteSpec, values: Mapping[Any, np.ndarray]
) -> dict[Any, np.ndarray]:
    """Outcomes (row, draw, ...) with a last axis of categories, or of cosine and sine."""
    if not is_measured(question, site):
        return dict(values)
    if _is_angle(site):
        return {n: np.stack([np.cos(v), np.sin(v)], -1) for n, v in values.items()}
    codes = np.arange(_categories(site))
    return {n: v[..., None] == codes for n, v in values.items()}


def directions(site: SiteSpec, averages: Mapping[Any, np.ndarray]) -> dict[Any, np.ndarray]:
    """Averages, as angles where the site is one."""
    if not _is_angle(site):
        return dict(averages)
    return {n: np.arctan2(v[..., 1], v[..., 0]) for n, v in averages.items()}


def _is_angle(site: SiteSpec) -> bool:
    return isinstance(site.support, type(constraints.circular))


def _categories(site: SiteSpec) -> int:
    """Number of categories of a site; 0 where its values are numbers."""
    if site.bounds is None or site.law.partition("(")[0] not in _CATEGORIES:
        return 0
    return int(site.bounds[1]) + 1


def _turn(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    turned: np.ndarray = (new - old + np.pi) % (2 * np.pi) - np.pi
    return turned
