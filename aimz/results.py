"""The schema of results: DataTrees as ArviZ 1.x expects them.

Leading dimensions are `chain` and `draw`; rows carry the input's labels; the others are named by
their plates, by `dims=`, or as `<site>_dim_<i>`.
"""

import contextlib
import importlib.util
import math
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from aimz.choices import shown
from aimz.data import as_array, check_finite, check_positive
from aimz.errors import InputError, nearest
from aimz.execute import Call, Plan, Ready
from aimz.families import turn
from aimz.sampling import follows_rows
from aimz.spec import KernelSpec, SiteSpec
from aimz.store import Tile, Variable

__all__ = [
    "Schema",
    "aligned",
    "as_draws",
    "check_labels",
    "check_layout",
    "constant_dataset",
    "difference_dtype",
    "difference_layout",
    "draw_labels",
    "draws_dataset",
    "flat_arrays",
    "flat_draws",
    "import_dask",
    "labelled_groups",
    "layout_of",
    "less",
    "observed_layout",
    "row_dimension",
    "shared_group",
    "shared_measure",
    "site_dims",
    "subtract",
    "tree_of",
]

#: Bytes of one part of a difference.
PART_BYTES = 16 * 2**20

type Coords = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Schema:
    """How arrays become labelled: chains, row labels, and what the user named."""

    chains: int
    draws: int
    labels: np.ndarray | None = None
    coords: Coords = field(default_factory=dict)
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)


def import_dask() -> None:
    """Import Dask, where it is installed, as xarray is about to do, but in a thread of its own.

    Dask keeps the exception that tells it that Jinja is missing, and an exception keeps the frames
    of all its callers: the first result of a process would never be freed.
    """
    if "dask.array" in sys.modules or importlib.util.find_spec("dask") is None:
        return

    def load() -> None:
        with contextlib.suppress(ImportError):  # xarray does without it
            importlib.import_module("dask.array")

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()


def layout_of(call: Call, ready: Ready, plan: Plan, schema: Schema) -> tuple[Variable, ...]:
    """Variables of a result, from the shapes, (row, draw, ...) or (draw, ...), of one tile."""
    task = call.task
    row_dim = row_dimension(task.results)
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
        dims=tuple(site_dims(site, len(own), schema, row_dimension(task.spec))),
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


def check_labels(spec: KernelSpec, schema: Schema) -> None:
    """Refuse `dims` and `coords` of sites and dimensions that the kernel does not have.

    Raises
    ------
    InputError
        `labels-unknown`; `dims-conflict`: labels of another number than there are.
    """
    sites = [site for site in spec.sites if site.kind != "factor"]
    _check_dims(spec, schema)
    row_dim = row_dimension(spec)
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


def check_layout(variables: Sequence[Variable], groups: Mapping[str, xr.Dataset]) -> None:
    """Refuse names and dimensions that would hide one another, before anything is computed.

    Raises
    ------
    InputError
        `name-collision`, `dims-conflict`.
    """
    for group in {variable.group for variable in variables}:
        own = [variable for variable in variables if variable.group == group]
        sizes = _sizes_of(own)
        names = [variable.name for variable in own]
        for variable in own:
            if names.count(variable.name) > 1 or variable.name in sizes:
                raise _collision(variable.site, variable.name)
    for dataset in groups.values():
        for name in dataset.data_vars:
            if name in dataset.dims:
                raise _collision(str(name), str(name))


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


def _collision(site: str, name: str) -> InputError:
    msg = (
        f"Site '{site}' would be called '{name}' in the result, as another site or a dimension "
        "is. Rename the site in the kernel, or the dimension in dims=."
    )
    return InputError(msg, code="name-collision")


def labelled_groups(
    variables: Sequence[Variable], schema: Schema, spec: KernelSpec, rows: int
) -> dict[str, xr.Dataset]:
    """Groups with the coordinates of their variables, and nothing else yet."""
    row_dim = row_dimension(spec)
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
    row_dim = row_dimension(spec) if spec is not None else "obs"
    for name, value in draws.items():
        array = np.asarray(value).view()
        array.flags.writeable = False  # the draws of the model itself
        rank = array.ndim - 2
        dims = [f"{_as_variable(name)}_dim_{i}" for i in range(rank)]
        if name in schema.dims:
            dims = list(schema.dims[name])
        elif spec is not None and name in spec:
            dims = site_dims(spec[name], rank, schema, row_dim)
        dims = ["chain", "draw", *dims]
        variables[_as_variable(name)] = (dims, array, {"site": name})
        lengths.update(zip(dims, array.shape, strict=True))
    return xr.Dataset(variables, coords=_coords(lengths, schema, row_dim), attrs=dict(attrs))


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
    row_dim = row_dimension(spec)
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
    coords = {**_coords(lengths, schema, row_dim), **labels}
    return xr.Dataset(variables, coords=coords, attrs={**attrs, "group": "constant_data"})


