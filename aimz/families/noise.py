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

from dataclasses import dataclass

import numpy as np
from scipy import special

from aimz.arrays import Array
from aimz.errors import InputError
from aimz.families.continuous import quantile_of, tails_of
from aimz.families.discrete import interval_noise, is_discrete, least_value
from aimz.families.law import Evidence, Law, base_law, chances, wide_parameters
from aimz.families.residuals import LIMITS, RESIDUALS, STEPS, VECTOR

__all__ = ["Noise", "abduce", "coupling_of", "replay", "success_of"]


# Elements to work on at a time: temporaries stay in the cache.
_PIECE = 2**15


@dataclass(frozen=True)
class Noise:
    """What a value and its law tell of the unit; `is_sound` marks values that tell enough.

    `family` names the law that residuals are of; `parts` are a residual, lower and upper tail
    probabilities, or a Gumbel for each category.
    """

    family: str
    parts: tuple[np.ndarray, ...]
    is_sound: np.ndarray


def coupling_of(law: Law) -> str:
    """How two laws share noise: "residual", "quantile" or "gumbel-max"."""
    law = _foot(law)
    if law.family == "categorical":
        return "gumbel-max"
    return "residual" if law.family in RESIDUALS or law.family == VECTOR else "quantile"


def success_of(law: Law) -> np.ndarray:
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
    return chances(wide_parameters(law))[0]


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


def replay(law: Law, noise: Noise) -> np.ndarray:
    """The value that a unit has under a law; float64.

    Raises
    ------
    InputError
        `family-changed`: the noise is that of another family.
    """
    if law.family in STEPS:
        below = replay(base_law(law), noise)
        with np.errstate(all="ignore"):
            return STEPS[law.family][0](below, **wide_parameters(law))
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
        if law.family == VECTOR:
            wide = wide_parameters(law)
            spread = np.einsum("...ij,...j->...i", wide["scale_tril"], noise.parts[0])
            return np.asarray(wide["loc"] + spread)
        if law.family in RESIDUALS:
            return np.asarray(RESIDUALS[law.family][1](noise.parts[0], **wide_parameters(law)))
        if is_discrete(law):
            return least_value(law, *noise.parts)
        return quantile_of(law, *noise.parts)


def _noise(law: Law, value: np.ndarray, uniform: Array) -> Noise:
    with np.errstate(all="ignore"):
        if law.family in STEPS:
            return _noise(
                base_law(law), STEPS[law.family][1](value, **wide_parameters(law)), uniform
            )
        kind = _kind(law)
        if law.family == "categorical":
            return Noise(kind, *_gumbels(law, value, np.asarray(uniform, np.float64)))
        if law.family == VECTOR:
            wide = wide_parameters(law)
            residual = np.linalg.solve(wide["scale_tril"], (value - wide["loc"])[..., None])[..., 0]
            return Noise(kind, (residual,), np.isfinite(residual))
        if law.family in RESIDUALS:
            residual = RESIDUALS[law.family][0](value, **wide_parameters(law))
            low, high = LIMITS.get(law.family, (-np.inf, np.inf))
            is_sound = np.isfinite(residual) & (residual >= low) & (residual <= high)
            return Noise(kind, (residual,), is_sound)
        if is_discrete(law):
            return Noise(kind, *interval_noise(law, value, np.asarray(uniform, np.float64)))
        lower, upper = tails_of(law, value)
        return Noise(kind, (lower, upper), (lower > 0) & (upper > 0))


def _kind(law: Law) -> str:
    """Residuals belong to their family, tail probabilities to all."""
    if law.family in RESIDUALS or law.family in (VECTOR, "categorical"):
        return law.family
    return "discrete" if is_discrete(law) else "continuous"


# ------------------------------------------------------------------ categories
def _gumbels(
    law: Law, value: np.ndarray, uniform: np.ndarray
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Gumbel noise of each category, given which of them is the largest."""
    logits = _logits(law)
    chosen = np.clip(value, 0, logits.shape[-1] - 1).astype(np.intp)[..., None]
    free = -np.log(-np.log(uniform))
    total = special.logsumexp(logits, axis=-1, keepdims=True)
    top = total + np.take_along_axis(free, chosen, -1)
    under = -np.logaddexp(-top, -(logits + free)) - logits
    noise = np.where(np.isfinite(logits), under, free)
    of_chosen = np.take_along_axis(logits, chosen, -1)
    np.put_along_axis(noise, chosen, top - of_chosen, -1)
    is_sound = np.isfinite(of_chosen[..., 0]) & (value == chosen[..., 0])
    return (noise,), is_sound


def _logits(law: Law) -> np.ndarray:
    wide = wide_parameters(law)
    return wide["logits"] if "logits" in wide else np.log(wide["probs"])


def _foot(law: Law) -> Law:
    """The law under all steps."""
    return _foot(base_law(law)) if law.family in STEPS else law
