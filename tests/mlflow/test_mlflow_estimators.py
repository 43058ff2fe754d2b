"""Pipelines and wrappers with a model inside, logged by MLflow in its own format and by ours."""

import os
import pickle
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import mlflow.sklearn
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import yaml  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import aimz.mlflow
from aimz import ImpactModel, InputError
from aimz.sklearn import ImpactClassifier, ImpactRegressor
from tests.support.saved_kernel import kernel

pytestmark = [
    pytest.mark.filterwarnings("ignore::aimz.FitWarning"),
    pytest.mark.filterwarnings("ignore:.* outside the data:aimz.OutputWarning"),
]

X = np.random.default_rng(0).normal(size=(40, 2))
Y = X[:, 0] + 0.5


def made_here() -> Any:
    def own(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    return own


def regressor(own: Any = None) -> Any:
    settings: dict[str, Any] = {} if own is None else {"num_steps": 5, "inference": "svi"}
    return ImpactRegressor(own, num_samples=100, **settings)


ESTIMATORS: dict[str, tuple[Any, np.ndarray, str]] = {
    "regressor": (regressor, Y, "skops"),
    "classifier": (lambda: ImpactClassifier(num_samples=100), Y > 0.5, "skops"),
    "pipeline": (lambda: make_pipeline(StandardScaler(), regressor()), Y, "skops"),
    "kernel of a module": (lambda: regressor(kernel), Y, "cloudpickle"),
    "kernel of a function": (lambda: regressor(made_here()), Y, "cloudpickle"),
}


SLOW = ("kernel of a module", "kernel of a function", "classifier")


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in ESTIMATORS]
)
def test_an_estimator_is_saved_and_predicts_bit_for_bit(kind, tmp_path):
    make, outcome, form = ESTIMATORS[kind]
    model = make().fit(X, outcome)
    aimz.mlflow.save_model(model, tmp_path / "model")
    document = yaml.safe_load((tmp_path / "model" / "MLmodel").read_text())
    assert document["flavors"]["sklearn"]["serialization_format"] == form
    for again in (
        aimz.mlflow.load_model(tmp_path / "model"),
        mlflow.sklearn.load_model(str(tmp_path / "model")),
        mlflow.pyfunc.load_model(str(tmp_path / "model")),
    ):
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert "numpyro==" in (tmp_path / "model" / "requirements.txt").read_text()


def test_mlflow_saves_an_estimator_in_its_default_format(tmp_path):
    model = regressor().fit(X, Y)
    path = str(tmp_path / "model")
    options = {"pip_requirements": ["aimz"]}
    trusted = aimz.mlflow.trusted_types(model)
    mlflow.sklearn.save_model(model, path, skops_trusted_types=trusted, **options)
    np.testing.assert_array_equal(mlflow.sklearn.load_model(path).predict(X), model.predict(X))


def test_mlflow_takes_an_estimator_with_one_argument(tmp_path):
    """Its list of types is closed: this says so the day that it is not."""
    model = regressor().fit(X, Y)
    with pytest.raises(mlflow.exceptions.MlflowException, match="skops_trusted_types") as refused:
        mlflow.sklearn.save_model(model, str(tmp_path / "none"), pip_requirements=["aimz"])
    assert "aimz.sklearn.ImpactRegressor" in str(refused.value)
    options: dict[str, Any] = {"serialization_format": "cloudpickle", "pip_requirements": ["aimz"]}
    mlflow.sklearn.save_model(model, str(tmp_path / "pickled"), **options)
    again = mlflow.sklearn.load_model(str(tmp_path / "pickled"))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_an_estimator_is_logged_without_any_argument(tmp_path):
    model = regressor().fit(X, Y)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    try:
        with mlflow.start_run():
            info = aimz.mlflow.log_model(model)
        again = aimz.mlflow.load_model(info.model_uri)
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_a_pipeline_with_a_model_of_draws_is_logged(tmp_path):
    model = ImpactModel(kernel, rng_key=3)
    model.set_posterior_sample({"b": np.ones((5, 2)), "sigma": np.ones(5)})
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    try:
        with mlflow.start_run():
            info = aimz.mlflow.log_model(make_pipeline(model), name="model")
        again = aimz.mlflow.load_model(info.model_uri)
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    got, expected = (own.predict_on_batch(X) for own in (again[0], model))
    np.testing.assert_array_equal(
        got.posterior_predictive["y"].values, expected.posterior_predictive["y"].values
    )


def test_a_trusted_type_does_not_unpickle(tmp_path):
    """A skops file may name our types as trusted, and must not run a pickle through them."""
    import skops.io

    with pytest.raises(InputError, match="choose cloudpickle") as caught:
        skops.io.dumps(regressor(made_here()))
    assert caught.value.code == "not-pickled"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    state = regressor().__getstate__()
    harmful = {**state, "_by_value": pickle.dumps(Trap())}
    with pytest.raises((TypeError, ValueError)):
        ImpactRegressor.__new__(ImpactRegressor).__setstate__(harmful)
    assert not Path(tmp_path / "trapped").exists()


@pytest.mark.parametrize("thing", [lambda X: X, {"a": 1}, "model"])
def test_what_is_no_model_is_refused(thing, tmp_path):
    with pytest.raises(InputError, match=r"is no model\. Pass an ImpactModel") as caught:
        aimz.mlflow.save_model(thing, tmp_path / "model")
    assert caught.value.code == "model-kind"
