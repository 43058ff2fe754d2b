"""The wrappers: scikit-learn's own checks, and numbers against closed forms and other solvers."""

import pickle
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.estimator_checks import estimator_checks_generator

from aimz import FitWarning, ImpactModel, InputError
from aimz.inference import LinearKernel, linear_engine
from aimz.sklearn import ImpactClassifier, ImpactRegressor

#: Checks of scikit-learn that may fail, by estimator: name of the check and the reason. None does.
ARGUED: dict[str, dict[str, str]] = {"ImpactRegressor": {}, "ImpactClassifier": {}}
EVERY = 12
PRIOR = 2.5


def checks() -> list[Any]:
    """All checks that scikit-learn has for the two estimators."""
    found = []
    for estimator in (ImpactRegressor(), ImpactClassifier()):
        generated = estimator_checks_generator(
            estimator, expected_failed_checks=ARGUED[type(estimator).__name__], mark="xfail"
        )
        for number, (own, check) in enumerate(generated):
            name = f"{type(own).__name__}-{check.func.__name__}-{number}"
            marks = () if number % EVERY == 0 else pytest.mark.slow
            found.append(pytest.param(own, check, id=name, marks=marks))
    return found


def line(rows: int = 40, columns: int = 3, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    X = rng.normal(size=(rows, columns)) * (1.0, 10.0, 0.1) + (0.0, 50.0, 0.0)
    return X, X @ (2.0, 0.1, -5.0) + 3.0 + noise * rng.normal(size=rows)


def labels(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    X, y = line(rows)
    edges = np.quantile(y, np.arange(1, classes) / classes)
    return X, np.array(["low", "middle", "top"])[np.digitize(y, edges)]


def standardized(X: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (X - X.mean(axis=0)) / X.std(axis=0)
    return scaled


@pytest.fixture(scope="module")
def regressor() -> ImpactRegressor:
    return ImpactRegressor().fit(*line())


@pytest.fixture(scope="module")
def classifier() -> ImpactClassifier:
    return ImpactClassifier().fit(*labels(150, 3))


# Laplace's shape is wrong for some of the tiny data sets of the checks, and says so; a column for
# the outcome is warned of as by every estimator of scikit-learn.
@pytest.mark.filterwarnings(
    "ignore::aimz.errors.FitWarning", "ignore::sklearn.exceptions.DataConversionWarning"
)
@pytest.mark.parametrize(("estimator", "check"), checks())
def test_estimator_passes_the_check_of_scikit_learn(estimator, check):
    check(estimator)


def test_regression_is_the_exact_posterior(regressor):
    X, y = line()
    spread = y.std()
    design = np.column_stack([np.ones(len(X)), standardized(X)])
    moments = []
    for sigma in np.linspace(0.4, 2.5, 300):  # where the noise has its mass, densely
        covariance = sigma**2 * np.eye(len(y)) + (PRIOR * spread) ** 2 * design @ design.T
        log_density = multivariate_normal.logpdf(y, np.full(len(y), y.mean()), covariance)
        log_density -= 0.5 * (sigma / spread) ** 2
        ridge = Ridge((sigma / (PRIOR * spread)) ** 2, fit_intercept=False)
        moments.append((log_density, sigma, ridge.fit(design, y - y.mean()).coef_))
    weights = np.exp(np.array([m[0] for m in moments]) - max(m[0] for m in moments))
    weights /= weights.sum()
    mean = sum(w * m[2] for w, m in zip(weights, moments, strict=True))
    sigma = sum(w * m[1] for w, m in zip(weights, moments, strict=True))
    posterior = regressor.model_.posterior
    expected = y.mean() + design @ mean
    np.testing.assert_allclose(regressor.predict(X), expected, atol=1e-3 * spread / np.sqrt(len(y)))
    # Draws of the noise are stratified: their mean errs far less than sd / sqrt(1000).
    assert float(posterior["sigma"].mean()) == pytest.approx(sigma, rel=2e-3)


def test_spread_of_coefficients_is_that_of_least_squares_where_the_data_say_all():
    X, y = line(4000)
    posterior = ImpactRegressor(num_samples=4000).fit(X, y).model_.posterior
    design = np.column_stack([np.ones(len(X)), X])
    estimate, squares, *_ = np.linalg.lstsq(design, y)
    covariance = squares[0] / (len(y) - 4) * np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(posterior["coef"].mean(0), estimate[1:], rtol=1e-3)
    sd = np.sqrt(np.diag(covariance))[1:]  # Monte Carlo error of an sd: 1 / sqrt(2 * 2000) = 1.6%
    np.testing.assert_allclose(posterior["coef"].std(0), sd, rtol=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [ImpactRegressor(), ImpactClassifier()], ids=["line", "odds"])
def test_default_posterior_agrees_with_chains(estimator):
    X, y = line(60) if isinstance(estimator, ImpactRegressor) else labels(60, 2)
    chains = clone(estimator).set_params(inference="nuts").fit(X, y).model_.posterior["coef"]
    own = estimator.fit(X, y).model_.posterior["coef"]
    sd = chains.std(0)
    gap = np.abs(own.mean(0) - chains.mean(0)) / sd
    assert float(gap.max()) < (0.1 if isinstance(estimator, ImpactRegressor) else 0.5)


@pytest.mark.slow
def test_quantiles_cover_what_they_say():
    X, y = line(4300)
    regressor = ImpactRegressor(num_samples=2000).fit(X[:300], y[:300])
    low, high = regressor.predict_quantiles(X[300:], (0.055, 0.945)).T
    # Standard error of the coverage: 0.005; of 300 rows' estimate of the noise: 0.015.
    assert np.mean((low < y[300:]) & (y[300:] < high)) == pytest.approx(0.89, abs=0.04)


@pytest.mark.parametrize("classes", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_mode_of_the_classifier_is_penalised_logistic_regression(classes):
    X, y = labels(2000, classes)
    posterior = ImpactClassifier().fit(X, y).model_.posterior["coef"].mean(0)
    own = posterior.T * X.std(axis=0)
    C = 2 * PRIOR**2 if classes == 2 else PRIOR**2  # one logit, or one for each class
    peer = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(standardized(X), y).coef_
    # The intercepts of the peer have no prior.
    np.testing.assert_allclose(own[1:] - own[:1] if classes == 2 else own, peer, atol=0.02)


def test_probabilities_are_close_to_penalised_logistic_regression():
    X, y = labels(2000, 3)
    peer = LogisticRegression(C=PRIOR**2, max_iter=5000).fit(standardized(X), y)
    own = ImpactClassifier().fit(X, y).predict_proba(X)
    np.testing.assert_allclose(own, peer.predict_proba(standardized(X)), atol=0.02)


@pytest.mark.parametrize("name", ["regressor", "classifier"])
def test_means_are_those_of_an_effect(name, request):
    estimator = request.getfixturevalue(name)
    X, _ = line()
    fast = np.concatenate(list(estimator._expectations(X)), axis=1)
    with estimator._precision():
        np.testing.assert_allclose(estimator._expected(X), fast, rtol=1e-10, atol=1e-12)


def test_draws_are_outcomes_and_labels(regressor, classifier):
    X, _ = line()
    assert regressor.predict_draws(X).shape == (1000, 40)
    drawn = classifier.predict_draws(X)
    shares = np.stack([np.mean(drawn == label, axis=0) for label in classifier.classes_], axis=1)
    # Five standard errors of a share of 1000 draws.
    np.testing.assert_allclose(shares, classifier.predict_proba(X), atol=0.08)


def test_quantiles_of_probabilities_say_how_sure_they_are(classifier):
    X, _ = line()
    quantiles = classifier.predict_quantiles(X, (0.055, 0.5, 0.945))
    assert quantiles.shape == (40, 3, 3)
    assert np.all(np.diff(quantiles, axis=-1) >= 0)


@pytest.mark.slow
def test_model_inside_answers_outside_double_precision(regressor):
    X, y = line()
    single = regressor.model_.predict_on_batch(X, return_datatree=False)["y"]
    assert single.dtype == np.float32
    moved = X * [0.99, 1.0, 1.0]
    effect = regressor.model_.effect(X, {"X": X}, {"X": moved}, progress=False)
    slope = float(regressor.model_.posterior_tree.posterior["coef"].sel(feature=0).mean())
    expected = slope * (moved - X)[:, 0].mean()
    assert float(effect.draws.mean()) == pytest.approx(expected, rel=1e-3)
    assert np.isfinite(regressor.model_.score(X, y))


def test_names_of_columns_reach_the_model_inside():
    X, y = line()
    frame = pd.DataFrame(X, columns=["dose", "weight", "share"])
    regressor = ImpactRegressor().fit(frame, y)
    assert list(regressor.model_.feature_names_in_) == ["dose", "weight", "share"]
    slope = regressor.model_.posterior_tree.posterior["coef"].sel(feature="weight").mean()
    assert float(slope) == pytest.approx(0.1, abs=0.05)
    reordered = regressor.model_.predict_on_batch(frame[["share", "weight", "dose"]])
    np.testing.assert_array_equal(reordered["posterior_predictive"]["y"].shape, (1, 1000, 40))


NOT_TEXT = [
    (ImpactRegressor, [2, 0, 1]),
    (ImpactRegressor, pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)])),
    (ImpactClassifier, [10, 20, 30]),
]


@pytest.mark.parametrize(("kind", "columns"), NOT_TEXT, ids=["numbers", "pairs", "labels"])
def test_columns_whose_names_are_no_text_keep_the_order_of_the_fit(kind, columns, regressor):
    """scikit-learn compares names that are text, and takes all others by position."""
    X, y = line()
    frame = pd.DataFrame(X).set_axis(columns, axis=1)
    estimator = kind(num_samples=20).fit(frame, (y > np.median(y)).astype(int))
    np.testing.assert_array_equal(estimator.predict(frame), estimator.predict(X))
    for other in (frame[frame.columns[::-1]], frame.set_axis([7, 8, 9], axis=1)):
        with pytest.raises(InputError) as caught:
            estimator.predict(other)
        assert caught.value.code == "columns-mismatch"
    assert regressor.predict(frame).shape == (40,)  # its fit had no names


@pytest.mark.slow
@pytest.mark.parametrize("is_frame", [True, False], ids=["frame", "xarray"])
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
def test_labels_of_columns_of_xarray_keep_the_order_of_the_fit(is_frame):
    """scikit-learn reads no names of an array with labels."""
    X, y = line()
    names = ["dose", "weight", "share"]
    labelled = xr.DataArray(X, dims=("row", "column"), coords={"column": names})
    frame = pd.DataFrame(X, columns=names)
    estimator = ImpactRegressor(num_samples=20).fit(frame if is_frame else labelled, y)
    np.testing.assert_array_equal(estimator.predict(labelled), estimator.predict(X))
    for other in (labelled[:, ::-1], *(() if is_frame else (frame[names[::-1]],))):
        with pytest.raises(InputError) as caught:
            estimator.predict(other)
        assert caught.value.code == "columns-mismatch"


DAYS = pd.date_range("2024-01-01", periods=40)


@pytest.mark.parametrize(
    ("X", "y"),
    [
        (None, DAYS),
        (None, pd.Series(DAYS - DAYS[0])),
        (DAYS.to_numpy()[:, None], None),
        (pd.DataFrame({"day": DAYS, "dose": 1.0}), None),
        (pd.DataFrame({"since": DAYS - DAYS[0]}), None),
    ],
    ids=["outcomes", "durations", "column", "frame", "frame of durations"],
)
def test_dates_are_not_counted_in_nanoseconds(X, y):
    rows, outcomes = line()
    with pytest.raises(InputError, match="dates or times") as caught:
        ImpactRegressor().fit(rows if X is None else X, outcomes if y is None else y)
    assert caught.value.code == "not-numeric"


def test_seed_decides_the_draws():
    X, y = line()
    first, same, other = (ImpactRegressor(random_state=s).fit(X, y) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.predict_draws(X), same.predict_draws(X))
    assert not np.array_equal(first.predict_draws(X), other.predict_draws(X))
    state = ImpactRegressor(random_state=np.random.RandomState(1)).fit(X, y)
    np.testing.assert_allclose(state.predict(X), first.predict(X), rtol=1e-3)


def test_fitted_estimator_survives_pickling(classifier):
    X, _ = line()
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))


