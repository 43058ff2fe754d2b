"""Families of distributions: densities, means, draws and limits, against SciPy."""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from numpyro import handlers
from numpyro.infer.reparam import CircularReparam

from aimz import ImpactModel, InputError, KernelValidationError
from aimz.families import density_of, faults_of, mean_of, takes, with_tails
from aimz.prediction import problem_of

X = np.zeros((3, 1))


def single(number: Any) -> Any:
    """What single precision makes of a number, in double."""
    return np.float32(number).astype(np.float64)


def around(mean: float, sd: float, *, whole: bool = True) -> np.ndarray:
    values = mean + sd * np.linspace(-2.5, 3.0, 12)
    return np.unique(np.clip(np.round(values), 0, None)) if whole else single(values)


COUNTS = [
    *[(dist.Poisson(r), st.poisson(r), around(r, r**0.5)) for r in (0.5, 50.0, 1e5, 1e7)],
    *[
        (dist.Binomial(n, probs=single(p)), st.binom(n, single(p)), around(n * p, (n * p) ** 0.5))
        for n, p in ((1000, 0.01), (10**6, 0.3), (2 * 10**7, 0.25))
    ],
    (
        dist.Binomial(2 * 10**7, logits=single(-1.0)),
        st.binom(2 * 10**7, 1 / (1 + math.e)),
        around(2e7 / (1 + math.e), 2e3),
    ),
    (
        dist.BetaBinomial(1e4, 3e4, total_count=10**5),
        st.betabinom(10**5, 1e4, 3e4),
        around(25_000, 250),
    ),
    (dist.BetaBinomial(2.0, 3.0, total_count=9), st.betabinom(9, 2, 3), np.arange(10)),
    (dist.NegativeBinomial2(1e7, 64.0), st.nbinom(64, 64 / (64 + 1e7)), around(1e7, 1e6)),
    (dist.NegativeBinomial2(5.0, 5e6), st.nbinom(5e6, 5e6 / (5 + 5e6)), np.arange(12)),
]
CONTINUOUS = [
    *[
        (dist.Gamma(a, 2.0), st.gamma(a, scale=0.5), around(a / 2, a**0.5 / 2, whole=False))
        for a in (9.0, 1e5)
    ],
    (dist.Gamma(0.5, 2.0), st.gamma(0.5, scale=0.5), single(np.array([0.01, 1.0, 3.0]))),
    (dist.Beta(1e5, 2e5), st.beta(1e5, 2e5), around(1 / 3, 9e-4, whole=False)),
    (dist.Beta(0.5, 1e4), st.beta(0.5, 1e4), single(np.array([1e-6, 1e-4, 3e-4]))),
    *[(dist.StudentT(v, 1.0, 2.0), st.t(v, 1, 2), np.arange(-6.0, 7.0)) for v in (4.0, 1e5, 1e7)],
    *[
        (
            dist.TruncatedNormal(0.0, 1.0, low=low, high=high),
            st.truncnorm(low, high),
            single(np.linspace(low, min(high, low + 1), 5)),
        )
        for low, high in ((-1.0, 2.0), (13.0, 99.0), (25.0, 26.0), (-26.0, -25.0))
    ],
]


@pytest.mark.parametrize(("fn", "truth", "values"), [*COUNTS, *CONTINUOUS])
def test_log_densities_are_those_of_scipy_in_single_precision(fn, truth, values):
    expected = truth.logpmf(values) if fn.support.is_discrete else truth.logpdf(values)
    values = values.astype(int if fn.support.is_discrete else np.float32)
    np.testing.assert_allclose(density_of(fn, jnp.asarray(values)), expected, atol=1e-3, rtol=1e-6)


