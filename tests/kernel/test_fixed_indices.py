"""Indices that a kernel writes down, against axes that end before: JAX moves what lies beyond."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, InputError

X = np.arange(12.0).reshape(6, 2)
W = np.array([1.0, 2.0, 4.0])


def predicted(mean: Any) -> np.ndarray:
    """The mean of each row, of a kernel that computes it from rows and a vector of three."""

    def kernel(X: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal().expand([3]).to_event(1))
        with numpyro.plate("rows", X.shape[0]):
            value = numpyro.deterministic("mean", mean(X, w) + jnp.zeros(X.shape[0]))
            numpyro.sample("y", dist.Normal(value, 1.0), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"w": W[None]})
    tree = im.predict_on_batch(X, return_sites="mean")
    means: np.ndarray = tree.posterior_predictive["mean"].to_numpy()[0, 0]
    return means


def in_a_scan(X: Any, w: Any) -> Any:
    return jax.lax.scan(lambda total, _: (total + w[3], None), 0.0, jnp.arange(3))[0]


def in_a_branch(X: Any, w: Any) -> Any:
    return jax.lax.cond(w[0] > 9.0, lambda: w[3], lambda: w[1])


@pytest.mark.parametrize(
    "mean",
    [
        lambda X, w: X[:, 2],  # columns counted from one
        lambda X, w: X[:, -3],
        lambda X, w: X[:, np.array([1, 2])].sum(1),
        lambda X, w: X[jnp.array([0, 1]), jnp.array([1, 2])].sum(),
        lambda X, w: w[3] * X[:, 0],
        lambda X, w: w[-4],
        lambda X, w: w[jnp.array([0, 3])].sum(),
        lambda X, w: jnp.arange(3.0)[3],
        lambda X, w: jax.lax.dynamic_slice(w, (2,), (2,)).sum(),
        in_a_scan,
        in_a_branch,
    ],
)
def test_an_index_beyond_its_axis_is_refused(mean):
    with pytest.raises(InputError, match="counted from 0 to") as caught:
        predicted(mean)
    assert caught.value.code == "index-range"


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
@pytest.mark.parametrize(
    "mean",
    [
        lambda X, w: X[:, 1] + X[:, -2],
        lambda X, w: X[:, [1, 0]].sum(1),
        lambda X, w: w[2] * X[:, 0] + w[-3],
        lambda X, w: w[np.array([0, -3])].sum(),
        lambda X, w: X[5, 1] + X[-6, 0],
        lambda X, w: w.at[5].get(mode="clip") + w.at[5].get(mode="fill", fill_value=7.0) - 10.0,
    ],
)
def test_an_index_inside_is_what_numpy_has(mean):
    wanted = mean(X, jnp.asarray(W)) + np.zeros(6)  # NumPy's rows, which refuse what is beyond
    np.testing.assert_allclose(predicted(mean), wanted, rtol=1e-6)
