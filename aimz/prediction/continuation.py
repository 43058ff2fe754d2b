"""Rows that go on where the fitted ones end: what of the posterior they keep.

A latent that belongs to rows is known for the first of them and drawn from the kernel after them,
as the path of a level is. That holds where the kernel says of the first rows what it would say if
none followed; `foresight`, a look at real rows, finds out.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aimz.arrays import Array
from aimz.errors import InputError
from aimz.kernel import KernelSpec, SiteSpec

__all__ = [
    "DRAWN_ON",
    "carries_outcome",
    "check_history",
    "cut_where_changed",
    "ends_early",
    "first_axis",
    "is_history",
    "is_path",
    "may_go_on",
    "rows_known",
]


#: Families of one event over the rows that can be drawn on from the first of them.
DRAWN_ON = ("GaussianRandomWalk", "MultivariateNormal", "StateSpace")


def is_path(site: SiteSpec) -> bool:
    """Whether a site in a scan has its rows, however many, along the steps."""
    return site.rows == "scan" and (site.row_axis == 0 or site.sized)


def carries_outcome(spec: KernelSpec) -> bool:
    """Whether the outcome of a step of a scan follows from those of the steps before it."""
    if spec.output not in spec or not (is_path(spec[spec.output]) or spec.inner_steps):
        return False
    below = spec.descendants({spec.output})
    return spec.output in spec[spec.output].parents or spec.output in spec.descendants(below)


def first_axis(site: SiteSpec) -> int:
    """The axis along which a history goes: the steps of a scan, or the rows."""
    return 0 if site.rows == "scan" else site.axis


def ends_early(shape: tuple[int, ...], whole: tuple[int, ...], axis: int) -> bool:
    """Whether a shape is that of the first values along an axis, and no other."""
    if len(shape) != len(whole) or not shape:
        return False
    same = all(a == b for n, (a, b) in enumerate(zip(shape, whole)) if n != axis)
    return same and 0 < shape[axis] < whole[axis]


def may_go_on(spec: KernelSpec, site: SiteSpec, shape: tuple[int, ...], leading: int) -> bool:
    """Whether draws of a latent of rows can be followed by more, after so many fitted rows.

    Without these, draws that were set by hand may be those of the first steps of a scan.

    Raises
    ------
    InputError
        `rows-not-fitted`: a latent whose rows are one event, or whose size follows them otherwise.
    """
    axis = _axis(site, shape)
    is_begun, is_event = ends_early(shape, site.shape, axis), _is_joint(site, axis)
    if not leading:
        return is_path(site) and is_begun
    if is_event or not is_begun or _rows_of(spec, site, shape) != leading:
        why = "all rows are one event of it" if is_event else "its size does not follow the rows"
        msg = (
            f"Site '{site.name}' belongs to the {leading} fitted rows, and these go on after them: "
            f"it cannot be drawn on, because {why}. Write it step by step, or fit all rows."
        )
        raise InputError(msg, code="rows-not-fitted")
    return True


def _is_joint(site: SiteSpec, axis: int) -> bool:
    """Whether an axis is in one event of a family that cannot be drawn on from its first values."""
    is_event = axis >= len(site.shape) - site.joint_dim
    return is_event and (site.joint_dim != 1 or site.law.split("(")[0] not in DRAWN_ON)


def is_history(site: SiteSpec, shape: tuple[int, ...]) -> bool:
    """Whether values of a shape are those of the first rows, or steps, of a site only.

    Raises
    ------
    InputError
        `rows-joint`: all rows are one event, and nobody knows how others follow from the first.
    """
    begins = ends_early(shape, site.shape, first_axis(site))
    if begins and _is_joint(site, first_axis(site)):
        msg = (
            f"'{site.name}' is given in its first rows, but all rows are one event of its "
            "distribution, and how others follow from these is not known. Write it as a scan."
        )
        raise InputError(msg, code="rows-joint")
    return begins


def cut_where_changed(
    spec: KernelSpec,
    reused: dict[str, Any],
    redraw: dict[str, np.ndarray],
    foresight: Callable[[int], str],
) -> list[str]:
    """Let paths keep the steps before the first row that has changed; names of those cut.

    Both mappings are changed. Where the kernel looks ahead, a path is drawn anew as a whole.
    """
    first = {n: int(np.argmax(rows)) for n, rows in redraw.items() if is_path(spec[n])}
    if not first:
        return []
    looks_ahead = any(first.values()) and foresight(min(f for f in first.values() if f))
    for name, row in first.items():
        del redraw[name]
        shape = np.shape(reused[name])[2:]
        steps = min(row, row - spec.rows + spec[name].shape[0], shape[0])
        reused[name] = reused[name][:, :, : 0 if looks_ahead else max(steps, 0)]
        if not reused[name].shape[2]:
            del reused[name]
    return list(first)


def check_history(
    spec: KernelSpec,
    history: Array | None,
    settings: Mapping[str, Any],
    reused: Mapping[str, Any],
    redraw: Mapping[str, np.ndarray],
) -> None:
    """Refuse a history of outcomes (None: there is none) in rows whose latents do not know it.

    A condition holds the outcome, and does not tell the latents behind it.

    Raises
    ------
    InputError
        `history-not-fitted`
    """
    output = spec.output
    if history is None or not spec.coupled:
        return
    site, held = spec[output], settings.keys() - {output}
    by_step = site.rows == "scan" and site.row_axis != 0
    history_rows = spec.rows if by_step else np.shape(history)[0]
    for name in spec.latents:
        latent = spec[name]
        reaches = latent.belongs_to_rows and output in spec.descendants({name}, held=held)
        if not reaches or name in held:
            continue
        known_rows = 0 if name in redraw else rows_known(spec, latent, reused.get(name))
        if known_rows < history_rows:
            msg = (
                f"'{output}' is given in {history_rows} rows, but the posterior of '{name}' knows "
                f"{known_rows} of them: a condition does not update it. Fit these rows first, or "
                "give fewer."
            )
            raise InputError(msg, code="history-not-fitted")


def rows_known(spec: KernelSpec, site: SiteSpec, draws: Array | None) -> int:
    """How many of the rows a latent's draws are for."""
    if draws is None:
        return 0
    shape = np.shape(draws)[2:]
    return spec.rows if shape == tuple(site.shape) else _rows_of(spec, site, shape)


def _rows_of(spec: KernelSpec, site: SiteSpec, shape: tuple[int, ...]) -> int:
    """How many rows values of a shape are for: they lack as many as the values do."""
    axis = _axis(site, shape)
    return spec.rows - (site.shape[axis] - shape[axis])


def _axis(site: SiteSpec, shape: tuple[int, ...]) -> int:
    """The axis of the rows; where their number is not that of the values, the one that differs."""
    if site.row_axis is not None:
        return site.row_axis
    return next((n for n, (a, b) in enumerate(zip(shape, site.shape)) if a != b), 0)