def test_constant_outcomes_and_columns_are_fitted():
    X = np.column_stack([np.arange(10.0), np.full(10, 3.0)])
    np.testing.assert_allclose(ImpactRegressor().fit(X, np.full(10, 4.0)).predict(X), 4.0)


def test_posterior_of_another_shape_is_warned_of():
    X = np.random.default_rng(0).normal(size=(30, 20))
    with pytest.warns(FitWarning, match="Pareto-k"):
        ImpactClassifier().fit(X, X[:, 0] > 0)


def bernoulli(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


def three_classes(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([3, 3]).to_event(2))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=X @ b), obs=y)


def known_noise(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)


@pytest.mark.slow
def test_kernel_of_two_classes_is_wrapped():
    X, y = labels(80, 2)
    X = standardized(X)
    classifier = ImpactClassifier(bernoulli, num_steps=400).fit(X, y)
    shares = classifier.predict_proba(X)
    assert shares.shape == (80, 2)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)
    assert classifier.score(X, y) > 0.7


@pytest.mark.slow
def test_kernel_of_other_classes_than_the_labels_is_refused():
    X, y = labels(80, 2)
    classifier = ImpactClassifier(three_classes).fit(standardized(X), y)
    with pytest.raises(InputError, match="3 classes") as caught:
        classifier.predict(X)
    assert caught.value.code == "classes-differ"


