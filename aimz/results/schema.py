"""The schema of results: DataTrees as ArviZ 1.x expects them.

Leading dimensions are `chain` and `draw`; rows carry the input's labels; the others are named by
their plates, by `dims=`, or as `<site>_dim_<i>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.errors import InputError, nearest
from aimz.execution import Call, Plan, Ready
from aimz.kernel import KernelSpec, SiteSpec
from aimz.libraries import xr
from aimz.programs import Cache
from aimz.store import Variable

__all__ = [
    "Schema",
    "as_variable",
    "check_labels",
    "collision",
    "constant_dataset",
    "coords_of",
    "first_outcome",
    "indexed",
    "labelled_groups",
    "layout_of",
    "site_dims",
]


type Coords = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Schema:
    """How arrays become labelled: chains, row labels, and what the user named."""

    chains: int
    draws: int
    labels: np.ndarray | None = None
    coords: Coords = field(default_factory=dict)
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)


def check_labels(spec: KernelSpec, schema: Schema) -> None:
    """Refuse `dims` and `coords` of sites and dimensions that the kernel does not have.

    Raises
    ------
    InputError
        `labels-unknown`; `dims-conflict`: labels of another number than there are.
    """
    if not schema.coords and not schema.dims:
        return
    sites = [site for site in spec.sites if site.kind != "factor"]
    _check_dims(spec, schema)
    row_dim = spec.row_dim
    sizes: dict[str, int | None] = dict.fromkeys(("chain", "draw", "obs", "category", row_dim))
    for site in sites:
        dims = site_dims(site, len(site.shape), schema, row_dim)
        sizes |= {dim: n for dim, n in zip(dims, site.shape, strict=True) if dim != row_dim}
    for name, labels in schema.coords.items():
        if name not in sizes:
            msg = f"coords= labels a dimension '{name}', which no site has. "
            raise InputError(msg + nearest(str(name), sizes), code="labels-unknown")
        size = sizes[name]
        if size is not None and len(labels) != size:
            msg = (
                f"coords= gives {len(labels)} labels to dimension '{name}', which has {size}. Pass "
                "one for each."
            )
            raise InputError(msg, code="dims-conflict")


def _check_dims(spec: KernelSpec, schema: Schema) -> None:
    names = [site.name for site in spec.sites if site.kind != "factor"]
    for name, dims in schema.dims.items():
        if name not in names:
            msg = f"dims= names a site '{name}', which the kernel does not have. "
            raise InputError(msg + nearest(str(name), names), code="labels-unknown")
        slashed = [dim for dim in dims if "/" in str(dim)]
        if slashed:
            msg = f"dims= names a dimension '{slashed[0]}'. Leave out the '/', which parts groups."
            raise InputError(msg, code="site-name")


def constant_dataset(
    arrays: Mapping[str, Any],
    columns: Mapping[str, Sequence[str]],
    spec: KernelSpec,
    schema: Schema,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Dataset of the arguments of a call, each with its rows first where it has any."""
    variables: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    labels: dict[str, Any] = {}
    row_dim = spec.row_dim
    for name, value in arrays.items():
        if isinstance(value, Mapping):
            continue
        array = np.asarray(value)
        dims = [f"{name}_dim_{axis}" for axis in range(array.ndim)]
        if name in columns and array.ndim == 2:
            labels[dims[1]] = list(columns[name])
        if name in spec.row_inputs and array.ndim:
            dims = [row_dim, *dims[:-1]]
            labels |= {dims[1]: labels.pop(f"{name}_dim_1")} if f"{name}_dim_1" in labels else {}
        variables[f"{name}_" if name == row_dim else name] = (dims, array)
        lengths.update(zip(dims, array.shape, strict=True))
    coords = {**coords_of(lengths, schema, row_dim), **labels}
    return xr.Dataset(variables, coords=coords, attrs={**attrs, "group": "constant_data"})


def as_variable(name: str) -> str:
    """Name of a variable or a dimension: a tree takes no '/' (modules name sites `net/kernel`)."""
    return name.replace("/", ".")


