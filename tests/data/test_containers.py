"""Numbers and labels in any container: exactly what they were, or refused by name."""

import collections
import datetime
import decimal
import enum
import fractions
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st

import aimz
from aimz import ImpactModel, InputError
from aimz.data import Known, Value, as_array, bind, lined_up, values_of

MA: Any = np.ma  # whose types know masks of arrays only

# ------------------------------------------------------------------ numbers


def seen(value: Any) -> np.ndarray:
    """An argument with a value per row as the kernel sees it."""
    found = bind(
        values_of({"X": np.zeros((3, 1)), "t": value}),
        names=("X", "t", "y"),
        required=("X",),
        known=Known(row_inputs=frozenset({"t"})),
        always_rows=("X",),
    )
    return np.asarray(found.arrays["t"])


WHOLE: dict[str, Any] = {
    "objects": np.array([1, 0, 7], object),
    "int4 of NumPy": np.array([1, 0, 7], ml_dtypes.int4),
    "int4 of JAX": jnp.asarray([1, 0, 7], jnp.int4),
    "uint4 of JAX": jnp.asarray([1, 0, 7], jnp.uint4),
    "big-endian": np.array([1, 0, 7], ">i2"),
    "unsigned big-endian": np.array([1, 0, 7], ">u8"),
    "nullable": pd.Series([1, 0, 7], dtype="Int16"),
    "Arrow in pandas": pd.Series([1, 0, 7], dtype="uint8[pyarrow]"),
    "categories that are numbers": pd.Series(pd.Categorical([1, 0, 7])),
    "sparse": pd.Series(pd.arrays.SparseArray([1, 0, 7])),
    "an index": pd.Index([1, 0, 7]),
    "Arrow": pa.array([1, 0, 7]),
    "Arrow in chunks": pa.chunked_array([[1], [0, 7]]),
    "polars": pl.Series([1, 0, 7], dtype=pl.Int8),
    "xarray": xr.DataArray(np.array([1, 0, 7], np.uint16)),
    "deque": collections.deque([1, 0, 7]),
    "bytes": memoryview(bytes([1, 0, 7])),
    "backwards": np.array([7, 0, 1], np.int8)[::-1],
    "strided": np.array([1, 9, 0, 9, 7])[::2],
}
REAL: dict[str, Any] = {
    "more than 64 bits": np.array([1, 0, 7], np.longdouble),
    "bfloat16": np.array([1, 0, 7], ml_dtypes.bfloat16),
    "float8 of NumPy": np.array([1, 0, 7], ml_dtypes.float8_e4m3fn),
    "float8 of JAX": jnp.asarray([1, 0, 7], jnp.float8_e5m2),
    "half in Arrow": pd.Series([1, 0, 7], dtype="halffloat[pyarrow]"),
    "decimals": [decimal.Decimal(1), decimal.Decimal(0), decimal.Decimal(7)],
    "decimals in Arrow": pd.Series(
        [decimal.Decimal(n) for n in (1, 0, 7)], dtype=pd.ArrowDtype(pa.decimal128(5, 2))
    ),
    "decimals in polars": pl.Series([decimal.Decimal(n) for n in (1, 0, 7)]),
    "fractions": [fractions.Fraction(n, 2) * 2 for n in (1, 0, 7)],
    "objects, some of them fractions": np.array([1, 0.0, 7], object),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_stay_whole(kind):
    found = seen(WHOLE[kind])
    assert found.dtype == np.int32
    assert found.tolist() == [1, 0, 7]


@pytest.mark.parametrize("kind", REAL)
def test_real_numbers_are_what_they_were(kind):
    found = seen(REAL[kind])
    assert found.dtype == np.float32
    assert found.tolist() == [1.0, 0.0, 7.0]


BOOLS: dict[str, Any] = {
    "objects": np.array([True, False, True], object),
    "nullable": pd.Series([True, False, True], dtype="boolean"),
    "Arrow": pa.array([True, False, True]),
    "Arrow in pandas": pd.Series([True, False, True], dtype="bool[pyarrow]"),
    "polars": pl.Series([True, False, True]),
}


@pytest.mark.parametrize("kind", BOOLS)
def test_bools_stay_bools(kind):
    assert seen(BOOLS[kind]).dtype == bool
    assert seen(BOOLS[kind]).tolist() == [True, False, True]


MISSING: dict[str, Any] = {
    "nullable": pd.Series([1, None, 7], dtype="Int64"),
    "Arrow": pa.array([1, None, 7]),
    "Arrow in pandas": pd.Series([1, None, 7], dtype="int64[pyarrow]"),
    "polars": pl.Series([1, None, 7]),
    "categories": pd.Series(pd.Categorical([1, None, 7])),
    "objects": np.array([1, None, 7], object),
    "xarray of a masked array": xr.DataArray(MA.array([1, 5, 7], mask=[0, 1, 0])),
}


@pytest.mark.parametrize("kind", MISSING)
def test_what_is_missing_is_nan(kind):
    found = seen(MISSING[kind])
    assert np.isnan(found[1])
    assert found[[0, 2]].tolist() == [1.0, 7.0]


DAYS = pd.date_range("2020-01-01", periods=3)
NO_NUMBERS: dict[str, tuple[Any, str]] = {
    "periods": (pd.Series(pd.period_range("2020", periods=3, freq="M")), r"times \(2020-01 in row"),
    "dates with a zone": (pd.Series(DAYS.tz_localize("Europe/Berlin")), "dates or times"),
    "dates in Arrow": (pd.Series(DAYS).astype("timestamp[ns][pyarrow]"), "dates or times"),
    "days in polars": (pl.Series([datetime.date(2020, 1, 1)] * 3), "dates or times"),
    "intervals": (pd.Series(pd.interval_range(0, 3)), r"holds objects \(\(0, 1\] in row 0"),
    "categories": (pd.Series(pd.Categorical(list("aba"))), r"holds text \('a' in row 0"),
    "categories in polars": (pl.Series(list("aba"), dtype=pl.Categorical), "holds text"),
    "text in Arrow": (pd.Series(list("aba"), dtype="string[pyarrow]"), "holds text"),
    "records": (np.zeros(3, [("a", "i4"), ("b", "f8")]), r"holds \[\('a'"),
    "bytes": (np.zeros(3, "V4"), r"holds \|V4"),
    "lists in polars": (pl.Series([[1], [2], [3]]), "holds objects"),
    "128 bits in polars": (pl.Series([1, 2, 3], dtype=pl.Int128), r"is no array \(.*i128"),
    "keys": (jax.random.split(jax.random.key(0), 3), "holds key<"),
    "complex numbers of JAX": (jnp.array([1j, 2, 3]), "holds complex"),
    "pairs": (pd.MultiIndex.from_tuples([(1, 2), (3, 4), (5, 6)]), "holds objects"),
    "a set": ({1, 2, 3}, "holds objects"),
    "a masked array": (MA.array([1, 2, 3], mask=[0, 1, 0]), "mask would be lost"),
    "masked arrays in a list": ([MA.array(1, mask=True), 2, 3], "mask would be lost"),
    "a masked element": ([1.0, MA.masked, 3.0], "mask would be lost"),
    "one masked number": (MA.array(1.0, mask=True), "mask would be lost"),
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_number_is_refused_by_name(kind):
    value, match = NO_NUMBERS[kind]
    with pytest.raises(InputError, match=f"'t' .*{match}") as raised:
        seen(value)
    assert raised.value.code == "not-numeric"
    assert len(str(raised.value)) < 240


def test_the_column_of_what_is_no_number_is_named():
    months = pd.period_range("2020", periods=3, freq="M")
    for column, match in ((months, "2020-01"), (pd.interval_range(0, 3), r"\(0, 1\]")):
        frame = pd.DataFrame({"age": np.ones(3), "when": column})
        with pytest.raises(InputError, match=rf"\({match} in row 0, column 'when'\)"):
            as_array(frame, "X")


BEYOND: dict[str, Any] = {
    "objects": np.array([2**53 + 1, 2, 3], object),
    "objects beyond 64 bits": [2**70, 1, 2],
    "objects that no integer of NumPy holds together": np.array([2**63, -1, 0], object),
    "Arrow": pa.array([2**53 + 1, 2, 3]),
    "nullable": pd.Series([2**53 + 1, 2, 3], dtype="Int64"),
}


@pytest.mark.parametrize("kind", BEYOND)
def test_whole_numbers_beyond_32_bits_are_refused_in_any_container(kind):
    with pytest.raises(InputError, match="whole numbers that int32 cannot hold") as raised:
        seen(BEYOND[kind])
    assert raised.value.code == "cast-overflow"


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
BITS = [*INTEGERS, ">i4", ">u2", ">i8", "float16", "float32", "float64", ">f4", ">f8"]
HOLDERS: dict[str, Any] = {
    "array": lambda v: v,
    "list": lambda v: v.tolist(),
    "objects": lambda v: np.array(v.tolist(), object),
    "strided": lambda v: np.repeat(v, 2)[::2],
    "read-only": lambda v: np.broadcast_to(v, v.shape),
    "Series": lambda v: pd.Series(v.astype(v.dtype.newbyteorder("="))),
    "xarray": lambda v: xr.DataArray(v, dims="row"),
    "Arrow": lambda v: pa.array(v.tolist(), pa.uint64() if v.dtype == np.uint64 else None),
    "polars": lambda v: pl.Series(v.tolist()),
}


@settings(deadline=None, max_examples=150)
@example("uint64", "Arrow", [2**63])
@example("uint64", "polars", [2**63])
@example("uint64", "Arrow", [0, 2**64 - 1024])
@given(
    st.sampled_from(BITS),
    st.sampled_from(sorted(HOLDERS)),
    st.lists(st.one_of(st.integers(0, 100), st.integers(-(2**40), 2**64 - 1)), min_size=1),
)
def test_numbers_are_exact_or_refused_whatever_holds_them(dtype, holder, numbers):
    kind = np.dtype(dtype)
    limits = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    least, greatest = (int(limit) for limit in (limits.min, limits.max))
    # Of that kind at once: small and large whole numbers together would be floats on the way.
    held = np.array([n for n in numbers if least <= n <= greatest] or [1], kind)
    value = HOLDERS[holder](held)
    try:
        found = Value.of(value, "t").seen
    except InputError as error:
        refused = error.code
    else:
        refused = ""
    if refused:
        assert refused in ("cast-overflow", "cast-precision")
        assert float(abs(held.astype(object)).max()) > 1e6
        return
    assert found.dtype in (np.int32, np.float32)
    assert found.shape == held.shape
    exact = held.astype(np.float64)
    if found.dtype == np.int32:
        assert found.tolist() == [int(n) for n in held.tolist()]
    else:
        rounding = 2.0**-24 * np.abs(exact).max()
        assert np.abs(found.astype(np.float64) - exact).max() <= rounding


# ------------------------------------------------------------------ labels of rows


def linear(X, d, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * d + X[:, 0], 1.0), obs=y)


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    return ImpactModel(linear).set_posterior_sample({"b": np.ones(4)})


INDICES: dict[str, Any] = {
    "periods": pd.period_range("2020-01", periods=3, freq="M"),
    "dates with a zone": DAYS.tz_localize("Europe/Berlin"),
    "intervals": pd.interval_range(0, 3),
    "bools and numbers": pd.Index([True, 2, "a"], dtype=object),
    "dates of Python": pd.Index([day.date() for day in DAYS]),
    "pairs": pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]),
    "categories": pd.CategoricalIndex(list("bca")),
    "categories that are numbers": pd.CategoricalIndex([3, 1, 2]),
    "text in Arrow": pd.Index(list("bca"), dtype="string[pyarrow]"),
    "numbers in Arrow": pd.Index([3, 1, 2], dtype="int64[pyarrow]"),
    "dates in Arrow": pd.Index(pd.Series(DAYS).astype("timestamp[ns][pyarrow]")),
    "a missing number": pd.Index([0.5, np.nan, 2.5]),
    "a missing date": pd.DatetimeIndex(["2020-01-01", "NaT", "2021-01-01"]),
    "a missing whole number": pd.Index([1, None, 3], dtype="Int64"),
    "beyond 63 bits": pd.Index(np.array([1, 2**63, 3], np.uint64)),
    "bytes": pd.Index([b"a", b"b", b"c"]),
    "dates far away": pd.DatetimeIndex(
        np.array(["0900-01-01", "2020-01-02", "9000-01-03"], "M8[s]")
    ),
}


