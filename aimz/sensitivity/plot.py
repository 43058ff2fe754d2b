"""Contours of an effect over the two strengths of a hidden confounder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from aimz.libraries import pd
from aimz.plots import (
    CAPTION,
    COLOURS,
    DASHES,
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

__all__ = ["plot_hidden", "plot_sensitivity"]


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
    bounds = report.benchmarks.dropna(subset="adjusted")
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


class _Hidden(Protocol):
    """What a picture needs of a `HiddenCause`."""

    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def tipping(self) -> pd.DataFrame: ...
    @property
    def effect(self) -> np.ndarray: ...
    @property
    def pooled(self) -> np.ndarray | None: ...
    @property
    def kind(self) -> str: ...
    @property
    def null(self) -> float: ...
    @property
    def ci_prob(self) -> float: ...


def plot_hidden(report: _Hidden, *, ax: Axes | None = None) -> Axes:
    """Draw the effect beside a hidden cause; `HiddenCause.plot` is its public form."""
    check_matplotlib()
    picture = ax or new_axes(4.2)
    if report.pooled is None:
        _over_grid(picture, report)
    else:
        _over_priors(picture, report, report.pooled)
    title = f"Effect beside a {report.kind} cause that nobody measured"
    picture.set_title(title, fontsize=TITLE, loc="left")
    picture.legend(loc="best", fontsize=CAPTION, framealpha=0.9, edgecolor="none")
    return picture


def _over_grid(picture: Axes, report: _Hidden) -> None:
    groups = report.table.groupby("on_outcome", sort=False)
    for number, (strength, rows) in enumerate(groups):
        colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        x = rows["on_treatment"].to_numpy()
        label = f"{number_text(float(str(strength)))} on the outcome"
        picture.plot(x, rows["mean"], color=colour, linestyle=dashes, lw=1.6, label=label)
        picture.fill_between(x, rows["low"], rows["high"], color=colour, alpha=0.12, lw=0)
    picture.axhline(report.null, color="black", lw=0.8)
    reached = report.tipping.dropna()
    if len(reached):
        heights = np.full(len(reached), report.null)
        picture.plot(reached["on_treatment"], heights, "v", color="black", ms=6, label="tips here")
    picture.set_xlabel("strength on the treatment", fontsize=PLAIN)
    picture.set_ylabel(f"effect, with {report.ci_prob:.4g} intervals", fontsize=PLAIN)


def _over_priors(picture: Axes, report: _Hidden, pooled: np.ndarray) -> None:
    both = np.concatenate([report.effect, pooled])
    low, high = np.quantile(both, [0.001, 0.999]).tolist()
    edges = np.linspace(low, high, 60).tolist()
    named = {"as it is": report.effect, "over the priors of the strengths": pooled}
    for number, (label, draws) in enumerate(named.items()):
        style: Any = {"color": COLOURS[number], "linestyle": DASHES[number], "lw": 1.6}
        picture.hist(draws, edges, density=True, histtype="step", label=label, **style)
    picture.axvline(report.null, color="black", lw=0.8)
    picture.set_xlabel("effect", fontsize=PLAIN)
    picture.set_ylabel("density", fontsize=PLAIN)


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
