"""Draws of a guide, made draws of the posterior by weights, against closed forms."""

import warnings
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import optim
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import FitWarning, ImpactModel, InputError
from aimz.inference import DADVI, Fit, Laplace, reweighted
from aimz.inference.reweighting import _taken

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(60, 1)) + 0.7 * RNG.normal(size=(60, 2))).astype(np.float32)
Y = (X @ [1.0, -0.5] + RNG.normal(size=60)).astype(np.float32)


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def fitted(inference, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return ImpactModel(kernel, inference=inference).fit(X, Y, progress=False, **settings)


@pytest.fixture(scope="module")
def independent():
    """A guide without the correlation that the posterior has."""
    svi = SVI(kernel, AutoNormal(kernel), optim.Adam(0.02), Trace_ELBO(4))
    return fitted(svi, num_steps=3000)


def exact():
    precision = X.T @ X + np.eye(2) / 4.0
    return np.linalg.solve(precision, X.T @ Y), np.linalg.inv(precision)


def test_draws_of_an_independent_guide_become_those_of_the_posterior(independent):
    mean, covariance = exact()
    sds, correlation = (
        np.sqrt(np.diag(covariance)),
        covariance[0, 1] / np.sqrt(np.prod(np.diag(covariance))),
    )
    before = independent.posterior["b"]
    assert np.all(before.std(axis=0) < 0.9 * sds)
    better = independent.reweighted(num_samples=4000)
    draws = better.posterior["b"]
    assert draws.shape == (4000, 2)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 0.08 * sds)
    np.testing.assert_allclose(draws.std(axis=0), sds, rtol=0.06)
    assert abs(np.corrcoef(draws.T)[0, 1] - correlation) < 0.05
    said = better.diagnostics_
    assert said["verdict"] == "good"
    assert said["k_hat"] < 0.7
    assert 100 < said["ess_min"] < 16_000
    assert independent.posterior["b"] is not draws


def test_a_reweighted_model_predicts_and_knows_its_rows(independent):
    better = independent.reweighted(num_samples=50)
    tree = better.predict_on_batch(X)
    assert tree["posterior_predictive"]["y"].sizes == {"chain": 1, "draw": 50, "obs": 60}
    assert tree.attrs["fit_reweighted"] == 1
    again = independent.reweighted(num_samples=50)
    np.testing.assert_array_equal(better.posterior["b"], again.posterior["b"])
    other = independent.reweighted(num_samples=50, rng_key=5)
    assert not np.array_equal(better.posterior["b"], other.posterior["b"])
    with pytest.raises(InputError, match="Fit first") as refused:
        better.reweighted()
    assert refused.value.code == "no-data"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["svi", Laplace(), DADVI()], ids=["svi", "laplace", "dadvi"])
def test_normal_guides_of_a_normal_posterior_keep_it(engine):
    mean, covariance = exact()
    im = fitted(engine).reweighted(num_samples=4000)
    sds = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(im.posterior["b"].mean(axis=0) - mean) < 0.06 * sds)
    np.testing.assert_allclose(im.posterior["b"].std(axis=0), sds, rtol=0.05)
    assert im.diagnostics_["ess_min"] > 15_000


class Weighing:
    """An engine whose draws have the weights that it is told to."""

    name = "told"

    def __init__(self, log_weights):
        self.log_weights = log_weights

    def fit(self, rng_key, problem, settings, *, state=None):
        raise NotImplementedError

    draw = fit

    def weighed(self, rng_key, problem, fit, num_samples):
        return {"a": np.arange(num_samples)[None]}, self.log_weights(num_samples)


class Silent:
    """An engine without weights."""

    name = "silent"

    def fit(self, rng_key, problem, settings, *, state=None):
        raise NotImplementedError

    draw = fit


def heavy(count):
    return 3.0 * np.random.default_rng(0).standard_t(2, size=count)


def few(count):
    # Of 400, worth 75.
    return 1.5 * np.random.default_rng(0).normal(size=count)


@pytest.mark.parametrize(
    ("engine", "attrs", "code", "match"),
    [
        (Silent(), {}, "no-weights", "no density to divide by"),
        (Weighing(np.zeros), {"chains": 4, "engine": "mcmc"}, "no-weights", "Engine 'mcmc'"),
        (Weighing(np.zeros), {"verdict": "bad: modes"}, "no-weights", "no draws"),
        (Weighing(np.zeros), {"verdict": "bad: no-intervals"}, "no-weights", "no draws"),
        (Weighing(heavy), {}, "no-weights", "inference='nuts'"),
        (Weighing(few), {}, "no-weights", "effective draws"),
    ],
)
def test_what_weights_cannot_do_is_refused(engine, attrs, code, match):
    fit = Fit({"a": np.zeros((1, 5))}, attrs=attrs, state="there")
    problem: Any = "problem"
    with pytest.raises(InputError, match=match) as refused:
        reweighted(engine, jax.random.key(0), problem, fit, 100)
    assert refused.value.code == code
    assert len(str(refused.value)) <= 240


def test_draws_are_taken_as_often_as_their_weights_say():
    weights = np.array([0.5, 0.0, 0.25, 0.125, 0.125])
    for start in (0.0, 0.3, 0.999):
        counts = np.bincount(_taken(weights, 800, start), minlength=5)
        assert np.all(np.abs(counts - 800 * weights) <= 1)
        assert counts[1] == 0