@pytest.mark.parametrize("kind", INDICES)
def test_values_are_lined_up_by_labels_of_any_kind(kind):
    index, order = INDICES[kind], [2, 0, 1]
    labels = Value.of(pd.DataFrame({"x": np.arange(3.0)}, index=index), "X").labels
    values = pd.Series(np.arange(3.0), index=index).iloc[order]
    lined = lined_up({"d": values}, labels, 3, "X")["d"]
    np.testing.assert_array_equal(lined.array, np.arange(3.0))


@pytest.mark.parametrize("kind", INDICES)
def test_labels_come_back_from_a_store(kind, model, tmp_path):
    frame = pd.DataFrame({"x": np.arange(3.0)}, index=INDICES[kind])
    given: dict[str, Any] = {"d": np.zeros(3), "rng_key": 0}
    memory: Any = model.predict_on_batch(frame, **given)
    stored = model.predict(frame, **given, output_dir=tmp_path, progress=False)
    again: Any = aimz.open(stored.attrs["artifact_path"])
    expected, found = (t["posterior_predictive"].indexes["obs"] for t in (memory, again))
    assert found.dtype == expected.dtype
    assert found.equals(expected)


def test_labels_of_two_kinds_that_read_alike_are_refused():
    frame = pd.DataFrame({"x": np.zeros(3)}, index=pd.Index([1, "1", "a"], dtype=object))
    with pytest.raises(InputError, match="int and str, both read '1'") as raised:
        _ = Value.of(frame, "X").labels
    assert raised.value.code == "row-labels"
    array = xr.DataArray(np.zeros(2), dims="r", coords={"r": np.array([1, "1"], object)})
    with pytest.raises(InputError, match="both read '1'"):
        _ = Value.of(array, "X").labels