def site_dims(site: SiteSpec, rank: int, schema: Schema, row_dim: str) -> list[str]:
    """Names of the dimensions of a site's value: as the user named them, plates, or numbers."""
    if site.name in schema.dims:
        named = list(schema.dims[site.name])
        if len(named) == rank:
            return named
        if site.follows_rows and len(named) == rank - 1:
            axis = site.axis
            return [*named[:axis], row_dim, *named[axis:]]
        msg = f"dims names {len(named)} dimensions of site '{site.name}', which has {rank}."
        raise InputError(msg, code="dims-conflict")
    dims = []
    for axis in range(rank):
        plate = site.dims[axis] if axis < len(site.dims) else None
        if site.follows_rows and axis == site.row_axis:
            dims.append(row_dim)
        else:
            dims.append(as_variable(plate or f"{site.name}_dim_{axis}"))
    return dims


# Coordinates that only count, with their indexes, by the lengths of their dimensions.
_COUNTED: Cache[tuple[tuple[str, int], ...], xr.Coordinates] = Cache(limit=64)
_MOST_COUNTED = 2**14


def indexed(lengths: Mapping[str, int], schema: Schema, row_dim: str) -> xr.Coordinates:
    """Coordinates of some dimensions, and their indexes."""
    has_labels = schema.coords or (schema.labels is not None and row_dim in lengths)
    if has_labels or max(lengths.values(), default=0) > _MOST_COUNTED:
        return xr.Coordinates(coords_of(lengths, schema, row_dim))
    name = tuple(lengths.items())
    return _COUNTED.get_or_make(name, lambda: xr.Coordinates({n: np.arange(k) for n, k in name}))


def coords_of(lengths: Mapping[str, int], schema: Schema, row_dim: str) -> dict[str, Any]:
    """Coordinates of the dimensions that have labels."""
    coords: dict[str, Any] = {}
    for dim, length in lengths.items():
        if dim in schema.coords and len(schema.coords[dim]) == length:
            coords[dim] = np.asarray(schema.coords[dim])
        elif dim == row_dim and schema.labels is not None and len(schema.labels) == length:
            coords[dim] = schema.labels
        else:
            coords[dim] = np.arange(length)
    return coords


# Of each task, by all else that a layout follows from.
_LAYOUTS: Cache[Any, tuple[Variable, ...]] = Cache(limit=256)


def layout_of(
    call: Call, ready: Ready, plan: Plan, schema: Schema, outcomes: np.ndarray | None = None
) -> tuple[Variable, ...]:
    """Variables of a result, and of the outcomes that are kept beside them, (row, ...).

    Raises
    ------
    InputError
        `name-collision`, `dims-conflict`: names and dimensions that would hide one another.
    """

    def make() -> tuple[Variable, ...]:
        variables = _sites_layout(call, ready, plan, schema)
        if outcomes is not None:
            variables = (*variables, _observed_layout(call, outcomes, plan, schema))
        _check_layout(variables)
        return variables

    if schema.dims:
        return make()
    shapes = tuple((n, tuple(v.shape), v.dtype, ready.dtypes[n]) for n, v in ready.shapes.items())
    kept = None if outcomes is None else (outcomes.shape[1:], outcomes.dtype)
    return _LAYOUTS.of_owner(call.task, (call.group, plan, shapes, kept), make)


