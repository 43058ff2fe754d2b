"""Rows of scenarios outside the data: flags, shares and warnings of effects."""

import pickle
import warnings
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

from aimz import ImpactModel, OutputWarning
from aimz.effects import outside
from aimz.overlap import support_of
from aimz.prediction import fitted as fitted_module
from tests.support.engines import ByHand

RNG = np.random.default_rng(0)
ROWS = 400


def linear(X, t, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1] + 1]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b[1:] + b[0] * t, 1.0), obs=y)


@pytest.fixture(scope="module")
def data() -> Any:
    X = RNG.normal(size=(ROWS, 3)).astype(np.float32)
    t = (RNG.uniform(size=ROWS) < 0.3).astype(np.float32)
    return X, t, (X[:, 0] + t).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(data) -> Any:
    X, t, y = data
    return ImpactModel(linear, inference=ByHand(b=RNG.normal(size=(20, 4)))).fit(
        pd.DataFrame(X, columns=list("abc")), y, t=t, progress=False
    )


@pytest.fixture(scope="module")
def by_hand() -> Any:
    return ImpactModel(linear).set_posterior_sample({"b": RNG.normal(size=(20, 4))})


def ask(im: ImpactModel, X: Any, *args: Any, **options: Any) -> Any:
    return im.effect(X, *args, **{"progress": False, **options})


pytestmark = pytest.mark.filterwarnings("ignore:'X' has no")


def test_rows_of_the_fit_in_arms_that_anybody_might_have_had_are_inside(fitted, data):
    X, t, _ = data
    got = ask(fitted, pd.DataFrame(X, columns=list("abc")), {"t": 0}, {"t": 1}, t=t)
    assert got.support.outside.dims == ("scenario", "obs")
    assert got.support.fraction.values.tolist() == [0.0, 0.0]


def test_a_value_beyond_the_fitted_ones_is_said_with_its_rows_and_column(fitted, data):
    X, t, _ = data
    frame = pd.DataFrame(X, columns=list("abc"))
    with pytest.warns(OutputWarning) as caught:
        got = ask(fitted, frame, {"t": 0}, {"X": lambda X: X.assign(b=9.0), "t": 0}, t=t)
    assert caught[0].message.code == "outside-support"
    low, high = X[:, 1].min(), X[:, 1].max()
    said = "Scenario 'intervention': 400 of 400 rows (100%) are outside the data: X[b] beyond "
    assert str(caught[0].message).startswith(f"{said}{low:.4g} to {high:.4g} in 400")
    assert got.support.fraction.sel(scenario="intervention") == 1.0
    with pytest.warns(OutputWarning, match="t beyond 0 to 1 in 400"):
        ask(fitted, frame, {"t": 0}, {"t": 2}, t=t)


def test_a_few_rows_outside_are_flagged_and_no_cause_for_a_warning(fitted, data):
    X, t, _ = data
    new = X.copy()
    new[:4, 2] = 50.0
    got = ask(fitted, new, {"t": 0}, {"t": 1}, t=t)
    flagged = got.support.outside.sel(scenario="baseline").values
    assert np.flatnonzero(flagged).tolist() == [0, 1, 2, 3]


def test_flags_do_not_depend_on_tiles_or_on_how_rows_are_read(fitted, data, monkeypatch):
    dask = pytest.importorskip("dask.array")
    X, t, _ = data
    new = np.concatenate([X + 0.5 * n for n in range(4)])
    arms: Any = {"t": 0.0}, {"t": 1.0}
    with pytest.warns(OutputWarning, match="outside the data"):
        whole = ask(fitted, new, *arms, t=np.tile(t, 4))
    lazy = dask.from_array(new, chunks=(333, 3))
    with pytest.warns(OutputWarning, match="outside the data"):
        by_piece = ask(fitted, lazy, *arms, t=np.tile(t, 4))
    np.testing.assert_array_equal(whole.support.outside, by_piece.support.outside)
    monkeypatch.setattr("aimz.execution.plan.MAX_ROWS", 64)
    with pytest.warns(OutputWarning, match="outside the data"):
        tiled = ask(fitted, new, *arms, t=np.tile(t, 4))
    np.testing.assert_array_equal(whole.support.outside, tiled.support.outside)


