"""Rows of Parquet files are those of arrays, to the bit; tables of rows go back into such files."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from aimz import ImpactModel, InputError
from aimz.model import summarising
from aimz.model.files import TableRows
from aimz.testing import SourceContract
from tests.support.engines import ByHand

ROWS, DRAWS = 3000, 8
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "age": RNG.normal(size=ROWS).astype(np.float32),
        "treated": (RNG.uniform(size=ROWS) < 0.5).astype(np.float32),
        "income": RNG.normal(size=ROWS).astype(np.float32),
        "sales": RNG.normal(size=ROWS).astype(np.float32),
    }
)
X, T, Y = TABLE[["age", "income"]], TABLE["treated"], TABLE["sales"]
OPTIONS: dict[str, Any] = {"store": "memory", "progress": False, "rng_key": 3}
W = np.random.default_rng(1).normal(size=(DRAWS, 2)).astype(np.float32)


def kernel(X, t, y=None):
    w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ w + t, 1.0), obs=y)


@pytest.fixture
def im():
    return ImpactModel(kernel).set_posterior_sample({"w": W})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file of several row groups."""
    place = tmp_path_factory.mktemp("rows") / "rows.parquet"
    TABLE.to_parquet(place, row_group_size=700)
    return place


class TestTableRows(SourceContract):
    def make_source(self):
        arrays = self.rows()
        columns = {f"x{n}": column for n, column in enumerate(arrays["X"].T)}
        table = pa.table({**columns, "sales": arrays["y"]})
        return TableRows(ds.dataset(table), "X", ("x0", "x1"), {"y": "sales"})

    def test_predictions_can_be_made_of_it(self):
        """Of two columns, where the contract's kernel takes the first: see below."""


def folder_of(path, tmp_path):
    for number, first in enumerate((0, 1000, 2500)):
        last = (*(1000, 2500), ROWS)[number]
        TABLE.iloc[first:last].to_parquet(tmp_path / f"part-{number}.parquet")
    return tmp_path