def tree_of(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
    """DataTree of named groups."""
    tree = xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})
    tree.attrs.update(attrs)
    return tree


def subtract(
    baseline: xr.DataTree,
    intervention: xr.DataTree,
    group: str,
    kept: Mapping[str, xr.Dataset] | None = None,
) -> xr.DataTree:
    """Intervention minus baseline in one group, draw by draw and row by row; others are `kept`."""
    first, second = aligned(baseline, intervention, group)
    values = {}
    for name, variable in second.data_vars.items():
        dtype = difference_dtype(first[name].dtype, variable.dtype)
        new, old = (source.astype(dtype) for source in (variable, first[name]))
        measure = shared_measure(variable, first[name])
        values[name] = new.copy(data=less(new.values, old.values, measure))
    attrs = {str(k): v for k, v in intervention.attrs.items()}
    return tree_of({**(kept or {}), group: second.assign(values)}, attrs)


def less(new: np.ndarray, old: np.ndarray, measure: str) -> np.ndarray:
    """What one value is more than another."""
    return turn(new, old) if measure == "angle" else new - old


def shared_measure(new: xr.DataArray, old: xr.DataArray) -> str:
    """What two arrays are measured in, where one of them tells."""
    return str(new.attrs.get("measure", old.attrs.get("measure", "")))


def aligned(
    baseline: xr.DataTree, intervention: xr.DataTree, group: str
) -> tuple[xr.Dataset, xr.Dataset]:
    """One group of two results, refused unless sites, rows, draws and labels are the same.

    Raises
    ------
    InputError
        `sites-differ`, `rows-mismatch`.
    """
    first, second = (tree[group].to_dataset() for tree in (baseline, intervention))
    apart = sorted(map(str, first.data_vars.keys() ^ second.data_vars.keys()))
    if apart:
        msg = (
            f"Only one of the two predictions holds '{apart[0]}'. Predict both for the same sites."
        )
        raise InputError(msg, code="sites-differ")
    try:
        first, second = xr.align(first, second, join="exact")
    except ValueError as error:
        msg = (
            "The two predictions have different rows, draws or labels, so their difference means "
            "nothing. Predict both for the same rows with the same posterior."
        )
        raise InputError(msg, code="rows-mismatch") from error
    order = {name: variable.dims for name, variable in second.data_vars.items()}
    return first.assign({name: first[name].transpose(*order[name]) for name in order}), second


def difference_dtype(first: np.dtype, second: np.dtype) -> np.dtype:
    """A dtype that holds the difference of two: signed, and wide enough for narrow integers."""
    dtype = np.result_type(first, second)
    if dtype.kind == "b":
        return np.dtype(np.int8)
    if dtype.kind == "u":
        return np.dtype(np.int64 if dtype.itemsize >= 4 else np.int32)
    return np.result_type(dtype, np.int32) if dtype.kind == "i" else dtype


def difference_layout(
    baseline: xr.Dataset, intervention: xr.Dataset, group: str
) -> tuple[tuple[Variable, Tile], ...]:
    """Each variable of a difference with each of its tiles, which own whole chunks."""
    layout: list[tuple[Variable, Tile]] = []
    for key, variable in intervention.data_vars.items():
        dtype = difference_dtype(baseline[key].dtype, variable.dtype)
        axis, step = _cut_of(variable, dtype.itemsize)
        chunks = list(variable.shape)
        chunks[axis : axis + 1] = [step] if variable.ndim else []
        own = Variable(
            group=group,
            name=str(key),
            site=str(variable.attrs.get("site", key)),
            dims=tuple(str(dim) for dim in variable.dims),
            shape=variable.shape,
            chunks=tuple(chunks),
            dtype=dtype,
            stored=dtype,
            row_axis=axis if variable.ndim else None,
            has_draws=False,
            measure=shared_measure(variable, baseline[key]),
        )
        rows = variable.shape[axis] if variable.ndim else 1
        for first in range(0, rows, step):
            part = slice(first, min(first + step, rows))
            layout.append((own, Tile(len(layout), part, slice(0, 1), slice(0, 1))))
    return tuple(layout)


