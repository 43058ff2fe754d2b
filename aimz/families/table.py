"""The one table of families: a row for each, of functions that say what is known of it.

A new family is a row here, and a row of `tests/families/test_table.py`, which holds it to what
NumPyro and SciPy say.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from aimz.families import angles, continuous, discrete, exact, residuals, responses, tails, vectors
from aimz.families.categories import Categories
from aimz.families.family import Families, Family
from aimz.families.state_space import STATE_SPACE, StateSpace
from aimz.likelihoods import DriftDiffusion, MixtureResponse

__all__ = ["FAMILIES"]


def _no_mean(_: Any) -> None:
    """There is none."""


def _gamma_reach(shape: Any) -> Any:
    """What a gamma variable of unit rate exceeds with probability exp(-21)."""
    return shape + jnp.sqrt(42.0 * shape) + 21.0


def _geometric_reach(fn: Any) -> Any:
    if isinstance(fn, dist.GeometricLogits):
        return 21.0 / jax.nn.sigmoid(fn.logits)
    return 21.0 / jnp.asarray(fn.probs)


def _shares(fn: Any) -> Any:
    if isinstance(fn, dist.CategoricalLogits):
        return jax.nn.softmax(fn.logits)
    return jnp.asarray(fn.probs)


_LOCATED = ("loc", "scale")
_SHARES = ("concentration1", "concentration0")
_SCALES = ("concentration", "rate")
_NO_CDF = "outcomes of it are not censored: NumPyro has no distribution function"
_ONE_MINUS = "NumPyro's distribution function, and 1 minus it"
_NOT_RECOVERED = "its draws are no monotone function of one noise; rung three refuses it"
_TRANSFORMED = "that of what it transforms"
_VECTOR = {"tails": "a vector has none"}
_COUNTS = {"tails": _ONE_MINUS}
_CODES = {"tails": _NO_CDF}

FAMILIES = Families(
    # ------------------------------------------------------------------ location and scale
    Family(
        "normal",
        {dist.Normal: _LOCATED},
        noise=residuals.LOCATED,
        standard=continuous.NORMAL,
        tails=tails.NORMAL,
        shapes=(),
    ),
    Family(
        "cauchy",
        {dist.Cauchy: _LOCATED},
        noise=residuals.LOCATED,
        standard=continuous.CAUCHY,
        tails=tails.CAUCHY,
        mean=_no_mean,
        shapes=(),
    ),
    Family(
        "laplace",
        {dist.Laplace: _LOCATED},
        noise=residuals.LOCATED,
        standard=continuous.LAPLACE,
        tails=tails.LAPLACE,
        shapes=(),
    ),
    Family(
        "logistic",
        {dist.Logistic: _LOCATED},
        noise=residuals.LOCATED,
        standard=continuous.LOGISTIC,
        tails=tails.LOGISTIC,
    ),
    Family(
        "soft-laplace",
        {dist.SoftLaplace: _LOCATED},
        noise=residuals.LOCATED,
        standard=continuous.SOFT_LAPLACE,
        tails=tails.SOFT_LAPLACE,
    ),
    Family(
        "student-t",
        {dist.StudentT: ("df", *_LOCATED)},
        noise=continuous.by_standard(continuous.STUDENT),
        standard=continuous.STUDENT,
        density=exact.STUDENT,
        tails=tails.STUDENT,
        shapes=("df",),
    ),
    Family(
        "gumbel",
        {dist.Gumbel: _LOCATED},
        noise=residuals.LOCATED,
        tails=tails.GUMBEL,
        shapes=(),
    ),
    Family(
        "asymmetric-laplace",
        {dist.AsymmetricLaplace: ()},
        tails=tails.ASYMMETRIC_LAPLACE,
        why={"noise": _NOT_RECOVERED},
    ),
    Family(
        "asymmetric-laplace-quantile",
        {dist.AsymmetricLaplaceQuantile: ()},
        tails=tails.ASYMMETRIC_LAPLACE_QUANTILE,
        why={"noise": _NOT_RECOVERED},
    ),
    # ------------------------------------------------------------------ above a number
    Family(
        "levy",
        {dist.Levy: _LOCATED},
        noise=residuals.POSITIVE,
        tails=tails.LEVY,
        mean=_no_mean,
    ),
    Family(
        "half-normal",
        {dist.HalfNormal: ("scale",)},
        noise=residuals.SCALED,
        tails=tails.HALF_NORMAL,
        edge=True,
    ),
    Family(
        "half-cauchy",
        {dist.HalfCauchy: ("scale",)},
        noise=residuals.SCALED,
        tails=tails.HALF_CAUCHY,
        mean=_no_mean,
        edge=True,
    ),
    Family(
        "exponential",
        {dist.Exponential: ("rate",)},
        noise=residuals.RATED,
        tails=tails.EXPONENTIAL,
        edge=True,
    ),
    Family(
        "gamma",
        {dist.Gamma: _SCALES, dist.Chi2: _SCALES},
        noise=continuous.GAMMA,
        density=exact.GAMMA,
        border=exact.GAMMA_AT_ZERO,
        tails=tails.GAMMA,
    ),
    Family(
        "weibull",
        {dist.Weibull: ("scale", "concentration")},
        noise=residuals.WEIBULL,
        border=exact.WEIBULL_AT_ZERO,
        tails=tails.WEIBULL,
    ),
    Family(
        "gompertz",
        {dist.Gompertz: _SCALES},
        noise=residuals.GOMPERTZ,
        tails=tails.GOMPERTZ,
        edge=True,
    ),
    Family(
        "dagum",
        {dist.Dagum: ()},
        tails=tails.DAGUM,
        why={"noise": _NOT_RECOVERED},
    ),
    Family(
        "pareto",
        {dist.Pareto: ()},
        border=exact.PARETO_AT_SCALE,
        why={"noise": _TRANSFORMED, "tails": _TRANSFORMED},
    ),
    Family(
        "power-law",
        {dist.LowerTruncatedPowerLaw: ()},
        tails=tails.POWER_LAW,
        why={"noise": _NOT_RECOVERED},
    ),
    # ------------------------------------------------------------------ between two numbers
    Family(
        "uniform",
        {dist.Uniform: ("low", "high")},
        noise=residuals.SHARED,
        tails=tails.UNIFORM,
    ),
    Family(
        "beta",
        {dist.Beta: _SHARES, dist.BetaProportion: _SHARES},
        noise=continuous.BETA,
        density=exact.BETA,
        tails=tails.BETA,
        edge=False,
    ),
    Family(
        "kumaraswamy",
        {dist.Kumaraswamy: _SHARES},
        noise=residuals.KUMARASWAMY,
        border=exact.KUMARASWAMY_AT_ONE,
        tails=tails.KUMARASWAMY,
        edge=False,
    ),
    Family(
        "von-mises",
        {dist.VonMises: ()},
        mean=angles.mean_direction,
        by_row=(dist.VonMises,),
        why={"noise": _NOT_RECOVERED, "tails": "an angle has none"},
    ),
    # ------------------------------------------------------------------ counts
    Family(
        "poisson",
        {dist.Poisson: ("rate",)},
        noise=discrete.POISSON,
        density=exact.POISSON,
        tails=tails.POISSON,
        reach=lambda fn: _gamma_reach(jnp.asarray(fn.rate)),
        by_row=(dist.Poisson,),
    ),
    Family(
        "negative-binomial",
        {
            dist.GammaPoisson: _SCALES,
            dist.NegativeBinomial2: _SCALES,
            dist.NegativeBinomialLogits: _SCALES,
            dist.NegativeBinomialProbs: _SCALES,
        },
        noise=discrete.NEGATIVE_BINOMIAL,
        density=exact.NEGATIVE_BINOMIAL,
        reach=lambda fn: _gamma_reach(jnp.asarray(fn.concentration)) / fn.rate,
        by_row=(dist.GammaPoisson,),
        why=_COUNTS,
    ),
    Family(
        "geometric",
        {dist.GeometricLogits: ("logits",), dist.GeometricProbs: ("probs",)},
        noise=discrete.GEOMETRIC,
        reach=_geometric_reach,
        why=_CODES,
    ),
    Family(
        "binomial",
        {
            dist.BinomialLogits: ("logits", "total_count"),
            dist.BinomialProbs: ("probs", "total_count"),
        },
        noise=discrete.BINOMIAL,
        density=exact.BINOMIAL,
        by_row=(dist.BinomialLogits, dist.BinomialProbs),
        is_coded=True,
        why=_CODES,
    ),
    Family(
        "beta-binomial",
        {dist.BetaBinomial: (*_SHARES, "total_count")},
        noise=discrete.BETA_BINOMIAL,
        density=exact.BETA_BINOMIAL,
        is_coded=True,
        why=_CODES,
    ),
    # ------------------------------------------------------------------ codes
    Family(
        "bernoulli",
        {dist.BernoulliLogits: ("logits",), dist.BernoulliProbs: ("probs",)},
        noise=discrete.BERNOULLI,
        is_half_block=True,
        is_coded=True,
        why=_CODES,
    ),
    Family(
        "categorical",
        {dist.CategoricalLogits: ("logits",), dist.CategoricalProbs: ("probs",)},
        axes={"logits": 1, "probs": 1},
        noise=Categories(),
        mean=_shares,
        is_coded=True,
        is_of_categories=True,
        has_order=False,
        why=_CODES,
    ),
    Family(
        "ordered-logistic",
        {dist.OrderedLogistic: ("predictor", "cutpoints")},
        axes={"cutpoints": 1},
        noise=discrete.ORDERED,
        mean=_shares,
        is_coded=True,
        is_of_categories=True,
        why=_CODES,
    ),
    Family(
        "discrete-uniform",
        {dist.DiscreteUniform: ("low", "high")},
        noise=discrete.UNIFORM,
        is_coded=True,
        why=_COUNTS,
    ),
    # ------------------------------------------------------------------ vectors
    Family(
        "multivariate-normal",
        {dist.MultivariateNormal: ("loc", "scale_tril")},
        axes={"scale_tril": 1},
        noise=residuals.VECTOR,
        vector=vectors.NORMAL,
        why=_VECTOR,
    ),
    Family(
        "low-rank-normal",
        {dist.LowRankMultivariateNormal: ()},
        vector=vectors.LOW_RANK_NORMAL,
        why={"noise": _NOT_RECOVERED, **_VECTOR},
    ),
    Family(
        "multivariate-student-t",
        {dist.MultivariateStudentT: ()},
        vector=vectors.STUDENT,
        why={"noise": _NOT_RECOVERED, **_VECTOR},
    ),
    Family(
        "random-walk",
        {dist.GaussianRandomWalk: ()},
        vector=vectors.WALK,
        why={"noise": _NOT_RECOVERED, **_VECTOR},
    ),
    Family(
        "state-space",
        {StateSpace: ()},
        vector=STATE_SPACE,
        why={"noise": _NOT_RECOVERED, **_VECTOR},
    ),
    Family(
        "projected-normal",
        {dist.ProjectedNormal: ()},
        mean=angles.projected_mean,
        why={"noise": _NOT_RECOVERED, **_VECTOR},
    ),
    Family(
        "dirichlet",
        {dist.Dirichlet: ()},
        border=exact.FLAT_DIRICHLET,
        why={"noise": _NOT_RECOVERED, **_VECTOR},
    ),
    Family(
        "multinomial",
        {dist.MultinomialLogits: (), dist.MultinomialProbs: ()},
        by_row=(dist.MultinomialLogits, dist.MultinomialProbs),
        why={"noise": _NOT_RECOVERED, **_VECTOR},
    ),
    # ------------------------------------------------------------------ choices and their times
    Family(
        "drift-diffusion",
        {DriftDiffusion: ("parameters",)},
        axes={"parameters": 1},
        noise=responses.DRIFT_DIFFUSION,
        why=_VECTOR,
    ),
    Family(
        "mixture-response",
        {MixtureResponse: ("law_shares", "law_parts", "law_shift", "law_codes")},
        axes={"law_shares": 1, "law_parts": 3, "law_codes": 1},
        noise=responses.MIXTURE,
        why=_VECTOR,
    ),
)