WAYS = {
    "text": lambda path, _: str(path),
    "path": lambda path, _: path,
    "folder": folder_of,
    "data set": lambda path, _: ds.dataset(path),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_predictions_are_those_of_the_frame(im, path, way, tmp_path):
    expected = im.predict(X, t=T, y=Y, **OPTIONS)
    tree = im.predict(way(path, tmp_path), t="treated", y="sales", **OPTIONS)
    for group in ("posterior_predictive", "observed_data"):
        np.testing.assert_array_equal(tree[group]["y"].values, expected[group]["y"].values)


def test_effects_and_densities_are_those_of_the_frame(im, path):
    asked: dict[str, Any] = {"progress": False, "rng_key": 3}
    one = im.effect(X, {"t": 0.0}, {"t": 1.0}, t=T, **asked)
    file = str(path)
    other = im.effect(file, {"t": 0.0}, {"t": 1.0}, t="treated", y="sales", **asked)
    np.testing.assert_array_equal(other.draws.values, one.draws.values)
    trees = [
        im.log_likelihood(rows, outcome, t=t, store="memory", progress=False)
        for rows, outcome, t in ((X, Y, T), (file, "sales", "treated"))
    ]
    density, other_density = (tree["log_likelihood"]["y"].values for tree in trees)
    np.testing.assert_array_equal(other_density, density)


@pytest.mark.slow
def test_a_fit_reads_a_file(path):
    fits = [
        ImpactModel(kernel, rng_key=0, num_samples=20).fit(
            rows, y, t=t, num_steps=20, progress=False, on_bad_fit="ignore"
        )
        for rows, y, t in ((X, Y, T), (str(path), "sales", "treated"))
    ]
    one, other = (fit.posterior["w"] for fit in fits)
    np.testing.assert_array_equal(one, other)


def test_columns_are_found_by_name(path, tmp_path):
    """A file whose columns stand in another order than those that the fit saw."""
    im = ImpactModel(kernel, rng_key=0, inference=ByHand(w=W))
    im.fit(X, Y, t=T, progress=False)
    other = tmp_path / "other.parquet"
    TABLE[["sales", "income", "treated", "age"]].to_parquet(other)
    trees = [
        im.predict(str(place), t="treated", y="sales", in_sample=False, **OPTIONS)
        for place in (path, other)
    ]
    one, two = (tree["predictions"]["y"].values for tree in trees)
    np.testing.assert_array_equal(one, two)
    with pytest.raises(InputError) as caught:  # the outcome is no column of X
        im.predict(str(path), t="treated", in_sample=False, **OPTIONS)
    assert caught.value.code == "columns-mismatch"


@pytest.mark.parametrize(
    ("table", "code"),
    [
        (TABLE.assign(age=TABLE["age"].where(TABLE.index != 2500)), "not-finite"),
        (TABLE.assign(age="old"), "not-numeric"),
        (TABLE.iloc[:0], "no-rows"),
    ],
    ids=["missing", "text", "empty"],
)
def test_rows_that_are_no_numbers_are_refused(im, table, code, tmp_path):
    place = tmp_path / "rows.parquet"
    table.to_parquet(place)
    with pytest.raises(InputError) as caught:
        im.predict(str(place), t="treated", y="sales", **OPTIONS)
    assert caught.value.code == code


def test_what_is_no_file_or_column_is_named(im, path):
    with pytest.raises(InputError, match="no rows of Parquet") as caught:
        im.predict("nowhere.parquet", t="treated", **OPTIONS)
    assert caught.value.code == "rows-file"
    with pytest.raises(InputError, match="Did you mean 'sales'") as caught:
        im.log_likelihood(str(path), "sale", t="treated", store="memory", progress=False)
    assert caught.value.code == "column-unknown"


# ----------------------------------------------------------------------------- tables


def draws_of(im) -> np.ndarray:
    draws = im.predict(X, t=T, **OPTIONS)["posterior_predictive"]["y"].values
    flat: np.ndarray = draws.reshape(DRAWS, ROWS).astype(np.float64)
    return flat


def test_summaries_are_those_of_the_draws(im):
    draws = draws_of(im)
    table = im.predict_summary(X, t=T, quantiles=(0.1, 0.9), progress=False, rng_key=3)
    assert list(table) == ["y mean", "y sd", "y 10%", "y 90%"]
    np.testing.assert_allclose(table["y mean"], draws.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(table["y sd"], draws.std(axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(table["y 90%"], np.quantile(draws, 0.9, axis=0), rtol=1e-12)


def test_summaries_go_from_file_to_file(im, path, tmp_path):
    table = im.predict_summary(X, t=T, progress=False, rng_key=3)
    made = im.predict_summary(
        str(path), t="treated", y="sales", path=tmp_path / "out.parquet", progress=False, rng_key=3
    )
    pd.testing.assert_frame_equal(pq.read_table(made).to_pandas(), table.reset_index(drop=True))
    assert [place.name for place in tmp_path.iterdir()] == ["out.parquet"]


def test_one_draw_has_no_spread():
    im = ImpactModel(kernel).set_posterior_sample({"w": W[:1]})
    table = im.predict_summary(X[:5], t=T[:5], quantiles=(0.5,), progress=False)
    assert table["y sd"].isnull().all()
    np.testing.assert_array_equal(table["y mean"], table["y 50%"])


def test_rows_keep_their_labels(im):
    labelled = X.iloc[:40].set_axis([f"shop {n}" for n in range(40)])
    table = im.predict_summary(labelled, t=T.iloc[:40].to_numpy(), progress=False)
    assert table.index[3] == "shop 3"


@pytest.mark.filterwarnings("ignore::aimz.PerformanceWarning")
def test_blocks_of_draws_are_put_together():
    """A kernel whose rows interact has tiles of draws."""

    def centred(X, t, y=None):
        w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))
        with numpyro.plate("row", X.shape[0]):
            mu = X @ w - jnp.mean(X @ w) + t
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    im = ImpactModel(centred).set_posterior_sample({"w": np.tile(W, (60, 1))})
    draws = im.predict(X, t=T, **OPTIONS)["posterior_predictive"]["y"].values
    table = im.predict_summary(X, t=T, progress=False, rng_key=3)
    np.testing.assert_allclose(table["y mean"], draws.mean(axis=(0, 1), dtype=float), rtol=1e-12)


def test_a_failing_write_leaves_no_file(im, tmp_path, monkeypatch):
    real, count = summarising._Summaries._put, []

    def fails(sink, table):
        count.append(1)
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        return real(sink, table)

    monkeypatch.setattr(summarising._Summaries, "_put", fails)
    with pytest.raises(OSError, match="No space"):
        im.predict_summary(X, t=T, path=tmp_path / "out.parquet", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_categories_have_no_mean():
    def classes(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("row", X.shape[0]):
            logits = jnp.stack([X[:, 0] * b, X[:, 0], 0 * X[:, 0]], axis=-1)
            numpyro.sample("y", dist.Categorical(logits=logits), obs=y)

    im = ImpactModel(classes).set_posterior_sample({"b": np.zeros(4, np.float32)})
    with pytest.raises(InputError, match="no mean") as caught:
        im.predict_summary(X, progress=False)
    assert caught.value.code == "no-mean"


def test_an_effect_of_each_row_goes_into_a_file(im, tmp_path):
    effect = im.effect(X, {"t": 0.0}, {"t": 1.0}, t=T, row_summary=True, progress=False)
    table = pq.read_table(effect.to_parquet(tmp_path / "rows.parquet")).to_pandas()
    expected = effect.row_summary.to_dataframe().reset_index()
    pd.testing.assert_frame_equal(table, expected)
    effect = im.effect(X, {"t": 0.0}, {"t": 1.0}, t=T, progress=False)
    table = pq.read_table(effect.to_parquet(tmp_path / "all.parquet")).to_pandas()
    assert table.equals(effect.summary())