def _cut_of(variable: xr.DataArray, itemsize: int) -> tuple[int, int]:
    """The axis to cut a stored variable along, and the length of a part: as it is stored, if so."""
    shape = variable.shape
    if not shape:
        return 0, 1
    stored = variable.encoding.get("chunks", ())
    if len(stored) == len(shape):
        counts = [-(-size // max(1, chunk)) for size, chunk in zip(shape, stored, strict=True)]
        axis = int(np.argmax(counts))
        if counts[axis] > 1:
            return axis, int(stored[axis])
    axis = int(np.argmax(shape))
    per_part = itemsize * math.prod(shape) // max(1, shape[axis])
    return axis, min(max(1, shape[axis]), max(1, PART_BYTES // max(1, per_part)))


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
        `draws-empty`, `draws-shape`: no draws, or sites with different numbers of them;
        `not-finite`.
    """
    check_positive(num_chains, "num_chains")
    _check_named(draws)
    if isinstance(draws, xr.DataTree):
        draws = (draws["posterior"] if "posterior" in draws.children else draws).to_dataset()
    if isinstance(draws, xr.Dataset):
        arrays = {
            str(value.attrs.get("site", name)): _as_numbers(
                str(name), value.transpose("chain", "draw", ...)
            )
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
    check_finite(arrays)
    return arrays


def _check_named(draws: Any) -> None:
    """Refuse draws that do not say of which sites they are."""
    if isinstance(draws, xr.DataTree | xr.Dataset):
        return
    if not isinstance(draws, Mapping) or not all(isinstance(name, str) for name in draws):
        msg = (
            f"Posterior draws are a dict of arrays by site, a DataTree or a Dataset, not "
            f"{shown(draws)}. Name the sites."
        )
        raise InputError(msg, code="draws-shape")


def draw_labels(draws: Any) -> dict[str, dict[int, np.ndarray]]:
    """Labels of the axes of draws made elsewhere, where they carry any: by site and axis."""
    if isinstance(draws, xr.DataTree):
        draws = (draws["posterior"] if "posterior" in draws.children else draws).to_dataset()
    if not isinstance(draws, xr.Dataset):
        return {}
    labels: dict[str, dict[int, np.ndarray]] = {}
    for name, value in draws.data_vars.items():
        dims = value.transpose("chain", "draw", ...).dims
        own = {n: value.coords[dim].values for n, dim in enumerate(dims) if dim in value.coords}
        labels[str(value.attrs.get("site", name))] = own
    return labels


def flat_arrays(tree: xr.DataTree) -> dict[str, np.ndarray]:
    """Arrays (draw, ...) of a result's predictive group, chains one after another."""
    group = shared_group(tree, tree)
    return {
        str(value.attrs.get("site", name)): value.values.reshape(-1, *value.shape[2:])
        for name, value in tree[group].data_vars.items()
    }


def flat_draws(draws: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read-only arrays (draw, ...) of draws (chain, draw, ...), chains one after another."""
    flat = {}
    for name, value in draws.items():
        array = np.asarray(value).view()
        array = array.reshape(-1, *array.shape[2:])
        array.flags.writeable = False  # a view: what is written to it would be the posterior
        flat[name] = array
    return flat


def _as_variable(name: str) -> str:
    """Name of a variable or a dimension: a tree takes no '/' (modules name sites `net/kernel`)."""
    return name.replace("/", ".")


def _as_numbers(name: str, value: Any) -> np.ndarray:
    """Draws as an array of their own, which nobody else can change."""
    return np.array(as_array(value, name))


def _by_chain(name: str, value: Any, num_chains: int) -> np.ndarray:
    array = _as_numbers(name, value)
    if array.ndim == 0 or len(array) % num_chains:
        msg = (
            f"Draws of '{name}' have shape {array.shape}, which does not split into {num_chains} "
            "chains. The leading axis must hold the draws of all chains."
        )
        raise InputError(msg, code="draws-shape")
    return array.reshape(num_chains, len(array) // num_chains, *array.shape[1:])


def row_dimension(spec: KernelSpec) -> str:
    """Name of the row dimension: the output's plate over rows, else `obs`."""
    ordered = sorted(spec.sites, key=lambda site: site.name != spec.output)
    for site in ordered:
        if follows_rows(site) and site.dims[site.row_axis or 0]:
            return _as_variable(str(site.dims[site.row_axis or 0]))
    return "obs"


def site_dims(site: SiteSpec, rank: int, schema: Schema, row_dim: str) -> list[str]:
    """Names of the dimensions of a site's value: as the user named them, plates, or numbers."""
    if site.name in schema.dims:
        named = list(schema.dims[site.name])
        if len(named) == rank:
            return named
        if follows_rows(site) and len(named) == rank - 1:
            axis = site.row_axis or 0
            return [*named[:axis], row_dim, *named[axis:]]
        msg = f"dims names {len(named)} dimensions of site '{site.name}', which has {rank}."
        raise InputError(msg, code="dims-conflict")
    dims = []
    for axis in range(rank):
        plate = site.dims[axis] if axis < len(site.dims) else None
        if follows_rows(site) and axis == site.row_axis:
            dims.append(row_dim)
        else:
            dims.append(_as_variable(plate or f"{site.name}_dim_{axis}"))
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
