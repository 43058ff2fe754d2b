"""Which elements of an observed value count: those that are there and that no mask leaves out.

A missing element is NaN, or `MISSING` among whole numbers. It is never compared with anything: a
distribution of several elements is replaced by that of the elements that are there (`part_of`),
exactly where the family allows it. What the kernel masks is read from its distributions.
"""

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import transforms
from numpyro.infer import init_to_feasible

from aimz.arrays import Array
from aimz.data import MISSING
from aimz.errors import InputError
from aimz.families import FAMILIES, base_distribution, density_of
from aimz.kernel import Inputs, KernelSpec, SiteSpec
from aimz.programs import Bound, Cache, compile_program, remembered

__all__ = [
    "Presence",
    "completed",
    "densities_of",
    "filled",
    "has_parts",
    "is_there",
    "part_of",
    "presence_of",
    "unmasked",
]


@dataclass(frozen=True)
class Presence:
    """What is missing of an outcome, as the kernel's sites see it.

    `fills` has for each site that observes the outcome a possible value of one row, which stands in
    for missing elements while they do not count. `left_out` counts, by site, the rows of which
    something is there and is left out with the rest, because the family has no marginals here.
    """

    fills: Mapping[str, np.ndarray]
    left_out: Mapping[str, int] = field(default_factory=dict)


def is_there(value: Array) -> jax.Array:
    """Which elements of an array are not missing."""
    value = jnp.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return jnp.isfinite(value)
    if jnp.issubdtype(value.dtype, jnp.signedinteger):
        return value != MISSING
    return jnp.ones(value.shape, bool)


def filled(value: Array, fill: Array, axis: int) -> jax.Array:
    """An array whose missing elements are those of one row."""
    return jnp.where(is_there(value), value, jnp.expand_dims(fill, axis))


# ------------------------------------------------------------------ distributions
def unmasked(fn: dist.Distribution) -> jax.Array:
    """Which elements of a distribution's batch no mask of the kernel leaves out.

    Of several that are one event some are enough.
    """
    if isinstance(fn, dist.MaskedDistribution):
        return jnp.logical_and(fn._mask, unmasked(fn.base_dist))  # noqa: SLF001
    if isinstance(fn, dist.ExpandedDistribution):
        return unmasked(fn.base_dist)
    if isinstance(fn, dist.Independent):
        inner = jnp.broadcast_to(unmasked(fn.base_dist), fn.base_dist.batch_shape)
        return inner.any(axis=_last(fn.reinterpreted_batch_ndims))
    return jnp.asarray(True)


def has_parts(fn: dist.Distribution) -> bool:
    """Whether some elements of an event have a distribution of their own here."""
    if fn.event_dim == 0:
        return True
    if isinstance(fn, _WRAPPERS):
        return has_parts(fn.base_dist)
    if isinstance(fn, dist.TransformedDistribution):
        by_element = all(t.domain.event_dim == t.codomain.event_dim == 0 for t in fn.transforms)
        return by_element and has_parts(fn.base_dist)
    return FAMILIES.of[type(fn)].vector.marginal is not None


def part_of(fn: dist.Distribution, there: Array) -> Any:
    """The distribution of the elements that are `there`, which is shaped like a value.

    Its log density is 0 where none is. A family without marginals loses the whole event.
    """
    if fn.event_dim == 0:
        return fn.mask(there)
    if isinstance(fn, dist.MaskedDistribution):
        return part_of(fn.base_dist, there).mask(fn._mask)  # noqa: SLF001
    if isinstance(fn, dist.ExpandedDistribution):
        return part_of(fn.base_dist, there)
    if isinstance(fn, dist.Independent):
        return part_of(fn.base_dist, there).to_event(fn.reinterpreted_batch_ndims)
    if has_parts(fn):
        return _Part(fn, there)
    return fn.mask(there.all(axis=_last(fn.event_dim)))


class _Part(dist.Distribution):  # type: ignore[misc]  # NumPyro has no stubs
    """A vector of which some elements are missing: the marginal of the others."""

    def __init__(self, fn: dist.Distribution, there: Array) -> None:
        self.whole, self.there = fn, there
        rank = there.ndim - fn.event_dim
        super().__init__(there.shape[:rank], fn.event_shape)

    @property
    def support(self) -> Any:
        return self.whole.support

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        return self.whole.expand(self.batch_shape).sample(key, sample_shape)

    def log_prob(self, value: Array) -> Any:
        return _log_marginal(self.whole, value, self.there)