# ------------------------------------------------------------------ labels of groups


class Arm(enum.Enum):
    NEW = 1


GROUPS: dict[str, tuple[Any, list[Any]]] = {
    "periods": (pd.Series(pd.period_range("2020-01", periods=3, freq="M")), ["2020-01", "2020-02"]),
    "dates with a zone": (
        pd.Series(DAYS.tz_localize("Europe/Berlin")),
        ["2020-01-01 00:00:00+01:00", "2020-01-02 00:00:00+01:00"],
    ),
    "dates": (pd.Series(DAYS), [np.datetime64("2020-01-01"), np.datetime64("2020-01-02")]),
    "half precision": (np.array([0.5, 1.5, 2.5], np.float16), [0.5, 1.5]),
    "bfloat16": (np.array([0.5, 1.5, 2.5], ml_dtypes.bfloat16), [0.5, 1.5]),
    "bfloat16 of JAX": (jnp.array([0.5, 1.5, 2.5], jnp.bfloat16), [0.5, 1.5]),
    "big-endian": (np.array([1, 2, 3], ">i4"), [1, 2]),
    "big-endian numbers": (np.array([0.5, 1.5, 2.5], ">f8"), [0.5, 1.5]),
    "more than 64 bits": (np.array([0.5, 1.5, 2.5], np.longdouble), [0.5, 1.5]),
    "categories": (pd.Categorical(["lo", "hi", "mid"]), ["hi", "lo"]),
    "text in Arrow": (pa.array(["a", "b", "c"]), ["a", "b"]),
    "polars": (pl.Series(["a", "b", "c"], dtype=pl.Categorical), ["a", "b"]),
    "bools and text": (np.array([True, "x", 3], object), ["True", "3"]),
    "constants": ([Arm.NEW, Arm.NEW, Arm.NEW], ["Arm.NEW"]),
}


