"""Distributions of sites as data: family and parameters, read while the kernel is traced.

A law is a tree of arrays, so that a program can return it like any other value. A transformed
distribution is a chain: each step is a law whose `base` is what it transforms. What can be done
with a law is in `aimz.families.noise`; its family is a row of `aimz.families.table`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from scipy import special

__all__ = [
    "Evidence",
    "Law",
    "Map",
    "Pair",
    "base_distribution",
    "base_law",
    "chances",
    "wide_parameters",
]


@partial(
    jax.tree_util.register_dataclass, data_fields=["parameters", "base"], meta_fields=["family"]
)
@dataclass(frozen=True)
class Law:
    """A family and its parameters, each of the shape of the site's value.

    Parameters of vectors (cut points, logits of categories, a Cholesky factor) have axes of their
    own at the end.
    """

    family: str
    parameters: dict[str, Any]
    base: "Law | None" = None


@partial(jax.tree_util.register_dataclass, data_fields=["law", "value", "uniform"], meta_fields=[])
@dataclass(frozen=True)
class Evidence:
    """What is known of a site in the world that was: its law, its value, and keyed randomness.

    `uniform` chooses among the values of the noise that a discrete value leaves possible: one
    number in (0, 1), or one for each category.
    """

    law: Law
    value: Any
    uniform: Any


#: Of less, and of more.
type Pair = tuple[np.ndarray, np.ndarray]
#: A function of arrays, its parameters given by name.
type Map = Callable[..., np.ndarray]


# ------------------------------------------------------------------ parameters
def wide_parameters(law: Law) -> dict[str, np.ndarray]:
    """Parameters of a law in double precision."""
    return {name: np.asarray(value, np.float64) for name, value in law.parameters.items()}


def chances(wide: dict[str, np.ndarray]) -> Pair:
    """Probabilities of a success and of a failure."""
    for logits in ("logits", "gate_logits"):
        if logits in wide:
            return special.expit(wide[logits]), special.expit(-wide[logits])
    success = wide["probs"] if "probs" in wide else wide["gate"]
    return success, 1 - success


def base_law(law: Law) -> Law:
    """The law that an inflated or truncated one is made of."""
    assert law.base is not None  # noqa: S101  # families with a base are made with one
    return law.base


def base_distribution(fn: dist.Distribution) -> Any:
    """The distribution under masks, expansions and event dimensions."""
    while hasattr(fn, "base_dist") and type(fn).__name__ in _WRAPPERS:
        fn = fn.base_dist
    return fn


_WRAPPERS = frozenset({"ExpandedDistribution", "MaskedDistribution", "Independent"})
