"""Integers that number categories are no quantities where rows are judged by their place."""

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, OutputWarning
from aimz.overlap.columns import ColumnTable

SUBJECTS, EACH = 59, 6


def by_argument(X, subject, t, y=None):
    level = numpyro.sample("level", dist.Normal().expand([SUBJECTS]).to_event(1))
    gain = numpyro.sample("gain", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(level[subject] + gain * t + X[:, 0], 1.0), obs=y)


def by_column(X, t, y=None):
    level = numpyro.sample("level", dist.Normal().expand([SUBJECTS]).to_event(1))
    gain = numpyro.sample("gain", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        mean = level[X[:, 1].astype(jnp.int32)] + gain * t + X[:, 0]
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def trial(ordered):
    """Subjects in one arm each, perhaps the first half of their numbers in the first."""
    rng = np.random.default_rng(1)
    treated = np.arange(SUBJECTS) >= SUBJECTS // 2
    treated = treated if ordered else rng.permutation(treated)
    subject = np.repeat(np.arange(SUBJECTS), EACH)
    return rng.normal(size=(len(subject), 1)), subject, treated[subject].astype(np.int32)


def effect(kernel, X, t, **arguments):
    draws = {"level": np.zeros((4, SUBJECTS)), "gain": np.ones(4)}
    im = ImpactModel(kernel).set_posterior_sample(draws)
    return im.effect(X, {"t": 0}, {"t": 1}, t=t, **arguments, progress=False)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("place", ["argument", "column"])
def test_the_order_of_subjects_makes_nobody_unlikely(place, ordered):
    X, subject, t = trial(ordered)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutputWarning)
        if place == "argument":
            result = effect(by_argument, X, t, subject=subject)
        else:
            result = effect(by_column, np.column_stack([X, subject]), t)
    assert abs(float(result.summary()["mean"].iloc[0]) - 1.0) < 1e-5


def test_a_quantity_still_makes_rows_unlikely():
    X, subject, t = trial(ordered=True)
    X = 10.0 * t[:, None] + X
    with pytest.warns(OutputWarning, match="outside|chance|arm"):
        effect(by_argument, X, t, subject=subject)


def test_codes_of_few_levels_keep_their_order():
    arrays = {"region": np.arange(300) % 3, "school": np.arange(300) % 30}
    table = ColumnTable(arrays, {}, (), (), {"region": {0}, "school": {0}})
    assert (table.scale > 0).tolist() == [True, False]
    assert table.high.tolist() == [2.0, 29.0]