@pytest.fixture(scope="module")
def asked(model) -> Any:
    def ask(by: Any, **options: Any) -> Any:
        given: dict[str, Any] = {"d": np.zeros(3), "estimand": "cate", "progress": False}
        return model.effect(np.zeros((3, 1)), {"d": 0}, {"d": 1}, by=by, **given, **options)

    return ask


@pytest.mark.parametrize("kind", GROUPS)
def test_groups_are_labelled_by_what_was_given(kind, asked, tmp_path):
    by, expected = GROUPS[kind]
    draws = asked(by).draws
    if "group" in draws.dims:
        assert (
            draws["group"].values[:2].tolist()
            == np.asarray(expected).astype(draws["group"].dtype).tolist()
        )
        draws.to_netcdf(tmp_path / "draws.nc")
        again = xr.open_dataarray(tmp_path / "draws.nc")
        assert again.indexes["group"].equals(draws.indexes["group"])
    assert draws.values.ravel().tolist() == [1.0] * draws.size


NO_GROUPS: dict[str, tuple[Any, str]] = {
    "a masked array": (MA.array([1, 2, 1], mask=[0, 1, 0]), "'by' is a masked array"),
    "masked elements": ([1, MA.masked, 1], "'by' is a masked array"),
    "sets": (np.array([{1}, {2}, {1}], object), "what is no label"),
    "keys": (jax.random.split(jax.random.key(0), 3), "'by' is no array"),
    "missing": (pd.Series([1, None, 1], dtype="Int64"), "1 missing labels"),
    "a generator": ((n for n in range(3)), "there are 3 rows"),
}