@pytest.mark.slow
def test_kernel_is_wrapped_as_its_model_would_be():
    X, y = line()
    x = X[:, 0]
    regressor = ImpactRegressor(known_noise, num_samples=2000).fit(X, y)
    model = ImpactModel(known_noise, num_samples=2000).fit(X, y, progress=False)
    np.testing.assert_array_equal(regressor.model_.posterior["b"], model.posterior["b"])
    slope = float(model.posterior["b"].mean())
    np.testing.assert_allclose(regressor.predict(X), slope * x, rtol=1e-4, atol=1e-5)
    assert slope == pytest.approx(x @ y / (x @ x + 1), abs=0.15 / np.sqrt(x @ x + 1))


def test_engine_of_another_kernel_is_refused():
    X, y = line()
    with pytest.raises(ValueError, match="LinearKernel only"):
        ImpactModel(known_noise, inference=linear_engine(LinearKernel)).fit(X, y, progress=False)


def test_engine_gives_more_draws():
    regressor = ImpactRegressor().fit(*line())
    more = regressor.model_.sample(num_samples=50, return_datatree=False)
    assert more["coef"].shape == (50, 3)
    assert not np.isin(more["sigma"], regressor.model_.posterior["sigma"]).any()


def test_standard_deviations_are_those_of_outcomes(regressor):
    X, _ = line()
    mean, std = regressor.predict(X, return_std=True)
    np.testing.assert_array_equal(mean, regressor.predict(X))
    np.testing.assert_allclose(std, regressor.predict_draws(X).std(axis=0), rtol=0.12)


