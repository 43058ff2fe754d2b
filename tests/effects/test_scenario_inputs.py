"""What scenarios are given: functions of narrow numbers, scalars, columns, frames in any order."""

import warnings
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from aimz import ImpactModel, InputError, OutputWarning
from aimz.data import check_exact
from aimz.effects import changes_of
from aimz.sampling import applied
from aimz.sampling.widening import widened

# ------------------------------------------------------------------ functions of narrow numbers

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
DTYPES += ["float16", "float32", "float64"]
NULLABLE = {"bool": "boolean", "float16": "Float32"}
NULLABLE |= {f"uint{bits}": f"UInt{bits}" for bits in (8, 16, 32, 64)}
SERIES: dict[str, Any] = {
    "numpy": lambda v, dtype: np.asarray(v, dtype),
    "jax": lambda v, dtype: jnp.asarray(np.asarray(v, dtype)),
    "list": lambda v, dtype: np.asarray(v, dtype).tolist(),
    "Series": lambda v, dtype: pd.Series(v, dtype=dtype),
    "nullable": lambda v, dtype: pd.Series(v, dtype=NULLABLE.get(dtype, dtype.title())),
    "arrow": lambda v, dtype: pd.Series(np.asarray(v, dtype)).convert_dtypes(
        dtype_backend="pyarrow"
    ),
    "polars": lambda v, dtype: pl.Series(np.asarray(v, dtype)),
    "xarray": lambda v, dtype: xr.DataArray(np.asarray(v, dtype), dims="row"),
}
FUNCTIONS: dict[str, Any] = {
    "less one": lambda t: t - 1,
    "times a hundred": lambda t: t * 100,
    "times more than 16 bits": lambda t: t * 70_000,
    "times more than 32 bits": lambda t: t * 5_000_000_000,
    "of one": lambda t: 1 - t,
    "twice": lambda t: t + t,
    "negative": lambda t: -t,
    "less itself and one": lambda t: t - t - 1,
}


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(SERIES)),
    st.sampled_from(DTYPES),
    st.sampled_from(sorted(FUNCTIONS)),
    st.lists(st.integers(0, 1), min_size=1, max_size=4),
)
def test_functions_compute_with_numbers_whatever_holds_them(kind, dtype, name, values):
    function = FUNCTIONS[name]
    found = applied(function, SERIES[kind](values, dtype), "t")
    expected = [float(function(value)) for value in values]
    assert np.asarray(found, np.float64).tolist() == expected


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(DTYPES[1:]), st.lists(st.integers(2, 100), min_size=1, max_size=4))
def test_columns_of_frames_are_wide_too(dtype, values):
    frame = pd.DataFrame({"a": np.asarray(values, dtype), "b": np.ones(len(values), np.float16)})
    functions: dict[Any, Any] = {
        pd.DataFrame: lambda X: X * 1000,
        pl.DataFrame: lambda X: X.select(pl.all() * 1000),
    }
    for X in (frame, pl.from_pandas(frame)):
        found = applied(functions[type(X)], X, "X")
        assert np.asarray(found)[:, 0].tolist() == [1000 * value for value in values]


@pytest.mark.parametrize(
    "value",
    [np.int8(100), np.array(100, np.uint8), ml_dtypes.bfloat16(100), np.array([100], "float16")],
)
def test_scalars_are_wide_too(value):
    assert np.ravel(applied(lambda v: v * 1000, value, "v"))[0] == 100_000


MASKS: dict[str, Any] = {
    "complement": (lambda t: ~t, [True, False]),
    "choice": (lambda t: np.where(t, 5, 3), [3, 5]),
    "choice of jax": (lambda t: jnp.where(t, 5, 3), [3, 5]),
    "mask": (lambda t: np.array([7, 8])[t].repeat(2), [8, 8]),
    "logical": (lambda t: t & np.array([True, True]), [False, True]),
}


@pytest.mark.parametrize("kind", ["numpy", "Series", "polars", "nullable"])
@pytest.mark.parametrize("name", MASKS)
def test_bools_stay_what_they_are_where_they_are_no_numbers(name, kind):
    function, expected = MASKS[name]
    if kind in ("polars", "nullable") and name in ("mask", "logical"):
        pytest.skip("not theirs")
    found = applied(function, SERIES[kind]([False, True], "bool"), "t")
    assert np.asarray(found).tolist() == expected


