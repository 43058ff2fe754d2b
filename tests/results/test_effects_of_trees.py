"""Differences of two results, and names that would hide one another in a result."""

import copy
import gc

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr

import aimz
from aimz import ImpactModel, InputError, PerformanceWarning

ROWS = 2100
X = np.linspace(-1.0, 1.0, ROWS, dtype=np.float32)[:, None]


def counts(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=b * X[:, 0]), obs=y)


def model_of(kernel, chains=4, **options):
    draws = np.linspace(0.5, 1.5, 20 * chains, dtype=np.float32)
    return ImpactModel(kernel, **options).set_posterior_sample({"b": draws}, num_chains=chains)


@pytest.fixture(scope="module")
def pair():
    model = model_of(counts)
    options = {"rng_key": 1, "progress": False}
    stored = [model.predict(X + shift, **options) for shift in (0.0, 1.0)]
    kept = [model.predict(X + shift, store="memory", **options) for shift in (0.0, 1.0)]
    return model, stored, kept


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"chain": [0, 2]},
        {"draw": slice(2, None)},
        {"draw": slice(None, None, 3)},
        {"chain": 0},
        {"obs": 5},
        {"obs": slice(1000, 1100)},
    ],
    ids=str,
)
def test_effect_of_stored_parts_is_that_of_parts_in_memory(pair, part):
    model, stored, kept = pair
    effects = [
        model.estimate_effect(*(tree.isel(part) for tree in trees)).posterior_predictive["y"]
        for trees in (stored, kept)
    ]
    np.testing.assert_array_equal(*effects)
    assert effects[0].dtype == effects[1].dtype
    assert int(effects[1].min()) >= -1


def test_effect_of_a_turned_tree_is_that_of_the_tree(pair):
    model, stored, kept = pair
    turned = [tree.map_over_datasets(lambda ds: ds.transpose(...)) for tree in stored]
    turned[0] = turned[0].map_over_datasets(lambda ds: ds.transpose(*reversed(list(ds.dims))))
    effect = model.estimate_effect(*turned).posterior_predictive["y"]
    expected = model.estimate_effect(*kept).posterior_predictive["y"]
    np.testing.assert_array_equal(effect.transpose(*expected.dims), expected)


def test_effect_of_a_stored_tree_and_one_in_memory_is_that_of_either(pair):
    model, stored, kept = pair
    mixed = model.estimate_effect(stored[0], kept[1]).posterior_predictive["y"]
    np.testing.assert_array_equal(mixed, model.estimate_effect(*kept).posterior_predictive["y"])


def test_effect_of_different_sites_is_refused(pair):
    model, stored, _ = pair
    other = stored[1].copy()
    other["posterior_predictive/z"] = other["posterior_predictive/y"]
    with pytest.raises(InputError, match="Only one of the two"):
        model.estimate_effect(stored[0], other)


@pytest.mark.parametrize("store", ["memory", "persistent"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((np.uint8(3), np.uint8(0)), -3),
        ((np.int8(100), np.int8(-100)), -200),
        ((np.uint32(1), np.uint32(0)), -1),
        ((np.float32(2.75), np.int32(3)), 0.25),
        ((np.bool_(True), np.bool_(False)), -1),
    ],
    ids=str,
)
def test_effect_does_not_wrap_or_cut_off(store, values, expected):
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.deterministic("cost", t * jnp.ones(X.shape[0], jnp.result_type(t)))
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    options = {"X": X[:20], "store": store, "progress": False, "return_sites": "cost"}
    baseline, intervention = ({**options, "t": np.asarray(value)} for value in values)
    effect = model_of(kernel).estimate_effect(
        args_baseline=baseline, args_intervention=intervention
    )
    np.testing.assert_array_equal(effect.posterior_predictive["cost"], expected)


@pytest.mark.parametrize("store", ["memory", "persistent"])
@pytest.mark.slow
def test_mixture_keeps_the_values_of_every_component(store):
    def kernel(X, y=None):
        numpyro.sample("b", dist.Normal(0.0, 1.0))
        parts = [dist.Binomial(10, 0.5), dist.Binomial(1000, 0.5)]
        mixture = dist.MixtureGeneral(dist.Categorical(jnp.array([0.5, 0.5])), parts)
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", mixture, obs=y)

    tree = model_of(kernel, 1).predict(X[:20], store=store, progress=False)
    assert int(tree.posterior_predictive["y"].max()) > 400


def named(first, second):
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.deterministic(first, b * X[:, 0])
        numpyro.deterministic(second, 2 * b * X[:, 0])
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    return kernel


