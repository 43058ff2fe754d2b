"""A picture of an effect: a density, a forest, a curve against the dose, or a path over time.

Which of them follows from the effect alone. One number is a density; scenarios whose names are
numbers are doses; groups or rows that are dates are a path; everything else is a forest, with a
line for each number. All intervals are those of `Effect.summary`. The title says what is compared,
in a reader's words, and the small caption which question that is.
"""

from __future__ import annotations

import datetime
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from aimz.effects.question import Question
from aimz.effects.wording import Compared, labels_of, share_text
from aimz.errors import InputError
from aimz.libraries import pd, xr
from aimz.plots import (
    CAPTION,
    COLOURS,
    DASHES,
    GREY,
    LETTERS,
    MARKERS,
    PLAIN,
    POINT,
    SMALL,
    TITLE,
    check_matplotlib,
    interval_of,
    joined_facts,
    label_texts,
    new_axes,
    number_text,
    short_number,
    wrapped_text,
    write_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.lines import Line2D

__all__ = ["plot_effect"]


MAX_LINES = 60
INNER = 0.5  # probability of the inner interval
_SAMPLE = ("chain", "draw")
_RATIOS = ("ratio", "odds_ratio")


class _Answer(Protocol):
    """What a picture needs of an `Effect`."""

    @property
    def draws(self) -> xr.DataArray: ...
    @property
    def averages(self) -> xr.DataArray: ...
    @property
    def question(self) -> Question: ...
    @property
    def bounds(self) -> xr.DataArray | None: ...
    @property
    def rows(self) -> int: ...
    @property
    def scenarios(self) -> Compared: ...
    @property
    def redrawn(self) -> tuple[str, ...]: ...
    @property
    def fault(self) -> str: ...

    def summary(
        self, *, ci_prob: float | None = ..., ci_kind: str | None = ..., direction: str = ...
    ) -> pd.DataFrame: ...


@dataclass(frozen=True)
class _Cells:
    """The numbers of an effect: means, intervals and inner intervals, each (series, line).

    A series is a contrast and a line is a group, a category or a row; `title` says what lines are,
    and `times` are their dates, where they have some. Labels that are the only ones are in `facts`.
    """

    means: np.ndarray
    bounds: np.ndarray  # (low and high, series, line)
    inner: np.ndarray | None
    series: tuple[str, ...]
    lines: tuple[str, ...]
    title: str
    facts: tuple[str, ...]
    times: np.ndarray | None = None

    def taken(self, lines: Sequence[int] | np.ndarray) -> _Cells:
        """The lines at some places."""
        return replace(
            self,
            means=self.means[:, lines],
            bounds=self.bounds[..., lines],
            inner=None if self.inner is None else self.inner[..., lines],
            lines=tuple(self.lines[place] for place in lines),
        )

    def as_lines(self) -> _Cells:
        """One series, with a line for each number."""
        pairs = itertools.product(self.series, self.lines)
        return replace(
            self,
            means=self.means.reshape(1, -1),
            bounds=self.bounds.reshape(2, 1, -1),
            inner=None if self.inner is None else self.inner.reshape(2, 1, -1),
            series=("",),
            lines=tuple(", ".join(filter(None, pair)) for pair in pairs),
            title=", ".join(filter(None, ("contrast", self.title))) if self.title else "",
        )


def plot_effect(
    effect: _Answer,
    *,
    ax: Axes | None = None,
    ci_prob: float | None = None,
    ci_kind: str | None = None,
) -> Axes:
    """Draw an effect in the picture that suits it; `Effect.plot` is its public form."""
    check_matplotlib()
    if ax is not None and not hasattr(ax, "get_figure"):
        msg = f"ax= is Axes of Matplotlib, as plt.subplots() gives them, not {ax!r:.40}."
        raise InputError(msg, code="option-unknown")
    prob, kind = interval_of(ci_prob, ci_kind)
    cells = _cells_of(effect, prob, kind)
    interval = f"{100 * prob:.4g}% {kind}"
    both = interval if cells.inner is None else f"{interval}, inner ones {INNER:.0%}"
    doses = None if effect.question.meaning.unit == "row" else _doses_of(effect)
    if cells.means.size == 1:
        picture = ax or new_axes(3.4)
        _draw_density(picture, effect, cells)
        shown = f"line: {interval}"
    elif doses is not None and len(cells.lines) <= len(COLOURS):
        picture = ax or new_axes(4.4)
        curves = _draw_curves(picture, effect, cells, doses)
        write_legend(picture, curves, cells.lines, cells.title, is_beside=ax is None)
        shown = f"bands: {both}"
    elif cells.times is not None and len(cells.series) <= len(COLOURS):
        picture = ax or new_axes(4.0)
        paths = _draw_paths(picture, effect.question, cells, cells.times)
        write_legend(picture, paths, cells.series, "", is_beside=ax is None)
        shown = f"bands: {both}"
    else:
        cells = _forest_of(cells, is_sorted=effect.question.meaning.unit == "row")
        picture = ax or new_axes(_forest_height(cells))
        points = _draw_forest(picture, effect.question, cells)
        write_legend(picture, points, cells.series, "", is_beside=ax is None)
        shown = f"lines: {both}"
    null = effect.question.null
    dashed = () if null is None else (f"dashed: no effect ({null:g})",)
    keys = (shown, "point: mean", *dashed, *cells.facts)
    _write_words(picture, _title(effect), [_facts(effect), keys], is_own=ax is None)
    return picture


def _cells_of(effect: _Answer, prob: float, kind: str) -> _Cells:
    draws = effect.draws
    labelled = {str(d): labels_of(draws, str(d)) for d in draws.dims if d not in _SAMPLE}
    axes = {dim: label_texts(labels) for dim, labels in labelled.items()}
    shape = [len(labels) for labels in axes.values()]
    place = list(axes).index("contrast") if "contrast" in axes else None

    def shaped(values: pd.Series) -> np.ndarray:
        array = np.asarray(values, np.float64).reshape(shape)
        array = array[None] if place is None else np.moveaxis(array, place, 0)
        return array.reshape(len(array), -1)

    def bounds(table: pd.DataFrame) -> np.ndarray:
        names = [name for name in table.columns if str(name).endswith(("_lb", "_ub"))]
        return np.stack([shaped(table[name]) for name in names])

    table = effect.summary(ci_prob=prob, ci_kind=kind)
    within = effect.summary(ci_prob=INNER, ci_kind=kind) if prob > INNER else None
    single = [f"{dim}: {labels[0]}" for dim, labels in axes.items() if len(labels) == 1]
    series = axes.pop("contrast", [""])
    several = {dim: labels for dim, labels in axes.items() if len(labels) != 1}
    return _Cells(
        shaped(table["mean"]),
        bounds(table),
        None if within is None else bounds(within),
        tuple(series),
        tuple(", ".join(names) for names in itertools.product(*several.values())),
        ", ".join(several),
        tuple(single),
        _times_of(labelled[next(iter(several))]) if len(several) == 1 else None,
    )


def _times_of(labels: Sequence[Any]) -> np.ndarray | None:
    """Different dates, or durations in days, in any order; None where labels are something else."""
    if len(labels) < 3 or len(set(labels)) < len(labels):
        return None
    if all(isinstance(label, pd.Period) for label in labels):
        labels = [label.to_timestamp() for label in labels]
    if all(isinstance(label, pd.Timedelta) for label in labels):
        return np.array([label / pd.Timedelta(days=1) for label in labels])
    if all(isinstance(label, datetime.date) for label in labels):
        return np.array(labels)
    return None


def _doses_of(effect: _Answer) -> np.ndarray | None:
    """The numbers that scenarios are named by, the reference first; None where they are names."""
    if "scenario" not in effect.averages.coords or "contrast" not in effect.draws.indexes:
        return None
    doses = _numbers_of(effect.averages["scenario"].values.tolist())
    pairs = [str(label).split(" vs ") for label in effect.draws["contrast"].values.tolist()]
    contrasts = _numbers_of(itertools.chain.from_iterable(pairs))
    if doses is None or contrasts is None or len(doses) < 3 or len(set(doses)) < len(doses):
        return None
    expected = [number for dose in doses[1:] for number in (dose, doses[0])]
    if len(contrasts) != len(expected) or not np.allclose(contrasts, expected):
        return None
    return np.array(doses)


def _numbers_of(names: Iterable[Any]) -> list[float] | None:
    try:
        numbers = [math.nan if isinstance(name, bool) else float(name) for name in names]
    except (TypeError, ValueError):
        return None
    return numbers if np.all(np.isfinite(numbers)) else None


def _forest_of(cells: _Cells, *, is_sorted: bool) -> _Cells:
    """The lines to show, from the top."""
    if len(cells.lines) == 1 or len(cells.series) > len(COLOURS):
        cells = cells.as_lines()
    count, most = len(cells.lines), max(1, MAX_LINES // len(cells.series))
    order = np.arange(count)
    is_sorted = is_sorted and len(cells.title) > 0
    if is_sorted:
        order = np.argsort(-cells.means.mean(0), kind="stable")
        order = order[np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))]
    shown = cells.taken(order[:most])
    if count <= most:
        return shown
    what = "rows" if cells.title == "row" else "lines"
    spread = ", spread evenly over the order of means" if is_sorted else ""
    note = f"{len(shown.lines):,} of {count:,} {what} shown{spread}"
    return replace(shown, facts=(*shown.facts, note))