@pytest.mark.parametrize("kind", SERIES)
def test_functions_of_jax_take_every_container(kind):
    found = applied(
        lambda t: jnp.where(t > 1, t * 3_000_000_000, 0), SERIES[kind]([1, 2], "int8"), "t"
    )
    assert np.asarray(found).tolist() == [0, 6_000_000_000]


def test_functions_get_a_copy():
    value = np.array([1.0, 2.0])

    def change(t):
        t[:] = 0
        return t

    applied(change, value, "t")
    assert value.tolist() == [1.0, 2.0]


def test_what_no_int64_holds_stays_as_it_is():
    assert widened(np.array([2**64 - 1], np.uint64)).tolist() == [2**64 - 1]


#: Functions of a natural value that do not run: the function, and what it raises.
FAILING: dict[str, Any] = {
    "arithmetic": (lambda t: 1 / 0, ZeroDivisionError),
    "an option that there is not": (lambda t: t.mean(no_such=1), TypeError),
    "a column that there is not": (lambda t: {}["price"], KeyError),
    "an attribute": (lambda t: t.no_such, AttributeError),
    "two values": (lambda t, other: t, TypeError),
    "no value": (lambda: 1.0, TypeError),
}


@pytest.mark.parametrize("kind", FAILING)
def test_an_error_in_a_function_is_the_cause_of_ours(kind):
    function, cause = FAILING[kind]
    for value in (pd.Series([1.0]), np.array([True]), pd.DataFrame({"a": [1.0]})):
        with pytest.raises(
            InputError, match=rf"function for 't' raised {cause.__name__}"
        ) as raised:
            applied(function, value, "t")
        assert raised.value.code == "function-raised"
        assert isinstance(raised.value.__cause__, cause)


# ------------------------------------------------------------------ whole effects


def dosed(X, d, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * d + 10 * X[:, 0] + 1000 * X[:, 1], 1.0), obs=y)


X = pd.DataFrame({"u": [1.0, 2.0, 3.0, 4.0], "v": [0.0, 1.0, 0.0, 1.0]}, index=list("abcd"))
D = np.array([0, 1, 1, 0])


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    return ImpactModel(dosed).set_posterior_sample({"b": np.ones(2)})


def effect(model: ImpactModel, new: Any, old: Any = None, rows: Any = X, **options: Any) -> Any:
    given = {"d": D, "estimand": "ite", "progress": False, **options}
    return model.effect(rows, old or {}, new, **given).draws.isel(chain=0, draw=0)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int32", "float16"])
def test_an_effect_of_one_less_is_minus_one(dtype, model):
    found = effect(model, {"d": lambda d: d - 1}, d=D.astype(dtype))
    assert found.values.tolist() == [-1.0] * 4


def test_what_32_bits_cannot_hold_is_refused_afterwards(model):
    with pytest.raises(InputError, match="int32 cannot hold"):
        effect(model, {"d": lambda d: d * 3_000_000_000}, d=D.astype(np.int8))


NARROW = X.astype({"u": "uint8", "v": "bool"})


@pytest.mark.parametrize(
    "rows",
    [NARROW, pl.from_pandas(NARROW), NARROW.convert_dtypes()],
    ids=["pandas", "polars", "NA"],
)
def test_functions_of_the_rows_compute_with_numbers(rows, model):
    def shift(X):
        polars = [pl.col("u") - 5] if isinstance(X, pl.DataFrame) else []
        return X.with_columns(*polars) if polars else X.assign(u=X.u - 5)

    assert effect(model, {"X": shift}, rows=rows).values.tolist() == [-50.0] * 4


