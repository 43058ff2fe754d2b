"""A model among scikit-learn's own: pipelines, cross-validation, grids, routed metadata, clones."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import sklearn
from causaldata import nhefs_complete
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from aimz import ImpactModel, InputError, NotFittedError
from aimz.sklearn import ImpactRegressor

NUMBERS = ["age", "wt71", "smokeintensity"]
CATEGORIES = ["sex", "education", "exercise"]
FOLDS = KFold(3, shuffle=True, random_state=0)


def dosed(X, t, y=None):
    """One value of `t` per row moves the outcome."""
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * t + X[:, 0], 1.0), obs=y)


def make_kernel(width: float) -> Any:
    """A regression whose coefficients have priors of a width."""

    def kernel(X, y=None):
        level = numpyro.sample("level", dist.Normal(0.0, 10.0))
        coef = numpyro.sample("coef", dist.Normal(0.0, width).expand([X.shape[1]]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(level + X @ coef, sigma), obs=y)

    return kernel


def quick(kernel: Any = dosed, **options: Any) -> ImpactModel:
    return ImpactModel(kernel, **{"num_steps": 100, "num_samples": 50, **options})


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(scope="module")
def dose() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows, outcomes, and arguments whose rows all differ."""
    rng = np.random.default_rng(3)
    X, t = rng.normal(size=(60, 2)), rng.permutation(60) / 10.0
    return X, X[:, 0] + t + rng.normal(size=60), t, rng.uniform(0.5, 2.0, 60)


@pytest.fixture(scope="module")
def people() -> tuple[pd.DataFrame, pd.Series]:
    """People who smoked, with categories as categories, and the weight that they gained."""
    frame = nhefs_complete.load_pandas().data.iloc[:240]
    X = frame[NUMBERS].astype(float).join(frame[CATEGORIES].astype("string").astype("category"))
    return X, frame["wt82_71"].astype(float)


def encoded(last: Any) -> Pipeline:
    """A model behind standardized numbers and categories as columns of 0 and 1."""
    onehot = OneHotEncoder(drop="first", sparse_output=False)
    columns = [("numbers", StandardScaler(), NUMBERS), ("categories", onehot, CATEGORIES)]
    return make_pipeline(ColumnTransformer(columns), last)


# ------------------------------------------------------------------ metadata


def test_rows_of_an_argument_arrive_with_their_fold(routing, dose):
    X, y, t, weights = dose
    im = quick().set_fit_request(t=True, sample_weight="importance", progress=True)
    im.set_score_request(t=True, sample_weight="importance")
    params = {"t": t, "importance": weights, "progress": False}
    scores = cross_val_score(im, X, y, cv=FOLDS, params=params, error_score="raise")
    for got, (train, test) in zip(scores, FOLDS.split(X), strict=True):
        own = quick().fit(
            X[train], y[train], t=t[train], sample_weight=weights[train], progress=False
        )
        assert got == own.score(X[test], y[test], t=t[test], sample_weight=weights[test])


@pytest.mark.slow
def test_rows_of_an_argument_arrive_through_a_pipeline(routing, dose):
    X, y, t, _ = dose
    im = quick().set_fit_request(t=True, progress=True).set_score_request(t=True)
    im.set_predict_request(t=True, store=True, progress=True)
    pipe = make_pipeline(StandardScaler(), im)
    scores = cross_val_score(
        pipe, X, y, cv=FOLDS, params={"t": t, "progress": False}, error_score="raise"
    )
    train, test = next(FOLDS.split(X))
    scaler = StandardScaler().fit(X[train])
    own = quick().fit(scaler.transform(X[train]), y[train], t=t[train], progress=False)
    assert scores[0] == own.score(scaler.transform(X[test]), y[test], t=t[test])
    pipe.fit(X[train], y[train], t=t[train], progress=False)
    tree = pipe.predict(X[test], t=t[test], store="memory", progress=False)
    np.testing.assert_array_equal(
        tree["posterior_predictive"]["y"],
        own.predict_on_batch(scaler.transform(X[test]), t=t[test])["posterior_predictive"]["y"],
    )


