"""What ArviZ reads: draws with labels, what the sampler says of them, and densities of rows."""

from typing import Any

import arviz as az
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel

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


def test_more_draws_of_chains_are_flat(chains):
    draws = chains.sample(num_samples=20, return_datatree=False)
    assert {name: value.shape for name, value in draws.items()} == {"b": (40,), "sigma": (40,)}
    labelled = chains.sample(num_samples=20)
    assert dict(labelled.posterior["b"].sizes) == {"chain": 2, "draw": 20}


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
