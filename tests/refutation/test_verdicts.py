"""Verdicts on refits whose truth is known, and kernels with another cause."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from matplotlib import pyplot as plt
from numpyro.infer.util import log_density

from aimz import InputError
from aimz.refutation import Trial, refutation_of, shifted_by, with_cause

RNG = np.random.default_rng(0)
EFFECT = 3.0 + RNG.normal(size=400)


def trial(means, truth=0.0, stays=False, spread=0.0, **given):
    draws = np.asarray(means)[:, None] + RNG.normal(size=(len(means), 400))
    return Trial("a test", "asks", draws, np.full(len(means), truth), stays, spread, **given)


SOUND = np.linspace(-1, 1, 20)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (trial(SOUND), "passes"),
        (trial(SOUND + 2.0), "fails"),  # off
        (trial(SOUND + 0.8), "fails"),  # every interval holds 0, and all are off one way
        (trial(np.tile([-3.0, 3.0], 10)), "fails"),  # right on average, and never sure enough
        (trial(SOUND, unsettled=2), "doubtful"),
        (trial(3.0 + SOUND, 3.0, stays=True, spread=1.0), "passes"),
        (trial(5.0 + SOUND, 3.0, stays=True, spread=1.0), "fails"),
        (trial(3.0 + 4 * SOUND, 3.0, stays=True, spread=1.0), "doubtful"),
        (trial(3.0 + 0.1 * SOUND, 3.0, stays=True), "passes"),
        (trial(3.8 + 0.1 * SOUND, 3.0, stays=True), "fails"),
    ],
)
def test_a_verdict_follows_from_coverage_bias_and_spread(made, verdict):
    (row,) = refutation_of(EFFECT, [made], 0.0, 0.94).table.to_dict("records")
    assert row["verdict"] == verdict, row["sentence"]


def test_a_sound_test_seldom_fails():
    counts = 0
    for _ in range(400):
        made = trial(RNG.normal(size=20))
        counts += refutation_of(EFFECT, [made], 0.0, 0.94).table["verdict"][0] != "passes"
    assert counts <= 12  # at a rate of 1% of both ways to fail, 12 or more come once in 1,000


def test_the_words_hold_the_numbers_and_the_picture_the_tests():
    report = refutation_of(EFFECT, [trial(SOUND), trial(SOUND + 2)], 0.0, 0.94)
    assert not report.passes
    assert "20 of 20 intervals hold 0" in report.to_text()
    ax = report.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "a test: passes",
        "a test: fails",
    ]
    plt.close("all")


AMOUNT = jnp.array([0.5, -1.0])
HALF = jnp.array([0.5, 0.2])


@pytest.mark.parametrize(
    ("fn", "mean"),
    [
        (dist.Normal(HALF, 2.0), HALF + AMOUNT),
        (dist.Normal(0.0, 2.0).expand([2]), AMOUNT),
        (dist.Normal(HALF[:, None], 2.0).to_event(1), (HALF + AMOUNT)[:, None]),
        (dist.StudentT(5.0, HALF, 2.0), HALF + AMOUNT),
        (dist.Laplace(HALF, 2.0), HALF + AMOUNT),
        (dist.Logistic(HALF, 2.0), HALF + AMOUNT),
        (dist.LogNormal(HALF, 1.0), jnp.exp(HALF + AMOUNT + 0.5)),
        (dist.Poisson(HALF), HALF * jnp.exp(AMOUNT)),
        (dist.Exponential(HALF), jnp.exp(AMOUNT) / HALF),
        (dist.Gamma(3.0, HALF), 3 / HALF * jnp.exp(AMOUNT)),
        (dist.NegativeBinomial2(HALF, 3.0), HALF * jnp.exp(AMOUNT)),
        (dist.Bernoulli(probs=HALF), 1 / (1 + (1 / HALF - 1) * jnp.exp(-AMOUNT))),
        (dist.Bernoulli(logits=HALF), 1 / (1 + jnp.exp(-HALF - AMOUNT))),
        (dist.Binomial(4, HALF), 4 / (1 + (1 / HALF - 1) * jnp.exp(-AMOUNT))),
        (dist.Normal(HALF, 2.0).mask(jnp.array([True, False])), HALF + AMOUNT),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_cause_moves_the_predictor_that_a_family_has(fn, mean):
    moved = shifted_by(fn, AMOUNT)
    while isinstance(moved, dist.MaskedDistribution):
        moved = moved.base_dist
    np.testing.assert_allclose(moved.mean, mean, rtol=1e-5)


@pytest.mark.parametrize(
    "fn", [dist.Beta(HALF, 2.0), dist.Categorical(logits=jnp.ones((2, 3)))], ids=["beta", "codes"]
)
def test_a_family_without_a_predictor_is_refused(fn):
    with pytest.raises(InputError) as error:
        shifted_by(fn, AMOUNT)
    assert error.value.code == "family-unknown"


def test_a_kernel_with_a_cause_is_the_kernel_with_the_cause_written_in():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", 2):
            numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)

    def written(X, y=None, w=None):
        b = numpyro.sample("b", dist.Normal())
        g = numpyro.sample("w_weight", dist.Normal(0.0, 3.0))
        with numpyro.plate("obs", 2):
            numpyro.sample("y", dist.Normal(b * X + g * w, 1.0), obs=y)

    draws = {"b": jnp.array(0.3), "w_weight": jnp.array(-0.7)}
    given = {"X": AMOUNT, "y": HALF, "w": jnp.array([1.0, 2.0])}
    wide = with_cause(kernel, "y", 3.0, "w")
    ours, theirs = (
        log_density(numpyro.handlers.seed(fn, random.key(0)), (), given, draws)[0]
        for fn in (wide, written)
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
