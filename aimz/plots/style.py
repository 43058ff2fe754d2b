"""One style for every picture."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from aimz.choices import check_interval
from aimz.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = [
    "CAPTION",
    "COLOURS",
    "DASHES",
    "GREY",
    "LETTERS",
    "MARKERS",
    "PLAIN",
    "POINT",
    "SMALL",
    "TITLE",
    "check_matplotlib",
    "interval_of",
    "joined_facts",
    "new_axes",
    "wrapped_text",
    "write_legend",
]


# Okabe and Ito's colours without yellow, which is not seen on white; markers and dashes tell them
# apart in grey.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#000000", "#7F7F7F"),
)
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (9, 3)))
GREY = "#555555"
POINT: dict[str, Any] = {"mfc": "white", "ms": 4.5, "mew": 1.2, "label": "_mean", "zorder": 4}
SMALL, CAPTION, PLAIN, TITLE = 7, 7.5, 9, 11  # sizes of text, in points
WIDTH = 7.0  # of a figure, in inches
LETTERS = 30  # in a line of a label
_NO_BREAK = "\N{NO-BREAK SPACE}"


def check_matplotlib() -> None:
    """Say how to install Matplotlib where it is missing."""
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError as error:
        msg = "Plots need Matplotlib, which is not installed. Run: pip install matplotlib"
        raise InputError(msg, code="plots-missing") from error


def new_axes(height: float) -> "Axes":
    """Axes of a new picture."""
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(WIDTH, height), layout="constrained")[1]


# ------------------------------------------------------------------ numbers
def interval_of(ci_prob: float | None, ci_kind: str | None) -> tuple[float, str]:
    """Probability and kind of the intervals, ArviZ's own where not given."""
    import arviz as az

    check_interval(ci_prob, ci_kind)
    prob = az.rcParams["stats.ci_prob"] if ci_prob is None else ci_prob
    return float(prob), az.rcParams["stats.ci_kind"] if ci_kind is None else ci_kind


def write_legend(
    ax: "Axes", handles: "list[Line2D]", names: Sequence[str], title: str, *, is_beside: bool
) -> None:
    """Names of what is told apart by colour; beside the picture where the figure is our own."""
    if len(names) < 2:
        return
    place: dict[str, Any] = {"loc": "best"}
    if is_beside:
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    legend = ax.legend(
        *(handles, [str(number) for number in range(len(names))]),
        **place,
        title=title,
        fontsize=CAPTION,
        title_fontsize=CAPTION,
        frameon=not is_beside,
        handlelength=3.0,
    )
    legend.get_title().set_parse_math(False)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(textwrap.fill(name, LETTERS))  # a legend leaves names out that begin with "_"


def wrapped_text(ax: "Axes", text: str, size: float, length: float) -> str:
    """Text in lines of at most `length` pixels."""
    probe = ax.text(0, 0, text, fontsize=size, parse_math=False, transform=ax.transAxes)
    width = probe.get_window_extent().width
    probe.remove()
    letters = int(len(text) * length / max(width, 1.0))
    return textwrap.fill(text, max(letters, 20), break_on_hyphens=False).replace(_NO_BREAK, " ")


def joined_facts(parts: Iterable[str]) -> str:
    """A line that is broken between its parts, and within long ones."""
    return "; ".join(p if len(p) > LETTERS else p.replace(" ", _NO_BREAK) for p in parts)