def site_of_narrow_numbers(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    small = numpyro.deterministic("small", X[:, 0].astype(jnp.uint8))
    flag = numpyro.deterministic("flag", X[:, 0] > 2)
    numpyro.sample("y", dist.Normal(b * small + 1000.0 * flag, 1.0), obs=y)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ({"small": lambda v: v - 5}, [-5.0] * 4),
        ({"small": lambda v: v * 1000}, [999.0, 1998.0, 2997.0, 3996.0]),
        ({"flag": lambda v: ~v}, [1000.0, 1000.0, -1000.0, -1000.0]),
        ({"flag": lambda v: v - 1}, [-1000.0] * 4),
    ],
    ids=["less five", "thousandfold", "complement", "less one"],
)
def test_functions_of_narrow_sites_do_not_wrap_around(function, expected):
    im = ImpactModel(site_of_narrow_numbers).set_posterior_sample({"b": np.ones(2)})
    result = im.effect(X, {}, function, estimand="ite", progress=False)
    found = result.draws.isel(chain=0, draw=0)
    assert found.values.tolist() == expected
    trees = [
        im.predict_on_batch(X, rng_key=1, intervention=intervention).posterior_predictive["y"]
        for intervention in ({}, function)
    ]
    np.testing.assert_allclose((trees[1] - trees[0])[0, 0], expected, atol=1e-3)