@pytest.mark.parametrize(
    ("fn", "value", "expected"),
    [
        (dist.Exponential(2.0), 0.0, np.log(2.0)),
        (dist.HalfNormal(1.0), 0.0, st.halfnorm.logpdf(0)),
        (dist.HalfCauchy(1.0), 0.0, st.halfcauchy.logpdf(0)),
        (dist.Gamma(2.0, 1.0), 0.0, -np.inf),
        (dist.Gamma(1.0, 2.0), 0.0, st.gamma(1, scale=0.5).logpdf(0)),
        (dist.Gamma(jnp.array([1.0, 2.0]), 2.0), [0.0, 0.0], [np.log(2.0), -np.inf]),
        (dist.Chi2(2.0), 0.0, st.chi2(2).logpdf(0)),
        (dist.Weibull(2.0, 1.0), 0.0, st.weibull_min(1, scale=2.0).logpdf(0)),
        (dist.Weibull(1.0, 2.0), 0.0, -np.inf),
        (dist.Beta(3.0, 1.0), 1.0, st.beta(3, 1).logpdf(1)),
        (dist.Pareto(2.0, 3.0), 2.0, st.pareto(3, scale=2.0).logpdf(2)),
        (dist.Dirichlet(jnp.ones(3)), [0.0, 0.5, 0.5], st.dirichlet.logpdf([0, 0.5, 0.5], [1] * 3)),
        (dist.Dirichlet(jnp.array([2.0, 1.0])), [0.0, 1.0], -np.inf),
        (dist.Beta(2.0, 3.0), 1.0, -np.inf),
        (dist.Beta(1.0, 3.0), 0.0, np.log(3.0)),
        (dist.LogNormal(0.0, 1.0), 0.0, -np.inf),
        (dist.InverseGamma(2.0, 1.0), 0.0, -np.inf),
        (dist.Exponential(1.0), -1.0, -np.inf),
        (dist.Uniform(0.0, 1.0), 3.0, -np.inf),
        (dist.Poisson(1.0), 2.5, -np.inf),
        (dist.Binomial(3, probs=0.5), 5, -np.inf),
        (dist.Bernoulli(probs=0.5), 2, -np.inf),
        (dist.Exponential(1.0).expand([2]).to_event(1), [0.0, 1.0], -1.0),
        (dist.Exponential(1.0).mask(False), -1.0, 0.0),
        (dist.Gamma(1.0, 2.0), 0.0, np.log(2.0)),
        (dist.Chi2(2.0), 0.0, np.log(0.5)),
        (dist.Weibull(2.0, 1.0), 0.0, np.log(0.5)),
        (dist.Weibull(2.0, 2.0), 0.0, -np.inf),
        (dist.Pareto(1.0, 2.0), [0.5, 1.0, 2.0], st.pareto.logpdf([0.5, 1.0, 2.0], 2)),
        (dist.Kumaraswamy(1.0, 1.0), [0.0, 1.0], [0.0, 0.0]),
        (dist.Dirichlet(jnp.ones(3)), [0.0, 0.5, 0.5], np.log(2.0)),
        (dist.Dirichlet(jnp.full(3, 2.0)), [0.0, 0.5, 0.5], -np.inf),
    ],
)
def test_log_densities_on_and_beyond_the_border(fn, value, expected):
    density = jax.jit(lambda value: density_of(fn, value))(jnp.asarray(value))
    np.testing.assert_allclose(density, expected, rtol=1e-6)


@pytest.mark.slow
def test_exact_densities_have_the_right_gradients():
    counts = jnp.array([0, 3, 10])
    by_rate = jax.grad(lambda rate: density_of(dist.Poisson(rate), counts).sum())
    by_logit = jax.grad(lambda x: density_of(dist.Binomial(10, logits=x), counts).sum())
    np.testing.assert_allclose(by_rate(5.0), 13 / 5 - 3, rtol=1e-5)
    np.testing.assert_allclose(by_logit(0.5), 13 - 30 / (1 + np.exp(-0.5)), rtol=1e-5)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        pytest.param(-1.0, 2.0, marks=pytest.mark.slow),
        pytest.param(13.0, np.inf, marks=pytest.mark.slow),
        (25.0, np.inf),
        (25.0, 26.0),
        (-np.inf, -20.0),
    ],
)
def test_truncated_normals_are_right_in_their_tails(low, high):
    ends = [None if np.isinf(end) else end for end in (low, high)]
    fn, truth = dist.TruncatedNormal(0.0, 1.0, low=ends[0], high=ends[1]), st.truncnorm(low, high)
    draws = np.asarray(with_tails(fn.expand([4000]))(rng_key=jax.random.key(1)), np.float64)
    assert st.kstest(draws, truth.cdf).pvalue > 1e-4
    with jax.enable_x64(True):
        exact = dist.TruncatedNormal(0.0, 1.0, low=ends[0], high=ends[1])
        np.testing.assert_allclose(mean_of(exact, "y", ()), truth.mean(), rtol=1e-8)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (dist.Categorical(logits=jnp.log(jnp.array([1.0, 3.0]))), [0.25, 0.75]),
        (dist.RightCensoredDistribution(dist.Weibull(2.0, 1.0), jnp.array(1)), 2.0),
        (dist.HurdlePoisson(0.25, 2.0), 0.75 * 2 / (1 - np.exp(-2))),
        (dist.VonMises(3.0, 1e6), [np.cos(3.0), np.sin(3.0)]),
        (
            dist.MixtureSameFamily(
                dist.Categorical(probs=jnp.array([0.25, 0.75])),
                dist.VonMises(jnp.array([0.0, np.pi / 2]), 1e6),
            ),
            [0.25, 0.75],
        ),
        (dist.ProjectedNormal(jnp.array([1e3, 0.0])), [1.0, 0.0]),
        (dist.ProjectedNormal(jnp.array([3.0, 1.0])), [0.8960, 0.2987]),
        (dist.ProjectedNormal(jnp.array([1.0, 2.0, -0.5])), [0.3570, 0.7131, -0.1783]),
        (
            dist.TransformedDistribution(
                dist.Exponential(0.5), dist.transforms.AffineTransform(1.0, 3.0)
            ),
            7.0,
        ),
        (dist.Poisson(2.0).mask(False).expand([2]), [2.0, 2.0]),
    ],
)
def test_means_are_what_averages_of_draws_tend_to(fn, expected):
    found = mean_of(fn, "y", fn.shape())
    np.testing.assert_allclose(found, expected, rtol=3e-3, atol=1e-6)


