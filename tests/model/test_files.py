"""Rows of Parquet files are those of arrays, to the bit; tables of rows go back into such files."""

import time
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
from aimz.data import Value, open_stream, values_of
from aimz.effects import changes
from aimz.kernels import Linear
from aimz.model import summarising
from aimz.model.files import TableRows, in_columns_of_files
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
    "filtered data set": lambda path, _: ds.dataset(path).filter(ds.field("age") > -9.0),
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
def test_no_more_of_a_file_is_in_memory_than_a_group(tmp_path):
    """Arrow would read on while nobody asks, and all of it for the first rows."""
    wide = pa.table({f"x{n}": RNG.normal(size=80_000) for n in range(8)})
    pq.write_table(wide, tmp_path / "wide.parquet", row_group_size=8000)
    rows = in_columns_of_files({"X": tmp_path / "wide.parquet"}, "X", "y")["X"]
    before, group = pa.total_allocated_bytes(), 8 * 8 * 8000
    tiles = rows.tiles(1000)
    for ask in (lambda: rows.head, lambda: next(tiles)):
        kept = ask()
        time.sleep(0.1)  # in which Arrow may read
        assert pa.total_allocated_bytes() - before < 2 * group
        assert kept is not None


def test_a_number_set_in_rows_of_a_file_is_not_spread_over_them(im, path, monkeypatch):
    held: list[Any] = []
    inputs = changes.ByPiece.inputs

    def noted(self, scenario, request, natural, replaced):
        held.append(replaced["t"].given)
        return inputs(self, scenario, request, natural, replaced)

    monkeypatch.setattr(changes.ByPiece, "inputs", noted)
    im.effect(path, {"t": 0}, {"t": 1}, t="treated", y="sales", progress=False, rng_key=1)
    assert [(v.shape, v.strides) for v in held] == [((ROWS,), (0,))] * 2


def running(X, t, y=None):
    w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(jnp.cumsum(X @ w + t), 1.0), obs=y)


@pytest.mark.filterwarnings("ignore::aimz.PerformanceWarning")
@pytest.mark.parametrize("change", [{"t": 1.0}, {"age": 0.0}])
def test_effects_of_rows_that_interact_are_those_of_the_frame(path, change):
    """They are loaded, and so is what a scenario changes."""
    im = ImpactModel(running).set_posterior_sample({"w": W})
    given: dict[str, dict[str, Any]] = {
        "frame": {"X": X, "t": T},
        "file": {"X": str(path), "t": "treated", "y": "sales"},
        "batches": {"X": [{"X": X[i : i + 900], "t": T[i : i + 900]} for i in range(0, ROWS, 900)]},
    }
    options: dict[str, Any] = {"baseline": {}, "intervention": change, "rng_key": 3}
    if change == {"t": 1.0}:
        options["baseline"] = {"t": 0.0}
    for inputs in given.values():
        drawn = im.effect(**inputs, **options, progress=False).draws.to_numpy()
        expected = (ROWS + 1) / 2 if change == {"t": 1.0} else _of_age(W)
        np.testing.assert_allclose(drawn[0], expected, rtol=1e-4, atol=1e-2)


def _of_age(w) -> Any:
    """The average of what age no longer adds to the running sum."""
    return -np.cumsum(X["age"].to_numpy()).mean() * w[:, 0]


# A fast one, with columns, is in test_rows_in_files.py.
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


@pytest.mark.filterwarnings("ignore::aimz.AimzWarning")
def test_what_needs_all_rows_reads_them(path):
    """Scores, leaving out, checks, impacts and trees of a file are those of the frame."""
    w = np.random.default_rng(2).normal(size=(128, 2)).astype(np.float32)
    im = ImpactModel(kernel).set_posterior_sample({"w": w})
    weights = np.linspace(1.0, 2.0, ROWS)
    quiet: dict[str, Any] = {"progress": False}
    told: list[Any] = []
    for rows, y, t in ((X, Y, T), (str(path), "sales", "treated")):
        impact = im.impact(rows, y, t=t, intervention_time=2000, rng_key=1, **quiet)
        check = im.check(rows, y, t=t, rng_key=1, **quiet)
        tree = im.to_datatree(rows, y, t=t, rng_key=1)
        told.append(
            [
                im.score(rows, y, t=t),
                im.score(rows, y, t=t, sample_weight=weights),
                im.loo(rows, y, t=t, **quiet).elpd,
                impact.average.values,
                check.regions["verdict"].to_numpy(),
                tree["posterior_predictive"]["y"].values,
            ]
        )
    for one, other in zip(*told, strict=True):
        np.testing.assert_array_equal(other, one)


