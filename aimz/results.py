"""The schema of results: DataTrees as ArviZ 1.x expects them.

Leading dimensions are `chain` and `draw`; rows carry the input's labels; the others are named by
their plates, by `dims=`, or as `<site>_dim_<i>`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from aimz.errors import InputError
from aimz.execute import Call, Plan, Ready
from aimz.kernel import KernelSpec, SiteSpec
from aimz.sampling import follows_rows
from aimz.store import Variable

__all__ = [
    "Schema",
    "aligned",
    "as_draws",
    "difference_layout",
    "draws_dataset",
    "flat_arrays",
    "labelled_groups",
    "layout_of",
    "observed_layout",
    "row_totals",
    "shared_group",
    "subtract",
    "tree_of",
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


def layout_of(call: Call, ready: Ready, plan: Plan, schema: Schema) -> tuple[Variable, ...]:
    """Variables of a result, from the shapes, (row, draw, ...) or (draw, ...), of one tile."""
    task = call.task
    row_dim = _row_dim(task.results)
    made = []
    for name, value in ready.shapes.items():
        site = task.results[name]
        has_rows = follows_rows(site)
        row_axis = 2 + (site.row_axis or 0) if has_rows else None
        own = list(value.shape[2:] if has_rows else value.shape[1:])
        if has_rows:
            own.insert(site.row_axis or 0, plan.rows or 0)
        full = plan.tile_draws == plan.chains * plan.draws
        cut = [plan.chains, plan.draws] if full else [1, plan.tile_draws]
        chunks = [*cut, *own]
        if row_axis is not None:
            chunks[row_axis] = min(plan.tile_rows, plan.rows or plan.tile_rows)
        made.append(
            Variable(
                group=call.group,
                name=_as_variable(name),
                site=name,
                dims=("chain", "draw", *_site_dims(site, len(own), schema, row_dim)),
                shape=(plan.chains, plan.draws, *own),
                chunks=tuple(chunks),
                dtype=ready.dtypes[name],
                stored=np.dtype(value.dtype),
                row_axis=row_axis,
            )
        )
    return tuple(made)


def observed_layout(call: Call, outcomes: np.ndarray, plan: Plan, schema: Schema) -> Variable:
    """Variable of the outcomes that are kept beside the draws, given all or some, (row, ...)."""
    task = call.task
    site = task.spec[task.spec.output]
    axis = site.row_axis or 0
    own = list(outcomes.shape[1:])
    own.insert(axis, plan.rows or 0)
    chunks = list(own)
    chunks[axis] = min(plan.tile_rows, plan.rows or plan.tile_rows)
    return Variable(
        group="observed_data",
        name=_as_variable(site.name),
        site=site.name,
        dims=tuple(_site_dims(site, len(own), schema, _row_dim(task.spec))),
        shape=tuple(own),
        chunks=tuple(chunks),
        dtype=outcomes.dtype,
        stored=outcomes.dtype,
        row_axis=axis,
        has_draws=False,
    )


def labelled_groups(
    variables: Sequence[Variable], schema: Schema, spec: KernelSpec, rows: int
) -> dict[str, xr.Dataset]:
    """Groups with the coordinates of their variables, and nothing else yet."""
    row_dim = _row_dim(spec)
    lengths: dict[str, dict[str, int]] = {}
    for variable in variables:
        sizes = list(variable.shape)
        if variable.row_axis is not None:
            sizes[variable.row_axis] = rows
        lengths.setdefault(variable.group, {}).update(zip(variable.dims, sizes, strict=True))
    return {
        group: xr.Dataset(coords=_coords(sizes, schema, row_dim))
        for group, sizes in lengths.items()
    }


def draws_dataset(
    draws: Mapping[str, Any], schema: Schema, spec: KernelSpec | None, attrs: Mapping[str, Any]
) -> xr.Dataset:
    """Dataset of posterior draws, each (chain, draw, ...)."""
    variables, lengths = {}, {"chain": schema.chains, "draw": schema.draws}
    row_dim = _row_dim(spec) if spec is not None else "obs"
    for name, value in draws.items():
        array = np.asarray(value)
        rank = array.ndim - 2
        dims = [f"{_as_variable(name)}_dim_{i}" for i in range(rank)]
        if name in schema.dims:
            dims = list(schema.dims[name])
        elif spec is not None and name in spec:
            dims = _site_dims(spec[name], rank, schema, row_dim)
        dims = ["chain", "draw", *dims]
        variables[_as_variable(name)] = (dims, array, {"site": name})
        lengths.update(zip(dims, array.shape, strict=True))
    return xr.Dataset(variables, coords=_coords(lengths, schema, row_dim), attrs=dict(attrs))


def tree_of(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
    """DataTree of named groups."""
    tree = xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})
    tree.attrs.update(attrs)
    return tree


def subtract(baseline: xr.DataTree, intervention: xr.DataTree, group: str) -> xr.DataTree:
    """Intervention minus baseline in one group, draw by draw and row by row."""
    first, second = aligned(baseline, intervention, group)
    attrs = {str(k): v for k, v in intervention.attrs.items()}
    return tree_of({group: _signed(second) - _signed(first)}, attrs)


def aligned(
    baseline: xr.DataTree, intervention: xr.DataTree, group: str
) -> tuple[xr.Dataset, xr.Dataset]:
    """One group of two results, refused unless rows, draws and labels are the same."""
    first, second = (tree[group].to_dataset() for tree in (baseline, intervention))
    try:
        first, second = xr.align(first, second, join="exact")
    except ValueError as error:
        msg = (
            "The two predictions have different rows, draws or labels, so their difference means "
            "nothing. Predict both for the same rows with the same posterior."
        )
        raise InputError(msg, code="rows-mismatch") from error
    return first, second


def difference_layout(group: xr.Dataset, name: str) -> tuple[tuple[Variable, ...], Plan]:
    """Variables and tiles of a difference, on the grid on which the group is stored."""
    layout = []
    for key, variable in group.data_vars.items():
        chunks = tuple(variable.encoding.get("chunks", variable.shape))
        dtype = np.dtype(np.int8) if variable.dtype.kind == "b" else variable.dtype
        cut = [axis for axis in range(2, variable.ndim) if chunks[axis] < variable.shape[axis]]
        layout.append(
            Variable(
                group=name,
                name=str(key),
                site=str(variable.attrs.get("site", key)),
                dims=tuple(str(dim) for dim in variable.dims),
                shape=variable.shape,
                chunks=chunks,
                dtype=dtype,
                stored=dtype,
                row_axis=cut[0] if cut else None,
            )
        )
    widest = max(layout, key=lambda v: v.row_axis is not None)
    axis = widest.row_axis
    rows, tile_rows = (widest.shape[axis], widest.chunks[axis]) if axis is not None else (1, 1)
    chains, draws = widest.shape[:2]
    tile_draws = math.prod(widest.chunks[:2])
    return tuple(layout), Plan(rows, chains, draws, tile_rows, tile_draws, whole=False)


def _signed(group: xr.Dataset) -> xr.Dataset:
    """A group in which true and false are numbers."""
    return group.map(lambda v: v.astype(np.int8) if v.dtype.kind == "b" else v, keep_attrs=True)


def shared_group(baseline: xr.DataTree, intervention: xr.DataTree) -> str:
    """Name of the predictive group that two results share."""
    for group in ("posterior_predictive", "predictions", "prior_predictive"):
        if group in baseline.children and group in intervention.children:
            return group
    msg = (
        f"The two results share no predictive group: {sorted(baseline.children)} against "
        f"{sorted(intervention.children)}. Predict both with the same in_sample."
    )
    raise InputError(msg, code="no-shared-group")


def as_draws(
    draws: Mapping[str, Any] | xr.DataTree | xr.Dataset, num_chains: int = 1
) -> dict[str, np.ndarray]:
    """Draws made elsewhere as arrays (chain, draw, ...).

    Raises
    ------
    InputError
        `draws-empty`, `draws-shape`: no draws, or sites with different numbers of them.
    """
    if isinstance(draws, xr.DataTree):
        draws = (draws["posterior"] if "posterior" in draws.children else draws).to_dataset()
    if isinstance(draws, xr.Dataset):
        arrays = {
            str(value.attrs.get("site", name)): value.transpose("chain", "draw", ...).values
            for name, value in draws.data_vars.items()
        }
    else:
        arrays = {name: _by_chain(name, value, num_chains) for name, value in draws.items()}
    sizes = {value.shape[:2] for value in arrays.values()}
    if not arrays or 0 in next(iter(sizes)):
        msg = "There are no draws. Pass at least one site with at least one draw."
        raise InputError(msg, code="draws-empty")
    if len(sizes) > 1:
        listed = ", ".join(f"{name} {value.shape[:2]}" for name, value in arrays.items())
        msg = f"Sites have different numbers of (chains, draws): {listed:.160}. Pass equal ones."
        raise InputError(msg, code="draws-shape")
    return arrays


def flat_arrays(tree: xr.DataTree) -> dict[str, np.ndarray]:
    """Arrays (draw, ...) of a result's predictive group, chains one after another."""
    group = shared_group(tree, tree)
    return {
        str(value.attrs.get("site", name)): value.values.reshape(-1, *value.shape[2:])
        for name, value in tree[group].data_vars.items()
    }


