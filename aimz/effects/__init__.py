"""Effects: what is asked, how tiles are reduced to it, and the answer."""

from aimz.effects.question import (
    Question,
    Rows,
    changes_of,
    compared,
    in_arm,
    question_of,
    rows_of,
    split_scenario,
)
from aimz.effects.reduction import Reduction, Share
from aimz.effects.result import Effect

__all__ = [
    "Effect",
    "Question",
    "Reduction",
    "Rows",
    "Share",
    "changes_of",
    "compared",
    "in_arm",
    "question_of",
    "rows_of",
    "split_scenario",
]
