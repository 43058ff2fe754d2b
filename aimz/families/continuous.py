"""Continuous families: the place of a value in its law, by tails, and the value at a place."""

import numpy as np
from scipy import special

from aimz.families.law import Law, Map, Pair, base_law, wide_parameters

__all__ = ["quantile_of", "tails_of"]


# ------------------------------------------------------------------ continuous quantiles

# Cumulative distribution and quantile of standard symmetric families.
_SYMMETRIC: dict[str, tuple[Map, Map]] = {
    "normal": (special.ndtr, special.ndtri),
    "logistic": (special.expit, special.logit),
    "cauchy": (lambda x: np.arctan2(1.0, -x) / np.pi, lambda p: -1.0 / np.tan(np.pi * p)),
    "laplace": (
        lambda x: np.where(x < 0, 0.5 * np.exp(-np.abs(x)), 1 - 0.5 * np.exp(-np.abs(x))),
        lambda p: np.where(p < 0.5, np.log(2 * p), -np.log(2 * (1 - p))),
    ),
    "soft-laplace": (
        lambda x: 2 / np.pi * np.arctan(np.exp(x)),
        lambda p: np.log(np.tan(0.5 * np.pi * p)),
    ),
}


def _standard(law: Law) -> tuple[Map, Map, np.ndarray, np.ndarray]:
    """Cumulative distribution and quantile of a symmetric law, its location and its scale."""
    wide = wide_parameters(law)
    if law.family == "student-t":
        df = wide["df"]
        cdf, quantile = (lambda x: special.stdtr(df, x)), (lambda p: special.stdtrit(df, p))
    else:
        cdf, quantile = _SYMMETRIC[law.family]
    return cdf, quantile, wide["loc"], wide["scale"]


def tails_of(law: Law, value: np.ndarray) -> Pair:
    """Probabilities of less and of more than a value, under a continuous law."""
    if law.family == "truncated":
        return _truncated_tails(law, value)
    if law.family == "student-t":
        cdf, _, loc, scale = _standard(law)
        centred = (value - loc) / scale
        return cdf(centred), cdf(-centred)
    wide = wide_parameters(law)
    if law.family == "gamma":
        shape, scaled = wide["concentration"], value * wide["rate"]
        return special.gammainc(shape, scaled), special.gammaincc(shape, scaled)
    first, second = wide["concentration1"], wide["concentration0"]
    return special.betainc(first, second, value), special.betaincc(first, second, value)


def quantile_of(law: Law, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The value with these tail probabilities; the smaller of the two has the digits."""
    if law.family == "truncated":
        return _truncated_quantile(law, lower, upper)
    is_low = lower < upper
    if law.family == "student-t":
        _, quantile, loc, scale = _standard(law)
        distance = quantile(np.minimum(lower, upper))
        return np.asarray(loc + scale * np.where(is_low, distance, -distance))
    wide = wide_parameters(law)
    if law.family == "gamma":
        shape = wide["concentration"]
        scaled = np.where(
            is_low, special.gammaincinv(shape, lower), special.gammainccinv(shape, upper)
        )
        return np.asarray(scaled / wide["rate"])
    first, second = wide["concentration1"], wide["concentration0"]
    low, high = special.betaincinv(first, second, lower), special.betainccinv(first, second, upper)
    return np.asarray(np.where(is_low, low, high))


def _cut(law: Law) -> tuple[Map, Map, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A truncated law mirrored so that its lower limit is below the centre of its base."""
    cdf, quantile, loc, scale = _standard(base_law(law))
    wide = wide_parameters(law)
    low = (wide.get("low", -np.inf) - loc) / scale
    high = (wide.get("high", np.inf) - loc) / scale
    sign = np.where(low > 0, -1.0, 1.0)
    low, high = np.where(sign < 0, -high, low), np.where(sign < 0, -low, high)
    return cdf, quantile, loc, scale * sign, low, high, sign


def _truncated_tails(law: Law, value: np.ndarray) -> Pair:
    cdf, _, loc, scale, low, high, sign = _cut(law)
    place = (value - loc) / scale
    mass = cdf(high) - cdf(low)
    below = (cdf(place) - cdf(low)) / mass
    above = np.where(place > 0, cdf(-place) - cdf(-high), cdf(high) - cdf(place)) / mass
    return np.where(sign > 0, below, above), np.where(sign > 0, above, below)


def _truncated_quantile(law: Law, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    cdf, quantile, loc, scale, low, high, sign = _cut(law)
    lower, upper = np.where(sign > 0, lower, upper), np.where(sign > 0, upper, lower)
    mass = cdf(high) - cdf(low)
    below, above = cdf(low) + lower * mass, cdf(-high) + upper * mass
    place = np.where(below < 0.5, quantile(below), -quantile(above))
    return np.asarray(loc + scale * place)
