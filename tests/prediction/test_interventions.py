"""What an intervention, or a changed argument, reaches: all that follows from it, no more."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from aimz import ImpactModel, InputError, OutputWarning
from tests.support.engines import ByHand

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
    """Outcomes are at 5, and with them the latents, whatever `b` is."""
    noise = np.random.default_rng(0).normal(size=(DRAWS, ROWS + 1))
    engine = ByHand(b=noise[:, 0], m=5.0 + 0.1 * noise[:, 1:])
    return ImpactModel(chain, inference=engine).fit(X, np.full(ROWS, 5.0), t=t, progress=False)


def means(model: ImpactModel, X: Any, site: str = "y", **kwargs: Any) -> np.ndarray:
    tree: Any = model.predict_on_batch(X, return_sites=[site], **kwargs)
    values: np.ndarray = tree.posterior_predictive[site].mean(("chain", "draw")).values
    return values


def test_unchanged_arguments_reuse_the_latents_of_the_rows(model, X, t):
    held = model.posterior["m"].mean(0)  # far from the prior, which is at 0
    np.testing.assert_allclose(means(model, X, t=t), held, atol=0.1)


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
    monkeypatch.setattr("aimz.execution.plan.MIN_ROWS", 7)
    monkeypatch.setattr("aimz.execution.plan.MAX_ROWS", 7)
    np.testing.assert_allclose(means(model, X, "m", t=changed), whole, rtol=1e-6)


@pytest.mark.slow
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
            changed.posterior_predictive[name][0], im.posterior[name], err_msg=name
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


# ------------------------------------------------------------------ through what is computed


def through(X, y=None):
    """b -> mu (computed) -> z (a latent of rows) -> y."""
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        mu = numpyro.deterministic("mu", b * X[:, 0])
        z = numpyro.sample("z", dist.Normal(mu, 0.001))
        numpyro.sample("y", dist.Normal(z, 0.001), obs=y)


def test_setting_a_computed_site_redraws_the_latents_below_it():
    draws = {"b": np.ones(9), "z": np.ones((9, 4))}
    im = ImpactModel(through).set_posterior_sample(draws)
    tree: Any = im.predict_on_batch(np.ones((4, 1)), intervention={"mu": 100.0})
    np.testing.assert_allclose(tree.posterior_predictive["y"], 100.0, atol=0.1)
    assert tree.attrs["redrawn"] == ["z"]


def test_draws_of_computed_sites_are_computed_again():
    draws = {"b": np.ones(9), "z": np.ones((9, 4)), "mu": np.zeros((9, 4))}
    im = ImpactModel(through).set_posterior_sample(draws)
    tree: Any = im.predict_on_batch(np.ones((4, 1)), return_sites=["mu", "y"])
    np.testing.assert_array_equal(tree.posterior_predictive["mu"], 1.0)
    other = im.predict_on_batch(np.ones((7, 1)), in_sample=False, return_datatree=False)
    assert np.shape(other["y"]) == (9, 7)


# ------------------------------------------------------------------ functions and supports


def segments(X, y=None):
    with numpyro.plate("segments", 3):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        s = numpyro.sample("s", dist.Categorical(jnp.ones(3) / 3))
        z = numpyro.sample("z", dist.Gamma(2.0, 1.0))
        is_high = numpyro.deterministic("is_high", X[:, 0] > 1)
        numpyro.sample("y", dist.Normal(a[s] + z + is_high, 0.001), obs=y)


@pytest.fixture(scope="module")
def in_segments() -> ImpactModel:
    return ImpactModel(segments).set_posterior_sample({"a": np.tile([1.0, 2.0, 3.0], (9, 1))})


@pytest.mark.parametrize(
    "function",
    [
        lambda v: v - v.mean(),
        lambda v: v.at[0].set(9.0),
        lambda v: jnp.full_like(v, v.max()),
        lambda v: v / v.sum(),
        lambda v: v[::-1],
        lambda v: v + jnp.arange(ROWS),
    ],
)
def test_a_function_that_looks_at_other_rows_is_refused(function, in_segments, X):
    with pytest.raises(InputError, match=r"looks at other rows|does not work on one row"):
        in_segments.predict(X, intervention={"z": function}, progress=False)


@pytest.mark.slow
def test_a_function_of_each_value_alone_is_taken(in_segments, X):
    options: dict[str, Any] = {"in_sample": False, "return_sites": "z", "return_datatree": False}
    natural = in_segments.predict_on_batch(X, rng_key=1, **options)["z"]
    doubled = in_segments.predict_on_batch(
        X, rng_key=1, intervention={"z": lambda v: jnp.log(v) * 2}, **options
    )["z"]
    np.testing.assert_allclose(doubled, 2 * np.log(natural), rtol=1e-5)


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "a category beyond the last": ({"s": 3}, "'s' is set to 3, which it cannot take"),
    "a category below the first": ({"s": -1}, "'s' is set to -1, which it cannot take"),
    "a negative waiting time": ({"z": -1.0}, "'z' is set to -1.0, which it cannot take"),
    "half a truth": ({"is_high": 0.5}, "'is_high' holds bool and cannot take"),
    "twice the truth": ({"is_high": 2}, "'is_high' holds bool, which cannot hold"),
    "not a number": ({"z": lambda v: jnp.log(-v)}, "gives NaN or infinity"),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_a_value_that_a_site_cannot_take_is_refused(kind, in_segments, X):
    settings, match = IMPOSSIBLE[kind]
    with pytest.raises(InputError, match=match):
        in_segments.predict(X, intervention=settings, in_sample=False, progress=False)


def test_a_condition_outside_the_support_is_refused(in_segments, X):
    with pytest.raises(InputError, match="'s' is set to 7, which it cannot take"):
        in_segments.predict(X, condition={"s": 7}, in_sample=False, progress=False)


def plain(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1e10))
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b + z, 1.0), obs=y)


def test_large_whole_numbers_do_not_wrap_around(X):
    options: dict[str, Any] = {"in_sample": False, "return_datatree": False}
    zero = ImpactModel(plain).set_posterior_sample({"b": np.zeros(3)})
    for how in ("intervention", "condition"):
        settings: dict[str, Any] = {how: {"z": 3_000_000_000}, **options}
        got = zero.predict_on_batch(X, **settings)["y"]
        np.testing.assert_allclose(got, 3e9, rtol=1e-6)
    large = ImpactModel(plain).set_posterior_sample({"b": np.full(3, 3_000_000_000)})
    np.testing.assert_allclose(large.predict_on_batch(X, **options)["y"], 3e9, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, np.int64])
def test_narrow_draws_are_widened(dtype, X):
    def counts(X, y=None):
        with numpyro.plate("k", 2):
            n = numpyro.sample("n", dist.Poisson(100.0))
        numpyro.sample("y", dist.Normal(X[:, 0] * 0 + n[0] * n[1], 0.001), obs=y)

    im = ImpactModel(counts).set_posterior_sample({"n": np.full((3, 2), 120, dtype)})
    got = im.predict_on_batch(X, return_datatree=False)["y"]
    np.testing.assert_allclose(got, 14_400, atol=0.1)


# ------------------------------------------------------------------ what changed since the fit


def switched(X, t=0.0, mode="off", y=None):
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(t + (50.0 if mode == "on" else 0.0), 0.1))
        numpyro.sample("y", dist.Normal(z, 0.1), obs=y)


@pytest.fixture(scope="module")
def switch(X) -> ImpactModel:
    engine = ByHand(z=0.1 * np.random.default_rng(0).normal(size=(DRAWS, ROWS)))
    return ImpactModel(switched, inference=engine).fit(X, np.zeros(ROWS), progress=False)


def test_a_changed_default_redraws_the_latents_below_it(switch, X):
    np.testing.assert_allclose(means(switch, X), 0.0, atol=0.3)
    np.testing.assert_allclose(means(switch, X, t=9.0), 9.0, atol=0.3)
    np.testing.assert_allclose(means(switch, X, t=np.full(ROWS, 9.0)), 9.0, atol=0.3)
    np.testing.assert_array_equal(means(switch, X, t=0.0), means(switch, X))


def test_a_changed_argument_that_is_not_traced_is_refused(switch, X):
    with pytest.raises(InputError, match=r"'mode' is not the fitted one, .* whether 'z' depends"):
        switch.predict(X, mode="on", progress=False)
    got: Any = switch.predict_on_batch(X, mode="on", in_sample=False)
    np.testing.assert_allclose(got.predictions["y"], 50.0, atol=1.0)


def test_a_changed_argument_of_rows_read_by_the_piece_is_refused(model, X, t):
    same: Any = model.predict_on_batch([{"X": X, "t": t}], rng_key=3)
    np.testing.assert_array_equal(
        same.posterior_predictive["y"].mean(("chain", "draw")), means(model, X, t=t, rng_key=3)
    )
    with pytest.raises(InputError, match="'t' is not the fitted one in some rows"):
        model.predict_on_batch([{"X": X, "t": t + 1}])


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
@pytest.mark.slow
def test_latents_inside_a_scan_belong_to_the_fitted_rows(X):
    im = fitted(walk, X * 0)
    with pytest.raises(InputError, match="'level' has one value per fitted row"):
        im.predict(X + 1000, progress=False)
    got: Any = im.predict_on_batch(X * 0 + 1000, in_sample=False, return_sites="level")
    assert float(got.predictions["level"].min()) > 900
    assert got.predictions["level"].shape[-1] == ROWS


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_values_for_some_steps_of_a_scan_are_refused(X):
    im = ImpactModel(walk).set_posterior_sample({"level": np.zeros((9, ROWS))})
    with pytest.raises(InputError, match="'level' has shape"):
        im.predict(X, intervention={"level": np.arange(3.0)}, progress=False)
