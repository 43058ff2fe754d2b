"""What a call sets and conditions on: on the axes of its sites, checked, as a scenario.

Most values have their rows in front, and so have the sites. Where a site's rows stand behind other
axes, such as the trials of a scan within subjects, a value may be given either way.
An intervention reaches through latents that the posterior holds: its descendants are drawn anew.
Everything here is pure; what the user should hear comes back as notes.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from aimz.arrays import Array
from aimz.data import Arguments, Value, as_array, check_finite, lined_up
from aimz.errors import InputError, nearest
from aimz.kernel import KernelSpec, SiteSpec
from aimz.prediction.continuation import ends_early, first_axis, is_history
from aimz.prediction.request import Request
from aimz.sampling import check_range

__all__ = [
    "Scenario",
    "as_site",
    "check_carried",
    "check_shape",
    "global_carries",
    "rows_set",
    "scenario_of",
    "settings_of",
]


@dataclass(frozen=True)
class Scenario:
    """Sites that are set: arrays that belong to rows, those that do not, and callables."""

    values: Mapping[str, Any]
    row_values: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]
    do: tuple[str, ...]
    condition: tuple[str, ...]


def settings_of(
    request: Request, arguments: Arguments, spec: KernelSpec
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Interventions and conditions, those with labels in the order of the rows.

    Raises
    ------
    InputError
        `site-shape`: values whose axes may be either; `row-labels`, `columns-mismatch`.
    """
    primary = request.names[0]

    def as_site_has(name: str, value: Any, *, may_end: bool) -> Any:
        if name not in spec or not spec[name].follows_rows or callable(value):
            return value
        value = _with_all_axes(value, spec[name], spec.row_dim)
        if not spec[name].row_axis:
            return _lined(_in_columns(value, name, request, spec), name, arguments, primary)
        return _turned(value, spec, name, arguments, primary, may_end=may_end)

    do = {n: as_site_has(n, v, may_end=False) for n, v in (request.intervention or {}).items()}
    observed = {
        n: as_site_has(n, v, may_end=spec.coupled) for n, v in (request.condition or {}).items()
    }
    return do, observed


def _in_columns(setting: Any, name: str, request: Request, spec: KernelSpec) -> Any:
    """A value with its columns as those of the argument that the fit observed its site through."""
    table = Value.of(setting, name)
    if table.columns is None:
        return setting
    specs = [read for read in (request.fitted.spec, spec) if read is not None and name in read]
    observed = {request.names[1]} if name == spec.output else set[str]()
    observed = observed.union(*(read[name].observes for read in specs))
    if len(observed) != 1:
        return setting
    fitted = request.fitted.known.names(next(iter(observed)), table.columns)
    is_whole = fitted is not None and len(fitted) == len(table.columns)  # and no part of it
    return table.in_columns(fitted).given if is_whole else setting


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


def scenario_of(
    spec: KernelSpec,
    intervention: Mapping[str, Any] | None,
    condition: Mapping[str, Any] | None,
) -> Scenario:
    """Check interventions and conditions against the kernel's sites.

    Raises
    ------
    InputError
        `site-unknown`, `site-shape`, `site-integer`, `site-support`, `site-function`,
        `site-twice`, `site-in-scan`, `site-computed`, `not-finite`.

    A condition on rows that interact, or on steps of a scan, may be that of the first of them only.
    """
    do, observed = dict(intervention or {}), dict(condition or {})
    twice = sorted(do.keys() & observed.keys())
    if twice:
        msg = f"Site '{twice[0]}' is in both intervention and condition. Keep it in one of them."
        raise InputError(msg, code="site-twice")
    values, row_values = {}, {}
    for name, value in {**do, **observed}.items():
        site = _settable(spec, name, is_condition=name in observed)
        if callable(value) and name in do:
            _check_not_in_scan(spec, site)
            if site.rows == "scan":
                check_range(value, site)
            if site.rows == "scan" or (site.follows_rows and not spec.coupled):
                _check_row_by_row(site, value)
            continue
        may_end = name in observed and spec.coupled
        array = _site_value(site, value, may_end=may_end)
        _check_inside(site, array, with_edge=name in do)
        if may_end or (site.follows_rows and array.ndim):
            ends = may_end and is_history(site, array.shape)
            array = array if ends else np.broadcast_to(array, site.shape)
        if site.follows_rows and array.ndim:
            row_values[name] = np.moveaxis(array, site.axis, 0)
        else:
            values[name] = array
    functions = {name: value for name, value in do.items() if callable(value)}
    return Scenario(values, row_values, functions, tuple(do), tuple(observed))


