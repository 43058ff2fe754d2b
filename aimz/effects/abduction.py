"""Abduction: the noise behind a value, and the value that the same noise has under another law.

A value is taken to be a function of its law and of noise of its own (Pearl, 2009, "Causality",
7.1). What the function is follows from the family, and is said with the result:

- `residual`: location-scale families and their transforms, and others whose noise has a standard
  form (the cumulative hazard of a Weibull): a shift of the location shifts the value.
- `quantile`: other continuous families keep their two tail probabilities; discrete ones, whose
  value leaves an interval of them possible, a random point in that interval. Values under two laws
  are ordered alike for everybody ("monotone").
- `gumbel-max`: categories without an order are the largest of logits plus Gumbel noise, drawn given
  that the observed one is the largest (Oberst and Sontag, 2019, arXiv:1905.05824).

Arithmetic is in double precision, on arrays in memory. A value so far in a tail that the noise has
no digits left is marked: it is not sound.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from aimz.errors import InputError
from aimz.laws import Evidence, Law

__all__ = ["Noise", "abduce", "coupling_of", "replay", "success_of"]

type Array = np.ndarray
type Pair = tuple[Array, Array]

# Elements to work on at a time: temporaries stay in the cache.
_PIECE = 2**15


@dataclass(frozen=True)
class Noise:
    """What a value and its law tell of the unit; `is_sound` marks values that tell enough.

    `family` names the law that residuals are of; `parts` are a residual, lower and upper tail
    probabilities, or a Gumbel for each category.
    """

    family: str
    parts: tuple[Array, ...]
    is_sound: Array


def coupling_of(law: Law) -> str:
    """How two laws share noise: "residual", "quantile" or "gumbel-max"."""
    law = _foot(law)
    if law.family == "categorical":
        return "gumbel-max"
    return "residual" if law.family in _RESIDUALS or law.family == _VECTOR else "quantile"


def success_of(law: Law) -> Array:
    """Probability of a 1 under a Bernoulli law.

    Raises
    ------
    InputError
        `not-probability`: another law.
    """
    if law.family != "bernoulli":
        msg = (
            f"Probabilities of benefit, necessity and sufficiency are of a Bernoulli outcome, not "
            f"of one drawn from a {law.family} family. Ask for the effect on it."
        )
        raise InputError(msg, code="not-probability")
    return _chances(_wide(law))[0]


def abduce(evidence: Evidence) -> Noise:
    """The noise of a unit behind a value.

    Parameters
    ----------
    evidence : Evidence
        Law, value and keyed uniforms; arrays with leading axes in common.

    Returns
    -------
    Noise
        Arrays of the value's shape; float64.

    Examples
    --------
    >>> law = Law("normal", {"loc": np.array([1.0]), "scale": np.array([2.0])})
    >>> noise = abduce(Evidence(law, np.array([4.0]), np.array([0.5])))
    >>> noise.parts[0].tolist()
    [1.5]
    >>> replay(Law("normal", {"loc": np.array([0.0]), "scale": np.array([2.0])}, None), noise)
    array([3.])
    """
    return _noise(evidence.law, np.asarray(evidence.value, np.float64), evidence.uniform)


def replay(law: Law, noise: Noise) -> Array:
    """The value that a unit has under a law; float64.

    Raises
    ------
    InputError
        `family-changed`: the noise is that of another family.
    """
    if law.family in _STEPS:
        below = replay(_base(law), noise)
        with np.errstate(all="ignore"):
            return _STEPS[law.family][0](below, **_wide(law))
    mine = _kind(law)
    if noise.family != mine:
        msg = (
            f"A scenario draws a site from another family ({mine}, not {noise.family}), so that "
            "the unit's noise means nothing there. Ask for rung='intervention'."
        )
        raise InputError(msg, code="family-changed")
    with np.errstate(all="ignore"):
        if law.family == "categorical":
            return np.argmax(_logits(law) + noise.parts[0], axis=-1).astype(np.float64)
        if law.family == _VECTOR:
            wide = _wide(law)
            spread = np.einsum("...ij,...j->...i", wide["scale_tril"], noise.parts[0])
            return np.asarray(wide["loc"] + spread)
        if law.family in _RESIDUALS:
            return np.asarray(_RESIDUALS[law.family][1](noise.parts[0], **_wide(law)))
        if _is_discrete(law):
            return _least(law, *noise.parts)
        return _quantile(law, *noise.parts)


def _noise(law: Law, value: Array, uniform: Any) -> Noise:
    with np.errstate(all="ignore"):
        if law.family in _STEPS:
            return _noise(_base(law), _STEPS[law.family][1](value, **_wide(law)), uniform)
        kind = _kind(law)
        if law.family == "categorical":
            return Noise(kind, *_gumbels(law, value, np.asarray(uniform, np.float64)))
        if law.family == _VECTOR:
            wide = _wide(law)
            residual = np.linalg.solve(wide["scale_tril"], (value - wide["loc"])[..., None])[..., 0]
            return Noise(kind, (residual,), np.isfinite(residual))
        if law.family in _RESIDUALS:
            residual = _RESIDUALS[law.family][0](value, **_wide(law))
            low, high = _LIMITS.get(law.family, (-np.inf, np.inf))
            is_sound = np.isfinite(residual) & (residual >= low) & (residual <= high)
            return Noise(kind, (residual,), is_sound)
        if _is_discrete(law):
            return Noise(kind, *_interval(law, value, np.asarray(uniform, np.float64)))
        lower, upper = _tails(law, value)
        return Noise(kind, (lower, upper), (lower > 0) & (upper > 0))


def _kind(law: Law) -> str:
    """Residuals belong to their family, tail probabilities to all."""
    if law.family in _RESIDUALS or law.family in (_VECTOR, "categorical"):
        return law.family
    return "discrete" if _is_discrete(law) else "continuous"


# ------------------------------------------------------------------ steps and residuals

type Map = Callable[..., Array]


def _power(value: Array, exponent: Array) -> Array:
    return np.asarray(np.power(value, exponent))


# A value from what is below it, and back.
_STEPS: dict[str, tuple[Map, Map]] = {
    "affine": (lambda x, loc, scale: loc + scale * x, lambda y, loc, scale: (y - loc) / scale),
    "exp": (np.exp, np.log),
    "power": (_power, lambda y, exponent: _power(y, 1 / exponent)),
    "sigmoid": (special.expit, special.logit),
    "softplus": (lambda x: np.logaddexp(0.0, x), lambda y: y + np.log(-np.expm1(-y))),
}
_VECTOR = "multivariate-normal"
_LOCATED: tuple[Map, Map] = (
    lambda y, loc, scale: (y - loc) / scale,
    lambda e, loc, scale: loc + scale * e,
)
_SCALED: tuple[Map, Map] = (lambda y, scale: y / scale, lambda e, scale: scale * e)
# The residual of a value, and the value of a residual.
_RESIDUALS: dict[str, tuple[Map, Map]] = {
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
_LIMITS = {**dict.fromkeys(_POSITIVE, (0.0, np.inf)), "uniform": (-1e-6, 1 + 1e-6)}


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


def _standard(law: Law) -> tuple[Map, Map, Array, Array]:
    """Cumulative distribution and quantile of a symmetric law, its location and its scale."""
    wide = _wide(law)
    if law.family == "student-t":
        df = wide["df"]
        cdf, quantile = (lambda x: special.stdtr(df, x)), (lambda p: special.stdtrit(df, p))
    else:
        cdf, quantile = _SYMMETRIC[law.family]
    return cdf, quantile, wide["loc"], wide["scale"]


def _tails(law: Law, value: Array) -> Pair:
    """Probabilities of less and of more than a value, under a continuous law."""
    if law.family == "truncated":
        return _truncated_tails(law, value)
    if law.family == "student-t":
        cdf, _, loc, scale = _standard(law)
        centred = (value - loc) / scale
        return cdf(centred), cdf(-centred)
    wide = _wide(law)
    if law.family == "gamma":
        shape, scaled = wide["concentration"], value * wide["rate"]
        return special.gammainc(shape, scaled), special.gammaincc(shape, scaled)
    first, second = wide["concentration1"], wide["concentration0"]
    return special.betainc(first, second, value), special.betaincc(first, second, value)


def _quantile(law: Law, lower: Array, upper: Array) -> Array:
    """The value with these tail probabilities; the smaller of the two has the digits."""
    if law.family == "truncated":
        return _truncated_quantile(law, lower, upper)
    is_low = lower < upper
    if law.family == "student-t":
        _, quantile, loc, scale = _standard(law)
        distance = quantile(np.minimum(lower, upper))
        return np.asarray(loc + scale * np.where(is_low, distance, -distance))
    wide = _wide(law)
    if law.family == "gamma":
        shape = wide["concentration"]
        scaled = np.where(
            is_low, special.gammaincinv(shape, lower), special.gammainccinv(shape, upper)
        )
        return np.asarray(scaled / wide["rate"])
    first, second = wide["concentration1"], wide["concentration0"]
    low, high = special.betaincinv(first, second, lower), special.betainccinv(first, second, upper)
    return np.asarray(np.where(is_low, low, high))


def _cut(law: Law) -> tuple[Map, Map, Array, Array, Array, Array, Array]:
    """A truncated law mirrored so that its lower limit is below the centre of its base."""
    cdf, quantile, loc, scale = _standard(_base(law))
    wide = _wide(law)
    low = (wide.get("low", -np.inf) - loc) / scale
    high = (wide.get("high", np.inf) - loc) / scale
    sign = np.where(low > 0, -1.0, 1.0)
    low, high = np.where(sign < 0, -high, low), np.where(sign < 0, -low, high)
    return cdf, quantile, loc, scale * sign, low, high, sign


def _truncated_tails(law: Law, value: Array) -> Pair:
    cdf, _, loc, scale, low, high, sign = _cut(law)
    place = (value - loc) / scale
    mass = cdf(high) - cdf(low)
    below = (cdf(place) - cdf(low)) / mass
    above = np.where(place > 0, cdf(-place) - cdf(-high), cdf(high) - cdf(place)) / mass
    return np.where(sign > 0, below, above), np.where(sign > 0, above, below)


def _truncated_quantile(law: Law, lower: Array, upper: Array) -> Array:
    cdf, quantile, loc, scale, low, high, sign = _cut(law)
    lower, upper = np.where(sign > 0, lower, upper), np.where(sign > 0, upper, lower)
    mass = cdf(high) - cdf(low)
    below, above = cdf(low) + lower * mass, cdf(-high) + upper * mass
    place = np.where(below < 0.5, quantile(below), -quantile(above))
    return np.asarray(loc + scale * place)


# ------------------------------------------------------------------ discrete quantiles


def _interval(law: Law, value: Array, uniform: Array) -> tuple[tuple[Array, ...], Array]:
    """A random point between the tail probabilities of a value and of the one before.

    Returns lower and upper tail probabilities, of which one counts, and which; and soundness.
    """
    low, high = _limits(law)
    is_possible = (value >= low) & (value <= high) & (value == np.floor(value))
    value = np.where(is_possible, value, low)
    below, above = _counted(law, value)
    below_before, above_before = _counted(law, value - 1)
    is_upper = below_before > 0.5
    lower = below_before + uniform * (below - below_before)
    upper = above_before - uniform * (above_before - above)
    kept = (lower >= below_before) & (lower < below), (upper <= above_before) & (upper > above)
    is_sound = is_possible & np.where(is_upper, kept[1], kept[0])
    return (lower, upper, is_upper), is_sound


def _least(law: Law, lower: Array, upper: Array, is_upper: Array) -> Array:
    """The least value whose tail probabilities cover a point: double a bracket, then halve it."""
    low, high = _limits(law)
    shape = np.broadcast_shapes(np.shape(low), lower.shape)
    low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)

    def covers(value: Array) -> Array:
        below, above = _counted(law, value)
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


def _counted(law: Law, value: Array) -> Pair:
    """Probabilities of at most a value, and of more, under a discrete law."""
    low, high = _limits(law)
    inside = np.clip(value, low, high)
    below, above = _COUNTS[law.family](law, inside)
    is_before, is_last = value < low, value >= high
    below = np.where(is_before, 0.0, np.where(is_last, 1.0, below))
    return below, np.where(is_before, 1.0, np.where(is_last, 0.0, above))


def _limits(law: Law) -> tuple[Any, Any]:
    """Least and greatest value of a discrete law."""
    wide = _wide(law)
    if law.family == "zero-inflated":
        return _limits(_base(law))
    if law.family == "discrete-uniform":
        return wide["low"], wide["high"]
    if law.family == "ordered-logistic":
        return 0.0, float(wide["cutpoints"].shape[-1])
    if law.family == "bernoulli":
        return 0.0, 1.0
    return 0.0, wide.get("total_count", np.inf)


def _bernoulli(law: Law, value: Array) -> Pair:
    success, failure = _chances(_wide(law))
    return failure + 0 * value, success + 0 * value


def _binomial(law: Law, value: Array) -> Pair:
    wide = _wide(law)
    success, failure = _chances(wide)
    left = np.maximum(wide["total_count"] - value, 1e-300)  # at the end `_counted` knows better
    above = special.betainc(value + 1, left, success)
    return special.betainc(left, value + 1, failure), above


def _beta_binomial(law: Law, value: Array) -> Pair:
    """Cumulative sums of probabilities, each a multiple of the one before."""
    wide = _wide(law)
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


def _geometric(law: Law, value: Array) -> Pair:
    wide = _wide(law)
    failing = -np.logaddexp(0.0, wide["logits"]) if "logits" in wide else np.log1p(-wide["probs"])
    return -np.expm1((value + 1) * failing), np.exp((value + 1) * failing)


def _negative_binomial(law: Law, value: Array) -> Pair:
    wide = _wide(law)
    shape, rate = wide["concentration"], wide["rate"]
    below = special.betainc(shape, value + 1, rate / (1 + rate))
    return below, special.betainc(value + 1, shape, 1 / (1 + rate))


def _poisson(law: Law, value: Array) -> Pair:
    rate = _wide(law)["rate"]
    return special.gammaincc(value + 1, rate), special.gammainc(value + 1, rate)


def _discrete_uniform(law: Law, value: Array) -> Pair:
    wide = _wide(law)
    count = wide["high"] - wide["low"] + 1
    return (value - wide["low"] + 1) / count, (wide["high"] - value) / count


def _ordered(law: Law, value: Array) -> Pair:
    wide = _wide(law)
    place = np.minimum(value, wide["cutpoints"].shape[-1] - 1).astype(np.intp)
    cut = np.take_along_axis(wide["cutpoints"], place[..., None], -1)[..., 0]
    return special.expit(cut - wide["predictor"]), special.expit(wide["predictor"] - cut)


def _inflated(law: Law, value: Array) -> Pair:
    gate, rest = _chances(_wide(law))
    below, above = _counted(_base(law), value)
    return gate + rest * below, rest * above


_COUNTS: dict[str, Callable[[Law, Array], Pair]] = {
    "bernoulli": _bernoulli,
    "beta-binomial": _beta_binomial,
    "binomial": _binomial,
    "discrete-uniform": _discrete_uniform,
    "geometric": _geometric,
    "negative-binomial": _negative_binomial,
    "ordered-logistic": _ordered,
    "poisson": _poisson,
    "zero-inflated": _inflated,
}


# ------------------------------------------------------------------ categories


def _gumbels(law: Law, value: Array, uniform: Array) -> tuple[tuple[Array, ...], Array]:
    """Gumbel noise of each category, given which of them is the largest."""
    logits = _logits(law)
    chosen = np.clip(value, 0, logits.shape[-1] - 1).astype(np.intp)[..., None]
    free = -np.log(-np.log(uniform))
    total = special.logsumexp(logits, axis=-1, keepdims=True)
    top = total + np.take_along_axis(free, chosen, -1)
    under = -np.logaddexp(-top, -(logits + free)) - logits
    noise = np.where(np.isfinite(logits), under, free)
    own = np.take_along_axis(logits, chosen, -1)
    np.put_along_axis(noise, chosen, top - own, -1)
    is_sound = np.isfinite(own[..., 0]) & (value == chosen[..., 0])
    return (noise,), is_sound


def _logits(law: Law) -> Array:
    wide = _wide(law)
    return wide["logits"] if "logits" in wide else np.log(wide["probs"])


# ------------------------------------------------------------------ parameters


def _wide(law: Law) -> dict[str, Array]:
    return {name: np.asarray(value, np.float64) for name, value in law.parameters.items()}


def _chances(wide: dict[str, Array]) -> Pair:
    """Probabilities of a success and of a failure."""
    for logits in ("logits", "gate_logits"):
        if logits in wide:
            return special.expit(wide[logits]), special.expit(-wide[logits])
    success = wide["probs"] if "probs" in wide else wide["gate"]
    return success, 1 - success


def _is_discrete(law: Law) -> bool:
    return law.family in _COUNTS


def _base(law: Law) -> Law:
    assert law.base is not None  # noqa: S101  # families with a base are made with one
    return law.base


def _foot(law: Law) -> Law:
    """The law under all steps."""
    return _foot(_base(law)) if law.family in _STEPS else law