# ----------------------------------------------------------------------------- kinds of columns

MANY = 14_000  # more than are looked at together
N = np.arange(MANY)


def lacking(values, row=13_500):
    """Nothing is there in one row of a later part."""
    return pa.array(values, mask=row == N)


KINDS: dict[str, Any] = {
    "switches": N % 2 == 0,
    "switches, one missing": lacking(N % 2 == 0),
    "small": (N % 100).astype(np.int8),
    "small, one missing": lacking((N % 100).astype(np.int8)),
    "unsigned": (N % 100).astype(np.uint8),
    "beyond 2^24": N + 2**24,
    "beyond 2^24, one missing": lacking(N + 2**24),
    "beyond 2^31": N + 2**33,
    "unsigned beyond 2^31": (N + 2**31).astype(np.uint32),
    "beyond 2^53": N.astype(np.int64) + 2**60,
    "beyond 2^53, one missing": lacking(N.astype(np.int64) + 2**60),
    "halves": N.astype(np.float16),
    "doubles, one missing": lacking(N / 3),
    "one large number a part": 1.7e9 + N // 8192,
    "large numbers far apart": 1.7e9 + 1e6 * N,
    "decimals": pa.array(N % 7).cast(pa.decimal128(22, 2)),
    "decimals, one missing": lacking(N % 7).cast(pa.decimal128(22, 2)),
    "categories that are numbers": pa.array(N % 3).dictionary_encode(),
    "categories, one missing": lacking(N % 3).dictionary_encode(),
    "categories that are text": pa.array(np.array(["a", "b"])[N % 2]).dictionary_encode(),
    "text": np.array(["a", "b"])[N % 2],
    "nothing": pa.nulls(MANY),
    "days": pa.array(N.astype(np.int32)).cast(pa.date32()),
    "times": pa.array(N).cast(pa.timestamp("ns")),
    "spans": pa.array(N).cast(pa.duration("s")),
    "records": pa.StructArray.from_arrays([pa.array(N)], names=["of"]),
    "lists": pa.array([[1.0]] * MANY),
}


def found(make) -> Any:
    """Numbers by argument, or the code of the refusal."""
    try:
        return make()
    except InputError as error:
        return error.code


def in_parts(place, t: str | None) -> dict[str, np.ndarray]:
    given = {"X": str(place)} | ({} if t is None else {"t": t})
    stream = open_stream(
        values_of(in_columns_of_files(given, "X", "y")), "X", batch_size=None, whole=frozenset()
    )
    tiles = [tile.arrays for tile in stream.tiles(3000)]
    return {name: np.concatenate([tile[name] for tile in tiles]) for name in tiles[0]}


def as_pandas(place, t: str | None) -> dict[str, np.ndarray]:
    frame = pd.read_parquet(place)
    rows = {"X": frame} if t is None else {"X": frame.drop(columns=t), "t": frame[t]}
    return {name: Value.of(value, name).seen for name, value in rows.items()}


def same_as_pandas(place, t: str | None = None) -> None:
    expected = found(lambda: as_pandas(place, t))
    made = found(lambda: in_parts(place, t))
    if isinstance(expected, str):
        assert made == expected
        return
    rows: TableRows = in_columns_of_files({"X": str(place)} | ({"t": t} if t else {}), "X", "y")[
        "X"
    ]
    assert rows.parts is not None
    (part,) = rows.parts(slice(0, rows.count))  # as another process reads them
    away = {name: Value.of(value, name).seen for name, value in (part.read() or {}).items()}
    for values in (made, away):
        assert values.keys() == expected.keys()
        for name, array in expected.items():
            assert values[name].dtype == array.dtype
            np.testing.assert_array_equal(values[name], array)


@pytest.mark.parametrize("column", KINDS.values(), ids=KINDS.keys())
def test_kinds_of_columns_are_those_of_pandas(column, tmp_path):
    """Alone in the rows, beside floats, and as an argument of its own."""
    place = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": column}), place, row_group_size=4000)
    same_as_pandas(place)
    pq.write_table(pa.table({"a": column, "b": N.astype(np.float32)}), place, row_group_size=4000)
    same_as_pandas(place)
    same_as_pandas(place, "a")


def two_files(place, one, other):
    place.mkdir()
    pq.write_table(pa.table(one), place / "0.parquet")
    pq.write_table(pa.table(other), place / "1.parquet")


