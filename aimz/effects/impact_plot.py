"""The picture of an impact: the series, the effect at each time, and its sum so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from aimz.errors import InputError
from aimz.libraries import pd, xr
from aimz.plots import (
    CAPTION,
    COLOURS,
    GREY,
    PLAIN,
    TITLE,
    check_matplotlib,
    interval_of,
    joined_facts,
    label_text,
    number_text,
    wrapped_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_impact"]


_SIZE = (7.0, 7.2)  # of the figure, in inches


class _Answer(Protocol):
    """What a picture needs of an `Impact`."""

    @property
    def observed(self) -> xr.DataArray: ...
    @property
    def predicted(self) -> xr.DataArray: ...
    @property
    def before(self) -> xr.DataArray | None: ...
    @property
    def pointwise(self) -> xr.DataArray: ...
    @property
    def cumulative(self) -> xr.DataArray: ...
    @property
    def site(self) -> str: ...
    @property
    def target(self) -> str: ...

    def summary(
        self, *, ci_prob: float | None = ..., ci_kind: str | None = ...
    ) -> pd.DataFrame: ...


def plot_impact(impact: _Answer, *, ci_prob: float | None, ci_kind: str | None) -> Figure:
    """Draw an impact; `Impact.plot` is its public form."""
    check_matplotlib()
    from matplotlib import pyplot as plt

    if impact.observed.ndim > 1:
        dim = impact.observed.dims[1]
        label = impact.observed[dim].values[0]
        msg = f"There are several series. Draw one: impact.of({dim}={label!r:.40}).plot()."
        raise InputError(msg, code="series-several")
    prob, kind = interval_of(ci_prob, ci_kind)
    figure, axes = plt.subplots(3, 1, figsize=_SIZE, sharex=True, layout="constrained")
    time = str(impact.observed.dims[0])
    labels = impact.observed[time] if time in impact.observed.coords else None
    places = np.arange(impact.observed.size) if labels is None else labels.values
    if places.dtype.kind not in "iufM":
        places = np.arange(len(places))
    after = places[-impact.predicted.sizes[time] :]
    _draw_series(axes[0], impact, places, (prob, kind))
    for ax, draws in ((axes[1], impact.pointwise), (axes[2], impact.cumulative)):
        _draw_band(ax, after, draws, (prob, kind), COLOURS[0])
        ax.axhline(0.0, color=GREY, ls=(0, (4, 3)), lw=1.0, zorder=1, label="_null")
    names = (f"{impact.site}", "effect at each time", "effect so far")
    for ax, name in zip(axes, names, strict=True):
        ax.axvline(after[0], color=GREY, lw=0.8, ls=":", label="_intervention")
        ax.set_ylabel(name, fontsize=PLAIN, parse_math=False)
        ax.tick_params(labelsize=PLAIN)
        ax.spines[["top", "right"]].set_visible(False)
    axes[2].set_xlabel(time if labels is not None else "row", fontsize=PLAIN, parse_math=False)
    _write_words(figure, axes, impact, prob, kind)
    return figure


def _draw_series(ax: Axes, impact: _Answer, places: Any, interval: tuple[float, str]) -> None:
    """What was observed and predicted, before and after."""
    rows = impact.predicted.sizes[str(impact.observed.dims[0])]
    _draw_band(ax, places[-rows:], impact.predicted, interval, COLOURS[1], name="predicted")
    if impact.before is not None:
        _draw_band(ax, places[:-rows], impact.before, interval, COLOURS[1])
    marker: dict[str, Any] = {"marker": ".", "ms": 3.0} if len(places) <= 120 else {}
    ax.plot(places, impact.observed.values, color="black", lw=1.0, label="observed", **marker)
    ax.legend(fontsize=CAPTION, frameon=False, loc="best")


def _draw_band(
    ax: Axes,
    places: Any,
    draws: xr.DataArray,
    interval: tuple[float, str],
    colour: str,
    *,
    name: str = "_mean",
) -> None:
    """Mean and interval of draws at each time."""
    import arviz as az

    flat = draws.transpose("chain", "draw", ...)
    data = xr.Dataset({"x": (("chain", "draw", "time"), flat.values)})
    options: Any = {"ci_prob": interval[0], "ci_kind": interval[1], "round_to": "none"}
    there = np.isfinite(flat.values).all((0, 1))
    table = az.summary(data.fillna(0.0), kind="stats", **options)
    table = table.where(np.broadcast_to(there[:, None], table.shape))
    low, high = (column for column in table.columns if str(column)[-3:] in ("_lb", "_ub"))
    ax.fill_between(
        places, table[low], table[high], color=colour, alpha=0.25, lw=0, label="_interval"
    )
    ax.plot(places, table["mean"], color=colour, lw=1.4, label=name)


def _write_words(figure: Figure, axes: Any, impact: _Answer, prob: float, kind: str) -> None:
    """Write the title above the panels, and the table's numbers below them."""
    figure.draw_without_rendering()  # the layout decides how wide the panels are
    top, bottom = axes[0], axes[2]
    rows: Any = impact.summary(ci_prob=prob, ci_kind=kind).set_index("effect")
    time = str(impact.observed.dims[0])
    begin = impact.predicted[time].values[0]
    if time not in impact.predicted.coords:
        begin = len(impact.observed) - impact.predicted.shape[-1]
    title = f"Impact on {impact.site} from {label_text(begin)} on"
    width = top.get_window_extent().width
    top.set_title(
        wrapped_text(top, title, TITLE, width), loc="left", fontsize=TITLE, parse_math=False
    )
    ends = [
        c for c in rows.columns if str(c).startswith("absolute_") and str(c)[-3:] in ("_lb", "_ub")
    ]
    parts = [
        f"{effect} effect {number_text(rows.loc[effect, 'absolute'])} "
        f"({number_text(rows.loc[effect, ends[0]])} to {number_text(rows.loc[effect, ends[1]])})"
        for effect in ("average", "cumulative")
    ]
    keys = (f"bands: {100 * prob:.4g}% {kind}", "lines: mean", f"target: {impact.target}")
    lines = [wrapped_text(bottom, joined_facts(line), CAPTION, width) for line in (parts, keys)]
    bottom.annotate(
        "\n".join(lines),
        xy=(0.0, 0.0),
        xycoords=(bottom.transAxes, bottom.xaxis.label),
        xytext=(0, -5),
        textcoords="offset points",
        va="top",
        fontsize=CAPTION,
        color=GREY,
        parse_math=False,
        label="_caption",
        annotation_clip=False,
    )
