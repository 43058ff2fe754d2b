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

Arithmetic is in double precision, on arrays in memory, by SciPy's special functions: its
distributions call the same ones (equal to the last bit on a grid out to both tails for Poisson,
gamma and Student-t, to 4e-13 for negative binomials), at 1.2 times the time and a heavy import.
A value so far in a tail that the noise has no digits left is marked: it is not sound.
"""

from dataclasses import dataclass

import numpy as np

from aimz.arrays import Array
from aimz.errors import InputError
from aimz.families.continuous import cut
from aimz.families.discrete import Counts, inflated
from aimz.families.family import Coupling
from aimz.families.law import Evidence, Law, base_law, chances, wide_parameters
from aimz.families.steps import STEPS
from aimz.families.table import FAMILIES

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
    while law.family in STEPS:
        law = base_law(law)
    return _coupling(law).coupling


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
            return STEPS[law.family].value_of(below, **wide_parameters(law))
    coupling = _coupling(law)
    if noise.family != coupling.kind(law):
        msg = (
            f"A scenario draws a site from another family ({coupling.kind(law)}, not "
            f"{noise.family}), so that the unit's noise means nothing there. Ask for "
            "rung='intervention'."
        )
        raise InputError(msg, code="family-changed")
    with np.errstate(all="ignore"):
        return coupling.value(law, noise.parts)


def _noise(law: Law, value: np.ndarray, uniform: Array) -> Noise:
    with np.errstate(all="ignore"):
        if law.family in STEPS:
            source = STEPS[law.family].source_of(value, **wide_parameters(law))
            return _noise(base_law(law), source, uniform)
        coupling = _coupling(law)
        parts, is_sound = coupling.noise(law, value, np.asarray(uniform, np.float64))
        return Noise(coupling.kind(law), parts, is_sound)


def _coupling(law: Law) -> Coupling:
    """How the noise of a law is recovered: as its family says, inflated or truncated."""
    if law.family == "zero-inflated":
        counts = _coupling(base_law(law))
        assert isinstance(counts, Counts)  # noqa: S101  # `law_of` looks
        return inflated(counts)
    if law.family == "truncated":
        standard = FAMILIES.named[base_law(law).family].standard
        assert standard is not None  # noqa: S101  # NumPyro truncates no others
        return cut(standard)
    coupling = FAMILIES.named[law.family].noise
    assert coupling is not None  # noqa: S101  # `law_of` looks
    return coupling
