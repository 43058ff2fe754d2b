"""Angles and directions: supports made of them, turns from one to another, and their means."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import erf, i0e, i1e
from numpyro.distributions import constraints

__all__ = ["is_angular", "mean_direction", "projected_mean", "turn"]


def is_angular(support: constraints.Constraint) -> bool:
    """Whether all numbers of a support are angles.

    Examples
    --------
    >>> is_angular(constraints.independent(constraints.circular, 1))
    True
    """
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return isinstance(support, type(constraints.circular))


def turn(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The shorter way from one angle to another, above -pi and up to pi.

    Examples
    --------
    >>> turn(np.array([-3.0, 3.0, np.pi]), np.array([3.0, -3.0, 0.0])).round(3).tolist()
    [0.283, -0.283, 3.142]
    """
    apart = np.subtract(new, old, dtype=np.float64)
    turned: np.ndarray = np.pi - (np.pi - apart) % (2 * np.pi)
    return np.where(turned > -np.pi, turned, np.pi).astype(np.result_type(new, old))


def mean_direction(fn: dist.Distribution) -> jax.Array:
    """Mean cosine and sine of an angle with a von Mises distribution."""
    length = i1e(fn.concentration) / i0e(fn.concentration)
    angle = jnp.broadcast_to(fn.loc, fn.batch_shape)
    return length[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)


def projected_mean(fn: dist.Distribution) -> jax.Array | None:
    """Mean of a normal vector of unit variance that is projected on a circle or a sphere."""
    concentration = jnp.asarray(fn.concentration)
    size = jnp.sqrt((concentration**2).sum(axis=-1, keepdims=True))
    safe = jnp.where(size > 0, size, 1.0)
    if concentration.shape[-1] == 2:
        quarter = safe**2 / 4
        length = jnp.sqrt(jnp.pi / 8) * size * (i0e(quarter) + i1e(quarter))
    elif concentration.shape[-1] == 3:
        bulk = (1 - 1 / safe**2) * erf(safe / jnp.sqrt(2.0))
        whole = bulk + jnp.sqrt(2 / jnp.pi) * jnp.exp(-(safe**2) / 2) / safe
        length = jnp.where(size < 0.05, 2 / 3 * jnp.sqrt(2 / jnp.pi) * size, whole)
    else:
        return None
    return length * concentration / safe
