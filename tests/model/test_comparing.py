"""Models side by side: evidence against closed forms, rows left out as ArviZ has them."""

import warnings
from dataclasses import replace
from typing import Any

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import aimz
from aimz import ImpactModel, InputError, OutputWarning
from aimz.inference import SMC, NestedSampling
from tests.support.engines import ByHand

ROWS = 12
X = np.zeros((ROWS, 1), np.float32)
Y = (1.2 + np.random.default_rng(2).normal(size=ROWS)).astype(np.float32)


def with_spread(spread):
    def kernel(X, y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, spread))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    return kernel


def log_evidence(spread):
    cov = np.eye(ROWS) + spread**2
    return stats.multivariate_normal(np.zeros(ROWS), cov).logpdf(Y)


@pytest.fixture(scope="module")
def models():
    # A spread that the posterior does not feel is one that the evidence pays for.
    smc = SMC(particles=400, mutations=6)
    return {
        name: ImpactModel(with_spread(spread), inference=smc, rng_key=0).fit(X, Y, progress=False)
        for name, spread in (("narrow", 0.5), ("wide", 50.0))
    }


@pytest.mark.slow
def test_the_evidence_of_each_and_their_bayes_factor(models):
    table = aimz.compare(models)
    assert list(table.index) == ["narrow", "wide"]
    for name, spread in (("narrow", 0.5), ("wide", 50.0)):
        assert table.loc[name, "log_evidence"] == pytest.approx(log_evidence(spread), abs=0.25)
        assert models[name].log_evidence_ == table.loc[name, "log_evidence"]
    factor = log_evidence(50.0) - log_evidence(0.5)
    assert table.loc["wide", "log_bayes_factor"] == pytest.approx(factor, abs=0.3)
    odds = np.exp(table["log_bayes_factor"])
    np.testing.assert_allclose(table["probability"], odds / odds.sum())


@pytest.mark.slow
def test_rows_left_out_are_compared_as_arviz_does(models):
    with pytest.warns(OutputWarning, match="'narrow', and rows left out prefer 'wide'") as said:
        table = aimz.compare(models, X, Y, progress=False)
    assert {w.filename for w in said} == {__file__}
    records = {name: model.loo(X, Y, progress=False) for name, model in models.items()}
    oracle = az.compare(records, round_to="none").loc[table.index]
    np.testing.assert_allclose(table["weight"], oracle["weight"])
    np.testing.assert_allclose(table["elpd_diff"], oracle["elpd_diff"])


def test_what_cannot_be_compared_is_refused():
    model, other = (
        ImpactModel(with_spread(0.5), inference=ByHand(mean=np.zeros(9))).fit(X, y, progress=False)
        for y in (Y, Y + 1.0)
    )
    cases: list[tuple[Any, str]] = [
        ({"a": model}, "two or more"),
        ([model, model], "two or more"),
        ({"a": model, "b": "c"}, "not an ImpactModel"),
        ({"a": model, "b": other}, "other outcomes"),
        ({"a": other, "b": other}, "None of the models"),
    ]
    for given, message in cases:
        with pytest.raises(InputError, match=message):
            aimz.compare(given)
    with pytest.raises(AttributeError, match="no evidence"):
        _ = other.log_evidence_


SPIKE, BROAD, DIM = 0.015, 0.5, 8


def bump(size):
    """Log of the integral of exp(-x'x / 2 size^2) over the prior."""
    return 0.5 * DIM * np.log(size**2 / (1.0 + size**2))


HEIGHT = bump(BROAD) - bump(SPIKE) + np.log(9.0)  # the spike holds nine tenths of the evidence


def spike(X, y=None):
    x = numpyro.sample("x", dist.Normal().expand([DIM]).to_event(1))
    squared = jnp.sum(x**2)
    broad, narrow = -squared / (2 * BROAD**2), HEIGHT - squared / (2 * SPIKE**2)
    numpyro.factor("spike", jnp.logaddexp(broad, narrow))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(), obs=y)


@pytest.mark.slow
def test_a_spike_that_tempering_passes_by_is_found_by_nested_sampling_and_said():
    engines = {"smc": SMC(), "nested": NestedSampling()}
    fitted = {
        name: ImpactModel(spike, inference=engine, rng_key=0).fit(X[:1], Y[:1], progress=False)
        for name, engine in engines.items()
    }
    truth = bump(BROAD) + np.log(10.0) + stats.norm.logpdf(Y[0])
    found = fitted["nested"].diagnostics_
    assert found["log_evidence"] == pytest.approx(truth, abs=3 * found["log_evidence_se"])
    assert found["log_evidence_se"] < 0.25
    assert fitted["smc"].log_evidence_ == pytest.approx(truth - np.log(10.0), abs=0.2)
    with pytest.warns(OutputWarning, match="the same kernel and data"):
        aimz.compare(fitted)


def by_hand(kernel, **attrs):
    """A model with some attributes of a fit, and no fit behind them."""
    model = ImpactModel(kernel, inference="laplace", rng_key=0).fit(X, Y, progress=False)
    fitted = model._fitted
    assert fitted is not None
    fit = replace(fitted.fit, attrs={**fitted.fit.attrs, **attrs})
    model._fitted = replace(fitted, fit=fit)
    return model


@pytest.mark.slow
def test_what_is_not_known_of_an_evidence_is_said():
    kernel = with_spread(0.5)
    known = {"log_evidence": -20.0, "log_evidence_se": 0.1, "verdict": "good"}
    sick = {"log_evidence": -15.0, "verdict": "bad: r-hat"}
    good = by_hand(kernel, **known)
    cases = [
        (by_hand(kernel, log_evidence=-21.0), "'other' is not known"),
        (by_hand(with_spread(2.0), **known | sick), "is bad"),
        (by_hand(kernel, **known | {"log_evidence": -22.0}), "the same kernel and data"),
    ]
    for other, words in cases:
        with pytest.warns(OutputWarning, match=words):
            aimz.compare({"good": good, "other": other})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aimz.compare({"good": good, "other": by_hand(kernel, **known | {"log_evidence": -20.4})})
        elsewhere = by_hand(with_spread(2.0), **known | {"log_evidence": -25.0})
        aimz.compare({"good": good, "other": elsewhere})