FEW = np.arange(5.0)
LAYOUTS: dict[str, Any] = {
    "columns in another order": ({"a": FEW, "b": -FEW}, {"b": FEW, "a": -FEW}),
    "another width": ({"a": FEW, "b": FEW}, {"a": FEW.astype(np.float32), "b": FEW.astype(int)}),
    "whole numbers lacking in the second": (
        {"a": FEW.astype(int), "b": FEW.astype(int)},
        {"a": FEW.astype(int), "b": pa.array([1, None, 2, 3, 4])},
    ),
    "no such column in the second": ({"a": FEW.astype(int), "b": FEW.astype(int)}, {"a": FEW}),
    "no rows in the first": ({"a": FEW[:0], "b": FEW[:0]}, {"a": FEW, "b": FEW}),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("t", [None, "b"])
def test_folders_are_those_of_pandas(layout, t, tmp_path):
    two_files(tmp_path / "rows", *layout)
    same_as_pandas(tmp_path / "rows", t)


@pytest.mark.parametrize(("t", "name"), [(None, "year"), ("year", "year"), (None, "part")])
def test_names_of_folders_are_a_column(t, name, tmp_path):
    values = ["x", "y"] if name == "part" else [2023, 2024]
    frame = pd.DataFrame({"a": np.arange(6.0), name: np.repeat(values, 3)})
    frame.to_parquet(tmp_path / "rows", partition_cols=[name])
    same_as_pandas(tmp_path / "rows", t)
    inside = next((tmp_path / "rows").glob("*/*.parquet"))
    same_as_pandas(inside)


def test_the_index_of_a_frame_is_no_column(tmp_path):
    frame = pd.DataFrame({"shop": [7, 2, 9, 4, 5], "a": FEW}).set_index("shop")
    frame.to_parquet(tmp_path / "rows.parquet")
    same_as_pandas(tmp_path / "rows.parquet")


def test_files_of_two_types_name_the_column(tmp_path):
    two_files(tmp_path / "rows", {"a": FEW.astype(int), "b": FEW}, {"a": FEW / 2, "b": FEW})
    with pytest.raises(
        InputError, match=r"Column 'a' of 'X' is int64.*double in 1\.parquet"
    ) as caught:
        in_parts(tmp_path / "rows", None)
    assert caught.value.code == "columns-mismatch"
    assert len(str(caught.value)) < 240
    (tmp_path / "rows" / "1.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot be read") as caught:
        in_parts(tmp_path / "rows", None)
    assert caught.value.code == "rows-file"


@pytest.mark.parametrize("how", ["replaced", "cut", "removed"])
def test_a_file_that_changes_while_it_is_read_is_refused(how, tmp_path):
    """Later groups would be those of other rows."""
    place = tmp_path / "rows.parquet"
    TABLE.to_parquet(place, row_group_size=700)
    TABLE.assign(age=TABLE["age"] + 9).to_parquet(tmp_path / "new.parquet", row_group_size=700)
    rows: TableRows = in_columns_of_files({"X": str(place)}, "X", "y")["X"]
    tiles = rows.tiles(500)
    next(tiles)
    if how == "replaced":
        (tmp_path / "new.parquet").replace(place)
    elif how == "cut":
        place.write_bytes(place.read_bytes()[:9000])
    else:
        place.unlink()
    with pytest.raises(InputError, match=r"rows\.parquet was written or removed") as caught:
        list(tiles)
    assert caught.value.code == "rows-changed"


@pytest.mark.parametrize("column", ["age", pytest.param("treated", marks=pytest.mark.slow)])
def test_a_missing_whole_number_is_named(im, column, tmp_path):
    """By its row and column, whichever row group it is in."""
    whole = TABLE.round().astype("Int64")
    whole.loc[2500, column] = pd.NA
    whole.to_parquet(tmp_path / "rows.parquet", row_group_size=700)
    with pytest.raises(InputError, match="the first in row 2500") as caught:
        im.predict(str(tmp_path / "rows.parquet"), t="treated", y="sales", **OPTIONS)
    assert caught.value.code == "not-finite"
    assert ("column 'age'" in str(caught.value)) == (column == "age")


@pytest.mark.parametrize("kind", ["categories that are text", "text"])
def test_categories_of_a_file_are_not_encoded(kind, tmp_path):
    """A ready-made regression gives each category of a frame an effect of its own."""
    table = pa.table({"a": KINDS[kind], "y": N % 3.0})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="Column 'a' of 'X' holds categories") as caught:
        ImpactModel(Linear()).fit(str(tmp_path / "rows.parquet"), "y", progress=False)
    assert caught.value.code == "not-numeric"


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