def test_a_saved_model_knows_its_data_and_holds_none_of_them(fitted, data, tmp_path):
    X, t, _ = data
    fitted.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model", linear)
    with pytest.warns(OutputWarning, match="t beyond 0 to 1 in 400"):
        ask(again, X, {"t": 0}, {"t": 2}, t=t)
    arrays = np.load(tmp_path / "model" / "arrays.npz")
    assert max(np.size(arrays[name]) for name in arrays) < ROWS


def test_without_a_fit_only_the_chance_of_a_treatment_is_looked_at(by_hand, data):
    X, t, _ = data
    got = ask(by_hand, X, {"t": 0}, {"t": 1}, t=t)
    assert not got.support.outside.any()
    nobody = ask(by_hand, X, {"t": 0}, {"t": 1}, t=0 * t)
    assert nobody.support is None
    apart = (X[:, 0] > 0.5).astype(np.float32)
    with pytest.warns(OutputWarning, match="chance of t=. too small") as caught:
        got = ask(by_hand, X, {"t": 0}, {"t": 1}, t=apart)
    assert [w.message.code for w in caught] == 2 * ["outside-support"]
    assert got.support.outside.sel(scenario="intervention").values[X[:, 0] < -0.5].all()


def test_rows_are_scored_once_and_anew_when_they_have_changed(by_hand, data, monkeypatch):
    rows = data[0].copy()
    apart = (rows[:, 0] > 0.6).astype(np.float32)  # unlike those of other tests
    scored = []
    count = outside.scores_of

    def counted(*args: Any, **options: Any) -> Any:
        scored.append(args)
        return count(*args, **options)

    monkeypatch.setattr(outside, "scores_of", counted)
    with pytest.warns(OutputWarning, match="chance of t=. too small"):
        first, second = (ask(by_hand, rows, {"t": 0}, {"t": 1}, t=apart) for _ in range(2))
    assert len(scored) == 1
    np.testing.assert_array_equal(first.support.outside, second.support.outside)
    rows[:, 0] = np.roll(rows[:, 0], 7)  # so that it says nothing of who was treated
    assert not ask(by_hand, rows, {"t": 0}, {"t": 1}, t=apart).support.outside.any()
    assert len(scored) == 2


def many_columns(kind: str) -> np.ndarray:
    """More than two hundred, for 747 rows: the shape that once raised a false alarm."""
    rng = np.random.default_rng(1)
    plain = rng.normal(size=(747, 225))
    if kind == "engineered":  # 20 of them, their squares and products
        one, other = np.triu_indices(20)
        plain = np.column_stack([plain[:, :20], plain[:, one] * plain[:, other]])
    elif kind == "categories":  # 40 of five each
        codes = rng.integers(0, 5, size=(747, 40))
        plain = np.column_stack([plain[:, :1], *(codes.T[..., None] == np.arange(5))])
    return plain.astype(np.float32)


@pytest.mark.parametrize("kind", ["plain", "engineered", "categories"])
@pytest.mark.parametrize("selected", [0.0, 0.5])
def test_hundreds_of_columns_raise_no_false_alarm(kind, selected):
    X = many_columns(kind)
    rng = np.random.default_rng(2)
    t = (rng.random(747) < 1 / (1 + np.exp(1.3 - selected * X[:, 0]))).astype(np.float32)
    engine = ByHand(b=rng.normal(size=(20, X.shape[1] + 1)))
    im = ImpactModel(linear, inference=engine).fit(X, X[:, 0] + t, t=t, progress=False)
    got = ask(im, X, {"t": 0}, {"t": 1}, t=t)  # a warning is an error here
    assert got.support.fraction.values.max() < 0.02


def test_a_treatment_that_is_a_column_is_scored_too(data):
    X, _, _ = data
    frame = pd.DataFrame(X, columns=list("abc")).assign(treat=(X[:, 0] > 0.5).astype(np.float32))
    im = ImpactModel(only_columns).set_posterior_sample({"b": RNG.normal(size=(20, 4))})
    arms: Any = {"X": lambda X: X.assign(treat=0.0)}, {"X": lambda X: X.assign(treat=1.0)}
    with pytest.warns(OutputWarning, match=r"chance of X\[treat\]=. too small"):
        ask(im, frame, *arms)


