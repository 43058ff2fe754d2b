"""Discrete families: the interval of noise behind a count or a category, and back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from aimz.families.law import Law, Pair, base_law, chances, wide_parameters

__all__ = [
    "BERNOULLI",
    "BETA_BINOMIAL",
    "BINOMIAL",
    "GEOMETRIC",
    "NEGATIVE_BINOMIAL",
    "ORDERED",
    "POISSON",
    "UNIFORM",
    "Counts",
    "inflated",
]


@dataclass(frozen=True)
class Counts:
    """Probabilities of at most a value, and of more, between the least and the greatest value."""

    within: Callable[[Law, np.ndarray], Pair]
    limits: Callable[[Law], tuple[Any, Any]] = lambda _: (0.0, np.inf)
    coupling = "quantile"

    def kind(self, _: Law) -> str:
        """Tail probabilities belong to all discrete families."""
        return "discrete"

    def counted(self, law: Law, value: np.ndarray) -> Pair:
        """Probabilities of at most any value, and of more."""
        low, high = self.limits(law)
        below, above = self.within(law, np.clip(value, low, high))
        is_before, is_last = value < low, value >= high
        below = np.where(is_before, 0.0, np.where(is_last, 1.0, below))
        return below, np.where(is_before, 1.0, np.where(is_last, 0.0, above))

    def noise(
        self, law: Law, value: np.ndarray, uniform: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """A random point between the tail probabilities of a value and of the one before.

        Lower and upper tail probabilities, of which one counts, and which; and soundness.
        """
        low, high = self.limits(law)
        is_possible = (value >= low) & (value <= high) & (value == np.floor(value))
        value = np.where(is_possible, value, low)
        below, above = self.counted(law, value)
        below_before, above_before = self.counted(law, value - 1)
        is_upper = below_before > 0.5
        lower = below_before + uniform * (below - below_before)
        upper = above_before - uniform * (above_before - above)
        by_lower = (lower >= below_before) & (lower < below)
        by_upper = (upper <= above_before) & (upper > above)
        return (lower, upper, is_upper), is_possible & np.where(is_upper, by_upper, by_lower)

    def value(self, law: Law, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        """The least value that covers a point: double a bracket, then halve it."""
        lower, upper, is_upper = parts
        low, high = self.limits(law)
        shape = np.broadcast_shapes(np.shape(low), lower.shape)
        low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)

        def covers(value: np.ndarray) -> np.ndarray:
            below, above = self.counted(law, value)
            return np.asarray(np.where(is_upper, above < upper, below > lower) | (value >= high))

        before, last = low - 1.0, low.astype(np.float64)
        step = 1.0
        while (short := ~covers(last)).any() and step < 2**52:
            before = np.where(short, last, before)
            last = np.where(short, np.minimum(low + step, high), last)
            step *= 2
        while ((last - before) > 1).any():
            middle = np.floor((before + last) / 2)
            is_above = covers(middle)
            last = np.where(is_above & (middle > before), middle, last)
            before = np.where(is_above, before, middle)
        return np.asarray(last)


# ------------------------------------------------------------------ families
def _up_to_trials(law: Law) -> tuple[Any, Any]:
    return 0.0, wide_parameters(law)["total_count"]


def _between(law: Law) -> tuple[Any, Any]:
    wide = wide_parameters(law)
    return wide["low"], wide["high"]


def _bernoulli(law: Law, value: np.ndarray) -> Pair:
    success, failure = chances(wide_parameters(law))
    return failure + 0 * value, success + 0 * value


def _binomial(law: Law, value: np.ndarray) -> Pair:
    wide = wide_parameters(law)
    success, failure = chances(wide)
    left = np.maximum(wide["total_count"] - value, 1e-300)  # at the end `counted` knows better
    above = special.betainc(value + 1, left, success)
    return special.betainc(left, value + 1, failure), above


def _beta_binomial(law: Law, value: np.ndarray) -> Pair:
    """Cumulative sums of probabilities, each a multiple of the one before."""
    wide = wide_parameters(law)
    count, first, second = (wide[n] for n in ("total_count", "concentration1", "concentration0"))
    mass = np.exp(special.betaln(first, second + count) - special.betaln(first, second))
    below, above = np.zeros(np.shape(value)), np.zeros(np.shape(value))
    for number in range(int(np.max(count)) + 1):
        inside = number <= count
        below += np.where(inside & (number <= value), mass, 0.0)
        above += np.where(inside & (number > value), mass, 0.0)
        odds = (first + number) / np.maximum(second + count - number - 1, 1e-300)
        mass = mass * (count - number) / (number + 1) * odds
    return below, above


def _geometric(law: Law, value: np.ndarray) -> Pair:
    wide = wide_parameters(law)
    failing = -np.logaddexp(0.0, wide["logits"]) if "logits" in wide else np.log1p(-wide["probs"])
    return -np.expm1((value + 1) * failing), np.exp((value + 1) * failing)


def _negative_binomial(law: Law, value: np.ndarray) -> Pair:
    wide = wide_parameters(law)
    shape, rate = wide["concentration"], wide["rate"]
    below = special.betainc(shape, value + 1, rate / (1 + rate))
    return below, special.betainc(value + 1, shape, 1 / (1 + rate))


def _poisson(law: Law, value: np.ndarray) -> Pair:
    rate = wide_parameters(law)["rate"]
    return special.gammaincc(value + 1, rate), special.gammainc(value + 1, rate)


def _discrete_uniform(law: Law, value: np.ndarray) -> Pair:
    wide = wide_parameters(law)
    count = wide["high"] - wide["low"] + 1
    return (value - wide["low"] + 1) / count, (wide["high"] - value) / count


def _ordered(law: Law, value: np.ndarray) -> Pair:
    wide = wide_parameters(law)
    place = np.minimum(value, wide["cutpoints"].shape[-1] - 1).astype(np.intp)
    cut = np.take_along_axis(wide["cutpoints"], place[..., None], -1)[..., 0]
    return special.expit(cut - wide["predictor"]), special.expit(wide["predictor"] - cut)


BERNOULLI = Counts(_bernoulli, lambda _: (0.0, 1.0))
BETA_BINOMIAL = Counts(_beta_binomial, _up_to_trials)
BINOMIAL = Counts(_binomial, _up_to_trials)
GEOMETRIC = Counts(_geometric)
NEGATIVE_BINOMIAL = Counts(_negative_binomial)
ORDERED = Counts(_ordered, lambda law: (0.0, float(law.parameters["cutpoints"].shape[-1])))
POISSON = Counts(_poisson)
UNIFORM = Counts(_discrete_uniform, _between)


def inflated(base: Counts) -> Counts:
    """Counts of a family with more zeros."""

    def within(law: Law, value: np.ndarray) -> Pair:
        gate, others = chances(wide_parameters(law))
        below, above = base.counted(base_law(law), value)
        return gate + others * below, others * above

    return Counts(within, lambda law: base.limits(base_law(law)))
