"""Outcomes that are no quantities: categories and angles, as what can be averaged and compared.

A category without an order is averaged as the share of each category, an angle as its cosine and
sine: its average is the direction of the mean vector (Mardia and Jupp, 2000, "Directional
statistics"), and the difference of two is a turn between -pi and pi.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aimz.effects.question import Question
from aimz.errors import InputError
from aimz.families import turn
from aimz.kernel import SiteSpec

__all__ = ["directions", "for_site", "is_measured", "measured"]


def for_site(question: Question, site: SiteSpec) -> Question:
    """A question whose differences are turns, where the site is an angle.

    Raises
    ------
    InputError
        `not-quantity`: a ratio of angles.
    """
    if not site.is_angle:
        return question
    if question.comparison in ("ratio", "lift", "odds_ratio"):
        msg = (
            f"'{site.name}' is an angle, of which there are differences and no ratios. Ask for "
            "comparison='difference'."
        )
        raise InputError(msg, code="not-quantity")
    return replace(question, compare=turn) if question.comparison == "difference" else question


def is_measured(question: Question, site: SiteSpec) -> bool:
    """Whether outcomes of a site must be turned into what can be averaged."""
    return question.target == "prediction" and (site.is_angle or site.categories > 0)


def measured(
    question: Question, site: SiteSpec, values: Mapping[Any, np.ndarray]
) -> dict[Any, np.ndarray]:
    """Outcomes (row, draw, ...) with a last axis of categories, or of cosine and sine."""
    if not is_measured(question, site):
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