FAULTS: list[tuple[Callable[[Any], Any], Any, list[int]]] = [
    (lambda v: dist.Normal(0.0, v), [1.0, -1.0, np.nan], [0, 1, 1]),
    (lambda v: dist.Normal(v, 1.0), [1.0, np.nan, np.inf], [0, 1, 0]),
    (lambda v: dist.Normal(0.0, v), [1.0, 0.0, 1e-30], [0, 0, 0]),
    (lambda v: dist.Poisson(v), [0.0, -1e-9, 3.0], [0, 1, 0]),
    (lambda v: dist.Bernoulli(probs=v), [1.4, 1.000001, -1e-7], [1, 0, 0]),
    (lambda v: dist.Bernoulli(logits=v), [np.inf, np.nan, -np.inf], [0, 1, 0]),
    (lambda v: dist.LogNormal(0.0, v), [1.0, -2.0, 1.0], [0, 1, 0]),
    (lambda v: dist.NegativeBinomial2(v, 3.0), [1.0, -2.0, 1.0], [0, 1, 0]),
    (lambda v: dist.ZeroInflatedPoisson(0.3, v), [1.0, -1.0, 1.0], [0, 1, 0]),
    (lambda v: dist.HurdlePoisson(v, 2.0), [0.5, -1.0, 1.5], [0, 1, 1]),
    (lambda v: dist.TruncatedNormal(0.0, v, low=0.0), [1.0, -1.0, 1.0], [0, 1, 0]),
    (lambda v: dist.Uniform(v, 1.0), [0.0, 2.0, 1.0], [0, 1, 0]),
    (lambda v: dist.Binomial(v, probs=0.5), [3.0, -1.0, 2.5], [0, 1, 1]),
    (lambda v: dist.Normal(0.0, v).mask(v > 0), [1.0, -1.0, 2.0], [0, 0, 0]),
    (lambda v: dist.Categorical(probs=v), [[0.5, 0.5], [0.7, 0.5], [0.3333, 0.6667]], [0, 1, 0]),
    (lambda v: dist.OrderedLogistic(jnp.zeros(3), v), [[1.0, 2], [2, 1], [1, 1]], [0, 1, 0]),
    (lambda v: dist.Normal(0.0, v).to_event(1), [[1.0, 2], [1, -1], [1, 1]], [0, 1, 0]),
    (
        lambda v: dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(0.0, v)),
        [[1.0, 2], [1, -1], [1, 1]],
        [0, 1, 0],
    ),
    (
        lambda v: dist.MultivariateNormal(jnp.zeros((3, 2)), covariance_matrix=v),
        [np.eye(2), -np.eye(2), 2 * np.eye(2)],
        [0, 1, 0],
    ),
]


def test_parameters_outside_their_constraints_are_found_row_by_row():
    def look(values: list[Any]) -> list[Any]:
        made = [make(v) for (make, *_), v in zip(FAULTS, values, strict=True)]
        return [faults_of(fn, fn.shape(), 0).code > 0 for fn in made]

    found = jax.jit(look)([jnp.asarray(np.array(values)) for _, values, _ in FAULTS])
    for got, (_, values, expected) in zip(found, FAULTS, strict=True):
        assert got.tolist() == [bool(n) for n in expected], values


# ------------------------------------------------------------------ through the library


def model(make: Callable[[Any, Any], Any], **draws: Any) -> ImpactModel:
    """A kernel whose outcome is `make(b, t)`, and draws of b."""

    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", make(b, t), obs=y)

    return ImpactModel(kernel).set_posterior_sample(draws or {"b": np.ones(4)})


