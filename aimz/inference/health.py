"""How far a fit can be trusted: the loss and Pareto-k of a guide, R-hat and ESS of chains.

Thresholds. A guide has not converged whose loss was still falling by more than its noise and 0.1
nats between the last two quarters of its steps. Pareto-k is bad above 0.7 (Yao, Vehtari, Simpson
and Gelman 2018, "Yes, but did it work?") where log weights have a standard deviation above 0.5:
the tail of weights that hardly vary says nothing. R-hat is bad above 1.05, or above 1.01 with an
ESS below 400. Divergences are reported beyond one in a thousand draws.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.errors import FitWarning
from aimz.inference.records import Note
from aimz.inference.training import Course

__all__ = ["WEIGH_ROWS", "Health", "judge_chains", "judge_shape", "judge_svi", "pareto_k"]

#: Largest number of rows for which Pareto-k is computed.
WEIGH_ROWS = 8192
MAX_K_HAT = 0.7
MAX_WEIGHT_SD = 0.5
MAX_R_HAT = 1.05
GOOD_R_HAT = 1.01
GOOD_ESS = 400
MAX_DIVERGING = 0.001
_NATS = 0.1


@dataclass(frozen=True)
class Health:
    """Numbers of a fit's health, and what to say of them."""

    attrs: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


def judge_svi(
    losses: np.ndarray, log_weights: np.ndarray | None, *, explicit: bool, course: Course
) -> Health:
    """Health of a guide from its losses and from log p - log q at its draws, if known."""
    shape = judge_shape(log_weights)
    plateau = _is_flat(losses) if explicit else course.settled
    notes = shape.notes
    if not plateau:
        falling = Note(
            FitWarning,
            f"The loss was still falling after {len(losses)} steps. The posterior may be far "
            "from its answer. Train longer: more epochs or num_steps, or leave both out.",
            "not-converged",
        )
        notes = (falling,)
    return Health({"plateau": bool(plateau), **shape.attrs}, notes)


def judge_shape(log_weights: np.ndarray | None) -> Health:
    """Health of an approximation's shape from log p - log q at its draws, if known."""
    k_hat = math.nan if log_weights is None else pareto_k(log_weights)
    spread = 0.0 if log_weights is None else float(np.std(log_weights))
    notes = []
    if k_hat > MAX_K_HAT and not spread <= MAX_WEIGHT_SD:
        notes.append(
            Note(
                FitWarning,
                f"Pareto-k of the guide is {k_hat:.2f} (limit {MAX_K_HAT}). The guide's shape "
                "misses part of the posterior. Compare with inference='nuts'.",
                "k-hat",
            )
        )
    return Health({"k_hat": float(k_hat)}, tuple(notes))


def pareto_k(log_weights: np.ndarray) -> float:
    """Pareto-k of importance weights log p - log q; infinite where a weight is not finite."""
    if not np.all(np.isfinite(log_weights)):
        return math.inf
    spread = log_weights - log_weights.max()
    if np.ptp(spread) < 1e-3:  # the guide is the posterior, up to rounding
        return -math.inf
    array_stats = _array_stats()
    # ArviZ negates what it is given.
    _, k_hat = array_stats.psislw(-np.asarray(log_weights, np.float64))
    return float(k_hat)


def judge_chains(draws: dict[str, Any], stats: dict[str, Any]) -> Health:
    """Health of chains: R-hat, effective sample size, divergences."""
    r_hat, ess = _convergence(draws)
    diverging = np.asarray(stats.get("diverging", np.zeros((1, 1))))
    count = int(diverging.sum())
    notes = []
    if r_hat > MAX_R_HAT or (r_hat > GOOD_R_HAT and ess < GOOD_ESS):
        notes.append(
            Note(
                FitWarning,
                f"The chains have not mixed: R-hat is {r_hat:.3f} and the effective sample size "
                f"{ess:.0f}. Posterior summaries are unreliable. Run longer, or reparametrise.",
                "r-hat",
            )
        )
    if count > MAX_DIVERGING * diverging.size:
        notes.append(
            Note(
                FitWarning,
                f"{count} of {diverging.size} draws diverged. The chains may miss part of the "
                "posterior. Raise target_accept_prob, or reparametrise (LocScaleReparam).",
                "divergences",
            )
        )
    attrs = {"rhat_max": r_hat, "ess_min": ess, "divergences": count}
    return Health(attrs, tuple(notes))


def _is_flat(losses: np.ndarray) -> bool:
    """Whether the loss had stopped falling by the last two quarters of the steps."""
    quarter = len(losses) // 4
    if quarter < 5:
        return False
    before, after = losses[-2 * quarter : -quarter], losses[-quarter:]
    gain = float(before.mean() - after.mean())
    noise = math.sqrt((float(before.var()) + float(after.var())) / quarter)
    return gain < max(3 * noise, _NATS, 1e-4 * abs(float(after.mean())))


def _convergence(draws: dict[str, Any]) -> tuple[float, float]:
    """Largest R-hat and smallest bulk effective sample size over all scalars that vary."""
    array_stats = _array_stats()
    worst, least = 1.0, math.inf
    for value in draws.values():
        array = np.asarray(value, np.float64)
        flat = array.reshape(*array.shape[:2], -1)
        moving = flat.std(axis=(0, 1)) > 0
        if not moving.any() or array.shape[1] < 4:
            continue
        columns = flat[:, :, moving]
        r_hat = np.asarray(array_stats.rhat(columns, chain_axis=0, draw_axis=1))
        ess = np.asarray(array_stats.ess(columns, chain_axis=0, draw_axis=1))
        worst = max(worst, float(np.nanmax(r_hat))) if array.shape[0] > 1 else worst
        least = min(least, float(np.nanmin(ess)))
    return worst, least


def _array_stats() -> Any:
    """ArviZ's functions on arrays; imported late, it is heavy."""
    from arviz_stats import base

    return getattr(base, "array_stats")  # noqa: B009  # not among the names ArviZ declares
