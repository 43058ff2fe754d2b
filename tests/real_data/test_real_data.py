"""`fit(X, y)` with no settings gives the right posterior on real data."""

import importlib.util
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from aimz import FitWarning, ImpactModel
from tests.support import real_data

# A mean of 1,000 draws has a standard error of 0.032 sd, their sd one of 2.2%.
MEANS, SDS = 0.15, 0.12


def coefficients(columns: int, scale: float) -> jax.Array:
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 10 * scale))
    slopes = numpyro.sample("slopes", dist.Normal(0.0, scale).expand([columns]).to_event(1))
    return jnp.concatenate([intercept[None], slopes])


def line(X, scale):
    beta = coefficients(X.shape[1], scale)
    return beta[0] + X @ beta[1:]


def linear(X, y=None):
    sigma = numpyro.sample("sigma", dist.HalfNormal(20.0))
    numpyro.sample("y", dist.Normal(line(X, 10.0), sigma), obs=y)


def logistic(X, y=None):
    numpyro.sample("y", dist.Bernoulli(logits=line(X, 5.0)), obs=y)


def poisson(X, y=None):
    numpyro.sample("y", dist.Poisson(jnp.exp(line(X, 5.0))), obs=y)


def hierarchical(X, y=None):
    day, subject = X[:, 0], X[:, 1].astype(int)
    mean = numpyro.sample("mean", dist.Normal(250.0, 100.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 50.0))
    spread = numpyro.sample("spread", dist.HalfNormal(50.0))
    slope_spread = numpyro.sample("slope_spread", dist.HalfNormal(20.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(50.0))
    with numpyro.plate("subject", 18):
        own_mean = numpyro.sample("own_mean", dist.Normal(mean, spread))
        own_slope = numpyro.sample("own_slope", dist.Normal(slope, slope_spread))
    numpyro.sample("y", dist.Normal(own_mean[subject] + own_slope[subject] * day, sigma), obs=y)


def network(X, y=None):
    inputs, hidden = X.shape[1], 4
    first = numpyro.sample("first", dist.Normal().expand([inputs, hidden]).to_event(2))
    bias = numpyro.sample("bias", dist.Normal().expand([hidden]).to_event(1))
    last = numpyro.sample("last", dist.Normal().expand([hidden]).to_event(1))
    level = numpyro.sample("level", dist.Normal())
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    mu = numpyro.deterministic("mu", level + jnp.tanh(X @ first + bias) @ last)
    with numpyro.plate("car", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def assert_like(im: ImpactModel, reference: real_data.Reference) -> None:
    posterior = im.posterior
    draws = np.column_stack(
        [np.ravel(posterior["intercept"]), *np.moveaxis(posterior["slopes"], -1, 0)]
    )
    np.testing.assert_array_less(np.abs(draws.mean(0) - reference.mean) / reference.sd, MEANS)
    np.testing.assert_allclose(draws.std(0), reference.sd, rtol=SDS)


@pytest.mark.slow
def test_linear_regression_on_raw_covariates_is_least_squares():
    data = real_data.nhefs()
    im = ImpactModel(linear).fit(*data, progress=False)
    assert_like(im, real_data.least_squares(data))


@pytest.mark.slow
def test_logistic_regression_is_maximum_likelihood():
    data = real_data.medpar()
    im = ImpactModel(logistic).fit(*data, progress=False)
    assert_like(im, real_data.reweighted(data, "logistic"))


# Another one with raw covariates is in test_inference_svi.py.
@pytest.mark.slow
def test_poisson_regression_is_maximum_likelihood():
    data = real_data.quine()
    im = ImpactModel(poisson).fit(*data, progress=False)
    assert_like(im, real_data.reweighted(data, "poisson"))


# 10,000 draws of NUTS; the test below finds them again.
NUTS_MEANS = {"mean": 251.5, "slope": 10.47, "spread": 26.7, "slope_spread": 6.48, "sigma": 25.84}
NUTS_SDS = {"mean": 7.37, "slope": 1.69, "spread": 6.3, "slope_spread": 1.41, "sigma": 1.55}


# A smaller centred hierarchy is in test_inference_svi.py.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Pareto-k")  # it is at the limit, on either side by the seed
def test_hierarchical_regression_is_that_of_long_chains():
    im = ImpactModel(hierarchical).fit(*real_data.sleep(), progress=False)
    for name, mean in NUTS_MEANS.items():
        draws = im.posterior[name]
        assert abs(draws.mean() - mean) < 0.2 * NUTS_SDS[name], name
        # A normal guide is somewhat narrower than a posterior with heavy tails.
        assert draws.std() == pytest.approx(NUTS_SDS[name], rel=0.2), name


@pytest.mark.slow
def test_long_chains_give_the_hierarchical_reference():
    data = real_data.sleep()
    kernel = NUTS(hierarchical, target_accept_prob=0.95)
    mcmc = MCMC(kernel, num_warmup=1000, num_samples=10_000, progress_bar=False)
    mcmc.run(jax.random.key(1), data.X, y=data.y)
    draws = mcmc.get_samples()
    for name, mean in NUTS_MEANS.items():
        assert abs(draws[name].mean() - mean) < 0.1 * NUTS_SDS[name], name
        assert draws[name].std() == pytest.approx(NUTS_SDS[name], rel=0.1), name


@pytest.mark.slow
def test_neural_network_predicts_unseen_cars_better_than_a_line():
    X, y = real_data.auto()
    seen, unseen = np.split(np.random.default_rng(0).permutation(len(y)), [294])
    X = (X - X[seen].mean(0)) / X[seen].std(0)
    y = (y - y[seen].mean()) / y[seen].std()
    straight = LinearRegression().fit(X[seen], y[seen]).predict(X[unseen])
    # The weights of a network have many modes: the guide holds one, and says so.
    with pytest.warns(FitWarning, match="Pareto-k"):
        im = ImpactModel(network).fit(X[seen], y[seen], progress=False)
    mu = im.predict(X[unseen], in_sample=False, store="memory", progress=False).predictions["mu"]
    gain = r2_score(y[unseen], mu.mean(("chain", "draw"))) - r2_score(y[unseen], straight)
    assert gain > 0.03


# The effect of the same data by a smaller kernel is in test_effects_on_real_data.py.
@pytest.mark.slow
def test_quickstart_answers_as_least_squares():
    quickstart = load_example("quickstart")
    covariates, qsmk, gained = quickstart.load()
    intensity = covariates[:, quickstart.INTENSITY]
    columns = np.column_stack([covariates, qsmk, qsmk * intensity])
    per_person = real_data.least_squares(real_data.Data(columns, gained)).mean[-2:]
    average = quickstart.estimate(covariates, qsmk, gained).mean("person")
    expected = per_person[0] + per_person[1] * intensity.mean()
    assert expected == pytest.approx(3.517, abs=1e-3)
    assert abs(float(average.mean()) - expected) < MEANS * float(average.std())


def load_example(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
