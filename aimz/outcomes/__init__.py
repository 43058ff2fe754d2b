"""Observed outcomes: which of their elements count, and which values are possible."""

from aimz.outcomes.possible import check_outcomes, check_reachable
from aimz.outcomes.presence import (
    Presence,
    completed,
    densities_of,
    filled,
    is_there,
    part_of,
    presence_of,
)

__all__ = [
    "Presence",
    "check_outcomes",
    "check_reachable",
    "completed",
    "densities_of",
    "filled",
    "is_there",
    "part_of",
    "presence_of",
]
