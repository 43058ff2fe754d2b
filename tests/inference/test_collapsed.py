"""Latents that are integrated out: against the dense normal law of the outcomes."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import stats
from scipy.linalg import block_diag

from aimz import ImpactModel, InputError
from aimz.inference import collapsed
from aimz.kernels import DifferenceInDifferences, Flexible, Hierarchical, Linear
from aimz.kernels.standard import observed
from aimz.programs import version_of

ROWS = 24
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 2))
X = (X - X.mean(0)) / X.std(0)
T = (np.arange(ROWS) % 2).astype(float)
GROUP = np.arange(ROWS) % 3
Y = X[:, 0] + 0.5 * T + 0.3 * RNG.normal(size=ROWS)
Y = (Y - Y.mean()) / Y.std()  # a fit would do so
GAPS = np.where(np.arange(ROWS) == 5, np.nan, Y)
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "linear": (Linear(treatment="t"), {"t": T}),
    "hierarchical": (Hierarchical(groups=3, treatment="t"), {"t": T, "group": GROUP}),
    "flexible": (Flexible(waves=4), {"t": T}),
    "a panel": (
        DifferenceInDifferences(units=3, times=8),
        {"treated": T, "unit": GROUP, "time": np.arange(ROWS) // 3},
    ),
}


def split_of(kernel: Any, y: np.ndarray, weights: Any, named: dict[str, Any]) -> Any:
    """The posterior of a kernel on data, with what of it is integrated out."""
    held = []
    fit = collapsed._Split

    class Looked(fit):  # type: ignore[misc, valid-type]
        """The same, seen."""

        def __init__(self, posterior: Any) -> None:
            super().__init__(posterior)
            held.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collapsed, "_Split", Looked)
        patch.setattr(collapsed, "_found", lambda *_: None)
        im = ImpactModel(kernel, inference=_Only())
        im.fit(X, y, sample_weight=weights, missing="mask", progress=False, **named)
    return held[0]


class _Only:
    """An engine that looks, and draws the prior."""

    name = "only"

    def fit(self, rng_key: Any, problem: Any, settings: Any, *, state: Any = None) -> Any:
        """Look."""
        from aimz.inference import Fit

        assert collapsed.collapsed_fit(rng_key, problem, settings) is None
        draws = {n: np.ones((1, 2, *problem.spec[n].shape)) for n in problem.spec.latents}
        return Fit(draws, attrs={"verdict": "good"})

    def draw(self, rng_key: Any, problem: Any, fit: Any, num_samples: int) -> Any:
        """Nothing more."""
        raise NotImplementedError


def dense(
    kernel: Any, few: dict[str, Any], y: np.ndarray, weights: np.ndarray, named: dict[str, Any]
) -> float:
    """Log density of the outcomes by their covariance, and of the few on unconstrained scales."""
    total, columns, covers = 0.0, [], []

    def trace(values: dict[str, Any]) -> Any:
        with jax.enable_x64(True):
            values = jax.tree.map(jnp.asarray, values)
            fixed = handlers.substitute(handlers.seed(kernel, 0), data=values)
            return handlers.trace(fixed).get_trace(X, **named)

    sites = trace(few)
    zeros = {n: 0.0 * np.asarray(sites[n]["value"]) for n in kernel.summed if n in sites}
    for name, value in few.items():
        total += float(sites[name]["fn"].log_prob(value)) + np.log(value)
    for name, zero in zeros.items():
        law = sites[name]["fn"]
        for place in np.ndindex(zero.shape):
            one = np.zeros(zero.shape)
            one[place] = 1.0
            columns.append(trace(few | zeros | {name: one})["y"]["fn"].loc)
        size = zero.size
        if isinstance(law, dist.ZeroSumNormal):
            covers.append(9.0 * (np.eye(size) - 1.0 / size))
        else:
            covers.append(np.diag(np.ravel(np.asarray(law.variance) * np.ones(zero.shape))))
    law = trace(few | zeros)["y"]["fn"]
    offset, noise = np.asarray(law.loc), np.ravel(law.scale)[0]
    design = np.stack(columns, axis=1) - offset[:, None]
    there = np.isfinite(y)
    cover = design @ block_diag(*covers) @ design.T + np.diag(noise**2 / weights)
    law = stats.multivariate_normal(offset[there], cover[np.ix_(there, there)])
    # A normal density to a power is another one, and a factor.
    powers = (1 - weights) * np.log(2 * np.pi * noise**2) - np.log(weights)
    return total + float(law.logpdf(y[there]) + 0.5 * powers[there].sum())


@pytest.mark.parametrize(
    "name",
    [
        "linear",
        pytest.param("flexible", marks=pytest.mark.slow),
        pytest.param("hierarchical", marks=pytest.mark.slow),
        pytest.param("a panel", marks=pytest.mark.slow),
    ],
)
def test_the_integral_is_the_dense_density(name):
    kernel, named = KERNELS[name]
    y = GAPS if name in ("linear", "a panel") else Y
    weights = np.where(np.arange(ROWS) % 3 == 0, 2.0, 0.7) if name == "linear" else np.ones(ROWS)
    split = split_of(kernel, y, weights, named)
    kernel = kernel.settled(X, y, named)
    names = [split.posterior.names[place] for place in split.few]
    points = np.random.default_rng(1).normal(-1.0, 0.7, (3, len(names)))
    logs, _, error = split.completed(points, RNG.normal(size=(3, len(split.many))))
    fews = [dict(zip(names, map(np.asarray, at))) for at in np.exp(points)]
    wants = [dense(kernel, few, y, weights, named) for few in fews]
    np.testing.assert_allclose(logs, wants, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(error, 0.0, atol=1e-8)


@dataclass(frozen=True, kw_only=True)
class Bent(Linear):
    """A subclass that is no sum of its latents."""

    def __call__(self, X: jax.Array, y: Any = None, **named: jax.Array) -> None:
        del named
        slope = numpyro.sample("slope", dist.Normal().expand([2]).to_event(1))
        observed(self, (X @ slope) ** 2, y)


def test_what_is_no_sum_is_left_to_other_engines():
    ImpactModel(Bent(), inference=_Only()).fit(X, Y**2, progress=False)


@pytest.fixture(scope="module")
def fitted():
    return ImpactModel("linear", treatment="t", rng_key=0).fit(X, Y, t=T, progress=False)


def test_the_draws_are_the_posterior(fitted):
    """The noise by quadrature, the slopes given it in closed form."""
    design = np.column_stack([np.ones(ROWS), X, T])
    prior = np.diag([1 / 9, 0.25, 0.25, 0.25])
    grid = np.linspace(0.05, 1.5, 4000)
    logs, means, covers = [], [], []
    for noise in grid:
        law = stats.multivariate_normal(
            np.zeros(ROWS), design @ np.linalg.inv(prior) @ design.T + noise**2 * np.eye(ROWS)
        )
        logs.append(law.logpdf(Y) - noise**2 / 2)
        cover = np.linalg.inv(design.T @ design / noise**2 + prior)
        means.append(cover @ design.T @ Y / noise**2)
        covers.append(np.diag(cover))
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    mean = weights @ np.array(means)
    sd = np.sqrt(weights @ np.array(covers) + weights @ (np.array(means) - mean) ** 2)
    posterior = fitted.posterior
    got = np.column_stack([posterior[name] for name in ("base", "slope", "effect")])
    assert fitted.diagnostics_["engine"] == "collapsed"
    np.testing.assert_allclose(got.mean(0), mean, atol=0.15 * sd.min())
    np.testing.assert_allclose(got.std(0), sd, rtol=0.1)
    assert posterior["noise"].mean() == pytest.approx(weights @ grid, rel=0.02)
    assert posterior["noise"].std() == pytest.approx(
        np.sqrt(weights @ grid**2 - (weights @ grid) ** 2), rel=0.1
    )


def test_a_place_that_leaves_the_tails_to_few_points_is_moved(fitted, monkeypatch):
    """It was found by few points: where weights say that it is bad, it is found by many."""
    found: Any = collapsed._found

    def narrow(*asked: Any) -> Any:
        loc, root = found(*asked)
        return loc + root.sum(axis=1), 0.2 * root

    monkeypatch.setattr(collapsed, "_found", narrow)
    monkeypatch.setattr(collapsed, "_MOVES", 6)
    moved = ImpactModel("linear", treatment="t", rng_key=0).fit(X, Y, t=T, progress=False)
    assert moved.diagnostics_["engine"] == "collapsed"
    assert moved.diagnostics_["k_hat"] <= 0.7
    for name in ("noise", "effect"):
        got, want = moved.posterior[name], fitted.posterior[name]
        assert abs(got.mean() - want.mean()) < 0.15 * want.std()
        assert got.std() == pytest.approx(float(want.std()), rel=0.1)


def test_more_draws_are_others_of_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.posterior["slope"], fitted.posterior["slope"])
    before = fitted.posterior["slope"]
    after = fitted.sample(num_samples=1000).posterior["slope"].values[0]
    assert not np.intersect1d(before[:, 0], after[:, 0]).size
    np.testing.assert_allclose(after.mean(0), before.mean(0), atol=0.03)
    again = ImpactModel("linear", treatment="t", rng_key=0).fit(X, Y, t=T, progress=False)
    np.testing.assert_array_equal(again.posterior["slope"], before)
    assert np.isneginf(again.reweighted().diagnostics_["k_hat"])


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda im: im.train_on_batch(X, Y, t=T), "no-steps"),
        (lambda im: im.vi_result, "vi-result"),
        (lambda im: im.inference_, "no-object"),
    ],
    ids=["step", "vi_result", "object"],
)
def test_there_is_no_guide(fitted, call, code):
    with pytest.raises(InputError) as caught:
        call(fitted)
    assert caught.value.code == code


def test_every_setting_is_in_the_name_of_what_is_kept():
    plain: dict[str, Any] = {"center": (0.0,), "scale": (1.0,)}
    one = version_of(Flexible(**plain))
    assert one == version_of(Flexible(**plain))
    others: list[dict[str, Any]] = [{"waves": 41}, {"treatment": "w"}, {"propensity": "e"}]
    others += [{"family": "poisson"}, {"loc": 1e-9}, {"unit": 2.0}, {"center": (1e-9,)}]
    for other in (*others, {"scale": (1.1,)}):
        assert version_of(Flexible(**{**plain, **other})) != one
    assert version_of(Linear(prior_scale=1.0)) != version_of(Linear())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flexible, "__call__", lambda self, X, y=None: None)
        assert version_of(Flexible(**plain)) != one
