"""Distributions of sites as data: family and parameters, read while the kernel is traced.

A law is a tree of arrays, so that a program can return it like any other value. A transformed
distribution is a chain: each step is a law whose `base` is what it transforms. What can be done
with a law is in `aimz.families.noise`, which has the same families.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import transforms
from scipy import special

from aimz.errors import InputError

__all__ = [
    "WRAPPERS",
    "Evidence",
    "Law",
    "Map",
    "Pair",
    "base_distribution",
    "base_law",
    "chances",
    "law_of",
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


# Families by type: a name, and the attributes that are its parameters. Of a type, not of its
# subclasses: these may mean something else.
_FAMILIES: dict[type, tuple[str, tuple[str, ...]]] = {
    dist.BernoulliLogits: ("bernoulli", ("logits",)),
    dist.BernoulliProbs: ("bernoulli", ("probs",)),
    dist.Beta: ("beta", ("concentration1", "concentration0")),
    dist.BetaBinomial: ("beta-binomial", ("concentration1", "concentration0", "total_count")),
    dist.BetaProportion: ("beta", ("concentration1", "concentration0")),
    dist.BinomialLogits: ("binomial", ("logits", "total_count")),
    dist.BinomialProbs: ("binomial", ("probs", "total_count")),
    dist.Cauchy: ("cauchy", ("loc", "scale")),
    dist.Chi2: ("gamma", ("concentration", "rate")),
    dist.DiscreteUniform: ("discrete-uniform", ("low", "high")),
    dist.Exponential: ("exponential", ("rate",)),
    dist.Gamma: ("gamma", ("concentration", "rate")),
    dist.GammaPoisson: ("negative-binomial", ("concentration", "rate")),
    dist.GeometricLogits: ("geometric", ("logits",)),
    dist.GeometricProbs: ("geometric", ("probs",)),
    dist.Gompertz: ("gompertz", ("concentration", "rate")),
    dist.Gumbel: ("gumbel", ("loc", "scale")),
    dist.HalfCauchy: ("half-cauchy", ("scale",)),
    dist.HalfNormal: ("half-normal", ("scale",)),
    dist.Kumaraswamy: ("kumaraswamy", ("concentration1", "concentration0")),
    dist.Laplace: ("laplace", ("loc", "scale")),
    dist.Levy: ("levy", ("loc", "scale")),
    dist.Logistic: ("logistic", ("loc", "scale")),
    dist.NegativeBinomial2: ("negative-binomial", ("concentration", "rate")),
    dist.NegativeBinomialLogits: ("negative-binomial", ("concentration", "rate")),
    dist.NegativeBinomialProbs: ("negative-binomial", ("concentration", "rate")),
    dist.Normal: ("normal", ("loc", "scale")),
    dist.Poisson: ("poisson", ("rate",)),
    dist.SoftLaplace: ("soft-laplace", ("loc", "scale")),
    dist.StudentT: ("student-t", ("df", "loc", "scale")),
    dist.Uniform: ("uniform", ("low", "high")),
    dist.Weibull: ("weibull", ("scale", "concentration")),
}
# Parameters with axes of their own at the end, and how many.
_VECTORS: dict[type, tuple[str, dict[str, int]]] = {
    dist.CategoricalLogits: ("categorical", {"logits": 1}),
    dist.CategoricalProbs: ("categorical", {"probs": 1}),
    dist.MultivariateNormal: ("multivariate-normal", {"loc": 0, "scale_tril": 1}),
    dist.OrderedLogistic: ("ordered-logistic", {"predictor": 0, "cutpoints": 1}),
}
_INFLATED = {
    dist.ZeroInflatedLogits: "gate_logits",
    dist.ZeroInflatedPoisson: "gate",
    dist.ZeroInflatedProbs: "gate",
}
_TRUNCATED = {
    dist.LeftTruncatedDistribution: ("low",),
    dist.RightTruncatedDistribution: ("high",),
    dist.TwoSidedTruncatedDistribution: ("low", "high"),
}
_STEPS: dict[type, tuple[str, tuple[str, ...]]] = {
    transforms.AffineTransform: ("affine", ("loc", "scale")),
    transforms.ExpTransform: ("exp", ()),
    transforms.PowerTransform: ("power", ("exponent",)),
    transforms.SigmoidTransform: ("sigmoid", ()),
    transforms.SoftplusTransform: ("softplus", ()),
}


def law_of(name: str, fn: dist.Distribution, shape: tuple[int, ...]) -> Law:
    """The law of a site's distribution.

    Parameters
    ----------
    name : str
        Name of the site, for the error.
    fn : Distribution
        The distribution, under masks, expansions and event dimensions.
    shape : tuple of int
        Shape of the site's value.

    Returns
    -------
    Law
        Family and parameters.

    Raises
    ------
    InputError
        `family-unknown`: the noise behind a value of such a distribution cannot be recovered.

    Examples
    --------
    >>> law = law_of("y", dist.LogNormal(0.0, 2.0).expand([3]), (3,))
    >>> law.family, law.base.family, law.base.parameters["scale"].tolist()
    ('exp', 'normal', [2.0, 2.0, 2.0])
    """
    base = base_distribution(fn)
    kind = type(base)
    below: Callable[[Any], Law] = partial(law_of, name, shape=shape)
    if kind in _FAMILIES:
        family, names = _FAMILIES[kind]
        return Law(family, _parameters(base, dict.fromkeys(names, 0), shape))
    if kind in _VECTORS:
        family, axes = _VECTORS[kind]
        return Law(family, _parameters(base, axes, shape))
    if kind in _INFLATED:
        gate = _parameters(base, {_INFLATED[kind]: 0}, shape)
        return Law("zero-inflated", gate, below(base.base_dist))
    if kind in _TRUNCATED:
        limits = _parameters(base, dict.fromkeys(_TRUNCATED[kind], 0), shape)
        return Law("truncated", limits, below(base.base_dist))
    if isinstance(base, dist.TransformedDistribution):
        law = below(base.base_dist)
        for step in base.transforms:
            law = _step(name, step, shape, law)
        return law
    raise _unknown(name, kind)


def _step(name: str, step: transforms.Transform, shape: tuple[int, ...], law: Law) -> Law:
    if isinstance(step, transforms.ComposeTransform):
        for inner in step.parts:
            law = _step(name, inner, shape, law)
        return law
    if type(step) not in _STEPS:
        raise _unknown(name, type(step))
    family, names = _STEPS[type(step)]
    return Law(family, _parameters(step, dict.fromkeys(names, 0), shape), law)


def _parameters(
    source: dist.Distribution | transforms.Transform, axes: dict[str, int], shape: tuple[int, ...]
) -> dict[str, Any]:
    """Attributes in the shape of the value, and axes of their own."""
    parameters = {}
    for name, depth in axes.items():
        value = jnp.asarray(getattr(source, name))
        parameters[name] = jnp.broadcast_to(value, (*shape, *value.shape[value.ndim - depth :]))
    return parameters


def _unknown(name: str, kind: type) -> InputError:
    msg = (
        f"Site '{name}' is drawn from {kind.__name__}, whose noise cannot be recovered from an "
        "outcome. Ask for rung='intervention', or use a family of the table in docs/effects.md."
    )
    return InputError(msg, code="family-unknown")


type Pair = tuple[np.ndarray, np.ndarray]
# ------------------------------------------------------------------ steps and residuals
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
    while hasattr(fn, "base_dist") and type(fn).__name__ in WRAPPERS:
        fn = fn.base_dist
    return fn


WRAPPERS = frozenset({"ExpandedDistribution", "MaskedDistribution", "Independent"})
