"""What people write at first: the error names the thing and what to write instead."""

import inspect
import pickle
from typing import Any

import dask.dataframe as dd
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import aimz
from aimz import ImpactModel, InputError, KernelValidationError, OutputWarning
from aimz.data import as_array
from aimz.kernel.signature import RESERVED
from tests.support.engines import ByHand


def dosed(X, d, y=None):
    b = numpyro.sample("b", dist.Normal().expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(b[0] * d + X[:, 0], 1.0), obs=y)


X = pd.DataFrame({"u": [0.0, 1.0, 2.0], "age": [1.0, 2.0, 3.0]})
DRAWS = {"b": np.ones((2, 3))}


def model(kernel: Any = dosed, **settings: Any) -> ImpactModel:
    return ImpactModel(kernel, **settings).set_posterior_sample(DRAWS)


# ------------------------------------------------------------------ values that are no numbers

WRONG: dict[str, Any] = {
    "text": ({"u": [1.0, 2.0], "age": [3.0, "old"]}, "holds text \\('old' in row 1, column 'age'"),
    "a number too large": (
        {"u": pd.Series([1.0, 10**400], dtype=object)},
        "holds whole numbers beyond 1e308",
    ),
    "text alone": ({"u": ["young", "old"]}, "holds text \\('young' in row 0, column 'u'"),
    "dates": (
        {"u": [1.0, 2.0], "when": pd.date_range("2020", periods=2)},
        "holds dates or times .2020-01-01 00:00:00 in row 0, column 'when'",
    ),
    "dates of a zone": (
        {"u": [1.0, 2.0], "when": pd.date_range("2020", periods=2, tz="UTC")},
        "holds dates or times .2020-01-01 00:00:00[+]00:00 in row 0, column 'when'",
    ),
    "a duration": (
        {"u": [1.0, 2.0], "wait": pd.to_timedelta([1, 2], unit="h")},
        "holds dates or times .0 days 01:00:00 in row 0, column 'wait'",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_row_and_the_column_of_what_is_no_number_are_named(kind):
    columns, match = WRONG[kind]
    with pytest.raises(InputError, match=match):
        as_array(pd.DataFrame(columns), "X")


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_the_row_and_the_column_of_a_missing_value_are_named(make):
    frame = make({"u": [1.0, 2.0, 3.0], "age": [1.0, 2.0, None]})
    with pytest.raises(InputError, match=r"holds 1 values .*first in row 2, column 'age'"):
        model().predict_on_batch(frame, d=1.0)
    with pytest.raises(InputError, match=r"holds 1 values .*first in row 2, column 'age'"):
        ImpactModel(dosed).fit(frame, np.zeros(3), d=1.0, progress=False)


# ------------------------------------------------------------------ kernels and their arguments


def by_item(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * X["age"], 1.0), obs=y)


def by_attribute(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * X.age, 1.0), obs=y)


def by_place(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * X.iloc[:, 1], 1.0), obs=y)


@pytest.mark.parametrize(
    ("kernel", "match"),
    [
        (by_item, r"takes X\['age'\].* Write X\[:, 1\] for column 'age'"),
        (by_attribute, r"takes X\.age.* Write X\[:, 1\] for column 'age'"),
        (by_place, r"takes X\.iloc.* Write X\[:, 0\], with the number"),
    ],
)
def test_a_kernel_that_takes_columns_by_name_is_told_their_number(kernel, match):
    with pytest.raises(KernelValidationError, match=match) as raised:
        ImpactModel(kernel).fit(X, np.zeros(3), progress=False)
    assert raised.value.code == "column-by-name"
    assert len(str(raised.value)) < 240


# ------------------------------------------------------------------ lines of a kernel that raise


def no_column(X, b):
    return X.height * b


def wrong_sizes(X, b):
    return X @ np.ones(5) * b


def text_scale(X, b):
    return numpyro.sample("c", dist.Normal(b, "one"))


def no_distribution(X, b):
    return numpyro.sample("c", 1.0) * b


def written_in_place(X, b):
    X[0] = 1.0
    return b


def not_a_name(X, b):
    return {"age": b}["size"]


