"""Effects: what is asked, how tiles are reduced to it, and the answer."""

from aimz.effects.abduction import Noise, abduce, coupling_of, replay, success_of
from aimz.effects.measures import directions, for_site, is_measured, measured
from aimz.effects.question import (
    Question,
    Rows,
    compared,
    derived,
    in_arm,
    question_of,
    rows_of,
)
from aimz.effects.reduction import Reduction, RowSummary, Share
from aimz.effects.result import Effect
from aimz.effects.scenarios import (
    Natural,
    Split,
    changes_of,
    check_resolved,
    split_scenario,
)
from aimz.effects.wording import Compared, in_words

__all__ = [
    "Compared",
    "Effect",
    "Natural",
    "Noise",
    "Question",
    "Reduction",
    "RowSummary",
    "Rows",
    "Share",
    "Split",
    "abduce",
    "changes_of",
    "check_resolved",
    "compared",
    "coupling_of",
    "derived",
    "directions",
    "for_site",
    "in_arm",
    "in_words",
    "is_measured",
    "measured",
    "question_of",
    "replay",
    "rows_of",
    "split_scenario",
    "success_of",
]
