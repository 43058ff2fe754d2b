"""The graph of a kernel's rows: from left to right in the order of what follows from what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from aimz.identification.graph import Graph
from aimz.plots import (
    CAPTION,
    COLOURS,
    GREY,
    PLAIN,
    TITLE,
    check_matplotlib,
    new_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_assumptions"]


type Place = tuple[float, float]
_NEAR = 0.3  # of a straight arrow, within which it would run through a variable
_STYLES: dict[str, dict[str, Any]] = {
    "effect": {"color": COLOURS[1], "lw": 2.0},
    "shared": {"color": COLOURS[0], "lw": 1.6},
    "plain": {"color": GREY, "lw": 0.9},
}


class _Report(Protocol):
    """What a picture needs of an `Assumptions`."""

    @property
    def treatment(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def graph(self) -> Graph: ...
    def role(self, name: str) -> str: ...


def plot_assumptions(report: _Report, *, ax: Axes | None = None) -> Axes:
    """Draw the variables and arrows; `Assumptions.plot` is its public form."""
    check_matplotlib()
    roles = {node: report.role(node) for node in report.graph.parents}
    places = _places(report.graph, roles)
    heights = [height for _, height in places.values()]
    picture = ax or new_axes(1.6 + 0.8 * (max(heights) - min(heights)))
    patches = {node: _write(picture, report, node, places[node], roles[node]) for node in places}
    kinds = dict.fromkeys(_STYLES, 0)
    for parent, child, kind in _arrows(report.graph, roles):
        kinds[kind] += 1
        ends = {"patchA": patches[parent], "patchB": patches[child], "mutation_scale": 12}
        bend = f"arc3,rad={0.3 if _is_in_the_way(places, parent, child) else 0.0}"
        picture.annotate(
            "",
            xy=places[child],
            xytext=places[parent],
            arrowprops={"arrowstyle": "-|>", "connectionstyle": bend, **ends, **_STYLES[kind]},
            zorder=4,
        )
    widths = [width for width, _ in places.values()]
    picture.set_xlim(min(widths) - 0.5, max(widths) + 0.5)
    picture.set_ylim(min(heights) - 0.6, max(heights) + 0.6)
    picture.set_axis_off()
    title = f"What '{report.outcome}' and '{report.treatment}' follow from"
    picture.set_title(title, fontsize=TITLE, loc="left")
    _explain(picture, kinds)
    return picture


def _write(picture: Axes, report: _Report, node: str, place: Place, role: str) -> Any:
    """Write a variable in a box; gives the box."""
    is_hidden = node not in report.graph.observed
    colour = _STYLES[_kind_of_node(role)]["color"]
    box = {"boxstyle": "round,pad=0.4", "fc": "white", "ec": colour, "lw": 1.4}
    shown = picture.text(
        *place,
        node,
        parse_math=False,
        fontsize=PLAIN,
        ha="center",
        va="center",
        zorder=3,
        bbox={**box, "ls": "--" if is_hidden else "-"},
    )
    return shown.get_bbox_patch()


def _kind_of_node(role: str) -> str:
    if role in ("treatment", "outcome", "mediator"):
        return "effect"
    return "shared" if role == "confounder" else "plain"


def _arrows(graph: Graph, roles: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Each arrow, and whether it carries the effect or what treatment and outcome share."""
    ends = {node for node, role in roles.items() if role in ("treatment", "outcome")}
    path = {node for node, role in roles.items() if _kind_of_node(role) == "effect"}
    shared = {node for node, role in roles.items() if role == "confounder"}
    carried = {n for c in shared for n in graph.below(c) if roles[n] == "covariate"}
    toward = ends | path | shared | carried
    for child, above in graph.parents.items():
        for parent in sorted(above):
            if {parent, child} <= path:
                yield parent, child, "effect"
            elif parent in shared | carried and child in toward:
                yield parent, child, "shared"
            else:
                yield parent, child, "plain"


def _places(graph: Graph, roles: Mapping[str, str]) -> dict[str, Place]:
    """Treatment, mediators and outcome on one line, causes above it, the rest below."""
    order = sorted(graph.parents, key=lambda node: (_kind_of_node(roles[node]) != "effect", node))
    taken: set[Place] = set()
    places = {}
    for node in order:
        column, step = float(_depth(graph, node)), 0.0
        is_cause = roles[node] in ("confounder", "covariate", "instrument")
        side = 1.0 if is_cause else -1.0
        if _kind_of_node(roles[node]) != "effect":
            step = side
        while (column, step) in taken:
            step += side
        taken.add((column, step))
        places[node] = (column, step)
    return places


def _depth(graph: Graph, node: str) -> int:
    """Length of the longest path that leads to a variable."""
    return max((1 + _depth(graph, parent) for parent in graph.parents[node]), default=0)


def _is_in_the_way(places: Mapping[str, Place], parent: str, child: str) -> bool:
    """Whether a straight arrow would run through another variable."""
    (x0, y0), (x1, y1) = places[parent], places[child]
    length = (x1 - x0) ** 2 + (y1 - y0) ** 2
    for node, (x, y) in places.items():
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length
        off = math.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
        if node not in (parent, child) and 0 < along < 1 and off < _NEAR:
            return True
    return False


def _explain(picture: Axes, kinds: Mapping[str, int]) -> None:
    from matplotlib.lines import Line2D

    words = {"effect": "carries the effect", "shared": "from a cause of both", "plain": "other"}
    lines = [Line2D([], [], **_STYLES[kind], label=words[kind]) for kind in kinds if kinds[kind]]
    lines.append(Line2D([], [], color=GREY, ls="--", lw=1.2, label="hidden (dashed box)"))
    picture.legend(
        handles=lines,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=len(lines),
        fontsize=CAPTION,
        frameon=False,
    )