def not_a_number(X, b):
    return b * (1 / len([]))


def too_wide(X, b):
    return dist.TruncatedDistribution(dist.Gamma(2.0), low=0.1).mean * b


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (no_column, "AttributeError at .*: a JAX array has no attribute height"),
        (wrong_sizes, "TypeError at .*contracting dimensions"),
        (text_scale, "TypeError at .*(<U3|StrDType)"),
        (no_distribution, "TypeError at .*Invalid type for 'fn'"),
        (written_in_place, "TypeError at .*immutable"),
        (not_a_name, "KeyError at .*'size'"),
        (not_a_number, "ZeroDivisionError at .*division by zero"),
        (too_wide, "AssertionError at .*use numpyro.distributions.TruncatedGamma"),
    ],
)
def test_an_error_of_a_kernel_names_its_line(line, match):
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", dist.Normal(line(X, b) + X[:, 0], 1.0), obs=y)

    with pytest.raises(KernelValidationError, match=match) as raised:
        ImpactModel(kernel).fit(np.ones((3, 2)), np.zeros(3), progress=False)
    place = line.__code__.co_firstlineno + 1
    assert f"at test_misuse.py:{place}: " in str(raised.value)
    assert f'File "{__file__}", line {place}, in {line.__name__}' in raised.value.__notes__
    assert raised.value.code == "kernel-raised"
    assert type(raised.value.__cause__).__name__ in str(raised.value)
    assert len(str(raised.value)) < 240


def test_rows_and_outcomes_that_are_swapped_are_noticed():
    with pytest.raises(InputError, match=r"'X' has shape \(3,\) and 'y' \(3, 2\). If .* swapped"):
        ImpactModel(dosed).fit(np.zeros(3), X, d=1.0, progress=False)


# ------------------------------------------------------------------ keywords

KEYWORDS: dict[str, Any] = {
    "fit": ({"num_sample": 5}, "Did you mean 'num_samples'"),
    "fit of a seed": ({"seed": 5}, "rng_key= is the seed"),
    "fit of another": ({"foo": 5}, "Arguments: X, d, y; options: num_samples, rng_key"),
    "fit of a sampler": ({"target_accept_prob": 0.9}, "pass inference=numpyro.infer.NUTS"),
    "fit of bars": ({"verbose": 0}, "progress= of a method"),
    "fit_on_batch": ({"num_step": 5}, "Did you mean 'num_steps'"),
    "train_on_batch": ({"foo": 5}, "Arguments: X, d, y; options: rng_key"),
    "predict": ({"interventions": {}}, "Did you mean 'intervention'"),
    "predict of chains": ({"tune": 5}, "It is a setting of chains"),
    "predict_on_batch": ({"random_state": 5}, "no such option of predict. rng_key="),
    "log_likelihood": ({"foo": 5}, "options: "),
    "score": ({"sample_weights": None}, "Did you mean 'sample_weight'"),
    "effect": ({"estimands": "ate"}, "Did you mean 'estimand'"),
    "sample_prior_predictive": ({"draws": 5}, "num_samples= is the number of draws"),
}


@pytest.mark.parametrize("what", KEYWORDS)
def test_an_unknown_keyword_is_told_what_there_is(what):
    options, match = KEYWORDS[what]
    method = what.split(" ")[0]
    more: dict[str, Any] = {"effect": {"baseline": {"d": 0}, "intervention": {"d": 1}}}
    given = {"d": 1.0, **options, **more.get(method, {})}
    if method in ("fit", "fit_on_batch", "train_on_batch", "log_likelihood", "score"):
        given["y"] = np.zeros(3)
    with pytest.raises(InputError, match=match) as raised:
        getattr(model(), method)(X, **given)
    assert raised.value.code == "argument-unknown"
    assert len(str(raised.value)) < 240


@pytest.mark.parametrize(
    ("name", "match"),
    [("seed", "rng_key= is the seed"), ("n_samples", "num_samples"), ("foo", "Parameters: ")],
)
def test_an_unknown_parameter_of_a_model_is_told_what_there_is(name, match):
    settings: dict[str, Any] = {name: 3}
    with pytest.raises(InputError, match=match) as raised:
        ImpactModel(dosed, **settings)
    assert isinstance(raised.value, TypeError)


