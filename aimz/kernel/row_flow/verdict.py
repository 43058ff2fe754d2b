"""Whether rows interact: the verdict on a kernel's structural equations.

The equations were traced at another number of rows than the call has. A site whose shape changed
in one axis follows the rows there; `walk` then says which outputs keep row i to row i. The log
density is among the outputs because only it shows how a distribution reads its own parameters.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aimz.kernel.equations import Equations
from aimz.kernel.row_flow.rules import Flow
from aimz.kernel.row_flow.sources import argument, column, columns_of, measured, pooled, split
from aimz.kernel.row_flow.walk import follow, following, whole
from aimz.kernel.statements import Reading, Statement

__all__ = ["Found", "Verdict", "follows", "judge"]


_MOST_COLUMNS = 64  # of an argument whose columns are told apart


@dataclass(frozen=True)
class Found:
    """What was found out about one site."""

    statement: Statement
    rows: str
    row_axis: int | None
    parents: frozenset[str]  # sites that it reads
    inputs: frozenset[str]  # arguments that it reads
    observed: frozenset[str] = frozenset()  # arguments that its observed value is made of
    is_broadcast: bool = False  # rows x rows, though no parameter changes along both
    is_in_order: bool = True  # whether row i of what it observes is known to be of row i
    is_sized: bool = False  # in control flow, and its size follows the rows other than one by one


@dataclass(frozen=True)
class Verdict:
    """Sites, and which arguments and plates are rows; `reason` is "" when rows keep apart.

    `pooled` names the arguments and sites of which the kernel computes a statistic over the rows,
    `measured` those that it sets against one of themselves, by column where these are told apart
    (else None), and `in_priors` says that rows meet in the priors of latents that belong to none,
    if at all.
    """

    sites: dict[str, Found]
    row_inputs: frozenset[str]
    row_plates: frozenset[str]
    reason: str
    pooled: frozenset[str] = frozenset()
    measured: frozenset[tuple[str, int | None]] = frozenset()
    in_priors: bool = False


def follows(verdict: Verdict, name: str) -> bool:
    """Whether the site, or some factor in its place, has one value per row."""
    site = verdict.sites.get(name)
    if site is not None:
        return site.rows in ("leading", "scan") and site.row_axis is not None
    return any(f.statement.is_factor and f.rows == "leading" for f in verdict.sites.values())


def judge(
    here: Reading,
    there: Reading,
    traced: Equations,
    *,
    cut: frozenset[str],
    plates: frozenset[str],
    squares: frozenset[str] = frozenset(),
    known_rows: int | None = None,
    output: str = "",
) -> Verdict | None:
    """Follow the rows through the equations; None where the two readings do not match.

    `squares` are arguments that are rows along two axes. With `known_rows` the equations could be
    traced at that number only, and the axes of rows are taken from plates and, for the output and
    what the kernel computes or observes, from the leading length.
    """
    if list(here.statements) != list(there.statements):
        return None
    places = {
        name: _by_length(site, known_rows, is_output=name == output)
        if known_rows is not None
        else _place(site, there.statements[name], here.rows, there.rows)
        for name, site in here.statements.items()
    }
    flows = follow(traced.program, list(_given(traced, places, cut, squares)))
    roles: dict[str, dict[str, Flow]] = {name: {} for name in here.statements}
    for (name, role), flow in zip(traced.outputs, flows, strict=True):
        roles[name][role] = flow
    reasons = {
        site.name: _reason(site, *places[site.name], roles[site.name])
        for site in there.statements.values()
    }
    sites = {
        name: Found(
            site,
            *places[name],
            *_sources(roles[name]),
            _observed(roles[name]),
            _is_broadcast(there.statements[name], there.rows, roles[name]),
            _is_in_order(roles[name].get("observation"), places[name][1]),
            _is_sized(site, there.statements[name], places[name], known_rows),
        )
        for name, site in here.statements.items()
    }
    priors = {n for n, s in here.statements.items() if _is_global_latent(s, places[n][0])}
    read = _read({name: by_role for name, by_role in roles.items() if name not in priors})
    return Verdict(
        sites,
        cut,
        plates,
        next((reason for reason in reasons.values() if reason), ""),
        pooled(read),
        _measured(read),
        not any(reason for name, reason in reasons.items() if name not in priors),
    )


def _observed(roles: Mapping[str, Flow]) -> frozenset[str]:
    """Arguments that what a site observes is made of."""
    flow = roles.get("observation")
    return frozenset() if flow is None else split(flow.sources)[1]


def _is_global_latent(site: Statement, rows: str) -> bool:
    is_latent = site.type == "sample" and site.observation is None and not site.is_factor
    return is_latent and rows == "none"


def _read(roles: Mapping[str, Mapping[str, Flow]]) -> frozenset[str]:
    """Sources of what sites are made of; how a density reads its own parameters is no matter."""
    read = (f for by_role in roles.values() for role, f in by_role.items() if role != "density")
    return frozenset[str]().union(*(flow.sources for flow in read))


def _measured(sources: frozenset[str]) -> frozenset[tuple[str, int | None]]:
    """Arguments and sites that are set against a statistic of themselves, by column."""
    found = measured(sources)
    names = frozenset[str]().union(*split(found))
    return frozenset((n, k) for n in names for k in columns_of(n, found) or (None,))


def _place(here: Statement, there: Statement, rows: int, probe: int) -> tuple[str, int | None]:
    """How a site's size follows the rows, and the axis when it is one value per row."""
    before, after = here.shape, there.shape
    changed = [a for a, size in enumerate(before) if after[a : a + 1] != (size,)]
    axis = changed[0] if len(changed) == 1 and len(before) == len(after) else None
    if axis is not None and (before[axis], after[axis]) != (rows, probe):
        axis = None
    if here.in_control_flow:
        return "scan", axis
    if before == after:
        return "none", None
    return ("sized", None) if axis is None else ("leading", axis)


