"""Censored outcomes tell what SciPy says of their tails, however far out, and fits see it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from scipy.special import logsumexp

from aimz import ImpactModel
from aimz.families import density_of
from aimz.families.censored import log_tail


class Mixed:
    """Tails of a mixture, by those of its parts."""

    def __init__(self, shares: list[float], *parts: Any) -> None:
        self.shares, self.parts = np.array(shares), parts

    def logsf(self, x: Any) -> Any:
        return logsumexp([p.logsf(x) for p in self.parts], axis=0, b=self.shares[:, None])

    def logcdf(self, x: Any) -> Any:
        return logsumexp([p.logcdf(x) for p in self.parts], axis=0, b=self.shares[:, None])


class Cut:
    """Tails of a truncated distribution, by what of its base is between two values."""

    def __init__(self, base: Any, low: float = -np.inf, high: float = np.inf) -> None:
        self.base, self.low, self.high = base, low, high
        self.mass = self.between(low, high)

    def between(self, low: Any, high: Any) -> Any:
        above = [self.base.logsf(end) for end in (low, high)]
        below = [self.base.logcdf(end) for end in (low, high)]
        with np.errstate(divide="ignore"):
            by_above = above[0] + np.log1p(-np.exp(above[1] - above[0]))
            by_below = below[1] + np.log1p(-np.exp(below[0] - below[1]))
        return np.where(above[0] < below[1], by_above, by_below)

    def logsf(self, x: Any) -> Any:
        return self.between(x, self.high) - self.mass

    def logcdf(self, x: Any) -> Any:
        return self.between(self.low, x) - self.mass


# A family, the same of SciPy, and values from one far tail to the other.
FAMILIES: list[tuple[Any, Any, list[float]]] = [
    (dist.Exponential(2.0), st.expon(scale=0.5), [0.1, 5.0, 100.0]),
    (dist.Weibull(2.0, 1.5), st.weibull_min(1.5, scale=2.0), [0.01, 1.0, 50.0]),
    (dist.Gompertz(0.5, 2.0), st.gompertz(0.5, scale=0.5), [0.1, 1.0, 3.0]),
    (dist.Normal(1.0, 2.0), st.norm(1, 2), [-60.0, 1.0, 60.0]),
    (dist.LogNormal(0.5, 0.3), st.lognorm(0.3, scale=np.exp(0.5)), [0.01, 1.0, 200.0]),
    (dist.Logistic(1.0, 2.0), st.logistic(1, 2), [-150.0, 0.0, 300.0]),
    (dist.Cauchy(1.0, 2.0), st.cauchy(1, 2), [-1e6, 0.0, 1e7]),
    (dist.Laplace(1.0, 2.0), st.laplace(1, 2), [-100.0, 0.5, 3.0, 200.0]),
    (dist.SoftLaplace(0.0, 1.0), st.hypsecant(), [-30.0, 0.0, 18.0, 60.0]),
    (dist.StudentT(3.0, 1.0, 2.0), st.t(3, 1, 2), [-900.0, 0.0, 1e4]),
    (dist.Gamma(3.5, 2.0), st.gamma(3.5, scale=0.5), [0.01, 2.0, 30.0, 34.0, 200.0]),
    (dist.Gamma(50.0, 1.0), st.gamma(50), [30.0, 50.0, 109.0, 111.0, 300.0]),
    (dist.Gamma(0.3, 1.0), st.gamma(0.3), [0.01, 2.0, 59.0, 61.0, 300.0]),
    (dist.Chi2(5.0), st.chi2(5), [1.0, 50.0, 400.0]),
    (dist.Gumbel(1.0, 2.0), st.gumbel_r(1, 2), [-8.0, 0.0, 100.0]),
    (dist.HalfNormal(2.0), st.halfnorm(scale=2), [0.1, 2.0, 60.0]),
    (dist.HalfCauchy(2.0), st.halfcauchy(scale=2), [0.1, 2.0, 1e6]),
    (dist.Levy(1.0, 2.0), st.levy(1, 2), [1.1, 2.0, 1e5]),
    (dist.Uniform(1.0, 3.0), st.uniform(1, 2), [1.1, 2.9]),
    (dist.Beta(2.0, 5.0), st.beta(2, 5), [0.1, 0.5, 0.99]),
    (dist.Poisson(4.0), st.poisson(4), [0.0, 3.0, 30.0]),
    (dist.Pareto(1.0, 3.0), st.pareto(3), [1.5, 1e6]),
    (dist.InverseGamma(3.0, 2.0), st.invgamma(3, scale=2), [0.02, 1.0, 1e4]),
    (dist.LogUniform(1.0, 5.0), st.loguniform(1, 5), [1.5, 4.9]),
    (
        dist.AsymmetricLaplace(0.5, 2.0, 0.7),
        st.laplace_asymmetric(0.7, 0.5, 2),
        [-60.0, 3.0, 150.0],
    ),
    (dist.AsymmetricLaplaceQuantile(0.0, 1.0, 0.5), st.laplace(scale=2), [-90.0, 3.0, 90.0]),
    (dist.Dagum(2.0, 3.0, 1.5), st.burr(3, 2, scale=1.5), [0.01, 2.0, 1e4]),
    (dist.LowerTruncatedPowerLaw(-3.0, 1.0), st.pareto(2), [1.5, 1e6]),
    (
        dist.MixtureSameFamily(
            dist.Categorical(jnp.array([0.25, 0.75])), dist.Exponential(jnp.array([0.5, 2.0]))
        ),
        Mixed([0.25, 0.75], st.expon(scale=2), st.expon(scale=0.5)),
        [0.1, 5.0, 200.0],
    ),
    (
        dist.MixtureGeneral(
            dist.Categorical(logits=jnp.array([0.0, 0.0])),
            [dist.LogNormal(0.0, 0.5), dist.Weibull(3.0, 2.0)],
        ),
        Mixed([0.5, 0.5], st.lognorm(0.5), st.weibull_min(2, scale=3)),
        [0.01, 1.0, 50.0],
    ),
    (dist.TruncatedNormal(0.0, 1.0, low=-1.0), Cut(st.norm(), -1.0), [-0.5, 2.0, 40.0]),
    (dist.TruncatedNormal(0.0, 1.0, high=1.0), Cut(st.norm(), high=1.0), [-40.0, 0.0, 0.9]),
    (dist.TruncatedNormal(0.0, 1.0, low=9.0, high=30.0), Cut(st.norm(), 9.0, 30.0), [9.1, 20.0]),
    (dist.TruncatedCauchy(0.0, 1.0, low=2.0), Cut(st.cauchy(), 2.0), [2.5, 1e7]),
    (dist.TruncatedGamma(2.0, 1.0, low=1.0), Cut(st.gamma(2), 1.0), [1.5, 90.0]),
]


def single(values: Any) -> Any:
    return np.asarray(values, np.float32)


@pytest.mark.slow
def test_tails_are_those_of_scipy_in_single_precision():
    def look(values: list[Any]) -> list[Any]:
        pairs = zip(FAMILIES, values, strict=True)
        return [[log_tail(fn, v, upper=side) for side in (True, False)] for (fn, *_), v in pairs]

    found = jax.jit(look)([jnp.asarray(single(values)) for *_, values in FAMILIES])
    for (above, below), (fn, truth, values) in zip(found, FAMILIES, strict=True):
        exact = single(values).astype(float)
        name = type(fn).__name__
        np.testing.assert_allclose(above, truth.logsf(exact), 2e-5, 1e-5, err_msg=name)
        np.testing.assert_allclose(below, truth.logcdf(exact), 2e-5, 1e-5, err_msg=name)


CENSORED = jnp.array([0, 1, 0, 1, 1, 0])
TIMES = single([1.0, 200.0, 0.5, 0.0, 3.0, 2.0])
LEFT, RIGHT = jnp.array([0, 0, 0, 1, 0, 1]), jnp.array([0, 1, 0, 1, 0, 0])
ENDS = single([[1.0, 2.0], [50.0, 99.0], [0.5, 0.5], [0.1, 3.0], [2.0, 4.0], [2.0, 1.0]])


def kinds(scale: Any) -> dict[str, Any]:
    own = dist.Weibull(scale, 1.5)
    return {
        "right": (dist.RightCensoredDistribution(own, CENSORED), TIMES),
        "left": (dist.LeftCensoredDistribution(own.expand([6]), CENSORED), TIMES),
        "interval": (dist.IntervalCensoredDistribution(own, LEFT, RIGHT), ENDS),
    }


def exact_densities(scale: float = 2.0) -> dict[str, np.ndarray]:
    own = st.weibull_min(1.5, scale=scale)
    low, high = ENDS.astype(float).T
    between = np.log(np.maximum(own.cdf(high) - own.cdf(low), 1e-300))
    between[1], between[2] = own.logsf(50.0), own.logpdf(0.5)
    between[3], between[5] = np.log(own.cdf(0.1) + own.sf(3.0)), own.logcdf(1.0)
    return {
        "right": np.where(CENSORED, own.logsf(TIMES), own.logpdf(TIMES)),
        "left": np.where(CENSORED, own.logcdf(TIMES), own.logpdf(TIMES)),
        "interval": between,
    }


def test_rows_tell_what_is_beyond_where_they_are_censored():
    found = jax.jit(lambda scale: {k: density_of(*v) for k, v in kinds(scale).items()})(2.0)
    for kind, wanted in exact_densities().items():
        np.testing.assert_allclose(found[kind], wanted, 1e-5, 1e-5, err_msg=kind)


def test_rows_that_are_censored_far_out_have_a_gradient():
    def total(scale: Any) -> dict[str, Any]:
        found = {kind: density_of(*pair) for kind, pair in kinds(scale).items()}
        return {kind: jnp.where(jnp.isfinite(v), v, 0.0).sum() for kind, v in found.items()}

    found, step = jax.jit(jax.jacfwd(total))(2.0), 1e-4
    ends = [exact_densities(2.0 + sign * step) for sign in (1, -1)]
    for kind, slope in found.items():
        up, down = (np.where(np.isfinite(end[kind]), end[kind], 0.0).sum() for end in ends)
        np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-3, err_msg=kind)


# ------------------------------------------------------------------ through the library

SEEN = np.linspace(0.2, 2.0, 10)
Y = np.r_[SEEN, np.full(90, 100.0)]
GONE = np.r_[np.zeros(10, int), np.ones(90, int)]
X = np.zeros((100, 1))


def waiting(X, gone, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 3.0))
    with numpyro.plate("person", X.shape[0]):
        fn = dist.RightCensoredDistribution(dist.Exponential(rate), gone)
        numpyro.sample("y", fn, obs=y)


@pytest.mark.parametrize("first", [0.2, 0.0])
def test_a_score_counts_rows_that_are_censored_far_out_or_at_once(first):
    im = ImpactModel(waiting).set_posterior_sample({"rate": np.ones(2)})
    y = np.r_[first, Y[1:]][::-1]
    assert im.score(X, y, gone=GONE[::-1]) == pytest.approx(-y.mean(), rel=1e-5)


@pytest.mark.slow
def test_a_fit_finds_the_rate_that_most_censored_rows_ask_for():
    im = ImpactModel(waiting).fit(X, Y, gone=GONE, progress=False)
    logs = np.linspace(-12.0, 3.0, 20_001)
    density = 10 * logs - np.exp(logs) * Y.sum() - logs**2 / 18
    weights = np.exp(density - density.max())
    weights /= weights.sum()
    mean = (weights * np.exp(logs)).sum()
    sd = np.sqrt((weights * np.exp(2 * logs)).sum() - mean**2)
    assert abs(im.posterior["rate"].mean() - mean) < 0.2 * sd
    assert im.posterior["rate"].std() == pytest.approx(sd, rel=0.15)