def test_no_keyword_of_a_method_can_be_an_argument_of_a_kernel():
    for method in ("fit", "fit_on_batch", "train_on_batch", "predict", "predict_on_batch"):
        own = inspect.signature(getattr(ImpactModel, method)).parameters.values()
        keywords = {p.name for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY}
        assert keywords <= RESERVED


def test_a_valid_name_is_listed_once():
    with pytest.raises(InputError) as raised:
        model().effect(X, {"zz": 1}, {}, d=1.0)
    listed = str(raised.value).split("Valid names: ")[1].rstrip(".").split(", ")
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("option", ["intervention", "condition"])
def test_an_intervention_that_is_no_dict_is_refused(option):
    given: dict[str, Any] = {option: 3}
    with pytest.raises(InputError, match="must be a dict") as raised:
        model().predict(X, d=1.0, **given)
    assert raised.value.code == "scenario-form"


# ------------------------------------------------------------------ options named like data

OPTIONS = [
    name
    for name in inspect.signature(ImpactModel.effect).parameters
    if name not in RESERVED | {"self", "X", "y", "kwargs"}
]


def named(option: str) -> Any:
    """A kernel with an argument that is named like an option of `effect`."""
    spaces: dict[str, Any] = {"numpyro": numpyro, "dist": dist}
    exec(  # there is no other way to name an argument
        f"def kernel(X, d, {option}, y=None):\n"
        "    b = numpyro.sample('b', dist.Normal().expand([3]).to_event(1))\n"
        f"    numpyro.sample('y', dist.Normal({option} * b[0] * d, 1.0), obs=y)",
        spaces,
    )
    return spaces["kernel"]


@pytest.mark.parametrize("option", OPTIONS)
def test_an_argument_that_is_named_like_an_option_goes_into_inputs(option):
    im = model(named(option))
    scenarios: dict[str, Any] = {"baseline": {"d": 0}, "intervention": {"d": 1}}
    for given in ({option: np.ones(3)}, {}):
        with pytest.raises(InputError, match=r"inputs=(\{| is a dict)"):
            im.effect(X, d=np.zeros(3), progress=False, **{**scenarios, **given})


def test_an_argument_that_is_named_like_an_option_works_in_inputs():
    im = model(named("population"))
    inputs = {"population": np.full(3, 2.0)}
    found = im.effect(X, {"d": 0}, {"d": 1}, d=np.zeros(3), inputs=inputs, progress=False)
    assert found.draws.values.ravel().tolist() == [2.0, 2.0]


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_is_given_data_is_refused(option):
    if option in ("by", "weights", "treatment"):
        pytest.skip("it takes data")
    scenarios: dict[str, Any] = {"baseline": {"d": 0}, "intervention": {"d": 1}}
    with pytest.raises(InputError):
        model().effect(X, d=np.zeros(3), progress=False, **{**scenarios, option: np.ones(3)})


# ------------------------------------------------------------------ labels that the user says


@pytest.mark.parametrize(
    ("settings", "code", "match"),
    [
        ({"coords": {"b_dim": "abc"}}, "labels-unknown", "Did you mean 'b_dim_0'"),
        ({"coords": {"b_dim_0": "ab"}}, "dims-conflict", "gives 2 labels .* which has 3"),
        ({"dims": {"bb": ["k"]}}, "labels-unknown", "Did you mean 'b'"),
        ({"dims": {"b": ["k", "l"]}}, "dims-conflict", "which has 1"),
        ({"dims": {"b": ["k"]}, "coords": {"l": "abc"}}, "labels-unknown", "'l', which no site"),
    ],
)
def test_labels_of_what_there_is_not_are_refused(settings, code, match):
    given: dict[str, Any] = {"d": 1.0, "progress": False}
    calls: list[Any] = [
        lambda im: im.predict_on_batch(X, d=1.0),
        lambda im: im.effect(X, {"d": 0}, {"d": 1}, **given),
        lambda im: im.fit_on_batch(X, np.zeros(3), num_steps=1, **given),
    ]
    for call in calls:
        with pytest.raises(InputError, match=match) as raised:
            call(model(**settings))
        assert raised.value.code == code


