"""Families of vectors: some elements without the others, given the others, or after the others."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from aimz.arrays import Array
from aimz.families.family import Vector

__all__ = ["LOW_RANK_NORMAL", "NORMAL", "STUDENT", "WALK"]


# ------------------------------------------------------------------ some elements only
def _normal(fn: dist.Distribution, value: Array, there: Array) -> Any:
    residual = jnp.where(there, value - fn.loc, 0.0)
    density = dist.MultivariateNormal(scale_tril=_root(fn, there)).log_prob(residual)
    return density + _absent(there) * 0.5 * math.log(2 * math.pi)


def _low_rank_normal(fn: dist.Distribution, value: Array, there: Array) -> Any:
    # A missing element becomes an independent standard normal one, at its mean.
    factor = jnp.where(there[..., None], fn.cov_factor, 0.0)
    spread = jnp.where(there, fn.cov_diag, 1.0)
    centre = jnp.broadcast_to(fn.loc, there.shape)
    marginal = dist.LowRankMultivariateNormal(centre, factor, spread)
    density = marginal.log_prob(jnp.where(there, value, centre))
    return density + _absent(there) * 0.5 * math.log(2 * math.pi)


def _student(fn: dist.Distribution, value: Array, there: Array) -> Any:
    residual = jnp.where(there, value - fn.loc, 0.0)
    root = _root(fn, there)
    white = jax.scipy.linalg.solve_triangular(root, residual[..., None], lower=True)[..., 0]
    count = there.sum(-1)
    half = 0.5 * (fn.df + count)
    volume = jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
    constant = gammaln(half) - gammaln(0.5 * fn.df) - 0.5 * count * jnp.log(fn.df * math.pi)
    return constant - volume - half * jnp.log1p((white**2).sum(-1) / fn.df)


def _root(fn: dist.Distribution, there: Array) -> jax.Array:
    """Cholesky factor of a covariance whose missing elements are independent of variance 1."""
    whole = jnp.broadcast_to(fn.scale_tril, (*there.shape, there.shape[-1]))
    factor = jnp.where(there[..., None], whole, 0.0)
    covariance = factor @ jnp.swapaxes(factor, -1, -2)
    covariance += jnp.where(there, 0.0, 1.0)[..., None] * jnp.eye(there.shape[-1])
    # Nothing is missing in most rows: the factor that is known loses no digits.
    return jnp.where(there.all(-1)[..., None, None], whole, jnp.linalg.cholesky(covariance))


def _absent(there: Array) -> Any:
    return (~there).sum(-1)


# ------------------------------------------------------------------ given some elements
def _completed(fn: dist.Distribution, there: Array, value: Array, drawn: Array) -> Any:
    """A draw moves by the regression on what its observed elements are off (Matheron's rule)."""
    off = jnp.where(there, value - drawn, 0.0)
    root = _root(fn, there)
    weights = jax.scipy.linalg.cho_solve((root, True), off[..., None])
    moved = drawn + (fn.covariance_matrix @ weights)[..., 0]
    return jnp.where(there, value, moved)


def _after_normal(fn: dist.Distribution, value: Array, natural: Array) -> Any:
    """The same rule, where the first elements are known."""
    count, root = value.shape[-1] if value.ndim else 0, fn.scale_tril
    change = (value - natural[..., :count])[..., None]
    noise = jax.scipy.linalg.solve_triangular(root[..., :count, :count], change, lower=True)
    return natural + (root[..., :, :count] @ noise)[..., 0]


def _after_walk(_: dist.Distribution, value: Array, natural: Array) -> Any:
    count = value.shape[-1] if value.ndim else 0
    return natural - natural[..., count - 1 : count] + value[..., -1:]


# ------------------------------------------------------------------ of standard noise
def _normal_of(fn: dist.Distribution, noise: Array) -> Any:
    return fn.loc + jnp.squeeze(fn.scale_tril @ noise[..., None], axis=-1)


def _walk_of(fn: dist.Distribution, noise: Array) -> Any:
    return jnp.expand_dims(fn.scale, -1) * jnp.cumsum(noise, axis=-1)


NORMAL = Vector(_normal, _completed, _after_normal, _normal_of)
LOW_RANK_NORMAL = Vector(_low_rank_normal, _completed)
STUDENT = Vector(_student)
WALK = Vector(after=_after_walk, of_noise=_walk_of)
