"""What censored outcomes tell: probabilities of more, or of less, than a value, in logarithms.

Tails of a family are in its row; those of distributions that are made of others are made of theirs.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.nn import log_softmax, logsumexp

from aimz.arrays import Array
from aimz.families.table import FAMILIES
from aimz.families.tails import log_complement, log_share

__all__ = ["censored_density", "log_tail"]


def censored_density(
    fn: dist.Distribution, value: Array, density: Callable[[Any, Any], Any]
) -> Any:
    """Log density of a censored distribution, whose exact values have that of `density`."""
    if isinstance(fn, dist.IntervalCensoredDistribution):
        return _of_interval(fn, value, density)
    is_right = isinstance(fn, dist.RightCensoredDistribution)
    inner = fn.base_dist.support.feasible_like(value)  # no gradient of what is not looked at
    exact = density(fn.base_dist, jnp.where(fn.censored, inner, value))
    return jnp.where(fn.censored, log_tail(fn.base_dist, value, upper=is_right), exact)


def _of_interval(fn: dist.Distribution, value: Array, density: Callable[[Any, Any], Any]) -> Any:
    low, high = value[..., 0], value[..., 1]
    left, right = fn.left_censored, fn.right_censored
    inner = fn.base_dist.support.feasible_like(low)
    low, high = jnp.where(left & ~right, inner, low), jnp.where(right & ~left, inner, high)
    is_point = (low == high) & ~left & ~right
    between = jnp.where(is_point, density(fn.base_dist, low), _log_between(fn.base_dist, low, high))
    below, above = (
        log_tail(fn.base_dist, high, upper=False),
        log_tail(fn.base_dist, low, upper=True),
    )
    one_end = jnp.where(left, below, jnp.where(right, above, between))
    outside = [log_tail(fn.base_dist, low, upper=False), log_tail(fn.base_dist, high, upper=True)]
    return jnp.where(left & right, jnp.logaddexp(*outside), one_end)


def _log_between(fn: dist.Distribution, low: Array, high: Array) -> Any:
    """Log probability of more than `low` and at most `high`, by the tail that has the digits."""
    above = [log_tail(fn, end, upper=True) for end in (low, high)]
    below = [log_tail(fn, end, upper=False) for end in (low, high)]
    by_above = above[0] + log_complement(above[0] - above[1])
    by_below = below[1] + log_complement(below[1] - below[0])
    return jnp.where(above[0] < below[1], by_above, by_below)


def log_tail(fn: dist.Distribution, value: Array, *, upper: bool) -> Any:
    """Log probability of more than a value, or of at most the value where not `upper`.

    Examples
    --------
    >>> float(log_tail(dist.Exponential(2.0), jnp.array(100.0), upper=True))
    -200.0
    """
    for kinds, tail in _COMPOSED:
        if isinstance(fn, kinds):
            return tail(fn, value, upper=upper)
    tails = FAMILIES.of[type(fn)].tails
    if tails is not None:
        return tails.upper(fn, value) if upper else tails.lower(fn, value)
    share = fn.cdf(value)
    limits = np.finfo(share.dtype)
    return jnp.log1p(-jnp.minimum(share, 1 - limits.eps)) if upper else log_share(share)


def _of_expanded(fn: dist.Distribution, value: Array, *, upper: bool) -> Any:
    return jnp.broadcast_to(log_tail(fn.base_dist, value, upper=upper), jnp.shape(value))


def _of_transformed(fn: dist.Distribution, value: Array, *, upper: bool) -> Any:
    """A tail of what is transformed, or the other one, where that turns it round."""
    sign: Any = 1
    for transform in reversed(fn.transforms):
        sign, value = sign * transform.sign, transform.inv(value)
    tails = [log_tail(fn.base_dist, value, upper=side) for side in (upper, not upper)]
    return jnp.where(sign < 0, tails[1], tails[0])


def _of_mixture(fn: dist.Distribution, value: Array, *, upper: bool) -> Any:
    """A tail of a mixture: those of its parts, each as far out as it is."""
    if isinstance(fn, dist.MixtureSameFamily):
        parts = log_tail(fn.component_distribution, jnp.expand_dims(value, -1), upper=upper)
    else:
        tails = [log_tail(part, value, upper=upper) for part in fn.component_distributions]
        parts = jnp.stack(jnp.broadcast_arrays(*tails), axis=-1)
    return logsumexp(log_softmax(fn.mixing_distribution.logits) + parts, axis=-1)


def _of_cut(fn: dist.Distribution, value: Array, *, upper: bool) -> Any:
    """A tail of a truncated distribution: what of its base is on that side and inside."""
    base, low, high = fn.base_dist, getattr(fn, "low", None), getattr(fn, "high", None)

    def inside(first: Array | None, last: Array | None) -> Any:
        if first is not None and last is not None:
            return _log_between(base, first, last)
        if first is not None:
            return log_tail(base, first, upper=True)
        return jnp.zeros(()) if last is None else log_tail(base, last, upper=False)

    value = jnp.clip(value, low, high)
    own = inside(value, high) if upper else inside(low, value)
    return jnp.minimum(own - inside(low, high), 0.0)


#: Distributions made of others, whose tails are made of theirs.
_COMPOSED: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (dist.ExpandedDistribution, _of_expanded),
    (dist.TransformedDistribution, _of_transformed),
    ((dist.MixtureGeneral, dist.MixtureSameFamily), _of_mixture),
    (
        (
            dist.LeftTruncatedDistribution,
            dist.LeftTruncatedGamma,
            dist.RightTruncatedDistribution,
            dist.RightTruncatedGamma,
            dist.TwoSidedTruncatedDistribution,
            dist.TwoSidedTruncatedGamma,
        ),
        _of_cut,
    ),
)
