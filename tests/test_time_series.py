"""Kernels that observe inside NumPyro's scan: fitted, predicted, scored, like any other kernel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive, log_likelihood

from aimz import ImpactModel, InputError, KernelValidationError
from tests.series import SERIES, Series, level_given, local_level, made_of

pytestmark = pytest.mark.filterwarnings("ignore:Rows are predicted together")

ROWS, DRAWS = 12, 60


def from_prior(series: Series, arguments: dict[str, Any]) -> dict[str, np.ndarray]:
    """Draws of the latents."""
    drawn = Predictive(series.kernel, num_samples=DRAWS)(jax.random.key(1), **arguments)
    return {name: np.asarray(drawn[name]) for name in series.latents}


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_the_log_likelihood_and_the_score_are_those_of_numpyro(series):
    arguments, y = made_of(series, ROWS)
    arguments = {name: jnp.asarray(value) for name, value in arguments.items()}
    draws = from_prior(series, arguments)
    im = ImpactModel(series.kernel).set_posterior_sample(draws)
    got: Any = im.log_likelihood(**arguments, y=y, store="memory", progress=False)
    want = np.asarray(log_likelihood(series.kernel, draws, **arguments, y=jnp.asarray(y))["y"])
    np.testing.assert_allclose(got.log_likelihood["y"].values[0], want, rtol=1e-5, atol=1e-5)
    by_value = np.log(np.exp(want.astype(float)).mean(axis=0))
    by_row = by_value.sum(axis=0) if series.by_subject else by_value
    if not series.by_subject:
        assert im.score(**arguments, y=y) == pytest.approx(by_row.mean(), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_predictions_have_the_moments_of_numpyro(series):
    arguments, _ = made_of(series, ROWS)
    arguments = {name: jnp.asarray(value) for name, value in arguments.items()}
    count = 8000
    draws = {n: np.repeat(v[:1], count, 0) for n, v in from_prior(series, arguments).items()}
    im = ImpactModel(series.kernel).set_posterior_sample(draws)
    got = np.asarray(im.predict_on_batch(**arguments, return_datatree=False)["y"], float)
    fixed = {name: jnp.asarray(value) for name, value in draws.items()}
    drawn = Predictive(series.kernel, posterior_samples=fixed)(jax.random.key(1), **arguments)
    want = np.asarray(drawn["y"], float)
    error = want.std(0) * np.sqrt(2 / count)
    assert np.abs((got.mean(0) - want.mean(0)) / (error + 1e-9)).max() < 4.5
    np.testing.assert_allclose(got.std(0), want.std(0), rtol=0.08, atol=1e-6)


def ignoring(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    scan(lambda v, _: (numpyro.sample("y", dist.Normal(b * v, 1.0)), None), 0.0, X[:, 0])


def observing_another(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    scan(lambda v, x: (numpyro.sample("y", dist.Normal(b, 1.0), obs=x), None), 0.0, X[:, 0])


@pytest.mark.parametrize("kernel", [ignoring, observing_another])
def test_an_outcome_that_a_scan_does_not_observe_is_refused(kernel):
    with pytest.raises(KernelValidationError, match="does not observe argument 'y'"):
        ImpactModel(kernel).fit(np.ones((9, 1)), np.ones(9), progress=False)


def test_an_observation_that_would_mix_up_steps_is_refused():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))

        def step(carry, outcome):
            numpyro.sample("y", dist.Normal(b, 1.0), obs=outcome)
            return carry, None

        scan(step, 0.0, y, length=X.shape[0])

    with pytest.raises(InputError, match=r"shape \(\) in a step but observes .* shape \(9,\)"):
        ImpactModel(kernel).fit(np.ones((9, 1)), np.ones((9, 9)), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["svi", "nuts"])
def test_a_level_is_found_between_missing_outcomes(inference):
    y = np.cumsum(np.random.default_rng(0).normal(size=30) * 0.5).astype(np.float32)
    y[[3, 10, 11, 12, 29]] = np.nan
    im = ImpactModel(local_level, inference=inference, num_samples=1000)
    im.fit(np.zeros((30, 1)), y, missing="mask", progress=False)
    mean, covariance = level_given(y, 30)
    spread = np.sqrt(np.diag(covariance))
    levels = im.posterior["level"].reshape(-1, 30)
    assert np.abs((levels.mean(0) - mean) / spread).max() < 0.15
    np.testing.assert_allclose(levels.std(0), spread, rtol=0.1)


def test_missing_outcomes_that_later_steps_read_are_refused():
    series = next(s for s in SERIES if s.name == "autoregression")
    arguments, y = made_of(series, ROWS)
    y[3] = np.nan
    with pytest.raises(InputError, match=r"site 'mean' computes with them|'y' computes"):
        ImpactModel(series.kernel).fit(**arguments, y=y, missing="mask", progress=False)
