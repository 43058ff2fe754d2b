"""Effects: what is asked, how tiles are reduced to it, and the answer."""

from aimz.effects.behind import Behind, Change
from aimz.effects.changes import changes_of
from aimz.effects.impact import Impact
from aimz.effects.one_pass import effect_of
from aimz.effects.population import Rows, about
from aimz.effects.question import Question, question_of
from aimz.effects.result import Effect
from aimz.effects.scenarios import Scenarios, scenarios_of
from aimz.effects.times import beside_time

__all__ = [
    "Behind",
    "Change",
    "Effect",
    "Impact",
    "Question",
    "Rows",
    "Scenarios",
    "about",
    "beside_time",
    "changes_of",
    "effect_of",
    "question_of",
    "scenarios_of",
]
