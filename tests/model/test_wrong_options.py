"""Options given what they are not: our error with the option's name, never one of Python's."""

import inspect
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

from aimz import AimzError, ImpactModel, InputError
from aimz.effects import Effect
from aimz.sklearn import ImpactClassifier, ImpactRegressor

X = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
T = np.ones(6, np.float32)

#: What options are given by mistake. None is mostly the default, and not among them.
WRONG: dict[str, Any] = {
    "minus one": -1,
    "zero": 0,
    "no text": "",
    "text": "nonsense",
    "no list": [],
    "array": np.ones(3),
    "frame": pd.DataFrame({"a": [1, 2]}),
    "nan": float("nan"),
    "true": True,
    "fraction": 1.5,
    "dict": {"a": 1},
    "object": object,
}


@pytest.fixture(scope="module")
def im() -> ImpactModel:
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", dist.Normal(b * t + X[:, 0], 1.0), obs=y)

    return ImpactModel(kernel).set_posterior_sample({"b": np.ones(5)})


@pytest.fixture(scope="module")
def fitted() -> ImpactRegressor:
    return ImpactRegressor().fit(X, X[:, 0])


@pytest.fixture(scope="module")
def effect(im) -> Effect:
    made: Effect = im.effect(X, {"t": 0.0}, {"t": 1.0}, t=T, progress=False)
    return made


@pytest.fixture(scope="module")
def trained() -> ImpactModel:
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * t + X[:, 0], 1.0), obs=y)

    return ImpactModel(kernel, inference="svi", rng_key=0)


#: The same of what fits and draws; none of these is run where an option is wrong.
FITS: dict[str, Callable[..., Any]] = {
    "fit": lambda im, **own: im.fit(X, X[:, 0], **{"t": T, "num_steps": 1, **own}),
    "fit_on_batch": lambda im, **own: im.fit_on_batch(
        X, X[:, 0], **{"t": T, "num_steps": 1, **own}
    ),
    "train_on_batch": lambda im, **own: im.train_on_batch(X, X[:, 0], **{"t": T, **own}),
    "sample": lambda im, **own: im.sample(**{"num_samples": 3, **own}),
    "loo": lambda im, **own: im.loo(X, X[:, 0], **{"t": T, **own}),
    "set_posterior_sample": lambda im, **own: im.set_posterior_sample(
        **{"posterior_sample": {"b": np.ones(3)}, **own}
    ),
}
#: What is no mistake: seeds are any whole numbers, and switches 0, 1 and True.
RIGHT: dict[str, tuple[str, ...]] = {
    "rng_key": ("minus one", "zero"),
    **dict.fromkeys(
        ("shuffle", "progress", "pointwise", "return_datatree"), ("minus one", "zero", "true")
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", FITS)
def test_no_option_of_a_fit_is_taken_for_another(trained, method):
    trained.fit(X, X[:, 0], t=T, num_steps=1, progress=False)
    for option in options_of(getattr(ImpactModel, method)):
        for kind in WRONG.keys() - {*RIGHT.get(option, ())}:
            with pytest.raises(AimzError):
                FITS[method](trained, **{option: WRONG[kind]})


@pytest.mark.parametrize("wrapper", [ImpactRegressor, ImpactClassifier])
@pytest.mark.parametrize("option", ["prior_scale", "verbose", "num_samples", "on_bad_fit"])
def test_nor_is_one_of_a_wrapper(wrapper, option):
    right = {"prior_scale": ("fraction",), "verbose": ("minus one", "zero", "true")}
    for kind in WRONG.keys() - {*right.get(option, ())}:
        with pytest.raises(InputError, match=option):
            wrapper(**{option: WRONG[kind]}).fit(X, (X[:, 0] > 0).astype(int))


#: Methods, with the arguments that they need; the options that they have are looked up.
METHODS: dict[str, Callable[..., Any]] = {
    "predict": lambda im, **own: im.predict(
        X, **{"t": T, "progress": False, "store": "memory", **own}
    ),
    "predict_on_batch": lambda im, **own: im.predict_on_batch(X, **{"t": T, **own}),
    "sample_prior_predictive_on_batch": lambda im, **own: im.sample_prior_predictive_on_batch(
        X, **{"t": T, "num_samples": 3, **own}
    ),
    "score": lambda im, **own: im.score(X, X[:, 0], **{"t": T, **own}),
    "effect": lambda im, **own: im.effect(
        X, **{"baseline": {"t": 0.0}, "intervention": {"t": 1.0}, "t": T, "progress": False, **own}
    ),
    "estimate_effect": lambda im, **own: im.estimate_effect(
        **{
            "args_baseline": {"X": X, "t": 0.0},
            "args_intervention": {"X": X, "t": 1.0},
            "on_batch": True,
            **own,
        }
    ),
}


def options_of(method: Callable[..., Any]) -> list[str]:
    fixed = {"self", "X", "y", "kwargs", "output_dir"}
    return [name for name in inspect.signature(method).parameters if name not in fixed]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "method",
    [
        *("predict_on_batch", "score", "effect"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("predict", "sample_prior_predictive_on_batch", "estimate_effect")
        ),
    ],
)
@pytest.mark.parametrize("kind", WRONG)
def test_no_option_of_a_model_fails_in_a_foreign_way(im, method, kind):
    refused = 0
    for option in options_of(getattr(ImpactModel, method)):
        try:
            METHODS[method](im, **{option: WRONG[kind]})
        except AimzError:
            refused += 1
    assert refused or kind in ("minus one", "zero", "true")


@pytest.mark.parametrize("ask", ["summary", "to_text", "plot"])
@pytest.mark.parametrize("kind", WRONG)
def test_nor_does_one_of_an_effect(effect, ask, kind):
    for option in options_of(getattr(Effect, ask)):
        with pytest.raises(InputError, match=option) as raised:
            getattr(effect, ask)(**{option: WRONG[kind]})
        assert raised.value.code == "option-unknown"
    plt.close("all")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("ci_prob", value) for value in (2, 0, True, -0.5, "0.9", np.float32(1.5))),
        *(("rope", value) for value in ((1, 0), (0, 1, 2), (0, np.nan), "ab", (None, 1))),
        ("ci_kind", "quantile"),
        ("direction", ">="),
    ],
    ids=str,
)
def test_intervals_that_there_are_not_are_refused(effect, option, value):
    with pytest.raises(InputError, match=option):
        effect.summary(**{option: value})


