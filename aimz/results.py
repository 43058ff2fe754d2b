"""The schema of results: DataTrees as ArviZ 1.x expects them.

Leading dimensions are `chain` and `draw`; rows carry the input's labels; the others are named by
their plates, by `dims=`, or as `<site>_dim_<i>`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from aimz.errors import InputError
from aimz.kernel import KernelSpec, SiteSpec
from aimz.sampling import follows_rows

__all__ = [
    "Schema",
    "as_draws",
    "dataset_of",
    "draws_dataset",
    "flat_arrays",
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


def dataset_of(
    arrays: Mapping[str, np.ndarray], spec: KernelSpec, schema: Schema, attrs: Mapping[str, Any]
) -> xr.Dataset:
    """Dataset of a result's arrays, (draw, row, ...) where rows own the site, else (draw, ...)."""
    row_dim = _row_dim(spec)
    variables, lengths = {}, {"chain": schema.chains, "draw": schema.draws}
    for name, array in arrays.items():
        site = spec[name]
        values = np.reshape(array, (schema.chains, schema.draws, *array.shape[1:]))
        if follows_rows(site):
            values = np.moveaxis(values, 2, 2 + (site.row_axis or 0))
        dims = ["chain", "draw", *_site_dims(site, values.ndim - 2, schema, row_dim)]
        variables[_as_variable(name)] = (dims, values, {"site": name})
        lengths.update(zip(dims, values.shape, strict=True))
    return xr.Dataset(variables, coords=_coords(lengths, schema, row_dim), attrs=dict(attrs))


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
    first, second = xr.align(
        intervention[group].to_dataset(), baseline[group].to_dataset(), join="exact"
    )
    return tree_of({group: first - second}, {str(k): v for k, v in intervention.attrs.items()})


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
