"""Frames with categories: read as scikit-learn encodes them, and refused where they are others.

Every number is compared with that of a model of the same draws and an array encoded by hand.
"""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.preprocessing import OneHotEncoder

from aimz import ImpactModel, InputError
from tests.support.kernels import linear

ROWS, DRAWN = 40, 30
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "age": RNG.normal(size=ROWS),
        "city": np.array(["oslo", "rome", "bonn"])[RNG.integers(0, 3, ROWS)],
        "new": pd.Categorical(np.array(["no", "yes"])[RNG.integers(0, 2, ROWS)]),
    },
    index=pd.Index(range(100, 100 + ROWS), name="person"),
)
T = (RNG.random(ROWS) < 0.5).astype(float)
TEXTS = ["city", "new"]
ENCODER = OneHotEncoder(drop="if_binary", sparse_output=False).fit(FRAME[TEXTS])
CATEGORIES = (("age", ()), ("city", ("bonn", "oslo", "rome")), ("new", ("no", "yes")))
DRAWS: dict[str, Any] = {
    "base": RNG.normal(size=DRAWN),
    "slope": RNG.normal(size=(DRAWN, 5)),
    "effect": RNG.normal(size=DRAWN),
    "noise": np.full(DRAWN, 0.5),
}


def by_hand(frame: pd.DataFrame) -> np.ndarray:
    return np.column_stack([ENCODER.transform(frame[TEXTS]), frame[["age"]]])


@pytest.fixture(scope="module")
def im() -> ImpactModel:
    model = ImpactModel("linear", treatment="t", categories=CATEGORIES)
    return model.set_posterior_sample(DRAWS)


@pytest.fixture(scope="module")
def plain() -> ImpactModel:
    return ImpactModel("linear", treatment="t").set_posterior_sample(DRAWS)


Y = FRAME["age"].to_numpy() + T + 0.1 * RNG.normal(size=ROWS)


def outcomes(model: ImpactModel, X: Any, t: Any = T) -> np.ndarray:
    return np.asarray(model.predict_on_batch(X, t=t, return_datatree=False)["y"])


@pytest.mark.parametrize(
    "X",
    [
        FRAME,
        FRAME[["new", "age", "city"]],
        FRAME.astype({"new": str, "city": "category"}),
        pl.from_pandas(FRAME),
        pa.Table.from_pandas(FRAME, preserve_index=False),
        pd.DataFrame(
            by_hand(FRAME), columns=["city_bonn", "city_oslo", "city_rome", "new_yes", "age"]
        ),
    ],
    ids=["frame", "another order", "other kinds", "polars", "arrow", "encoded already"],
)
def test_a_frame_is_read_as_it_is_encoded_by_hand(im, plain, X):
    np.testing.assert_array_equal(outcomes(im, X), outcomes(plain, by_hand(FRAME)))


def test_some_rows_are_read_as_among_all(im, plain):
    few = FRAME.iloc[[3]]
    np.testing.assert_array_equal(outcomes(im, few, T[[3]]), outcomes(plain, by_hand(few), T[[3]]))


@pytest.mark.filterwarnings("ignore:Pareto k")
@pytest.mark.parametrize("method", ["log_likelihood", "predict", "score", "loo", "estimate_effect"])
def test_every_question_reads_them(im, plain, method):
    found = []
    for model, X in ((im, FRAME), (plain, by_hand(FRAME))):
        memory: Any = {"t": T, "store": "memory", "progress": False}
        if method == "predict":
            found.append(model.predict(X, **memory).posterior_predictive["y"])
        elif method == "log_likelihood":
            found.append(model.log_likelihood(X, Y, **memory).log_likelihood["y"])
        elif method == "estimate_effect":
            sides = [{"X": X, "t": value} for value in (0.0, 1.0)]
            tree = model.estimate_effect(None, None, *sides, on_batch=True)
            found.append(tree.posterior_predictive["y"])
        elif method == "loo":
            found.append(model.loo(X, Y, t=T, progress=False).elpd_i)
        else:
            found.append(model.score(X, Y, t=T))
    one, other = map(np.asarray, found)
    np.testing.assert_array_equal(one, other)


