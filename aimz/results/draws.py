"""Posterior draws in and out: flat arrays, arrays by chain, and datasets with labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aimz.data import as_array, check_finite, check_positive, lined_up, values_of
from aimz.errors import InputError
from aimz.kernel import KernelSpec
from aimz.libraries import xr
from aimz.results.differences import shared_group
from aimz.results.schema import Schema, as_variable, collision, indexed, site_dims

__all__ = ["as_draws", "draw_labels", "draws_dataset", "flat_arrays", "flat_draws"]


#: Bytes that an array must start at a multiple of, for JAX to take it as it is.
ALIGNED = 64


def draws_dataset(
    draws: Mapping[str, Any], schema: Schema, spec: KernelSpec | None, attrs: Mapping[str, Any]
) -> xr.Dataset:
    """Dataset of posterior draws, each (chain, draw, ...).

    Raises
    ------
    InputError
        `name-collision`: a site and a dimension would have one name.
    """
    # ArviZ's `dict_to_dataset` has no attributes of variables, which keep the site's own name here.
    variables, lengths = {}, {"chain": schema.chains, "draw": schema.draws}
    row_dim = spec.row_dim if spec is not None else "obs"
    for name, value in draws.items():
        array = np.asarray(value).view()
        array.flags.writeable = False  # the draws of the model itself
        rank = array.ndim - 2
        dims = [f"{as_variable(name)}_dim_{i}" for i in range(rank)]
        if name in schema.dims:
            dims = list(schema.dims[name])
        elif spec is not None and name in spec:
            dims = site_dims(spec[name], rank, schema, row_dim)
        dims = ["chain", "draw", *dims]
        variables[as_variable(name)] = (dims, array, {"site": name})
        lengths.update(zip(dims, array.shape, strict=True))
    for name in variables.keys() & lengths.keys():
        raise collision(str(variables[name][-1]["site"]), name)
    return xr.Dataset(variables, coords=indexed(lengths, schema, row_dim), attrs=dict(attrs))


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
    if isinstance(draws, xr.Dataset) and draws.data_vars and "chain" not in draws.dims:
        draws = {str(value.attrs.get("site", n)): value for n, value in draws.data_vars.items()}
    if isinstance(draws, xr.Dataset):
        _check_dims(draws)
        arrays = {
            str(value.attrs.get("site", name)): _as_numbers(
                str(name), value.transpose("chain", "draw", ...)
            )
            for name, value in draws.data_vars.items()
        }
    else:
        arrays = {n: _by_chain(n, value, num_chains) for n, value in _in_one_order(draws).items()}
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


def draw_labels(
    draws: Mapping[str, Any] | xr.DataTree | xr.Dataset,
) -> dict[str, dict[int, np.ndarray]]:
    """Labels of the axes of draws made elsewhere, where they carry any: by site and axis."""
    if isinstance(draws, xr.DataTree):
        draws = (draws["posterior"] if "posterior" in draws.children else draws).to_dataset()
    if not isinstance(draws, xr.Dataset) or "chain" not in draws.dims:
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


def _as_numbers(name: str, value: xr.DataArray) -> np.ndarray:
    """Draws as an array of their own, which nobody else can change; a CPU needs no other copy."""
    array = np.asarray(as_array(value, name))
    room = np.empty(array.nbytes + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    own = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    own[...] = array
    return own


def _in_one_order(draws: Mapping[str, Any]) -> dict[str, Any]:
    """Draws by site, on the leading axis, and labelled ones in the same order.

    Raises
    ------
    InputError
        `row-labels`: draws that are called otherwise; `draws-shape`.
    """
    leading = {name: _draws_first(name, value) for name, value in draws.items()}
    values = values_of(leading)
    first, names = next(
        ((n, v.labels) for n, v in values.items() if v.labels is not None), ("", None)
    )
    lined = values if names is None else lined_up(values, names, len(names), first)
    return {name: value.given for name, value in lined.items()}


def _draws_first(name: str, value: Any) -> Any:
    """An array with its draws on the first axis, where it says which these are."""
    if not isinstance(value, xr.DataArray):
        return value
    if "chain" in value.dims:
        raise _other_dims(name, value)
    return value.transpose(*(dim for dim in ("draw", "sample") if dim in value.dims), ...)


def _check_dims(draws: xr.Dataset) -> None:
    for name, value in draws.data_vars.items():
        if not {"chain", "draw"} <= {*value.dims}:
            raise _other_dims(name, value)


def _other_dims(name: object, value: xr.DataArray) -> InputError:
    msg = (
        f"'{name}' has the dimensions {value.dims!s:.60}. Those of a tree or Dataset have 'chain' "
        "and 'draw', and those of a dict 'draw' alone, the chains one after another."
    )
    return InputError(msg, code="draws-shape")


def _by_chain(name: str, value: Any, num_chains: int) -> np.ndarray:
    array = _as_numbers(name, value)
    if array.ndim == 0 or len(array) % num_chains:
        msg = (
            f"Draws of '{name}' have shape {array.shape}, which does not split into {num_chains} "
            "chains. The leading axis must hold the draws of all chains."
        )
        raise InputError(msg, code="draws-shape")
    return array.reshape(num_chains, len(array) // num_chains, *array.shape[1:])


def _check_named(draws: object) -> None:
    """Refuse draws that do not say of which sites they are."""
    if isinstance(draws, xr.DataTree | xr.Dataset):
        return
    if not isinstance(draws, Mapping) or not all(isinstance(name, str) for name in draws):
        msg = (
            f"Posterior draws are a dict of arrays by site, a DataTree or a Dataset, not a "
            f"{type(draws).__name__}. Name the sites."
        )
        raise InputError(msg, code="draws-shape")
