"""An effect is judged by what the weights of its own draws make of it."""

import warnings
from dataclasses import replace

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import FitWarning, ImpactModel
from aimz.inference import more_draws
from aimz.inference.health import judge_effect

MANY, DRAWS = 30, 2000
RNG = np.random.default_rng(0)
X = np.zeros((4, 1), np.float32)
B = RNG.normal(size=(DRAWS, MANY)).astype(np.float32)
ALONG = B.sum(axis=1) / np.sqrt(MANY)


def kernel(X, t=0.0, y=None):
    b = numpyro.sample("b", dist.Normal().expand([MANY]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X[:, 0] + t * b.sum(), 1.0), obs=y)


def with_weights(log_weights, verdict="good"):
    """Draws of standard normals, and weights of them as if a guide had made them."""
    im = ImpactModel(kernel, rng_key=0).set_posterior_sample({"b": B})
    assert im._fitted is not None
    fit = replace(im._fitted.fit, log_weights=log_weights, attrs={"verdict": verdict})
    im._fitted = replace(im._fitted, fit=fit)
    return im


def effect_of(im, estimand="ate"):
    return im.effect(X, {"t": 0.0}, {"t": 1.0}, estimand=estimand, progress=False)


def spread(times):
    """Log of the density with so much more spread along the sum, over that of the draws."""
    return 0.5 * (1.0 - times**-2) * ALONG.astype(float) ** 2


def moved(by):
    """The same with the mean moved along the sum, by so many standard deviations."""
    return by * ALONG.astype(float)


@pytest.mark.parametrize("estimand", ["ate", "ite"])
@pytest.mark.parametrize(
    ("log_weights", "ratio", "shift", "words"),
    [
        (spread(1.3), 1.3, 0.0, "too narrow"),
        (spread(0.7), 0.7, 0.0, "too wide"),
        (moved(0.5), 1.0, 0.5, "is +0.5"),
        (0.4 * B[:, 0].astype(float), 1.0, 0.4 / np.sqrt(MANY), ""),
        (None, None, None, ""),
    ],
    ids=["narrow", "wide", "aside", "of another latent", "not told"],
)
def test_what_weights_make_of_an_effect_is_said(log_weights, ratio, shift, words, estimand):
    # Each latent is right to two in a hundred: only their sum is not.
    im = with_weights(log_weights)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        effect = effect_of(im, estimand)
    assert effect.fault == ("guide-shape" if words else "")
    assert [issubclass(one.category, FitWarning) for one in said] == ([True] if words else [])
    assert ("fit" in effect.summary().columns) == bool(words)
    if words:
        assert words in str(said[0].message)
        assert len(str(said[0].message)) <= 240
        assert "Reweighted, its sd is" in repr(effect)
    if ratio is None:
        assert "effect_k_hat" not in effect.diagnostics
    else:
        told = effect.draws.attrs
        assert told["effect_sd_ratio"] == pytest.approx(ratio, abs=0.1)
        assert told["effect_mean_shift"] == pytest.approx(shift, abs=0.1)
        assert told["effect_k_hat"] < 0.7


def test_a_fit_that_is_bad_says_what_weights_make_of_the_effect_and_warns_once():
    effect = effect_of(with_weights(0.4 * B[:, 0].astype(float), "bad: k-hat"))
    assert effect.fault == "k-hat"
    assert "Reweighted, its sd is 1.0" in repr(effect)


def test_an_effect_is_never_better_known_than_the_weights():
    # The Pareto-k of a value times weights is that of the weights or more: a direction that has
    # nothing to do with an effect still decides how well weights can judge it.
    nuisance = np.random.default_rng(1).standard_t(2, size=DRAWS)
    told = judge_effect(np.log1p(nuisance**2), B[:, :3]).attrs
    assert told["effect_k_hat"] > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["svi", "laplace"])
def test_weights_are_of_the_draws_that_the_fit_has(inference):
    # A posterior that no normal of the log has: log p less a parabola, which log q is.
    def counts(X, t=0.0, y=None):
        rate = numpyro.sample("rate", dist.Gamma(0.5, 1.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Poisson(rate + t * rate + X[:, 0]), obs=y)

    y = np.zeros(4, int)
    im = ImpactModel(counts, rng_key=0, inference=inference, on_bad_fit="ignore")
    im.fit(X, y, progress=False, num_samples=400)
    assert im._fitted is not None
    fit = im._fitted.fit
    assert fit.log_weights is not None
    rate = im.posterior["rate"].astype(float)
    assert fit.log_weights.shape == rate.shape == (400,)
    log_p = 0.5 * np.log(rate) - 5.0 * rate  # Gamma(0.5, 5) of the rate, with the Jacobian
    rest = fit.log_weights - log_p
    place = np.log(rate)
    parabola = np.polyval(np.polyfit(place, rest, 2), place)
    np.testing.assert_allclose(rest, parabola, atol=2e-3 * np.ptp(log_p))
    effect = im.effect(X, {"t": 0.0}, {"t": 1.0}, progress=False)  # the rate itself
    assert effect.draws.attrs["effect_sd_ratio"] > 0.0
    other = more_draws(im._setup.engine, jax.random.key(0), im._fitted.problem, fit, 9)
    assert other.draws["rate"].shape == (1, 9)
    assert other.log_weights is None
