"""Subjects in rows and trials in steps: what is set or known there, either way round."""

import warnings
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel, InputError, OutputWarning
from tests.support.series import rescorla_wagner

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
    inputs: Any = {"X": X.to_numpy()[:TRIALS], "reward": REWARD[:TRIALS]}
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


# ------------------------------------------------------------------ more trials, other subjects


@pytest.fixture(scope="module")
def fitted() -> ImpactModel:
    """A model that has seen the first trials, and next to nothing else."""
    guide = AutoNormal(rescorla_wagner)
    svi = SVI(rescorla_wagner, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
    im = ImpactModel(rescorla_wagner, inference=svi, num_samples=400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first: Any = {"reward": REWARD[:, :KNOWN]}
        return im.fit_on_batch(X, CHOICES[:, :KNOWN], num_steps=2, progress=False, **first)


def values_of(rate: np.ndarray, trials: int) -> np.ndarray:
    """Value of each option after so many trials, for draws of the rate of each subject."""
    values = np.full((*rate.shape, 2), 0.5)
    for trial in range(trials):
        chosen = np.eye(2)[CHOICES[:, trial]]
        values += rate[..., None] * (REWARD[:, trial, None] - values) * chosen
    return values


def test_learning_goes_on_from_the_known_trials(fitted):
    options: Any = {"condition": {"y": CHOICES[:, :KNOWN]}, "return_datatree": False}
    got = fitted.predict_on_batch(X, reward=REWARD, **options)
    rate = 1 / (1 + np.exp(-fitted.posterior["rate"].astype(float)))
    values = values_of(rate, KNOWN)
    slope = fitted.posterior["slope"][:, None]
    want = slope * (values[..., 1] - values[..., 0])
    np.testing.assert_allclose(got["pull"][:, KNOWN], want, rtol=1e-4, atol=1e-5)
    assert got["y"].shape == (400, TRIALS, SUBJECTS)


def test_more_trials_without_the_known_ones_warn(fitted):
    with pytest.warns(OutputWarning, match="it starts anew in the first step"):
        fitted.predict_on_batch(X, reward=REWARD)


def test_new_subjects_are_drawn_from_their_group(fitted):
    more = pd.concat([X, X.set_index(X.index + "new") + 1.0])
    options: Any = {"in_sample": False, "return_sites": "rate", "return_datatree": False}
    rewards = np.tile(REWARD[:, :KNOWN], (2, 1))
    rate = fitted.predict_on_batch(more, reward=rewards, **options)["rate"]
    known, center = fitted.posterior["rate"], fitted.posterior["center"][:, None]
    np.testing.assert_array_equal(rate[:, :SUBJECTS], known)
    off = rate[:, SUBJECTS:] - center
    assert abs(off.mean()) < 4 * 0.5 / np.sqrt(off.size)
    assert off.std() == pytest.approx(0.5, rel=4 / np.sqrt(2 * off.size))


def test_an_effect_may_be_asked_for_more_trials(fitted):
    known = {"condition": {"y": CHOICES[:, :KNOWN]}}
    paid = REWARD.copy()
    paid[:, KNOWN:] = 1 - paid[:, KNOWN:]
    effect = fitted.effect(
        X,
        reward=REWARD,
        baseline=known,
        intervention={"reward": paid, **known},
        estimand="ite",
        progress=False,
    )
    by_trial = np.abs(effect.draws).max(("chain", "draw", "subjects")).values
    assert (by_trial[: KNOWN + 1] == 0).all()
    assert (by_trial[KNOWN + 1 :] > 0).all()


REFUSED = {
    "columns that are no trials": ({"X": X.assign(more=1.0)}, "has a column 'more'"),
    "columns of an array": ({"X": np.ones((SUBJECTS, 2))}, "the same columns"),
    "more trials of some": ({"X": X[:3], "reward": REWARD[:3]}, "after the fitted steps"),
}


@pytest.mark.parametrize(("changed", "message"), REFUSED.values(), ids=REFUSED)
def test_other_columns_are_no_trials(changed, message, fitted):
    with pytest.raises(InputError, match=message):
        fitted.predict_on_batch(**{"X": X, "reward": REWARD} | changed)


def test_choices_that_are_missing_are_refused_with_a_way_out():
    choices = CHOICES.astype(np.float32)
    choices[2, 4:] = np.nan
    with pytest.raises(InputError, match=r"fill them .* pass the kernel a mask: \.mask\(there\)"):
        ImpactModel(rescorla_wagner).fit(X, choices, reward=REWARD, missing="mask")
