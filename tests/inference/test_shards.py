"""Batches cut into shards: the losses and the posterior of the fit without; refusals by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel, InputError

ROWS = 480
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 2)).astype(np.float32)
Y = (X @ [1.0, -1.0] + RNG.normal(size=ROWS)).astype(np.float32)
QUIET: Any = {"progress": False, "on_bad_fit": "ignore"}


def kernel(X, y=None):
    w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ w, 1.0), obs=y)


def fitted(inference="svi", kernel=kernel, y=Y, **how):
    model = ImpactModel(kernel, rng_key=0, inference=inference, num_samples=300)
    return model.fit(X, y, **{**QUIET, **how})


def losses(im):
    return np.asarray(im._fitted.fit.trace["loss"])


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"batch_size": 120, "epochs": 5}, marks=pytest.mark.slow),
        {"num_steps": 60},
        pytest.param(
            {"batch_size": 96, "epochs": 2, "sample_weight": np.arange(ROWS) % 3.0},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "batch_size": 120,
                "epochs": 2,
                "missing": "mask",
                "y": np.where(X[:, 0] > 1, np.nan, Y),
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["batches", "all rows", "weights", "missing"],
)
def test_losses_are_those_without_shards(how):
    plain, cut = fitted(**how), fitted(**how, num_shards=4)
    np.testing.assert_allclose(losses(cut), losses(plain), rtol=2e-6)
    # Adam divides by the size of a gradient: where that is rounding, so is a step. The sd is 0.05.
    np.testing.assert_allclose(cut.posterior["w"], plain.posterior["w"], atol=1e-4)
    assert "cut into 4 shards" in " ".join(cut._fitted.fit.attrs["notes"])


def test_the_posterior_is_that_in_closed_form():
    im = fitted(num_shards=4, inference="auto", num_steps=400)
    precision = X.T @ X + np.eye(2)
    draws = np.asarray(im.posterior["w"])
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    assert np.all(np.abs(draws.mean(0) - np.linalg.solve(precision, X.T @ Y)) < 0.3 * sd)
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO()])
def test_a_guide_of_the_users_own_is_trained_by_shards(loss):
    def made():
        return SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), loss)

    how: Any = {"batch_size": 120, "epochs": 3}
    np.testing.assert_allclose(
        losses(fitted(made(), **how, num_shards=2)), losses(fitted(made(), **how)), rtol=2e-6
    )


def test_steps_go_on_from_a_fit_by_shards():
    im = fitted(num_shards=4, num_steps=60)
    last = losses(im)[-5:].mean()
    assert abs(im.train_on_batch(X, Y)[1] - last) < 5.0
    assert im.sample(num_samples=3)["posterior"]["w"].shape == (1, 3, 2)


def by_row(X, y=None):
    with numpyro.plate("row", X.shape[0]):
        z = numpyro.sample("z", dist.Normal())
        numpyro.sample("y", dist.Normal(X[:, 0] + z, 1.0), obs=y)


def together(X, y=None):
    w = numpyro.sample("w", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(w * jnp.cumsum(X[:, 0]), 1.0), obs=y)


def random(X, y=None):
    w = numpyro.sample("w", dist.Normal())
    kept = jax.random.bernoulli(numpyro.prng_key(), 0.5, (X.shape[0],))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(w * X[:, 0] * kept, 1.0), obs=y)


def guide(X, y=None):
    loc = numpyro.param("loc", jnp.zeros(2)) + X.mean()
    numpyro.sample("w", dist.Normal(loc, 0.1).to_event(1))


def svi(of=kernel, own=None, optim=None, loss=None):
    adam = numpyro.optim.Adam(0.01)
    return SVI(of, own or AutoNormal(of), optim or adam, loss or Trace_ELBO())


REFUSED = {
    "a batch of other parts": ({"batch_size": 100, "num_shards": 3}, "batch_size=99"),
    "more shards than rows": ({"num_shards": ROWS + 1}, "equal parts"),
    "latents of rows": ({"kernel": by_row, "num_shards": 2}, "latent value per row"),
    "rows that interact": ({"kernel": together, "num_shards": 2}, "num_shards=2"),
    "random numbers by place": ({"kernel": random, "num_shards": 2}, "position of the row"),
    "a loss that is no sum": (
        {"inference": svi(loss=RenyiELBO(2.0)), "num_shards": 2},
        "RenyiELBO",
    ),
    "a guide of rows": ({"inference": svi(own=guide), "num_shards": 2}, "'guide' may read rows"),
    "a search in each step": (
        {"inference": svi(optim=numpyro.optim.Minimize()), "num_shards": 2},
        "Minimize",
    ),
}


@pytest.mark.parametrize(("how", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_shards_would_make_another_fit_is_refused(how, words):
    with pytest.raises(InputError, match=words) as caught:
        fitted(**how)
    assert caught.value.code == "shards"


def test_chains_have_no_shards():
    with pytest.raises(InputError, match="num_shards=2") as caught:
        fitted("nuts", num_shards=2)
    assert caught.value.code == "settings"
