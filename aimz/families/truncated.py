"""Normal distributions cut on one side or on both, in logarithms: right in tails of any distance.

NumPyro subtracts probabilities, which single precision rounds to 0 from 13 standard deviations on.
"""

import copy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr, ndtri

from aimz.arrays import Array

__all__ = ["cut_normal", "with_tails"]


_LOG_TAU = 1.8378770664093453
_STEPS = 4


class _Cut(NamedTuple):
    """A cut normal in units of its scale, mirrored so that most of it is above the location."""

    sign: Any
    low: Any
    high: Any
    loc: Any
    scale: Any

    @property
    def log_mass(self) -> jax.Array:
        return _log_upper(self.low) + jnp.log1p(-self.share)

    @property
    def share(self) -> jax.Array:
        """Probability above the upper limit, as a part of that above the lower one."""
        gap = _log_upper(self.high) - _log_upper(self.low)
        return jnp.where(jnp.isnan(gap), 1.0, jnp.exp(gap))

    @property
    def mean(self) -> Any:
        mass = self.log_mass
        inner = jnp.exp(_log_normal(self.low) - mass) - jnp.exp(_log_normal(self.high) - mass)
        inner = jnp.clip(inner, self.low, self.high)
        return self.loc + self.scale * self.sign * inner

    def log_density(self, value: Array) -> Any:
        place = (value - self.loc) / self.scale
        return _log_normal(place) - jnp.log(self.scale) - self.log_mass

    def quantile(self, uniform: Array) -> Any:
        uniform = jnp.where(self.sign > 0, uniform, 1 - uniform)
        level = _log_upper(self.low) + jnp.log1p(-uniform * (1 - self.share))
        place = jnp.clip(_upper_quantile(level), self.low, self.high)
        return self.loc + self.scale * self.sign * place


def cut_normal(fn: dist.Distribution) -> _Cut | None:
    """A truncated normal; None where a distribution is something else."""
    if type(fn) not in _TAILS or not isinstance(fn.base_dist, dist.Normal):
        return None
    loc, scale = fn.base_dist.loc, fn.base_dist.scale
    low = (jnp.asarray(getattr(fn, "low", -jnp.inf)) - loc) / scale
    high = (jnp.asarray(getattr(fn, "high", jnp.inf)) - loc) / scale
    sign = jnp.where(low + high < 0, -1.0, 1.0)
    mirrored = jnp.where(sign < 0, -high, low), jnp.where(sign < 0, -low, high)
    return _Cut(sign, *mirrored, loc, scale)


def with_tails(fn: dist.Distribution) -> Any:
    """A distribution whose truncated normals are drawn by their tails."""
    if type(fn) in _TAILS and isinstance(fn.base_dist, dist.Normal):
        fn = copy.copy(fn)
        fn.__class__ = _TAILS[type(fn)]
        return fn
    base = getattr(fn, "base_dist", None)
    better = None if base is None else with_tails(base)
    if better is base:
        return fn
    fn = copy.copy(fn)
    fn.base_dist = better
    return fn


def _draw(fn: dist.Distribution, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
    tiny = float(np.finfo(jnp.result_type(float)).tiny)
    uniform = jax.random.uniform(key, sample_shape + fn.batch_shape, minval=tiny)
    cut = cut_normal(_plain(fn))
    assert cut is not None  # noqa: S101  # of a class made for it
    return cut.quantile(uniform)


def _plain(fn: dist.Distribution) -> Any:
    fn = copy.copy(fn)
    fn.__class__ = type(fn).__base__
    return fn


class _LeftTail(dist.LeftTruncatedDistribution):  # type: ignore[misc]  # NumPyro has no stubs
    sample = _draw


class _RightTail(dist.RightTruncatedDistribution):  # type: ignore[misc]
    sample = _draw


class _TwoTails(dist.TwoSidedTruncatedDistribution):  # type: ignore[misc]
    sample = _draw


_TAILS: dict[type, type] = {
    dist.LeftTruncatedDistribution: _LeftTail,
    dist.RightTruncatedDistribution: _RightTail,
    dist.TwoSidedTruncatedDistribution: _TwoTails,
}


def _log_normal(x: Array) -> Any:
    return -0.5 * (x * x + _LOG_TAU)


def _log_upper(x: Array) -> jax.Array:
    """Log probability of more than x under a standard normal."""
    return log_ndtr(-x)


def _upper_quantile(level: Array) -> jax.Array:
    """The x with a log probability of `level` above it, by Newton's steps in logarithms."""
    far = jnp.minimum(level, -2.0)
    place = jnp.sqrt(jnp.maximum(-2 * far - _LOG_TAU - jnp.log(jnp.maximum(-2 * far, 1.0)), 1.0))
    for _ in range(_STEPS):
        now = _log_upper(place)
        place = place + (now - far) * jnp.exp(now - _log_normal(place))
    near = -ndtri(jnp.exp(jnp.maximum(level, -3.0)))
    return jnp.where(level > -3.0, near, place)
