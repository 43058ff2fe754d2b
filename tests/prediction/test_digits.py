"""Outcomes that are one large number, whose digits 32 bits would round away."""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats as st

from aimz import ImpactModel, InputError
from aimz.prediction import problem_of

BASE = 2.0**24
NUMBER = BASE + 0.3  # is BASE in 32 bits
B = np.linspace(-0.5, 1.0, 200)


def kernel(X, base, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(base + b, 1.0), obs=y)


def pairs(X, base, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(base + b, 1.0).expand([2]).to_event(1), obs=y)


OUTCOMES: dict[str, Any] = {
    "one row": [NUMBER],
    "equal rows": [NUMBER] * 3,
    "some missing": [NUMBER, np.nan, NUMBER],
    "whole": [BASE + 1.0] * 2,
    "whole numbers": np.array([2**24 + 1, 2**24 + 1]),
    "a Series": pd.Series([NUMBER, NUMBER], index=["b", "a"]),
    "objects": np.array([NUMBER, NUMBER], object),
}


@pytest.fixture(scope="module")
def model():
    return ImpactModel(kernel).set_posterior_sample({"b": B})


def rows_of(y):
    index = y.index if isinstance(y, pd.Series) else None
    return pd.DataFrame({"x": np.zeros(len(y))}, index=index)


@pytest.mark.parametrize("y", OUTCOMES.values(), ids=OUTCOMES.keys())
def test_densities_have_the_digits_that_were_given(model, y):
    asked: Any = {"base": BASE, "missing": "mask"}
    tree = model.log_likelihood(rows_of(y), y, progress=False, **asked)
    numbers = np.asarray(y, float)
    truth = st.norm(BASE + B[:, None], 1.0).logpdf(numbers[~np.isnan(numbers)])
    found = tree["log_likelihood"]["y"].values[0]
    np.testing.assert_allclose(found, truth, atol=1e-6)
    score = np.log(np.exp(truth).mean(axis=0)).mean()
    assert abs(model.score(rows_of(y), y, **asked) - score) < 1e-6


def test_leaving_out_is_the_same_wherever_zero_is(model):
    y = np.array([0.25, 0.25])
    near, far = (model.loo(rows_of(y), base + y, base=base).elpd for base in (0.0, BASE))
    assert abs(near - far) < 1e-5


def test_each_column_has_its_own_digits():
    im = ImpactModel(pairs).set_posterior_sample({"b": B})
    y = np.array([[NUMBER, 7.0], [NUMBER, 1.0], [NUMBER, 2.0]])
    found = im.log_likelihood(rows_of(y), y, base=np.array([BASE, 0.0]), progress=False)
    truth = st.norm([BASE, 0.0] + B[:, None, None], 1.0).logpdf(y).sum(axis=-1)
    np.testing.assert_allclose(found["log_likelihood"]["y"].values[0], truth, rtol=1e-6)


@pytest.mark.parametrize(
    ("y", "is_refused"),
    [
        ([NUMBER], True),
        ([NUMBER, np.nan, NUMBER], True),
        ([[NUMBER, 7.0], [NUMBER, 1.0]], True),
        ([BASE, BASE], False),
        ([BASE / 64 + 0.25] * 2, False),
        ([0.3, 0.3], False),
        ([NUMBER, 2 * BASE], False),
        ([[BASE, NUMBER]], False),  # one row of several numbers
        (np.full(2, NUMBER, np.float32), False),  # nothing is lost here
    ],
)
def test_a_fit_refuses_one_number_that_it_would_round(y, is_refused):
    y = np.asarray(y)
    arguments = {"X": np.zeros((len(y), 1)), "base": BASE, "y": y}
    given: Any = (pairs if y.ndim > 1 else kernel, ("X", "y"), arguments, None, "mask")
    if not is_refused:
        problem_of(*given)
        return
    with pytest.raises(InputError, match="which 32 bits round to 16777216") as caught:
        problem_of(*given)
    assert caught.value.code == "cast-precision"
