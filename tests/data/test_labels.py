"""Names of columns, of whatever kind, and draws and loaders that say what they hold."""

import copy
import datetime
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from aimz import FitWarning, ImpactModel, InputError, OutputWarning
from aimz.data import Known, bind, load, open_stream, values_of
from aimz.utils.data import ArrayDataset, ArrayLoader
from tests.support.engines import ByHand

# ------------------------------------------------------------------ names of columns

MAKERS: dict[str, Any] = {
    "pandas": lambda X, names: pd.DataFrame(X, columns=names),
    "xarray": lambda X, names: xr.DataArray(X, dims=("row", "c"), coords={"c": pd.Index(names)}),
    "polars": lambda X, names: pl.DataFrame(X, schema=[str(name) for name in names]),
}
NAMES: dict[str, Any] = {
    "text": st.text(min_size=1, max_size=3),
    "whole numbers": st.integers(-5, 20),
    "fractions": st.floats(0, 1),
    "dates": st.dates(datetime.date(2020, 1, 1), datetime.date(2020, 2, 1)).map(pd.Timestamp),
    "pairs": st.tuples(st.sampled_from("ab"), st.integers(0, 3)),
}


def bound(X: Any, columns: Any = None) -> Any:
    known = Known() if columns is None else Known(columns={"X": columns}, shapes={"X": (3,)})
    return bind(
        values_of({"X": X}), names=("X", "y"), required=("X",), known=known, always_rows=("X",)
    )


@settings(deadline=None, max_examples=80)
@given(st.data(), st.sampled_from(sorted(NAMES)), st.sampled_from(sorted(MAKERS)))
def test_columns_are_lined_up_whatever_kind_of_name_they_have(data, kind, container):
    names = data.draw(st.lists(NAMES[kind], min_size=3, max_size=3, unique_by=str))
    order = data.draw(st.permutations(range(3)))
    make, X = MAKERS[container], np.arange(6.0).reshape(2, 3)
    fitted = bound(make(X, names)).columns["X"]
    again = bound(make(X[:, order], [names[place] for place in order]), fitted)
    np.testing.assert_array_equal(again.arrays["X"], X)
    assert again.columns["X"] == fitted


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(sorted(NAMES)), st.sampled_from(["pandas", "xarray"]))
def test_other_names_are_refused(data, kind, container):
    names = data.draw(st.lists(NAMES[kind], min_size=3, max_size=3, unique_by=str))
    X = np.arange(6.0).reshape(2, 3)
    fitted = bound(MAKERS[container](X, names)).columns["X"]
    for other in ([*names[:2], "another"], ["u", "v", "w"]):
        if {*map(str, other)} == {*map(str, names)}:
            continue
        with pytest.raises(InputError, match="has no column") as raised:
            bound(pd.DataFrame(X, columns=pd.Index(other, dtype=object)), fitted)
        assert raised.value.code == "columns-mismatch"


def plain(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(b + X @ jnp.array([1.0, 100.0]), 1.0), obs=y)


ROWS = np.array([[1.0, 2.0], [3.0, 4.0]])


def fitted_on(X: Any) -> ImpactModel:
    return ImpactModel(plain, inference=ByHand(b=np.arange(5.0))).fit(X, [0.0, 1.0], progress=False)


def drawn(im: ImpactModel, X: Any) -> Any:
    return im.predict_on_batch(X, rng_key=1).posterior_predictive["y"].values


@pytest.fixture(scope="module")
def counted() -> ImpactModel:
    return fitted_on(pd.DataFrame(ROWS))


@pytest.mark.filterwarnings("ignore:The loss was still falling")
def test_a_frame_without_names_is_known_by_its_numbers(counted):
    expected = drawn(counted, ROWS)  # an array says nothing else, and nothing is announced
    np.testing.assert_array_equal(drawn(counted, pd.DataFrame(ROWS)[[1, 0]]), expected)
    with pytest.raises(InputError, match="has no column '0'"):
        drawn(counted, pd.DataFrame(ROWS, columns=["u", "v"]))
    with pytest.raises(InputError, match="has no column '0'"):
        drawn(counted, pd.DataFrame(ROWS, columns=[5, 6]))
    assert not hasattr(counted, "feature_names_in_")
    assert counted.describe()["inputs"]["X"]["columns"] == []


