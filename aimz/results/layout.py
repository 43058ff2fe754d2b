"""The schema of results: DataTrees as ArviZ 1.x expects them.

Leading dimensions are `chain` and `draw`; rows carry the input's labels; the others are named by
their plates, by `dims=`, or as `<site>_dim_<i>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aimz.choices import shown
from aimz.errors import InputError
from aimz.execution import Call, Plan, Ready
from aimz.kernel import KernelSpec, SiteSpec
from aimz.libraries import xr
from aimz.programs import Cache
from aimz.results.schema import Schema, as_variable, indexed, site_dims
from aimz.store import Variable

__all__ = [
    "check_groups",
    "check_named",
    "first_outcome",
    "labelled_groups",
    "layout_of",
]


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


def check_groups(groups: Mapping[str, xr.Dataset]) -> None:
    """Refuse groups in which a site and a dimension have one name.

    Raises
    ------
    InputError
        `name-collision`
    """
    for dataset in groups.values():
        for name in dataset.data_vars:
            if name in dataset.dims:
                raise _collision(str(name), str(name))


def _check_layout(variables: Sequence[Variable]) -> None:
    """Refuse names and dimensions that would hide one another, before anything is computed."""
    for group in {variable.group for variable in variables}:
        own = [variable for variable in variables if variable.group == group]
        sizes = _sizes_of(own)
        names = [variable.name for variable in own]
        for variable in own:
            if names.count(variable.name) > 1 or variable.name in sizes:
                raise _collision(variable.site, variable.name)


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
    row_dim = spec.row_dim
    lengths: dict[str, dict[str, int]] = {}
    for variable in variables:
        sizes = list(variable.shape)
        if variable.row_axis is not None:
            sizes[variable.row_axis] = rows
        lengths.setdefault(variable.group, {}).update(zip(variable.dims, sizes, strict=True))
    return {group: indexed(sizes, schema, row_dim).to_dataset() for group, sizes in lengths.items()}


def check_named(draws: object) -> None:
    """Refuse draws that do not say of which sites they are."""
    if isinstance(draws, xr.DataTree | xr.Dataset):
        return
    if not isinstance(draws, Mapping) or not all(isinstance(name, str) for name in draws):
        msg = (
            f"Posterior draws are a dict of arrays by site, a DataTree or a Dataset, not "
            f"{shown(draws)}. Name the sites."
        )
        raise InputError(msg, code="draws-shape")


def first_outcome(call: Call) -> np.ndarray | None:
    """Outcomes that are kept beside the draws, or the head of them."""
    if call.observed is not None:
        return call.observed
    output = call.task.spec.output
    outcome: np.ndarray | None = call.source.head.get(output)
    return outcome if output in call.task.spec else None
