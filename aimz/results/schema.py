"""Dimensions, coordinates and attributes of results, as ArviZ expects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.errors import InputError, nearest
from aimz.kernel import KernelSpec, SiteSpec
from aimz.libraries import xr
from aimz.programs import Cache

__all__ = [
    "Schema",
    "as_variable",
    "check_labels",
    "constant_dataset",
    "coords_of",
    "indexed",
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

    def make() -> xr.Coordinates:
        return xr.Coordinates(coords_of(lengths, schema, row_dim))

    has_labels = schema.coords or (schema.labels is not None and row_dim in lengths)
    if has_labels or max(lengths.values(), default=0) > _MOST_COUNTED:
        return make()
    return _COUNTED.get_or_make(tuple(lengths.items()), make)


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
