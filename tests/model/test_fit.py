"""The fit's contract: afresh each time, private, safe to fail, and right through the estimator."""

import copy
import pickle
import warnings
from typing import Any

import dask.array
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from numpyro.infer import HMC, MCMC, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from scipy.stats import multivariate_normal
from sklearn.base import clone

from aimz import (
    FitWarning,
    ImpactModel,
    InputError,
    KernelValidationError,
    NotFittedError,
    PerformanceWarning,
)
from aimz.utils.data import ArrayDataset, ArrayLoader

SIGMA = 0.5


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, SIGMA), obs=y)


def data(n=80, seed=0, slope=1.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)).astype(np.float32)
    y = X @ np.array([slope, -1.0]) + SIGMA * rng.normal(size=n)
    return X, y.astype(np.float32)


def closed_form(X, y):
    """Mean and sd of the slopes under a standard normal prior."""
    X, y = X.astype(float), y.astype(float)
    covariance = np.linalg.inv(X.T @ X / SIGMA**2 + np.eye(2))
    return covariance @ (X.T @ y) / SIGMA**2, np.sqrt(np.diag(covariance))


def own_svi():
    return SVI(kernel, AutoNormal(kernel), optax.adam(5e-2), Trace_ELBO())


def quick(inference="svi", **settings):
    return ImpactModel(kernel, inference=inference, num_samples=200, **settings)


@pytest.fixture(scope="module")
def fitted():
    return quick().fit(*data(), progress=False)


@pytest.mark.slow
def test_default_fit_agrees_with_the_closed_form():
    X, y = data()
    posterior = ImpactModel(kernel, num_samples=4000).fit(X, y, progress=False).posterior["b"]
    mean, sd = closed_form(X, y)
    error = np.abs(posterior.mean(0) - mean) / sd
    assert np.all(error < 0.05 + 3 / np.sqrt(4000))
    ratio = posterior.std(0) / sd
    assert np.all(np.abs(ratio - 1) < 0.05 + 3 / np.sqrt(8000))


@pytest.mark.parametrize("kind", ["loader", "dask"])
def test_rows_from_elsewhere_fit_as_the_array_does(fitted, kind):
    X, y = data()
    if kind == "loader":
        model = quick().fit(ArrayLoader(ArrayDataset(X=X, y=y), 0, batch_size=33), progress=False)
    else:
        model = quick().fit(dask.array.from_array(X, chunks=(7, 1)), y, progress=False)
    np.testing.assert_array_equal(model.posterior["b"], fitted.posterior["b"])


@pytest.mark.slow
def test_refit_on_other_data_equals_a_new_model(fitted):
    other = data(30, seed=1, slope=3.0)
    refitted = copy.deepcopy(fitted).fit(*other, progress=False)
    np.testing.assert_array_equal(
        refitted.posterior["b"], quick().fit(*other, progress=False).posterior["b"]
    )


@pytest.mark.slow
def test_models_may_share_one_inference_object():
    shared, fresh = own_svi(), own_svi()

    def fit(inference, *sample):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)  # so short a fit may well say so
            return quick(inference).fit_on_batch(*sample, progress=False, num_steps=50)

    fit(shared, *data(seed=3))  # other shapes are in test_inference_svi.py
    np.testing.assert_array_equal(
        fit(shared, *data()).posterior["b"], fit(fresh, *data()).posterior["b"]
    )


def test_failed_fit_leaves_the_last_good_one():
    X, y = data()
    model = quick().fit(X, y, progress=False)
    before = model.posterior["b"]
    with pytest.raises(InputError, match="80 rows"):
        model.fit(X, y[:7], progress=False)
    y_bad = y.copy()
    y_bad[3] = np.nan
    with pytest.raises(InputError, match="'y' holds 1 values that are not finite"):
        model.fit(X, y_bad, progress=False)
    np.testing.assert_array_equal(model.posterior["b"], before)


