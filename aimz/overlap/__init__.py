"""Where the fitted rows lie, and which rows of a scenario lie outside."""

from aimz.overlap.propensity import Score
from aimz.overlap.region import Outside, Support, merged, outside, scores_of, sentence, support_of

__all__ = [
    "Outside",
    "Score",
    "Support",
    "merged",
    "outside",
    "scores_of",
    "sentence",
    "support_of",
]
