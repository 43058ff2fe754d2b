"""Interventions and conditions as a call gives them, turned to the axes of their sites.

Most values have their rows in front, and so have the sites. Where a site's rows stand behind other
axes, such as the trials of a scan within subjects, a value may be given either way.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aimz.data import Arguments, as_array, lined_up
from aimz.errors import InputError
from aimz.kernel import KernelSpec, SiteSpec
from aimz.prediction.continuation import ends_early, first_axis
from aimz.prediction.request import Request

__all__ = ["settings_of"]


def settings_of(
    request: Request, arguments: Arguments, spec: KernelSpec
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Interventions and conditions, those with labels in the order of the rows.

    Raises
    ------
    InputError
        `site-shape`: values whose axes may be either; `row-labels`.
    """
    primary = request.names[0]

    def as_site_has(name: str, value: Any, *, may_end: bool) -> Any:
        if name not in spec or not spec[name].follows_rows or callable(value):
            return value
        value = _with_all_axes(value, spec[name], spec.row_dim)
        if not spec[name].row_axis:
            return _lined(value, name, arguments, primary)
        return _turned(value, spec, name, arguments, primary, may_end=may_end)

    do = {n: as_site_has(n, v, may_end=False) for n, v in (request.intervention or {}).items()}
    observed = {
        n: as_site_has(n, v, may_end=spec.coupled) for n, v in (request.condition or {}).items()
    }
    return do, observed


def _lined(value: Any, name: str, arguments: Arguments, primary: str) -> Any:
    """A value with its rows in front, in the order of the call's."""
    if arguments.labels is not None and 0 < len(np.atleast_1d(value)) < arguments.rows:
        first = arguments.labels[: len(np.atleast_1d(value))]  # a history ends before the rows do
        return lined_up({name: value}, first, len(first), primary)[name].given
    return arguments.lined({name: value}, primary)[name].given


def _turned(
    value: Any,
    spec: KernelSpec,
    name: str,
    arguments: Arguments,
    primary: str,
    *,
    may_end: bool,
) -> Any:
    """A value of a site whose rows do not lead, with its axes in the order of the site's."""
    site, axis = spec[name], spec[name].axis
    array: np.ndarray = np.asarray(as_array(value, name))
    place = _named_place(value, spec, arguments)
    if place is None:
        ways = _ways(array, site, may_end=may_end)
        if len(ways) > 1 and not _same(*ways.values()):
            msg = (
                f"The axes of the value for site '{name}' of shape {array.shape} may be in either "
                "order. Name them: xarray.DataArray(value, dims=...), where that of the rows is "
                f"'{spec.row_dim}'."
            )
            raise InputError(msg, code="site-shape")
        place, array = next(iter(ways.items()), (None, array))
        is_labelled = hasattr(value, "iloc") or hasattr(value, "dims")
        if place in (None, -1) or not is_labelled:
            return array
    front = value
    if place:
        front = value.T if hasattr(value, "iloc") else value.transpose(value.dims[place], ...)
    lined = arguments.lined({name: front}, primary)[name].array
    return np.moveaxis(np.asarray(lined), 0, axis)


def _with_all_axes(value: Any, site: SiteSpec, rows: str) -> Any:
    """A DataArray whose dimensions are those of a site, with those that it lacks of size 1."""
    dims = tuple(getattr(value, "dims", ()))
    site_dims = [dim or f"{site.name}_dim_{axis}" for axis, dim in enumerate(site.dims)]
    site_dims[site.axis] = rows
    lacks = [dim for dim in site_dims if dim not in dims]
    is_named = bool(dims) and all(dim in site_dims for dim in dims)
    return value.expand_dims(lacks).transpose(*site_dims) if is_named else value


def _named_place(value: Any, spec: KernelSpec, arguments: Arguments) -> int | None:
    """The axis that names or labels say is that of the rows; None where they do not tell."""
    dims, rows = tuple(getattr(value, "dims", ())), spec.row_dim
    if rows in dims:
        return dims.index(rows)
    if arguments.labels is None or not hasattr(value, "columns"):
        return None
    labels = {str(label) for label in arguments.labels}
    matches = [{*map(str, axis_labels)} == labels for axis_labels in (value.index, value.columns)]
    return matches.index(True) if sum(matches) == 1 else None


def _ways(array: np.ndarray, site: SiteSpec, *, may_end: bool) -> dict[int | None, np.ndarray]:
    """What a value may be, as the site's axes are, by its axis of rows (None: it has none)."""
    axis, rank = site.axis, len(site.shape)
    if array.ndim == rank:
        ways: dict[int | None, np.ndarray] = {axis: array, 0: np.moveaxis(array, 0, axis)}
    else:
        ways = {None: array}
        if array.ndim == 1 and site.rows == "scan" and (axis, rank) == (1, 2):
            ways[-1] = array[:, None]  # step by step
    return {n: way for n, way in ways.items() if _fits(way.shape, site, may_end=may_end)}


def _fits(value_shape: tuple[int, ...], site: SiteSpec, *, may_end: bool) -> bool:
    """Whether a value spreads to a site's shape, or is that of its first steps."""
    shape = tuple(site.shape)
    try:
        spreads = np.broadcast_shapes(value_shape, shape) == shape
    except ValueError:
        spreads = False
    return spreads or (may_end and ends_early(value_shape, shape, first_axis(site)))


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two ways to read a value come to the same."""
    try:
        return bool((one == other).all())
    except ValueError:
        return False
