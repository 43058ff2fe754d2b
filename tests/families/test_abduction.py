"""The noise behind outcomes: replayed where it came from it gives the outcome back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from numpyro.distributions import transforms
from scipy.special import softmax

from aimz import InputError
from aimz.families import Evidence, abduce, coupling_of, law_of, replay, success_of

ROWS = 4_000
RNG = np.random.default_rng(0)


def wide(low: float, high: float) -> Any:
    """Parameters that differ between rows."""
    return RNG.uniform(low, high, ROWS).astype(np.float32)


LOC, SCALE = wide(-50, 50), wide(0.1, 5)
CONTINUOUS: dict[str, Any] = {
    "normal": dist.Normal(LOC, SCALE),
    "laplace": dist.Laplace(LOC, SCALE),
    "logistic": dist.Logistic(LOC, SCALE),
    "cauchy": dist.Cauchy(LOC, SCALE),
    "gumbel": dist.Gumbel(LOC, SCALE),
    "soft-laplace": dist.SoftLaplace(LOC, SCALE),
    "levy": dist.Levy(LOC, SCALE),
    "student-t": dist.StudentT(wide(2, 30), LOC, SCALE),
    "half-normal": dist.HalfNormal(SCALE),
    "half-cauchy": dist.HalfCauchy(SCALE),
    "exponential": dist.Exponential(SCALE),
    "uniform": dist.Uniform(LOC, LOC + SCALE),
    "weibull": dist.Weibull(SCALE, wide(0.3, 4)),
    "gompertz": dist.Gompertz(SCALE, wide(0.2, 2)),
    "kumaraswamy": dist.Kumaraswamy(wide(0.5, 4), wide(0.5, 4)),
    "gamma": dist.Gamma(wide(0.2, 50), SCALE),
    "chi2": dist.Chi2(wide(1, 30)),
    "inverse-gamma": dist.InverseGamma(wide(1, 20), SCALE),
    "beta": dist.Beta(wide(0.5, 10), wide(0.5, 10)),
    "beta-proportion": dist.BetaProportion(wide(0.1, 0.9), wide(2, 20)),
    "log-normal": dist.LogNormal(0.1 * LOC, 0.2 * SCALE),
    "log-uniform": dist.LogUniform(SCALE, 2 * SCALE),
    "pareto": dist.Pareto(SCALE, wide(1, 5)),
    "truncated normal": dist.TruncatedNormal(LOC, SCALE, low=LOC - SCALE, high=LOC + 2 * SCALE),
    "far truncated normal": dist.TruncatedNormal(0.0 * LOC, SCALE / SCALE, low=6.0),
    "right truncated logistic": dist.RightTruncatedDistribution(
        dist.Logistic(LOC, SCALE), high=LOC - SCALE
    ),
    "softplus of a normal": dist.TransformedDistribution(
        dist.Normal(LOC / 10, SCALE), [transforms.SoftplusTransform()]
    ),
    "logit-normal": dist.TransformedDistribution(
        dist.Normal(LOC / 50, SCALE / 5), [transforms.SigmoidTransform()]
    ),
    "a wrapped normal": dist.Normal(LOC[:, None], SCALE[:, None]).expand([ROWS, 2]).to_event(1),
}
DISCRETE: dict[str, Any] = {
    "bernoulli": dist.Bernoulli(logits=LOC / 10),
    "bernoulli of probabilities": dist.Bernoulli(probs=wide(0.02, 0.98)),
    "binomial": dist.Binomial(20, logits=LOC / 10),
    "poisson": dist.Poisson(10 * SCALE),
    "large poisson": dist.Poisson(100_000 * SCALE),
    "negative binomial": dist.NegativeBinomial2(10 * SCALE, wide(0.3, 5)),
    "negative binomial of logits": dist.NegativeBinomialLogits(wide(1, 5), LOC / 50),
    "gamma-poisson": dist.GammaPoisson(wide(1, 5), SCALE),
    "geometric": dist.Geometric(probs=wide(0.02, 0.9)),
    "geometric of logits": dist.Geometric(logits=LOC / 20),
    "discrete uniform": dist.DiscreteUniform(-3, RNG.integers(2, 9, ROWS)),
    "beta-binomial": dist.BetaBinomial(wide(0.5, 5), wide(0.5, 5), 12),
    "ordinal": dist.OrderedLogistic(LOC / 20, jnp.array([-2.0, 0.0, 0.5, 3.0])),
    "zero-inflated poisson": dist.ZeroInflatedPoisson(wide(0.1, 0.9), 2 * SCALE),
    "zero-inflated negative binomial": dist.ZeroInflatedDistribution(
        dist.NegativeBinomial2(4 * SCALE, 2.0), gate_logits=LOC / 20
    ),
    "categorical": dist.Categorical(logits=np.stack([LOC / 20, 0 * LOC, SCALE / 2], -1)),
    "categorical of probabilities": dist.Categorical(
        probs=softmax(np.stack([LOC / 20, 0 * LOC, SCALE / 2], -1), -1)
    ),
}


def evidence(fn: Any, seed: int = 0) -> Evidence:
    """A draw of a distribution, as it is found in a kernel."""
    value = fn.sample(jax.random.key(seed))
    law = law_of("y", fn, value.shape)
    shape = value.shape
    if coupling_of(law) == "gumbel-max":
        parameters = next(iter(law.parameters.values()))
        shape = parameters.shape
    uniform = jax.random.uniform(jax.random.key(seed + 1), shape) + 2.0**-25
    return Evidence(law, np.asarray(value), np.asarray(uniform))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_noise_of_a_continuous_outcome_gives_it_back(name):
    known = evidence(CONTINUOUS[name])
    noise = abduce(known)
    again = replay(known.law, noise).astype(np.float32)
    usable = np.isfinite(known.value) & noise.is_sound
    assert usable.mean() > 0.99
    ulps = np.abs(again - known.value)[usable] / np.spacing(np.abs(known.value[usable]))
    assert ulps.max() <= 4


@pytest.mark.parametrize("name", DISCRETE)
def test_the_noise_of_a_discrete_outcome_gives_it_back(name):
    known = evidence(DISCRETE[name])
    noise = abduce(known)
    assert noise.is_sound.all()
    np.testing.assert_array_equal(replay(known.law, noise), known.value)


# The same families elsewhere: what scipy says of the parameters under which the noise is replayed.
ELSEWHERE: dict[str, tuple[Any, Any]] = {
    "gamma": (lambda k: dist.Gamma(2.0 + k, 0.5), lambda k: st.gamma(2.0 + k, scale=2.0)),
    "beta": (lambda k: dist.Beta(2.0 + k, 3.0), lambda k: st.beta(2.0 + k, 3.0)),
    "student-t": (
        lambda k: dist.StudentT(3.0 + k, 1.0, 2.0),
        lambda k: st.t(3.0 + k, 1.0, 2.0),
    ),
    "truncated normal": (
        lambda k: dist.TruncatedNormal(1.0, 2.0, low=0.0 - k, high=4.0),
        lambda k: st.truncnorm((0.0 - k - 1.0) / 2.0, 1.5, 1.0, 2.0),
    ),
    "weibull": (lambda k: dist.Weibull(2.0, 1.0 + k), lambda k: st.weibull_min(1.0 + k, scale=2.0)),
    "log-normal": (
        lambda k: dist.LogNormal(1.0 + k, 0.5),
        lambda k: st.lognorm(0.5, scale=np.exp(1.0 + k)),
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_elsewhere_a_continuous_outcome_keeps_its_quantile(name):
    ours, theirs = ELSEWHERE[name]
    fn = ours(0.0).expand([ROWS])
    known = evidence(fn)
    moved = replay(law_of("y", ours(0.5).expand([ROWS]), (ROWS,)), abduce(known))
    value = known.value.astype(np.float64)
    old, new = theirs(0.0), theirs(0.5)
    low = new.ppf(old.cdf(value))
    high = new.isf(old.sf(value))
    np.testing.assert_allclose(moved, np.where(old.cdf(value) < 0.5, low, high), rtol=1e-9)


COUNTS: dict[str, tuple[Any, Any]] = {
    "poisson": (lambda k: dist.Poisson(3.0 + k), lambda k: st.poisson(3.0 + k)),
    "negative binomial": (
        lambda k: dist.NegativeBinomial2(4.0 + k, 2.0),
        lambda k: st.nbinom(2.0, 2.0 / (6.0 + k)),
    ),
    "binomial": (lambda k: dist.Binomial(9, 0.25 + k / 8), lambda k: st.binom(9, 0.25 + k / 8)),
    "geometric": (lambda k: dist.Geometric(0.25 + k / 8), lambda k: st.geom(0.25 + k / 8, -1)),
    "beta-binomial": (
        lambda k: dist.BetaBinomial(2.0 + k, 3.0, 7),
        lambda k: st.betabinom(7, 2.0 + k, 3.0),
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_elsewhere_a_count_is_the_quantile_of_a_point_in_its_interval(name):
    ours, theirs = COUNTS[name]
    known = evidence(ours(0.0).expand([ROWS]))
    moved = replay(law_of("y", ours(1.0).expand([ROWS]), (ROWS,)), abduce(known))
    old, new = theirs(0.0), theirs(1.0)
    below, above = old.cdf(known.value - 1), old.cdf(known.value)
    point = below + known.uniform.astype(float) * (above - below)
    away = np.abs(new.cdf(moved) - point) > 1e-12  # not on an edge of a step
    assert np.all((new.cdf(moved) >= point) | ~away)
    assert np.all((new.cdf(moved - 1) < point) | ~away)
    # The noise of a unit that is drawn at random is uniform: the new law comes out.
    counts = np.bincount(moved.astype(int), minlength=60)
    kept = new.pmf(np.arange(len(counts))) * ROWS > 5
    expected = new.pmf(np.arange(len(counts)))[kept] * ROWS
    excess = np.sum((counts[kept] - expected) ** 2 / expected)
    assert st.chi2(kept.sum() - 1).sf(excess) > 1e-4


def test_zeros_of_either_kind_are_covered_by_one_interval():
    gate, rate = 0.4, 2.0
    fn = dist.ZeroInflatedPoisson(gate, rate).expand([ROWS])
    known = evidence(fn)
    noise = abduce(known)
    zero = gate + (1 - gate) * np.exp(-rate)
    np.testing.assert_allclose(
        noise.parts[0][known.value == 0], known.uniform[known.value == 0] * zero, rtol=1e-6
    )
    open_gate = law_of("y", dist.ZeroInflatedPoisson(0.0, rate).expand([ROWS]), (ROWS,))
    moved = replay(open_gate, noise)
    desired = st.poisson(rate).ppf(noise.parts[0])
    low = noise.parts[0] < 0.999
    np.testing.assert_array_equal(moved[low], desired[low])


def test_a_category_that_gains_is_chosen_and_one_that_loses_is_left_as_gumbels_say():
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.3, 0.2])), (200_000, 3))
    known = evidence(dist.Categorical(logits=logits))
    noise = abduce(known)
    new = np.array([0.5, 0.3, 0.8])
    other = law_of(
        "y", dist.Categorical(logits=jnp.broadcast_to(jnp.log(new), (200_000, 3))), (200_000,)
    )
    moved = replay(other, noise)
    shares = np.bincount(moved.astype(int), minlength=3) / 200_000
    np.testing.assert_allclose(shares, new / new.sum(), atol=4 * np.sqrt(0.25 / 200_000))
    assert np.all(moved[known.value == 2] == 2)  # odds of the others have not risen
    assert np.all((moved == known.value) | (moved == 2))


def test_vectors_keep_their_standardised_residual():
    scale = jnp.array([[2.0, 0.0], [0.5, 1.0]])
    loc = jnp.stack([LOC, SCALE], -1)
    known = evidence(dist.MultivariateNormal(loc, scale_tril=scale))
    noise = abduce(known)
    again = replay(known.law, noise)
    np.testing.assert_allclose(again, known.value, rtol=1e-6, atol=1e-6)
    shifted = law_of("y", dist.MultivariateNormal(loc + 3.0, scale_tril=scale), known.value.shape)
    np.testing.assert_allclose(replay(shifted, noise), known.value + 3.0, atol=2e-5)


def test_far_tails_keep_their_digits_and_what_has_none_left_is_marked():
    # Thirty standard deviations out, both tails of a normal, and a count in a tail of 1e-60.
    law = law_of("y", dist.TruncatedNormal(jnp.zeros(2), 1.0, high=40.0), (2,))
    known = Evidence(law, np.array([-30.0, 30.0]), np.array([0.5, 0.5]))
    noise = abduce(known)
    assert noise.is_sound.all()
    np.testing.assert_allclose(replay(law, noise), [-30.0, 30.0], rtol=1e-12)
    counts = law_of("y", dist.Poisson(jnp.ones(2)), (2,))
    noise = abduce(Evidence(counts, np.array([45.0, 0.0]), np.array([0.3, 0.3])))
    assert noise.is_sound.all()
    np.testing.assert_array_equal(replay(counts, noise), [45.0, 0.0])
    impossible = Evidence(counts, np.array([-1.0, 2.5]), np.array([0.3, 0.3]))
    assert not abduce(impossible).is_sound.any()
    lost = law_of("y", dist.Poisson(jnp.array([1e5])), (1,))
    assert not abduce(Evidence(lost, np.array([2.0]), np.array([0.3]))).is_sound.any()
    negative = law_of("y", dist.LogNormal(jnp.zeros(1), 1.0), (1,))
    assert not abduce(Evidence(negative, np.array([-2.0]), np.array([0.3]))).is_sound.any()


def test_a_truncated_student_t_keeps_its_quantile():
    old, new = (
        law_of("y", dist.RightTruncatedDistribution(dist.StudentT(5.0, loc, 1.0), high=2.0), (3,))
        for loc in (0.0, 1.0)
    )
    value = np.array([-9.0, 0.3, 1.9])
    moved = replay(new, abduce(Evidence(old, value, np.full(3, 0.5))))
    lower = st.t(5.0).cdf(value) / st.t(5.0).cdf(2.0) * st.t(5.0, 1.0).cdf(2.0)
    np.testing.assert_allclose(moved, st.t(5.0, 1.0).ppf(lower), rtol=1e-9)


@pytest.mark.parametrize(
    "fn",
    [
        dist.VonMises(0.0, 1.0),
        dist.Dirichlet(jnp.ones(3)),
        dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.zeros(2), 1.0)),
        dist.FoldedDistribution(dist.Normal(0.0, 1.0)),
        dist.HurdlePoisson(rate=1.0, gate=0.5),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_a_family_outside_the_table_is_refused_by_name(fn):
    with pytest.raises(InputError, match=r"Site 'y' is drawn from \w+, whose noise") as caught:
        law_of("y", fn, ())
    assert caught.value.code == "family-unknown"


def test_noise_of_another_family_is_refused():
    noise = abduce(evidence(CONTINUOUS["normal"]))
    with pytest.raises(InputError, match="another family") as caught:
        replay(law_of("y", CONTINUOUS["logistic"], (ROWS,)), noise)
    assert caught.value.code == "family-changed"


def test_couplings_have_names():
    named = "log-normal", "pareto", "weibull", "gamma", "zero-inflated poisson", "ordinal"
    laws = {**CONTINUOUS, **DISCRETE}
    found = {name: coupling_of(evidence(laws[name]).law) for name in (*named, "categorical")}
    assert found["log-normal"] == found["pareto"] == found["weibull"] == "residual"
    assert found["gamma"] == found["zero-inflated poisson"] == found["ordinal"] == "quantile"
    assert found["categorical"] == "gumbel-max"
    probs = success_of(evidence(DISCRETE["bernoulli"]).law)
    np.testing.assert_allclose(probs, 1 / (1 + np.exp(-np.asarray(LOC, float) / 10)), rtol=1e-6)
