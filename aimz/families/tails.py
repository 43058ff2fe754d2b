"""Probabilities of more, or of less, than a value, in logarithms: what censored outcomes tell.

NumPyro subtracts a distribution function from 1, which ends at the rounding of the dtype: a row
that is censored far out tells exp(-16), with a gradient of 0, where it should tell exp(-100). Here
tails are written as such (Klein and Moeschberger, 2003, "Survival analysis").
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.nn import log_softmax, logsumexp, softplus
from jax.scipy.special import betainc, erf, erfc, gammainc, gammaincc, gammaln, log_ndtr

from aimz.arrays import Array

__all__ = ["censored_density", "log_tail"]


_LOG_2 = 0.6931471805599453
_LOG_PI = 1.1447298858494002
_FAR, _LEVELS = 60.0, 8  # of an incomplete gamma function


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
    by_above = above[0] + _log_complement(above[0] - above[1])
    by_below = below[1] + _log_complement(below[1] - below[0])
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
    if type(fn) in _HAZARDS:
        hazard = _HAZARDS[type(fn)](fn, value)
        return -hazard if upper else _log_complement(hazard)
    if type(fn) in _SYMMETRIC:
        place = (value - fn.loc) / fn.scale
        return _SYMMETRIC[type(fn)](fn, place if upper else -place)
    if type(fn) in _TAILS:
        return _TAILS[type(fn)][0 if upper else 1](fn, value)
    share = fn.cdf(value)
    limits = np.finfo(share.dtype)
    return jnp.log1p(-jnp.minimum(share, 1 - limits.eps)) if upper else _log(share)


def _log(share: Array) -> Any:
    return jnp.log(jnp.maximum(share, np.finfo(share.dtype).tiny))


def _log_complement(hazard: Array) -> Any:
    """Log of 1 - exp(-hazard)."""
    is_near, is_some = hazard < 1.0, hazard > 0
    near = jnp.where(is_near & is_some, hazard, 0.5)
    far = jnp.where(is_near, 1.0, hazard)
    some = jnp.where(is_near, jnp.log(-jnp.expm1(-near)), jnp.log1p(-jnp.exp(-far)))
    return jnp.where(is_some, some, -jnp.inf)


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


def _of_laplace(_: dist.Distribution, place: Array) -> Any:
    is_far = place > 0
    inner = jnp.log1p(-0.5 * jnp.exp(jnp.where(is_far, 0.0, place)))
    return jnp.where(is_far, -place - _LOG_2, inner)


def _of_soft_laplace(_: dist.Distribution, place: Array) -> Any:
    is_far = place > 20.0
    near = jnp.log(jnp.arctan(jnp.exp(-jnp.where(is_far, 0.0, place))))
    return jnp.where(is_far, -place, near) + _LOG_2 - _LOG_PI


def _of_student(fn: dist.Distribution, place: Array) -> Any:
    return _log(dist.StudentT(fn.df).cdf(-place))


def _above_gamma(shape: Array, place: Array) -> Any:
    """Log of the upper incomplete gamma function: far out by its continued fraction."""
    is_far = place > shape + _FAR
    far = jnp.where(is_far, place, shape + 2 * _FAR)
    fraction = far + 2 * _LEVELS + 1 - shape
    for level in range(_LEVELS, 0, -1):
        fraction = far + 2 * level - 1 - shape - level * (level - shape) / fraction
    series = shape * jnp.log(far) - far - gammaln(shape) - jnp.log(fraction)
    return jnp.where(is_far, series, _log(gammaincc(shape, jnp.where(is_far, shape, place))))


def _scaled(fn: dist.Distribution, value: Array) -> tuple[Any, Any]:
    place = jnp.asarray(value * fn.rate)
    return jnp.broadcast_to(jnp.asarray(fn.concentration, place.dtype), place.shape), place


def _counted(fn: dist.Distribution, value: Array) -> tuple[Any, Any]:
    rate = jnp.asarray(fn.rate, jnp.result_type(float))
    return jnp.floor(value) + 1.0 + 0.0 * rate, rate + jnp.zeros(jnp.shape(value))


def _of_asymmetric(fn: dist.Distribution, value: Array, *, upper: bool) -> Any:
    """Tails of an asymmetric Laplace distribution: exponential on both sides."""
    own, other = fn.left_scale, fn.right_scale
    place = (value - fn.loc) / jnp.where(value < fn.loc, own, other)
    if upper:
        own, other, place = other, own, -place
    near = place > 0
    share, rest = jnp.log(own / (own + other)), other / (own + other)
    return jnp.where(
        near,
        jnp.log1p(-rest * jnp.exp(-jnp.where(near, place, 0.0))),
        share + jnp.where(near, 0.0, place),
    )


def _below_dagum(fn: dist.Distribution, value: Array) -> Any:
    return fn.concentration * softplus(fn.sharpness * jnp.log(fn.scale / value))


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
#: Cumulative hazards: what is above a value has the probability exp(-hazard).
_HAZARDS: dict[type, Callable[[Any, Any], Any]] = {
    dist.Exponential: lambda fn, x: fn.rate * x,
    dist.Gompertz: lambda fn, x: fn.concentration * jnp.expm1(fn.rate * x),
    dist.LowerTruncatedPowerLaw: lambda fn, x: -(1 + fn.alpha) * jnp.log(x / fn.low),
    dist.Weibull: lambda fn, x: (x / fn.scale) ** fn.concentration,
}
#: Tails above a place in units of the scale, of families that are symmetric.
_SYMMETRIC: dict[type, Callable[[Any, Any], Any]] = {
    dist.Cauchy: lambda _, z: jnp.log(jnp.arctan2(1.0, z)) - _LOG_PI,
    dist.Laplace: _of_laplace,
    dist.Logistic: lambda _, z: -softplus(z),
    dist.Normal: lambda _, z: log_ndtr(-z),
    dist.SoftLaplace: _of_soft_laplace,
    dist.StudentT: _of_student,
}
#: Tails above and below a value of all others.
_TAILS: dict[type, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    dist.AsymmetricLaplace: (
        lambda fn, x: _of_asymmetric(fn, x, upper=True),
        lambda fn, x: _of_asymmetric(fn, x, upper=False),
    ),
    dist.AsymmetricLaplaceQuantile: (
        lambda fn, x: _of_asymmetric(fn._ald, x, upper=True),  # noqa: SLF001
        lambda fn, x: _of_asymmetric(fn._ald, x, upper=False),  # noqa: SLF001
    ),
    dist.Beta: (
        lambda fn, x: _log(betainc(fn.concentration0, fn.concentration1, 1 - x)),
        lambda fn, x: _log(betainc(fn.concentration1, fn.concentration0, x)),
    ),
    **dict.fromkeys(
        (dist.Chi2, dist.Gamma),
        (
            lambda fn, x: _above_gamma(*_scaled(fn, x)),
            lambda fn, x: _log(gammainc(*_scaled(fn, x))),
        ),
    ),
    dist.Dagum: (
        lambda fn, x: _log_complement(_below_dagum(fn, x)),
        lambda fn, x: -_below_dagum(fn, x),
    ),
    dist.Gumbel: (
        lambda fn, x: _log_complement(jnp.exp(-(x - fn.loc) / fn.scale)),
        lambda fn, x: -jnp.exp(-(x - fn.loc) / fn.scale),
    ),
    dist.HalfCauchy: (
        lambda fn, x: jnp.log(jnp.arctan2(fn.scale, x)) + _LOG_2 - _LOG_PI,
        lambda fn, x: _log(jnp.arctan2(x, fn.scale)) + _LOG_2 - _LOG_PI,
    ),
    dist.HalfNormal: (
        lambda fn, x: log_ndtr(-x / fn.scale) + _LOG_2,
        lambda fn, x: _log(erf(x / fn.scale / 2**0.5)),
    ),
    dist.Levy: (
        lambda fn, x: _log(erf(jnp.sqrt(fn.scale / (x - fn.loc) / 2))),
        lambda fn, x: _log(erfc(jnp.sqrt(fn.scale / (x - fn.loc) / 2))),
    ),
    dist.Poisson: (
        lambda fn, x: _log(gammainc(*_counted(fn, x))),
        lambda fn, x: _log(gammaincc(*_counted(fn, x))),
    ),
    dist.Uniform: (
        lambda fn, x: _log((fn.high - x) / (fn.high - fn.low)),
        lambda fn, x: _log((x - fn.low) / (fn.high - fn.low)),
    ),
}