def site_of_counts(X, y=None):
    rate = numpyro.sample("rate", dist.Exponential())
    count = numpyro.sample("count", dist.Poisson(rate).expand([X.shape[0]]))
    flag = numpyro.sample("flag", dist.Bernoulli(0.5).expand([X.shape[0]]))
    numpyro.sample("y", dist.Normal(1.0 * count + flag, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore:The posterior holds no draws")
@pytest.mark.parametrize(
    "change",
    [
        {"count": lambda v: v * 10**7},
        pytest.param({"flag": lambda v: v - 2**40}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_functions_of_sites_of_counts_do_not_overflow(change):
    im = ImpactModel(site_of_counts).set_posterior_sample({"rate": np.full(2, 300.0)})
    for call in (
        lambda: im.effect(X, {}, change, progress=False),
        lambda: im.predict_on_batch(X, intervention=change),
    ):
        with pytest.raises(InputError, match="whole numbers cannot hold") as raised:
            call()
        assert raised.value.code == "cast-overflow"


@pytest.mark.filterwarnings("ignore:The posterior holds no draws")
def test_functions_of_sites_of_counts_that_fit_are_fine():
    im = ImpactModel(site_of_counts).set_posterior_sample({"rate": np.full(2, 1e-6)})
    change = {"count": lambda v: v + 10**5, "flag": lambda v: 1 - v}
    found = im.effect(X, {"flag": 1}, change, progress=False).draws
    assert (found > 99_000).all()


# ------------------------------------------------------------------ single numbers


@settings(deadline=None)
@given(
    st.one_of(st.integers(-(2**70), 2**70), st.integers(-(2**25), 2**25)),
    st.sampled_from([int, float, np.int64, np.float64, np.array]),
)
def test_a_whole_number_is_exact_or_refused(number, kind):
    if kind is np.int64 and abs(number) >= 2**63:
        return
    value = kind(number)
    held = int(np.float32(number)) == number
    is_magnitude = kind in (float, np.float64) and abs(number) >= 2**31
    if held or is_magnitude:
        check_exact(value, "t")
        return
    with pytest.raises(InputError, match=r"'t' is .* which 32 bits round to") as raised:
        check_exact(value, "t")
    assert raised.value.code == "cast-precision"


@pytest.mark.parametrize("value", [0.1, 1e13, 1e300, np.nan, np.inf, True, 2.5e6 + 0.3, 2**24, 0])
def test_other_numbers_are_not_refused_for_their_precision(value):
    check_exact(value, "t")


def total(X, n, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * n + X[:, 0], 1.0), obs=y)


def seeded(X, n, y=None):
    """Uses whole numbers as such."""
    b = numpyro.sample("b", dist.Normal())
    shift = (n - 2**24) % 7
    numpyro.sample("y", dist.Normal(b * shift + X[:, 0], 1.0), obs=y)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (2**24 + 1, "cast-precision"),
        (np.int64(2**24 + 1), "cast-precision"),
        (float(2**24 + 1), "cast-precision"),
        (2**40, "cast-overflow"),
        (np.int64(2**40), "cast-overflow"),
        (-(2**40), "cast-overflow"),
    ],
)
def test_an_argument_that_32_bits_round_is_refused(value, code):
    im = ImpactModel(total).set_posterior_sample({"b": np.ones(2)})
    with pytest.raises(InputError) as raised:
        im.predict_on_batch(X, n=value)
    assert raised.value.code == code
    with pytest.raises(InputError):
        im.effect(X, {"n": 1}, {"n": value}, n=0, progress=False)


@pytest.mark.parametrize("value", [2**24 + 1, np.int64(2**24 + 1)])
def test_an_argument_that_is_used_as_a_whole_number_is_exact(value):
    im = ImpactModel(seeded).set_posterior_sample({"b": np.ones(2)})
    found = im.effect(X, {"n": 2**24}, {"n": value}, n=0, progress=False).draws
    assert found.values.ravel().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("natural", [D, D.astype(float), 0, 0.0])
@pytest.mark.parametrize("value", [2**24 + 1, 2**40 + 1, np.int64(2**24 + 1)])
def test_a_scenario_of_a_number_that_32_bits_round_is_refused(natural, value, model):
    with pytest.raises(InputError) as raised:
        effect(model, {"d": value}, {"d": 2**24}, d=natural)
    assert raised.value.code in ("cast-precision", "cast-overflow")


@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_a_difference_that_32_bits_round_away_is_refused(dtype, model):
    old, new = np.full(4, 2**24, dtype), np.full(4, 2**24 + 1, dtype)
    with pytest.raises(InputError, match="a difference that 32 bits round away"):
        effect(model, {"d": new}, {"d": old})
    with pytest.raises(InputError, match="32 bits would blur"):
        effect(model, {"X": lambda X: X + 1}, rows=X + 2**24)
    found = effect(model, {"d": new + 2**24 - 1}, {"d": old})
    np.testing.assert_allclose(found, 2.0**24, rtol=1e-6)


STEPS: dict[str, tuple[Any, Any, float | None]] = {  # what is natural, a step, what comes of it
    "at ten million": (np.full(4, 1e7, np.float32), 0.25, None),
    "at ten million, of JAX": (jnp.full(4, 1e7), 0.25, None),
    "at a million": (np.full(4, 10**6), 0.01, None),
    "below the last digit": (np.full(4, 50.0), 1e-7, None),
    "of one row among others": (np.array([1e7, 0, 0, 0]), np.array([0.25, 1, 1, 1]), None),
    "of a row that hardly counts": (np.full(4, 50.0), np.array([1e-6, 1, 1, 1]), 0.75),
    "of one number": (1e7, 0.25, None),
    "of one number that 32 bits hold": (1e7, 2.0, 2.0),
    "that 32 bits hold": (np.full(4, 1e7), 2.0, 2.0),
    "of a derivative": (np.full(4, 50.0), 1e-3, 1e-3),
    "that is rounding in 64 bits": (np.full(4, 5.1), 1e-15, 0.0),
}


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_that_32_bits_do_not_see_is_refused(kind, model):
    natural, step, expected = STEPS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutputWarning)  # outside the data
        if expected is None:
            with pytest.raises(InputError, match="a difference that 32 bits round away"):
                effect(model, {"d": lambda d: d + step}, d=natural)
        else:
            found = effect(model, {"d": lambda d: d + step}, d=natural)
            assert float(found.mean()) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("how", ["intervention", "condition"])
def test_a_site_is_not_set_to_a_number_that_32_bits_round(how, model):
    with pytest.raises(InputError, match="32 bits round to 16777216"):
        model.predict_on_batch(X, d=D, **{how: {"b": 2**24 + 1}})


@pytest.mark.parametrize("key", [2**32, 2**40, -(2**40), np.int64(2**40)])
def test_a_seed_beyond_32_bits_is_refused(key, model):
    with pytest.raises(InputError, match="beyond 32 bits") as raised:
        model.predict_on_batch(X, d=D, rng_key=key)
    assert raised.value.code == "rng-key"


# ------------------------------------------------------------------ columns of the rows


ROWS: dict[str, Any] = {
    "pandas": X,
    "polars": pl.from_pandas(X),
    "xarray": xr.DataArray(X.to_numpy(), dims=("row", "c"), coords={"c": ["u", "v"]}),
    "whole numbers": X.astype("uint8"),
}
COLUMNS: dict[str, Any] = {
    "a number": ({"u": 5}, [40.0, 30.0, 20.0, 10.0]),
    "a fraction": ({"u": 1.5}, [5.0, -5.0, -15.0, -25.0]),
    "one per row": ({"u": [2, 2, 2, 2]}, [10.0, 0.0, -10.0, -20.0]),
    "a function": ({"u": lambda u: u - 5}, [-50.0] * 4),
    "a function of jax": ({"u": lambda u: jnp.where(u > 2, 0, u)}, [0.0, 0.0, -30.0, -40.0]),
    "two columns": ({"u": lambda u: u + 1, "v": 1}, [1010.0, 10.0, 1010.0, 10.0]),
    "a column and an argument": ({"u": lambda u: u + 1, "d": lambda d: d + 1}, [11.0] * 4),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("what", COLUMNS)
def test_a_scenario_sets_columns_of_the_rows(what, kind, model):
    change, expected = COLUMNS[what]
    assert effect(model, change, rows=ROWS[kind]).values.tolist() == expected


def test_a_column_that_is_set_says_who_was_treated(model):
    found = model.effect(X, {"v": 0}, {"v": 1}, estimand="att", d=D, progress=False)
    assert found.rows == 2
    assert found.draws.values.ravel().tolist() == [1000.0, 1000.0]


def test_values_of_a_column_are_lined_up_by_label(model):
    values = pd.Series([9.0, 8.0, 7.0, 6.0], index=list("dcba"))
    assert effect(model, {"u": values}).values.tolist() == [50.0] * 4


AMBIGUOUS: dict[str, Any] = {
    "argument": (X.set_axis(["d", "v"], axis=1), {"d": 1}, "an argument of the kernel"),
    "site": (X.set_axis(["b", "v"], axis=1), {"b": 1}, "a site of the kernel"),
    "the whole input": (X, {"u": 1, "X": X}, "part of 'X'"),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_a_column_that_may_be_something_else_is_refused(kind, model):
    rows, change, match = AMBIGUOUS[kind]
    with pytest.raises(InputError, match=match) as raised:
        effect(model, change, rows=rows)
    assert raised.value.code == "scenario-ambiguous"


def test_columns_in_another_order_are_lined_up_in_a_scenario(model):
    swapped = X[["v", "u"]].assign(u=X.u + 1)
    assert effect(model, {"X": swapped}).values.tolist() == [10.0] * 4
    other = {"X": lambda X: X[["v", "u"]].assign(u=X.u + 1)}
    assert effect(model, other).values.tolist() == [10.0] * 4
    named = xr.DataArray(swapped.to_numpy(), dims=("r", "c"), coords={"c": ["v", "u"]})
    assert effect(model, {"X": named}).values.tolist() == [10.0] * 4
    assert effect(model, {"X": pl.from_pandas(swapped)}).values.tolist() == [10.0] * 4
    with pytest.raises(InputError, match="has no column 'v'"):
        effect(model, {"X": X.rename(columns={"v": "w"})})


# ------------------------------------------------------------------ groups and populations


GROUPINGS: dict[str, Any] = {
    "names": ["u", "v"],
    "a tuple of names": ("u", "v"),
    "a frame": X,
    "a frame in another order": X.iloc[::-1],
    "an argument and a column": ["d", "v"],
    "an array": X.to_numpy(),
}


@pytest.mark.parametrize("kind", GROUPINGS)
def test_groups_are_combinations_of_two_columns(kind, model):
    by = GROUPINGS[kind]
    rows = X.assign(u=[0, 0, 1, 1])
    by = rows.loc[by.index] if isinstance(by, pd.DataFrame) else by
    by = rows.to_numpy() if isinstance(by, np.ndarray) else by
    found = effect(model, {"u": lambda u: u * 2}, rows=rows, by=by, estimand="cate")
    first = D if kind == "an argument and a column" else np.array([0, 0, 1, 1])
    table = pd.DataFrame({"a": first, "b": rows.v, "effect": [0.0, 0.0, 10.0, 10.0]})
    expected = table.groupby(["a", "b"]).effect.mean()
    assert found.values.tolist() == expected.to_list()
    if kind == "names":
        assert found.group.values.tolist()[0] == "u=0, v=0.0"
        assert found.coords["v"].values.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_dates_stay_dates_as_groups(model):
    dates = pd.to_datetime(["2024-01-02", "2024-01-01", "2024-01-02", "2024-01-01"])
    result = model.effect(X, {}, {"d": 1}, d=D, by=dates, estimand="cate", progress=False)
    assert result.draws.indexes["group"].equals(pd.DatetimeIndex(sorted(set(dates))))
    assert result.summary()["group"].to_list() == sorted(set(dates))


@pytest.mark.parametrize("by", [["u", "w"], "w"])
def test_groups_by_a_column_that_there_is_not_are_refused(by, model):
    with pytest.raises(InputError, match="by='w' is no argument and no column"):
        model.effect(X, {}, {"d": 1}, d=D, by=by, estimand="cate", progress=False)


def test_an_effect_on_each_row_keeps_the_arm_that_was_observed(model):
    y = np.array([5.0, 6.0, 7.0, 8.0])
    options = {"target": "prediction", "y": y, "d": D, "rng_key": 1}
    tree = model.predict_on_batch(X, d=1 - D, rng_key=1)
    other = tree.posterior_predictive["y"].values[0, 0]
    found = effect(model, {"d": 1}, {"d": 0}, population="finite", **options)
    np.testing.assert_allclose(found, np.where(D == 1, y - other, other - y), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "code", "match"),
    [
        (({}, {}), "scenario-incomplete", "No scenario sets anything"),
        ((0, 1), "scenario-form", "'baseline' is 0, but it must be a dict"),
        (({"t": 0}, "t"), "scenario-form", "'intervention' is 't'"),
        ((None, {"t": 0}), "scenario-incomplete", "An effect compares"),
    ],
)
def test_scenarios_that_are_none_say_what_to_write(options, code, match):
    with pytest.raises(InputError, match=match) as raised:
        changes_of(options[0], options[1], None)
    assert raised.value.code == code


# ------------------------------------------------------------------ rows of a whole new input


def line(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0] + t * X[:, 1], 1.0), obs=y)


