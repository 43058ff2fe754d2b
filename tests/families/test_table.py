"""The table of families, row by row, against SciPy: a row that lacks something has a reason."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from scipy.special import expit

from aimz import InputError
from aimz.families import (
    FAMILIES,
    Evidence,
    StateSpace,
    abduce,
    density_of,
    law_of,
    mean_of,
    replay,
)
from aimz.families.censored import log_tail
from aimz.families.discrete import Counts
from aimz.likelihoods import DriftDiffusion, Head, MixtureResponse


class Kumaraswamy(st.rv_continuous):  # type: ignore[misc]  # SciPy has no stubs
    """SciPy has none."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__(a=0.0, b=1.0)
        self.shape = a, b

    def _pdf(self, x: Any) -> Any:
        a, b = self.shape
        return a * b * x ** (a - 1) * (1 - x**a) ** (b - 1)

    def _cdf(self, x: Any) -> Any:
        a, b = self.shape
        return -np.expm1(b * np.log1p(-(x**a)))


class Diffusion:
    """SciPy has none: the series of images, and Wald's identity for the mean."""

    mean = (0.25 + (2 / (1 + np.exp(-2)) - 1) / 1, 2 / (1 + np.exp(-2)) - 1)  # of v = 1, a = 2

    def logpdf(self, value: Any) -> Any:
        time, way = value[0] - 0.25, -value[1]
        images = 1 + 4 * np.arange(-20, 21)
        waves = np.sum(images * np.exp(-(images**2) / (2 * time)))
        return -way - time / 2 + np.log(waves) - np.log(2 * np.pi * time**3) / 2


class LogLogistic:
    """A choice, and a log-logistic time of one part."""

    laws = (st.fisk(4.0, 0.25), st.fisk(2.5, 0.25, np.exp(0.5)))
    mean = (0.25 * laws[0].mean() + 0.75 * laws[1].mean(), 0.5)

    def logpdf(self, value: Any) -> Any:
        is_upper = int(value[1] > 0)
        return np.log((0.25, 0.75)[is_upper]) + self.laws[is_upper].logpdf(value[0])


def codes(shares: list[float]) -> Any:
    return st.rv_discrete(values=(range(len(shares)), shares))


CUTS, SPREAD = np.array([-1.0, 0.5]), np.array([[2.0, 0.5], [0.5, 1.0]])
SHARES = np.array([0.25, 0.375, 0.375])
ORDERED = [expit(-1.25), expit(0.25) - expit(-1.25), expit(-0.25)]
WALK = 4.0 * np.minimum.outer([1, 2, 3], [1, 2, 3])
PLANE, SPACE = [0.5, 1.0], [1.0, 2.0, 0.5]

