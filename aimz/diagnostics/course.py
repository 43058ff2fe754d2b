"""Pictures of how a fit went, which ArviZ does not have: a loss, and an evidence by runs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.diagnostics.pictures import judged, refusal
from aimz.errors import InputError
from aimz.libraries import xr
from aimz.model import ImpactModel
from aimz.plots import CAPTION, COLOURS, GREY, MARKERS, PLAIN, TITLE, check_matplotlib

if TYPE_CHECKING:
    from arviz_plots import PlotCollection  # type: ignore[attr-defined]  # is lazy
    from matplotlib.axes import Axes

__all__ = ["plot_evidence", "plot_loss"]


_FEWEST_STEPS = 20  # of a loss, of which quarters are compared


def plot_loss(im: ImpactModel) -> PlotCollection:
    """Draw the loss of a guide, and whether it had stopped falling.

    Left all steps; right the second half, with the means of its two halves. By these, or by
    windows as long, a fit is said to have reached a plateau (`diagnostics_["plateau"]`).

    Parameters
    ----------
    im : ImpactModel
        A model fitted by SVI.

    Returns
    -------
    arviz_plots.PlotCollection
        The picture, by Matplotlib: `data` is what is drawn, `savefig(path)` writes it.

    Raises
    ------
    InputError
        `no-picture`: the fit has no loss; `plots-missing`.

    Examples
    --------
    >>> plot_loss(ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)}))
    Traceback (most recent call last):
    aimz.errors.InputError: There is no picture of the loss: a posterior that was set has none. ...
    """
    check_matplotlib()
    from matplotlib import pyplot as plt

    losses = _losses_of(im)
    steps, quarter = np.arange(1, len(losses) + 1), len(losses) // 4
    means = [float(losses[-2 * quarter : -quarter].mean()), float(losses[-quarter:].mean())]
    axes: Any = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")[1]
    late = slice(-2 * quarter, None)
    for ax, shown in zip(axes, (slice(None), late), strict=True):
        ax.plot(steps[shown], losses[shown], color=COLOURS[0], lw=0.8, label="loss")
    ends = (steps[-2 * quarter], steps[-quarter], steps[-1])
    for place, name in enumerate(("third", "last")):
        where: dict[str, Any] = {
            "xmin": ends[place],
            "xmax": ends[place + 1],
            "label": f"mean of the {name} quarter",
        }
        axes[1].hlines(means[place], **where, color=COLOURS[1 + place], lw=2, zorder=3)
    said = {"True": ": a plateau", "False": ": still falling"}.get(
        str(im.diagnostics_.get("plateau")), ""
    )
    _dress(axes[0], "step", "loss (nats)", "All steps")
    _dress(axes[1], "step", "", f"The second half{said}")
    axes[1].legend(fontsize=CAPTION, frameon=False)
    drawn = xr.Dataset({"loss": ("step", losses), "mean": ("quarter", means)})
    drawn = drawn.assign_coords(step=steps, quarter=[3, 4])
    return judged(_collected(drawn, axes), im)


def plot_evidence(im: ImpactModel) -> PlotCollection:
    """Draw the log evidence of each run, and how sequential Monte Carlo came by it.

    Left, of SMC, what each temperature adds: a run whose increments differ from the others' at
    one temperature has lost, or found, a mode there. Right the log evidence of each run, and
    the log of their mean with twice its standard error.

    Parameters
    ----------
    im : ImpactModel
        A model fitted by ``inference="smc"`` or ``"nested"``.

    Returns
    -------
    arviz_plots.PlotCollection
        The picture, by Matplotlib: `data` is what is drawn, `savefig(path)` writes it.

    Raises
    ------
    InputError
        `no-picture`: the fit has no evidence by runs; `plots-missing`.

    Examples
    --------
    >>> plot_evidence(ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)}))
    Traceback (most recent call last):
    aimz.errors.InputError: There is no picture of the evidence by runs: ...
    """
    check_matplotlib()
    from matplotlib import pyplot as plt

    health = im.diagnostics_
    if "log_evidence_by_run" not in health:
        at_hand = "log_evidence" in health
        why = "has one number, im.log_evidence_, and no runs" if at_hand else "has none"
        raise refusal("the evidence by runs", im, why, "Fit with inference='smc' or 'nested'")
    by_run = np.asarray(health["log_evidence_by_run"])
    drawn = xr.Dataset({"log_evidence": ("run", by_run)})
    has_ladder = "ladder_by_run" in health
    panels = 1 + has_ladder
    size: Any = {"figsize": (4.5 * panels, 3.6), "layout": "constrained", "squeeze": False}
    grid: Any = plt.subplots(1, panels, **size)[1]
    axes = list(grid[0])
    if has_ladder:
        ladder = np.asarray(health["ladder_by_run"])
        increments = np.asarray(health["log_evidence_increments"])
        drawn["increment"] = ("run", "temperature"), increments
        drawn["share"] = ("run", "temperature"), ladder
        _draw_increments(axes[0], ladder, increments)
    mean, error = health["log_evidence"], health["log_evidence_se"]
    axes[-1].plot(np.arange(1, len(by_run) + 1), by_run, "o", color=COLOURS[0], label="a run")
    axes[-1].axhline(mean, color=COLOURS[1], lw=1.2, label="log of their mean")
    if np.isfinite(error):
        band: dict[str, Any] = {
            "color": COLOURS[1],
            "alpha": 0.15,
            "lw": 0,
            "label": "twice its standard error",
        }
        axes[-1].axhspan(mean - 2 * error, mean + 2 * error, **band)
    axes[-1].set_xticks(np.arange(1, len(by_run) + 1))
    axes[-1].set_xlim(0.5, len(by_run) + 0.5)
    _dress(axes[-1], "run", "log evidence (nats)", "The runs")
    axes[-1].legend(fontsize=CAPTION, frameon=False)
    return judged(_collected(drawn, axes), im)


def _losses_of(im: ImpactModel) -> np.ndarray:
    """The losses of a fit by SVI."""
    advice = "Fit with inference='svi' for it"
    try:
        losses = np.asarray(im.vi_result.losses, np.float64)
    except InputError as error:
        raise refusal("the loss", im, "has none", advice) from error
    if len(losses) < _FEWEST_STEPS:
        why = f"kept {len(losses)} losses, of at least {_FEWEST_STEPS}"
        raise refusal("the loss", im, why, advice)
    return losses


def _draw_increments(ax: Axes, ladder: np.ndarray, increments: np.ndarray) -> None:
    """What each temperature added to the log evidence of each run."""
    for run, (shares, added) in enumerate(zip(ladder, increments, strict=True)):
        # A run that is at the posterior waits for the others, and adds nothing.
        moved = np.diff(shares, prepend=0.0) > 0
        look: dict[str, Any] = {
            "color": COLOURS[run % len(COLOURS)],
            "marker": MARKERS[run % len(MARKERS)],
        }
        ax.plot(shares[moved], added[moved], lw=0.8, ms=3.5, label=f"run {run + 1}", **look)
    ax.set_xscale("log")
    _dress(ax, "share of the likelihood (log)", "added to the log evidence (nats)", "The ladder")
    if len(ladder) <= len(COLOURS):
        ax.legend(fontsize=CAPTION, frameon=False)


def _dress(ax: Axes, x: str, y: str, title: str) -> None:
    ax.set_xlabel(x, fontsize=PLAIN)
    ax.set_ylabel(y, fontsize=PLAIN)
    ax.set_title(title, fontsize=TITLE, loc="left")
    ax.tick_params(labelsize=PLAIN, color=GREY)
    ax.spines[["top", "right"]].set_visible(False)


def _collected(drawn: xr.Dataset, axes: Sequence[Axes]) -> PlotCollection:
    """A picture of our own, held as ArviZ holds its."""
    panels = np.empty(len(axes), object)
    panels[:] = axes
    parts = {"figure": xr.DataArray(axes[0].figure), "plot": ("panel", panels)}
    collection: Any = importlib.import_module("arviz_plots").PlotCollection
    picture: PlotCollection = collection(
        drawn, xr.DataTree(xr.Dataset(parts)), backend="matplotlib"
    )
    return picture
