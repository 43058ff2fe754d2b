"""Draws of distributions: each by its own key, in single precision, whatever its neighbours are."""

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike

from aimz.errors import InputError
from aimz.families import FAMILIES, base_distribution, with_tails
from aimz.kernel import SiteSpec
from aimz.programs import NO_ROW, as_stock_key

__all__ = ["draw", "draw_rows", "drawn_if_possible", "drawn_on", "narrow_draw"]


def draw(fn: dist.Distribution, key: jax.Array, shape: tuple[int, ...], name: str) -> Any:
    """One draw of a distribution with one of our keys."""
    fn = with_tails(fn)
    for kind_of_key in (key, as_stock_key(key)):
        # Some of NumPyro's take their quantiles from a library that may not be there.
        with contextlib.suppress(NotImplementedError, AssertionError, ImportError):
            return fn(rng_key=kind_of_key, sample_shape=shape)
    message = (
        f"Site '{name}' cannot be drawn from {type(fn).__name__}, which has no sampler. Give "
        "the distribution a `sample` method; a latent needs none once the model is fitted."
    )
    raise InputError(message, code="no-sampler")


def narrow_draw(fn: dist.Distribution, key: jax.Array, shape: tuple[int, ...], name: str) -> Any:
    """The draw that single precision gives, for a program in double precision."""

    def narrowed(leaf: Any) -> Any:
        narrow = {"float64": np.float32, "int64": np.int32}.get(str(getattr(leaf, "dtype", "")))
        return leaf if narrow is None else leaf.astype(narrow)

    def rebuilt(thing: object) -> Any:
        if not isinstance(thing, dist.Distribution):
            return jax.tree.map(narrowed, thing)
        narrow = copy.copy(thing)
        vars(narrow).update({name: rebuilt(attribute) for name, attribute in vars(thing).items()})
        return narrow

    with jax.enable_x64(False):
        try:
            narrow = jax.tree.map(narrowed, fn)
        except AttributeError:  # HurdleNegativeBinomial2 cannot be put together from its leaves
            narrow = rebuilt(fn)
        value = draw(narrow, key, shape, name)
    return value.astype(np.float64) if value.dtype == np.float32 else value


def drawn_if_possible(one: Callable[..., Any]) -> Callable[..., Any]:
    """A draw of a site that nothing asked for needs; zeros where it has no sampler."""

    def stand_in(fn: dist.Distribution, key: jax.Array, shape: tuple[int, ...], name: str) -> Any:
        try:
            return one(fn, key, shape, name)
        except InputError:
            return jnp.zeros(fn.shape(shape), int if fn.support.is_discrete else float)

    return stand_in


def draw_rows(
    one: Callable[..., Any],
    fn: dist.Distribution,
    key: Callable[..., jax.Array],
    rows: ArrayLike,
    site: SiteSpec,
    shape: tuple[int, ...],
) -> Any:
    """Draw all rows of a site at once, each by its own key where the sampler would mix them."""
    base = base_distribution(fn)
    family = next(
        (kind for kind in FAMILIES.above[type(base)].by_row if isinstance(base, kind)), None
    )
    if family is None or shape:
        return one(fn, key(NO_ROW), shape, site.name)
    batch = fn.batch_shape + fn.event_shape[: fn.event_dim - base.event_dim]
    axis = site.axis
    from_right = len(batch) - axis
    parameters, axes = _row_parameters(base, family, from_right)
    batch_of_row = batch[:axis] + batch[axis + 1 :]

    def one_row(parameters: dict[str, Any], row: ArrayLike) -> Any:
        single = family(**parameters, **_settings(base, family, parameters))
        return one(single.expand(batch_of_row), key(row), (), site.name)

    values = jax.vmap(one_row, in_axes=(axes, 0))(parameters, rows)
    return jnp.moveaxis(values, 0, axis)


def _row_parameters(
    base: dist.Distribution, family: type[dist.Distribution], from_right: int
) -> tuple[dict[str, Any], dict[str, int | None]]:
    """Array parameters of a distribution and the axis of each that follows the rows."""
    parameters, axes = {}, {}
    for name, constraint in family.arg_constraints.items():
        value = base.__dict__.get(name)
        if value is None or isinstance(value, int):
            continue
        value = jnp.asarray(value)
        depth = value.ndim - getattr(constraint, "event_dim", 0) - from_right
        if depth >= 0 and value.shape[depth] == 1:
            value = jnp.squeeze(value, depth)
            depth = -1
        parameters[name], axes[name] = value, depth if depth >= 0 else None
    return parameters, axes


def _settings(
    base: dist.Distribution, family: type[dist.Distribution], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameters of a distribution that are plain numbers."""
    return {
        name: base.__dict__[name]
        for name in family.arg_constraints
        if name not in parameters and base.__dict__.get(name) is not None
    }


def drawn_on(fn: dist.Distribution, value: jax.Array, natural: jax.Array) -> jax.Array:
    """A draw that begins with a value: what follows is drawn given it."""
    after = FAMILIES.above[type(base_distribution(fn))].vector.after
    if after is not None:
        natural = after(base_distribution(fn), value, natural)
    first = tuple(slice(0, size) for size in value.shape)
    return natural.at[first].set(jnp.where(jnp.isnan(value), natural[first], value))
