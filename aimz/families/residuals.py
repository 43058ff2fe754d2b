"""Residuals: families whose noise is a shift, a scale or a power of a fixed law."""

import numpy as np
from scipy import special

from aimz.families.law import Map

__all__ = ["LIMITS", "RESIDUALS", "STEPS", "VECTOR"]


def _power(value: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    return np.asarray(np.power(value, exponent))


# A value from what is below it, and back.
STEPS: dict[str, tuple[Map, Map]] = {
    "affine": (lambda x, loc, scale: loc + scale * x, lambda y, loc, scale: (y - loc) / scale),
    "exp": (np.exp, np.log),
    "power": (_power, lambda y, exponent: _power(y, 1 / exponent)),
    "sigmoid": (special.expit, special.logit),
    "softplus": (lambda x: np.logaddexp(0.0, x), lambda y: y + np.log(-np.expm1(-y))),
}
VECTOR = "multivariate-normal"
_LOCATED: tuple[Map, Map] = (
    lambda y, loc, scale: (y - loc) / scale,
    lambda e, loc, scale: loc + scale * e,
)
_SCALED: tuple[Map, Map] = (lambda y, scale: y / scale, lambda e, scale: scale * e)
# The residual of a value, and the value of a residual.
RESIDUALS: dict[str, tuple[Map, Map]] = {
    **dict.fromkeys(("cauchy", "gumbel", "laplace", "levy", "logistic", "normal"), _LOCATED),
    "soft-laplace": _LOCATED,
    "half-cauchy": _SCALED,
    "half-normal": _SCALED,
    "exponential": (lambda y, rate: y * rate, lambda e, rate: e / rate),
    "uniform": (
        lambda y, low, high: (y - low) / (high - low),
        lambda e, low, high: low + (high - low) * e,
    ),
    "weibull": (
        lambda y, scale, concentration: _power(y / scale, concentration),
        lambda e, scale, concentration: scale * _power(e, 1 / concentration),
    ),
    "gompertz": (
        lambda y, concentration, rate: concentration * np.expm1(y * rate),
        lambda e, concentration, rate: np.log1p(e / concentration) / rate,
    ),
    "kumaraswamy": (
        lambda y, concentration1, concentration0: (
            -concentration0 * np.log1p(-_power(np.where(y >= 0, y, np.nan), concentration1))
        ),
        lambda e, concentration1, concentration0: _power(
            -np.expm1(-e / concentration0), 1 / concentration1
        ),
    ),
}
_POSITIVE = ("half-cauchy", "half-normal", "exponential", "levy", "weibull", "gompertz")
# Limits of residuals, in double precision of values in single.
LIMITS = {**dict.fromkeys(_POSITIVE, (0.0, np.inf)), "uniform": (-1e-6, 1 + 1e-6)}
