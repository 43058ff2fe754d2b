"""Outcome families: how each is built from one number per row, in (0.2, 3)."""

import jax.numpy as jnp
import numpyro.distributions as dist

__all__ = ["OUTCOMES"]


def _simplex(v):
    logits = jnp.stack([v, 0.5 * v, -v], axis=-1)
    return jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)


def _covariance(v):
    eye = jnp.eye(2)
    return eye * v[..., None, None] + 0.1


OUTCOMES = {
    "AsymmetricLaplace": lambda v: dist.AsymmetricLaplace(v, 1.0, 1.5),
    "AsymmetricLaplaceQuantile": lambda v: dist.AsymmetricLaplaceQuantile(v, 1.0, 0.3),
    "Bernoulli_probs": lambda v: dist.Bernoulli(probs=v / 4),
    "Bernoulli_logits": lambda v: dist.Bernoulli(logits=v),
    "Beta": lambda v: dist.Beta(v, 1.5),
    "BetaBinomial": lambda v: dist.BetaBinomial(v, 2.0, total_count=9),
    "BetaProportion": lambda v: dist.BetaProportion(v / 4, 5.0),
    "Binomial_probs": lambda v: dist.Binomial(7, probs=v / 4),
    "Binomial_logits": lambda v: dist.Binomial(7, logits=v),
    "Categorical_probs": lambda v: dist.Categorical(probs=_simplex(v)),
    "Categorical_logits": lambda v: dist.Categorical(logits=jnp.log(_simplex(v))),
    "Cauchy": lambda v: dist.Cauchy(v, 1.0),
    "Chi2": lambda v: dist.Chi2(v),
    "Delta": lambda v: dist.Delta(v),
    "Dirichlet": lambda v: dist.Dirichlet(_simplex(v) * 5),
    "DirichletMultinomial": lambda v: dist.DirichletMultinomial(_simplex(v) * 5, total_count=6),
    "DiscreteUniform": lambda v: dist.DiscreteUniform(0, jnp.floor(4 * v).astype(int)),
    "Exponential": lambda v: dist.Exponential(v),
    "Gamma": lambda v: dist.Gamma(v, 2.0),
    "GammaPoisson": lambda v: dist.GammaPoisson(v, 0.7),
    "Geometric_probs": lambda v: dist.Geometric(probs=v / 4),
    "Geometric_logits": lambda v: dist.Geometric(logits=v),
    "Gompertz": lambda v: dist.Gompertz(v, 1.0),
    "Gumbel": lambda v: dist.Gumbel(v, 1.0),
    "HalfCauchy": lambda v: dist.HalfCauchy(v),
    "HalfNormal": lambda v: dist.HalfNormal(v),
    "InverseGamma": lambda v: dist.InverseGamma(v + 1, 2.0),
    "Kumaraswamy": lambda v: dist.Kumaraswamy(v, 1.5),
    "Laplace": lambda v: dist.Laplace(v, 1.0),
    "Logistic": lambda v: dist.Logistic(v, 1.0),
    "LogNormal": lambda v: dist.LogNormal(v, 0.5),
    "LogUniform": lambda v: dist.LogUniform(v, v + 4),
    "MixtureSameFamily": lambda v: dist.MixtureSameFamily(
        dist.Categorical(probs=_simplex(v)),
        dist.Normal(jnp.stack([v, -v, 2 * v], -1), 0.3),
    ),
    "MixtureGeneral": lambda v: dist.MixtureGeneral(
        dist.Categorical(probs=_simplex(v)[..., :2] / _simplex(v)[..., :2].sum(-1, keepdims=True)),
        [dist.Normal(v, 0.3), dist.Laplace(-v, 1.0)],
    ),
    "Multinomial": lambda v: dist.Multinomial(6, probs=_simplex(v)),
    "MultivariateNormal": lambda v: dist.MultivariateNormal(
        jnp.stack([v, -v], -1), covariance_matrix=_covariance(v)
    ),
    "MultivariateNormal_tril": lambda v: dist.MultivariateNormal(
        jnp.stack([v, -v], -1), scale_tril=jnp.tril(_covariance(v))
    ),
    "MultivariateStudentT": lambda v: dist.MultivariateStudentT(
        4.0, jnp.stack([v, -v], -1), jnp.linalg.cholesky(_covariance(v))
    ),
    "NegativeBinomial2": lambda v: dist.NegativeBinomial2(v, 1.3),
    "NegativeBinomialProbs": lambda v: dist.NegativeBinomialProbs(3.0, v / 4),
    "NegativeBinomialLogits": lambda v: dist.NegativeBinomialLogits(3.0, v / 4),
    "Normal": lambda v: dist.Normal(v, 1.0),
    "Normal_event": lambda v: dist.Normal(jnp.stack([v, 2 * v], -1), 1.0).to_event(1),
    "OrderedLogistic": lambda v: dist.OrderedLogistic(v, jnp.array([0.5, 1.0, 2.0])),
    "Pareto": lambda v: dist.Pareto(v, 3.0),
    "Poisson": lambda v: dist.Poisson(v),
    "Poisson_large": lambda v: dist.Poisson(40 * v),
    "RelaxedBernoulli": lambda v: dist.RelaxedBernoulli(0.5, logits=v),
    "SoftLaplace": lambda v: dist.SoftLaplace(v, 1.0),
    "StudentT": lambda v: dist.StudentT(4.0, v, 1.0),
    "TruncatedNormal": lambda v: dist.TruncatedNormal(v, 1.0, low=0.0),
    "TwoSidedTruncated": lambda v: dist.TruncatedNormal(v, 1.0, low=-1.0, high=2.0),
    "Uniform": lambda v: dist.Uniform(-v, v),
    "VonMises": lambda v: dist.VonMises(v, 2.0),
    "Weibull": lambda v: dist.Weibull(v, 1.5),
    "ZeroInflatedNegativeBinomial2": lambda v: dist.ZeroInflatedNegativeBinomial2(v, 1.3, gate=0.3),
    "ZeroInflatedPoisson": lambda v: dist.ZeroInflatedPoisson(0.3, rate=v),
    "Normal_masked": lambda v: dist.Normal(v, 1.0).mask(v > 0),
}