def test_metadata_that_nobody_asked_for_is_an_error(routing, dose):
    X, y, t, _ = dose
    with pytest.raises(ValueError, match="set_fit_request"):
        cross_val_score(quick(), X, y, params={"t": t}, error_score="raise")


def test_requests_survive_a_clone_and_do_not_keep_the_original(routing):
    im = quick().set_fit_request(t="dose").set_score_request(t=False)
    again = clone(clone(im))
    assert again.get_metadata_routing().fit.requests["t"] == "dose"
    assert again.get_metadata_routing().score.requests["t"] is False
    assert im.set_fit_request(t=None) is im
    assert again.get_metadata_routing().fit.requests["t"] == "dose"
    assert isinstance(again.get_metadata_routing().owner, str)


def test_requests_follow_the_kernel(routing):
    im = quick().set_fit_request(t=True, sample_weight=True)
    requests = im.set_params(kernel=make_kernel(1.0)).get_metadata_routing().fit.requests
    assert "t" not in requests
    assert requests["sample_weight"] is True


def test_request_of_another_name_is_refused(routing):
    with pytest.raises(InputError, match="There is no argument 'tt'") as caught:
        quick().set_fit_request(tt=True)
    assert caught.value.code == "argument-unknown"
    with pytest.raises(InputError) as caught:
        quick().set_score_request(tt=True)
    assert caught.value.code == "argument-unknown"
    with pytest.raises(InputError, match="True, False, None or a name") as caught:
        quick().set_fit_request(t="not a name")
    assert caught.value.code == "option-unknown"


def test_request_without_routing_is_refused():
    with pytest.raises(InputError, match="enable_metadata_routing") as caught:
        quick().set_fit_request(t=True)
    assert caught.value.code == "routing-off"


# ------------------------------------------------------------------- citizens


def test_weights_of_a_score_are_rows_repeated(dose):
    X, y, t, _ = dose
    im = quick().set_posterior_sample({"b": np.linspace(0.5, 1.5, 20)})
    twice = np.repeat(np.arange(60), 1 + np.arange(60) % 2)
    score = im.score(X, y, t=t, sample_weight=1.0 + np.arange(60) % 2)
    assert score == pytest.approx(im.score(X[twice], y[twice], t=t[twice]), rel=1e-5)
    with pytest.raises(InputError, match="one weight"):
        im.score(X, y, t=t, sample_weight=np.ones(59))
    labels = np.array([f"person {number}" for number in range(60)])
    frame = pd.DataFrame(X, index=labels)
    weights = pd.Series(1.0 + np.arange(60) % 2, index=labels).sort_values()
    assert im.score(frame, y, t=t, sample_weight=weights) == score
    with pytest.raises(InputError, match="in another order"):
        im.score(X, pd.Series(y, index=labels), t=t, sample_weight=weights)


@pytest.mark.slow
def test_columns_of_the_fit_are_known_by_scikit_learns_names(dose):
    X, y, t, _ = dose
    im = quick()
    assert not hasattr(im, "n_features_in_")
    im.fit(X, y, t=t, progress=False)
    assert im.n_features_in_ == 2
    assert not hasattr(im, "feature_names_in_")
    im.fit(pd.DataFrame(X, columns=["a", "b"]), y, t=t, progress=False)
    assert im.feature_names_in_.tolist() == ["a", "b"]
    im.set_posterior_sample({"b": np.ones(5)})
    assert not hasattr(im, "n_features_in_")
    with pytest.raises(NotFittedError):
        _ = quick().feature_names_in_


@pytest.mark.parametrize("inference", ["svi", "nuts"])
def test_picture_of_a_fitted_model_is_drawn(inference):
    im = quick(inference=inference)
    im.set_posterior_sample({"b": np.ones(5)})
    assert "ImpactModel" in im._repr_html_()


@pytest.mark.slow
def test_fitted_clone_is_a_new_model_bit_for_bit(dose):
    X, y, t, _ = dose
    used = quick().fit(X[:30], y[:30], t=t[:30], progress=False)
    used.predict_on_batch(X, t=t)
    again = clone(used).fit(X, y, t=t, progress=False)
    new = quick().fit(X, y, t=t, progress=False)
    np.testing.assert_array_equal(again.posterior["b"], new.posterior["b"])
    np.testing.assert_array_equal(
        again.predict_on_batch(X, t=t, return_datatree=False)["y"],
        new.predict_on_batch(X, t=t, return_datatree=False)["y"],
    )


