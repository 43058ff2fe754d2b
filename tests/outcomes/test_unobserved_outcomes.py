"""What nobody has observed is drawn in the world that was, and then replayed; it is never kept."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from aimz import ImpactModel, InputError
from aimz.outcomes import completed

ROWS, DRAWS = 4, 2000
X = np.zeros((ROWS, 1))
T = np.zeros(ROWS)
Y = np.array([0.3, -999.0, 1.0, -999.0])
MASK = np.array([True, False, True, False])
HOLES = np.where(MASK, Y, np.nan)


def masked(X, t, m, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]), handlers.mask(mask=m):
        numpyro.sample("y", dist.Normal(a + t, 1.0), obs=y)


def masked_by_method(X, t, m, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + t, 1.0).mask(m), obs=y)


def plain(X, t, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + t, 1.0), obs=y)


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mask": (masked, {"m": MASK, "y": Y}),
    "mask of the distribution": (masked_by_method, {"m": MASK, "y": Y}),
    "NaN": (plain, {"y": HOLES}),
    "both": (masked, {"m": MASK | (np.arange(ROWS) == 1), "y": np.where(Y < -9, np.nan, Y)}),
}


def ask(kernel: Any, *scenarios: Any, **options: Any) -> Any:
    im = ImpactModel(kernel).set_posterior_sample({"a": np.zeros(DRAWS)})
    return im.effect(X, *scenarios, **{"t": T, "progress": False, **options})


@pytest.mark.parametrize("way", WAYS)
def test_a_counterfactual_draws_what_is_missing_and_replays_it(way):
    kernel, given = WAYS[way]
    got = ask(kernel, {}, {"t": 1.0}, estimand="ite", rung="counterfactual", **given)
    np.testing.assert_allclose(got.draws, 1.0, atol=1e-5)  # one noise in both worlds
    now = got.averages.sel(scenario="intervention").values.reshape(ROWS, -1)
    np.testing.assert_allclose(now[MASK], Y[MASK][:, None] + np.ones(DRAWS), atol=1e-5)
    np.testing.assert_allclose(now[~MASK].mean(1), 1.0, atol=4 / np.sqrt(DRAWS))
    np.testing.assert_allclose(now[~MASK].std(1), 1.0, rtol=0.1)


@pytest.mark.parametrize("way", WAYS)
def test_a_finite_population_keeps_only_what_was_observed(way):
    kernel, given = WAYS[way]
    options = {"population": "finite", "target": "prediction", "treatment": "t"}
    got = ask(kernel, {"t": 0.0}, {"t": 1.0}, **options, **given)
    was = got.averages.sel(scenario="baseline").values.ravel()
    drawn = was * ROWS - Y[MASK].sum()
    assert drawn.mean() == pytest.approx(0.0, abs=4 * np.sqrt(2 / DRAWS))
    assert drawn.std() == pytest.approx(np.sqrt(2.0), rel=0.1)


def test_nothing_observed_is_refused():
    for kernel, given in (
        (masked, {"m": np.zeros(ROWS, bool), "y": Y}),
        (plain, {"y": np.full(ROWS, np.nan)}),
    ):
        with pytest.raises(InputError) as caught:
            ask(kernel, {}, {"t": 1.0}, rung="counterfactual", **given)
        assert caught.value.code in ("nothing-observed", "not-finite")


# ------------------------------------------------------------------ counts, chances, mediators


def binary(X, t, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=a + 2.0 * t), obs=y)


def test_probabilities_are_about_rows_whose_outcome_is_known():
    t, y = np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, np.nan, 0.0, 0.0])
    low, high = 0.5, 1 / (1 + np.exp(-2.0))
    arms = {"t": 0.0}, {"t": 1.0}
    options = {"rung": "counterfactual", "t": t, "y": y}
    needed = ask(binary, *arms, estimand="necessity", **options)
    np.testing.assert_allclose(needed.draws, (high - low) / high, rtol=1e-5)  # the first row alone
    gained = ask(binary, *arms, estimand="benefit", **options)
    # Of the second row only the laws are known; the last cannot have gained what it lacks.
    rows = [(high - low) / high, high - low, (high - low) / (1 - low), 0.0]
    np.testing.assert_allclose(gained.draws, np.mean(rows), rtol=1e-5)


def with_mediator(X, t, k, h=None, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        with handlers.mask(mask=k):
            h = numpyro.sample("h", dist.Normal(a + t, 1.0), obs=h)
        numpyro.sample("y", dist.Normal(2.0 * h, 1.0), obs=y)


@pytest.mark.slow
def test_a_masked_mediator_is_drawn_too():
    h = np.array([0.5, -999.0, 0.0, 1.0])
    k = np.array([True, False, True, True])
    y = np.array([1.0, 0.0, 0.5, 2.0])
    options = {"k": k, "h": h, "y": y, "rung": "counterfactual", "estimand": "ite"}
    got = ask(with_mediator, {}, {"t": 1.0}, **options)
    np.testing.assert_allclose(got.draws, 2.0, atol=1e-4)
    on_h = ask(with_mediator, {}, {"t": 1.0}, site="h", **options)
    drawn = on_h.averages.sel(scenario="baseline").values.reshape(ROWS, -1)
    np.testing.assert_allclose(drawn[k], h[k][:, None] + np.zeros(DRAWS), atol=1e-5)
    assert abs(drawn[1].mean()) < 4 / np.sqrt(DRAWS)


COVARIANCE = np.array([[1.0, 0.8], [0.8, 1.0]])


def pair(X, t, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        loc = jnp.stack([a + t, a - t], -1)
        numpyro.sample("y", dist.MultivariateNormal(loc, covariance_matrix=COVARIANCE), obs=y)


@pytest.mark.slow
def test_a_part_that_is_missing_follows_what_is_there():
    y = np.zeros((ROWS, 2))
    y[1] = [2.0, np.nan]
    options = {"y": y, "rung": "counterfactual", "estimand": "ite"}
    got = ask(pair, {}, {"t": 1.0}, **options)
    was = got.averages.sel(scenario="baseline", chain=0).transpose("o", "draw", ...).values
    seen, drawn = was[1, :, 0], was[1, :, 1]
    np.testing.assert_allclose(seen, 2.0, atol=1e-4)
    assert drawn.mean() == pytest.approx(1.6, abs=4 * 0.6 / np.sqrt(DRAWS))
    assert drawn.std() == pytest.approx(0.6, rel=0.1)


# ------------------------------------------------------------------ conditional draws

_ROOT = np.array([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-0.7, 0.3, 0.5]])


@pytest.mark.parametrize(
    "fn",
    [
        dist.MultivariateNormal(jnp.array([0.0, 1.0, -1.0]), scale_tril=_ROOT),
        dist.MultivariateNormal(
            jnp.array([0.0, 1.0, -1.0]), precision_matrix=np.linalg.inv(_ROOT @ _ROOT.T)
        ).expand([5000]),
        dist.TransformedDistribution(
            dist.MultivariateNormal(jnp.array([0.0, 1.0, -1.0]), scale_tril=_ROOT),
            dist.transforms.ExpTransform(),
        ),
    ],
    ids=["vector", "expanded", "exponential"],
)
def test_a_completed_vector_is_a_conditional_draw(fn):
    is_log = isinstance(fn, dist.TransformedDistribution)
    shape = () if fn.batch_shape else (5000,)
    drawn = fn.sample(jax.random.key(0), shape)
    value = jnp.array([np.nan, 1.5, np.nan])
    value = jnp.broadcast_to(jnp.exp(value) if is_log else value, drawn.shape)
    complete = jax.jit(lambda value, drawn: completed(fn, jnp.isfinite(value), value, drawn))
    whole = np.asarray(complete(value, drawn), np.float64)
    whole = np.log(whole) if is_log else whole
    covariance = _ROOT @ _ROOT.T
    gain = covariance[[0, 2], 1] / covariance[1, 1]
    rest = covariance[np.ix_([0, 2], [0, 2])] - np.outer(gain, covariance[1, [0, 2]])
    np.testing.assert_allclose(whole[:, 1], 1.5, rtol=1e-5)
    np.testing.assert_allclose(whole[:, [0, 2]].mean(0), [0, -1] + gain * 0.5, atol=0.06)
    np.testing.assert_allclose(np.cov(whole[:, [0, 2]].T), rest, atol=0.06)
