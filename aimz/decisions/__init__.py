"""Whom to treat: how well scores rank rows, and which rule has the greatest expected utility.

The law: rankings are judged on rows that were randomised and not fitted, and intervals carry both
what the posterior does not know of the scores and what a finite sample does not know of the rows.
"""

from aimz.decisions.policies import Decision, Gains, decision_of
from aimz.decisions.ranking import (
    RANKINGS,
    auuc_score,
    calibration,
    qini_score,
    rank_scores,
    rate_of_effects,
    rate_score,
    toc_curve,
    uplift_at,
)

__all__ = [
    "RANKINGS",
    "Decision",
    "Gains",
    "auuc_score",
    "calibration",
    "decision_of",
    "qini_score",
    "rank_scores",
    "rate_of_effects",
    "rate_score",
    "toc_curve",
    "uplift_at",
]