# Of each class: the distribution, the same of SciPy, and values out to where tails are small. The
# number moves a parameter: noise is recovered at 0 and replayed at 1.
type Case = tuple[Callable[[float], Any], Any, Any]
CASES: dict[type, Case] = {
    dist.Normal: (lambda k: dist.Normal(1 + k, 2.0), lambda k: st.norm(1 + k, 2), [-9, 1, 15]),
    dist.Cauchy: (lambda k: dist.Cauchy(1 + k, 2.0), lambda k: st.cauchy(1 + k, 2), [-900, 0, 9]),
    dist.Laplace: (lambda k: dist.Laplace(1.0, 2 + k), lambda k: st.laplace(1, 2 + k), [-20, 0, 9]),
    dist.Logistic: (
        lambda k: dist.Logistic(1.0, 2 + k),
        lambda k: st.logistic(1, 2 + k),
        [-40, 0, 30],
    ),
    dist.SoftLaplace: (
        lambda k: dist.SoftLaplace(1.0 + k, 1.0),
        lambda k: st.hypsecant(1 + k),
        [-9, 0, 9],
    ),
    dist.StudentT: (
        lambda k: dist.StudentT(3.0 + k, 1.0, 2.0),
        lambda k: st.t(3 + k, 1, 2),
        [-90, 0, 200],
    ),
    dist.Gumbel: (lambda k: dist.Gumbel(1 + k, 2.0), lambda k: st.gumbel_r(1 + k, 2), [-4, 0, 20]),
    dist.AsymmetricLaplace: (
        lambda _: dist.AsymmetricLaplace(0.5, 2.0, 0.75),
        lambda _: st.laplace_asymmetric(0.75, 0.5, 2),
        [-20, 1, 30],
    ),
    dist.AsymmetricLaplaceQuantile: (
        lambda _: dist.AsymmetricLaplaceQuantile(0.0, 1.0, 0.5),
        lambda _: st.laplace(scale=2),
        [-20, 1, 30],
    ),
    dist.Levy: (lambda k: dist.Levy(1.0, 2 + k), lambda k: st.levy(1, 2 + k), [1.25, 3, 1e4]),
    dist.HalfNormal: (
        lambda k: dist.HalfNormal(2.0 + k),
        lambda k: st.halfnorm(scale=2 + k),
        [0.125, 2, 9],
    ),
    dist.HalfCauchy: (
        lambda k: dist.HalfCauchy(2.0 + k),
        lambda k: st.halfcauchy(scale=2 + k),
        [0.125, 2, 1e3],
    ),
    dist.Exponential: (
        lambda k: dist.Exponential(2.0 + k),
        lambda k: st.expon(scale=1 / (2 + k)),
        [0.125, 2, 20],
    ),
    dist.Gamma: (
        lambda k: dist.Gamma(3.5 + k, 2.0),
        lambda k: st.gamma(3.5 + k, scale=0.5),
        [0.0625, 2, 16],
    ),
    dist.Chi2: (lambda k: dist.Chi2(5.0 + k), lambda k: st.chi2(5 + k), [0.25, 4, 50]),
    dist.Weibull: (
        lambda k: dist.Weibull(2.0, 1.5 + k),
        lambda k: st.weibull_min(1.5 + k, scale=2),
        [0.0625, 1, 9],
    ),
    dist.Gompertz: (
        lambda k: dist.Gompertz(0.5 + k, 2.0),
        lambda k: st.gompertz(0.5 + k, scale=0.5),
        [0.125, 1, 2],
    ),
    dist.Dagum: (
        lambda _: dist.Dagum(2.0, 3.0, 1.5),
        lambda _: st.burr(3, 2, scale=1.5),
        [0.125, 2, 99],
    ),
    dist.Pareto: (
        lambda k: dist.Pareto(2.0, 3.0 + k),
        lambda k: st.pareto(3 + k, scale=2),
        [2.125, 3, 99],
    ),
    dist.LowerTruncatedPowerLaw: (
        lambda _: dist.LowerTruncatedPowerLaw(-3.0, 1.0),
        lambda _: st.pareto(2),
        [1.5, 3, 99],
    ),
    dist.Uniform: (
        lambda k: dist.Uniform(1.0, 3 + k),
        lambda k: st.uniform(1, 2 + k),
        [1.125, 2, 2.875],
    ),
    dist.Beta: (
        lambda k: dist.Beta(2.0 + k, 5.0),
        lambda k: st.beta(2 + k, 5),
        [0.0625, 0.5, 0.9375],
    ),
    dist.BetaProportion: (
        lambda k: dist.BetaProportion(0.25, 8.0 + k),
        lambda k: st.beta(0.25 * (8 + k), 0.75 * (8 + k)),
        [0.0625, 0.5, 0.9375],
    ),
    dist.Kumaraswamy: (
        lambda k: dist.Kumaraswamy(2.0, 3.0 + k),
        lambda k: Kumaraswamy(2.0, 3.0 + k),
        [0.0625, 0.5, 0.875],
    ),
    dist.VonMises: (lambda _: dist.VonMises(0.5, 2.0), lambda _: st.vonmises(2, 0.5), [-3, 0, 3]),
    dist.Poisson: (lambda k: dist.Poisson(4.0 + k), lambda k: st.poisson(4 + k), [0, 3, 20]),
    dist.GammaPoisson: (
        lambda k: dist.GammaPoisson(3.0 + k, 0.5),
        lambda k: st.nbinom(3 + k, 1 / 3),
        [0, 5, 40],
    ),
    dist.NegativeBinomial2: (
        lambda k: dist.NegativeBinomial2(4.0 + k, 3.0),
        lambda k: st.nbinom(3, 3 / (7 + k)),
        [0, 5, 40],
    ),
    dist.NegativeBinomialLogits: (
        lambda k: dist.NegativeBinomialLogits(3.0 + k, 0.5),
        lambda k: st.nbinom(3 + k, expit(-0.5)),
        [0, 5, 40],
    ),
    dist.NegativeBinomialProbs: (
        lambda k: dist.NegativeBinomialProbs(3.0 + k, 0.25),
        lambda k: st.nbinom(3 + k, 0.75),
        [0, 1, 12],
    ),
    dist.GeometricLogits: (
        lambda k: dist.GeometricLogits(-1.0 + k),
        lambda k: st.geom(expit(-1 + k), -1),
        [0, 3, 20],
    ),
    dist.GeometricProbs: (
        lambda k: dist.GeometricProbs(0.25 + k / 4),
        lambda k: st.geom(0.25 + k / 4, -1),
        [0, 3, 20],
    ),
    dist.BinomialLogits: (
        lambda k: dist.BinomialLogits(-1.0 + k, 9),
        lambda k: st.binom(9, expit(-1 + k)),
        [0, 3, 8],
    ),
    dist.BinomialProbs: (
        lambda k: dist.BinomialProbs(0.25 + k / 4, 9),
        lambda k: st.binom(9, 0.25 + k / 4),
        [0, 3, 8],
    ),
    dist.BetaBinomial: (
        lambda k: dist.BetaBinomial(2.0 + k, 3.0, 9),
        lambda k: st.betabinom(9, 2 + k, 3),
        [0, 3, 8],
    ),
    dist.BernoulliLogits: (
        lambda k: dist.BernoulliLogits(-1.0 + k),
        lambda k: st.bernoulli(expit(-1 + k)),
        [0, 1],
    ),
    dist.BernoulliProbs: (
        lambda k: dist.BernoulliProbs(0.25 + k / 4),
        lambda k: st.bernoulli(0.25 + k / 4),
        [0, 1],
    ),
    dist.CategoricalLogits: (
        lambda _: dist.CategoricalLogits(jnp.log(SHARES)),
        lambda _: codes([*SHARES]),
        [0, 1, 2],
    ),
    dist.CategoricalProbs: (
        lambda _: dist.CategoricalProbs(jnp.asarray(SHARES)),
        lambda _: codes([*SHARES]),
        [0, 1, 2],
    ),
    dist.OrderedLogistic: (
        lambda _: dist.OrderedLogistic(0.25, jnp.asarray(CUTS)),
        lambda _: codes(ORDERED),
        [0, 1, 2],
    ),
    dist.DiscreteUniform: (
        lambda k: dist.DiscreteUniform(-3, 8 + int(k)),
        lambda k: st.randint(-3, 9 + int(k)),
        [-3, 0, 7],
    ),
    dist.MultivariateNormal: (
        lambda _: dist.MultivariateNormal(jnp.asarray(PLANE), SPREAD),
        lambda _: st.multivariate_normal(PLANE, SPREAD),
        [[0, 1], [3, -2]],
    ),
    dist.LowRankMultivariateNormal: (
        lambda _: dist.LowRankMultivariateNormal(
            jnp.asarray(PLANE), jnp.array([[1.0], [0.5]]), jnp.array([1.0, 0.75])
        ),
        lambda _: st.multivariate_normal(PLANE, SPREAD),
        [[0, 1], [3, -2]],
    ),
    dist.MultivariateStudentT: (
        lambda _: dist.MultivariateStudentT(
            5.0, jnp.asarray(PLANE), jnp.asarray(np.linalg.cholesky(SPREAD))
        ),
        lambda _: st.multivariate_t(PLANE, SPREAD, df=5),
        [[0, 1], [3, -2]],
    ),
    dist.GaussianRandomWalk: (
        lambda _: dist.GaussianRandomWalk(2.0, 3),
        lambda _: st.multivariate_normal(np.zeros(3), WALK),
        [[0, 1, 2], [3, -2, 1]],
    ),
    StateSpace: (
        lambda _: StateSpace(
            jnp.zeros(3),
            jnp.eye(1),
            2.0 * jnp.eye(1),
            jnp.ones(1),
            1.0,
            jnp.zeros(1),
            2 * jnp.eye(1),
        ),
        lambda _: st.multivariate_normal(np.zeros(3), WALK + np.eye(3)),
        [[0, 1, 2], [3, -2, 1]],
    ),
    dist.ProjectedNormal: (
        lambda _: dist.ProjectedNormal(jnp.asarray(SPACE)),
        None,
        [[0, 0, 1], [0.6, 0, 0.8]],
    ),
    dist.Dirichlet: (
        lambda _: dist.Dirichlet(jnp.asarray(SPACE)),
        lambda _: st.dirichlet(SPACE),
        [[0.25, 0.25, 0.5], [0.125, 0.75, 0.125]],
    ),
    dist.MultinomialLogits: (
        lambda _: dist.MultinomialLogits(jnp.log(SHARES), 8),
        lambda _: st.multinomial(8, SHARES),
        [[2, 3, 3], [0, 8, 0]],
    ),
    dist.MultinomialProbs: (
        lambda _: dist.MultinomialProbs(jnp.asarray(SHARES), 8),
        lambda _: st.multinomial(8, SHARES),
        [[2, 3, 3], [0, 8, 0]],
    ),
    DriftDiffusion: (
        lambda k: DriftDiffusion(1.0 + k, 2.0, 0.5, 0.25),
        lambda _: Diffusion(),
        [[0.5, 1], [3, -1]],
    ),
    MixtureResponse: (
        lambda _: MixtureResponse(
            Head(
                jnp.log(jnp.array([0.25, 0.75])),
                jnp.zeros((2, 1)),
                jnp.array([[0.0], [0.5]]),
                jnp.array([[0.25], [0.4]]),
            ),
            jnp.array(0.25),
            (-1.0, 1.0),
            {},
            (),
        ),
        lambda _: LogLogistic(),
        [[0.5, 1], [3, -1]],
    ),
}


