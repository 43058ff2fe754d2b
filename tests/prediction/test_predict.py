"""Predictions against NumPyro itself and against closed forms."""

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from numpyro.infer import Predictive
from numpyro.infer import log_likelihood as numpyro_log_likelihood
from scipy import stats
from scipy.special import logsumexp

from aimz import ImpactModel, InputError, NotFittedError, OutputWarning

N, DRAWS = 50, 400


def kernel(X, t=0.0, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    mu = numpyro.deterministic("mu", a + X @ b + 3.0 * t)
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 0.5), obs=y)


def two_outcomes(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("kind", 3, dim=-2), numpyro.plate("unit", X.shape[0], dim=-1):
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def draws():
    rng = np.random.default_rng(1)
    return {
        "a": rng.normal(size=DRAWS).astype(np.float32),
        "b": rng.normal(size=(DRAWS, 2)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def model(draws):
    return ImpactModel(kernel).set_posterior_sample(draws, num_chains=2)


def test_expected_outcome_equals_that_of_numpyro(model, draws, X):
    got = model.predict_on_batch(X, t=1.0, return_datatree=False)["mu"]
    expected = Predictive(kernel, draws)(jax.random.key(0), X=X, t=1.0)["mu"]
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6)


def test_outcome_noise_follows_the_kernel(model, X):
    tree = model.predict(X, progress=False).posterior_predictive
    noise = (tree["y"] - tree["mu"]).values.ravel() / 0.5
    assert stats.kstest(noise, "norm").pvalue > 1e-3


def test_log_likelihood_equals_that_of_numpyro(model, draws, X):
    y = np.linspace(-2, 2, N, dtype=np.float32)
    got = model.log_likelihood(X, y, progress=False).log_likelihood["y"]
    expected = numpyro_log_likelihood(kernel, draws, X=X, y=y)["y"]
    np.testing.assert_allclose(got.values.reshape(DRAWS, N), expected, rtol=1e-5, atol=1e-5)


def test_log_likelihood_of_a_second_axis_equals_that_of_numpyro(X):
    draws = {"b": np.linspace(-1, 1, 7, dtype=np.float32)}
    y = np.random.default_rng(2).normal(size=(3, N)).astype(np.float32)
    model = ImpactModel(two_outcomes).set_posterior_sample(draws)
    with pytest.raises(InputError, match="3"):
        model.log_likelihood(X, y, progress=False)


def test_row_axis_may_stand_second(X):
    draws = {"b": np.linspace(-1, 1, 7, dtype=np.float32)}
    model = ImpactModel(two_outcomes).set_posterior_sample(draws)
    y = model.predict(X, progress=False).posterior_predictive["y"]
    assert y.dims == ("chain", "draw", "kind", "unit")
    residual = y.values[0] - draws["b"][:, None, None] * X[:, 0]
    assert stats.kstest(residual.ravel(), "norm").pvalue > 1e-3
    assert len(np.unique(residual)) == residual.size


def test_prior_predictive_moments(X):
    tree = ImpactModel(kernel).sample_prior_predictive(X, num_samples=4000, progress=False)
    mu = tree.prior_predictive["mu"].values[0]
    sd = np.sqrt(4 + (X**2).sum(1))
    assert np.all(np.abs(mu.mean(0)) < 4.5 * sd / np.sqrt(4000))
    assert np.all(np.abs(mu.std(0) / sd - 1) < 4.5 / np.sqrt(8000))


def test_score_is_the_mean_log_predictive_density(model, draws, X):
    y = np.zeros(N, np.float32)
    density = numpyro_log_likelihood(kernel, draws, X=X, y=y)["y"]
    expected = np.mean(jax.scipy.special.logsumexp(density, axis=0) - np.log(DRAWS))
    assert model.score(X, y) == pytest.approx(float(expected), rel=1e-5)


def test_chains_plates_labels_and_attributes_are_kept(model, X):
    labels = [f"p{i}" for i in range(N)]
    frame = pd.DataFrame(X, index=labels)
    tree = model.predict(frame, progress=False)
    y = tree.posterior_predictive["y"]
    assert y.dims == ("chain", "draw", "person")
    assert y.shape == (2, DRAWS // 2, N)
    assert list(y["person"].values) == labels
    assert tree.attrs["inference_library"] == "aimz"


def test_equal_calls_give_equal_draws_and_other_rows_independent_ones(model, X):
    first, again = (model.predict_on_batch(X, return_datatree=False)["y"] for _ in range(2))
    other = model.predict_on_batch(X + 1, return_datatree=False)
    noise = first - model.predict_on_batch(X, return_datatree=False)["mu"]
    np.testing.assert_array_equal(first, again)
    correlation = np.corrcoef(noise.ravel(), (other["y"] - other["mu"]).ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(noise.size)


def test_leading_rows_draw_the_leading_draws_under_one_key(model, X):
    key = jax.random.key(3)
    whole = model.predict_on_batch(X, rng_key=key, return_datatree=False)["y"]
    part = model.predict_on_batch(X[:20], rng_key=key, return_datatree=False)["y"]
    np.testing.assert_allclose(part, whole[:, :20], rtol=1e-6, atol=1e-6)


def test_effect_of_two_argument_sets_is_paired(model, X):
    effect = model.estimate_effect(
        args_baseline={"X": X, "t": 0.0}, args_intervention={"X": X, "t": 1.0}, on_batch=True
    )
    np.testing.assert_allclose(effect.posterior_predictive["y"], 3.0, atol=1e-5)


def test_effect_of_trees_with_other_keys_warns(model, X):
    baseline = model.predict_on_batch(X, rng_key=1)
    intervention = model.predict_on_batch(X, rng_key=2)
    with pytest.warns(OutputWarning, match="rng_key="):
        model.estimate_effect(baseline, intervention)


def idle(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("c", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a + 0 * X[:, 0], 1.0), obs=y)


def chain(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        m = numpyro.sample("m", dist.Normal(a + X[:, 0], 1.0))
        numpyro.sample("y", dist.Normal(2.0 * m, 0.1), obs=y)


@pytest.fixture(scope="module")
def chain_model():
    return ImpactModel(chain).set_posterior_sample({"a": np.linspace(-1, 1, 6)})


def test_intervention_sets_a_value_for_each_row(chain_model, X):
    values = np.arange(N, dtype=np.float32)
    got = chain_model.predict_on_batch(
        X, intervention={"m": values}, in_sample=False, return_sites=["m", "y"]
    ).predictions
    np.testing.assert_array_equal(got["m"].values[0, 3], values)
    np.testing.assert_allclose(got["y"].values[0].mean(0), 2 * values, atol=0.3)


def test_intervention_may_be_a_function_of_the_natural_value(chain_model, X):
    key = jax.random.key(0)
    natural, doubled = (
        chain_model.predict_on_batch(
            X,
            intervention=setting,
            rng_key=key,
            in_sample=False,
            return_sites=["m", "y"],
            return_datatree=False,
        )
        for setting in (None, {"m": lambda m: m + 1})
    )
    np.testing.assert_allclose(doubled["m"], natural["m"] + 1, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(doubled["y"], natural["y"] + 2, rtol=1e-4, atol=1e-4)


def test_intervention_redraws_what_lies_below_it(X):
    posterior = {"a": np.zeros(5), "m": np.full((5, N), 7.0)}
    model = ImpactModel(chain).set_posterior_sample(posterior)
    kept = model.predict_on_batch(X, return_sites="m", return_datatree=False)["m"]
    np.testing.assert_array_equal(kept, 7.0)
    redrawn = model.predict_on_batch(
        X, intervention={"a": 5.0}, return_sites="m", return_datatree=False
    )["m"]
    assert stats.kstest((redrawn - 5.0 - X[:, 0]).ravel(), "norm").pvalue > 1e-3


def test_intervention_that_redraws_a_global_latent_warns(X):
    def nested(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        b = numpyro.sample("b", dist.Normal(a, 1.0))
        numpyro.sample("y", dist.Normal(b + 0 * X[:, 0], 1.0), obs=y)

    model = ImpactModel(nested).set_posterior_sample({"a": np.zeros(5), "b": np.zeros(5)})
    with pytest.warns(OutputWarning, match="redraws b from the prior"):
        model.predict_on_batch(X, intervention={"a": 1.0})


def test_intervention_that_reaches_nothing_warns(X):
    model = ImpactModel(idle).set_posterior_sample({"a": np.zeros(5), "c": np.zeros(5)})
    with pytest.warns(OutputWarning, match="cannot change 'y'"):
        model.predict(X, intervention={"c": 1.0}, progress=False)


def test_posterior_draws_of_another_shape_are_refused(X):
    model = ImpactModel(chain).set_posterior_sample({"a": np.zeros(5), "m": np.zeros((5, 60))})
    with pytest.raises(InputError, match=r"'m' has shape \(60,\).*\(50,\)"):
        model.predict(X, progress=False)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m, X: m.predict(X, intervention={"mm": 0}), "Did you mean 'm'"),
        (lambda m, X: m.predict(X, intervention={"m": np.zeros(3)}), r"\(3,\).*\(50,\)"),
        (lambda m, X: m.predict(X, intervention={"m": np.zeros((N, 1))}), r"\(50, 1\)"),
        (lambda m, X: m.predict(X, return_sites="yy"), "Did you mean 'y'"),
        (lambda m, X: m.predict(X, tt=1), "no argument 'tt'"),
        (lambda m, X: m.predict(X[:0]), "no rows"),
        (lambda m, X: m.predict([["a"]] * N), "text"),
        (lambda m, X: m.predict(X, store="cloud"), "memory"),
        (lambda m, X: m.predict(X, shard_axis="rows"), "shard_axis"),
        (lambda m, X: m.predict(X, batch_size=0), "batch_size"),
        (lambda m, X: m.predict(X, rng_key="seed"), "rng_key"),
        (lambda m, X: m.log_likelihood(X, np.zeros((N, 1))), r"\(50, 1\)"),
        (lambda m, X: m.log_likelihood(X, np.zeros(N)), "no draws of 'm'"),
        (lambda m, X: m.log_likelihood(X, np.zeros(3)), r"\(3,\)"),
        (lambda m, X: m.sample_prior_predictive(X, num_samples=0), "num_samples"),
    ],
)
def test_bad_calls_name_the_thing_and_the_fix(chain_model, X, call, match):
    with pytest.raises(InputError, match=match):
        call(chain_model, X)


def test_predicting_before_fitting_is_an_error(X):
    with pytest.raises(NotFittedError, match="Call fit"):
        ImpactModel(kernel).predict(X)


def test_arviz_takes_results_as_they_come(model, X):
    posterior = {"a": np.full(200, 0.1), "b": np.zeros((200, 2))}
    rng = np.random.default_rng(3)
    posterior = {n: v + rng.normal(size=v.shape) / 20 for n, v in posterior.items()}
    model = ImpactModel(kernel).set_posterior_sample(posterior)
    y = model.predict_on_batch(X, return_datatree=False)["y"][0]
    tree = model.log_likelihood(X, y, progress=False)
    loo = arviz.loo(tree)
    assert np.isfinite(loo.elpd)
    summary = arviz.summary(tree)
    assert "a" in summary.index


def test_row_coordinates_of_xarray_input_are_kept(model, X):
    data = xr.DataArray(X, dims=("who", "col"), coords={"who": np.arange(N) + 100})
    y = model.predict(data, progress=False).posterior_predictive["y"]
    assert int(y["person"][0]) == 100


def test_a_score_sums_whatever_axis_the_rows_are_on():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("out", 3, dim=-2), numpyro.plate("obs", X.shape[0], dim=-1):
            y = None if y is None else y.T
            numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    def custom(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        if y is None:
            numpyro.deterministic("y", b * X[:, 0])
        else:
            numpyro.factor("density", dist.Normal(b * X[:, 0], 1.0).log_prob(y))

    rng = np.random.default_rng(0)
    b, X, y = rng.normal(size=7), rng.normal(size=(5, 1)), rng.normal(size=(5, 3))
    densities = stats.norm.logpdf(y[None], b[:, None, None] * X[None])
    for own, seen, rows in ((kernel, y, densities.sum(-1)), (custom, y[:, 0], densities[..., 0])):
        expected = np.mean(logsumexp(rows, axis=0) - np.log(7))
        got = ImpactModel(own).set_posterior_sample({"b": b}).score(X, seen)
        assert got == pytest.approx(expected, rel=1e-5)