def test_intervals_that_there_are_come_back(effect):
    table = effect.summary(ci_prob=np.float32(0.5), rope=np.array([0.0, 2.0]))
    assert table["P(0 <= effect <= 2)"].tolist() == [1.0]
    effect.summary(ci_prob=0.9, ci_kind="hdi", rope=[1, 1], direction="<")


@pytest.mark.parametrize("value", [[1.5], [-0.1], "median", [], None, [np.nan], [True], {"a": 1}])
def test_quantiles_that_there_are_not_are_refused(im, fitted, value):
    with pytest.raises(InputError, match="quantiles"):
        fitted.predict_quantiles(X, value)
    with pytest.raises(InputError, match="row_summary"):
        METHODS["effect"](im, row_summary={"quantiles": value})


def test_one_quantile_is_a_list_of_one(fitted):
    assert fitted.predict_quantiles(X, 0.5).shape == (6, 1)


@pytest.mark.parametrize("side", ["args_baseline", "args_intervention"])
def test_arguments_without_rows_are_named(im, side):
    with pytest.raises(InputError, match=f"{side} lacks 'X'"):
        METHODS["estimate_effect"](im, **{side: {"t": T}})


def test_a_switch_of_the_wrapper_is_no_array(fitted):
    with pytest.raises(InputError, match="return_std="):
        fitted.predict(X, return_std=np.ones(3))


@pytest.mark.parametrize("option", ["progress", "store", "in_sample", "batch_size"])
def test_options_of_other_methods_are_refused_by_name(im, option):
    with pytest.raises(InputError, match=f"'{option}'.* no such option of to_datatree") as caught:
        im.to_datatree(X, X[:, 0], t=T, **{option: False})
    assert caught.value.code == "argument-unknown"


def test_a_table_of_summaries_has_no_store(im):
    with pytest.raises(InputError, match="store"):
        im.predict_summary(X, t=T, store="memory")
    with pytest.raises(InputError, match="quantiles"):
        im.predict_summary(X, t=T, quantiles=[5, 95])