def params(kinds: Iterable[type]) -> list[Any]:
    return [pytest.param(kind, id=kind.__name__) for kind in kinds]


ROWS = [pytest.param(row, id=row.name) for row in FAMILIES]
# The length of the mean of a von Mises distribution is I1(2) / I0(2).
KNOWN_MEANS: dict[type, Any] = {
    dist.VonMises: [0.697774658 * np.cos(0.5), 0.697774658 * np.sin(0.5)]
}


def values_of(kind: type) -> Any:
    fn, _, values = CASES[kind]
    return np.asarray(values, int if fn(0.0).support.is_discrete else np.float32)


def has_tails(kind: type) -> bool:
    row = FAMILIES.above[kind]
    return (
        row.tails is not None or "1 minus" in row.why["tails"] or "transforms" in row.why["tails"]
    )


def is_replayed(kind: type) -> bool:
    """Whether it has noise for each value alone."""
    row = FAMILIES.above[kind]
    is_alone = not CASES[kind][0](0.0).event_dim and row.has_order
    return is_alone and (row.noise is not None or "transforms" in row.why["noise"])


@cache
def answers() -> dict[type, dict[str, Any]]:
    """Densities, tails and means of all classes, by one program."""

    def look(values: list[Any]) -> list[dict[str, Any]]:
        found = []
        for (kind, (make, *_)), value in zip(CASES.items(), values, strict=True):
            fn, of_kind = make(0.0), {}
            of_kind["density"] = density_of(fn, value)
            if has_tails(kind):
                of_kind["above"] = log_tail(fn, value, upper=True)
                of_kind["below"] = log_tail(fn, value, upper=False)
            with suppress(InputError):
                of_kind["mean"] = mean_of(fn, "y", fn.shape())
            found.append(of_kind)
        return found

    arguments = [jnp.asarray(values_of(kind)) for kind in CASES]
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    found = jax.jit(look).lower(arguments).compile(options)(arguments)
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("row", ROWS)
def test_a_row_that_lacks_something_has_a_reason(row):
    lacks = {name for name in ("noise", "tails") if getattr(row, name) is None}
    assert lacks == set(row.why)
    assert row.kinds.keys() <= CASES.keys()
    for kind in row.kinds:
        fn = CASES[kind][0](0.0)
        assert FAMILIES.of[type(fn)] is FAMILIES.above[type(fn)] is row
        is_count = fn.support.is_discrete and not fn.event_dim
        has_limit = getattr(fn.support, "upper_bound", None) is not None
        assert (row.reach is not None) == (is_count and not has_limit and not row.is_coded)
        assert (row.standard is not None) == (
            kind in dist.TwoSidedTruncatedDistribution.supported_types
        )
        assert row.is_coded == (is_count and row.reach is None)
        assert (row.noise is None) == (not row.kinds[kind])
        if isinstance(row.noise, Counts):
            assert is_count
        if row.shapes is not None:
            assert {"loc", "scale", *row.shapes} == set(row.kinds[kind])
    assert set(row.by_row) <= row.kinds.keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", params(CASES))
