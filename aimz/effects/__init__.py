"""Effects: what is asked, how tiles are reduced to it, and the answer."""

from aimz.effects.changes import changes_of
from aimz.effects.one_pass import effect_of
from aimz.effects.question import question_of
from aimz.effects.result import Effect
from aimz.effects.scenarios import scenarios_of
from aimz.effects.subject import about

__all__ = ["Effect", "about", "changes_of", "effect_of", "question_of", "scenarios_of"]
