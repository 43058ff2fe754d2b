"""Flowcharts of Mermaid as SVG, drawn while the site is built; no browser asks a network.

Only what our pages use: `flowchart BT` and lines `a --> b`. Levels are longest ways to a node
without arrows; within a level nodes stand near what they point to (the barycentre heuristic;
Sugiyama, Tagawa and Toda, 1981, IEEE SMC 11:109).
"""

import html
import re
from collections import defaultdict
from typing import Any

BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ARROW = re.compile(r"^\s*(\w+) --> (\w+)\s*$", re.MULTILINE)
WIDTH, HEIGHT, ROW, FONT = 960, 30, 74, 14


def _levels(arrows: list[tuple[str, str]]) -> list[list[str]]:
    """Nodes by level, what everybody needs first."""
    needs = defaultdict(list)
    for user, needed in arrows:
        needs[user].append(needed)
    depth: dict[str, int] = {}

    def depth_of(node: str) -> int:
        if node not in depth:
            depth[node] = 1 + max((depth_of(other) for other in needs[node]), default=-1)
        return depth[node]

    nodes = list(dict.fromkeys(name for arrow in arrows for name in arrow))
    levels: list[list[str]] = [[] for _ in range(1 + max(depth_of(node) for node in nodes))]
    for node in nodes:
        levels[depth[node]].append(node)
    place: dict[str, float] = {}
    for level in levels:
        level.sort(key=lambda node: sum(place[n] for n in needs[node]) / max(len(needs[node]), 1))
        place.update({node: (i + 0.5) / len(level) for i, node in enumerate(level)})
    return levels


def drawn(text: str) -> str:
    """The SVG of a flowchart; it takes its colours from the page."""
    arrows = ARROW.findall(text)
    levels = _levels(arrows)
    height = ROW * len(levels)
    at = {
        node: (WIDTH * (i + 0.5) / len(level), height - ROW * (row + 0.5))
        for row, level in enumerate(levels)
        for i, node in enumerate(level)
    }
    lines = []
    for user, needed in arrows:
        (x, y), (to_x, to_y) = at[user], at[needed]
        lines.append(
            f'<line x1="{x:.0f}" y1="{y + HEIGHT / 2:.0f}" x2="{to_x:.0f}" '
            f'y2="{to_y - HEIGHT / 2 - 4:.0f}" marker-end="url(#tip)"/>'
        )
    boxes = []
    for node, (x, y) in at.items():
        wide = 9 * len(node) + 16
        boxes.append(
            f'<rect x="{x - wide / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{wide}" '
            f'height="{HEIGHT}" rx="5"/>'
            f'<text x="{x:.0f}" y="{y + FONT / 3:.0f}">{html.escape(node)}</text>'
        )
    label = html.escape("; ".join(f"{user} needs {needed}" for user, needed in arrows))
    return (
        f'<svg class="flowchart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )


def _draw_all(app: Any, _page: str, source: list[str]) -> None:
    if app.builder.format == "html":
        source[0] = BLOCK.sub(
            lambda found: f"```{{raw}} html\n{drawn(found.group(1))}\n```", source[0]
        )


def setup(app: Any) -> dict[str, bool]:
    """Draw before a page is parsed."""
    app.connect("source-read", _draw_all)
    return {"parallel_read_safe": True}
