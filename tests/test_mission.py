"""The examples that the library exists for, run as its users write them, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import optim
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.initialization import init_to_feasible

from aimz import ImpactModel
from aimz.errors import FitWarning

ROWS = 100


def exposure(X, C, y=None):
    """A covariate observed outside the plate, a latent exposure per row, an outcome."""
    c = numpyro.sample("c", dist.Exponential(), obs=C)
    a, b, d = (numpyro.sample(name, dist.Normal()) for name in "abd")
    s = numpyro.sample("s", dist.Exponential())
    e, f, g = (numpyro.sample(name, dist.Normal()) for name in "efg")
    with numpyro.plate("data", X.shape[0]):
        z = numpyro.sample("z", dist.LogNormal(a + b * c + d * X.squeeze(axis=1), s))
        numpyro.sample("y", dist.Bernoulli(logits=e + f * c + g * z), obs=y)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X, C = rng.normal(size=(ROWS, 1)), rng.exponential(size=ROWS)
    Z = np.exp(0.2 + 0.3 * C + 0.1 * X[:, 0] + 0.3 * rng.normal(size=ROWS))
    y = rng.binomial(1, 1 / (1 + np.exp(1.0 - 0.5 * C - 0.8 * Z)))
    return X, C, Z, y


@pytest.fixture(scope="module")
def model(data):
    X, C, _, y = data
    guide = AutoNormal(exposure, init_loc_fn=init_to_feasible())
    svi = SVI(exposure, guide, optim.Adam(1e-3), Trace_ELBO())
    im = ImpactModel(exposure, rng_key=jax.random.key(42), inference=svi)
    with pytest.warns(FitWarning, match="still falling"):  # few steps: the test is of the effect
        return im.fit_on_batch(X, y, C=C, num_steps=1000, progress=False)


def chances(model, C, z):
    """P(y = 1) of each draw and row in closed form."""
    e, f, g = (np.asarray(model.posterior[name])[..., None] for name in "efg")
    return np.asarray(1 / (1 + np.exp(-(e + f * C + g * z)))).reshape(-1, len(C))


def test_the_effect_of_a_latent_exposure_is_that_of_its_closed_form(model, data):
    X, C, Z, _ = data
    factual = model.predict_on_batch(X, C=C, intervention={"z": Z})
    counterfactual = model.predict_on_batch(X, C=C, intervention={"z": jnp.zeros_like(Z)})
    impact = model.estimate_effect(output_baseline=factual, output_intervention=counterfactual)
    draws = impact.posterior_predictive["y"]
    assert draws.shape == (1, 1000, ROWS)
    wanted = chances(model, C, 0.0) - chances(model, C, Z)
    error = np.sqrt(0.5 / draws.size)  # a difference of outcomes has a variance of 1/2 at most
    assert abs(float(draws.mean()) - wanted.mean()) < 4 * error
    effect = model.effect(X, {"z": Z}, {"z": 0.0}, C=C, progress=False)
    np.testing.assert_allclose(
        effect.draws.values.ravel(), wanted.mean(axis=1), rtol=1e-4, atol=1e-5
    )