def row_totals(density: xr.DataArray) -> np.ndarray:
    """Log densities (draw, row), summed over every other dimension."""
    flat = density.values.reshape(-1, *density.shape[2:])
    return flat.reshape(len(flat), max(1, *flat.shape[1:2]), -1).sum(axis=-1)


def _as_variable(name: str) -> str:
    """Name of a site's variable: a tree takes no '/' (modules name sites `net/kernel`)."""
    return name.replace("/", ".")


def _by_chain(name: str, value: Any, num_chains: int) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim == 0 or len(array) % num_chains:
        msg = (
            f"Draws of '{name}' have shape {array.shape}, which does not split into {num_chains} "
            "chains. The leading axis must hold the draws of all chains."
        )
        raise InputError(msg, code="draws-shape")
    return array.reshape(num_chains, len(array) // num_chains, *array.shape[1:])


def _row_dim(spec: KernelSpec) -> str:
    """Name of the row dimension: the output's plate over rows, else `obs`."""
    ordered = sorted(spec.sites, key=lambda site: site.name != spec.output)
    for site in ordered:
        if follows_rows(site) and site.dims[site.row_axis or 0]:
            return str(site.dims[site.row_axis or 0])
    return "obs"


def _site_dims(site: SiteSpec, rank: int, schema: Schema, row_dim: str) -> list[str]:
    if site.name in schema.dims:
        named = list(schema.dims[site.name])
        if len(named) == rank:
            return named
        if follows_rows(site) and len(named) == rank - 1:
            axis = site.row_axis or 0
            return [*named[:axis], row_dim, *named[axis:]]
    dims = []
    for axis in range(rank):
        plate = site.dims[axis] if axis < len(site.dims) else None
        if follows_rows(site) and axis == site.row_axis:
            dims.append(row_dim)
        else:
            dims.append(plate or f"{_as_variable(site.name)}_dim_{axis}")
    return dims


def _coords(lengths: Mapping[str, int], schema: Schema, row_dim: str) -> dict[str, Any]:
    coords: dict[str, Any] = {}
    for dim, length in lengths.items():
        if dim in schema.coords and len(schema.coords[dim]) == length:
            coords[dim] = np.asarray(schema.coords[dim])
        elif dim == row_dim and schema.labels is not None and len(schema.labels) == length:
            coords[dim] = schema.labels
        else:
            coords[dim] = np.arange(length)
    return coords