def calls(im: ImpactModel, t: np.ndarray) -> dict[str, Callable[[], Any]]:
    scenarios: dict[str, Any] = {"none": {"t": 0.5}, "some": {"t": t}}
    options: dict[str, Any] = {"store": "memory", "progress": False, "t": t}
    return {
        "predict": lambda: im.predict(X, **options),
        "prior": lambda: im.sample_prior_predictive(X, **options),
        "density": lambda: im.log_likelihood(X, np.ones(3), **options),
        "score": lambda: im.score(X, np.ones(3), t=t),
        "mean": lambda: im.effect(X, scenarios=scenarios, t=t, progress=False),
        "outcomes": lambda: im.effect(
            X, scenarios=scenarios, t=t, progress=False, target="prediction"
        ),
    }


@pytest.mark.parametrize(
    "call",
    [
        "predict",
        "density",
        "mean",
        "outcomes",
        *(pytest.param(call, marks=pytest.mark.slow) for call in ("prior", "score")),
    ],
)
def test_a_scale_below_zero_is_refused_wherever_it_is_used(call):
    im = model(lambda b, t: dist.Normal(b, t))
    with pytest.raises(InputError, match=r"'y' .* scale = -2 in row 1") as caught:
        calls(im, np.array([1.0, -2.0, 1.0]))[call]()
    assert caught.value.code == "parameters"
    calls(im, np.array([1.0, 2.0, 0.5]))[call]()


def test_rows_that_are_not_asked_about_may_have_any_parameters():
    im, t = model(lambda b, t: dist.Normal(b * t, t)), np.array([1.0, -2.0, 1.0])
    scenarios = {"none": {"t": np.abs(t)}, "some": {"t": t}}
    effect = im.effect(X, scenarios=scenarios, weights=[1.0, 0.0, 1.0], t=t, progress=False)
    np.testing.assert_array_equal(effect.draws, 0.0)


def test_sites_that_are_not_asked_for_are_not_checked():
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        mu = numpyro.deterministic("mu", b * t)
        numpyro.sample("y", dist.Normal(mu, t), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(4)})
    tree = im.predict_on_batch(X, t=np.array([1.0, -2.0, 1.0]), return_sites=["mu"])
    assert tree.posterior_predictive["mu"].values[0, 0].tolist() == [1.0, -2.0, 1.0]


def test_effects_keep_the_digits_that_single_precision_has_not():
    im, t = model(lambda b, t: dist.Normal(1e7 + 0.3 * b * t, 1.0)), np.array([0.0, 1.0, 0.0])
    effect = im.effect(X, {"t": 0}, {"t": 1}, t=t, progress=False)
    np.testing.assert_allclose(effect.draws, 0.3, rtol=1e-6)
    replayed = im.effect(
        X, {"t": 0}, {"t": 1}, t=t, y=np.full(3, 1e7), rung="counterfactual", progress=False
    )
    np.testing.assert_allclose(replayed.draws, 0.3, rtol=1e-6)


def test_log_likelihoods_of_large_counts_are_exact():
    im = model(lambda b, t: dist.Poisson(jnp.exp(b + 0.0 * t)), b=np.full(2, np.log(1e7)))
    y, rate = np.array([9_990_000, 10_000_000, 10_008_000]), np.exp(single(np.log(1e7)))
    tree = im.log_likelihood(X, y, t=np.zeros(3), store="memory", progress=False)
    found = tree.log_likelihood["y"].values[0]
    np.testing.assert_allclose(found, [st.poisson(rate).logpmf(y)] * 2, atol=1e-4)


def test_draws_beyond_32_bits_are_refused():
    fn = dist.NegativeBinomial2(jnp.array([10.0, 5e8, 3e9]), 0.5)
    found = jax.jit(lambda fn: faults_of(fn, (3,), 0, is_drawn=True).code)(fn)
    assert found.tolist()[0] == 0
    assert all(code > 0 for code in found.tolist()[1:])
    im = model(lambda b, t: dist.Geometric(probs=b * 1e-9 + 0.0 * t))
    with pytest.raises(InputError, match="32 bits") as caught:
        im.predict_on_batch(X, t=np.zeros(3))
    assert caught.value.code == "cast-overflow"


# ------------------------------------------------------------------ outcomes