def _by_length(site: Statement, rows: int, *, is_output: bool) -> tuple[str, int | None]:
    """The same for a kernel that runs at one number of rows only.

    Of a latent whose size may be that of the rows it is not known that it does not follow them.
    """
    if site.in_control_flow:
        return "scan", 0 if site.shape[:1] == (rows,) else None
    event_dim = getattr(site.fn, "event_dim", 0)
    for frame in site.frames:
        axis = len(site.shape) - event_dim + frame.dim
        if frame.size == rows and 0 <= axis < len(site.shape) and site.shape[axis] == rows:
            return "leading", axis
    computed = is_output or site.type == "deterministic" or site.observation is not None
    if computed and site.shape[:1] == (rows,):
        return "leading", 0
    sizes = {*site.shape, math.prod(site.shape)}
    may_follow = site.type == "sample" and not computed and sizes & {rows, rows - 1} - {0, 1}
    return ("sized" if may_follow else "none"), None


def _is_sized(
    here: Statement, there: Statement, place: tuple[str, int | None], known_rows: int | None
) -> bool:
    """Whether the size of a site in control flow follows the rows other than one by one."""
    if place != ("scan", None):
        return False
    return here.shape != there.shape if known_rows is None else bool(here.shape)


def _given(
    traced: Equations,
    places: Mapping[str, tuple[str, int | None]],
    cut: frozenset[str],
    squares: frozenset[str],
) -> Iterable[Flow]:
    """What is known of each input of the equations."""
    for (kind, name), aval in zip(traced.inputs, traced.program.in_avals, strict=True):
        shape = tuple(aval.shape)
        rows, axis = places.get(name, ("none", None)) if kind == "site" else ("none", None)
        source = argument(name)
        if kind == "argument" and name in squares:
            yield Flow(shape, mixed=f"'{name}' joins rows", sources=frozenset({source}))
        elif kind == "argument":
            yield _argument(name, shape) if name in cut else whole(shape, source)
        elif rows in ("sized", "scan"):
            yield Flow(shape, mixed=f"'{name}' holds several rows", sources=frozenset({name}))
        elif axis is not None:
            yield following(shape, axis, name)
        else:
            yield whole(shape, *([name] if name else []))


def _argument(name: str, shape: tuple[int, ...]) -> Flow:
    """An argument of rows, whose columns are told apart where they are few."""
    numbers = range(shape[1]) if len(shape) == 2 and shape[1] <= _MOST_COLUMNS else ()
    columns = [column(name, number) for number in numbers]
    return following(shape, 0, argument(name), *columns, is_given=bool(columns))


def _sources(roles: Mapping[str, Flow]) -> tuple[frozenset[str], frozenset[str]]:
    """Sites and arguments that a site reads; its own value and what it observes do not count."""
    read = (f.sources for r, f in roles.items() if r not in ("density", "observation"))
    return split(frozenset[str]().union(*read))


def _is_broadcast(site: Statement, rows: int, roles: Mapping[str, Flow]) -> bool:
    """Whether a site has rows along two axes only because a column met a line."""
    axes = [a for a, size in enumerate(site.shape) if size == rows]
    if site.type != "sample" or len(axes) < 2:
        return False
    parameters = [f for role, f in roles.items() if role.startswith("parameter")]
    return not any(
        len(f.shape) > max(axes) and not any(f.axis != a and f.is_same(a) for a in axes)
        for f in parameters
    )


def _is_in_order(observation: Flow | None, axis: int | None) -> bool:
    """Whether what a site observes follows the rows one by one, if it has rows at all."""
    return observation is None or axis is None or observation.axis == axis


def _reason(site: Statement, rows: str, axis: int | None, roles: Mapping[str, Flow]) -> str:
    """Why rows meet at a site; "" when they do not."""
    if rows == "scan":
        return f"Site '{site.name}' is inside NumPyro's scan or cond, where rows follow each other."
    if rows == "sized":
        return (
            f"Site '{site.name}' has shape {site.shape} at another number of rows: "
            "its size follows the rows other than one by one."
        )
    if axis is not None and site.type == "sample" and axis >= len(site.fn.batch_shape):
        return (
            f"The rows of site '{site.name}' are one event of its distribution. "
            "A plate instead of to_event would keep them apart."
        )
    mixed = next((f.mixed for role, f in roles.items() if f.mixed and role != "observation"), "")
    if mixed:
        return f"Rows meet at site '{site.name}': {mixed}."
    if axis is None:
        return _reason_of_global(site, roles)
    if site.type == "param":
        return f"Parameter '{site.name}' has one value per row."
    if site.type == "sample" and "density" not in roles:
        return f"The distribution of site '{site.name}' has no log density to look at."
    role = "value" if site.type == "deterministic" else "density"
    flow = roles.get(role)
    if flow is not None and not _is_by_row(flow, axis):
        return f"Site '{site.name}' follows the rows in size, but not row by row."
    return ""


def _is_by_row(flow: Flow, axis: int) -> bool:
    """Whether row i of a value needs row i only, along this axis."""
    if flow.axis is not None:
        return flow.axis == axis
    return len(flow.shape) > axis and flow.is_same(axis)


def _reason_of_global(site: Statement, roles: Mapping[str, Flow]) -> str:
    """A site that belongs to no row may not read one."""
    if any(flow.axis is not None for role, flow in roles.items() if role != "observation"):
        return f"Site '{site.name}' is one for all rows but reads them."
    return ""