def test_groups_and_scenarios_have_the_names_of_the_categories(im, plain):
    effect = im.effect(
        FRAME, {"t": 0.0}, {"t": 1.0}, t=T, estimand="cate", by="city", progress=False
    )
    assert effect.summary().reset_index()["group"].tolist() == ["bonn", "oslo", "rome"]
    both = im.effect(
        FRAME, {"t": 0.0}, {"t": 1.0}, t=T, estimand="cate", by=["city", "new"], progress=False
    )
    assert "city=rome, new=yes" in both.draws.indexes["group"]
    moved = im.effect(FRAME, {"city": "oslo"}, {"city": "rome"}, t=T, progress=False)
    draws = np.asarray(moved.draws).ravel()
    np.testing.assert_allclose(draws, DRAWS["slope"][:, 2] - DRAWS["slope"][:, 1], rtol=1e-5)
    of_rome = im.effect(
        FRAME, {"city": "oslo"}, {"city": "rome"}, t=T, estimand="att", progress=False
    )
    np.testing.assert_allclose(np.asarray(of_rome.draws).ravel(), draws, rtol=1e-5)
    older = im.effect(FRAME, {}, {"age": lambda age: age + 1.0}, t=T, progress=False)
    np.testing.assert_allclose(np.asarray(older.draws).ravel(), DRAWS["slope"][:, 4], rtol=1e-4)
    whole = im.effect(FRAME, {}, {"X": lambda X: X.assign(new="yes")}, t=T, progress=False)
    want = DRAWS["slope"][:, 3] * (FRAME["new"] == "no").mean()
    np.testing.assert_allclose(np.asarray(whole.draws).ravel(), want, rtol=1e-4)


@pytest.mark.parametrize(
    ("X", "code", "named"),
    [
        (FRAME.assign(city="lima"), "columns-mismatch", "'city'.*'lima'"),
        (FRAME.assign(city=None), "not-finite", "'city'"),
        (
            FRAME.astype({"new": object}).assign(new=np.array([None, *["no"] * 39], object)),
            "not-finite",
            "'new'",
        ),
        (FRAME.assign(age="old"), "not-numeric", "'age'"),
        (FRAME.drop(columns="city"), "columns-mismatch", "'city'"),
        (FRAME.assign(more=1.0), "columns-mismatch", "'more'"),
        (FRAME.rename(columns={"age": "years"}), "columns-mismatch", "age"),
        (FRAME.set_axis(range(3), axis=1), "columns-mismatch", "city"),
        (by_hand(FRAME), "columns-mismatch", "frame"),
        (FRAME.assign(city=1), "columns-mismatch", "'city'"),
        (FRAME.assign(age=pd.Timestamp("2024-01-01")), "not-numeric", "dates"),
    ],
    ids=str,
)
def test_other_frames_are_refused(im, X, code, named):
    with pytest.raises(InputError, match=named) as caught:
        outcomes(im, X)
    assert caught.value.code == code


def test_rows_by_the_piece_are_refused(im):
    batches = [{"X": by_hand(FRAME)[:, :3], "t": T}]
    with pytest.raises(InputError, match="frame") as caught:
        im.predict(batches, store="memory", progress=False)
    assert caught.value.code == "columns-mismatch"


def test_a_scenario_of_an_unknown_category_is_refused(im):
    with pytest.raises(InputError, match="'lima'"):
        im.effect(FRAME, {"city": "oslo"}, {"city": "lima"}, t=T, progress=False)
    with pytest.raises(InputError) as caught:
        im.effect(FRAME, {"city_oslo": 0.0}, {"city_oslo": 1.0}, t=T, progress=False)
    assert caught.value.code == "scenario-unknown"


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(InputError, match="city_oslo") as caught:
        ImpactModel("linear").fit(FRAME.assign(city_oslo=1.0), Y, progress=False)
    assert caught.value.code == "columns-mismatch"


def test_a_kernel_of_your_own_is_told_to_encode():
    with pytest.raises(InputError, match="Encode") as caught:
        ImpactModel(linear).fit(FRAME, Y, t=T, progress=False)
    assert caught.value.code == "not-numeric"


def test_a_fit_learns_the_categories_and_a_saved_model_keeps_them(tmp_path):
    im = ImpactModel("linear", treatment="t", num_samples=50)
    im.fit(FRAME, Y, t=T, progress=False)
    assert im.kernel_.categories == CATEGORIES
    assert list(im.feature_names_in_) == list(FRAME.columns)
    assert im.n_features_in_ == 3
    plain = ImpactModel("linear", treatment="t", num_samples=50)
    plain.fit(by_hand(FRAME), Y, t=T, progress=False)
    for name, draws in plain.posterior.items():
        np.testing.assert_array_equal(im.posterior[name], draws)
    im.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model")
    np.testing.assert_array_equal(outcomes(again, FRAME), outcomes(plain, by_hand(FRAME)))
    with pytest.raises(InputError, match="'lima'"):
        outcomes(again, FRAME.assign(city="lima"))


@pytest.mark.slow
def test_another_fit_learns_its_own():
    rows = (FRAME["city"] != "rome").to_numpy()
    im = ImpactModel("linear", num_samples=50).fit(FRAME, Y, progress=False)
    im.fit(FRAME[rows], Y[rows], progress=False)
    assert im.kernel_.categories[1] == ("city", ("bonn", "oslo"))