@pytest.mark.parametrize("store", ["memory", "persistent"])
@pytest.mark.parametrize("names", [("a/b", "a.b"), ("chain", "c"), ("obs", "c")], ids=str)
def test_sites_that_would_hide_one_another_are_refused(store, names):
    with pytest.raises(InputError, match="would be called") as caught:
        model_of(named(*names)).predict(X, store=store, progress=False)
    assert caught.value.code == "name-collision"


def test_a_latent_that_is_called_as_a_dimension_is_refused():
    def kernel(X, y=None):
        slopes = numpyro.sample("g", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        start = numpyro.sample("g_dim_0", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(X @ slopes + start, 1.0), obs=y)

    draws = {"g": np.ones((10, 2)), "g_dim_0": np.ones(10)}
    model = ImpactModel(kernel).set_posterior_sample(draws)
    with pytest.raises(InputError, match="'g_dim_0' would be called") as caught:
        model.predict(np.ones((5, 2)), store="memory", progress=False)
    assert caught.value.code == "name-collision"
    with pytest.raises(InputError, match="'g_dim_0' would be called"):
        _ = model.posterior_tree


@pytest.mark.parametrize("dims", [["draw"], ["obs", "obs"]], ids=str)
def test_dimension_with_two_meanings_is_refused(dims):
    model = model_of(named("m", "c"), dims={"m": dims})
    with pytest.raises(InputError) as caught:
        model.predict(X, store="memory", progress=False)
    assert caught.value.code == "dims-conflict"


@pytest.mark.parametrize("name", ["..", "zarr.json", "x\\y", "n" * 300])
def test_site_whose_name_cannot_be_stored_is_refused(name):
    model = model_of(named(name, "c"))
    with pytest.raises(InputError, match="cannot be stored") as caught:
        model.predict(X, progress=False)
    assert caught.value.code == "site-name"
    kept = model.predict(X, store="memory", progress=False).posterior_predictive.to_dataset()
    assert kept[name].size


@pytest.mark.parametrize("values", [{"intervention": {"y": 2**33}}, {"condition": {"y": 1e10}}])
def test_value_that_the_site_cannot_hold_is_refused(values):
    with pytest.raises(InputError, match="cannot hold") as caught:
        model_of(counts).predict(X, progress=False, **values)
    assert caught.value.code == "cast-overflow"


def test_intervention_that_gives_fractions_of_a_discrete_site_is_refused():
    with pytest.raises(InputError, match="cut off"):
        model_of(counts).predict(X, intervention={"y": lambda v: v + 0.5}, progress=False)


def test_labels_of_lazy_rows_that_interact_are_kept():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * (X - X.mean())[:, 0], 1.0), obs=y)

    rows = xr.DataArray(X[:60], dims=("row", "c"), coords={"row": np.arange(60) + 100})
    with pytest.warns(PerformanceWarning, match="predicted together"):
        tree = model_of(kernel).predict(rows.chunk(row=7), progress=False)
    assert tree.posterior_predictive["obs"].values[0] == 100


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_times_as_labels_survive_the_disk(unit):
    year = "3000" if unit != "ns" else "2200"
    index = pd.DatetimeIndex(np.array([f"{year}-01-01", f"{year}-01-02"], f"M8[{unit}]"))
    frame = pd.DataFrame(X[:2], index=index)
    tree = model_of(counts).predict(frame, progress=False)
    assert tree.posterior_predictive["obs"].dtype == index.dtype
    np.testing.assert_array_equal(tree.posterior_predictive["obs"], index)


def test_copy_of_a_temporary_result_outlives_it():
    tree = model_of(counts).predict(X[:20], progress=False)
    copied = copy.deepcopy(tree)
    del tree
    gc.collect()
    assert copied.posterior_predictive["y"].load().size


def test_value_of_no_stored_kind_is_refused_before_anything_is_computed():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.deterministic("half", (b * X[:, 0]).astype(jnp.bfloat16))
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    with pytest.raises(InputError, match="which no store has"):
        model_of(kernel).predict(X[:20], progress=False)


def test_score_needs_outcomes():
    with pytest.raises(InputError, match="needs outcomes"):
        model_of(counts).score(X[:20], None)


def test_effect_without_rows_names_what_is_missing():
    with pytest.raises(InputError, match="lacks 'X'"):
        model_of(counts).estimate_effect(args_baseline={"t": 1}, args_intervention={"t": 1})


def test_store_opens_by_url(tmp_path):
    tree = model_of(counts).predict(X[:20], output_dir=tmp_path.as_uri(), progress=False)
    path = tree.attrs["artifact_path"]
    assert aimz.open(f"file://{path}").identical(aimz.open(path))