def test_densities_of_a_row_are_those_of_scipy(kind):
    truth, values = CASES[kind][1], values_of(kind)
    if truth is None:
        return
    given = truth(0.0)
    logs = getattr(given, "logpmf", None) or given.logpdf
    rows = logs(values) if values.ndim == 1 else [logs(np.float64(v)) for v in values]
    np.testing.assert_allclose(answers()[kind]["density"], np.ravel(rows), rtol=1e-5, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", params(filter(has_tails, CASES)))
def test_tails_of_a_row_are_those_of_scipy(kind):
    truth, values = CASES[kind][1](0.0), np.float64(values_of(kind))
    is_exact = "1 minus" not in FAMILIES.above[kind].why.get("tails", "")
    for side, logs in (("above", truth.logsf), ("below", truth.logcdf)):
        expected = logs(values)
        slack = 2e-5 if is_exact else 1e-6 * np.exp(-np.maximum(expected, -16.0))
        off = np.abs(answers()[kind][side] - expected)
        assert np.all(off <= slack * (1 + np.abs(expected))), (side, off)


@pytest.mark.slow
@pytest.mark.parametrize("kind", params(CASES))
def test_means_of_a_row_are_those_of_scipy(kind):
    truth: Any = CASES[kind][1]
    expected: Any = KNOWN_MEANS.get(kind)
    if truth is None:
        rng = np.random.default_rng(0)
        draws = rng.normal(SPACE, 1.0, (200_000, 3))
        expected = (draws / np.linalg.norm(draws, axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(answers()[kind]["mean"], expected, atol=5e-3)
        return
    if expected is None and FAMILIES.above[kind].is_of_categories:
        expected = truth(0.0).pmf([0, 1, 2])
    elif expected is None:
        given = truth(0.0)
        mean = getattr(given, "mean", None)
        expected = mean() if callable(mean) else getattr(given, "loc", mean)
    if not np.all(np.isfinite(expected)) or kind.mean is dist.Distribution.mean:
        assert "mean" not in answers()[kind]
        return
    np.testing.assert_allclose(answers()[kind]["mean"], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", params(filter(is_replayed, CASES)))
def test_replayed_noise_keeps_the_place_in_the_law(kind):
    make, truth, _ = CASES[kind]
    values = values_of(kind).astype(np.float64)
    uniform = np.linspace(0.25, 0.75, len(values))
    laws = [law_of("y", make(k).expand([len(values)]), (len(values),)) for k in (0.0, 1.0)]
    noise = abduce(Evidence(laws[0], values, uniform))
    assert noise.is_sound.all()
    back = replay(laws[0], noise)  # a zero comes back rounded
    np.testing.assert_allclose(back, values, rtol=1e-9, atol=1e-12)
    moved = replay(laws[1], noise)
    old, new = truth(0.0), truth(1.0)
    if noise.family == "discrete":
        point = old.cdf(values - 1) + uniform * old.pmf(values)
        assert np.all((new.cdf(moved - 1) < point) & (point <= new.cdf(moved)))
        return
    is_low = old.cdf(values) < 0.5
    now, then = (np.where(is_low, d.cdf(v), d.sf(v)) for d, v in ((new, moved), (old, values)))
    np.testing.assert_allclose(now, then, rtol=1e-9)