def _sites_layout(call: Call, ready: Ready, plan: Plan, schema: Schema) -> tuple[Variable, ...]:
    """Variables of a result, from the shapes, (row, draw, ...) or (draw, ...), of one tile."""
    task = call.task
    row_dim = task.results.row_dim
    made = []
    for name, value in ready.shapes.items():
        site = task.results[name]
        has_rows = site.follows_rows
        row_axis = 2 + (site.axis) if has_rows else None
        own = list(value.shape[2:] if has_rows else value.shape[1:])
        if has_rows:
            own.insert(site.axis, plan.rows or 0)
        full = plan.tile_draws == plan.chains * plan.draws
        cut = [plan.chains, plan.draws] if full else [1, plan.tile_draws]
        chunks = [*cut, *own]
        if row_axis is not None:
            chunks[row_axis] = min(plan.tile_rows, plan.rows or plan.tile_rows)
        made.append(
            Variable(
                group=call.group,
                name=as_variable(name),
                site=name,
                dims=("chain", "draw", *site_dims(site, len(own), schema, row_dim)),
                shape=(plan.chains, plan.draws, *own),
                chunks=tuple(chunks),
                dtype=ready.dtypes[name],
                stored=np.dtype(value.dtype),
                row_axis=row_axis,
                measure=_measure_of(site),
            )
        )
    return tuple(made)


def _observed_layout(call: Call, outcomes: np.ndarray, plan: Plan, schema: Schema) -> Variable:
    """Variable of the outcomes that are kept beside the draws, given all or some, (row, ...)."""
    task = call.task
    site = task.spec[task.spec.output]
    axis = site.axis
    own = list(outcomes.shape[1:])
    own.insert(axis, plan.rows or 0)
    chunks = list(own)
    chunks[axis] = min(plan.tile_rows, plan.rows or plan.tile_rows)
    return Variable(
        group="observed_data",
        name=as_variable(site.name),
        site=site.name,
        dims=tuple(site_dims(site, len(own), schema, task.spec.row_dim)),
        shape=tuple(own),
        chunks=tuple(chunks),
        dtype=outcomes.dtype,
        stored=outcomes.dtype,
        row_axis=axis,
        has_draws=False,
        measure=_measure_of(site),
    )


def _measure_of(site: SiteSpec) -> str:
    """What a site's values are where they are no quantities: "angle" or "category"."""
    if site.is_angle:
        return "angle"
    return "category" if site.categories > 2 else ""  # of two, codes are shares of the second


def _check_layout(variables: Sequence[Variable]) -> None:
    """Refuse names and dimensions that would hide one another, before anything is computed."""
    for group in {variable.group for variable in variables}:
        own = [variable for variable in variables if variable.group == group]
        sizes = _sizes_of(own)
        names = [variable.name for variable in own]
        for variable in own:
            if names.count(variable.name) > 1 or variable.name in sizes:
                raise collision(variable.site, variable.name)


def _sizes_of(variables: Sequence[Variable]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for variable in variables:
        for dim, size in zip(variable.dims, variable.shape, strict=True):
            if variable.dims.count(dim) > 1 or sizes.setdefault(dim, size) != size:
                msg = (
                    f"Dimension '{dim}' of site '{variable.site}' would have two meanings. "
                    "Name the plate, or the entry of dims=, otherwise."
                )
                raise InputError(msg, code="dims-conflict")
    return sizes


def collision(site: str, name: str) -> InputError:
    """The error of two things in a result that would have one name."""
    msg = (
        f"Site '{site}' would be called '{name}' in the result, as another site or a dimension "
        "is. Rename the site in the kernel, or the dimension in dims=."
    )
    return InputError(msg, code="name-collision")


def labelled_groups(
    variables: Sequence[Variable], schema: Schema, spec: KernelSpec, rows: int
) -> dict[str, xr.Dataset]:
    """Groups with the coordinates of their variables, and nothing else yet."""
    row_dim = spec.row_dim
    lengths: dict[str, dict[str, int]] = {}
    for variable in variables:
        sizes = list(variable.shape)
        if variable.row_axis is not None:
            sizes[variable.row_axis] = rows
        lengths.setdefault(variable.group, {}).update(zip(variable.dims, sizes, strict=True))
    return {group: indexed(sizes, schema, row_dim).to_dataset() for group, sizes in lengths.items()}


def first_outcome(call: Call) -> np.ndarray | None:
    """Outcomes that are kept beside the draws, or the head of them."""
    if call.observed is not None:
        return call.observed
    output = call.task.spec.output
    outcome: np.ndarray | None = call.source.head.get(output)
    return outcome if output in call.task.spec else None