def _log_marginal(fn: dist.Distribution, value: Array, there: Array) -> Any:
    """Log density of the elements of a value that are there."""
    if isinstance(fn, dist.TransformedDistribution):
        jacobian = jnp.zeros(there.shape)
        for transform in reversed(fn.transforms):
            before = transform.inv(value)
            jacobian += jnp.where(there, transform.log_abs_det_jacobian(before, value), 0.0)
            value = before
        density = part_of(fn.base_dist, there).log_prob(value)
        return density - jacobian.sum(_last(fn.event_dim))
    marginal = FAMILIES.of[type(fn)].vector.marginal
    assert marginal is not None  # noqa: S101  # `has_parts` has looked
    return marginal(fn, value, there)


def completed(fn: dist.Distribution, there: Array, value: Array, drawn: Array) -> Any:
    """A value whose missing elements are drawn, given those that are `there`.

    `drawn` is a whole draw of the distribution. A family whose elements depend on one another in a
    way that is not known loses the whole event.
    """
    if fn.event_dim == 0:
        return jnp.where(there, value, drawn)
    if isinstance(fn, _WRAPPERS):
        return completed(fn.base_dist, there, value, drawn)
    if isinstance(fn, dist.TransformedDistribution) and has_parts(fn):
        value, drawn = (functools.reduce(_undo, reversed(fn.transforms), v) for v in (value, drawn))
        whole = completed(fn.base_dist, there, jnp.where(there, value, drawn), drawn)
        return functools.reduce(lambda v, transform: transform(v), fn.transforms, whole)
    given_others = FAMILIES.above[type(fn)].vector.completed
    if given_others is None:
        whole = there.all(_last(fn.event_dim))
        return jnp.where(jnp.expand_dims(whole, _last(fn.event_dim)), value, drawn)
    return given_others(fn, there, value, drawn)


def _undo(value: Array, transform: transforms.Transform) -> Any:
    return transform.inv(value)


def _last(count: int) -> tuple[int, ...]:
    return tuple(range(-count, 0))


_WRAPPERS = (dist.MaskedDistribution, dist.ExpandedDistribution, dist.Independent)


def densities_of(
    fn: dist.Distribution, value: Array, site: SiteSpec, *, missing: bool, given: str = "earlier"
) -> tuple[Any, Any]:
    """Log densities of what a site observes, event by event, and which of them count.

    Those of a series are of each value, given the "earlier" ones or all "others".
    """
    if site.is_series:
        law = base_distribution(fn)
        there = is_there(value) if missing else jnp.ones(jnp.shape(value), bool)
        density = getattr(FAMILIES.of[type(law)].vector, given)(law, value, there)
        return density, there & jnp.expand_dims(unmasked(fn), -1)
    if site.kind == "factor":
        density = fn.log_prob(value)
        return density, jnp.broadcast_to(unmasked(fn), jnp.shape(density))
    rank = jnp.ndim(value) - site.event_dim
    counts = unmasked(fn)
    if missing:
        there = is_there(value)
        events = there.reshape(*there.shape[:rank], -1)
        counts = counts & (events.any(-1) if has_parts(fn) else events.all(-1))
        fn = part_of(fn, there)
    shape = jnp.shape(value)[:rank]
    return jnp.broadcast_to(density_of(fn, value), shape), jnp.broadcast_to(counts, shape)


