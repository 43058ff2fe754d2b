"""An estimator with EconML's names: categories, columns, refusals, and effects with intervals."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from aimz import InputError
from aimz.sklearn import CausalRegressor

ROWS = 240
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "age": RNG.normal(40.0, 10.0, ROWS),
        "city": np.array(["oslo", "rome", "bonn"])[RNG.integers(0, 3, ROWS)],
        "new": np.array(["no", "yes"])[RNG.integers(0, 2, ROWS)],
    }
)
CHANCE = 1 / (1 + np.exp(-(FRAME["age"].to_numpy() - 40.0) / 10.0))
T = (RNG.random(ROWS) < CHANCE).astype(int)
EFFECTS = np.where(FRAME["city"] == "rome", 8.0, 3.0)
Y = 100.0 + FRAME["age"].to_numpy() + EFFECTS * T + RNG.normal(size=ROWS)


@pytest.fixture(scope="module")
def fitted():
    return CausalRegressor(waves=4).fit(Y, T, X=FRAME)


def test_effects_of_categories_are_found(fitted):
    low, high = fitted.effect_interval(FRAME, alpha=0.1)
    mean = fitted.effect(FRAME)
    assert ((low < mean) & (mean < high)).all()
    assert np.sqrt(np.mean((mean - EFFECTS) ** 2)) < 0.5
    assert np.mean((low < EFFECTS) & (high > EFFECTS)) > 0.8
    assert fitted.ate(FRAME) == pytest.approx(EFFECTS.mean(), abs=0.5)
    low, high = fitted.ate_interval(FRAME, alpha=0.1)
    assert low < EFFECTS.mean() < high < low + 1.5
    np.testing.assert_array_equal(fitted.const_marginal_effect(FRAME), mean)
    np.testing.assert_allclose(fitted.effect(FRAME, T0=1, T1=0), -mean, rtol=1e-5)
    np.testing.assert_array_equal(fitted.effect(FRAME, T0=1, T1=1), 0.0)


def test_columns_have_their_names_inside(fitted):
    known = dict(fitted.model_.kernel_.categories)
    assert known == {"age": (), "city": ("bonn", "oslo", "rome"), "new": ("no", "yes")}
    assert list(fitted.feature_names_in_) == list(FRAME.columns)
    few = FRAME.iloc[[3, 1]]
    np.testing.assert_allclose(fitted.effect(few), fitted.effect(FRAME)[[3, 1]], rtol=1e-5)
    in_another_order = FRAME[["city", "new", "age"]]
    np.testing.assert_array_equal(fitted.effect(in_another_order), fitted.effect(FRAME))


@pytest.mark.parametrize("kind", ["polars", "arrow"])
def test_columns_are_found_by_name_in_tables_of_any_kind(kind, fitted):
    turned = FRAME[FRAME.columns[::-1]]
    table = pl.from_pandas(turned) if kind == "polars" else pa.Table.from_pandas(turned)
    np.testing.assert_array_equal(fitted.effect(table), fitted.effect(FRAME))


@pytest.mark.parametrize("outcomes", [np.full(ROWS, "a"), pd.date_range("2024", periods=ROWS)])
def test_outcomes_that_are_no_numbers_are_refused(outcomes):
    with pytest.raises(InputError) as caught:
        CausalRegressor().fit(outcomes, T, X=FRAME)
    assert caught.value.code == "not-numeric"


@pytest.mark.parametrize(
    ("X", "code"),
    [
        (FRAME[["age", "city"]], "columns-mismatch"),
        (FRAME[["age", "city", "city"]], "columns-mismatch"),
        (FRAME.rename(columns={"age": "years"}), "columns-mismatch"),
        (FRAME.assign(city="lima"), "columns-mismatch"),
        (np.zeros((3, 3)), "columns-mismatch"),
        (FRAME.assign(age=np.nan), "not-finite"),
    ],
    ids=["fewer", "twice", "another name", "a new category", "an array", "missing"],
)
def test_other_columns_are_refused(fitted, X, code):
    with pytest.raises(InputError) as caught:
        fitted.effect(X)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"T": T + 1}, "treatment-unknown"),
        ({"T": np.zeros(ROWS)}, "treatment-unknown"),
        ({"T": 0.5 * T}, "treatment-unknown"),
        ({"T": np.where(T, "a", "b")}, "treatment-unknown"),
        ({"T": np.where(T, 1.0, np.nan)}, "treatment-unknown"),
        ({"T": T[:-1]}, "shape"),
        ({"Y": Y[:, None]}, "shape"),
        ({"X": np.zeros(ROWS)}, "shape"),
        ({"Y": np.where(T, Y, np.nan)}, "not-finite"),
    ],
    ids=["codes", "one arm", "doses", "texts", "gaps", "short", "wide", "flat", "no outcome"],
)
def test_what_is_no_experiment_is_refused(change, code):
    data: dict[str, Any] = {"Y": Y, "T": T, "X": FRAME} | change
    with pytest.raises(InputError) as caught:
        CausalRegressor().fit(data["Y"], data["T"], X=data["X"])
    assert caught.value.code == code


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": 1.0}, {"T1": 2}, {"T0": 0.5}])
def test_options_are_checked(fitted, options):
    with pytest.raises(InputError):
        fitted.effect_interval(FRAME, **options)


def test_it_is_an_estimator():
    model = CausalRegressor(family="poisson", waves=3)
    assert clone(model).get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        model.effect(FRAME)
    for check in ("parameters_default_constructible", "no_attributes_set_in_init"):
        getattr(estimator_checks, f"check_{check}")("CausalRegressor", CausalRegressor())
    for check in ("get_params_invariance", "set_params"):
        getattr(estimator_checks, f"check_{check}")("CausalRegressor", CausalRegressor())


@pytest.mark.slow
def test_many_columns_raise_no_alarm():
    """100 columns for 747 rows in a randomised experiment: nobody is outside."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(747, 100))
    arms = (rng.random(747) < 0.2).astype(int)
    Y = X[:, 0] + arms + rng.normal(size=747)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = CausalRegressor().fit(Y, arms, X=X)
        low, high = model.ate_interval(X, alpha=0.01)
    assert low < 1.0 < high
    assert model.model_.diagnostics_["engine"] == "collapsed"
