"""Models that hold NumPyro's own objects are cloned, searched, copied and pickled."""

import copy
import functools
import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import joblib
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import sklearn
from numpyro import optim
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from aimz import ImpactModel, InputError, NotFittedError
from aimz.effects import Effect
from aimz.sklearn import ImpactRegressor
from tests.support.saved_kernel import kernel

pytestmark = pytest.mark.filterwarnings("ignore::aimz.FitWarning")  # fits are short

ROOT = Path(__file__).resolve().parents[2]
X = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
Y = X[:, 0]


def svi(optimiser: Any) -> SVI:
    return SVI(kernel, AutoNormal(kernel), optimiser, Trace_ELBO())


def warm(step: Any) -> Any:
    return step * 0.0 + 0.01


OBJECTS: dict[str, Callable[[], Any]] = {
    "numpyro": lambda: svi(optim.Adam(0.01)),
    "clipped": lambda: svi(optim.ClippedAdam(0.01)),
    "schedule": lambda: svi(optim.Adam(lambda step: 0.01 / (1 + step))),
    "optax": lambda: svi(optax.adam(warm)),
    "chain": lambda: svi(
        optax.chain(optax.clip(1.0), optax.adam(optax.cosine_decay_schedule(0.1, 9)))
    ),
    "mcmc": lambda: MCMC(NUTS(kernel), num_warmup=3, num_samples=3, progress_bar=False),
    "name": lambda: "svi",
}


def made(name: str, **options: Any) -> ImpactModel:
    settings = {"num_samples": 5, "num_steps": 3, **options}
    return ImpactModel(kernel, rng_key=2, inference=OBJECTS[name](), **settings)


def drawn(model: ImpactModel) -> np.ndarray:
    tree: Any = model.predict_on_batch(X)
    values: np.ndarray = tree.posterior_predictive["y"].values
    return values


def by_joblib(model: Any) -> Any:
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "cloudpickle": lambda model: pickle.loads(cloudpickle.dumps(model)),
    "joblib": by_joblib,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "in a list": lambda model: copy.deepcopy([model])[0],
}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_clone_is_unfitted_and_has_the_same_parameters(name):
    model = made(name)
    again = clone(model)
    assert again.get_params(deep=True) == model.get_params(deep=False) == model.get_params()
    with pytest.raises(NotFittedError):
        again.predict(X)
    assert again.set_params(num_samples=7).num_samples == 7
    assert model.num_samples == 5
    for shown in (model, make_pipeline(StandardScaler(), model)):
        assert "ImpactModel" in estimator_html_repr(shown)
        assert "ImpactModel" in repr(clone(shown))


def test_a_clone_keeps_its_requests():
    with sklearn.config_context(enable_metadata_routing=True):
        again = clone(made("numpyro").set_fit_request(t=True))
        assert again.get_metadata_routing().fit.requests["t"] is True
        assert clone(made("numpyro")).get_metadata_routing().fit.requests.get("t") is None


@pytest.fixture(scope="module")
def fitted() -> dict[str, ImpactModel]:
    """One fit for each kind of object that is tried in many ways."""
    return {name: made(name).fit(X, Y, progress=False) for name in ("numpyro", "chain")}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["numpyro", "chain"])
def test_a_fitted_model_of_an_object_is_copied_bit_for_bit(name, how, fitted):
    again = COPIES[how](fitted[name])
    np.testing.assert_array_equal(drawn(again), drawn(fitted[name]))
    assert again.inference.model is again.kernel  # or it could not fit again


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", [n for n in OBJECTS if n not in ("numpyro", "chain")])
def test_any_object_is_copied(name, how):
    again = COPIES[how](made(name))
    assert type(again.inference) is type(made(name).inference)
    assert {n: v for n, v in again.get_params().items() if n not in ("kernel", "inference")} == {
        n: v for n, v in made(name).get_params().items() if n not in ("kernel", "inference")
    }


def test_a_pickled_model_of_an_object_fits_as_the_first_does(fitted):
    again = pickle.loads(pickle.dumps(made("numpyro")))
    np.testing.assert_array_equal(drawn(again.fit(X, Y, progress=False)), drawn(fitted["numpyro"]))


@pytest.mark.slow
def test_a_model_of_an_object_is_cross_validated():
    scores = cross_val_score(made("numpyro"), X, Y, cv=2, error_score="raise")
    assert np.isfinite(scores).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["numpyro", "mcmc"])
def test_models_of_objects_are_searched_over(name):
    search = GridSearchCV(made(name), {"num_samples": [4, 5]}, cv=2, error_score="raise")
    again = search.fit(X, Y).best_estimator_
    own = made(name, num_samples=again.num_samples).fit(X, Y, progress=False)
    np.testing.assert_array_equal(drawn(again), drawn(own))
    assert "ImpactModel" in estimator_html_repr(search)


