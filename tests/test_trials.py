"""Subjects in rows and trials in steps: what is set or known there, either way round."""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr

from aimz import ImpactModel, InputError
from tests.series import rescorla_wagner

pytestmark = pytest.mark.filterwarnings("ignore:Rows are predicted together")

SUBJECTS, TRIALS, KNOWN, DRAWS = 8, 6, 4, 5
RNG = np.random.default_rng(0)
NAMES = [f"s{number}" for number in range(SUBJECTS)]
X = pd.DataFrame({"x": RNG.normal(size=SUBJECTS).astype(np.float32)}, index=NAMES)
REWARD = RNG.integers(0, 2, size=(SUBJECTS, TRIALS)).astype(np.float32)
CHOICES = RNG.integers(0, 2, size=(SUBJECTS, TRIALS))
FRAME = pd.DataFrame(CHOICES, index=NAMES)
STEPS, PULLS = RNG.normal(size=TRIALS), RNG.normal(size=SUBJECTS)


@pytest.fixture(scope="module")
def learners() -> ImpactModel:
    rate = np.tile(RNG.normal(size=SUBJECTS), (DRAWS, 1))
    draws = {"center": np.zeros(DRAWS), "slope": np.full(DRAWS, 3.0), "rate": rate}
    return ImpactModel(rescorla_wagner).set_posterior_sample(draws)


def named(value: Any, *dims: str) -> xr.DataArray:
    return xr.DataArray(value, dims=dims)


CHOICES_GIVEN = {
    "as the outcome": CHOICES,
    "as the result": CHOICES.T,
    "named": named(CHOICES, "subjects", "trial"),
    "named as the result": named(CHOICES.T, "y_dim_0", "subjects"),
    "labelled rows": FRAME[::-1],
    "labelled columns": FRAME[::-1].T,
    "first trials": CHOICES[:, :KNOWN],
    "first steps": CHOICES.T[:KNOWN],
    "labelled first trials": FRAME.iloc[::-1, :KNOWN],
}


@pytest.mark.parametrize("given", CHOICES_GIVEN.values(), ids=CHOICES_GIVEN)
def test_choices_that_are_known_may_be_given_either_way(given, learners):
    options: Any = {"condition": {"y": given}, "return_sites": "y", "return_datatree": False}
    known = TRIALS if TRIALS in np.shape(given) else KNOWN
    got = learners.predict_on_batch(X, reward=REWARD, **options)["y"][:, :known]
    np.testing.assert_array_equal(got, np.broadcast_to(CHOICES.T[:known], got.shape))


PULLS_SET = {
    "by step": (STEPS, STEPS[:, None]),
    "by step, named": (named(STEPS, "pull_dim_0"), STEPS[:, None]),
    "by subject": (PULLS, PULLS),
    "by subject, named": (named(PULLS, "subjects"), PULLS),
    "by subject and step": (PULLS[:, None] * STEPS, PULLS * STEPS[:, None]),
}


@pytest.mark.parametrize(("given", "want"), PULLS_SET.values(), ids=PULLS_SET)
def test_what_is_set_in_trials_may_be_given_by_step_or_by_subject(given, want, learners):
    options: Any = {"return_sites": "pull", "return_datatree": False}
    got = learners.predict_on_batch(X, reward=REWARD, intervention={"pull": given}, **options)
    np.testing.assert_allclose(got["pull"], np.broadcast_to(want, got["pull"].shape), rtol=1e-6)


SQUARE = CHOICES[:TRIALS]
AMBIGUOUS = {
    "array": ({"y": SQUARE}, False),
    "frame": ({"y": pd.DataFrame(SQUARE)}, False),
    "one value per step or subject": ({"pull": STEPS}, False),
    "dimensions of other names": ({"y": named(SQUARE, "a", "b")}, False),
    "named": ({"y": named(SQUARE, "subjects", "trial")}, True),
    "one value everywhere": ({"y": np.ones((TRIALS, TRIALS), int)}, True),
    "one value per step, named": ({"pull": named(STEPS, "pull_dim_0")}, True),
}


@pytest.mark.parametrize(("held", "is_clear"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_as_many_trials_as_subjects_must_be_named(held, is_clear, learners):
    draws = {name: value for name, value in learners.posterior.items() if name != "rate"}
    draws["rate"] = learners.posterior["rate"][:, :TRIALS]
    im = ImpactModel(rescorla_wagner).set_posterior_sample(draws)
    inputs = {"X": X.to_numpy()[:TRIALS], "reward": REWARD[:TRIALS]}
    (name, value), *_ = held.items()
    options: Any = {"intervention": held, "return_sites": name, "return_datatree": False}
    if not is_clear:
        with pytest.raises(InputError, match=r"may be in either order.*'subjects'"):
            im.predict_on_batch(**inputs, **options)
        return
    want = np.asarray(value).T if np.ndim(value) > 1 else np.asarray(value)[:, None]
    got = im.predict_on_batch(**inputs, **options)[name]
    np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), rtol=1e-6)


def test_named_values_of_a_site_whose_rows_lead_are_turned():
    def kernel(X, y=None):
        with numpyro.plate("rows", X.shape[0]):
            effects = numpyro.sample("effects", dist.Normal(X, 1.0).to_event(1))
            numpyro.sample("y", dist.Normal(effects.sum(-1), 1.0), obs=y)

    square = RNG.normal(size=(4, 4)).astype(np.float32)
    im = ImpactModel(kernel).set_posterior_sample({"effects": np.zeros((DRAWS, 4, 4))})
    turned = named(square.T, "effects_dim_1", "rows")
    options: Any = {"intervention": {"effects": turned}, "return_sites": "effects"}
    got = im.predict_on_batch(np.zeros((4, 4)), return_datatree=False, **options)["effects"]
    np.testing.assert_array_equal(got, np.broadcast_to(square, got.shape))


def test_a_condition_on_what_is_computed_is_refused(learners):
    with pytest.raises(InputError, match="'pull' is computed from others, not drawn"):
        learners.predict_on_batch(X, reward=REWARD, condition={"pull": 0.0})
