"""Curves of few functions against the Gaussian processes that they stand for."""

from typing import Any

import jax
import numpy as np
import pytest
from numpyro import handlers
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from aimz import ImpactModel, InputError
from aimz.kernels import HSGP

RNG = np.random.default_rng(0)
X = RNG.uniform(-2.0, 2.0, size=(60, 2)).astype(np.float32)
LENGTH, SIZE, NOISE = 0.8, 1.5, 0.3
FIXED: dict[str, Any] = {"base": 0.0, "slope": np.zeros(2, np.float32), "noise": NOISE}
FIXED |= {"length": LENGTH, "size": SIZE}
KERNEL = HSGP(bounds=(4.0, 4.0), functions=36)


def mean_of(curve: jax.Array, rows: np.ndarray) -> Any:
    fixed = handlers.substitute(handlers.seed(KERNEL, 0), {**FIXED, "curve": curve})
    return handlers.trace(fixed).get_trace(rows)["y"]["fn"].loc


def design(rows: np.ndarray) -> Any:
    """How the mean follows from coefficients in units of their spread: (row, coefficient)."""
    start = np.zeros((2, 36), np.float32)
    along = np.asarray(jax.jacobian(mean_of)(start, rows), np.float64)
    fixed = handlers.trace(handlers.substitute(handlers.seed(KERNEL, 0), FIXED)).get_trace(rows)
    return (along * fixed["curve"]["fn"].base_dist.scale).reshape(len(rows), -1)


def test_the_mean_of_other_families_has_the_same_curves():
    logits = HSGP(bounds=KERNEL.bounds, functions=36, family="bernoulli")
    whole = handlers.substitute(handlers.seed(logits, 0), {**FIXED, "curve": np.ones((2, 36))})
    mean = handlers.trace(whole).get_trace(X)["y"]["fn"].logits
    np.testing.assert_allclose(mean, design(X).sum(1), atol=1e-4)


def squared_exponential(one: np.ndarray, other: np.ndarray) -> Any:
    gaps = (one[:, None] - other[None]).astype(float)
    return SIZE**2 * np.exp(-0.5 * (gaps / LENGTH) ** 2).sum(-1)


def test_curves_vary_as_gaussian_processes():
    along = design(X)
    np.testing.assert_allclose(along @ along.T, squared_exponential(X, X), atol=2e-3)


def test_curves_given_data_are_those_of_a_dense_gaussian_process():
    one = X[:, :1]
    y = np.sin(2.0 * one[:, 0]) + NOISE * RNG.normal(size=len(one))
    dense = GaussianProcessRegressor(
        ConstantKernel(SIZE**2) * RBF(LENGTH), alpha=NOISE**2, optimizer=None
    ).fit(one, y)
    new = np.linspace(-2.0, 2.0, 9)[:, None]
    mean, sd = dense.predict(new, return_std=True)
    pair = [design(np.column_stack([a, 0.0 * a]).astype(np.float32))[:, :36] for a in (one, new)]
    cover = np.linalg.inv(pair[0].T @ pair[0] / NOISE**2 + np.eye(36))
    np.testing.assert_allclose(pair[1] @ cover @ pair[0].T @ y / NOISE**2, mean, atol=5e-3)
    got = np.sqrt(np.einsum("rk,kl,rl->r", pair[1], cover, pair[1]))
    np.testing.assert_allclose(got, sd, atol=5e-3)


def test_beyond_the_bounds_nothing_is_known():
    draws: Any = {name: np.broadcast_to(v, (30, *np.shape(v))) for name, v in FIXED.items()}
    draws["curve"] = RNG.normal(size=(30, 2, 36))
    im = ImpactModel(KERNEL).set_posterior_sample(draws)
    rows = np.array([[0.0, 0.0], [3.9, 0.0]])
    assert np.isfinite(im.predict_on_batch(rows, return_datatree=False)["y"]).all()
    with pytest.raises(InputError, match="in row 1") as caught:
        im.predict_on_batch(rows + np.array([[0.0, 0.0], [0.2, 0.0]]), return_datatree=False)
    assert caught.value.code == "parameters"


def test_a_fit_sets_bounds_around_its_rows():
    settled = HSGP().settled(X, X[:, 0], {})
    largest = np.abs((X - settled.center) / np.array(settled.scale)).max(0)
    np.testing.assert_allclose(settled.bounds, 1.5 * largest, rtol=1e-5)
    assert settled.settled(2.0 * X, X[:, 0], {}) == settled


@pytest.mark.parametrize("functions", [0, 2.5, "many"])
def test_a_number_of_functions_that_is_none_is_refused(functions):
    with pytest.raises(InputError) as caught:
        HSGP(functions=functions)
    assert caught.value.code == "option-unknown"


def test_bounds_of_other_columns_are_refused():
    with pytest.raises(InputError, match="bounds=") as caught:
        handlers.seed(HSGP(bounds=(1.0,)), 0)(X)
    assert caught.value.code == "shape"


@pytest.mark.slow
def test_a_curve_and_an_effect_are_found():
    rng = np.random.default_rng(1)
    rows = rng.uniform(-2.0, 2.0, size=(300, 2))
    t = (rng.random(300) < 1 / (1 + np.exp(-2.0 * np.sin(2.0 * rows[:, 0])))).astype(float)
    curve = 2.0 * np.sin(2.0 * rows[:, 0])
    y = 10.0 + curve + rows[:, 1] + 1.5 * t + 0.5 * rng.normal(size=300)
    im = ImpactModel("hsgp", treatment="t").fit(rows, y, t=t, progress=False)
    assert im.diagnostics_["engine"] == "collapsed"
    draws = im.effect(rows, {"t": 0.0}, {"t": 1.0}, t=t, progress=False).draws
    assert abs(float(draws.mean()) - 1.5) < 3 * float(draws.std()) < 0.5
    drawn = np.asarray(im.predict_on_batch(rows, t=t, return_datatree=False)["y"])
    off = drawn.reshape(-1, 300).mean(0) - (10.0 + curve + rows[:, 1] + 1.5 * t)
    assert np.sqrt(np.mean(off**2)) < 0.25