# ------------------------------------------------------------------ pictures
def _draw_density(ax: Axes, effect: _Answer, cells: _Cells) -> None:
    import arviz as az

    draws = effect.draws.squeeze([dim for dim in effect.draws.dims if dim not in _SAMPLE])
    draws = draws.drop_vars([name for name in draws.coords if name not in _SAMPLE])
    colour, null = COLOURS[0], effect.question.null
    mean, (low, high) = cells.means.item(), cells.bounds.ravel()
    peak = 1.0
    if np.ptp(draws.values) > 1e-10 * np.abs(draws.values).max():  # equal draws have no density
        with np.errstate(all="ignore"):  # its search for a bandwidth divides by 0 and recovers
            density = az.kde(draws, dim=list(_SAMPLE))
        x, y = density.sel(plot_axis="x").values, density.sel(plot_axis="y").values
        peak = float(y.max())
        ax.plot(x, y, color=colour, lw=1.5, label="_density")
        ax.fill_between(x, y, color=colour, alpha=0.15, lw=0)
    below = -0.06 * peak
    ax.plot([low, high], [below] * 2, color=colour, lw=4, solid_capstyle="butt", label="_interval")
    ax.plot([mean], [below], "o", mec="black", **POINT)
    _draw_null(ax.axvline, null)
    ax.set_ylim(-0.14 * peak, 1.3 * peak)
    ax.set_yticks([])
    ax.tick_params(labelsize=PLAIN)
    ax.spines["left"].set_visible(False)
    _write_chance(ax, effect, mean, (float(low), float(high)))
    ax.set_xlabel(_what(effect.question), fontsize=PLAIN, parse_math=False)


