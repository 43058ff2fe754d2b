"""Models side by side: evidence against closed forms, rows left out as ArviZ has them."""

from typing import Any

import arviz as az
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import aimz
from aimz import ImpactModel, InputError, OutputWarning
from aimz.inference import SMC

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


def test_rows_left_out_are_compared_as_arviz_does(models):
    with pytest.warns(OutputWarning, match="'narrow', and rows left out prefer 'wide'") as said:
        table = aimz.compare(models, X, Y, progress=False)
    assert {w.filename for w in said} == {__file__}
    records = {name: model.loo(X, Y, progress=False) for name, model in models.items()}
    oracle = az.compare(records, round_to="none").loc[table.index]
    np.testing.assert_allclose(table["weight"], oracle["weight"])
    np.testing.assert_allclose(table["elpd_diff"], oracle["elpd_diff"])


def test_what_cannot_be_compared_is_refused(models):
    other = ImpactModel(with_spread(0.5), rng_key=0).fit(X, Y + 1.0, progress=False)
    model = models["narrow"]
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
