"""What may be passed, and what becomes of it: right numbers, or a sentence that says what to do."""

import tracemalloc
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import xarray as xr

from aimz import ImpactModel, InputError, OutputWarning
from aimz.data import row_fingerprint, row_hashes
from aimz.utils.data import ArrayDataset, ArrayLoader
from tests.support.engines import ByHand

pytestmark = pytest.mark.filterwarnings("ignore:The loss was still falling")  # fits are short

ROWS, GROUPS = 40, 4


def grouped(X, g, y=None):
    """A table of group means, indexed by the rows' codes, and a slope for each column."""
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("group", GROUPS):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[g] + X @ b, 1.0), obs=y)


def plain(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def weighted(X, t=1.0, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0] * t, 1.0), obs=y)


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    """Small whole numbers, which every dtype holds."""
    return np.random.default_rng(0).integers(0, 2, (ROWS, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def g() -> np.ndarray:
    return np.arange(ROWS) % GROUPS


@pytest.fixture(scope="module")
def y(X) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=ROWS)
    return np.asarray(X @ [1.0, 2.0] + noise, np.float32)


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    return ImpactModel(plain).set_posterior_sample({"b": np.ones((5, 2), np.float32)})


@pytest.fixture(scope="module")
def groups() -> ImpactModel:
    draws = {"b": np.ones((5, 2), np.float32), "a": np.zeros((5, GROUPS), np.float32)}
    return ImpactModel(grouped).set_posterior_sample(draws)


@pytest.fixture(scope="module")
def framed(X, y) -> ImpactModel:
    """Fitted on a frame of columns `u` and `v`."""
    frame = pd.DataFrame(X, columns=["u", "v"])
    engine = ByHand(b=np.random.default_rng(2).normal(size=(5, 2)))
    return ImpactModel(plain, inference=engine).fit(frame, y, progress=False)


def drawn(model: ImpactModel, X: Any, **kwargs: Any) -> np.ndarray:
    tree: Any = model.predict_on_batch(X, **kwargs)
    values: np.ndarray = tree.posterior_predictive["y"].values
    return values


def wrapped(X: np.ndarray, kind: str) -> Any:
    made: Any = scipy.sparse.csr_matrix(X) if kind == "sparse" else np.ma.masked_invalid(X)
    return made


# ------------------------------------------------------------------ containers and dtypes

CONTAINERS: dict[str, Any] = {
    "numpy": lambda X: X,
    "jax": jnp.asarray,
    "list": lambda X: X.tolist(),
    "tuple": lambda X: tuple(map(tuple, X.tolist())),
    "pandas": pd.DataFrame,
    "pandas nullable": lambda X: pd.DataFrame(X).convert_dtypes(),
    "polars": lambda X: pl.DataFrame(X, schema=["u", "v"]),
    "xarray": lambda X: xr.DataArray(X, dims=("row", "column")),
    "objects that are numbers": lambda X: X.astype(object),
    "big-endian": lambda X: X.astype(">f4"),
    "read-only": lambda X: np.frombuffer(X.tobytes(), np.float32).reshape(X.shape),
    "Fortran-ordered": np.asfortranarray,
    "not contiguous": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "backwards": lambda X: X[::-1].copy()[::-1],
    "matrix": np.matrix,
    "bool": lambda X: X.astype(bool),
    "int8": lambda X: X.astype(np.int8),
    "uint8": lambda X: X.astype(np.uint8),
    "uint32": lambda X: X.astype(np.uint32),
    "int64": lambda X: X.astype(np.int64),
    "uint64": lambda X: X.astype(np.uint64),
    "float16": lambda X: X.astype(np.float16),
    "float64": lambda X: X.astype(np.float64),
    "bfloat16": lambda X: X.astype(ml_dtypes.bfloat16),
    "big-endian float64": lambda X: X.astype(">f8"),
    "jax bfloat16": lambda X: jnp.asarray(X, jnp.bfloat16),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("kind", CONTAINERS)
def test_equal_numbers_give_equal_draws_in_any_container(kind, model, X):
    np.testing.assert_array_equal(drawn(model, CONTAINERS[kind](X)), drawn(model, X))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float16])
