"""Ranks of truths among draws: uniform where posteriors are right, and else not."""

import warnings

import arviz_plots
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import NUTS
from scipy.stats import kstest

from aimz import InputError
from aimz.diagnostics import sbc
from aimz.inference import Fit

X = np.zeros((8, 1), np.float32)


def kernel(X, y=None):
    mean = numpyro.sample("mean", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean + X[:, 0], 2.0), obs=y)


class Conjugate:
    """The posterior in closed form, with an sd and a mean that are wrong by as much as is said."""

    name = "conjugate"

    def __init__(self, wide=1.0, shift=0.0):
        self.wide, self.shift = wide, shift
        self.rng = np.random.default_rng(0)

    def fit(self, rng_key, problem, settings, *, state=None):
        del rng_key, state
        y = np.asarray(problem.inputs.arrays["y"])
        sd = (1.0 + len(y) / 4.0) ** -0.5
        noise = self.rng.normal(size=(1, settings.num_samples))
        draws = sd**2 * y.sum() / 4.0 + sd * (self.shift + self.wide * noise)
        verdict = "good" if self.wide == 1.0 else "bad: k-hat"
        return Fit({"mean": draws.astype(np.float32)}, attrs={"verdict": verdict, "engine": "told"})

    def draw(self, rng_key, problem, fit, num_samples):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("wide", "shift", "at_ends"),
    [(1.0, 0.0, 0.2), (0.4, 0.0, 0.6), (2.5, 0.0, 0.0), (1.0, 1.0, 0.4)],
)
def test_ranks_are_uniform_where_the_posterior_is_right(wide, shift, at_ends):
    engine = Conjugate(wide, shift)
    ranks = sbc(kernel, X, engine=engine, repeats=120, num_samples=99, progress=False)
    values = np.asarray(ranks["prior_sbc"]["mean"])
    assert values.shape == (1, 120)
    assert (kstest(values[0], "uniform").pvalue > 1e-3) == (wide == 1.0 and shift == 0.0)
    assert abs(np.mean(np.abs(values - 0.5) > 0.4) - at_ends) < 0.13
    assert ranks["prior_sbc"].attrs["bad_fits"] == (0 if wide == 1.0 else 120)


@pytest.mark.slow
def test_ranks_of_whole_numbers_are_uniform_too():
    def counts(X, y=None):
        rate = numpyro.sample("rate", dist.DiscreteUniform(0, 2))
        numpyro.sample("y", dist.Normal(0.0 * rate + X[:, 0], 1.0), obs=y)

    class Prior:
        name = "prior"

        def fit(self, rng_key, problem, settings, *, state=None):
            draws = np.random.default_rng(int(np.sum(problem.inputs.arrays["y"]) * 1e6) % 2**32)
            return Fit({"rate": draws.integers(0, 3, size=(1, 100)).astype(np.int32)})

        def draw(self, rng_key, problem, fit, num_samples):
            raise NotImplementedError

    ranks = sbc(counts, X, engine=Prior(), repeats=100, progress=False)
    assert kstest(ranks["prior_sbc"]["rate"].values[0], "uniform").pvalue > 1e-3


def test_the_same_key_gives_the_same_ranks_and_arviz_draws_them():
    first, again = (
        sbc(kernel, X, engine=Conjugate(), repeats=5, num_samples=50, progress=False)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first["prior_sbc"]["mean"], again["prior_sbc"]["mean"])
    arviz_plots.plot_ecdf_pit(first, backend="none")


def test_another_outcome_is_refused():
    def two(X, t=None, y=None):
        mean = numpyro.sample("mean", dist.Normal())
        numpyro.sample("t", dist.Normal(mean + X[:, 0], 1.0), obs=t)
        numpyro.sample("y", dist.Normal(mean + X[:, 0], 1.0), obs=y)

    with pytest.raises(InputError, match="also observes 't'") as refused:
        sbc(two, X, engine=Conjugate(), t=np.zeros(8), repeats=2, progress=False)
    assert refused.value.code == "sbc"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ranks_are_as_those_of_simuk():
    import simuk
    from scipy.stats import ks_2samp

    ours = sbc(kernel, X, engine="nuts", repeats=30, num_samples=250, progress=False)
    theirs = simuk.SBC(
        NUTS(kernel),
        num_simulations=30,
        sample_kwargs={"num_warmup": 300, "num_samples": 300, "progress_bar": False},
        data_dir={"X": X, "y": np.zeros(8, np.float32)},
        seed=1,
    )
    theirs.run_simulations()
    ranked = np.ravel(theirs.simulations["prior_sbc"]["mean"])
    assert (
        ks_2samp(ours["prior_sbc"]["mean"].values[0], ranked / max(1.0, ranked.max())).pvalue > 1e-3
    )


@pytest.mark.slow
def test_the_default_fit_of_a_regression_is_calibrated():
    def regression(X, y=None):
        b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 0.5))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(X @ b, sigma), obs=y)

    rows = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranks = sbc(regression, rows, engine="svi", repeats=100, progress=False)["prior_sbc"]
    for values in (
        ranks["b"].values[0, :, 0],
        ranks["b"].values[0, :, 1],
        ranks["sigma"].values[0],
    ):
        assert kstest(values, "uniform").pvalue > 1e-3
