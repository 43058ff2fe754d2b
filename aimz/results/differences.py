"""The difference of two results, draw by draw, in memory or from store to store."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from aimz.errors import InputError
from aimz.families import turn
from aimz.libraries import xr
from aimz.store import Tile, Variable, tree_of

__all__ = [
    "aligned",
    "difference_dtype",
    "difference_layout",
    "less",
    "shared_group",
    "shared_measure",
    "subtract",
]


#: Bytes of one part of a difference.
PART_BYTES = 16 * 2**20


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
