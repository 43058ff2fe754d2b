"""A forest of tests: the mean of each refit, the interval of all, and what should have come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from aimz.libraries import pd
from aimz.plots import CAPTION, COLOURS, GREY, PLAIN, POINT, TITLE, check_matplotlib, new_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from aimz.refutation.trial import Trial

__all__ = ["plot_refutation"]


class _Report(Protocol):
    """What a picture needs of a `Refutation`."""

    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def effect(self) -> np.ndarray: ...
    @property
    def trials(self) -> Sequence[Trial]: ...
    @property
    def ci_prob(self) -> float: ...


_WORDS = {"passes": COLOURS[2], "fails": COLOURS[1], "doubtful": COLOURS[4]}


def plot_refutation(report: _Report, *, ax: Axes | None = None) -> Axes:
    """Draw the tests; `Refutation.plot` is its public form."""
    check_matplotlib()
    table, trials = report.table, report.trials
    picture = ax or new_axes(1.6 + 0.55 * len(trials))
    low, high = np.quantile(report.effect, [(1 - report.ci_prob) / 2, (1 + report.ci_prob) / 2])
    picture.axvspan(low, high, color=COLOURS[0], alpha=0.12, lw=0, label="the effect")
    picture.axvline(float(report.effect.mean()), color=COLOURS[0], lw=1)
    for place, (trial, (_, row)) in enumerate(zip(trials, table.iterrows(), strict=True)):
        colour = _WORDS[str(row["verdict"])]
        height = -float(place)
        picture.hlines(height, row["low"], row["high"], color=colour, lw=2)
        rows = height - 0.22 + 0.1 * np.linspace(-1, 1, len(trial.means))
        picture.plot(trial.means, rows, ".", color=GREY, ms=3)
        picture.plot(row["mean"], height, "o", color=colour, **POINT)
        picture.plot(row["expected"], height, "|", color="black", ms=14, mew=1.6)
    picture.set_yticks([-place for place in range(len(trials))], [""] * len(trials))
    labels = [f"{row['test']}: {row['verdict']}" for _, row in table.iterrows()]
    picture.set_yticklabels(labels, fontsize=PLAIN)
    picture.set_ylim(-len(trials) + 0.4, 0.6)
    picture.set_xlabel("effect", fontsize=PLAIN)
    picture.set_title("Does the effect behave under tests?", fontsize=TITLE, loc="left")
    share = f"{100 * report.ci_prob:.4g}%"
    keys = f"lines: {share} of all draws of all refits; dots: the mean of each refit"
    picture.figure.supxlabel(
        f"{keys};\nbar: what should come; band: the effect itself", fontsize=CAPTION, color=GREY
    )
    return picture
