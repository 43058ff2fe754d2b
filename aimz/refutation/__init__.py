"""Tests that an effect should survive: what should happen, what happened, and a verdict in words.

The law: no bare p-value. Each test says what was expected and what came, with an interval; the wing
judges draws of refits and knows no model. `Effect.refute` makes the refits.
"""

from aimz.refutation.causes import HIDDEN, mixed_over, shifted_by, with_cause, with_hidden_cause
from aimz.refutation.report import Refutation, refutation_of
from aimz.refutation.trial import Trial

__all__ = [
    "HIDDEN",
    "Refutation",
    "Trial",
    "mixed_over",
    "refutation_of",
    "shifted_by",
    "with_cause",
    "with_hidden_cause",
]