def _write_chance(ax: Axes, effect: _Answer, mean: float, bounds: tuple[float, float]) -> None:
    """The mean, its interval and the chance of an effect in its direction, away from the null."""
    null = effect.question.null
    low, high = map(number_text, bounds)
    lines = [f"{number_text(mean)} ({low} to {high})"]
    is_left = False
    if null is not None:
        table = effect.summary(direction=">" if mean >= null else "<")
        name = table.columns[-1]
        sizes = effect.draws.sizes
        chance = share_text(float(table[name].iloc[0]), sizes["chain"] * sizes["draw"])
        lines.append(f"{name} {chance}" if chance[0] in "<>" else f"{name} = {chance}")
        left, right = ax.get_xlim()
        is_left = null > (left + right) / 2
    elif effect.bounds is not None:
        row = effect.summary().iloc[0]
        lowest, highest = (number_text(float(row[f"{end} bound"])) for end in ("lower", "upper"))
        lines.append(f"whatever the coupling: {lowest} to {highest}")
    ax.text(
        0.01 if is_left else 0.99,
        0.98,
        "\n".join(lines),
        transform=ax.transAxes,
        ha="left" if is_left else "right",
        va="top",
        fontsize=PLAIN,
        label="_chance",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )


def _draw_forest(ax: Axes, question: Question, cells: _Cells) -> list[Line2D]:
    points: list[Line2D] = []
    count, kinds = len(cells.lines), len(cells.series)
    lines = np.arange(count, dtype=float)
    for number in range(kinds):
        y = lines + 0.7 * ((number + 0.5) / kinds - 0.5)
        colour, means, bounds = COLOURS[number], cells.means[number], cells.bounds[:, number]
        ax.hlines(y, *bounds, color=colour, lw=1.2, label="_interval")
        if cells.inner is not None:
            ax.hlines(y, *cells.inner[:, number], color=colour, lw=3.6, label="_inner")
        points += ax.plot(means, y, MARKERS[number], mec=colour if kinds > 1 else "black", **POINT)
    _draw_null(ax.axvline, question.null)
    size = SMALL if count > 30 else PLAIN
    names = [textwrap.fill(label, LETTERS) for label in cells.lines]
    ax.set_yticks(lines, names, fontsize=size, parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=PLAIN)
    ax.set_ylim(count - 0.4, -0.6)
    scale = _scale(ax.xaxis, ax.set_xscale, question, cells)
    ax.set_xlabel(_what(question) + scale, fontsize=PLAIN, parse_math=False)
    ax.set_ylabel(cells.title, fontsize=PLAIN, parse_math=False)
    return points