# ------------------------------------------------------------------ outcomes of a call
def presence_of(
    kernel: Callable[..., Any], inputs: Inputs, spec: KernelSpec, there: np.ndarray
) -> Presence:
    """What the kernel's sites see of an outcome that is not all `there`, (row, ...).

    Raises
    ------
    InputError
        `missing-outcomes`: the kernel also computes with the outcome, or adds up rows.
    """
    readers = _computing_with(spec.output, spec)
    seers = [site for site in spec.sites if spec.output in site.observes]
    if readers or not seers:
        where = f"site '{readers[0]}' computes with them" if readers else "no site observes them"
        is_series = spec.output in spec and spec[spec.output].rows == "scan"
        raise _refused(spec.output, where, is_series=is_series)
    values, parts = _observed(kernel, inputs, [site.name for site in seers])
    absent = np.zeros(inputs.rows, bool)
    fills, left_out = {}, {}
    for site in seers:
        is_seen, axis = np.asarray(is_there(values[site.name])), site.row_axis
        in_event = axis is not None and axis >= len(site.shape) - site.event_dim
        if not site.follows_rows or axis is None or (in_event and not parts[site.name]):
            raise _refused(spec.output, f"site '{site.name}' has no log density per row")
        others = tuple(a for a in range(is_seen.ndim) if a != axis)
        absent |= ~is_seen.all(axis=others)
        fills[site.name] = _fill(
            np.moveaxis(values[site.name], axis, 0), np.moveaxis(is_seen, axis, 0)
        )
        if not parts[site.name]:
            events = is_seen.reshape(*is_seen.shape[: is_seen.ndim - site.event_dim], -1)
            left_out[site.name] = int((events.any(-1) & ~events.all(-1)).sum())
    if not np.array_equal(absent, ~there.reshape(len(there), -1).all(axis=1)):
        raise _refused(spec.output, f"'{seers[0].name}' observes what is computed from them")
    return Presence(fills, {name: rows for name, rows in left_out.items() if rows})


def _observed(
    kernel: Callable[..., Any], inputs: Inputs, names: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
    """Values that sites observe, and whether their elements may be missing one by one."""
    program, parts = remembered(
        _OBSERVED,
        lambda: _name_of_look(kernel, inputs, names),
        lambda: _look_at(kernel, inputs, names),
    )
    return {name: np.asarray(value) for name, value in program(inputs.arrays).items()}, parts


# By all that the trace follows from.
_MAX_OBSERVED = 64
_OBSERVED: Cache[Any, tuple[Bound, dict[str, bool]]] = Cache(_MAX_OBSERVED)


def _name_of_look(kernel: Callable[..., Any], inputs: Inputs, names: list[str]) -> Hashable | None:
    its = inputs.name(kernel)
    return None if its is None else (its, tuple(names))


def _look_at(
    kernel: Callable[..., Any], inputs: Inputs, names: list[str]
) -> tuple[Bound, dict[str, bool]]:
    parts: dict[str, bool] = {}

    def look(arrays: dict[str, Any]) -> dict[str, Any]:
        with handlers.block():
            substituted = handlers.substitute(
                handlers.seed(kernel, 0), substitute_fn=init_to_feasible()
            )
            messages = handlers.trace(substituted).get_trace(**arrays, **inputs.static)
        parts.update({name: has_parts(messages[name]["fn"]) for name in names})
        return {name: messages[name]["value"] for name in names}

    return compile_program(look, inputs.arrays), parts


def _fill(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """A possible value of one row: a complete one if there is any, else element by element."""
    full = np.flatnonzero(there.reshape(len(there), -1).all(axis=1))
    if len(full):
        return np.asarray(values[full[0]])
    first = np.argmax(there, axis=0)
    fill = np.take_along_axis(values, first[None], 0)[0]
    return np.asarray(np.where(there.any(axis=0), fill, values[there][0]))


def _computing_with(output: str, spec: KernelSpec) -> list[str]:
    """Sites that would feel a missing outcome: they read the data, or the outcome as it is drawn.

    In a scan the outcome may read itself, as it was a step before.
    """
    seers = {s.name for s in spec.sites if output in s.observes} - {output}
    below = spec.descendants({output}) | frozenset().union(*(spec.descendants({n}) for n in seers))
    feel = [s.name for s in spec.sites if s.name in below and s.kind != "deterministic"]
    read = [s.name for s in spec.sites if output in s.inputs]
    reads_itself = output in spec and (
        output in spec[output].parents or output in spec.descendants(below)
    )
    return [*read, *feel, *([output] if reads_itself else [])]


def _refused(output: str, where: str, *, is_series: bool = False) -> InputError:
    fix = (
        "Make them latents, or fill them with any value and pass the kernel a mask: "
        ".mask(there), and the state stays as it is where nothing is there."
        if is_series
        else "Leave those rows out of the data."
    )
    msg = f"Missing values of '{output}' cannot be left out, because {where}. {fix}"
    return InputError(msg, code="missing-outcomes")