def test_a_kernel_computes_with_narrow_numbers_as_with_wide_ones(dtype):
    def scaled(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("big", X[:, 0] * 3 - 1000 + 0 * b)
        numpyro.sample("y", dist.Normal(b, 1.0).expand([X.shape[0]]), obs=y)

    X = np.full((3, 1), 100, dtype)
    tree: Any = ImpactModel(scaled).set_posterior_sample({"b": np.ones(2)}).predict_on_batch(X)
    assert (tree.posterior_predictive["big"] == -700).all()


CODES: dict[str, Any] = {
    "numpy": lambda g: g,
    "list": list,
    "int8": lambda g: g.astype(np.int8),
    "uint16": lambda g: g.astype(np.uint16),
    "Series": pd.Series,
    "polars": lambda g: pl.Series("g", g),
    "categorical codes": lambda g: pd.Categorical(g).codes,
}


@pytest.mark.parametrize("kind", CODES)
def test_codes_of_groups_may_be_in_any_container(kind, groups, X, g):
    np.testing.assert_array_equal(drawn(groups, X, g=CODES[kind](g)), drawn(groups, X, g=g))


REFUSED: dict[str, Any] = {
    "text": (lambda X: X.astype(str), "'X' holds text"),
    "numbers as text in objects": (lambda X: X.astype(str).astype(object), "'X' holds text"),
    "a categorical column": (
        lambda X: pd.DataFrame({"u": X[:, 0], "v": pd.Categorical(["a"] * ROWS)}),
        "'X' holds text",
    ),
    "dates": (
        lambda X: pd.DataFrame({"u": pd.date_range("2020", periods=ROWS), "v": None}).iloc[:, :1],
        "holds dates or times",
    ),
    "complex numbers": (lambda X: X.astype(complex), "'X' holds complex128"),
    "objects": (lambda X: np.array([[object(), 1]] * ROWS), "'X' holds objects"),
    "a masked array": (lambda X: wrapped(X, "masked"), "'X' is a masked array"),
    "a sparse matrix": (lambda X: wrapped(X, "sparse"), r"Pass value.toarray\(\)"),
    "a ragged list": (lambda X: [[1.0, 2.0], [3.0]], "'X' is no array"),
    "a Dataset": (
        lambda X: xr.Dataset({"u": ("row", X[:, 0])}),
        "'X' is an xarray Dataset",
    ),
    "missing values": (
        lambda X: pd.DataFrame(X).convert_dtypes().mask(X > 0),
        "'X' holds .* values that are not finite",
    ),
    "None among numbers": (lambda X: [[None, 1.0]] * 3, "'X' holds 3 values that are not finite"),
    "NaN": (lambda X: np.where(X > 0, np.nan, X), "'X' holds .* that are not finite"),
    "infinity": (lambda X: np.where(X > 0, np.inf, X), "'X' holds .* that are not finite"),
    "no rows": (lambda X: X[:0], "there are no rows"),
    "a number": (lambda X: 3.0, "there are no rows"),
    "unix times": (lambda X: X + 1.7e9 + np.arange(ROWS)[:, None] * 60.0, "32 bits would blur"),
    "numbers beyond 32 bits": (lambda X: X.astype(float) * 1e300, "32 bits cannot hold"),
    "numbers that 32 bits round to 0": (lambda X: X.astype(float) * 1e-60, "32 bits round to 0"),
    "whole numbers beyond 32 bits": (lambda X: X.astype(np.int64) + 2**40, "int32 cannot hold"),
    "unsigned ones beyond 31 bits": (lambda X: X.astype(np.uint32) + 2**31, "int32 cannot hold"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_kernel_cannot_compute_with_is_refused(kind, model, X):
    make, match = REFUSED[kind]
    with pytest.raises(InputError, match=match):
        drawn(model, make(X))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_kernel_cannot_compute_with_is_refused_by_a_fit_too(kind, X, y):
    make, match = REFUSED[kind]
    value = make(X)
    outcome = y[: np.shape(value)[0]] if kind in ("no rows", "None among numbers") else y
    with pytest.raises(InputError, match=match):
        ImpactModel(plain).fit_on_batch(value, outcome, num_steps=1, progress=False)


ORDINARY = {
    "temperatures in kelvin": 273.15 + 10 * np.random.default_rng(0).random((ROWS, 2)),
    "latitudes of one city": 52.3 + 0.3 * np.random.default_rng(0).random((ROWS, 2)),
    "incomes of countries": 1e13 * np.random.default_rng(0).random((ROWS, 2)),
    "one constant": np.full((ROWS, 2), 0.1),
    "nearly one constant": 1 + 1e-12 * np.random.default_rng(0).random((ROWS, 2)),
    "years": np.tile([[1990.0, 2020.0]], (ROWS, 1)),
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_numbers_are_not_refused_for_their_precision(kind, model):
    values = ORDINARY[kind]
    np.testing.assert_array_equal(drawn(model, values), drawn(model, values.astype(np.float32)))


def test_double_precision_takes_unix_times(model, x64):
    times = 1.7e9 + np.arange(2.0 * ROWS).reshape(ROWS, 2)
    assert np.isfinite(drawn(model, times)).all()


# ------------------------------------------------------------------ shapes


def test_no_rows_at_all_are_refused(framed, y):
    nothing: Any = None
    with pytest.raises(InputError, match="'X' is None: there are no rows"):
        framed.predict(nothing, progress=False)
    with pytest.raises(InputError, match="'X' is None: there are no rows"):
        ImpactModel(plain).fit(nothing, y, progress=False)


@pytest.mark.parametrize("length", [0, 1, ROWS - 1, ROWS + 1])
def test_an_outcome_of_another_length_is_refused(length, X):
    with pytest.raises(InputError, match=rf"'y' has shape \({length},\) but there are {ROWS} rows"):
        ImpactModel(plain).fit_on_batch(X, np.ones(length), num_steps=1, progress=False)


@pytest.mark.parametrize("length", [1, ROWS - 1, ROWS + 1])
def test_an_argument_of_another_length_is_refused_after_a_fit(length, X, y):
    im = ImpactModel(weighted, inference=ByHand(b=np.ones(5)))
    im.fit(X, y, t=np.ones(ROWS), progress=False)
    with pytest.raises(InputError, match=rf"'t' has shape \({length},\) but there are {ROWS} rows"):
        im.predict(X, t=np.ones(length), progress=False)


@pytest.mark.parametrize("length", [ROWS, 1024, 2000])
def test_an_argument_of_all_rows_is_refused_beside_rows_in_batches(length, X, y):
    im = ImpactModel(weighted, inference=ByHand(b=np.ones(5)))
    im.fit(X, y, t=np.ones(ROWS), progress=False)
    batches = [{"X": np.ones((1000, 2))}] * 2
    with pytest.raises(InputError, match="'t' must be: name it in the batches") as caught:
        im.predict(batches, t=np.ones(length), in_sample=False, progress=False)
    assert caught.value.code == "batch-names"


def test_a_scalar_where_rows_are_needed_is_spread_over_them(X, y):
    im = ImpactModel(weighted, inference=ByHand(b=np.ones(5)))
    im.fit(X, y, t=np.ones(ROWS), progress=False)
    np.testing.assert_array_equal(drawn(im, X, t=2.0), drawn(im, X, t=np.full(ROWS, 2.0)))


def test_other_columns_than_the_fitted_ones_are_refused(framed, X):
    with pytest.raises(InputError, match=r"rows of shape \(3,\), but the model was fitted on"):
        framed.predict(np.ones((ROWS, 3)), progress=False)


def test_another_shape_of_an_argument_is_refused(X, y):
    im = ImpactModel(weighted, inference=ByHand(b=np.ones(5)))
    im.fit(X, y, t=np.ones(ROWS), progress=False)
    with pytest.raises(InputError, match=r"'t' has rows of shape \(1,\)"):
        im.predict(X, t=np.ones((ROWS, 1)), progress=False)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.ones(ROWS - 1), "'y' has shape|site 'y' has shape"),
        (np.ones((ROWS, 1)), "The value for site 'y' has shape"),
        ([1.0, np.nan] * (ROWS // 2), "'y' holds .* not finite"),
        (["a"] * ROWS, "'y' holds text"),
    ],
)
@pytest.mark.parametrize("how", ["intervention", "condition"])
def test_a_value_that_is_not_the_sites_is_refused(how, value, match, model, X):
    with pytest.raises(InputError, match=match):
        model.predict(X, **{how: {"y": value}}, progress=False)


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_number_of_draws_that_is_none_is_refused(count, model, X):
    with pytest.raises(InputError, match="num_samples must be a whole number of at least 1"):
        model.sample_prior_predictive(X, num_samples=count, progress=False)


# ------------------------------------------------------------------ codes of groups


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (GROUPS, "'g' leads to index 4 in row 7 of a table of 4"),
        (1000, "'g' leads to index 1000 in row 7"),
        (-1, "'g' leads to index -1 in row 7"),
    ],
)
def test_a_code_outside_the_table_is_refused(code, match, groups, X, g):
    codes = g.copy()
    codes[7] = code
    with pytest.raises(InputError, match=match):
        groups.predict(X, g=codes, progress=False)


def test_a_code_outside_the_table_is_refused_by_a_fit(X, g, y):
    with pytest.raises(InputError, match="Pass codes from 0 to 3"):
        ImpactModel(grouped).fit_on_batch(X, y, g=g + 1, num_steps=1, progress=False)


@pytest.mark.parametrize(
    "index",
    [
        lambda a, X: a[X[:, 1].astype(int) - 1],
        lambda a, X: jnp.take(a, X[:, 1].astype(int)),
        lambda a, X: jax.vmap(lambda code: a[code])(X[:, 1].astype(int)),
        lambda a, X: jnp.stack([a, a], 1)[X[:, 1].astype(int), 0],
        lambda a, X: jnp.take_along_axis(a, X[:, 1].astype(int), 0),
    ],
)
def test_a_code_outside_the_table_is_refused_however_it_is_looked_up(index):
    def kernel(X, y=None):
        with numpyro.plate("group", GROUPS):
            a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(index(a, X), 1.0), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"a": np.zeros((2, GROUPS))})
    X = np.ones((5, 2), np.float32)
    assert np.isfinite(drawn(im, X)).all()
    X[3, 1] = 9
    with pytest.raises(InputError, match=r"'X' leads to index . in row 3 of a table of 4"):
        im.predict(X, progress=False)


