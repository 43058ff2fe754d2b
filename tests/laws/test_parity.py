"""Tiles change nothing: every kernel of the table against NumPyro on the whole data."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import Predictive
from numpyro.infer import log_likelihood as numpyro_log_likelihood

from aimz import ImpactModel, PerformanceWarning
from aimz.execution import plan
from tests.support.row_kernels import KERNELS, NUM_LITERAL, Kernel
from tests.support.selection import some_fast

DRAWS = 2
TILE = 8


def prior(entry, inputs):
    """Draws of every sample site, and an outcome."""
    draws = Predictive(entry.kernel, num_samples=DRAWS)(jax.random.key(1), **inputs)
    return {name: np.asarray(value) for name, value in draws.items()}


# NumPyro draws its own subsample of rows, or initial parameters, so it cannot say what is right.
# Its log-likelihood gives a kernel no key.
NO_ORACLE = {
    "subsampled_plate",
    "subsample_statement",
    "population_plate",
    "flax_params",
    "noise_of_its_own",
}


@pytest.mark.parametrize("entry", some_fast(KERNELS, 24))
def test_small_tiles_equal_the_whole_data_answer(entry: Kernel, monkeypatch):
    inputs = {k: jnp.asarray(v) for k, v in entry.make_inputs(NUM_LITERAL, 0).items() if k != "y"}
    X = inputs.pop("X")
    draws = prior(entry, {"X": X, **inputs})
    outcome = draws.pop("y", np.zeros((DRAWS, NUM_LITERAL), np.float32))[0]
    if outcome.shape[:1] != X.shape[:1]:
        outcome = np.resize(outcome, (NUM_LITERAL, *outcome.shape[1:]))
    model = ImpactModel(entry.kernel).set_posterior_sample(draws)
    if entry.name in NO_ORACLE:
        expected = answers(model, X, inputs, outcome)
    else:
        expected = Predictive(entry.kernel, draws)(jax.random.key(2), X=X, **inputs)
        density = numpyro_log_likelihood(entry.kernel, draws, X=X, y=outcome, **inputs)
        expected = (expected, density)
    monkeypatch.setattr(plan, "MIN_ROWS", TILE)
    monkeypatch.setattr(plan, "MAX_ROWS", TILE)
    predicted, density = answers(model, X, inputs, outcome)
    for name in predicted:
        got, wanted = predicted[name], expected[0][name]
        assert got.shape == wanted.shape
        if name != "y" or entry.name in NO_ORACLE:
            np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5, err_msg=name)
    for name, value in density.items():
        wanted = np.reshape(expected[1][name], (DRAWS, -1))
        if wanted.size != value.size:  # rows that the kernel masks are left out, not 0
            wanted = wanted[:, wanted.any(axis=0)]
        wanted = wanted.reshape(value.shape)
        np.testing.assert_allclose(value, wanted, rtol=2e-4, atol=2e-4, err_msg=name)


def answers(model, X, inputs, outcome):
    """Predictions and log-likelihood as arrays (draw, ...)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PerformanceWarning)
        warnings.filterwarnings("ignore", message=".*keeps its initial value")
        predicted = model.predict_on_batch(X, rng_key=5, return_datatree=False, **inputs)
        tree = model.log_likelihood(X, outcome, progress=False, **inputs)
    return predicted, {str(n): v.values[0] for n, v in tree.log_likelihood.items()}