def test_coefficients_say_what_the_means_are(regressor, classifier):
    X, _ = line()
    np.testing.assert_allclose(X @ regressor.coef_ + regressor.intercept_, regressor.predict(X))
    logits = X @ classifier.coef_.T + classifier.intercept_
    assert logits.shape == (40, 3)
    by_mode = classifier.classes_[np.argmax(logits, axis=1)]
    assert np.mean(by_mode == classifier.predict(X)) > 0.9


def test_coefficients_of_two_classes_are_log_odds():
    X, _ = line(400)
    y = (X[:, 0] + np.random.default_rng(1).normal(size=400) > 0).astype(int)
    ours = ImpactClassifier().fit(X, y)
    theirs = LogisticRegression(C=PRIOR**2).fit(X, y)
    assert ours.coef_.shape == (1, 3)
    assert ours.intercept_.shape == (1,)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=0.35)
    shares = ours.predict_proba(X)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert np.abs(shares - theirs.predict_proba(X)).max() < 0.05


@pytest.mark.slow
def test_a_kernel_of_ones_own_has_no_coefficients():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    X, y = line()
    own = ImpactRegressor(kernel, num_steps=100)
    assert not hasattr(own, "coef_")
    assert not hasattr(ImpactRegressor(), "coef_")
    own.fit(X, y)
    assert not hasattr(own, "intercept_")
    mean, std = own.predict(X, return_std=True)
    np.testing.assert_allclose(std, 1.0, atol=0.15)
    assert mean.shape == (40,)


def test_many_quantiles_come_from_disk_and_are_the_same(regressor, monkeypatch):
    X, _ = line()
    held = regressor.predict_quantiles(X, (0.1, 0.5))
    monkeypatch.setattr("aimz.sklearn._VALUES_HELD", 0)
    monkeypatch.setattr("aimz.sklearn._VALUES_AT_ONCE", 7_000)
    np.testing.assert_array_equal(regressor.predict_quantiles(X, (0.1, 0.5)), held)
