"""Draws set by hand: after a fit they are of its rows; their supports are held to where they are
computed."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr

from aimz import ImpactModel, InputError
from tests.support.engines import ByHand

ROWS = 6


def by_row(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", len(X)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * X[:, 0] + 10 * X[:, 1] + z, 0.1), obs=y)


def frame(offset=0.0):
    x = np.arange(ROWS) + offset
    return pd.DataFrame({"a": x, "c": -x}, index=[f"r{n}" for n in range(ROWS)])


@pytest.fixture(scope="module")
def fitted():
    X, x = frame(), np.arange(ROWS)
    engine = ByHand(b=np.zeros(10), z=np.tile(10.0 * x, (10, 1)))  # of outcomes at 0
    return ImpactModel(by_row, inference=engine).fit(
        X, pd.Series(np.zeros(ROWS), index=X.index), progress=False
    )


def thinned(im):
    few = {name: draws[::2] for name, draws in im.posterior.items()}
    own = ImpactModel(by_row)
    own._fitted = im._fitted
    return own.set_posterior_sample(few)


def mean(im, X, **options):
    tree = im.predict_on_batch(X, rng_key=0, **options)
    return tree.posterior_predictive["y"].values.mean(axis=(0, 1))


def test_a_thinned_posterior_knows_the_rows_and_columns_of_its_fit(fitted):
    im, X = thinned(fitted), frame()
    want = mean(im, X)

    np.testing.assert_allclose(mean(im, X[["c", "a"]]), want, rtol=1e-6)
    np.testing.assert_allclose(mean(im, X.iloc[[4, 1]]), want[[4, 1]], atol=0.2)
    for other in (frame(1.0), X.set_axis([f"s{n}" for n in range(ROWS)])):
        with pytest.raises(InputError) as refused:
            mean(im, other)
        assert refused.value.code == "rows-not-fitted"


def test_draws_of_other_rows_are_another_fit(fitted):
    im = thinned(fitted)
    im.set_posterior_sample({"b": np.zeros(4), "z": np.zeros((4, 3))})

    np.testing.assert_allclose(mean(im, np.ones((3, 2))), 10.0, atol=0.3)


def bounded(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    top = numpyro.sample("top", dist.Uniform(0.0, jnp.exp(a) + 1.0))
    low = jnp.array([0.0, 1.0])
    pair = numpyro.sample("pair", dist.Uniform(low, low + 1.0).to_event(1))
    with numpyro.plate("rows", len(X)):
        own = numpyro.sample("own", dist.Uniform(0.0, 1.0 + X[:, 0]))
        numpyro.sample("y", dist.Normal(top + pair[0] + own, 1.0), obs=y)


SOUND = {
    "a": np.zeros(3),
    "top": np.ones(3),
    "pair": np.tile([0.5, 1.5], (3, 1)),
    "own": np.full((3, ROWS), 1.5),
}


@pytest.mark.parametrize(
    ("name", "draws"),
    [
        ("top", np.array([1.0, 2.5, 1.0])),
        ("top", np.full(3, -0.1)),
        ("pair", np.tile([0.5, 0.5], (3, 1))),
        ("own", np.tile(np.r_[np.full(ROWS - 1, 0.5), 2.1], (3, 1))),
    ],
)
def test_supports_that_the_kernel_computes_are_held_to(name, draws):
    X, y = np.ones((ROWS, 1)), np.zeros(ROWS)
    im = ImpactModel(bounded).set_posterior_sample({**SOUND, name: draws})

    calls = {
        "predict": lambda: im.predict_on_batch(X),
        "log_likelihood": lambda: im.log_likelihood(X, y, progress=False),
        "score": lambda: im.score(X, y),
        "effect": lambda: im.effect(X, {"top": 0.0}, {"top": 1.0}, progress=False),
    }
    for method in calls if name == "pair" else ["predict"]:
        with pytest.raises(InputError, match=f"draws of '{name}' hold .* outside") as refused:
            calls[method]()
        assert refused.value.code == "draws-support"


def test_draws_inside_of_them_and_on_their_borders_are_taken():
    X = np.ones((ROWS, 1))
    im = ImpactModel(bounded).set_posterior_sample({**SOUND, "top": np.full(3, 2.0)})

    assert im.predict_on_batch(X).posterior_predictive["y"].shape == (1, 3, ROWS)


# ------------------------------------------------------------------ draws that have labels

A, W = np.arange(8.0), np.arange(16.0).reshape(8, 2) + 100


def summed(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + w[1] * X[:, 0], 1.0), obs=y)


def named(values, *dims):
    return xr.DataArray(
        values, dims=dims, coords={"draw": np.arange(values.shape[dims.index("draw")])}
    )


BY_CHAIN = xr.Dataset(
    {
        "a": (("draw", "chain"), A.reshape(2, 4).T),
        "w": (("k", "chain", "draw"), W.reshape(2, 4, 2).transpose(2, 0, 1)),
    }
)


@pytest.mark.parametrize(
    "draws",
    [
        {"a": pd.Series(A), "w": W},
        {"a": pd.Series(A)[::-1], "w": named(W, "draw", "k")},
        {"a": named(A, "draw"), "w": named(W.T, "k", "draw")[:, ::-1]},
        {"a": A, "w": xr.DataArray(W.T, dims=("k", "draw"))},
        {"a": A, "w": xr.DataArray(W)},
        BY_CHAIN,
        BY_CHAIN.stack(sample=("chain", "draw")),
        dict(BY_CHAIN.stack(sample=("chain", "draw")).data_vars),
    ],
    ids=[
        "series",
        "reversed",
        "both reversed",
        "turned",
        "plain",
        "dataset",
        "stacked",
        "extracted",
    ],
)
def test_draws_belong_together_by_their_labels(draws):
    im = ImpactModel(summed).set_posterior_sample(draws)
    order = np.argsort(im.posterior["a"])
    np.testing.assert_array_equal(im.posterior["a"][order], A)
    np.testing.assert_array_equal(im.posterior["w"][order], W)


@pytest.mark.parametrize(
    ("draws", "code"),
    [
        (
            {"a": pd.Series(A), "w": named(W, "draw", "k").assign_coords(draw=np.arange(8) + 1)},
            "row-labels",
        ),
        ({"a": BY_CHAIN["a"], "w": W}, "draws-shape"),
        (BY_CHAIN.assign(z=("k", [1.0, 2.0])), "draws-shape"),
        (pd.DataFrame({"a": A}), "draws-shape"),
    ],
)
def test_draws_that_do_not_belong_together_are_refused(draws, code):
    with pytest.raises(InputError) as caught:
        ImpactModel(summed).set_posterior_sample(draws)
    assert caught.value.code == code
