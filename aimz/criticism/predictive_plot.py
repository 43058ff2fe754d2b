"""The picture of a predictive check: calibration, regions, and the column that fits worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from aimz.libraries import pd
from aimz.plots import CAPTION, COLOURS, DASHES, GREY, MARKERS, PLAIN, TITLE, check_matplotlib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_check"]


_SIZE = (9.6, 3.4)  # of the figure, in inches
_BAND = 1.36  # sup of a Brownian bridge, 95%
_BINS = 10


class _Check(Protocol):
    """What a picture needs of a check."""

    @property
    def rows(self) -> pd.DataFrame: ...
    @property
    def regions(self) -> pd.DataFrame: ...
    @property
    def columns(self) -> pd.DataFrame: ...
    @property
    def along(self) -> Mapping[str, np.ndarray]: ...


def plot_check(check: _Check) -> Figure:
    """Draw a check; `PredictiveCheck.plot` is its public form."""
    check_matplotlib()
    from matplotlib import pyplot as plt

    surest = check.columns[["p_slope", "p_curvature"]].min(axis=1).fillna(np.inf).to_numpy()
    is_tested = np.isfinite(surest).any()
    figure, axes = plt.subplots(1, 3 if is_tested else 2, figsize=_SIZE, layout="constrained")
    arms = sorted(set(check.rows["arm"]))
    _draw_calibration(axes[0], check.rows, arms)
    _draw_regions(axes[1], check.regions, arms)
    if is_tested:
        _draw_column(axes[2], check, arms, str(check.columns["column"].iloc[int(surest.argmin())]))
    for ax in axes:
        ax.axhline(0.0, color=GREY, ls=(0, (4, 3)), lw=1.0, zorder=1, label="_right")
        ax.tick_params(labelsize=CAPTION)
        ax.spines[["top", "right"]].set_visible(False)
    if len(arms) > 1:
        axes[0].legend(fontsize=CAPTION, frameon=False, title="arm", title_fontsize=CAPTION)
    return figure


def _draw_calibration(ax: Axes, rows: pd.DataFrame, arms: list[str]) -> None:
    """Distribution function of the places of outcomes, less that of uniform ones."""
    for n, arm in enumerate(arms):
        pit = np.sort(rows.loc[rows["arm"] == arm, "pit"].to_numpy())
        share = np.arange(1, len(pit) + 1) / len(pit)
        ax.plot(pit, share - pit, color=_colour(n), ls=DASHES[n % len(DASHES)], lw=1.3, label=arm)
        limit = _BAND / np.sqrt(len(pit))
        ax.axhspan(-limit, limit, color=_colour(n), alpha=0.08, lw=0, label="_band")
    ax.set_xlabel("share of predictions below the outcome", fontsize=PLAIN)
    ax.set_ylabel("rows below, less expected (95%)", fontsize=PLAIN)
    ax.set_title("Calibration", loc="left", fontsize=TITLE)


def _draw_regions(ax: Axes, regions: pd.DataFrame, arms: list[str]) -> None:
    """Mean score of each region and arm, with 95% intervals."""
    some = regions[regions["region"] != "all"]
    some = regions if some.empty else some
    names = list(dict.fromkeys(some["region"]))
    shown = arms if len(arms) > 1 else ["all"]
    for n, arm in enumerate(shown):
        of_arm = some[some["arm"] == arm]
        at = np.array([names.index(name) for name in of_arm["region"]])
        at = at + 0.18 * (n - (len(shown) - 1) / 2)
        error = 1.96 * of_arm["spread"] / np.sqrt(of_arm["rows"].clip(lower=1))
        style: dict[str, Any] = {"fmt": MARKERS[n % len(MARKERS)], "ms": 4, "lw": 1.2}
        ax.errorbar(at, of_arm["shift"], yerr=error, color=_colour(n), **style)
    ax.set_xticks(range(len(names)), [name.replace(" to ", "\nto ") for name in names])
    ax.set_xlabel("region", fontsize=PLAIN)
    ax.set_ylabel("mean score (95%)", fontsize=PLAIN)
    ax.set_title("By region", loc="left", fontsize=TITLE)


def _draw_column(ax: Axes, check: _Check, arms: list[str], name: str) -> None:
    """Mean scores in bins of a column, with 95% intervals."""
    values, arm_of = check.along[name], check.rows["arm"].to_numpy()
    score = check.rows["score"].to_numpy()
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, _BINS + 1)))
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    for n, arm in enumerate(arms):
        bins = [(place == k) & (arm_of == arm) & np.isfinite(values) for k in range(_BINS)]
        bins = [at for at in bins if at.sum() > 1]
        error = [1.96 * score[at].std() / np.sqrt(at.sum()) for at in bins]
        style: dict[str, Any] = {"fmt": MARKERS[n % len(MARKERS)], "ms": 4, "lw": 1.2}
        middle = [values[at].mean() for at in bins]
        ax.errorbar(
            middle, [score[at].mean() for at in bins], yerr=error, color=_colour(n), **style
        )
    ax.set_xlabel(name, fontsize=PLAIN, parse_math=False)
    ax.set_ylabel("mean score (95%)", fontsize=PLAIN)
    ax.set_title("Along the worst column", loc="left", fontsize=TITLE)


def _colour(n: int) -> str:
    return COLOURS[n % len(COLOURS)]