def pair(X, C, y=None):
    both = dist.Normal(numpyro.sample("a", dist.Normal()), 1.0).expand([2]).to_event(1)
    with numpyro.plate("row", X.shape[0]):
        c = numpyro.sample("c", both, obs=C)
        y = numpyro.sample("y", both, obs=y)
        numpyro.deterministic("seen", jnp.concatenate([c, y], -1) @ jnp.array([1.0, 10, 100, 1000]))


TABLE = pd.DataFrame(ROWS, columns=["u", "v"])


@pytest.fixture(scope="module")
def of_tables() -> ImpactModel:
    im = ImpactModel(pair, inference="svi")
    im.train_on_batch(ROWS, TABLE, C=TABLE)
    return im.set_posterior_sample({"a": np.zeros(2)})


SWAPPED: dict[str, Any] = {
    "pandas": TABLE[["v", "u"]],
    "polars": pl.from_pandas(TABLE[["v", "u"]]),
    "xarray": xr.DataArray(ROWS[:, ::-1], dims=("r", "k"), coords={"k": ["v", "u"]}),
}


@pytest.mark.filterwarnings("ignore:Setting c cannot change 'y'")
@pytest.mark.parametrize("kind", SWAPPED)
@pytest.mark.parametrize("site", ["c", "y"])
@pytest.mark.parametrize("how", ["intervention", "condition"])
def test_columns_of_a_site_are_put_in_the_order_of_its_data(how, site, kind, of_tables):
    def seen(value: Any) -> Any:
        held = {"c": ROWS, "y": ROWS} | {site: value}
        call = {"intervention": {}, "condition": {}}
        for name, own in held.items():
            call[how if name == site else "intervention"][name] = own
        tree = of_tables.predict_on_batch(ROWS, C=TABLE, **call, return_sites="seen", rng_key=1)
        return tree.posterior_predictive["seen"].values[0, 0]

    np.testing.assert_allclose(seen(SWAPPED[kind]), ROWS @ [1, 10] + ROWS @ [100, 1000])
    with pytest.raises(InputError, match="has no column 'u'") as raised:
        seen(TABLE.set_axis(["p", "q"], axis=1))
    assert raised.value.code == "columns-mismatch"


@pytest.mark.filterwarnings("ignore:The loss was still falling")
def test_numbered_columns_keep_the_order_of_the_fit():
    im = fitted_on(pd.DataFrame(ROWS, columns=[7, 3]))
    expected = drawn(im, pd.DataFrame(ROWS, columns=[7, 3]))
    np.testing.assert_array_equal(drawn(im, pd.DataFrame(ROWS[:, ::-1], columns=[3, 7])), expected)
    for unnamed in (ROWS, pd.DataFrame(ROWS)):  # a copy has not been told
        with pytest.warns(OutputWarning, match="has no column names"):
            drawn(copy.deepcopy(im), unnamed)
    lazy = xr.DataArray(ROWS[:, ::-1], dims=("r", "c"), coords={"c": [3, 7]}).chunk(r=1)
    np.testing.assert_array_equal(drawn(im, lazy), expected)
    batches = [{"X": pd.DataFrame(ROWS[:, ::-1], columns=[3, 7])}]
    np.testing.assert_array_equal(drawn(im, batches), expected)


@pytest.mark.filterwarnings("ignore:The loss was still falling")
def test_numbered_columns_of_an_array_are_lined_up_by_number():
    im = fitted_on(ROWS)
    swapped = pd.DataFrame(ROWS[:, ::-1], columns=[1, 0])
    np.testing.assert_array_equal(drawn(im, swapped), drawn(im, ROWS))


# ------------------------------------------------------------------ draws set by hand


@pytest.fixture
def model() -> ImpactModel:
    return ImpactModel(plain)


