"""What an effect hands to `aimz.sensitivity`: its draws, their ratio, and the rows of its fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from aimz.effects.behind import Behind
from aimz.effects.question import Question
from aimz.effects.wording import Compared
from aimz.errors import InputError
from aimz.libraries import xr
from aimz.sensitivity import Evidence

__all__ = ["Answer", "evidence_of", "single_draws"]


_RATIOS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "ratio": ("risk_ratio", lambda draws: draws),
    "lift": ("risk_ratio", lambda draws: 1 + draws),
    "odds_ratio": ("odds_ratio", lambda draws: draws),
}


class Answer(Protocol):
    """What is looked at of an `Effect`."""

    @property
    def draws(self) -> xr.DataArray: ...
    @property
    def averages(self) -> xr.DataArray: ...
    @property
    def question(self) -> Question: ...
    @property
    def scenarios(self) -> Compared: ...
    @property
    def diagnostics(self) -> Mapping[str, Any]: ...
    @property
    def behind(self) -> Callable[[], Behind | None] | None: ...


def single_draws(effect: Answer, method: str) -> np.ndarray:
    """Draws of an effect that is one number, (draws,).

    Raises
    ------
    InputError
        `effect-several`
    """
    sizes = {str(d): n for d, n in effect.draws.sizes.items() if d not in ("chain", "draw")}
    if np.prod(list(sizes.values()), dtype=int) > 1:
        shown = ", ".join(f"{dim} of {size}" for dim, size in sizes.items())
        msg = f"{method} is of one number, and this effect has several ({shown}). Ask for 'ate'."
        raise InputError(msg, code="effect-several")
    return np.asarray(effect.draws, np.float64).ravel()


def evidence_of(effect: Answer, treatment: str | None) -> Evidence:
    """Draws and rows behind an effect, which must be one number.

    Raises
    ------
    InputError
        `effect-several`, `effect-scale`, `treatment-unknown`.
    """
    draws = single_draws(effect, "sensitivity")
    how = effect.question.comparison
    behind = None if effect.behind is None else effect.behind()
    if how not in ("difference", *_RATIOS):
        msg = (
            "Sensitivity needs to know the effect's scale: ask by difference, ratio or odds_ratio."
        )
        raise InputError(msg, code="effect-scale")
    ratio, measure = None, "risk_ratio"
    if how in _RATIOS:
        measure, as_ratio = _RATIOS[how]
        ratio = as_ratio(draws)
        draws = np.log(ratio)
    if behind is None:
        return Evidence(draws, ratio, measure)
    named = effect.scenarios.treatment if treatment is None else treatment
    if named is None:
        msg = "The scenarios set more than one thing. Pass treatment=, the name of one of them."
        raise InputError(msg, code="treatment-unknown")
    name = behind.argument_of(named)
    outcome = behind.outcome(effect.question.site)
    if ratio is None and outcome is not None:
        ratio, measure = _ratio_of(effect, draws, outcome)
    return Evidence(draws, ratio, measure, behind.values_of(name), outcome, behind.covariates(name))


def _ratio_of(
    effect: Answer, draws: np.ndarray, outcome: np.ndarray
) -> tuple[np.ndarray | None, str]:
    """A difference as a ratio of averages where outcomes cannot be negative, else in their sd."""
    averages = np.asarray(effect.averages, np.float64)
    if outcome.min() >= 0 and effect.averages.sizes["scenario"] == 2 and (averages > 0).all():
        return (averages[1] / averages[0]).ravel(), "risk_ratio"
    sd = float(outcome.std(ddof=1))
    return (draws / sd, "difference") if sd > 0 else (None, "difference")
