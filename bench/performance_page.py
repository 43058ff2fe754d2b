"""The page on performance, from measurements: tables, pictures, and advice that quotes them."""

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, Workload

__all__ = ["page_of", "write_page"]

type Run = dict[str, Any]

TEMPLATE = Path(__file__).with_suffix(".md")
FIGURES = (
    "![seconds and memory by the number of rows](performance_growth.png)",
    "",
    "![milliseconds by the rows of a request](performance_latency.png)",
)

# By workload, what a profile says bounds it, should its goal be missed.
BOUNDS = {
    "small": (
        "of 2.7 ms in a plain loop, .2 are the compiled program, .2 its arguments, .7 the result's "
        "tree in xarray, .5 the containers, labels, checks and hashes of the rows, .15 the values "
        "as NumPy's; the rest are small pieces."
    ),
    "first": (
        "of .9 s, .2 are nine traces at other numbers of rows, which tell that rows keep apart; "
        ".16 the import of Dask, which xarray asks for; .13 XLA's two compilations; .1 the trace "
        "of a tile."
    ),
    "mixed": (
        "the first request takes most of the time that the goal leaves. Each of the 45 new numbers "
        "of rows after it needs one trace of the kernel, 8 ms of JAX and NumPyro, 3 to name what "
        "was traced, and 3 for the request."
    ),
    "neural": (
        "of 6.8 s, 6.5 are in XLA, and the published package has as many: 9 x 10^11 operations of "
        "products of matrices, and 4 x 10^9 hyperbolic tangents."
    ),
    "difference": (
        "of 5.5 s, 2.9 draw 4 x 10^8 outcomes, .9 write the difference, .8 read it for the mean. "
        "One program for both scenarios is no faster: XLA draws the noise once for each."
    ),
    "fit": (
        "of .2 s, .06 hash the rows, by which later calls know them, .03 shuffle, .02 hand them to "
        "JAX; about .1 is left for the 367 steps, and the goal is shorter than that."
    ),
    "densities": (
        "of 4.6 s, 3.2 write 1.6 GB of numbers of double precision, which do not shrink. To write "
        "as many bytes and do nothing else takes 3 s: half of them would be over the goal, too."
    ),
    "import": "264 modules of ours, .17 s, beside NumPyro's .7: no other package is imported.",
}


def value_of(workload: Workload, run: Run) -> dict[str, float]:
    """The call that a workload is about: the first, the median of the others, or all."""
    if workload.measure == "process":
        return dict(run["process"])
    calls = run["calls"]
    chosen = calls[:1] if workload.measure == "cold" else calls[1:]
    return {name: statistics.median(call[name] for call in chosen) for name in chosen[0]}


def runs_of(workload: Workload, runs: list[Run], library: str) -> list[Run]:
    """The processes of one library that have measured a workload."""
    name = workload.of or workload.name
    return [run for run in runs if (run["workload"], run["library"]) == (name, library)]


def medians(workload: Workload, runs: list[Run], library: str) -> dict[str, float] | None:
    """Medians over the rounds of one library; None where there are none."""
    own = runs_of(workload, runs, library)
    values = [value_of(workload, run) for run in own if "error" not in run]
    if not values:
        return None
    return {"rounds": len(values)} | {
        name: statistics.median(value[name] for value in values) for name in values[0]
    }


def seconds(value: float) -> str:
    """A time with three digits or so."""
    if value < 0.9995:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 999.5 else f"{value:,.0f} s"


def goal_of(workload: Workload, ours: dict[str, float], theirs: dict[str, float] | None) -> str:
    """What is wanted, and whether it is so."""
    if workload.most is not None:
        met = ours["seconds"] <= workload.most
        return f"{seconds(workload.most)}: {'yes' if met else 'no'}"
    if workload.faster is None or theirs is None:
        return ""
    met = theirs["seconds"] >= workload.faster * ours["seconds"]
    return f"{workload.faster:.3g} times: {'yes' if met else 'no'}"


def is_missed(workload: Workload, runs: list[Run]) -> bool:
    """Whether a goal was measured and not met."""
    ours, theirs = (medians(workload, runs, name) for name in ("here", workload.rival))
    return ours is not None and goal_of(workload, ours, theirs).endswith(": no")


def bounds(runs: list[Run]) -> Iterator[str]:
    """For each goal that is missed, what bounds it."""
    missed = [workload for workload in WORKLOADS if is_missed(workload, runs)]
    if not missed:
        return
    yield "Where a goal is missed, a profile says what bounds it; s are seconds of one processor:"
    yield ""
    for workload in missed:
        yield f"- {workload.what}: {BOUNDS.get(workload.name, 'not known.')}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def times(runs: list[Run]) -> Iterator[str]:
    """The table of times."""
    yield line("what", "", "published", "NumPyro, jitted", "here", "times faster", "goal met")
    yield line("---", "---", *["---:"] * 4, "---")
    for workload in (w for w in WORKLOADS if not w.figure):
        found = {name: medians(workload, runs, name) for name in workload.entrants}
        ours, theirs = found.get("here"), found.get(workload.rival)
        if ours is None:
            continue
        cells = [
            f"{seconds(value['seconds'])}{' (ArviZ)' if name == 'arviz' else ''}"
            if (value := found.get(name)) is not None
            else ""
            for name in ("arviz" if workload.rival == "arviz" else "published", "numpyro")
        ]
        ratio = f"{theirs['seconds'] / ours['seconds']:.3g}" if theirs else ""
        goal = goal_of(workload, ours, theirs)
        yield line(workload.what, workload.measure, *cells, seconds(ours["seconds"]), ratio, goal)