def test_an_index_that_the_kernel_clips_is_its_own_affair(X):
    def kernel(X, y=None):
        with numpyro.plate("group", GROUPS):
            a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        code = jnp.clip(X[:, 1].astype(int), 0, GROUPS - 1)
        numpyro.sample("y", dist.Normal(a[code], 1.0), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"a": np.zeros((2, GROUPS))})
    assert np.isfinite(drawn(im, 99 * X)).all()


def test_a_code_outside_the_table_is_refused_in_a_late_tile_of_a_loader(groups):
    rows = 1024 * 3
    codes = np.arange(rows) % GROUPS
    codes[2500] = GROUPS
    data = ArrayDataset(X=np.ones((rows, 2), np.float32), g=codes)
    loader = ArrayLoader(data, jax.random.key(0), batch_size=100)
    with pytest.raises(InputError, match="index 4 in row 2500 of a table of 4"):
        groups.predict(loader, progress=False)


def test_numbers_that_are_not_finite_are_refused_in_a_late_tile_of_a_loader(model):
    X = np.ones((1024 * 3, 2), np.float32)
    X[2500, 1] = np.nan
    loader = ArrayLoader(ArrayDataset(X=X), jax.random.key(0), batch_size=100)
    with pytest.raises(InputError, match="'X' holds 1 values that are not finite"):
        model.predict(loader, progress=False)