N = np.array([3, 3, 4])
CODED: list[tuple[Callable[[Any], Any], Any, str]] = [
    (lambda b: dist.Bernoulli(logits=b), [0, 1, 2], "2 in row 2"),
    (lambda b: dist.Bernoulli(logits=b), [0.0, 1.0, 1.0], ""),
    (lambda b: dist.Poisson(jnp.exp(b)), [0, 1, -1], "-1 in row 2"),
    (lambda b: dist.Poisson(jnp.exp(b)), [0.0, 2.5, 1.0], "2.5 in row 1"),
    (lambda b: dist.Poisson(jnp.exp(b)), [0.0, 2.0, 1.0], ""),
    (lambda b: dist.Poisson(jnp.exp(b)).mask(N == 3), [0, 2, -1], ""),
    (lambda b: dist.Categorical(logits=jnp.stack([b, b, b])), [1, 2, 3], "3 in row 2"),
    (lambda b: dist.OrderedLogistic(b, jnp.array([0.0, 1.0])), [0, 3, 2], "3 in row 1"),
    (lambda b: dist.Binomial(3, logits=b), [5, 4, 3], "5 in row 0 .2 such values"),
    (lambda b: dist.Binomial(jnp.asarray(N), logits=b), [3, 4, 4], "from 0 to 3"),
    (lambda b: dist.Binomial(jnp.asarray(N), logits=b), [3, 3, 4], ""),
    (lambda b: dist.ZeroInflatedPoisson(0.3, jnp.exp(b)), [0, 1, -2], "-2 in row 2"),
    (lambda b: dist.HurdleGamma(0.3, jnp.exp(b), 1.0), [0.0, 1.0, 2.0], ""),
    (lambda b: dist.Beta(jnp.exp(b), 2.0), [0.0, 0.5, 0.5], "0 in row 0"),
    (lambda b: dist.Beta(jnp.exp(b), 2.0), [0.1, 0.5, 0.9], ""),
    (lambda b: dist.Gamma(jnp.exp(b), 2.0), [0.1, 0.0, 0.9], "numbers above 0"),
    (lambda b: dist.Exponential(jnp.exp(b)), [0.1, 0.0, 0.9], ""),
    (lambda b: dist.LogNormal(b, 1.0), [0.1, -1.0, 0.9], "-1 in row 1"),
    (lambda b: dist.TruncatedNormal(b, 1.0, low=0.0), [0.0, 1.0, -1.0], "of at least 0"),
    (lambda b: dist.Uniform(0.0, jnp.exp(b)), [0.0, 9.0, 1.0], ""),
    (lambda b: dist.VonMises(b, 1.0), [0.0, 6.0, 1.0], ""),
    (lambda b: dist.Multinomial(3, probs=jnp.ones(2) / 2), [[1, 2], [2, 2], [0, 3]], "trials"),
    (
        lambda b: dist.Dirichlet(jnp.exp(b) * jnp.ones(2)),
        [[0.5, 0.5], [0.2, 0.2], [0.3, 0.7]],
        "to 1",
    ),
    (
        lambda b: dist.Poisson(jnp.exp(b) * jnp.ones(2)).to_event(1),
        [[1, 2], [0, -1], [0, 3]],
        "vectors of whole numbers of at least 0",
    ),
]


@pytest.mark.parametrize(("make", "y", "complaint"), CODED)
def test_outcomes_that_a_family_cannot_take_are_refused_before_a_fit(make, y, complaint):
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("o", X.shape[0]):
            numpyro.sample("y", make(b), obs=y)

    def look() -> Any:
        return problem_of(kernel, ("X", "y"), {"X": X, "y": np.array(y)}, None, "raise")

    if not complaint:
        look()
        return
    with pytest.raises(InputError, match=complaint) as caught:
        look()
    assert caught.value.code == "outcome-support"


def test_outcomes_that_a_family_cannot_take_have_no_likelihood():
    im = model(lambda b, t: dist.Bernoulli(logits=b + t))
    with pytest.raises(InputError, match="0 and 1"):
        im.score(X, np.array([0, 1, 2]), t=np.zeros(3))
    im = model(lambda b, t: dist.Exponential(b + t))
    np.testing.assert_allclose(im.score(X, np.array([0.0, 1.0, 2.0]), t=np.zeros(3)), -1.0)


# ------------------------------------------------------------------ angles and categories


@pytest.mark.parametrize("target", ["expectation", "prediction"])
def test_a_difference_of_angles_is_a_turn(target):
    im = model(lambda b, t: dist.VonMises(b + 0.4 * t, 1e4), b=np.full(200, 3.0))
    effect = im.effect(X, {"t": 0}, {"t": 1}, t=np.zeros(3), target=target, progress=False)
    np.testing.assert_allclose(effect.draws.mean(), 0.4, atol=5e-3)
    np.testing.assert_allclose(effect.averages[1].mean(), 3.4 - 2 * np.pi, atol=5e-3)
    with pytest.raises(InputError) as caught:
        im.effect(X, {"t": 0}, {"t": 1}, t=np.zeros(3), comparison="ratio", progress=False)
    assert caught.value.code == "not-quantity"


