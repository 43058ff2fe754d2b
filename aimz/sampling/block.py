"""One block of rows by draws as arrays, and the task that a program does on it."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aimz.kernel import KernelSpec, SiteSpec

__all__ = [
    "DENSITY",
    "WEIGHT",
    "Block",
    "Task",
    "density_spec",
    "mapped",
    "move",
    "row_axis",
    "with_row_axis",
]


# Results of `score_block`.
DENSITY, WEIGHT = "aimz:density", "aimz:weight"


class Block(NamedTuple):
    """Arrays of one block of rows by draws; every leaf is an input of the program."""

    words: Any  # (2,) uint32: the call
    draws: Any  # (draw,) uint32: numbers of the draws; in a program, a `Draw`
    rows: Any  # (row,) uint32: global numbers of the rows
    inputs: dict[str, Any]  # kernel arguments that go whole
    row_inputs: dict[str, Any]  # (row, ...)
    params: dict[str, Any]  # values of `param` sites and mutable state
    posterior: dict[str, Any]  # (draw, ...): sites that no row owns
    row_posterior: dict[str, Any]  # (draw, row, ...): the row axis comes second
    values: dict[str, Any]  # interventions and conditions that are the same for all rows
    row_values: dict[str, Any]  # (row, ...): those that belong to rows
    redraw: dict[str, Any]  # (row,) of bool, or (row, ...): where a site of rows is drawn anew
    kept: Any = None  # numbers of the rows to return, where others run along; None for all


@dataclass(frozen=True)
class Task:
    """What a program does, beside its arrays: the kernel, what is read and what is set."""

    kernel: Callable[..., Any]
    spec: KernelSpec
    results: KernelSpec  # the sites as they are returned: `spec`, or `density_spec(spec)`
    static: Mapping[str, Any]
    sites: tuple[str, ...]
    do: tuple[str, ...] = ()
    condition: tuple[str, ...] = ()
    functions: tuple[tuple[str, Callable[..., Any]], ...] = ()
    held: tuple[str, ...] = ()  # sites that keep the block's values though the call observes them
    missing: bool = False  # whether outcomes may be missing
    unchecked: tuple[str, ...] = ()  # latents whose draws have not been held to their supports
    is_wide: bool = False  # in double precision but for draws, which are those of single precision

    @cached_property
    def settled(self) -> tuple[Hashable, ...]:
        """Name of all that it says and nothing can change: not of what functions read."""
        specs = (self.spec, self.results)
        if (
            not self.spec.coupled
            and not self.functions
            and all(s.rows != "scan" for s in self.spec.sites)
        ):
            specs = (self.spec.at_rows(0), self.results.at_rows(0))  # rows are as many as a tile's
        unlike = tuple((site.joint_dim, site.is_nested, site.law) for site in self.spec.sites)
        others = (self.sites, self.do, self.condition, self.held, self.missing, self.unchecked)
        return (*specs, unlike, *others, self.is_wide)


def density_spec(spec: KernelSpec) -> KernelSpec:
    """The sites as their log densities are shaped: without event dimensions.

    Of a series whose values are known given one another each has its own. Any other density that is
    joint over the rows (a process, a multivariate normal over rows) follows no row.
    """
    return replace(spec, sites=tuple(_density_site(site) for site in spec.sites))


def _density_site(site: SiteSpec) -> SiteSpec:
    if site.is_series:
        return replace(site, event_dim=0)
    rank = len(site.shape) - (0 if site.kind == "factor" else site.event_dim)
    by_element = replace(site, shape=site.shape[:rank], dims=site.dims[:rank], event_dim=0)
    if site.row_axis is not None and site.row_axis < rank:
        return by_element
    return replace(by_element, rows="none", row_axis=None)


def mapped(*fields: str) -> Any:
    """`in_axes` of a block in which some fields have a leading axis to map over."""
    axes: dict[str, Any] = {name: 0 if name in fields else None for name in Block._fields}
    return Block(**axes)


def move(value: jax.Array, source: int, target: int) -> jax.Array:
    """Move an axis."""
    return jnp.moveaxis(value, source, target)


def row_axis(spec: KernelSpec, name: str) -> int:
    """Axis of the rows in a site's values."""
    return spec[name].axis


def with_row_axis(spec: KernelSpec, values: dict[str, Any]) -> dict[str, Any]:
    """Values of one row, with the axis of the rows."""
    return {n: jnp.expand_dims(v, row_axis(spec, n)) for n, v in values.items()}