def check_carried(spec: KernelSpec, argument: str, held: Collection[str], how: str) -> None:
    """Refuse a change that only latents which are `held`, being global, carry to the outcome."""
    reached = spec.descendants(arguments={argument}, held=held)
    if spec.output not in reached and spec.output in spec.descendants(arguments={argument}):
        raise global_carries(argument, how)


def global_carries(argument: str, how: str) -> InputError:
    """The error of a change that only global latents of the posterior carry to the outcome."""
    msg = (
        f"'{argument}' {how}, and only global latents of the posterior carry its change to the "
        "outcome. They are never drawn anew for an argument: set them by intervention=, or fit "
        "again."
    )
    return InputError(msg, code="global-carries")


def rows_set(spec: KernelSpec, draws: Mapping[str, Any], settings: Mapping[str, Any]) -> int | None:
    """Number of rows that draws of per-row latents, or values set row by row, belong to."""
    for values, leading in ((draws, 2), (settings, 0)):
        for name, value in values.items():
            if name not in spec or callable(value) or not spec[name].follows_rows:
                continue
            shape = np.shape(value)
            if len(shape) == leading + len(spec[name].shape):
                return int(shape[leading + (spec[name].axis)])
    return None


def check_shape(site: SiteSpec, value: Array, *, may_grow: bool = False) -> None:
    """Refuse draws of a site that have another shape than the site."""
    shape = tuple(np.shape(value)[2:])
    if shape != tuple(site.shape):
        more = " New groups can be drawn: new_groups='prior'." if may_grow else ""
        msg = (
            f"Each posterior draw of '{site.name}' has shape {shape}, but here the site has shape "
            f"{tuple(site.shape)}. Pass the rows and columns that the draws belong to.{more}"
        )
        raise InputError(msg, code="draws-shape")


def _settable(spec: KernelSpec, name: str, *, is_condition: bool) -> SiteSpec:
    valid = [s.name for s in spec.sites if s.kind not in ("param", "factor")]
    if name not in valid:
        msg = f"There is no site '{name}' to set. {nearest(name, valid)}"
        raise InputError(msg, code="site-unknown")
    if is_condition and spec[name].kind == "deterministic":
        msg = (
            f"Site '{name}' is computed from others, not drawn, so no condition can hold it. Set "
            f"it with intervention={{'{name}': ...}}, or condition on a site that is drawn."
        )
        raise InputError(msg, code="site-computed")
    return spec[name]


def _check_not_in_scan(spec: KernelSpec, site: SiteSpec) -> None:
    """Refuse a function of a latent in a scan that follows from itself as it was a step before.

    Its natural value after a step that was changed is not the posterior's.
    """
    below = spec.descendants({site.name})
    reads_itself = site.name in site.parents or site.name in spec.descendants(below)
    if site.rows == "scan" and site.kind == "latent" and reads_itself:
        msg = (
            f"Site '{site.name}' is inside a scan and follows from its last step, so a function of "
            "its natural value would meet its own changes. Pass its values."
        )
        raise InputError(msg, code="site-in-scan")


def _site_value(site: SiteSpec, value: Any, *, may_end: bool) -> np.ndarray:
    """A value for a site, refused unless it has the site's shape or broadcasts to it exactly.

    One that may end early may be that of the first rows or steps only. One value is not spread over
    rows, nor n values over n x n: they may be one per row or one per column.
    """
    array = as_site(site, as_array(value, site.name))
    shape = tuple(site.shape)
    is_begun = may_end and site.is_series and ends_early(array.shape, shape, first_axis(site))
    # Of the history of a series some may be missing: the law draws it, given what is there.
    check_finite({site.name: array[~np.isnan(array)] if is_begun else array})
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    is_single = len(shape) == 1 and array.shape == (1,) != shape
    is_square = array.ndim > 0 and shape == 2 * array.shape and bool((array != array[0]).any())
    fits = fits and not (site.follows_rows and (is_single or is_square))
    if not fits and not (may_end and ends_early(array.shape, shape, first_axis(site))):
        msg = (
            f"The value for site '{site.name}' has shape {array.shape}, but the site has shape "
            f"{shape}. Pass a scalar or an array of that shape."
        )
        raise InputError(msg, code="site-shape")
    return array