def test_labels_of_what_there_is_are_used():
    coords = {"k": list("abc"), "obs": [7, 8, 9], "category": [1, 2]}
    tree: Any = model(dims={"b": ["k"]}, coords=coords).predict_on_batch(X, d=1.0)
    assert tree.posterior["k"].values.tolist() == list("abc")
    assert tree.posterior_predictive["obs"].values.tolist() == [7, 8, 9]


# ------------------------------------------------------------------ labels of rows, and files

INDICES: dict[str, Any] = {
    "dates": pd.date_range("2024-01-01", periods=3),
    "nanoseconds": pd.DatetimeIndex(np.array([1, 2, 10**18 + 3], "M8[ns]")),
    "durations": pd.to_timedelta([1, 36, 2], unit="h"),
    "durations in nanoseconds": pd.TimedeltaIndex(np.array([1, 10**9 + 1, 5], "m8[ns]")),
}


@pytest.mark.parametrize("kind", INDICES)
def test_times_of_rows_come_back_from_a_store_that_has_moved(kind, tmp_path):
    rows = X.set_axis(INDICES[kind], axis=0)
    im = model()
    given: dict[str, Any] = {"d": np.ones(3), "progress": False}
    written = im.predict(rows, output_dir=bytes(tmp_path / "here"), **given)
    path = written.attrs["artifact_path"]
    assert path.startswith(str(tmp_path / "here"))
    moved = (tmp_path / "here").rename(tmp_path / "there") / path.rsplit("/", 1)[1]
    again = aimz.open(moved)
    labels = again["posterior_predictive"].indexes["obs"]
    assert labels.dtype == INDICES[kind].dtype
    assert (labels == INDICES[kind]).all()
    for group in again.subtree:
        assert group.attrs["artifact_path"] == str(moved)
    effect = im.effect(rows, {"d": 0}, {"d": 1}, estimand="ite", **given)
    assert effect.summary()["obs"].to_list() == INDICES[kind].to_list()
    if "nanoseconds" not in kind:
        effect.draws.to_netcdf(tmp_path / "effect.nc")


@pytest.mark.parametrize("path", [3, None, "", "a\0b"])
def test_a_path_that_is_none_is_refused(path):
    places: list[Any] = [model().save, ImpactModel.load, aimz.open, aimz.verify]
    if path is not None:  # which is a temporary directory
        places.append(lambda p: model().predict(X, d=1.0, output_dir=p, progress=False))
    for place in places:
        with pytest.raises(InputError, match=r"which (is no path|no file system takes)"):
            place(path)


def test_a_model_is_saved_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model().save("~/saved")
    assert (tmp_path / "saved").is_dir()
    assert ImpactModel.load("~/saved").is_fitted()


# ------------------------------------------------------------------ None for an argument


def test_none_for_an_argument_that_is_computed_with_is_named():
    with pytest.raises(InputError, match="computes with 'd', which is None") as raised:
        model().predict_on_batch(X, d=None)
    assert raised.value.code == "argument-missing"


def test_none_is_a_value_like_the_default():
    def shifted(X, by=None, y=None):
        b = numpyro.sample("b", dist.Normal().expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(b[0] + X[:, 0] + (0.0 if by is None else by), 1.0), obs=y)

    im = model(shifted)
    assert im.score(X, X["u"], by=None) == im.score(X, X["u"])


# ------------------------------------------------------------------ handlers as decorators


@numpyro.handlers.mask(mask=True)
@numpyro.handlers.reparam(config={"b": numpyro.infer.reparam.LocScaleReparam(0.0)})
def decorated(X, d, y=None):
    b = numpyro.sample("b", dist.Normal(1.0, 2.0))
    numpyro.sample("y", dist.Normal(b * d + X[:, 0], 1.0), obs=y)