def only_columns(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def assigned(X, t=None, y=None):
    """The treatment is a site, drawn from covariates."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        t = numpyro.sample("t", dist.Bernoulli(logits=X[:, 0]), obs=t)
        numpyro.sample("y", dist.Normal(X[:, 0] + b * t, 1.0), obs=y)


def test_a_treatment_that_is_a_site_is_scored_by_the_data_that_it_observes(data):
    X, _, _ = data
    im = ImpactModel(assigned).set_posterior_sample({"b": RNG.normal(size=20)})
    with pytest.warns(OutputWarning, match="chance of t=. too small"):
        ask(im, X, {"t": 0}, {"t": 1}, t=(X[:, 0] > 0.5).astype(int))


def test_the_arm_that_a_row_had_is_no_extrapolation(by_hand, data):
    X, _, _ = data
    apart = (X[:, 0] + 0.3 * X[:, 1] > 0.5).astype(np.float32)
    apart[X[:, 0].argmin()] = 1.0  # one was treated where nobody else was
    with pytest.warns(OutputWarning, match="chance of t=. too small") as caught:
        got = ask(by_hand, X, {"t": 0}, {"t": 1}, t=apart)
    flags = got.support.outside.sel(scenario="intervention").values
    assert flags[X[:, 0].argmin()]
    strangers = int(np.sum(flags & (apart == 0)))
    assert f"{strangers} of 400 rows" in str(caught[1].message)
    assert float(got.support.fraction.sel(scenario="intervention")) == strangers / 400


def test_only_rows_that_are_asked_about_are_judged(by_hand, data):
    X, _, _ = data
    apart = (X[:, 0] > 0.5).astype(np.float32)
    with pytest.warns(OutputWarning, match="Scenario 'baseline'") as caught:
        got = ask(by_hand, X, {"t": 0}, {"t": 1}, t=apart, estimand="att")
    assert len(caught) == 1  # what the treated had is no question
    assert not got.support.outside.values[:, apart == 0].any()


@pytest.fixture
def own(data) -> Any:
    """A model, and the arrays of its fit, which may be changed."""
    X, t, y = (value.copy() for value in data)
    im = ImpactModel(linear, inference=ByHand(b=np.ones((20, 4))))
    return im.fit(X, y, t=t, progress=False), X, t


def shares(im: ImpactModel, X: Any, t: Any) -> Any:
    return ask(im, X, {"t": 0}, {"t": 1}, t=t).support.fraction.values.tolist()


def saved(im: ImpactModel, path: Any) -> ImpactModel:
    im.save(path / "model")
    loaded: ImpactModel = ImpactModel.load(path / "model", kernel=linear)
    return loaded


def pickled(im: ImpactModel, path: Any) -> ImpactModel:
    copied: ImpactModel = pickle.loads(pickle.dumps(im))
    return copied


def same(im: ImpactModel, path: Any) -> ImpactModel:
    return im


@pytest.fixture
def beyond(data) -> Any:
    X = data[0].copy()
    X[: ROWS // 4, 1] = 9.0
    return X


@pytest.mark.filterwarnings("ignore:Scenario")
@pytest.mark.parametrize("travel", [same, saved, pickled])
def test_where_rows_lie_is_found_when_it_is_asked_and_travels(
    travel, own, beyond, tmp_path, monkeypatch
):
    im, X, t = own
    found = []

    def finding(*args, **options):
        found.append(1)
        return support_of(*args, **options)

    monkeypatch.setattr(fitted_module, "support_of", finding)
    im.predict_on_batch(X, t=t)
    assert not found
    im = travel(im, tmp_path)
    assert shares(im, beyond, t) == [0.25, 0.25]
    assert shares(im, X, t) == [0.0, 0.0]
    assert len(found) == 1


@pytest.mark.filterwarnings("ignore:Scenario")
def test_rows_that_change_after_the_question_are_judged_as_they_were(own, beyond):
    im, X, t = own
    was = X.copy()
    assert shares(im, was, t) == [0.0, 0.0]
    X[:] = beyond
    assert shares(im, beyond, t) == [0.25, 0.25]


@pytest.mark.parametrize("number", [0, 1], ids=["X", "t"])
@pytest.mark.parametrize("travel", [same, saved, pickled])
def test_rows_that_changed_before_the_question_are_no_measure(number, travel, own, data, tmp_path):
    im, *arrays = own
    arrays[number][:2] = 0.5
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        im = travel(im, tmp_path)
        got = ask(im, data[0], {"X": lambda X: X}, {"X": lambda X: X + 99.0}, t=data[1])
    assert [warning.message.code for warning in caught] == ["support-lost"]
    assert got.support is None
