"""Expected utility of rules of whom to treat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aimz.libraries import pd
from aimz.plots import CAPTION, COLOURS, GREY, PLAIN, POINT, TITLE, check_matplotlib, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_policies"]


def plot_policies(policies: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each rule's utility with its interval; `Decision.plot` is its public form."""
    check_matplotlib()
    picture = ax or new_axes(1.5 + 0.5 * len(policies))
    best = policies["utility"].idxmax()
    for place, row in policies.iterrows():
        colour = COLOURS[1] if place == best else COLOURS[0]
        height = -float(str(place))
        picture.hlines(height, row["low"], row["high"], color=colour, lw=2)
        picture.plot(row["utility"], height, "o", color=colour, **POINT)
    picture.axvline(0.0, color=GREY, ls="--", lw=0.8)
    names = [f"{row['policy']} ({row['treated']:.0%} treated)" for _, row in policies.iterrows()]
    picture.set_yticks([-float(place) for place in range(len(names))], names, fontsize=PLAIN)
    picture.set_ylim(-len(names) + 0.5, 0.5)
    picture.set_xlabel("expected utility per row", fontsize=PLAIN)
    picture.set_title("Whom to treat", fontsize=TITLE, loc="left")
    picture.figure.supxlabel(
        "lines: intervals of the summary; dashed: treat nobody", fontsize=CAPTION, color=GREY
    )
    return picture
