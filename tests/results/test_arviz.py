"""What ArviZ reads: draws with labels, what the sampler says of them, and densities of rows."""

from typing import Any

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from numpyro.infer import MCMC, NUTS
from scipy import stats

from aimz import ImpactModel, InputError
from aimz.model import predicting

ROWS = 30


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0], sigma), obs=y)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    X = np.linspace(-1.0, 1.0, ROWS)[:, None]
    return X, X[:, 0] + 0.3 * np.random.default_rng(0).normal(size=ROWS)


@pytest.fixture(scope="module")
def chains(data) -> ImpactModel:
    options: Any = {"num_chains": 2, "chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(NUTS(kernel, max_tree_depth=5), num_warmup=300, num_samples=500, **options)
    return ImpactModel(kernel, inference=mcmc, num_samples=500).fit(*data, progress=False)


def by_hand(num_chains: int = 1) -> ImpactModel:
    draws = {"b": np.arange(6.0), "sigma": np.full(6, 0.5)}
    return ImpactModel(kernel).set_posterior_sample(posterior_sample=draws, num_chains=num_chains)


@pytest.mark.parametrize("num_chains", [1, 2, 3])
def test_posterior_has_all_chains_one_after_another(num_chains):
    im = by_hand(num_chains)
    np.testing.assert_array_equal(im.posterior["b"], np.arange(6.0))
    tree = im.posterior_tree
    np.testing.assert_array_equal(
        tree.posterior["b"], np.arange(6.0).reshape(num_chains, -1), strict=True
    )
    assert set(tree.children) == {"posterior"}


def test_writing_to_the_posterior_never_changes_it():
    im = by_hand()
    with pytest.raises(ValueError, match="read-only"):
        im.posterior["b"][0] = 7.0
    im.posterior.clear()
    assert set(im.posterior) == {"b", "sigma"}


@pytest.mark.slow
def test_more_draws_of_chains_are_flat(chains):
    draws = chains.sample(num_samples=20, return_datatree=False)
    assert {name: value.shape for name, value in draws.items()} == {"b": (40,), "sigma": (40,)}
    labelled = chains.sample(num_samples=20)
    for group in (labelled.posterior, labelled.sample_stats):
        assert dict(group.sizes) == {"chain": 2, "draw": 20}
    assert "reached_max_treedepth" in labelled.sample_stats


def test_trees_of_chains_say_what_the_sampler_did(chains, data):
    trees = [chains.posterior_tree, chains.predict_on_batch(data[0])]
    for tree in trees:
        stats = tree.sample_stats
        assert dict(stats.sizes) == {"chain": 2, "draw": 500}
        names = {"diverging", "energy", "acceptance_rate", "n_steps", "lp", "tree_depth"}
        assert names | {"reached_max_treedepth"} <= set(stats.data_vars)
        steps = stats["n_steps"].values
        np.testing.assert_array_equal(stats["tree_depth"], np.floor(np.log2(steps)) + 1)
        np.testing.assert_array_equal(stats["reached_max_treedepth"], steps >= 31)
        report = az.diagnose(tree, return_diagnostics=True, show_diagnostics=False)[1]
        assert {"divergent", "treedepth", "bfmi", "ess", "rhat"} <= set(report)


def test_the_prior_takes_interventions(data):
    X, _ = data
    im = ImpactModel(kernel)
    natural, changed = (
        im.sample_prior_predictive_on_batch(X, num_samples=50, intervention=change)
        for change in (None, {"b": 3.0})
    )
    gap = changed.prior_predictive["y"] - natural.prior_predictive["y"]
    b = im.sample_prior_predictive_on_batch(X, num_samples=50, return_sites="b")
    expected = (3.0 - b.prior_predictive["b"].values[..., None]) * X[:, 0]
    np.testing.assert_allclose(gap, expected, atol=1e-5)


@pytest.fixture(scope="module")
def tree(chains, data) -> xr.DataTree:
    X, y = data
    frame = pd.DataFrame(X, columns=["dose"], index=[f"p{n}" for n in range(ROWS)])
    given = chains.to_datatree(frame, y, num_prior_samples=50)
    assert isinstance(given, xr.DataTree)
    return given


def test_one_tree_has_every_group_that_arviz_reads(chains, tree, data):
    X, y = data
    assert set(tree.children) == {
        *("posterior", "sample_stats", "posterior_predictive", "log_likelihood"),
        *("observed_data", "constant_data", "prior", "prior_predictive"),
    }
    assert all(group.attrs["group"] == name for name, group in tree.children.items())
    assert set(tree.prior.data_vars) == {"b", "sigma"}
    assert dict(tree.prior_predictive["y"].sizes) == {"chain": 1, "draw": 50, "person": ROWS}
    np.testing.assert_allclose(tree.observed_data["y"], y, rtol=1e-6)
    np.testing.assert_allclose(tree.constant_data["X"].sel(X_dim_0="dose"), X[:, 0], rtol=1e-6)
    posterior = tree.posterior
    mean = posterior["b"].values[..., None] * X[:, 0]
    density = stats.norm.logpdf(y, mean, posterior["sigma"].values[..., None])
    np.testing.assert_allclose(tree.log_likelihood["y"], density, rtol=1e-4, atol=1e-4)
    for group in ("posterior_predictive", "log_likelihood", "observed_data", "constant_data"):
        assert tree[group]["person"].values.tolist()[:2] == ["p0", "p1"]
    drawn = chains.predict_on_batch(X, return_datatree=False)["y"]
    np.testing.assert_array_equal(tree.posterior_predictive["y"].values.reshape(drawn.shape), drawn)


READERS: dict[str, Any] = {
    "loo": lambda tree: az.loo(tree),
    "loo_pit": lambda tree: az.loo_pit(tree),
    "summary": lambda tree: az.summary(tree),
    "energy": lambda tree: az.plot_energy(tree, backend="none"),
    "trace": lambda tree: az.plot_trace_dist(tree, backend="none"),
    "ppc": lambda tree: az.plot_ppc_dist(tree, backend="none", num_samples=20),
    "forest": lambda tree: az.plot_forest(tree, backend="none"),
}


def test_one_tree_takes_two_looks_at_the_data(data, monkeypatch):
    """With the outcomes for densities, without them for draws: no argument is read a third time."""
    looks: list[str] = []
    gather = predicting.gather

    def looked(request: Any, arguments: Any) -> Any:
        looks.append(request.method)
        return gather(request, arguments)

    monkeypatch.setattr(predicting, "gather", looked)
    by_hand().to_datatree(*data)
    assert looks == ["log_likelihood", "predict"]


@pytest.mark.parametrize("reader", READERS)
def test_arviz_reads_the_tree(tree, reader):
    READERS[reader](tree)


def test_leave_one_out_is_that_of_the_densities_alone(chains, tree, data):
    density = chains.log_likelihood(*data, store="memory", progress=False)
    assert az.loo(tree).elpd == pytest.approx(az.loo(density).elpd, rel=1e-6)
    assert "sample_stats" in density.children


def test_draws_set_by_hand_give_a_tree_without_statistics(data):
    found = by_hand(2).to_datatree(*data)
    assert set(found.children) == {
        *("posterior", "posterior_predictive", "log_likelihood", "observed_data"),
        "constant_data",
    }


def whole(X, t, scale, table, mode="linear", y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("t", X.shape[0]):
        mean = b * t * scale + table[jnp.asarray(X[:, 0], int)]
        numpyro.sample("y", dist.Normal(mean if mode == "linear" else 0 * mean, 1.0), obs=y)


def test_arguments_of_the_call_are_constant_data():
    im = ImpactModel(whole).set_posterior_sample({"b": np.ones(4)})
    X, t, table = np.zeros((5, 1)), np.arange(5.0), np.arange(3.0)
    found = im.to_datatree(X, t, t=t, scale=2.0, table=table).constant_data
    assert {name: value.dims for name, value in found.data_vars.items()} == {
        "X": ("t", "X_dim_0"),
        "t_": ("t",),  # a dimension has that name
        "scale": (),
        "table": ("table_dim_0",),
    }
    np.testing.assert_array_equal(found["t_"], t)


@pytest.mark.parametrize("groups", [1, 2], ids=["one", "two"])
def test_arviz_summarises_an_effect(groups):
    def dose(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * t + X[:, 0], 1.0), obs=y)

    draws = np.random.default_rng(0).normal(2.0, 0.5, size=400)
    im = ImpactModel(dose).set_posterior_sample({"b": draws}, num_chains=4)
    options: Any = {} if groups == 1 else {"estimand": "cate", "by": np.array(list("uvuv"))}
    X, t = np.zeros((4, 1)), np.zeros(4)
    effect = im.effect(X, {"t": 0}, {"t": 1}, t=t, progress=False, **options)
    for given in (effect, effect.to_datatree()):
        table = az.summary(given, round_to="none")
        np.testing.assert_allclose(table["mean"], draws.mean(), rtol=1e-5)
        assert len(table) == groups
    names = ["effect"] if groups == 1 else ["effect[u]", "effect[v]"]
    assert list(az.summary(effect.to_datatree()).index) == names
    assert np.asarray(effect).shape[:2] == (4, 100)


@pytest.mark.parametrize("reader", [az.loo, az.summary, az.loo_pit, np.asarray])
def test_a_model_is_no_array_and_says_what_to_pass(reader):
    with pytest.raises(InputError, match=r"im\.to_datatree\(X, y\)") as raised:
        reader(by_hand())
    assert raised.value.code == "no-array"
    assert len(str(raised.value)) < 240


@pytest.mark.parametrize("store", ["memory", "persistent"])
def test_a_difference_of_two_predictions_carries_the_fit(chains, store, data):
    options: dict[str, Any] = {"store": store, "progress": False, "rng_key": 0}
    old, new = (chains.predict(X, **options) for X in (data[0], data[0] + 1.0))
    found = chains.estimate_effect(old, new)
    assert set(found.children) == {"posterior", "sample_stats", "posterior_predictive"}
    for name in ("posterior", "sample_stats"):
        assert found[name].to_dataset().equals(new[name].to_dataset())
    gap = found.posterior_predictive["y"]
    np.testing.assert_allclose(gap, new.posterior["b"].expand_dims(person=ROWS, axis=2), atol=1e-5)
    assert list(az.summary(found).index) == ["b", "sigma"]


def test_attributes_of_a_tree_are_those_that_netcdf_has(chains, tree, data):
    by_steps = by_hand().predict_on_batch(data[0])
    trees: list[Any] = [chains.posterior_tree, chains.predict_on_batch(data[0]), tree, by_steps]
    for group in (group for one in trees for group in one.subtree):
        for value in group.attrs.values():
            plain = isinstance(value, str | int | float) and not isinstance(value, bool)
            assert plain or (isinstance(value, list) and all(isinstance(v, str) for v in value))
