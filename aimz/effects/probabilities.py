"""Probabilities of benefit, necessity and sufficiency, and their bounds."""

import numpy as np

from aimz.effects.counterfactual import Replayed
from aimz.effects.scenarios import Scenarios
from aimz.families import success_of
from aimz.store import Tile

__all__ = ["BOUNDS", "EVENT", "events_of"]


# What is averaged beside scenarios: an event in two worlds at once, and bounds of its probability.
EVENT, _LOWER, _UPPER = "aimz:event", "aimz:lower", "aimz:upper"
BOUNDS = {"lower": _LOWER, "upper": _UPPER}


# ------------------------------------------------------------------ two worlds at once
def events_of(scenarios: Scenarios, replayed: Replayed, tile: Tile) -> dict[str, np.ndarray]:
    """Probability that a unit has a 1 in the second world alone, given what it had in its own.

    Under the monotone coupling it is the part of the uniforms, of those that what was observed
    leaves open, that is above the failures with and below those without. Where the world that was
    is one of the two, their laws alone bound it (Frechet, 1935; Tian and Pearl, 2000,
    doi:10.1023/A:1018912507879), unless another site that is replayed leaves a choice.
    """
    factual = replayed.factual
    assert factual is not None  # noqa: S101  # the outcome itself is asked for
    was = success_of(factual)
    old, new = (success_of(replayed.laws.get(name, factual)) for name in replayed.values)
    is_new = list(scenarios.arms.values())[-1][tile.rows][:, None]
    is_one = np.asarray(scenarios.outcome)[tile.rows][:, None] == 1
    absent = scenarios.absent.get(scenarios.natural.spec.output, np.zeros(tile.rows.stop, bool))
    is_open = absent[tile.rows][:, None]  # nothing was observed, so that nothing is left out
    first = np.where(is_one & ~is_open, 1 - was, 0.0)
    last = np.where(is_one | is_open, 1.0, 1 - was)
    with np.errstate(divide="ignore", invalid="ignore"):
        event = np.minimum(1 - old, last) - np.maximum(1 - new, first)
        event = np.maximum(event, 0.0) / (last - first)
        chance = np.where(is_open, 1.0, np.where(is_one, was, 1 - was))
        upper = np.minimum(new, 1 - old) / chance
    upper = np.where(is_open | (is_one == is_new), upper, 0.0)  # else the event is ruled out
    is_bounded = np.allclose(was, np.where(is_new, new, old), atol=1e-6)
    if replayed.has_other_couplings or not is_bounded:
        upper = np.full_like(upper, np.nan)
    return {EVENT: event, _LOWER: event, _UPPER: upper}