ANGLES: dict[str, tuple[Callable[..., Any], Any]] = {
    "event": (
        lambda b, t: dist.VonMises(jnp.stack([b + 0.4 * t, b + 0.2 * t], -1), 1e4).to_event(1),
        [0.4, 0.2],
    ),
    "masked": (lambda b, t: dist.VonMises(b + 0.4 * t, 1e4).mask(t > -1), 0.4),
}


@pytest.mark.parametrize("name", ANGLES)
def test_a_difference_of_angles_is_a_turn_whatever_wraps_them(name):
    make, expected = ANGLES[name]
    im = model(make, b=np.full(2, 3.0))
    effect = im.effect(X, {"t": 0}, {"t": 1}, t=np.zeros(3), progress=False)
    np.testing.assert_allclose(effect.draws[0, 0], expected, rtol=1e-5)


NO_MEANS: dict[str, Callable[..., Any]] = {
    "two angles": lambda b, t: dist.SineBivariateVonMises(
        b + t, b + 0.0 * t, phi_concentration=1.0, psi_concentration=1.0, correlation=0.0
    ),
    "moved": lambda b, t: dist.TransformedDistribution(
        dist.VonMises(b + t, 1.0), dist.transforms.AffineTransform(0.0, 2.0)
    ),
}


@pytest.mark.parametrize("name", NO_MEANS)
def test_angles_without_a_known_mean_are_no_numbers(name):
    fn = NO_MEANS[name](jnp.zeros(()), jnp.ones(3))
    with pytest.raises(InputError, match="has no mean that is known") as caught:
        mean_of(fn, "y", (*fn.batch_shape, *fn.event_shape))
    assert caught.value.code == "no-mean"


def test_a_category_or_an_angle_that_is_set_is_known():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("rows", X.shape[0]):
            a = numpyro.sample("a", dist.VonMises(b, 4.0))
            logits = jnp.stack([a, 0 * a], -1)
            numpyro.sample("y", dist.Categorical(logits=logits), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"b": np.zeros(2), "a": np.ones((2, 3))})
    found = im.effect(X, {"y": 0}, {"y": 1}, progress=False).draws
    np.testing.assert_array_equal(found[0, 0], [-1.0, 1.0])
    found = im.effect(X, {"a": 3.0}, {"a": 3.4}, site="a", progress=False).draws
    np.testing.assert_allclose(found, 0.4, rtol=1e-5)


def test_outcomes_of_categories_are_averaged_as_shares():
    def make(b: Any, t: Any) -> Any:
        return dist.Categorical(logits=jnp.stack([b - 50.0 * t, -99.0 + 0.0 * t, 0.0 * t], -1))

    im = model(make, b=np.zeros(400))
    options: dict[str, Any] = {"t": np.zeros(3), "progress": False}
    drawn = im.effect(X, {"t": 0}, {"t": 1}, target="prediction", **options)
    np.testing.assert_allclose(drawn.draws.mean(("chain", "draw")), [-0.5, 0, 0.5], atol=0.05)
    y = np.array([0, 2, 2])
    seen = im.effect(X, {"t": 0}, {"t": 1}, rung="counterfactual", y=y, **options)
    expected = np.tile([-1 / 3, 0.0, 1 / 3], (1, 400, 1))
    np.testing.assert_allclose(seen.draws, expected, atol=1e-12)


def test_odds_of_probabilities_near_1_keep_their_digits():
    im = model(lambda b, t: dist.Bernoulli(logits=b + t), b=np.full(4, 15.0))
    effect = im.effect(
        X, {"t": 0}, {"t": 1}, t=np.zeros(3), comparison="odds_ratio", progress=False
    )
    np.testing.assert_allclose(effect.draws, math.e, rtol=1e-6)


# ------------------------------------------------------------------ draws set by hand


EYE = np.eye(2)
PARTED = np.array([[1.0, 2.0], [2.0, 1.0]])


@pytest.mark.parametrize(
    ("fn", "taken", "refused"),
    [
        (dist.Uniform(0.0, 1.0), 1.0, 1.5),
        (dist.Uniform(np.zeros(2), np.array([1.0, 3.0])), [1.0, 2.5], [1.5, 2.5]),
        (dist.LogNormal(0.0, 1.0), 0.0, -1e-3),
        (dist.HalfNormal(np.ones(2)).to_event(1), [0.0, 1.0], [1.0, -1.0]),
        (dist.Beta(2.0, 2.0), 1.0 + 1e-7, 1.2),
        (dist.VonMises(0.0, 1.0), 7.0, np.nan),
        (dist.Dirichlet(np.ones(2)), [0.3, 0.70001], [0.3, 0.8]),
        (dist.ProjectedNormal(np.ones(2)), [0.6, 0.8], [0.6, 0.9]),
        (dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)), [0.0, 1.0], [1.0, 0.0]),
        (dist.LKJCholesky(2, 1.0), EYE, 2 * EYE),
        (dist.LKJ(2, 1.0), EYE, PARTED),
        (dist.Wishart(3.0, scale_matrix=EYE), 1e4 * (EYE + 1e-8), PARTED),
        (dist.Poisson(1.0), 3, -1),
        (dist.Categorical(probs=np.ones(3) / 3), 2, 3),
    ],
)
def test_supports_take_what_they_should(fn, taken, refused):
    assert np.all(takes(fn.support, np.asarray(taken)))
    assert not np.all(takes(fn.support, np.asarray(refused)))