PEOPLE = pd.DataFrame({"u": np.arange(5.0), "v": np.arange(5.0) ** 2}, index=list("pqrst"))
DOSE = pd.Series([0.0, 1.0, 2.0, 0.5, 3.0], index=PEOPLE.index)
UP_BY_TWO = PEOPLE.assign(u=PEOPLE["u"] + 2)


@pytest.mark.parametrize(
    "new",
    [
        UP_BY_TWO,
        UP_BY_TWO[::-1],
        UP_BY_TWO[["v", "u"]].sample(frac=1, random_state=0),
        lambda X: X.assign(u=X["u"] + 2).sort_values("v", ascending=False),
        lambda X: X.assign(u=X["u"] + 2).sample(frac=1, random_state=1),
        xr.DataArray(UP_BY_TWO[::-1], dims=("row", "column")),
    ],
    ids=["in order", "reversed", "shuffled", "sorted by a function", "by a function", "xarray"],
)
@pytest.mark.parametrize("dose", [DOSE, DOSE[::-1]], ids=["dose in order", "dose reversed"])
def test_rows_of_a_scenario_are_lined_up_by_their_labels(new, dose):
    im = ImpactModel(line).set_posterior_sample({"b": np.array([1.0, 3.0])})
    effect = im.effect(PEOPLE, {}, {"X": new}, t=dose, estimand="ite", progress=False)
    found = effect.draws.transpose("chain", "draw", ...).to_numpy()[0]
    np.testing.assert_allclose(found, [[2.0] * 5, [6.0] * 5], rtol=1e-5)


@pytest.mark.parametrize("labels", [list("abcde"), list("ppqrs"), range(5)])
def test_rows_of_a_scenario_that_are_called_otherwise_are_refused(labels):
    im = ImpactModel(line).set_posterior_sample({"b": np.array([1.0, 3.0])})
    new = UP_BY_TWO.set_axis(labels, axis=0)
    with pytest.raises(InputError, match="'new X' and 'X' have row labels") as caught:
        im.effect(PEOPLE, {}, {"X": new}, t=DOSE, progress=False)
    assert caught.value.code == "row-labels"
