"""An effect beside a hidden cause of both treatment and outcome, from refits that contain it.

The construction is that of McCandless, Gustafson and Levy (2007, Statistics in Medicine 26,
2331-2347) and of Dorie, Harada, Carnegie and Hill (2016, Statistics in Medicine 35, 3453-3470).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from aimz.libraries import pd
from aimz.plots import interval_of, number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["HiddenCause", "Points", "hidden_cause_report"]


@dataclass(frozen=True, eq=False)
class Points:
    """Strengths of a hidden cause, and the effect that is left at each.

    Parameters
    ----------
    strengths : array, shape (points, 2)
        On the treatment and on the outcome.
    draws : array, shape (points, draws)
        Of the effect.
    is_healthy : array of bool, shape (points,)
        Of each refit.
    are_random : bool
        Whether the strengths are drawn from priors, and are not those of a grid.
    """

    strengths: np.ndarray
    draws: np.ndarray
    is_healthy: np.ndarray
    are_random: bool


@dataclass(frozen=True, eq=False, repr=False)
class HiddenCause:
    """What a cause that nobody measured leaves of an effect; `Effect.hidden_cause` makes it.

    Parameters
    ----------
    table : DataFrame
        Strengths `on_treatment` and `on_outcome`, mean, sd and interval of the effect that is left,
        and whether the refit is `healthy`.
    tipping : DataFrame
        Of a grid: for each strength on the outcome the least strength on the treatment at which the
        interval reaches no effect, on straight lines between points; NaN where none does.
    effect : array, shape (draws,)
        The effect as it is.
    points : Points
        The draws behind the table.
    kind : str
        Of the cause: binary or normal.
    null : float
        No effect.
    ci_prob : float
        Probability of the intervals.
    """

    table: pd.DataFrame
    tipping: pd.DataFrame
    effect: np.ndarray
    points: Points
    kind: str
    null: float
    ci_prob: float

    @property
    def pooled(self) -> np.ndarray | None:
        """Draws of the effect over priors of the strengths; None of a grid."""
        return self.points.draws.ravel() if self.points.are_random else None

    def summary(self) -> pd.DataFrame:
        """The table of a grid; of priors the effect as it is, and with the hidden cause."""
        if self.pooled is None:
            return self.table
        named = {"as it is": self.effect, f"with a {self.kind} cause": self.pooled}
        rows = [{"effect": name, **_told(draws, self.ci_prob)} for name, draws in named.items()]
        return pd.DataFrame(rows)

    def to_text(self) -> str:
        """The report in sentences."""
        now = _spoken(self.effect, self.ci_prob)
        if self.pooled is not None:
            side = np.sign(self.effect.mean() - self.null)
            same = float((np.sign(self.pooled - self.null) == side).mean())
            text = (
                f"The effect is {now}; with a {self.kind} cause of both that nobody measured, of "
                f"strengths that the priors say, it is {_spoken(self.pooled, self.ci_prob)}, and "
                f"is on the same side of {number_text(self.null)} with probability {same:.0%}."
            )
        else:
            reached = self.tipping.dropna()
            text = f"The effect is {now}."
            text += "".join(
                f" Beside a {self.kind} cause of strength {number_text(row['on_outcome'])} on the "
                f"outcome its interval reaches {number_text(self.null)} at a strength of "
                f"{number_text(row['on_treatment'])} on the treatment."
                for _, row in reached.iterrows()
            )
            if reached.empty:
                zero = number_text(self.null)
                text += f" No strength that was asked about brings its interval to {zero}."
        bad = int((~self.points.is_healthy).sum())
        if bad:
            text += f" The health of {bad} of {len(self.points.is_healthy)} refits is bad."
        return text

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the effect that is left over the strengths, or with and without the cause."""
        from aimz.sensitivity.plot import plot_hidden

        return plot_hidden(self, ax=ax)

    def __repr__(self) -> str:
        shown = self.summary().to_string(index=False, float_format=lambda value: f"{value:.4g}")
        return f"HiddenCause\n{self.to_text()}\n{shown}"


def hidden_cause_report(
    effect: np.ndarray, points: Points, kind: str, null: float, ci_prob: float | None
) -> HiddenCause:
    """Say what refits with a hidden cause have left of an effect.

    Parameters
    ----------
    effect : array, shape (draws,)
        The effect as it is.
    points : Points
        Refits; of a grid in order of strength, the treatment's slowest and 0 first.
    kind : str
        Of the cause.
    null : float
        No effect.
    ci_prob : float, optional
        Probability of the intervals; default ArviZ's.
    """
    prob, _ = interval_of(ci_prob, None)
    rows = [
        {"on_treatment": x, "on_outcome": y, **_told(draws, prob), "healthy": bool(is_healthy)}
        for (x, y), draws, is_healthy in zip(
            points.strengths.tolist(), points.draws, points.is_healthy, strict=True
        )
    ]
    table = pd.DataFrame(rows)
    side = float(np.sign(effect.mean() - null))
    tipping = [
        {"on_outcome": y, "on_treatment": _tipping(curve["on_treatment"], curve[end], null, side)}
        for y, curve in table.groupby("on_outcome", sort=False)
        for end in ["low" if side > 0 else "high"]
        if not points.are_random
    ]
    names = ["on_outcome", "on_treatment"]
    return HiddenCause(
        table, pd.DataFrame(tipping, columns=names), effect, points, kind, null, prob
    )


def _tipping(strengths: ArrayLike, ends: ArrayLike, null: float, side: float) -> float:
    """First strength at which the interval's nearer end is at no effect."""
    far = side * (np.asarray(ends, np.float64) - null)
    x = np.asarray(strengths, np.float64)
    beyond = np.flatnonzero(far <= 0)
    if not len(beyond):
        return float("nan")
    place = int(beyond[0])
    if not place:
        return float(x[0])
    share = far[place - 1] / (far[place - 1] - far[place])
    return float(x[place - 1] + share * (x[place] - x[place - 1]))


def _told(draws: np.ndarray, prob: float) -> dict[str, float]:
    low, high = np.quantile(draws, [(1 - prob) / 2, (1 + prob) / 2])
    mean, sd = float(draws.mean()), float(draws.std(ddof=1))
    return {"mean": mean, "sd": sd, "low": float(low), "high": float(high)}


def _spoken(draws: np.ndarray, prob: float) -> str:
    mean, _, low, high = (number_text(value) for value in _told(draws, prob).values())
    return f"{mean} ({low} to {high})"