@pytest.mark.parametrize(
    ("fn", "usual", "odd"),
    [
        (dist.Uniform(np.zeros(2), np.array([1.0, 3.0])), [0.5, 2.5], [1.5, 2.5]),
        (dist.Dirichlet(np.ones(2)), [0.3, 0.7], [0.3, 0.8]),
    ],
)
def test_one_draw_outside_the_support_of_its_site_is_refused(fn, usual, odd):
    def kernel(X, y=None):
        a = numpyro.sample("a", fn)
        numpyro.sample("y", dist.Normal(a.sum() + 0.0 * X[:, 0], 1.0), obs=y)

    draws = np.tile(usual, (6, 1))
    draws[4] = odd
    im = ImpactModel(kernel).set_posterior_sample({"a": draws}, num_chains=2)
    with pytest.raises(InputError, match=r"'a' hold .* \(chain 1, draw 1\), outside") as caught:
        im.predict_on_batch(X)
    assert caught.value.code == "draws-support"


# ------------------------------------------------------------------ kernels in handlers


def level(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    numpyro.sample("y", dist.Normal(a + 0.0 * X[:, 0], 1.0), obs=y)


def test_a_seeded_kernel_draws_as_the_kernel_does():
    values = [
        ImpactModel(kernel)
        .set_posterior_sample({"a": np.zeros(3)})
        .predict_on_batch(X, rng_key=1)
        .posterior_predictive["y"]
        .values
        for kernel in (level, handlers.seed(level, 0))
    ]
    np.testing.assert_array_equal(*values)


@pytest.mark.parametrize(
    "kernel",
    [
        handlers.substitute(level, {"a": 1.5}),
        handlers.substitute(level, substitute_fn=lambda site: 1.5 if site["name"] == "a" else None),
        handlers.replay(level, handlers.trace(handlers.seed(level, 0)).get_trace(X)),
    ],
    ids=["substitute", "substitute-fn", "replay"],
)
def test_latents_that_a_handler_of_the_kernel_sets_are_refused(kernel):
    with pytest.raises(KernelValidationError, match="sets site 'a'") as caught:
        ImpactModel(kernel).set_posterior_sample({"a": np.zeros(3)}).predict_on_batch(X)
    assert caught.value.code == "site-substituted"


# ------------------------------------------------------------------ no sampler


class Tilted(dist.Distribution):  # type: ignore[misc]  # NumPyro has no stubs
    """A normal distribution that knows its density only."""

    arg_constraints = {"loc": dist.constraints.real}
    support = dist.constraints.real

    def __init__(self, loc: Any) -> None:
        self.loc = loc
        super().__init__(jnp.shape(loc), ())

    def log_prob(self, value: Any) -> Any:
        return dist.Normal(self.loc, 1.0).log_prob(value)


def tilted(X, y=None):
    a = numpyro.sample("a", Tilted(0.0))
    b = numpyro.deterministic("b", 2 * a)
    numpyro.sample("y", Tilted(b + 0.0 * X[:, 0]), obs=y)


def test_an_outcome_without_a_sampler_has_a_likelihood_and_no_draws():
    im = ImpactModel(tilted).set_posterior_sample({"a": np.ones(2)})
    y = np.arange(3.0)
    found = im.log_likelihood(X, y, store="memory", progress=False).log_likelihood["y"].values
    np.testing.assert_allclose(found[0], [st.norm(2.0).logpdf(y)] * 2, rtol=1e-6)
    with pytest.raises(InputError, match="'y' cannot be drawn from Tilted") as caught:
        im.predict_on_batch(X)
    assert caught.value.code == "no-sampler"


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["svi", "nuts"])
def test_a_custom_distribution_without_a_sampler_fits(inference):
    y = np.array([1.0, 3.0, 5.0])
    im = ImpactModel(tilted, rng_key=0, inference=inference).fit(X, y, progress=False)
    np.testing.assert_allclose(im.posterior["a"].mean(), 18 / 13, atol=0.05)
    np.testing.assert_allclose(im.posterior["a"].std(), 13**-0.5, rtol=0.15)