def _forest_height(cells: _Cells) -> float:
    deepest = max(len(textwrap.wrap(label, LETTERS)) for label in cells.lines)
    size = SMALL if len(cells.lines) > 30 else PLAIN
    pitch = max(deepest * size / 72 * 1.3, 0.15 * len(cells.series)) + 0.02
    if len(cells.lines) <= 12:
        pitch = max(pitch, 0.3)
    return 1.4 + pitch * max(2, len(cells.lines))


def _draw_curves(ax: Axes, effect: _Answer, cells: _Cells, doses: np.ndarray) -> list[Line2D]:
    question, order = effect.question, np.argsort(doses)

    def along(values: np.ndarray) -> np.ndarray:
        """Values of the contrasts, with "no effect" of the reference, in the order of doses."""
        reference = np.full_like(values[..., :1, :], question.null)
        return np.moveaxis(np.concatenate([reference, values], axis=-2)[..., order, :], -1, 0)

    curves = _draw_bands(
        ax,
        doses[order],
        along(cells.means),
        along(cells.bounds),
        None if cells.inner is None else along(cells.inner),
    )
    _finish_curves(ax, question, cells)
    dose = effect.scenarios.treatment or "dose"
    ax.set_xlabel(f"{dose}, compared with {short_number(float(doses[0]))}", fontsize=PLAIN)
    return curves


def _draw_paths(ax: Axes, question: Question, cells: _Cells, times: np.ndarray) -> list[Line2D]:
    from matplotlib import dates

    order = np.argsort(times)
    inner = None if cells.inner is None else np.moveaxis(cells.inner[..., order], 1, 0)
    bounds = np.moveaxis(cells.bounds[..., order], 1, 0)
    paths = _draw_bands(ax, times[order], cells.means[:, order], bounds, inner)
    _finish_curves(ax, question, cells)
    if times.dtype.kind == "f":
        ax.set_xlabel(f"{cells.title} (days)", fontsize=PLAIN)
        return paths
    days: Any = dates  # has no types
    locator = days.AutoDateLocator()
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(days.ConciseDateFormatter(locator))
    return paths