# ------------------------------------------------------------------- pipelines


@pytest.mark.slow
def test_model_is_the_last_step_behind_categories(people):
    X, y = people
    pipe = encoded(quick(make_kernel(1.0), num_steps=600, num_samples=200))
    pipe.fit(X, y, impactmodel__progress=False)
    columns = pipe[:-1].transform(X)
    assert pipe[-1].n_features_in_ == columns.shape[1] == 3 + 1 + 4 + 2
    # Ridge regression at the noise that was found: Normal(0, 1) priors, the intercept's is wide.
    sigma = float(pipe[-1].posterior["sigma"].mean())
    design = np.column_stack([np.ones(len(y)), columns])
    penalty = np.diag([0.01] + [1.0] * columns.shape[1]) * sigma**2
    ridge = np.linalg.solve(design.T @ design + penalty, design.T @ y)
    sd = sigma * np.sqrt(np.diag(np.linalg.inv(design.T @ design + penalty)))
    found = pipe[-1].posterior["coef"].mean(0)
    # 200 draws: a standard error of 0.07 sd, and as much for a fit of 600 steps.
    assert np.abs((found - ridge[1:]) / sd[1:]).max() < 0.4
    assert len(pipe.predict(X, store="memory", progress=False).posterior_predictive["y"].obs) == 240


@pytest.mark.slow
def test_cross_validation_returns_fitted_pipelines(people):
    X, y = people
    done = cross_validate(
        encoded(quick(make_kernel(1.0))),
        X,
        y,
        cv=2,
        params={"impactmodel__progress": False},
        return_estimator=True,
        error_score="raise",
    )
    test = list(KFold(2).split(X))[1][1]
    assert done["estimator"][1].score(X.iloc[test], y.iloc[test]) == done["test_score"][1]


@pytest.mark.slow
def test_pandas_out_gives_the_model_names_of_columns(people):
    X, y = people
    pipe = encoded(quick(make_kernel(1.0))).set_output(transform="pandas")
    pipe.fit(X, y, impactmodel__progress=False)
    assert "categories__sex_1" in pipe[-1].feature_names_in_


def test_sparse_columns_are_refused_with_the_way_out(people):
    X, y = people
    pipe = make_pipeline(OneHotEncoder(), quick(make_kernel(1.0)))
    with pytest.raises(InputError, match="sparse"):
        pipe.fit(X[CATEGORIES], y)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_grid_over_kernels_and_settings_in_two_processes(people):
    X, y = people
    narrow, wide = make_kernel(0.01), make_kernel(1.0)
    grid = {"impactmodel__kernel": [narrow, wide], "impactmodel__num_samples": [20, 40]}
    folds = KFold(2)
    search = GridSearchCV(
        encoded(quick(narrow)), grid, cv=folds, n_jobs=2, error_score="raise"
    ).fit(X, y, impactmodel__progress=False)
    train, test = next(folds.split(X))
    for number, (kernel, draws) in enumerate([(narrow, 20), (narrow, 40), (wide, 20), (wide, 40)]):
        own = encoded(quick(kernel, num_samples=draws))
        own.fit(X.iloc[train], y.iloc[train], impactmodel__progress=False)
        expected = own.score(X.iloc[test], y.iloc[test])
        # Another process: the same random bits, and programs that may be compiled otherwise.
        assert search.cv_results_["split0_test_score"][number] == pytest.approx(expected, rel=1e-5)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()
    assert search.best_estimator_[-1].kernel in (narrow, wide)


@pytest.mark.slow
def test_grid_over_a_wrapper_uses_its_own_score(people):
    X, y = people
    grid = {"impactregressor__prior_scale": [0.01, 2.5]}
    search = GridSearchCV(encoded(ImpactRegressor(num_samples=100)), grid, cv=2).fit(X, y)
    assert search.best_estimator_.score(X, y) > 0.0
    assert search.predict(X).shape == (240,)
