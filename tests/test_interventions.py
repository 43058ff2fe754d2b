"""What an intervention, or a changed argument, reaches: all that follows from it, no more."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from aimz import ImpactModel, InputError, OutputWarning

pytestmark = pytest.mark.filterwarnings("ignore:The loss was still falling")  # fits are short

ROWS, DRAWS = 30, 40


def chain(X, t, y=None):
    """t -> m (a latent of rows) -> y; the posterior of m is far from its prior."""
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        m = numpyro.sample("m", dist.Normal(b * t, 0.1))
        numpyro.sample("y", dist.Normal(m, 0.1), obs=y)


def by_prior(X, t, y=None):
    """Only the prior of a global latent reads t."""
    scale = numpyro.sample("scale", dist.Normal(jnp.mean(t), 1.0))
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(scale + z, 0.1), obs=y)


def both_ways(X, t, y=None):
    """A prior scaled by t, a latent of rows under it, and t itself."""
    spread = numpyro.sample("spread", dist.HalfNormal(1.0 + jnp.abs(t).max()))
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, spread))
        numpyro.sample("y", dist.Normal(z + 10.0 * t, 0.1), obs=y)


def mediated(X, m=None, y=None):
    with numpyro.plate("obs", X.shape[0]):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        m = numpyro.sample("m", dist.Normal(a, 0.1), obs=m)
        numpyro.sample("y", dist.Normal(m + a, 0.1), obs=y)


def walk(X, y=None):
    def step(before, x):
        level = numpyro.sample("level", dist.Normal(before + x, 0.1))
        return level, level

    _, levels = scan(step, 0.0, X[:, 0])
    numpyro.sample("y", dist.Normal(levels, 0.1), obs=y)


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return np.arange(ROWS, dtype=np.float32)[:, None]


@pytest.fixture(scope="module")
def t() -> np.ndarray:
    return np.zeros(ROWS, np.float32)


def fitted(kernel: Any, X: Any, **kwargs: Any) -> ImpactModel:
    im = ImpactModel(kernel, num_samples=DRAWS)
    return im.fit_on_batch(X, np.full(ROWS, 5.0), num_steps=300, progress=False, **kwargs)


@pytest.fixture(scope="module")
def model(X, t) -> ImpactModel:
    return fitted(chain, X, t=t)


def means(model: ImpactModel, X: Any, site: str = "y", **kwargs: Any) -> np.ndarray:
    tree: Any = model.predict_on_batch(X, return_sites=[site], **kwargs)
    values: np.ndarray = tree.posterior_predictive[site].mean(("chain", "draw")).values
    return values


def test_unchanged_arguments_reuse_the_latents_of_the_rows(model, X, t):
    held = model.posterior["m"].mean(("chain", "draw"))
    np.testing.assert_allclose(means(model, X, t=t), held, atol=0.1)
    assert float(held.min()) > 1.0  # far from the prior, which is at 0


def test_a_changed_argument_redraws_latents_of_the_rows_where_it_changed(model, X, t):
    changed = t.copy()
    changed[:10] = 3.0
    natural, other = means(model, X, "m", t=t), means(model, X, "m", t=changed)
    np.testing.assert_array_equal(other[10:], natural[10:])
    slope = float(model.posterior["b"].mean())
    np.testing.assert_allclose(other[:10], 3.0 * slope, atol=0.15)


def test_a_changed_argument_reaches_the_outcome_through_the_latent(model, X, t):
    slope = float(model.posterior["b"].mean())
    np.testing.assert_allclose(means(model, X, t=t + 3.0), 3.0 * slope, atol=0.15)


def test_redrawn_latents_are_named_in_the_result(model, X, t):
    assert model.predict_on_batch(X, t=t).attrs["redrawn"] == []
    assert model.predict_on_batch(X, t=t + 1).attrs["redrawn"] == ["m"]


def test_an_argument_changed_in_some_rows_does_not_depend_on_tiles(model, X, t, monkeypatch):
    changed = t.copy()
    changed[::3] = 2.0
    whole = means(model, X, "m", t=changed)
    monkeypatch.setattr("aimz.execute.MIN_ROWS", 7)
    monkeypatch.setattr("aimz.execute.MAX_ROWS", 7)
    np.testing.assert_allclose(means(model, X, "m", t=changed), whole, rtol=1e-6)


def test_a_change_that_only_a_global_latent_carries_is_an_error(X, t):
    im = fitted(by_prior, X, t=t)
    with pytest.raises(InputError, match="only global latents of the posterior carry its change"):
        im.predict(X, t=t + 1, progress=False)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
@pytest.mark.slow
def test_a_changed_argument_never_redraws_a_global_latent(X, t):
    im = fitted(both_ways, X, t=t)
    changed: Any = im.predict_on_batch(X, t=t + 1, return_sites=["spread", "z"])
    for name in ("spread", "z"):
        np.testing.assert_array_equal(
            changed.posterior_predictive[name], im.posterior[name], err_msg=name
        )
    np.testing.assert_allclose(means(im, X, t=t + 1) - means(im, X, t=t), 10.0, atol=1e-4)


def test_an_intervention_redraws_latents_that_the_posterior_holds(model, X, t):
    # m was fitted at about 5, but with t = 0 it follows any b at 0.
    np.testing.assert_allclose(means(model, X, t=t, intervention={"b": 7.0}), 0.0, atol=0.15)
    tree: Any = model.predict_on_batch(X, t=t, intervention={"b": 7.0})
    assert tree.attrs["redrawn"] == ["m"]


def test_an_intervention_that_redraws_a_global_latent_warns(X):
    def kernel(X, y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        slope = numpyro.sample("slope", dist.Normal(mean, 0.01))
        numpyro.sample("y", dist.Normal(slope * X[:, 0], 1.0), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"mean": np.zeros(9), "slope": np.ones(9)})
    with pytest.warns(OutputWarning, match="redraws slope from the prior"):
        changed = means(im, X, "slope", intervention={"mean": 4.0})
    assert changed == pytest.approx(4.0, abs=0.05)


@pytest.mark.slow
def test_an_intervention_that_data_block_warns(X):
    im = ImpactModel(mediated, num_samples=DRAWS)
    m, y = np.zeros(ROWS), np.zeros(ROWS)
    im.fit_on_batch(X, y, m=m, num_steps=300, progress=False)
    with pytest.warns(OutputWarning, match="does not change m, which the data of the call hold"):
        held = means(im, X, m=m, intervention={"a": 3.0})
    np.testing.assert_allclose(held, 3.0, atol=0.2)


@pytest.mark.slow
def test_an_intervention_goes_through_data_that_are_left_out(X):
    im = ImpactModel(mediated, num_samples=DRAWS)
    im.fit_on_batch(X, np.zeros(ROWS), m=np.zeros(ROWS), num_steps=300, progress=False)
    np.testing.assert_allclose(means(im, X, intervention={"a": 3.0}), 6.0, atol=0.3)


def test_an_intervention_that_cannot_reach_the_outcome_warns(X):
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.deterministic("aside", 2 * b)
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(9)})
    with pytest.warns(OutputWarning, match="Setting aside cannot change 'y'"):
        im.predict_on_batch(X, intervention={"aside": 4.0})


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_an_intervention_inside_a_scan_is_applied(X):
    im = ImpactModel(walk).set_posterior_sample({"level": np.zeros((9, ROWS))})
    levels = np.arange(ROWS) * 10.0
    np.testing.assert_allclose(means(im, X, intervention={"level": levels}), levels, atol=0.2)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_a_function_inside_a_scan_is_applied_or_refused_by_name(X):
    im = ImpactModel(walk).set_posterior_sample({"level": np.zeros((9, ROWS))})
    with pytest.raises(InputError, match="'level' is inside a scan"):
        im.predict(X, intervention={"level": lambda level: level + 1}, progress=False)


@pytest.mark.parametrize("name", ["mm", "Y", "obs", "t"])
def test_an_unknown_site_is_refused_by_name(name, model, X, t):
    with pytest.raises(InputError, match=f"There is no site '{name}' to set"):
        model.predict(X, t=t, intervention={name: 1.0}, progress=False)


def test_a_site_cannot_be_set_and_conditioned_on(model, X, t):
    with pytest.raises(InputError, match="'m' is in both intervention and condition"):
        model.predict(X, t=t, intervention={"m": 1.0}, condition={"m": 1.0}, progress=False)