@pytest.mark.parametrize("kind", NO_GROUPS)
def test_what_is_no_label_is_refused(kind, asked):
    by, match = NO_GROUPS[kind]
    with pytest.raises(InputError, match=match):
        asked(by)


def test_a_mask_is_not_lost_wherever_it_is(model):
    masked, X = MA.array([0.0, 1.0, 0.0], mask=[0, 0, 1]), np.zeros((3, 1))
    effect: dict[str, Any] = {"baseline": {"d": 0}, "intervention": {"d": 1}, "d": np.zeros(3)}
    calls: dict[str, Any] = {
        "X": lambda: model.predict_on_batch(masked[:, None], d=np.zeros(3)),
        "d": lambda: model.predict_on_batch(X, d=masked),
        "y": lambda: model.log_likelihood(X, masked, d=np.zeros(3), progress=False),
        "'y'": lambda: model.predict_on_batch(X, d=np.zeros(3), intervention={"y": masked}),
        "weights": lambda: model.effect(X, **effect, weights=masked),
        "treatment": lambda: model.effect(
            X, **effect, estimand="att", treatment=MA.array([True, False, True], mask=[1, 0, 0])
        ),
        "sample_weight": lambda: model.score(X, np.zeros(3), d=0.0, sample_weight=masked),
        "scenario": lambda: model.effect(X, **{**effect, "intervention": {"d": masked}}),
        "one row of a scenario": lambda: model.effect(
            X, {"X": MA.array([[1.0]], mask=[[1]])}, {"X": np.ones((3, 1))}, d=np.zeros(3)
        ),
        "draws": lambda: ImpactModel(linear).set_posterior_sample({"b": masked}),
        "batches": lambda: model.predict([{"X": X, "d": masked}], rng_key=0, progress=False),
    }
    for name, call in calls.items():
        with pytest.raises(InputError, match="is a masked array") as raised:
            call()
        assert raised.value.code == "not-numeric", name