# ------------------------------------------------------------------ labels of columns

FRAMES = {
    "pandas": lambda X, names: pd.DataFrame(X, columns=names),
    "polars": lambda X, names: pl.DataFrame(X, schema=names),
    "xarray": lambda X, names: xr.DataArray(X, dims=("row", "c"), coords={"c": names}),
    "lazy xarray": lambda X, names: xr.DataArray(X, dims=("row", "c"), coords={"c": names}).chunk(
        row=16
    ),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_columns_are_put_in_the_fitted_order(kind, framed, X):
    swapped = FRAMES[kind](X[:, ::-1].copy(), ["v", "u"])
    in_order = FRAMES[kind](X, ["u", "v"])
    np.testing.assert_array_equal(
        drawn(framed, swapped, rng_key=0), drawn(framed, in_order, rng_key=0)
    )


@pytest.mark.parametrize("kind", FRAMES)
def test_a_missing_column_is_named(kind, framed, X):
    with pytest.raises(InputError, match="'X' has no column 'v'"):
        framed.predict(FRAMES[kind](X, ["u", "w"]), progress=False)


def test_a_column_that_the_fit_did_not_see_is_named(framed, X):
    frame = pd.DataFrame(np.column_stack([X, X[:, 0]]), columns=["u", "v", "w"])
    with pytest.raises(InputError, match="'X' has a column 'w', which the fit did not see"):
        framed.predict(frame, progress=False)


def test_a_column_name_that_stands_twice_is_refused(framed, X):
    with pytest.raises(InputError, match="'X' has two columns 'u'"):
        framed.predict(pd.DataFrame(X, columns=["u", "u"]), progress=False)


def test_columns_that_have_lost_their_names_are_announced(framed, X):
    with pytest.warns(OutputWarning, match="'X' has no column names"):
        framed.predict(X, progress=False)


def test_columns_of_the_fit_survive_pickling_and_copies(framed, X):
    import copy
    import pickle

    for again in (pickle.loads(pickle.dumps(framed)), copy.deepcopy(framed)):
        with pytest.raises(InputError, match="'X' has no column 'v'"):
            again.predict(pd.DataFrame(X, columns=["u", "w"]), progress=False)


# ------------------------------------------------------------------ labels of rows


def posterior_of(X: Any, y: Any, **kwargs: Any) -> np.ndarray:
    kernel = weighted if kwargs else plain
    im = ImpactModel(kernel, num_samples=5).fit_on_batch(
        X, y, num_steps=20, progress=False, **kwargs
    )
    values: np.ndarray = im.posterior["b"]
    return values


@pytest.fixture(scope="module")
def index() -> pd.Index:
    return pd.Index([f"person {number}" for number in range(ROWS)])


@pytest.fixture(scope="module")
def shuffled() -> np.ndarray:
    return np.random.default_rng(5).permutation(ROWS)


def test_outcomes_are_lined_up_with_the_rows_by_label(X, y, index, shuffled):
    frame, series = pd.DataFrame(X, index=index), pd.Series(y, index=index)
    np.testing.assert_array_equal(
        posterior_of(frame, series.iloc[shuffled]), posterior_of(frame, series)
    )


def test_arguments_are_lined_up_with_the_rows_by_label(X, y, index, shuffled):
    frame, t = pd.DataFrame(X, index=index), pd.Series(np.arange(ROWS) / ROWS, index=index)
    np.testing.assert_array_equal(
        posterior_of(frame, y, t=t.iloc[shuffled]), posterior_of(frame, y, t=t)
    )


def test_interventions_are_lined_up_with_the_rows_by_label(model, X, index, shuffled):
    frame, values = pd.DataFrame(X, index=index), pd.Series(np.arange(ROWS, dtype=float), index)
    np.testing.assert_array_equal(
        drawn(model, frame, intervention={"y": values.iloc[shuffled]})[0, 0], values
    )


def test_observed_outcomes_are_lined_up_with_the_rows_by_label(model, X, y, index, shuffled):
    frame, series = pd.DataFrame(X, index=index), pd.Series(y, index=index)
    tree: Any = model.predict_on_batch(frame, y=series.iloc[shuffled])
    np.testing.assert_array_equal(tree.observed_data["y"], y)


def test_densities_are_those_of_the_labelled_rows(model, X, y, index, shuffled):
    frame, series = pd.DataFrame(X, index=index), pd.Series(y, index=index)
    assert model.score(frame, series.iloc[shuffled]) == model.score(frame, series)


def test_labelled_arrays_are_lined_up_too(X, y, shuffled):
    rows = xr.DataArray(X, dims=("row", "c"), coords={"row": np.arange(ROWS) * 10})
    outcome = xr.DataArray(y, dims="row", coords={"row": np.arange(ROWS) * 10})
    np.testing.assert_array_equal(
        posterior_of(rows, outcome[shuffled]), posterior_of(rows, outcome)
    )


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.arange(ROWS) + 1, "'y' and 'X' have row labels that differ"),
        ([f"p{number}" for number in range(ROWS)], "'y' and 'X' have row labels"),
        ([0, 0, *range(2, ROWS)], "'y' and 'X' have row labels that differ"),
    ],
)
def test_other_row_labels_are_refused(labels, match, X, y):
    with pytest.raises(InputError, match=match):
        posterior_of(pd.DataFrame(X), pd.Series(y, index=labels))


