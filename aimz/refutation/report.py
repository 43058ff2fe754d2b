"""Verdicts on refits: coverage and bias of what should be known, the spread of what should stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aimz.libraries import pd
from aimz.plots import number_text
from aimz.refutation.trial import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Refutation", "refutation_of"]


#: So improbable is a pass of a sound model that it fails: about one in 200 sound tests.
_LEVEL = 0.005
#: Shift of an effect that should stay, in its posterior sd, that is still called the same.
_SAME = 0.5


@dataclass(frozen=True, eq=False, repr=False)
class Refutation:
    """What became of an effect under tests; `Effect.refute` makes it.

    Parameters
    ----------
    table : DataFrame
        A row for each test: what it does (`asks`), the value that it should give (`expected`, the
        mean of it where each refit has its own), mean and interval over all draws of all refits,
        how many intervals hold the truth, the verdict ("passes", "fails" or "doubtful"), and the
        reason in a sentence.
    effect : array, shape (draws,)
        The effect itself.
    trials : tuple of Trial
        The refits.
    ci_prob : float
        Probability of the intervals.
    """

    table: pd.DataFrame
    effect: np.ndarray
    trials: tuple[Trial, ...]
    ci_prob: float

    @property
    def passes(self) -> bool:
        """Whether no test has failed or is in doubt."""
        return bool((self.table["verdict"] == "passes").all())

    def to_text(self) -> str:
        """A sentence for each test."""
        return "\n".join(
            f"{row['test']} {row['verdict']}: {row['sentence']}" for _, row in self.table.iterrows()
        )

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw for each test the refits, their interval, and what should have come."""
        from aimz.refutation.plot import plot_refutation

        return plot_refutation(self, ax=ax)

    def __repr__(self) -> str:
        numbers = self.table.drop(columns=["sentence", "asks"])
        shown = numbers.to_string(index=False, float_format=lambda value: f"{value:.4g}")
        return f"Refutation\n{self.to_text()}\n{shown}"


def refutation_of(
    effect: np.ndarray, trials: Sequence[Trial], null: float, ci_prob: float
) -> Refutation:
    """Judge the refits of some tests.

    Parameters
    ----------
    effect : array, shape (draws,)
        The effect itself.
    trials : sequence of Trial
        The refits.
    null : float
        No effect.
    ci_prob : float
        Probability of the intervals.
    """
    rows = [_row(effect, trial, null, ci_prob) for trial in trials]
    return Refutation(pd.DataFrame(rows), effect, tuple(trials), ci_prob)


def _row(effect: np.ndarray, trial: Trial, null: float, prob: float) -> Mapping[str, object]:
    quantiles = [(1 - prob) / 2, (1 + prob) / 2]
    low, high = np.quantile(trial.draws, quantiles)
    ends = np.quantile(trial.draws, quantiles, axis=1)
    covers = int(((ends[0] <= trial.truth) & (trial.truth <= ends[1])).sum())
    verdict, reason = (_stayed if trial.stays else _known)(effect, trial, covers, prob)
    if trial.unsettled:
        verdict = "doubtful" if verdict == "passes" else verdict
        reason += f" The health of {trial.unsettled} of {len(trial.draws)} refits is bad."
    away = abs(effect.mean() - null) / max(float(trial.draws.std()), 1e-300)
    if not trial.stays and np.all(trial.truth == null):
        reason += f" The effect itself, {number_text(float(effect.mean()))}, is {away:.1f} sd out."
    return {
        "test": trial.name,
        "asks": trial.asks,
        "expected": float(trial.truth.mean()),
        "mean": float(trial.draws.mean()),
        "low": float(low),
        "high": float(high),
        "covers": f"{covers} of {len(trial.draws)}",
        "verdict": verdict,
        "sentence": reason,
    }


def _known(effect: np.ndarray, trial: Trial, covers: int, prob: float) -> tuple[str, str]:
    """Whether intervals hold a known truth as often as they say, and are not off one way."""
    from scipy import stats

    del effect
    repeats = len(trial.draws)
    is_short = stats.binom.cdf(covers, repeats, prob) < _LEVEL
    scores = (trial.means - trial.truth) / trial.sds
    bias = float(scores.mean())
    is_off = abs(bias) * np.sqrt(repeats) > stats.norm.isf(_LEVEL / 2)
    target = "the known truth" if np.ptp(trial.truth) > 0 else number_text(float(trial.truth[0]))
    reason = (
        f"{covers} of {repeats} intervals hold {target}, of {prob:.0%} each; the refits' means "
        f"average {number_text(float(trial.means.mean()))}."
    )
    if is_off:
        reason += f" They are off by {bias:+.1f} posterior sd on average, all told."
    return ("fails" if is_short or is_off else "passes"), reason


def _stayed(effect: np.ndarray, trial: Trial, covers: int, prob: float) -> tuple[str, str]:
    """Whether the effect is where it was, and spreads over refits no more than it should."""
    from scipy import stats

    del covers, prob
    sd, repeats = float(effect.std(ddof=1)), len(trial.draws)
    shift = float(trial.means.mean() - effect.mean()) / sd
    reason = (
        f"the effect was {number_text(float(effect.mean()))} and is "
        f"{number_text(float(trial.means.mean()))} on average, {abs(shift):.1f} posterior sd away."
    )
    seen = float(trial.means.std()) / sd
    allowed = _SAME + max(trial.spread, seen) / np.sqrt(repeats) * stats.norm.isf(_LEVEL / 2)
    if abs(shift) > allowed:
        return "fails", reason
    if repeats < 5 or not trial.spread:
        return "passes", reason
    ratio = float(trial.means.std(ddof=1)) / (sd * trial.spread)
    reason += f" Refits spread {ratio:.1f} times as far as the posterior says."
    bound = np.sqrt(stats.chi2.isf(_LEVEL, repeats - 1) / (repeats - 1))
    return ("doubtful" if ratio > max(bound, 1.2) else "passes"), reason