def test_outcome_of_one_column_is_refused_not_broadcast():
    X, y = data()
    with pytest.raises((InputError, KernelValidationError), match=r"\(80, 1\)"):
        quick().fit(X, y[:, None], progress=False)


def test_trained_steps_continue_and_become_draws():
    X, y = data()
    model = quick()
    losses = [model.train_on_batch(X, y)[1] for _ in range(20)]
    # The start is the posterior here, and so the loss is minus the log evidence from the start.
    evidence = multivariate_normal(np.zeros(80), X @ X.T + SIGMA**2 * np.eye(80)).logpdf(y)
    assert np.mean(losses) == pytest.approx(-evidence, abs=0.02)
    with pytest.raises(NotFittedError, match="Call sample"):
        model.predict(X)
    draws = model.sample(num_samples=50, return_datatree=False)["b"]
    assert draws.shape == (50, 2)
    assert np.isfinite(model.predict_on_batch(X).posterior_predictive["y"]).all()


def test_a_step_after_a_fit_leaves_no_draws_to_predict_with(fitted):
    X, y = data()
    model = copy.deepcopy(fitted)
    model.train_on_batch(X, y)
    with pytest.raises(NotFittedError, match="Call sample"):
        model.predict(X)
    model.sample(num_samples=20)
    model.train_on_batch(X, y)
    with pytest.raises(NotFittedError, match="Call sample"):
        model.predict(X)


@pytest.mark.slow
def test_sample_continues_and_never_repeats(fitted):
    model = copy.deepcopy(fitted)
    first, second = (model.sample(num_samples=30, return_datatree=False)["b"] for _ in range(2))
    assert not np.array_equal(first, second)
    X, y = data()
    mcmc = MCMC(HMC(kernel), num_warmup=50, num_samples=30, num_chains=1, progress_bar=False)
    chains = ImpactModel(kernel, inference=mcmc, num_samples=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # so short a chain may well say so
        chains.fit(X, y, progress=False)
    draws: list[Any] = [chains.posterior["b"]]
    draws += [chains.sample(num_samples=30, return_datatree=False)["b"] for _ in range(2)]
    assert len(np.unique(np.concatenate(draws)[:, 0])) > 60


@pytest.mark.slow
def test_vi_result_of_numpyro_can_be_read_and_set():
    X, y = data()
    svi = own_svi()
    result = svi.run(jax.random.key(0), 300, X=X, y=y, progress_bar=False)
    model = quick(svi)
    model.vi_result = result
    np.testing.assert_allclose(
        model.posterior["b"].mean(0),
        result.params["b_auto_loc"],
        atol=4 * 0.07 / np.sqrt(200),
    )
    fitted = quick(svi).fit_on_batch(X, y, num_steps=300, progress=False)
    np.testing.assert_allclose(
        fitted.vi_result.params["b_auto_loc"], result.params["b_auto_loc"], atol=0.1
    )


@pytest.mark.slow
def test_weights_equal_repeated_rows():
    X, y = data(40)
    twice = np.concatenate([X, X]), np.concatenate([y, y])
    weighted = quick().fit(X, y, sample_weight=np.full(40, 2.0), progress=False).posterior["b"]
    repeated = quick().fit(*twice, progress=False).posterior["b"]
    sd = closed_form(*twice)[1]
    difference = (weighted.mean(0) - repeated.mean(0)) / sd
    assert np.all(np.abs(difference) < 0.1 + 4 * np.sqrt(2 / 200))


@pytest.mark.slow
def test_interacting_rows_are_fitted_whole_with_a_warning():
    def centred(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * (X[:, 0] - X[:, 0].mean()), SIGMA), obs=y)

    X, y = data()
    with pytest.warns(PerformanceWarning, match="fitted at once"):
        got = ImpactModel(centred, num_samples=2000).fit(
            X, y, batch_size=10, epochs=200, progress=False
        )
    x = X[:, 0] - X[:, 0].mean()
    precision = x @ x / SIGMA**2 + 1
    mean = x @ y / SIGMA**2 / precision
    assert abs(float(got.posterior["b"].mean()) - mean) * np.sqrt(precision) < 0.15


