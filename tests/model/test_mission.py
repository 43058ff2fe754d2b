"""The examples that the library exists for, run as its users write them, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import optim
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from numpyro.infer.initialization import init_to_feasible

from aimz import ImpactModel
from aimz.errors import FitWarning, OutputWarning, StoreError

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


# ------------------------------------------------------------------ a regression

COLUMNS = ("income", "age", "rooms", "bedrooms", "population", "occupancy", "latitude", "longitude")


def regression(X, y=None):
    w = numpyro.sample("w", dist.Normal().expand([X.shape[1]]).to_event(1))
    b = numpyro.sample("b", dist.Normal())
    mu = numpyro.deterministic("mu", jnp.dot(X, w) + b)
    sigma = numpyro.sample("sigma", dist.Exponential())
    with numpyro.plate("data", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


@pytest.fixture(scope="module")
def houses():
    """Prices of districts by eight standardised columns, of which two pairs go together."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, len(COLUMNS)))
    X[:, 3] = 0.8 * X[:, 2] + 0.6 * X[:, 3]
    X[:, 7] = -0.6 * X[:, 6] + 0.8 * X[:, 7]
    price = 2.0 + X @ np.array([0.8, 0.1, -0.3, 0.3, 0.0, 0.0, -0.9, -0.9])
    return X, price + 0.7 * rng.normal(size=len(X))


@pytest.fixture(scope="module")
def prices(houses):
    svi = SVI(regression, AutoMultivariateNormal(regression), optim.Adam(1e-3), Trace_ELBO())
    im = ImpactModel(regression, rng_key=jax.random.key(42), inference=svi)
    return im.fit_on_batch(*houses, progress=False)


def test_a_regression_has_the_closed_form_posterior(prices, houses):
    X, y = houses
    sigma = prices.posterior["sigma"].mean()
    design = np.column_stack([X, np.ones(len(X))])
    covariance = np.linalg.inv(design.T @ design / sigma**2 + np.eye(design.shape[1]))
    mean, sd = covariance @ design.T @ y / sigma**2, np.sqrt(np.diag(covariance))
    draws = np.column_stack([prices.posterior["w"], prices.posterior["b"]])
    assert draws.shape == (1000, 9)
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean) / sd, 0.35)
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.15)


def test_a_regression_predicts_compares_and_cleans_up(prices, houses):
    X, _ = houses
    dearer = X + np.eye(len(COLUMNS))[0]  # one standard deviation of income more
    trees = [prices.predict(rows, rng_key=1, progress=False) for rows in (X, dearer)]
    w, b = prices.posterior["w"], prices.posterior["b"]
    tree = trees[0].posterior_predictive
    np.testing.assert_allclose(tree["mu"][0], w @ X.T + b[:, None], atol=1e-4)
    assert dict(tree["y"].sizes) == {"chain": 1, "draw": 1000, "data": 400}
    impact = prices.estimate_effect(*trees).posterior_predictive
    for name in ("mu", "y"):  # the noise is the same
        np.testing.assert_allclose(
            impact[name][0], np.broadcast_to(w[:, :1], (1000, 400)), atol=1e-4
        )
    with pytest.warns(OutputWarning, match="outside the data"):  # 5% of the rows
        effect = prices.effect(X, {}, {"X": dearer}, progress=False)
    np.testing.assert_allclose(effect.draws[0], w[:, 0], atol=1e-5)
    assert prices.temp_dir is not None
    path = prices.temp_dir
    assert path.exists()
    prices.cleanup()
    assert not path.exists()
    with pytest.raises(StoreError):  # its files are gone, and it never reads as zeros
        trees[1].posterior_predictive["y"].mean()