def flat(X, y=None):
    a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(a + 0.0 * X[:, 0], 1.0), obs=y)


@pytest.mark.parametrize("inference", ["svi", pytest.param("nuts", marks=pytest.mark.slow)])
def test_a_prior_without_a_sampler_fits(inference):
    y = np.arange(5.0)
    im = ImpactModel(flat, inference=inference).fit(np.zeros((5, 1)), y, progress=False)
    np.testing.assert_allclose(im.posterior["a"].mean(), 2.0, atol=0.1)
    np.testing.assert_allclose(im.posterior["a"].std(), 5**-0.5, rtol=0.15)
    assert im.predict_on_batch(np.zeros((2, 1))).posterior_predictive["y"].shape[-1] == 2


def test_drawing_from_a_prior_without_a_sampler_is_refused_by_name():
    with pytest.raises(InputError, match="'a'") as caught:
        ImpactModel(flat).sample_prior_predictive(np.zeros((5, 1)), progress=False)
    assert caught.value.code == "no-sampler"


@pytest.mark.filterwarnings("ignore:The posterior has another mode", "ignore:The chains have not")
@pytest.mark.slow
@pytest.mark.parametrize("inference", ["svi", "nuts"])
def test_an_angle_that_is_unwrapped_fits_and_predicts(inference):
    """Turns are modes of the unwrapped angle, which is said; the angle itself is von Mises."""

    def kernel(X, y=None):
        with handlers.reparam(config={"theta": CircularReparam()}):
            theta = numpyro.sample("theta", dist.VonMises(0.0, 2.0))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.VonMises(theta, 5.0), obs=y)

    y = np.random.default_rng(0).vonmises(2.8, 5.0, 12)
    posterior = 2.0 + 5.0 * np.exp(1j * y).sum()
    im = ImpactModel(kernel, rng_key=0, inference=inference).fit(
        np.zeros((12, 1)), y, progress=False
    )
    got = im.predict_on_batch(np.zeros((2, 1)), return_datatree=False)
    turns = np.angle(np.exp(1j * np.asarray(got["theta"], float)) / posterior)
    assert turns.mean() == pytest.approx(0.0, abs=0.2 * abs(posterior) ** -0.5)
    assert turns.std() == pytest.approx(abs(posterior) ** -0.5, rel=0.1)
    outcomes = np.exp(1j * np.asarray(got["y"], float)).mean() / posterior
    assert np.angle(outcomes) == pytest.approx(0.0, abs=0.05)


@pytest.mark.slow
def test_a_hurdle_of_counts_has_effects():
    def kernel(X, t, y=None):
        m = numpyro.sample("m", dist.LogNormal())
        law = dist.HurdleNegativeBinomial2(gate=0.4, mean=m * (1 + t), concentration=2.0)
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", law, obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"m": np.full(100, 3.0)})
    rows = {"X": np.zeros((200, 1)), "t": np.zeros(200)}
    effect = im.effect(
        rows["X"], {"t": 0.0}, {"t": 1.0}, t=rows["t"], target="prediction", progress=False
    )
    means = [0.6 * m / (1 - (2 / (2 + m)) ** 2) for m in (3.0, 6.0)]
    error = 4 * np.sqrt(2 * 40.0 / (200 * 100))  # a variance below 40 in either arm
    assert abs(float(effect.draws.mean()) - (means[1] - means[0])) < error


def cut_student(X, y=None):
    s = numpyro.sample("s", dist.LogNormal(0.0, 0.1))
    with numpyro.plate("rows", X.shape[0]):
        law = dist.LeftTruncatedDistribution(dist.StudentT(4.0, 0.0, s), low=0.5)
        numpyro.sample("y", law, obs=y)


def test_a_cut_student_t_has_densities_and_is_drawn_only_where_its_quantiles_are_there():
    X, y, s = np.zeros((3, 1)), np.array([0.6, 1.0, 9.0]), np.array([0.5, 2.0])
    im = ImpactModel(cut_student).set_posterior_sample({"s": s})
    tree = im.log_likelihood(X, y, progress=False)
    law = st.t(4, scale=s[:, None])
    exact = law.logpdf(y) - law.logsf(0.5)
    np.testing.assert_allclose(tree.log_likelihood["y"][0], exact, atol=1e-4)
    if importlib.util.find_spec("tensorflow_probability") is None:
        with pytest.raises(InputError) as caught:
            im.predict(X, progress=False)
        assert caught.value.code == "no-sampler"