def test_labels_that_stand_twice_are_fine_in_the_same_order(X, y):
    twice = [0, 0, *range(2, ROWS)]
    posterior_of(pd.DataFrame(X, index=twice), pd.Series(y, index=twice))


def test_labels_that_stand_twice_are_refused_in_another_order(X, y):
    twice = np.array([0, 0, *range(2, ROWS)])
    with pytest.raises(InputError, match="in another order, some of them twice"):
        posterior_of(pd.DataFrame(X, index=twice), pd.Series(y, index=twice[::-1]))


def test_labelled_arguments_of_a_plain_input_must_agree(X, y, index, shuffled):
    series = pd.Series(y, index=index)
    with pytest.raises(InputError, match="'t' and 'y' have row labels in another order"):
        posterior_of(X, series, t=pd.Series(y, index=index).iloc[shuffled])


def test_row_labels_become_coordinates(model, X, index):
    tree: Any = model.predict_on_batch(pd.DataFrame(X, index=index))
    assert list(tree.posterior_predictive["obs"].values) == list(index)


# ------------------------------------------------------------------ missing outcomes


def conjugate(X, y=None):
    """The mean of normals with unit variance, under a flat enough prior."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 100.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def two_outcomes(X, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 100.0).expand([2]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)


def positive(X, y=None):
    rate = numpyro.sample("rate", dist.Gamma(0.01, 0.01))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Exponential(rate), obs=y)


def with_holes(y: np.ndarray, count: int) -> np.ndarray:
    holes = y.copy()
    holes[:count] = np.nan
    return holes


def test_missing_outcomes_are_refused_unless_they_are_to_be_left_out(X, y):
    with pytest.raises(InputError, match=r"'y' holds 5 values .* pass missing='mask'"):
        ImpactModel(conjugate).fit(X, with_holes(y, 5), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["svi", "nuts"])
def test_missing_outcomes_are_left_out_of_the_likelihood(inference, X, y):
    im = ImpactModel(conjugate, inference=inference)
    im.fit(X, with_holes(y, 15), missing="mask", progress=False)
    there = y[15:]
    draws = im.posterior["mean"]
    assert draws.mean() == pytest.approx(there.mean(), abs=0.05)
    assert draws.std() == pytest.approx(1 / np.sqrt(len(there)), rel=0.15)


@pytest.mark.slow
def test_missing_outcomes_are_left_out_of_minibatches(X, y):
    im = ImpactModel(conjugate)
    im.fit(X, with_holes(y, 15), missing="mask", batch_size=10, epochs=1500, progress=False)
    assert float(im.posterior["mean"].mean()) == pytest.approx(y[15:].mean(), abs=0.1)


@pytest.mark.slow
def test_missing_outcomes_of_a_positive_family_are_left_out(X):
    y = np.random.default_rng(0).exponential(0.5, ROWS)
    im = ImpactModel(positive).fit(X, with_holes(y, 10), missing="mask", progress=False)
    exact = (0.01 + ROWS - 10) / (0.01 + y[10:].sum())
    assert float(im.posterior["rate"].mean()) == pytest.approx(exact, rel=0.03)


@pytest.mark.slow
def test_missing_values_of_one_outcome_leave_the_other(X):
    y = np.random.default_rng(0).normal(size=(ROWS, 2))
    holes = y.copy()
    holes[:10, 0] = np.nan
    im = ImpactModel(two_outcomes).fit(X, holes, missing="mask", progress=False)
    means = im.posterior["mean"].mean(0)
    np.testing.assert_allclose(means, np.nanmean(holes, axis=0), atol=0.05)


def test_missing_outcomes_that_the_kernel_computes_with_are_refused():
    def lagged(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        before = 0.0 * X[:, 0] if y is None else jnp.concatenate([jnp.zeros(1), y[:-1]])
        numpyro.sample("y", dist.Normal(b * before, 1.0), obs=y)

    holes = with_holes(np.ones(ROWS), 3)
    with pytest.raises(InputError, match="site 'y' computes with them"):
        ImpactModel(lagged).fit(np.ones((ROWS, 1)), holes, missing="mask", progress=False)


@pytest.mark.parametrize(
    ("outcome", "missing", "match"),
    [
        (np.full(ROWS, np.nan), "mask", "Some must be there, and all that are must be finite"),
        (np.full(ROWS, np.inf), "mask", "Some must be there, and all that are must be finite"),
        (np.ones(ROWS), "drop", "missing must be 'raise' or 'mask'"),
    ],
)
def test_outcomes_that_cannot_be_masked_are_refused(outcome, missing, match, X):
    with pytest.raises(InputError, match=match):
        ImpactModel(conjugate).fit(X, outcome, missing=missing, progress=False)


# ------------------------------------------------------------------ weights


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (np.ones(ROWS - 1), "sample_weight has shape"),
        (-np.ones(ROWS), "negative or not finite"),
        (np.full(ROWS, np.nan), "negative or not finite"),
        (["a"] * ROWS, "'sample_weight' holds text"),
    ],
)
def test_weights_that_are_none_are_refused(weights, match, X, y):
    with pytest.raises(InputError, match=match):
        ImpactModel(plain).fit(X, y, sample_weight=weights, progress=False)


@pytest.mark.slow
def test_weights_are_lined_up_with_the_rows_by_label(X, y, index, shuffled):
    frame = pd.DataFrame(X, index=index)
    weights = pd.Series(np.arange(ROWS) / ROWS, index=index)

    def posterior(weights: pd.Series) -> np.ndarray:
        im = ImpactModel(plain, num_samples=5)
        im.fit_on_batch(frame, y, sample_weight=weights, num_steps=20, progress=False)
        values: np.ndarray = im.posterior["b"]
        return values

    np.testing.assert_array_equal(posterior(weights.iloc[shuffled]), posterior(weights))


def test_nothing_warns_about_plain_arrays(model, X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(model, X)


# ------------------------------------------------------------------ labels, wherever they are


def exact(X, t, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0] + 100 * t, 0.001), obs=y)


def exactly(X: Any, **options: Any) -> Any:
    im = ImpactModel(exact).set_posterior_sample({"b": np.ones(3)})
    tree: Any = im.predict_on_batch(X, **options)
    return tree.posterior_predictive["y"].values[0, 0].round()


ABC = xr.DataArray(np.arange(3.0)[:, None], dims=("obs", "c"), coords={"obs": list("abc")})
CBA = pd.Series([2.0, 1.0, 0.0], index=list("cba"))


@pytest.mark.parametrize(
    "given",
    [
        {"X": ABC, "t": CBA},
        {"X": ABC.chunk({"obs": 2}), "t": CBA},
        {"X": [{"X": ABC.to_pandas(), "t": CBA}]},
        {"X": [{"X": ABC[:2].to_pandas(), "t": CBA[1:]}, {"X": ABC[2:].to_pandas(), "t": CBA[:1]}]},
    ],
    ids=["in memory", "by the piece", "a batch", "batches"],
)
def test_labels_are_lined_up_in_every_container(given):
    np.testing.assert_array_equal(exactly(**given), [0.0, 101.0, 202.0])


def test_other_labels_are_refused_by_the_piece():
    with pytest.raises(InputError, match="'t' and 'X' have row labels that differ"):
        exactly(ABC.chunk({"obs": 2}), t=CBA.set_axis(list("xyz")))


def test_columns_of_batches_are_put_in_the_fitted_order(framed, X):
    frame = pd.DataFrame(X, columns=["u", "v"])
    whole: Any = framed.predict_on_batch(frame, rng_key=1)
    batch: Any = framed.predict_on_batch([{"X": frame[["v", "u"]]}], rng_key=1)
    np.testing.assert_array_equal(batch.posterior_predictive["y"], whole.posterior_predictive["y"])


@pytest.mark.parametrize("rows", [4, 5])
def test_a_labelled_table_stays_in_its_order_whatever_its_length(rows):
    def kernel(X, W, g, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("grp", 4):
            a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * W[g] + a[g], 0.001), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(3), "a": np.zeros((3, 4))})
    table = pd.Series([10.0, 20.0, 30.0, 40.0], index=[3, 1, 0, 2])
    options: dict[str, Any] = {"g": np.arange(rows) % 4, "return_datatree": False}
    X = pd.DataFrame({"x": np.zeros(rows)})
    given = im.predict_on_batch(X, W=table, **options)["y"][0].round()
    held = im.predict_on_batch(X, W=0 * table.to_numpy(), intervention={"a": table}, **options)
    expected = np.array([10.0, 20.0, 30.0, 40.0, 10.0])[:rows]
    np.testing.assert_array_equal(given, expected)
    np.testing.assert_array_equal(held["y"][0].round(), expected)


def test_labels_must_agree_where_the_rows_have_none():
    X, t = np.zeros((3, 1)), CBA
    for option in ({"intervention": {"y": CBA[::-1]}}, {"y": CBA[::-1]}):
        with pytest.raises(InputError, match="have row labels in another order"):
            exactly(X, t=t, **option)


def test_a_missing_outcome_does_not_hide_that_the_others_are_blurred(X):
    y = 1.7e9 + np.arange(float(ROWS))
    y[3] = np.nan
    with pytest.raises(InputError, match="whose differences 32 bits would blur"):
        ImpactModel(plain).fit(X, y, missing="mask", progress=False)


# ------------------------------------------------------------------ recognised


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_rows_are_recognised_whatever_pieces_they_are_read_in(dtype, monkeypatch):
    X = (1000 * np.random.default_rng(0).normal(size=(500, 3))).astype(dtype)
    last = X.copy()
    last[-1, -1] += 1
    whole, hashes = row_fingerprint(X), row_hashes(X)
    monkeypatch.setattr("aimz.data.fingerprints._PIECE", 64)
    assert row_fingerprint(X) == whole != row_fingerprint(last)
    np.testing.assert_array_equal(row_hashes(X), hashes)
    np.testing.assert_array_equal(np.flatnonzero(row_hashes(last) != hashes), [499])


def test_recognising_rows_takes_little_memory():
    X = np.ones((2_000_000, 4), np.float32)
    tracemalloc.start()
    row_fingerprint(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 2