def test_a_kernel_may_be_decorated_by_handlers(tmp_path):
    im = ImpactModel(decorated).set_posterior_sample({"b_decentered": np.ones(2)})
    effect = im.effect(X, {"d": 0}, {"d": 1}, d=0.0, progress=False)
    assert effect.draws.values.ravel().tolist() == [3.0, 3.0]
    im.save(tmp_path / "saved")
    loaded = ImpactModel.load(tmp_path / "saved")
    again = loaded.effect(X, {"d": 0}, {"d": 1}, d=0.0, progress=False)
    assert again.draws.equals(effect.draws)


def test_missing_names_are_announced_once():
    im = ImpactModel(dosed, inference=ByHand(**DRAWS)).fit(X, np.zeros(3), d=1.0, progress=False)
    array = X.to_numpy()
    with pytest.warns(OutputWarning, match="has no column names"):
        im.predict_on_batch(array, d=1.0)
    im.predict_on_batch(array, d=1.0)
    im.effect(array, {"d": 0}, {"d": 1}, d=1.0, progress=False)
    with pytest.warns(OutputWarning, match="has no column names"):
        pickle.loads(pickle.dumps(im)).predict_on_batch(array, d=1.0)


# ------------------------------------------------------------------ names of sites and plates

NAMES = ["a/b", "a b", "a\nb", "ü", "a.b", "a/../b", "..", ".", "a\\b", "zarr.json", "x" * 300]
UNSTORABLE = NAMES[-5:]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["site", "plate", "row plate"])
def test_names_come_back_from_a_store_or_are_refused_by_name(where, name):
    def kernel(X, y=None):
        with numpyro.plate(name if where == "plate" else "three", 3):
            b = numpyro.sample(name if where == "site" else "b", dist.Normal())
        with numpyro.plate(name if where == "row plate" else "rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(b.sum() + X[:, 0], 1.0), obs=y)

    im = ImpactModel(kernel)
    im.set_posterior_sample({name if where == "site" else "b": np.ones((2, 3))})
    rows = X.set_axis(list("rst"), axis=0)
    if name in UNSTORABLE:
        with pytest.raises(InputError, match="cannot be stored under its name") as raised:
            im.predict(rows, return_sites=["y", *im.posterior], progress=False)
        assert raised.value.code == "site-name"
        return
    memory: Any = im.predict_on_batch(rows)
    written = im.predict(rows, progress=False)
    stored: Any = aimz.open(written.attrs["artifact_path"])
    for group in ("posterior", "posterior_predictive"):
        assert stored[group].to_dataset().equals(memory[group].to_dataset())
        assert stored[group].dims == memory[group].dims


# ------------------------------------------------------------------ frames of Dask


def test_frames_of_dask_are_frames():
    lazy = dd.from_pandas(X.set_axis(list("rst"), axis=0), npartitions=2)
    im = model()
    tree: Any = im.predict_on_batch(lazy, d=lazy["u"])
    expected: Any = im.predict_on_batch(lazy.compute(), d=lazy["u"].compute())
    assert tree.posterior_predictive.equals(expected.posterior_predictive)
    found = im.effect(lazy, {"d": 0}, {"d": lambda d: d + 1}, d=lazy["u"], by=lazy["age"],
                      estimand="cate", progress=False)  # fmt: skip
    assert found.draws.isel(chain=0, draw=0).values.tolist() == [1.0, 2.0, 3.0]
    assert im.score(lazy, lazy["u"], d=0.0) == im.score(lazy.compute(), X["u"].to_numpy(), d=0.0)


# ------------------------------------------------------------------ tables of Arrow


def test_tables_of_arrow_are_frames():
    im = model()
    table, codes = pa.Table.from_pandas(X), pa.array([0.0, 1.0, 2.0])
    effect = im.effect(table, {"age": 1.0, "u": 0.0}, {"u": 2.0}, d=codes, progress=False)
    assert effect.draws.values.ravel().tolist() == [2.0, 2.0]
    found = im.effect(table, {"d": 0}, {"d": 1}, d=codes, by="age", estimand="cate", progress=False)
    assert found.draws["group"].values.tolist() == [1.0, 2.0, 3.0]
