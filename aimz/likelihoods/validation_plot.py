"""The picture of a validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aimz.libraries import pd
from aimz.plots import CAPTION, COLOURS, GREY, MARKERS, PLAIN, POINT, SMALL, check_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_validation"]


_BINS = 20


def plot_validation(table: pd.DataFrame, calibration: pd.DataFrame, pit: np.ndarray) -> Figure:
    """Draw times, choices and regions; `Validation.plot` is its public form."""
    check_matplotlib()
    from matplotlib import pyplot as plt

    regions = len(table) - 1
    figure, axes = plt.subplots(
        1, 3, figsize=(9.0, max(3.0, 0.8 + 0.22 * regions)), layout="constrained"
    )
    _draw_times(axes[0], pit)
    _draw_choices(axes[1], calibration)
    _draw_regions(axes[2], table.iloc[1:])
    figure.supxlabel(
        "grey: what chance alone gives, in 99 of 100 cases; bars: two standard errors",
        fontsize=CAPTION,
        color=GREY,
    )
    return figure


def _draw_times(ax: Axes, pit: np.ndarray) -> None:
    count = len(pit) / _BINS
    chance = 2.576 * np.sqrt((1 - 1 / _BINS) / count)
    ax.axhspan(1 - chance, 1 + chance, color=GREY, alpha=0.2, lw=0)
    bins, edges = np.histogram(pit, _BINS, (0, 1))
    ax.stairs(bins / count, edges, color=COLOURS[0], lw=1.5, baseline=None)
    ax.set_ylim(0.0, max(1.5, 1.1 * bins.max() / count))
    ax.set_xlabel("distribution function of the time", fontsize=PLAIN)
    ax.set_ylabel("density", fontsize=PLAIN)
    ax.set_title("Times", fontsize=PLAIN, loc="left")


def _draw_choices(ax: Axes, calibration: pd.DataFrame) -> None:
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--")
    for number, (code, lines) in enumerate(calibration.groupby("choice")):
        colour, marker = COLOURS[number % 8], MARKERS[number % 8]
        spread = 2 * lines["se"]
        style = {**POINT, "label": f"{code:+g}"}
        at = (lines["predicted"], lines["observed"])
        ax.errorbar(*at, spread, fmt=marker, color=colour, lw=1.2, **style)
    ax.set_xlabel("probability of the choice", fontsize=PLAIN)
    ax.set_ylabel("observed share", fontsize=PLAIN)
    ax.set_title("Choices", fontsize=PLAIN, loc="left")
    ax.legend(fontsize=CAPTION, frameon=False, loc="upper left")


def _draw_regions(ax: Axes, lines: pd.DataFrame) -> None:
    heights = -np.arange(len(lines), dtype=float)
    chance = 1.63 / np.sqrt(lines["n"].clip(lower=1))  # of the distance of Kolmogorov and Smirnov
    ax.barh(heights, chance, height=0.9, color=GREY, alpha=0.2, lw=0)
    for number, (name, label) in enumerate((("pit", "times"), ("choice", "choices"))):
        style = {**POINT, "label": label}
        ax.plot(lines[name], heights, MARKERS[number], color=COLOURS[number], **style)
    names = [f"{r['parameter']} {r['low']:.3g} to {r['high']:.3g}" for _, r in lines.iterrows()]
    ax.set_yticks(heights, names, fontsize=SMALL, parse_math=False)
    ax.set_xlim(0.0, 1.25 * np.nanmax([*lines["pit"], *lines["choice"], *chance]))
    ax.set_xlabel("largest error of a probability", fontsize=PLAIN)
    ax.set_title("Regions of the box", fontsize=PLAIN, loc="left")
    ax.legend(fontsize=CAPTION, frameon=True, loc="best")