def _check_inside(site: SiteSpec, array: np.ndarray, *, with_edge: bool) -> None:
    """Refuse values that a site cannot take.

    The edge of an open support has no density, and yet is what many interventions mean: an
    exposure that is always positive is set to 0.
    """
    inside = np.ones(array.shape, bool)
    if site.bounds is not None:
        inside = (array >= site.bounds[0]) & (array <= site.bounds[1])
    elif site.support is not None and not site.support.event_dim and not site.is_angle:
        inside = np.asarray(site.support(array))
        for edge in ("lower_bound", "upper_bound") if with_edge else ():
            inside = inside | (array == getattr(site.support, edge, np.nan))
    if not inside.all():
        outside = np.broadcast_to(array, inside.shape)[~inside][0]
        msg = (
            f"Site '{site.name}' is set to {outside!s}, which it cannot take. Set "
            f"it to a value in its support ({site.bounds or site.support!s:.60})."
        )
        raise InputError(msg, code="site-support")


def as_site(site: SiteSpec, value: Array) -> np.ndarray:
    """Values in the dtype of a site, refused where it cannot hold them."""
    array = np.asarray(value)
    if site.dtype is None or array.dtype == site.dtype:
        return array
    if site.dtype.kind not in "biu":
        wide = array.astype(np.float64) if array.dtype.kind in "biu" else array
        cast: np.ndarray = Value.of(wide, site.name).seen.astype(site.dtype)
        return cast
    if array.dtype.kind == "f" and np.any(array != np.round(array)):
        msg = (
            f"Site '{site.name}' holds {site.dtype} and cannot take "
            f"{array[array != np.round(array)].flat[0]!r}. Pass integers."
        )
        raise InputError(msg, code="site-integer")
    array = array.astype(np.float64) if array.dtype.kind == "f" else array
    low, high = (0, 1)
    if site.dtype.kind != "b":
        low, high = np.iinfo(site.dtype).min, np.iinfo(site.dtype).max
    if array.size and (array.min() < low or array.max() > high):
        msg = (
            f"Site '{site.name}' holds {site.dtype}, which cannot hold the values that it is "
            "set to. Pass smaller ones."
        )
        raise InputError(msg, code="cast-overflow")
    return array.astype(site.dtype)


def _check_row_by_row(site: SiteSpec, function: Callable[[Any], Any]) -> None:
    """Refuse a function of a site of rows that looks at more than one row: it gets one at a time.

    Rows do not interact, so the rows of the values made up here are as good as any.
    """
    axis, count = first_axis(site), 5
    shape = [count if place == axis else size for place, size in enumerate(site.shape)]
    noise = np.random.default_rng(len(site.name)).normal(size=shape)
    values = _made_up(site, noise)
    is_whole = jnp.issubdtype(values.dtype, jnp.integer)
    try:
        with jax.enable_x64(True) if is_whole else contextlib.nullcontext():
            values = values.astype(np.int64) if is_whole else values
            whole = np.asarray(function(values))
            one = tuple(1 if place == axis else s for place, s in enumerate(shape))
            rows = [jnp.take(values, np.array([n]), axis=axis) for n in range(count)]
            alone = [np.broadcast_to(np.asarray(function(row)), one) for row in rows]
        whole = np.broadcast_to(whole, tuple(shape)).astype(float)
        apart = np.concatenate(alone, axis=axis).astype(float)
    except Exception as error:
        msg = (
            f"The function for site '{site.name}' does not work on one row at a time: "
            f"{error!s:.80}. Pass one value per row, or a function of each value alone."
        )
        raise InputError(msg, code="site-function") from error
    close = np.isclose(whole, apart, rtol=1e-4, equal_nan=True)
    if not close.all():
        msg = (
            f"The function for site '{site.name}' looks at other rows, but it gets one row at a "
            "time. Pass one value per row, or a function of each value alone."
        )
        raise InputError(msg, code="site-function")
    if site.support is not None and not np.isfinite(whole).all():
        msg = f"The function for site '{site.name}' gives NaN or infinity for values of the site."
        raise InputError(msg, code="not-finite")


def _made_up(site: SiteSpec, noise: np.ndarray) -> Any:
    """Values that a site can take, made of normal noise."""
    if site.dtype is not None and site.dtype.kind in "biu":
        low, high = site.bounds or (0, 3)
        return jnp.asarray(np.clip(np.round(np.abs(noise) * 2), low, high).astype(site.dtype))
    if site.support is None:
        return jnp.asarray(noise, jnp.result_type(float))
    try:
        transform = biject_to(site.support)
        free = noise[..., : transform.inverse_shape(noise.shape)[-1]] if noise.ndim else noise
        return transform(jnp.asarray(free, jnp.result_type(float)))
    except (NotImplementedError, ValueError, TypeError):
        return jnp.asarray(noise, jnp.result_type(float))
