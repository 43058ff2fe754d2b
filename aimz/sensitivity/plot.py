"""Contours of an effect over the two strengths of a hidden confounder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from aimz.libraries import pd
from aimz.plots import (
    CAPTION,
    COLOURS,
    GREY,
    MARKERS,
    PLAIN,
    TITLE,
    check_matplotlib,
    new_axes,
    number_text,
)
from aimz.sensitivity.strength import Strength, adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_sensitivity"]


_POINTS = 100  # of the grid, on each side
_LEAST = 0.4  # of an axis that shows the tipping line


class _Report(Protocol):
    """What a picture needs of a `Sensitivity`."""

    @property
    def estimate(self) -> float: ...
    @property
    def se(self) -> float: ...
    @property
    def dof(self) -> float: ...
    @property
    def q(self) -> float: ...
    @property
    def robustness_value(self) -> float: ...
    @property
    def benchmarks(self) -> pd.DataFrame: ...


def plot_sensitivity(report: _Report, *, ax: Axes | None = None) -> Axes:
    """Draw the effect that were left; `Sensitivity.plot` is its public form."""
    check_matplotlib()
    picture = ax or new_axes(5.0)
    bounds = report.benchmarks
    shares = bounds[["r2_treatment", "r2_outcome"]].to_numpy(np.float64)
    widest = 1.3 * float(shares.max(initial=0.0))
    limit = min(0.98, max([_LEAST, 1.6 * report.robustness_value, widest]))
    side = np.linspace(0, limit, _POINTS)
    effect = (report.estimate, report.se, report.dof)
    values = np.array([[adjusted(*effect, Strength(x, y)).estimate for x in side] for y in side])
    levels = _levels(values, report.estimate)
    lines = picture.contour(side, side, values, levels=levels, colors=GREY, linewidths=0.7)
    picture.clabel(lines, fontsize=CAPTION, fmt=number_text)
    gone = (1 - report.q) * report.estimate
    tipping = picture.contour(
        side, side, values, levels=[gone], colors=COLOURS[1], linewidths=1.6, linestyles="--"
    )
    picture.clabel(tipping, fontsize=CAPTION, fmt=lambda level: number_text(level + 0.0))
    _mark(picture, [0.0], [0.0], f"as it is: {number_text(report.estimate)}", 6)
    for number, (name, rows) in enumerate(bounds.groupby("covariate", sort=False)):
        left = ", ".join(
            f"{k:g}x {number_text(v)}" for k, v in zip(rows["k"], rows["adjusted"], strict=True)
        )
        _mark(picture, rows["r2_treatment"], rows["r2_outcome"], f"as {name}: {left}", number)
    picture.set_xlabel("partial R2 of the confounder with the treatment", fontsize=PLAIN)
    picture.set_ylabel("partial R2 of the confounder with the outcome", fontsize=PLAIN)
    picture.set_xlim(-0.02 * limit, limit)
    picture.set_ylim(-0.02 * limit, limit)
    picture.set_title("Effect that a hidden confounder would leave", fontsize=TITLE, loc="left")
    picture.plot([], [], "--", color=COLOURS[1], label=f"tipping line: {number_text(gone + 0.0)}")
    picture.legend(loc="upper right", fontsize=CAPTION, framealpha=0.9, edgecolor="none")
    return picture


def _levels(values: np.ndarray, estimate: float) -> np.ndarray:
    """Round numbers between the least effect and the greatest, without the tipping line's 0."""
    from matplotlib.ticker import MaxNLocator

    low, high = np.quantile(values, [0.05, 1.0])
    levels = MaxNLocator(9).tick_values(min(low, -abs(estimate)), max(high, abs(estimate)))
    return np.array([level for level in levels if abs(level) > 1e-12])


def _mark(ax: Axes, x: ArrayLike, y: ArrayLike, label: str, number: int) -> None:
    style: Any = MARKERS[number % len(MARKERS)]
    colour = COLOURS[number % len(COLOURS)]
    options: Any = {"color": colour, "ms": 6, "mec": "white", "mew": 0.8, "clip_on": False}
    ax.plot(x, y, style, zorder=5, label=label, **options)