def test_clone_pickle_and_repr_work(fitted):
    X, _ = data()
    expected = fitted.predict_on_batch(X, return_datatree=False)["y"]
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(
        restored.predict_on_batch(X, return_datatree=False)["y"], expected
    )
    assert not clone(fitted).is_fitted()
    svi = own_svi()
    assert "ImpactModel" in repr(ImpactModel(kernel, inference=svi))
    assert clone(ImpactModel(kernel, inference="nuts")).inference == "nuts"


def test_describe_is_plain_python(fitted):
    account = fitted.describe()
    assert account["sites"]["y"]["kind"] == "observed"
    assert account["posterior"]["b"] == (1, 200, 2)
    assert account["health"]["engine"] == "svi"


def test_other_columns_than_fitted_are_refused(fitted):
    with pytest.raises(InputError, match=r"\(3,\).*\(2,\)"):
        fitted.predict(np.zeros((5, 3)))


@pytest.mark.slow
def test_local_latents_belong_to_the_fitted_rows():
    def local(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Normal(a, 1.0))
            numpyro.sample("y", dist.Normal(z, 0.1), obs=y)

    X = np.zeros((12, 1), np.float32)
    X[:, 0] = np.arange(12)
    y = np.linspace(-1, 1, 12).astype(np.float32)
    model = ImpactModel(local, num_samples=300).fit(X, y, progress=False)
    mean = model.predict_on_batch(X).posterior_predictive["y"].mean(("chain", "draw"))
    np.testing.assert_allclose(mean, y, atol=0.1)
    with pytest.raises(InputError, match="'z' has one value per fitted row"):
        model.predict(X[:5], progress=False)
    new = model.predict_on_batch(X[:5], in_sample=False).predictions["y"]
    assert 0.7 < float(new.std()) < 1.4


def test_frame_rows_and_series_are_accepted():
    X, y = data()
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = quick().fit(frame, pd.Series(y), progress=False)
    np.testing.assert_array_equal(
        model.posterior["b"], quick().fit(X, y, progress=False).posterior["b"]
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: quick("svii"), "Did you mean 'svi'"),
        (lambda: quick(3), "inference"),
        (lambda: quick().fit(*data(), epochs=0, progress=False), "epochs"),
        (lambda: quick().fit(*data(), num_samples=-1, progress=False), "num_samples"),
        (lambda: quick().fit(data()[0], None, progress=False), "needs outcomes"),
        (lambda: quick().fit(data()[0], progress=False), "needs outcomes"),
        (
            lambda: quick().fit([dict(zip("Xy", data()))], data()[1], progress=False),
            "by name and is in the batches",
        ),
        (lambda: quick().fit(*data(), Z=1, progress=False), "no argument 'Z'"),
        (lambda: quick().fit(*data(), missing="drop", progress=False), "missing"),
        (lambda: quick().fit(*data(), sample_weight=[1.0], progress=False), r"\(1,\)"),
        (lambda: quick("nuts").train_on_batch(*data()), "cannot train by steps"),
    ],
)
def test_bad_fits_name_the_thing_and_the_fix(call, match):
    def run():
        result = call()
        if isinstance(result, ImpactModel):
            result.fit(*data(), progress=False)

    with pytest.raises(InputError, match=match):
        run()


def test_kernel_without_latents_predicts_from_its_parameters():
    def fixed(X, y=None):
        mean = numpyro.param("mean", 0.0)
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    y = np.linspace(2.0, 4.0, 50, dtype=np.float32)
    model = ImpactModel(fixed, num_samples=500).fit(np.zeros((50, 1)), y, progress=False)
    predicted = model.predict_on_batch(np.zeros((50, 1))).posterior_predictive["y"]
    assert abs(float(predicted.mean()) - 3.0) < 0.05 + 4 / np.sqrt(500 * 50)
