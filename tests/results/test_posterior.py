"""Draws made elsewhere are checked against the kernel, and latents of rows know their rows."""

from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel, InputError, OutputWarning
from tests.support.engines import ByHand

ROWS, DRAWS = 12, 6


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    w = numpyro.sample("w", dist.Dirichlet(np.ones(3)))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b + p + w[0], sigma), obs=y)


def local(X, y=None):
    """A latent value for each row, which its outcome follows closely."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(a, 1.0))
        numpyro.sample("y", dist.Normal(z, 0.01), obs=y)


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)


def sound() -> dict[str, np.ndarray]:
    return {
        "b": np.zeros((DRAWS, 2)),
        "sigma": np.ones(DRAWS),
        "p": np.full(DRAWS, 0.5),
        "w": np.full((DRAWS, 3), 1 / 3),
    }


def predict(draws: Any, X: Any, **options: Any) -> Any:
    settings = {"num_chains": options.pop("num_chains")} if "num_chains" in options else {}
    im = ImpactModel(kernel).set_posterior_sample(draws, **settings)
    return im.predict_on_batch(X, **options)


def test_sound_draws_are_taken_without_a_word(X):
    assert predict(sound(), X).posterior_predictive["y"].shape == (1, DRAWS, ROWS)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "none at all": ({}, "There are no draws"),
    "draws of no length": ({"b": np.zeros((0, 2))}, "There are no draws"),
    "a scalar": ({"b": 1.0}, "does not split into 1 chains"),
    "different lengths": (sound() | {"p": np.full(3, 0.5)}, "different numbers of .chains, draws."),
    "NaN": (sound() | {"b": np.full((DRAWS, 2), np.nan)}, "'b' holds 12 values .* not finite"),
    "infinity": (sound() | {"p": np.full(DRAWS, np.inf)}, "'p' holds 6 values .* not finite"),
    "another shape": (sound() | {"b": np.zeros((DRAWS, 3))}, r"draw of 'b' has shape \(3,\)"),
    "a scale below zero": (sound() | {"sigma": -np.ones(DRAWS)}, "'sigma' hold -1.0 .* support"),
    "a share above one": (sound() | {"p": np.full(DRAWS, 1.5)}, "'p' hold 1.5 .* its support"),
    "shares that do not add up": (
        sound() | {"w": np.ones((DRAWS, 3))},
        r"'w' hold \[1.0, 1.* support",
    ),
    "log scales": (sound() | {"sigma": np.full(DRAWS, -0.7)}, "on the scale of the kernel's site"),
    "the outcome": (sound() | {"y": np.zeros((DRAWS, ROWS))}, "the outcome itself"),
    "a misspelled site": (
        {("sgma" if name == "sigma" else name): value for name, value in sound().items()},
        "draws of 'sgma', which is no site .* Did you mean 'sigma'",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_draws_that_are_not_the_kernels_are_refused(kind, X):
    draws, match = BAD[kind]
    with pytest.raises(InputError, match=match):
        predict(draws, X)


@pytest.mark.parametrize("chains", [0, -1, 4, 1.5])
def test_chains_that_the_draws_do_not_split_into_are_refused(chains, X):
    with pytest.raises(InputError, match=r"does not split into 4 chains|num_chains must be"):
        predict(sound(), X, num_chains=chains)


def test_chains_are_kept(X):
    assert predict(sound(), X, num_chains=2).posterior_predictive["y"].shape[:2] == (2, DRAWS // 2)


def test_a_latent_that_the_posterior_lacks_is_drawn_once_per_draw(X):
    draws = {name: value for name, value in sound().items() if name != "p"}
    with pytest.warns(OutputWarning, match="no draws of p: each is drawn from its prior"):
        tree = predict(draws, X, return_sites=["p"])
    values = tree.posterior_predictive["p"].values
    assert values.shape == (1, DRAWS)
    assert len(np.unique(values)) == DRAWS


def test_a_site_of_the_posterior_that_the_kernel_no_longer_needs_does_no_harm(X):
    extra = sound() | {"generated": np.zeros(DRAWS)}
    np.testing.assert_array_equal(
        predict(extra, X).posterior_predictive["y"], predict(sound(), X).posterior_predictive["y"]
    )


@pytest.mark.slow
def test_draws_of_numpyro_are_taken_as_they_come(X):
    mcmc = MCMC(NUTS(kernel), num_warmup=50, num_samples=20, progress_bar=False)
    mcmc.run(jax.random.key(0), X, y=np.ones(ROWS, np.float32))
    assert predict(mcmc.get_samples(), X).posterior_predictive["y"].shape == (1, 20, ROWS)


def test_a_posterior_of_a_result_can_be_set_again(X):
    tree = predict(sound(), X)
    again = predict(tree, X)
    np.testing.assert_array_equal(again.posterior_predictive["y"], tree.posterior_predictive["y"])


# ------------------------------------------------------------------ latents of rows


@pytest.fixture(scope="module")
def frame(X) -> pd.DataFrame:
    return pd.DataFrame(X, columns=["u", "v"], index=[f"person {n}" for n in range(ROWS)])


@pytest.fixture(scope="module")
def fitted(frame) -> ImpactModel:
    y = np.arange(ROWS, dtype=np.float32) / 2
    noise = np.random.default_rng(0).normal(size=(50, ROWS + 1))
    engine = ByHand(a=y.mean() + noise[:, 0] / 4, z=y + 0.01 * noise[:, 1:])
    return ImpactModel(local, inference=engine).fit(frame, y, progress=False)


def means(model: ImpactModel, X: Any) -> np.ndarray:
    tree: Any = model.predict_on_batch(X, return_sites=["z"])
    values: np.ndarray = tree.posterior_predictive["z"].mean(("chain", "draw")).values
    return values


def test_latents_of_rows_come_back_for_the_fitted_rows(fitted, frame):
    np.testing.assert_allclose(means(fitted, frame), np.arange(ROWS) / 2, atol=0.1)


@pytest.mark.parametrize("rows", [[3], [0, 1, 2], [7, 2, 11], list(range(ROWS))[::-1]])
def test_latents_find_their_rows_by_label(rows, fitted, frame):
    np.testing.assert_allclose(means(fitted, frame.iloc[rows]), np.array(rows) / 2, atol=0.1)


REFUSED = {
    "rows that are only counted": lambda frame: frame.to_numpy()[:5],
    "a label that the fit did not see": lambda frame: frame.rename({"person 3": "nobody"}),
    "a fitted label with other values": lambda frame: frame.iloc[:3] + 1,
    "labels that only count": lambda frame: frame.iloc[:5].reset_index(drop=True),
    "rows that stand in another order without labels": lambda frame: frame.to_numpy()[::-1],
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:'X' has no column names")
def test_latents_are_not_given_to_rows_that_may_be_others(kind, fitted, frame):
    with pytest.raises(InputError, match="'z' has one value per fitted row, and these are other"):
        means(fitted, REFUSED[kind](frame))


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:'X' has no column names")
def test_other_rows_draw_their_own_latents(kind, fitted, frame):
    rows = REFUSED[kind](frame)
    tree = fitted.predict_on_batch(rows, in_sample=False, return_sites=["z"])
    assert tree.predictions["z"].shape == (1, 50, len(rows))


def labelled_draws() -> xr.Dataset:
    z = np.broadcast_to(np.arange(ROWS) * 1.0, (1, DRAWS, ROWS))
    labels = [f"person {n}" for n in range(ROWS)]
    dims = ("chain", "draw", "who")
    return xr.Dataset({"z": (dims, z), "a": (dims[:2], np.zeros((1, DRAWS)))}, {"who": labels})


def test_draws_made_elsewhere_find_their_rows_by_label(frame):
    im = ImpactModel(local).set_posterior_sample(labelled_draws())
    np.testing.assert_allclose(means(im, frame.iloc[[5, 2]]), [5.0, 2.0])


def test_draws_made_elsewhere_are_not_given_to_other_labels(frame):
    im = ImpactModel(local).set_posterior_sample(labelled_draws())
    with pytest.raises(InputError, match="'z' has one value per fitted row"):
        means(im, frame.rename({"person 3": "nobody"}))


def test_draws_of_another_number_of_rows_are_refused():
    im = ImpactModel(local).set_posterior_sample({"a": np.zeros(2), "z": np.zeros((2, ROWS))})
    with pytest.raises(InputError, match=rf"draw of 'z' has shape \({ROWS},\), but here .* \(5,\)"):
        means(im, np.ones((5, 1)))
