"""Log densities that keep their digits, and are what they should be on the border of a support."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints, transforms
from numpyro.distributions.util import sum_rightmost

from aimz.arrays import Array
from aimz.families.censored import censored_density
from aimz.families.limits import is_inside
from aimz.families.table import FAMILIES
from aimz.families.truncated import cut_normal

__all__ = ["Exact", "density_of"]


def density_of(fn: dist.Distribution, value: Array) -> Any:
    """Log density of a distribution; -inf outside its support, and the limit on the border.

    Parameters
    ----------
    fn : Distribution
        With its masks, expansions and event dimensions.
    value : array
        Values, in the shape of the distribution.

    Returns
    -------
    array

    Examples
    --------
    >>> rows = density_of(dist.Exponential(2.0), jnp.array([-1.0, 0.0, 1.0]))
    >>> rows.tolist()[0], rows[1:].round(3).tolist()
    (-inf, [0.693..., -1.307...])
    """
    if isinstance(fn, dist.Independent):
        return sum_rightmost(density_of(fn.base_dist, value), fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution):
        density = density_of(fn.base_dist, value)
        shape = jnp.broadcast_shapes(density.shape, fn.batch_shape)
        return jnp.broadcast_to(density, shape)
    if isinstance(fn, dist.MaskedDistribution):
        return jnp.where(fn._mask, density_of(fn.base_dist, value), 0.0)  # noqa: SLF001
    exact = FAMILIES.of[type(fn)].density
    if exact is not None and exact.is_everywhere:
        return exact.log_density(fn, jnp.asarray(value, jnp.result_type(float)))
    cut = cut_normal(fn)
    if cut is None and _is_affine(fn):
        return _of_affine(fn, value)
    density = _by_formula(fn, value) if cut is None else cut.log_density(value)
    support = _support(fn)
    if support is None:
        return density
    within, inside = support(value), is_inside(support, value)
    if jnp.ndim(inside) > density.ndim:  # an improper prior of a vector, by its elements
        depth = tuple(range(density.ndim, jnp.ndim(inside)))
        within, inside = within.all(axis=depth), inside.all(axis=depth)
    if exact is not None:
        is_regular = within if exact.is_regular is None else within & exact.is_regular(value)
        value = jnp.where(is_regular, value, 0.5).astype(density.dtype)
        density = jnp.where(is_regular, exact.log_density(fn, value), density)
    density = _on_border(fn, value, density, within, inside)
    density = jnp.where(~within & jnp.isnan(density), -jnp.inf, density)
    return jnp.where(inside, density, -jnp.inf)


class Exact(dist.Distribution):  # type: ignore[misc]  # NumPyro has no stubs
    """A distribution with the log density that `density_of` gives, for a fit."""

    def __init__(self, fn: dist.Distribution) -> None:
        self.fn = fn
        super().__init__(fn.batch_shape, fn.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.fn.support

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        return self.fn.sample(key, sample_shape)

    def log_prob(self, value: Array) -> Any:
        return density_of(self.fn, value)


_CENSORED = (
    dist.IntervalCensoredDistribution,
    dist.LeftCensoredDistribution,
    dist.RightCensoredDistribution,
)


def _by_formula(fn: dist.Distribution, value: Array) -> Any:
    if isinstance(fn, _CENSORED):
        return censored_density(fn, value, density_of)
    return _log_prob(fn, value)


def _log_prob(fn: dist.Distribution, value: Array) -> jax.Array:
    """NumPyro's own formula, on the border of the support too."""
    fn = copy.copy(fn)
    fn._validate_args = False  # noqa: SLF001  # -inf on the border of an open support
    return jnp.asarray(fn.log_prob(value))


def _is_affine(fn: dist.Distribution) -> bool:
    """Whether a distribution is another one, moved and stretched."""
    return type(fn) is dist.TransformedDistribution and all(
        type(step) is transforms.AffineTransform for step in fn.transforms
    )


def _of_affine(fn: dist.Distribution, value: Array) -> Any:
    """Log density by that of the base, which knows what it can take.

    The support need not tell: an affine transform says that it gives any number, unless the kernel
    wrote its domain.
    """
    stretch: Any = 0.0
    for step in reversed(fn.transforms):
        source = step.inv(value)
        stretch += sum_rightmost(step.log_abs_det_jacobian(source, value), fn.event_dim)
        value = source
    return density_of(fn.base_dist, value) - stretch


# Supports that leave nothing out, or are not known.
_ANY = tuple(
    type(c)
    for c in (
        constraints.dependent,
        constraints.real,
        constraints.real_vector,
        constraints.real_matrix,
        constraints.circular,  # densities are periodic
    )
)


def _support(fn: dist.Distribution) -> Any:
    """The support of a distribution; None where it says nothing."""
    try:
        support = fn.support
    except NotImplementedError:
        return None
    is_known = isinstance(support, constraints.Constraint) and not isinstance(support, _ANY)
    return support if is_known else None


def _on_border(
    fn: dist.Distribution, value: Array, density: Array, within: Array, inside: Array
) -> Any:
    """Densities with their limits where the formula has none."""
    border = FAMILIES.of[type(fn)].border
    if border is None:
        return density
    on_border = inside & jnp.isnan(density)
    if border.is_on is not None:
        on_border = on_border | border.is_on(value, inside & ~within)
    return jnp.where(on_border, border.limit(fn, value), density)
