"""Continuous families: the place of a value in its law, by tails, and the value at a place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from aimz.families.law import Law, Map, Pair, base_law, wide_parameters

__all__ = [
    "BETA",
    "CAUCHY",
    "GAMMA",
    "LAPLACE",
    "LOGISTIC",
    "NORMAL",
    "SOFT_LAPLACE",
    "STUDENT",
    "Quantiles",
    "Standard",
    "by_standard",
    "cut",
]


@dataclass(frozen=True)
class Quantiles:
    """Probabilities of less and of more than a value, and the value that has them."""

    tails: Callable[[Law, np.ndarray], Pair]
    quantile: Callable[[Law, np.ndarray, np.ndarray], np.ndarray]
    coupling = "quantile"

    def kind(self, _: Law) -> str:
        """Tail probabilities belong to all continuous families."""
        return "continuous"

    def noise(
        self, law: Law, value: np.ndarray, _: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Both tails, and where neither is out of digits."""
        lower, upper = self.tails(law, value)
        return (lower, upper), (lower > 0) & (upper > 0)

    def value(self, law: Law, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        """The value with these tails; the smaller of the two has the digits."""
        return self.quantile(law, *parts)


# ------------------------------------------------------------------ families
def _gamma_tails(law: Law, value: np.ndarray) -> Pair:
    wide = wide_parameters(law)
    shape, scaled = wide["concentration"], value * wide["rate"]
    return special.gammainc(shape, scaled), special.gammaincc(shape, scaled)


def _gamma_quantile(law: Law, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    wide = wide_parameters(law)
    shape = wide["concentration"]
    low, high = special.gammaincinv(shape, lower), special.gammainccinv(shape, upper)
    return np.asarray(np.where(lower < upper, low, high) / wide["rate"])


def _beta_tails(law: Law, value: np.ndarray) -> Pair:
    wide = wide_parameters(law)
    first, second = wide["concentration1"], wide["concentration0"]
    return special.betainc(first, second, value), special.betaincc(first, second, value)


def _beta_quantile(law: Law, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    wide = wide_parameters(law)
    first, second = wide["concentration1"], wide["concentration0"]
    low, high = special.betaincinv(first, second, lower), special.betainccinv(first, second, upper)
    return np.asarray(np.where(lower < upper, low, high))


GAMMA = Quantiles(_gamma_tails, _gamma_quantile)
BETA = Quantiles(_beta_tails, _beta_quantile)


# ------------------------------------------------------------------ symmetric families
class Standard(NamedTuple):
    """Cumulative distribution and quantile of a symmetric family at its centre, of unit scale.

    Both take the parameters that are neither location nor scale.
    """

    cdf: Map
    quantile: Map


NORMAL = Standard(special.ndtr, special.ndtri)
LOGISTIC = Standard(special.expit, special.logit)
CAUCHY = Standard(
    lambda x: np.arctan2(1.0, -x) / np.pi,
    lambda p: -1.0 / np.tan(np.pi * p),
)
LAPLACE = Standard(
    lambda x: np.where(x < 0, 0.5 * np.exp(-np.abs(x)), 1 - 0.5 * np.exp(-np.abs(x))),
    lambda p: np.where(p < 0.5, np.log(2 * p), -np.log(2 * (1 - p))),
)
SOFT_LAPLACE = Standard(
    lambda x: 2 / np.pi * np.arctan(np.exp(x)),
    lambda p: np.log(np.tan(0.5 * np.pi * p)),
)
STUDENT = Standard(lambda x, df: special.stdtr(df, x), lambda p, df: special.stdtrit(df, p))


class _Placed(NamedTuple):
    """A symmetric law: in standard units, and back."""

    cdf: Map
    quantile: Map
    loc: np.ndarray
    scale: np.ndarray


def _placed(standard: Standard, law: Law) -> _Placed:
    shapes = wide_parameters(law)
    loc, scale = shapes.pop("loc"), shapes.pop("scale")
    return _Placed(
        lambda x: standard.cdf(x, **shapes), lambda p: standard.quantile(p, **shapes), loc, scale
    )


def by_standard(standard: Standard) -> Quantiles:
    """Quantiles of a symmetric family."""

    def tails(law: Law, value: np.ndarray) -> Pair:
        placed = _placed(standard, law)
        centred = (value - placed.loc) / placed.scale
        return placed.cdf(centred), placed.cdf(-centred)

    def quantile(law: Law, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        placed = _placed(standard, law)
        distance = placed.quantile(np.minimum(lower, upper))
        away = np.where(lower < upper, distance, -distance)
        return np.asarray(placed.loc + placed.scale * away)

    return Quantiles(tails, quantile)


class _Cut(NamedTuple):
    """A truncated law in standard units, mirrored: its lower limit is below the centre."""

    low: np.ndarray
    high: np.ndarray
    sign: np.ndarray


def _limits(law: Law, placed: _Placed) -> _Cut:
    wide = wide_parameters(law)
    low = (wide.get("low", -np.inf) - placed.loc) / placed.scale
    high = (wide.get("high", np.inf) - placed.loc) / placed.scale
    sign = np.where(low > 0, -1.0, 1.0)
    return _Cut(np.where(sign < 0, -high, low), np.where(sign < 0, -low, high), sign)


def cut(standard: Standard) -> Quantiles:
    """Quantiles of a symmetric family that is truncated."""

    def tails(law: Law, value: np.ndarray) -> Pair:
        placed = _placed(standard, base_law(law))
        low, high, sign = _limits(law, placed)
        cdf, place = placed.cdf, (value - placed.loc) / (placed.scale * sign)
        mass = cdf(high) - cdf(low)
        below = (cdf(place) - cdf(low)) / mass
        above = np.where(place > 0, cdf(-place) - cdf(-high), cdf(high) - cdf(place)) / mass
        return np.where(sign > 0, below, above), np.where(sign > 0, above, below)

    def quantile(law: Law, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        placed = _placed(standard, base_law(law))
        low, high, sign = _limits(law, placed)
        cdf = placed.cdf
        lower, upper = np.where(sign > 0, lower, upper), np.where(sign > 0, upper, lower)
        mass = cdf(high) - cdf(low)
        below, above = cdf(low) + lower * mass, cdf(-high) + upper * mass
        place = np.where(below < 0.5, placed.quantile(below), -placed.quantile(above))
        return np.asarray(placed.loc + placed.scale * sign * place)

    return Quantiles(tails, quantile)
