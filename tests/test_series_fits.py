"""Kernels of series fitted end to end: the posterior and what follows from it are NumPyro's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, Predictive, init_to_median, log_likelihood

from aimz import ImpactModel
from tests.series import SERIES, Series, level_given, local_level, made_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:Rows are predicted together",
    "ignore:The posterior has another mode, with about 0% of the evidence",
)

ROWS, LATER, SUBJECTS = 30, 6, 20
#: What the outcome is drawn from.
TRUTH: dict[str, dict[str, Any]] = {
    "autoregression": {"first": 0.6, "second": 0.2, "noise": 0.7},
    "local_level": {},
    "local_trend": {"b": 1.0},
    "hidden_markov": {"means": jnp.array([-1.0, 2.0]), "stay": 0.8},
    "rescorla_wagner": {"center": 0.0, "slope": 3.0},
}
FITS = [series for series in SERIES if series.name in TRUTH]


class Case:
    """Arguments of all steps and of the first of them, with an outcome."""

    def __init__(self, series: Series) -> None:
        self.series = series
        arguments, _ = made_of(series, SUBJECTS if series.by_subject else ROWS + LATER)
        if series.by_subject:
            more = np.random.default_rng(5).integers(0, 2, size=(SUBJECTS, ROWS // 2 + LATER))
            arguments["reward"] = more.astype(np.float32)
        self.whole = {name: jnp.asarray(value) for name, value in arguments.items()}
        true = handlers.substitute(series.kernel, TRUTH[series.name])
        drawn = handlers.trace(handlers.seed(true, 3)).get_trace(**self.whole)["y"]["value"]
        self.by_step = np.asarray(drawn)[:-LATER]
        self.y = self.by_step.T
        self.first: dict[str, Any] = dict(self.whole)
        for name in ("reward",) if series.by_subject else ("X",):
            value = self.whole[name]
            self.first[name] = value[:, :-LATER] if series.by_subject else value[:-LATER]

    def fit(self, inference: str | None) -> ImpactModel:
        chosen: Any = {} if inference is None else {"inference": inference}
        im = ImpactModel(self.series.kernel, num_samples=2000, **chosen)
        return im.fit(**self.first, y=self.y, progress=False)

    def by_numpyro(self) -> dict[str, np.ndarray]:
        sampler = NUTS(self.series.kernel, target_accept_prob=0.95, init_strategy=init_to_median())
        chains = MCMC(
            sampler,
            num_warmup=1000,
            num_samples=2000,
            num_chains=4,
            chain_method="vectorized",
            progress_bar=False,
        )
        chains.run(jax.random.key(11), **self.first, y=jnp.asarray(self.y))
        draws = chains.get_samples()
        return {name: np.asarray(draws[name], float) for name in self.series.latents}


def of_outcome(im: ImpactModel, arguments: dict[str, Any], **options: Any) -> np.ndarray:
    drawn = im.predict_on_batch(**arguments, return_sites="y", return_datatree=False, **options)
    return np.asarray(drawn["y"], float)


def have_the_moments(got: np.ndarray, want: np.ndarray) -> None:
    """Draws of the same posterior differ by chance only."""
    spread = np.sqrt(0.5 * (got.var(0) + want.var(0)))
    error = spread * np.sqrt(1 / len(got) + 1 / len(want))
    assert np.abs((got.mean(0) - want.mean(0)) / (error + 1e-6)).max() < 4.5
    np.testing.assert_allclose(got.std(0), want.std(0), rtol=0.12, atol=1e-3)


def by_numpyro(case: Case, im: ImpactModel, arguments: Any, held: Any, seed: int) -> np.ndarray:
    """NumPyro's draws of the outcome from the fitted posterior, some sites held."""
    draws = {name: jnp.asarray(im.posterior[name]) for name in case.series.latents}
    kernel = handlers.condition(case.series.kernel, held)
    drawn = Predictive(kernel, posterior_samples=draws, return_sites=["y"])
    return np.asarray(drawn(jax.random.key(seed), **arguments)["y"], float)


def are_those_of_numpyro(im: ImpactModel, want: dict[str, np.ndarray]) -> None:
    for name, draws in want.items():
        got, spread = np.asarray(im.posterior[name], float), draws.std(0)
        assert np.abs((got.mean(0) - draws.mean(0)) / spread).max() < 0.15, name
        np.testing.assert_allclose(got.std(0), spread, rtol=0.2, err_msg=name)


def is_set_inside(im: ImpactModel, case: Case) -> None:
    """What is set in each step decides the outcome's mean there."""
    name, mean_of = SET[case.series.name]
    path = np.random.default_rng(6).normal(size=case.by_step.shape)
    got = of_outcome(im, case.first, intervention={name: path})
    want = mean_of(path, im.posterior, np.asarray(case.first["X"])[:, 0])
    error = got.std(0) / np.sqrt(len(got))
    assert np.abs((got.mean(0) - want) / error).max() < 4.5


#: A site that is set inside of the scan, and the mean of the outcome that follows.
SET: dict[str, tuple[str, Any]] = {
    "autoregression": ("mean", lambda path, draws, x: path),
    "local_level": ("level", lambda path, draws, x: path),
    "local_trend": ("level", lambda path, draws, x: path + draws["b"].mean() * x),
    "rescorla_wagner": ("pull", lambda path, draws, x: 1 / (1 + np.exp(-path))),
}


@pytest.mark.slow
@pytest.mark.parametrize("series", FITS, ids=lambda series: series.name)
def test_a_series_is_fitted_and_asked_like_any_other_kernel(series):
    case = Case(series)
    want = case.by_numpyro()
    for inference in (None, "nuts"):
        im = case.fit(inference)
        are_those_of_numpyro(im, want)
    # In sample: replicated outcomes.
    have_the_moments(of_outcome(im, case.first), by_numpyro(case, im, case.first, {}, 1))
    # Scored.
    draws = {name: jnp.asarray(im.posterior[name]) for name in series.latents}
    densities = log_likelihood(series.kernel, draws, **case.first, y=jnp.asarray(case.y))["y"]
    got: Any = im.log_likelihood(**case.first, y=case.y, store="memory", progress=False)
    flat = got.log_likelihood["y"].values.reshape(densities.shape)
    np.testing.assert_allclose(flat, densities, rtol=1e-4, atol=1e-4)
    # Forecast from what is known.
    known = {"y": jnp.asarray(case.by_step)}
    ahead = of_outcome(im, case.whole, condition={"y": case.by_step})
    np.testing.assert_array_equal(ahead[0, : len(case.by_step)], case.by_step)
    have_the_moments(ahead, by_numpyro(case, im, case.whole, known, 2))
    if series.name in SET:
        is_set_inside(im, case)


def test_a_level_is_that_of_the_dense_normal():
    case = Case(next(series for series in FITS if series.name == "local_level"))
    im = ImpactModel(local_level, num_samples=2000)
    im.fit_on_batch(**case.first, y=case.y, num_steps=1000, progress=False)
    mean, covariance = level_given(case.y, ROWS)
    spread = np.sqrt(np.diag(covariance))
    levels = im.posterior["level"]
    assert np.abs((levels.mean(0) - mean) / spread).max() < 0.15
    np.testing.assert_allclose(levels.std(0), spread, rtol=0.15)
