"""Residuals: families whose noise is a shift, a scale or a power of a fixed law."""

from dataclasses import dataclass, replace

import numpy as np

from aimz.families.law import Law, Map, wide_parameters

__all__ = [
    "GOMPERTZ",
    "KUMARASWAMY",
    "LOCATED",
    "POSITIVE",
    "RATED",
    "SCALED",
    "SHARED",
    "VECTOR",
    "WEIBULL",
    "Residual",
]


@dataclass(frozen=True)
class Residual:
    """The residual of a value, and the value of a residual, by the law's parameters."""

    residual_of: Map
    value_of: Map
    low: float = -np.inf  # limits of residuals, in double precision of values in single
    high: float = np.inf
    coupling = "residual"

    def kind(self, law: Law) -> str:
        """Residuals belong to their family."""
        return law.family

    def noise(
        self, law: Law, value: np.ndarray, _: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """The residual, and where it tells enough."""
        residual = self.residual_of(value, **wide_parameters(law))
        is_sound = np.isfinite(residual) & (residual >= self.low) & (residual <= self.high)
        return (residual,), is_sound

    def value(self, law: Law, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        """The value that has a residual under a law."""
        return np.asarray(self.value_of(parts[0], **wide_parameters(law)))


LOCATED = Residual(
    lambda y, loc, scale: (y - loc) / scale,
    lambda e, loc, scale: loc + scale * e,
)
POSITIVE = replace(LOCATED, low=0.0)
SCALED = Residual(lambda y, scale: y / scale, lambda e, scale: scale * e, low=0.0)
RATED = Residual(lambda y, rate: y * rate, lambda e, rate: e / rate, low=0.0)
SHARED = Residual(
    lambda y, low, high: (y - low) / (high - low),
    lambda e, low, high: low + (high - low) * e,
    low=-1e-6,
    high=1 + 1e-6,
)
WEIBULL = Residual(
    lambda y, scale, concentration: np.power(y / scale, concentration),
    lambda e, scale, concentration: scale * np.power(e, 1 / concentration),
    low=0.0,
)
GOMPERTZ = Residual(
    lambda y, concentration, rate: concentration * np.expm1(y * rate),
    lambda e, concentration, rate: np.log1p(e / concentration) / rate,
    low=0.0,
)
KUMARASWAMY = Residual(
    lambda y, concentration1, concentration0: (
        -concentration0 * np.log1p(-np.power(np.where(y >= 0, y, np.nan), concentration1))
    ),
    lambda e, concentration1, concentration0: np.power(
        -np.expm1(-e / concentration0), 1 / concentration1
    ),
)
VECTOR = Residual(
    lambda y, loc, scale_tril: np.linalg.solve(scale_tril, (y - loc)[..., None])[..., 0],
    lambda e, loc, scale_tril: loc + np.einsum("...ij,...j->...i", scale_tril, e),
)