def _draw_bands(
    ax: Axes, x: np.ndarray, means: np.ndarray, bounds: np.ndarray, inner: np.ndarray | None
) -> list[Line2D]:
    """Curves (curve, x) with bands (curve, (low, high), x) around them."""
    curves: list[Line2D] = []
    fades = 0.6 if len(means) > 1 else 1.0
    for number, mean in enumerate(means):
        colour = COLOURS[number]
        band: dict[str, Any] = {"color": colour, "lw": 0}
        ax.fill_between(x, *bounds[number], alpha=0.2 * fades, label="_interval", **band)
        if inner is not None:
            ax.fill_between(x, *inner[number], alpha=0.35 * fades, label="_inner", **band)
        marker = MARKERS[number] if len(x) <= MAX_LINES else ""
        curves += ax.plot(x, mean, color=colour, ls=DASHES[number], marker=marker, **POINT)
    return curves


def _finish_curves(ax: Axes, question: Question, cells: _Cells) -> None:
    _draw_null(ax.axhline, question.null)
    scale = _scale(ax.yaxis, ax.set_yscale, question, cells)
    ax.tick_params(labelsize=PLAIN)
    ax.set_ylabel(_what(question) + scale, fontsize=PLAIN, parse_math=False)


def _draw_null(line: Callable[..., Any], null: float | None) -> None:
    if null is None:
        return
    line(null, color=GREY, ls=(0, (4, 3)), lw=1.0, zorder=1, label="_null")


def _scale(axis: Axis, set_scale: Callable[[str], None], question: Question, cells: _Cells) -> str:
    """Make an axis of ratios logarithmic where they differ much; what its label says of it."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if question.null is None:
        return ""
    low = min(question.null, float(cells.bounds.min()))
    high = max(question.null, float(cells.bounds.max()))
    if question.comparison not in _RATIOS or low <= 0 or high < 4 * low:
        return ""
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
    return ", log scale"


# ------------------------------------------------------------------ words
def _what(question: Question) -> str:
    if question.null is None:
        return question.wording.rstrip(",")
    return f"{question.wording} ({question.comparison.replace('_', ' ')})"


def _write_words(ax: Axes, title: str, caption: Iterable[Sequence[str]], *, is_own: bool) -> None:
    """Write the title above the picture and the caption below it, and fit labels to its size."""
    from matplotlib.figure import Figure

    ax.spines[["top", "right"]].set_visible(False)
    if isinstance(ax.figure, Figure):
        ax.figure.draw_without_rendering()  # a layout decides how wide the picture is
    box, slack = ax.get_window_extent(), 0.95 if is_own else 0.85  # others may yet be drawn beside
    for label, length in ((ax.xaxis.label, box.width), (ax.yaxis.label, box.height)):
        label.set_text(wrapped_text(ax, label.get_text(), PLAIN, slack * length))
    wrapped = wrapped_text(ax, title, TITLE, slack * box.width)
    ax.set_title(wrapped, loc="left", fontsize=TITLE, parse_math=False)
    lines = [wrapped_text(ax, joined_facts(line), CAPTION, slack * box.width) for line in caption]
    ax.annotate(
        "\n".join(lines),
        xy=(0.0, 0.0),
        xycoords=(ax.transAxes, ax.xaxis.label),
        xytext=(0, -5),
        textcoords="offset points",
        va="top",
        fontsize=CAPTION,
        color=GREY,
        parse_math=False,
        label="_caption",
        annotation_clip=False,
    )


def _title(effect: _Answer) -> str:
    """What is compared, in a reader's words: `Average effect of t on y: 1 against 0`."""
    question, compared = effect.question, effect.scenarios
    text = question.worded(compared.cause, question.site).rstrip(",") + compared.ending
    return text[0].upper() + text[1:]


def _facts(effect: _Answer) -> list[str]:
    asked, sizes = effect.question, effect.draws.sizes
    chains = f"{sizes['chain']} chain{'s' if sizes['chain'] > 1 else ''}"
    return [
        f"target: {asked.target}",
        f"population: {asked.population}",
        f"rung: {asked.rung}",
        *([f"mediator: {asked.mediator}"] if asked.mediator else []),
        f"{effect.rows:,} row{'s' if effect.rows != 1 else ''}",
        f"{sizes['chain'] * sizes['draw']:,} draws in {chains}",
        *([f"drawn anew: {', '.join(effect.redrawn)}"] if effect.redrawn else []),
        *([f"the fit is bad: {effect.fault}"] if effect.fault else []),
    ]
