"""Sites whose distribution has no sampler, and what stands in for their draws."""

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import (
    LeftTruncatedDistribution,
    RightTruncatedDistribution,
    StudentT,
    TwoSidedTruncatedDistribution,
    biject_to,
    constraints,
)
from numpyro.distributions.distribution import Distribution
from numpyro.primitives import Messenger

from aimz.arrays import Array

__all__ = ["has_sampler", "inside_support", "sampled", "stand_ins"]


# NumPyro draws what is cut by quantiles, and has those of Student's t from another library.
_BY_QUANTILES = {
    LeftTruncatedDistribution,
    RightTruncatedDistribution,
    TwoSidedTruncatedDistribution,
}
_HAS_QUANTILES = importlib.util.find_spec("tensorflow_probability") is not None


class stand_ins(Messenger):  # type: ignore[misc]  # noqa: N801  # NumPyro: no stubs; a handler
    """A kernel whose sites without a sampler have some value inside their support, until given one.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> from numpyro import handlers
    >>> def kernel():
    ...     return numpyro.sample("a", dist.ImproperUniform(constraints.positive, (), ()))
    >>> bool(handlers.seed(stand_ins(kernel), 0)() > 0)
    True
    """

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["value"] is None and not has_sampler(msg["fn"]):
            made_up = inside_support(msg["fn"], msg["name"])
            msg["value"] = jnp.zeros(msg["fn"].shape()) if made_up is None else made_up


class sampled(Messenger):  # type: ignore[misc]  # noqa: N801  # as above
    """A kernel whose sites without a sampler draw some value inside their support."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and not msg["is_observed"] and not has_sampler(msg["fn"]):
            msg["fn"] = _Sampled(msg["fn"], msg["name"])


class _Sampled(Distribution):  # type: ignore[misc]  # as above
    """A distribution that has no sampler, with one that gives some value inside its support."""

    def __init__(self, fn: Distribution, name: str) -> None:
        self.fn, self.name = fn, name
        super().__init__(fn.batch_shape, fn.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.fn.support

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        del key
        value = inside_support(self.fn, self.name)
        value = jnp.zeros(self.fn.shape()) if value is None else value
        return jnp.broadcast_to(value, sample_shape + self.fn.shape())

    def log_prob(self, value: Array) -> Any:
        return self.fn.log_prob(value)


def has_sampler(fn: Distribution) -> bool:
    """Whether a distribution can be drawn from."""
    while hasattr(fn, "base_dist"):
        if type(fn) in _BY_QUANTILES and isinstance(fn.base_dist, StudentT) and not _HAS_QUANTILES:
            return False
        fn = fn.base_dist
    return not isinstance(fn, Distribution) or type(fn).sample is not Distribution.sample


def inside_support(fn: Distribution, name: str) -> Any:
    """Values inside a distribution's support made of constant noise; None where that is hard."""
    shape, support = fn.shape(), fn.support
    noise = np.random.default_rng(len(name)).normal(size=shape)
    if support.is_discrete:
        if support is constraints.boolean or support is constraints.nonnegative_integer:
            return jnp.asarray(noise > 0, jnp.result_type(int))
        low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
        if low is None or high is None or support.event_dim:
            return None
        return jnp.where(noise > 0, jnp.broadcast_to(high, shape), jnp.broadcast_to(low, shape))
    try:
        transform = biject_to(support)
        free = transform.inverse_shape(shape)
    except (NotImplementedError, ValueError, TypeError):
        return None
    noise = np.random.default_rng(len(name)).normal(size=free)
    return transform(jnp.asarray(noise, jnp.result_type(float)))