def costs(runs: list[Run]) -> Iterator[str]:
    """The table of memory, disk and compilations."""
    names = ("published", "here")
    heads = [f"{what}, {name}" for what in ("MB of memory", "MB on disk") for name in names]
    yield line("what", *heads, *(f"compiled at first, {name}" for name in names))
    yield line("---", *["---:"] * 6)
    for workload in (w for w in WORKLOADS if w.measure != "process" and w.kind != "left out"):
        found = [medians(workload, runs, name) for name in names]
        if workload.of or workload.figure == "latency" or found[1] is None:
            continue
        cells = [
            f"{value[what]:,.0f}" if value else "" for what in ("memory", "disk") for value in found
        ]
        yield line(workload.what, *cells, *(compiled(workload, runs, name) for name in names))


def compiled(workload: Workload, runs: list[Run], library: str) -> str:
    """Programs that the first call compiles."""
    own = runs_of(workload, runs, library)
    counts = [run["calls"][0]["compilations"] for run in own if "error" not in run]
    return f"{statistics.median(counts):,.0f}" if counts else ""


def failures(runs: list[Run]) -> Iterator[str]:
    for run in runs:
        if "error" in run:
            yield f"- {run['workload']}, {run['library']}, round {run['turn'] + 1}: {run['error']}"


def setting(record: dict[str, Any]) -> Iterator[str]:
    """Machine, versions, rounds, and how busy others kept it."""
    machine, runs = record["machine"], [run for run in record["runs"] if "error" not in run]
    if not runs:
        yield "Nothing has been measured of this version yet: run `make bench`."
        return
    yield (
        f"{machine['processor']}, {machine['processors']} processors, {machine['memory']} GiB. "
        f"Rounds: {max((run['turn'] for run in runs), default=-1) + 1}. Others took "
        f"{statistics.median(run['process']['others'] for run in runs):.0%} of the processors "
        "at the median while a process ran, the system's own work for it included."
    )
    yield ""
    for library in ("published", "here", "numpyro"):
        own = [run for run in runs if run["library"] == library]
        if own:
            listed = ", ".join(f"{name} {v}" for name, v in own[-1]["versions"].items())
            yield f"- {library}: {listed}"


def cache_effect(runs: list[Run]) -> str:
    """What the persistent cache makes of first calls."""
    named = {workload.name: workload for workload in WORKLOADS}
    told = []
    for what, one, other in (
        ("The first request", "cache", "first"),
        ("The first fit of 120 sites, which is nearly all compilation,", "cached sites", "sites"),
    ):
        filled, without = (medians(named[name], runs, "here") for name in (one, other))
        if filled and without:
            told.append(
                f"{what} took {seconds(filled['seconds'])} with a filled cache, and "
                f"{seconds(without['seconds'])} without."
            )
    return " ".join(told)


def page_of(record: dict[str, Any]) -> str:
    """The page of some measurements."""
    runs = record["runs"]
    failed = list(failures(runs))
    parts = {
        "times": times(runs),
        "bounds": bounds(runs),
        "costs": costs(runs),
        "cache": [cache_effect(runs)],
        "figures": FIGURES if runs else (),
        "setting": [*setting(record), *(["", "Not measured:", "", *failed] if failed else [])],
    }
    page = TEMPLATE.read_text()
    for name, lines in parts.items():
        page = page.replace(f"{{{name}}}", "\n".join(lines))
    return "\n".join(line.rstrip() for line in page.splitlines()) + "\n"


def curve(runs: list[Run], figure: str, library: str, what: str) -> tuple[list[int], list[float]]:
    """Sizes and medians of one library, for a picture."""
    points = {}
    for workload in WORKLOADS:
        value = medians(workload, runs, library)
        is_small = figure == "latency" and workload.name == "small"
        if value is not None and (workload.figure == figure or is_small):
            rows = workload.sizes["rows"]
            points[rows[0] if isinstance(rows, list) else rows] = value[what]
    return sorted(points), [points[rows] for rows in sorted(points)]


def draw(runs: list[Run], directory: Path) -> None:
    """Both pictures."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    panels: dict[str, list[tuple[str, str, Callable[[float], float]]]] = {
        "growth": [
            ("seconds", "seconds, first call", lambda value: value),
            ("memory", "MB beyond the rows", lambda value: max(value, 0.1)),
        ],
        "latency": [("seconds", "milliseconds, warm", lambda value: 1000 * value)],
    }
    for figure, measures in panels.items():
        size = (4.2 * len(measures), 3.2)
        canvas, axes = plt.subplots(1, len(measures), figsize=size, squeeze=False)
        for axis, (what, label, unit) in zip(axes[0], measures, strict=True):
            for library in ("published", "numpyro", "here"):
                rows, values = curve(runs, figure, library, what)
                if rows:
                    axis.plot(rows, [unit(value) for value in values], "o-", label=library)
            axis.set(xscale="log", yscale="log", xlabel="rows", ylabel=label)
            axis.spines[["top", "right"]].set_visible(False)
        if axes[0][0].lines:
            axes[0][0].legend(frameon=False)
        canvas.tight_layout()
        canvas.savefig(directory / f"performance_{figure}.png", dpi=110, metadata={"Software": ""})
        plt.close(canvas)


def write_page(measured: Path) -> None:
    """Write the page and its pictures beside the measurements."""
    record = json.loads(measured.read_text())
    measured.with_suffix(".md").write_text(page_of(record))
    if record["runs"]:
        draw(record["runs"], measured.parent)