def test_an_object_may_be_a_value_in_a_grid():
    one, other = OBJECTS["numpyro"](), OBJECTS["clipped"]()
    for model in (made("name"), ImpactRegressor(kernel), made("numpyro")):
        for own in (one, other):
            again = clone(model).set_params(**clone({"inference": own}, safe=False))
            assert again.inference is clone(again).inference is own
    pipe = make_pipeline(StandardScaler(), made("name"))
    pipe.set_params(**clone({"impactmodel__inference": one}, safe=False))
    assert clone(pipe)[-1].inference is one


@pytest.mark.slow
def test_objects_are_searched_over():
    objects = [OBJECTS["numpyro"](), OBJECTS["clipped"]()]
    search = GridSearchCV(made("name"), {"inference": objects}, cv=2, error_score="raise")
    found = search.fit(X, Y)
    assert found.best_params_["inference"] in objects
    assert "ImpactModel" in estimator_html_repr(search)


def test_wrappers_take_objects_too():
    model = ImpactRegressor(kernel, inference=svi(optim.Adam(0.01)), num_samples=5, num_steps=3)
    again = clone(model)
    assert again.get_params() == model.get_params()
    model.fit(X, Y)
    for how in ("pickle", "joblib"):
        np.testing.assert_array_equal(COPIES[how](model).predict(X), model.predict(X))


def closure(scale: float) -> Any:
    def of_a_function(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, scale))
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    return of_a_function


@pytest.mark.parametrize(
    "kernel",
    [closure(2.0), lambda X, y=None: closure(3.0)(X, y), functools.partial(kernel, t=1.0)],
    ids=["closure", "lambda", "partial"],
)
def test_kernels_without_a_name_are_pickled(kernel):
    draws = {"b": np.ones((4, 2) if isinstance(kernel, functools.partial) else 4)}
    draws |= {"sigma": np.ones(4)} if isinstance(kernel, functools.partial) else {}
    model = ImpactModel(kernel).set_posterior_sample(draws)
    np.testing.assert_array_equal(drawn(pickle.loads(pickle.dumps(model))), drawn(model))


def test_what_cannot_be_pickled_is_named():
    lock = threading.Lock()

    def kernel(X, y=None):
        with lock:
            numpyro.sample("y", dist.Normal(X[:, 0], 1.0), obs=y)

    with pytest.raises(
        InputError, match=r"its kernel holds .* cannot pickle '_thread.lock'"
    ) as caught:
        pickle.dumps(ImpactModel(kernel))
    assert caught.value.code == "not-pickled"


SCRIPT = """
import pickle, sys
import numpy as np, numpyro, numpyro.distributions as dist
from numpyro import optim
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from aimz import ImpactModel

SCALE = 2.0

def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, SCALE))
    numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

inference = SVI(kernel, AutoNormal(kernel), optim.Adam(0.01), Trace_ELBO())
im = ImpactModel(kernel, inference=inference).set_posterior_sample({"b": np.linspace(0, 1, 4)})
tree = im.predict_on_batch(np.ones((3, 1)))
pickle.dump((im, tree["posterior_predictive"]["y"].values), open(sys.argv[1], "wb"))
"""


def test_a_script_pickles_its_kernel(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "model")]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True)
    model, expected = pickle.loads((tmp_path / "model").read_bytes())
    tree = model.predict_on_batch(np.ones((3, 1)))
    np.testing.assert_array_equal(tree["posterior_predictive"]["y"].values, expected)
    assert model.inference.model is model.kernel


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def asking() -> Any:
    model = ImpactModel(kernel).set_posterior_sample({"b": np.ones((3, 2)), "sigma": np.ones(3)})
    return functools.partial(model.effect, X, t=np.zeros(30), progress=False)


QUESTIONS: dict[str, dict[str, Any]] = {
    **{
        how: {"scenarios": {"a": {"t": 1.0}, "b": {"t": 3.0}}, "comparison": how}
        for how in ("difference", "ratio", "lift")
    },
    "a function of the natural value": {
        "baseline": {"t": 0.0},
        "intervention": {"t": lambda t: t + 1},
    },
    "a comparison": {
        "scenarios": {"a": {}, "b": {"t": 3.0}},
        "comparison": lambda new, old: new - 2 * old,
    },
    "an estimand": {
        "scenarios": {"a": {}, "b": {"t": 3.0}},
        "estimand": lambda means: means["b"] / 2,
    },
}


@pytest.mark.parametrize("kind", QUESTIONS)
def test_an_effect_is_pickled(kind, asking):
    effect = asking(**QUESTIONS[kind])
    for how in ("pickle", "joblib", "deepcopy"):
        again: Effect = COPIES[how](effect)
        assert again.draws.identical(effect.draws)
        assert again.summary().equals(effect.summary())
        assert again.to_text() == effect.to_text()
