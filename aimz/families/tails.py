"""Probabilities of more, or of at most, a value, in logarithms, however far out.

NumPyro subtracts a distribution function from 1, which ends at the rounding of the dtype: a value
that is far out tells exp(-16), with a gradient of 0, where it should tell exp(-100). Here tails are
written as such (Klein and Moeschberger, 2003, "Survival analysis").
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.nn import softplus
from jax.scipy.special import betainc, erf, erfc, gammainc, gammaincc, gammaln, log_ndtr

from aimz.arrays import Array
from aimz.families.family import LogTails

__all__ = [
    "ASYMMETRIC_LAPLACE",
    "ASYMMETRIC_LAPLACE_QUANTILE",
    "BETA",
    "CAUCHY",
    "DAGUM",
    "EXPONENTIAL",
    "GAMMA",
    "GOMPERTZ",
    "GUMBEL",
    "HALF_CAUCHY",
    "HALF_NORMAL",
    "KUMARASWAMY",
    "LAPLACE",
    "LEVY",
    "LOGISTIC",
    "NORMAL",
    "POISSON",
    "POWER_LAW",
    "SOFT_LAPLACE",
    "STUDENT",
    "UNIFORM",
    "WEIBULL",
    "log_complement",
    "log_share",
]


_LOG_2 = 0.6931471805599453
_LOG_PI = 1.1447298858494002
_FAR, _LEVELS = 60.0, 8  # of an incomplete gamma function


def log_share(share: Array) -> Any:
    """Log of a probability, which is not 0."""
    return jnp.log(jnp.maximum(share, np.finfo(share.dtype).tiny))


def log_complement(hazard: Array) -> Any:
    """Log of 1 - exp(-hazard)."""
    is_near, is_some = hazard < 1.0, hazard > 0
    near = jnp.where(is_near & is_some, hazard, 0.5)
    far = jnp.where(is_near, 1.0, hazard)
    some = jnp.where(is_near, jnp.log(-jnp.expm1(-near)), jnp.log1p(-jnp.exp(-far)))
    return jnp.where(is_some, some, -jnp.inf)


def _by_hazard(hazard: Callable[[Any, Any], Any]) -> LogTails:
    """Tails by a cumulative hazard: what is above a value has the probability exp(-hazard)."""
    return LogTails(
        lambda fn, x: -hazard(fn, x),
        lambda fn, x: log_complement(hazard(fn, x)),
    )


def _symmetric(tail: Callable[[Any, Any], Any]) -> LogTails:
    """Tails by the one above a place in units of the scale."""
    return LogTails(
        lambda fn, x: tail(fn, (x - fn.loc) / fn.scale),
        lambda fn, x: tail(fn, -((x - fn.loc) / fn.scale)),
    )


def _of_laplace(_: dist.Distribution, place: Array) -> Any:
    is_far = place > 0
    inner = jnp.log1p(-0.5 * jnp.exp(jnp.where(is_far, 0.0, place)))
    return jnp.where(is_far, -place - _LOG_2, inner)


def _of_soft_laplace(_: dist.Distribution, place: Array) -> Any:
    is_far = place > 20.0
    near = jnp.log(jnp.arctan(jnp.exp(-jnp.where(is_far, 0.0, place))))
    return jnp.where(is_far, -place, near) + _LOG_2 - _LOG_PI


def _of_student(fn: dist.Distribution, place: Array) -> Any:
    return log_share(dist.StudentT(fn.df).cdf(-place))


def _above_gamma(shape: Array, place: Array) -> Any:
    """Log of the upper incomplete gamma function: far out by its continued fraction."""
    is_far = place > shape + _FAR
    far = jnp.where(is_far, place, shape + 2 * _FAR)
    fraction = far + 2 * _LEVELS + 1 - shape
    for level in range(_LEVELS, 0, -1):
        fraction = far + 2 * level - 1 - shape - level * (level - shape) / fraction
    series = shape * jnp.log(far) - far - gammaln(shape) - jnp.log(fraction)
    return jnp.where(is_far, series, log_share(gammaincc(shape, jnp.where(is_far, shape, place))))


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


EXPONENTIAL = _by_hazard(lambda fn, x: fn.rate * x)
GOMPERTZ = _by_hazard(lambda fn, x: fn.concentration * jnp.expm1(fn.rate * x))
POWER_LAW = _by_hazard(lambda fn, x: -(1 + fn.alpha) * jnp.log(x / fn.low))
KUMARASWAMY = _by_hazard(lambda fn, x: -fn.concentration0 * jnp.log1p(-(x**fn.concentration1)))
WEIBULL = _by_hazard(lambda fn, x: (x / fn.scale) ** fn.concentration)

CAUCHY = _symmetric(lambda _, z: jnp.log(jnp.arctan2(1.0, z)) - _LOG_PI)
LAPLACE = _symmetric(_of_laplace)
LOGISTIC = _symmetric(lambda _, z: -softplus(z))
NORMAL = _symmetric(lambda _, z: log_ndtr(-z))
SOFT_LAPLACE = _symmetric(_of_soft_laplace)
STUDENT = _symmetric(_of_student)

ASYMMETRIC_LAPLACE = LogTails(
    lambda fn, x: _of_asymmetric(fn, x, upper=True),
    lambda fn, x: _of_asymmetric(fn, x, upper=False),
)
ASYMMETRIC_LAPLACE_QUANTILE = LogTails(
    lambda fn, x: _of_asymmetric(fn._ald, x, upper=True),  # noqa: SLF001
    lambda fn, x: _of_asymmetric(fn._ald, x, upper=False),  # noqa: SLF001
)
BETA = LogTails(
    lambda fn, x: log_share(betainc(fn.concentration0, fn.concentration1, 1 - x)),
    lambda fn, x: log_share(betainc(fn.concentration1, fn.concentration0, x)),
)
DAGUM = LogTails(
    lambda fn, x: log_complement(_below_dagum(fn, x)),
    lambda fn, x: -_below_dagum(fn, x),
)
GAMMA = LogTails(
    lambda fn, x: _above_gamma(*_scaled(fn, x)),
    lambda fn, x: log_share(gammainc(*_scaled(fn, x))),
)
GUMBEL = LogTails(
    lambda fn, x: log_complement(jnp.exp(-(x - fn.loc) / fn.scale)),
    lambda fn, x: -jnp.exp(-(x - fn.loc) / fn.scale),
)
HALF_CAUCHY = LogTails(
    lambda fn, x: jnp.log(jnp.arctan2(fn.scale, x)) + _LOG_2 - _LOG_PI,
    lambda fn, x: log_share(jnp.arctan2(x, fn.scale)) + _LOG_2 - _LOG_PI,
)
HALF_NORMAL = LogTails(
    lambda fn, x: log_ndtr(-x / fn.scale) + _LOG_2,
    lambda fn, x: log_share(erf(x / fn.scale / 2**0.5)),
)
LEVY = LogTails(
    lambda fn, x: log_share(erf(jnp.sqrt(fn.scale / (x - fn.loc) / 2))),
    lambda fn, x: log_share(erfc(jnp.sqrt(fn.scale / (x - fn.loc) / 2))),
)
POISSON = LogTails(
    lambda fn, x: log_share(gammainc(*_counted(fn, x))),
    lambda fn, x: log_share(gammaincc(*_counted(fn, x))),
)
UNIFORM = LogTails(
    lambda fn, x: log_share((fn.high - x) / (fn.high - fn.low)),
    lambda fn, x: log_share((x - fn.low) / (fn.high - fn.low)),
)