DRAWS: dict[str, Any] = {
    "complex": np.ones(4) * 1j,
    "complex of jax": jnp.ones(4) * 1j,
    "complex objects": np.array([1j, 1.0], object),
    "text": np.array(["1", "2"]),
    "dates": np.array(["2020-01-01", "2020-01-02"], "M8[D]"),
    "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
    "keys": np.array([None, object()]),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_draws_that_are_no_real_numbers_are_refused(kind, model):
    with pytest.raises(InputError) as raised:
        model.set_posterior_sample({"b": DRAWS[kind]})
    assert raised.value.code == "not-numeric"
    if isinstance(DRAWS[kind], np.ndarray) and not isinstance(DRAWS[kind], np.ma.MaskedArray):
        with pytest.raises(InputError):
            model.set_posterior_sample(xr.Dataset({"b": (("chain", "draw"), DRAWS[kind][None])}))


def test_draws_are_the_models_own(model):
    given = np.zeros(3)
    for draws in ({"b": given}, xr.Dataset({"b": (("chain", "draw"), given[None])})):
        given[:] = 0.0
        model.set_posterior_sample(draws)
        before = drawn(model, ROWS)
        given += 1000.0
        np.testing.assert_array_equal(drawn(model, ROWS), before)


def test_a_fit_does_not_go_on_with_data_that_were_changed_in_place():
    X = ROWS.astype(np.float32)
    im = ImpactModel(plain, num_samples=5)
    with pytest.warns(FitWarning):  # it is short
        im.fit_on_batch(X, [0.0, 1.0], num_steps=2, progress=False)
    im.sample()
    X += 1.0
    with pytest.raises(InputError, match="has been changed in place") as raised:
        im.sample()
    assert raised.value.code == "data-differ"


# ------------------------------------------------------------------ loaders


class Loader:
    """Batches of some sizes, which says of itself what it is told to."""

    def __init__(self, sizes: list[int], rows: int | None = None, batches: int | None = None):
        self.sizes, self.batches = sizes, batches
        if rows is not None:
            self.dataset = range(rows)

    def __len__(self) -> int:
        return len(self.sizes) if self.batches is None else self.batches

    def __iter__(self) -> Any:
        return iter([{"X": np.ones((n, 2)), "y": np.ones(n)} for n in self.sizes])


LIARS = {
    "fewer rows": Loader([2, 2], rows=5),
    "more rows": Loader([2, 3], rows=4),
    "fewer batches": Loader([2, 2], batches=3),
    "more batches": Loader([2, 2], batches=1),
    "an empty batch among others": Loader([2, 0, 2]),
    "two of them": Loader([2, 0, 0, 2]),
}
HONEST = {
    "batches": Loader([2, 3]),
    "rows": Loader([2, 3], batches=5),
    "a data set": Loader([2, 3], rows=5),
    "nothing at the ends": Loader([0, 2, 3, 0]),
}


@pytest.mark.parametrize("kind", [*LIARS, *HONEST])
def test_a_loader_must_give_what_it_says(kind):
    def read() -> int:
        stream: Any = open_stream(
            values_of({"X": LIARS[kind]}), "X", batch_size=None, whole=frozenset()
        )
        return len(stream.load()["X"])

    if kind in HONEST:
        assert len(load({"X": HONEST[kind]}, "X")["X"].array) == 5
        return
    for reads in (read, lambda: load({"X": LIARS[kind]}, "X")):
        with pytest.raises(InputError) as raised:
            reads()
        assert raised.value.code in ("loader-length", "rows-mismatch")


def test_columns_beside_rows_that_are_not_in_memory_are_put_in_the_fitted_order(tmp_path):
    rows = np.memmap(tmp_path / "rows", np.float32, "w+", shape=ROWS.shape)
    rows[:] = ROWS
    beside = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=["u", "v"])
    known = Known(columns={"Z": ("v", "u")})
    given = {"X": rows, "Z": beside}
    stream: Any = open_stream(
        values_of(given), "X", batch_size=None, whole=frozenset(), known=known
    )
    np.testing.assert_array_equal(stream.load()["Z"], beside[["v", "u"]])
    assert stream.columns == {"Z": ("v", "u")}
    given = {"X": rows, "Z": beside.rename(columns={"v": "w"})}
    with pytest.raises(InputError, match="no column 'v'"):
        open_stream(values_of(given), "X", batch_size=None, whole=frozenset(), known=known)


def test_a_data_set_keeps_the_names_and_the_labels_of_what_it_holds():
    frame = pd.DataFrame(ROWS, columns=["u", "v"], index=["a", "b"])
    data = ArrayDataset(X=frame, y=pd.Series([2.0, 1.0], index=["b", "a"]))
    assert data.arrays["y"].tolist() == [1.0, 2.0]
    stream: Any = open_stream(
        values_of({"X": ArrayLoader(data, 0)}),
        "X",
        batch_size=None,
        whole=frozenset(),
        known=Known(columns={"X": ("v", "u")}),
    )
    np.testing.assert_array_equal(stream.load()["X"], ROWS[:, ::-1])
