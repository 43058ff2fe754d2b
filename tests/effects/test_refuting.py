"""What `effect.refute` fits, and that a sound effect passes and an unsound one does not."""

import copy

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

from aimz import ImpactModel, InputError, OutputWarning

RNG = np.random.default_rng(3)
ROWS = 300
FRAME = pd.DataFrame({"age": RNG.normal(size=ROWS), "took": RNG.integers(0, 2, size=ROWS) * 1.0})
Y = (FRAME["took"] + FRAME["age"] + 0.5 * RNG.normal(size=ROWS)).to_numpy()
ALL = ["placebo", "dummy_outcome", "injected", "random_cause", "subset", "bootstrap"]


def linear(X, y=None):
    w = numpyro.sample("w", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    numpyro.sample("y", dist.Normal(a + X @ w, 0.5), obs=y)


@pytest.fixture(scope="module")
def model():
    model = ImpactModel(linear, inference="laplace", num_samples=200)
    return model.fit(FRAME, Y, progress=False)


@pytest.fixture(scope="module")
def effect(model):
    return model.effect(FRAME, {"took": 0.0}, {"took": 1.0}, progress=False)


def test_the_treatment_is_permuted_and_nothing_else(effect):
    before = FRAME.copy(deep=True)
    report = effect.refute("placebo", repeats=4, progress=False)
    (trial,) = report.trials
    sd = 2 * 0.5 / np.sqrt(ROWS)  # of a least-squares slope on a permutation of halves
    assert np.all(np.abs(trial.means) < 5 * sd)
    np.testing.assert_allclose(trial.sds, sd, rtol=0.2)
    pd.testing.assert_frame_equal(FRAME, before)
    assert effect.draws.mean() > 0.8


def test_a_seed_gives_the_same_refits(effect):
    first, again, other = (
        effect.refute("placebo", repeats=2, seed=seed, progress=False).trials[0].draws
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.slow
def test_the_model_stays_as_it_was(model, effect):
    draws = copy.copy(model.posterior["w"])
    effect.refute("subset", repeats=1, progress=False)
    np.testing.assert_array_equal(model.posterior["w"], draws)


@pytest.mark.slow
def test_a_subset_is_the_fit_of_these_rows(effect):
    (trial,) = effect.refute("subset", repeats=3, progress=False).trials
    keep = np.random.default_rng([0, 4]).permutation(ROWS)[:240]
    X = np.column_stack([FRAME.to_numpy()[keep], np.ones(240)])
    exact = np.linalg.lstsq(X, Y[keep])[0][1]
    assert trial.means[0] == pytest.approx(exact, abs=0.02)


def test_rows_that_were_changed_since_are_noticed():
    X = np.array(FRAME, np.float32)
    model = ImpactModel(linear, inference="svi")
    model.train_on_batch(X, Y)
    model.set_posterior_sample({"w": np.ones((5, 2)), "a": np.ones(5)})
    effect = model.effect(X, {"X": lambda X: 0 * X}, {"X": lambda X: X}, progress=False)
    X[0] = 9.0
    with pytest.raises(InputError) as error:
        effect.sensitivity(treatment="X[1]")
    assert error.value.code == "data-differ"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"tests": "plazebo"}, "option-unknown"),
        ({"repeats": 0}, "not-positive"),
        ({"treatment": "tt"}, "treatment-unknown"),
    ],
)
def test_what_cannot_be_tested_is_refused(effect, asked, code):
    with pytest.raises(InputError) as error:
        effect.refute(progress=False, **asked)
    assert error.value.code == code


def test_draws_that_were_set_by_hand_cannot_be_fitted_again():
    model = ImpactModel(linear).set_posterior_sample({"w": np.ones((5, 2)), "a": np.ones(5)})
    effect = model.effect(FRAME, {"took": 0.0}, {"took": 1.0}, progress=False)
    with pytest.raises(InputError) as error:
        effect.refute(progress=False)
    assert error.value.code == "data-gone"


@pytest.mark.slow
def test_a_sound_effect_passes_every_test(effect):
    report = effect.refute(ALL, repeats=20, progress=False)
    assert report.passes, report.to_text()


def with_spread(X, y=None):
    """A spread that the kernel knows would be too small once the treatment explains nothing."""
    w = numpyro.sample("w", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    s = numpyro.sample("s", dist.HalfNormal(2.0))
    numpyro.sample("y", dist.Normal(a + X @ w, s), obs=y)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_refits_are_calibrated_over_data_sets():
    """Placebo and dummy outcome hold 0, and an injected effect comes back, at the nominal rate."""
    counts = dict.fromkeys(("placebo", "dummy_outcome", "injected"), 0)
    for number in range(50):
        rng = np.random.default_rng(number)
        X = FRAME.assign(age=rng.normal(size=ROWS), took=rng.integers(0, 2, size=ROWS) * 1.0)
        y = X.to_numpy() @ [1.0, 0.7] + 0.5 * rng.normal(size=ROWS)
        model = ImpactModel(with_spread, rng_key=number, inference="svi", num_samples=500)
        model.fit(X, y, progress=False)
        effect = model.effect(X, {"took": 0.0}, {"took": 1.0}, progress=False)
        report = effect.refute([*counts], repeats=1, seed=number, progress=False)
        for name, covers in zip(counts, report.table["covers"], strict=True):
            counts[name] += covers.startswith("1")
    print(counts)
    for covered in counts.values():  # Bin(50, 0.89): outside once in 1,000
        assert 37 <= covered <= 50, counts


@pytest.mark.slow
def test_a_posterior_that_is_too_narrow_is_in_doubt():
    """One spread for all rows, where a rare arm has a far wider one, is over-confident."""
    rng = np.random.default_rng(0)
    took = (rng.uniform(size=ROWS) < 0.1) * 1.0
    y = rng.normal(size=ROWS) * np.where(took > 0, 4.0, 0.3)
    X = FRAME.assign(took=took)
    model = ImpactModel(linear, inference="svi").fit(X, y, progress=False)
    with pytest.warns(OutputWarning):  # few of the rows have the treatment
        effect = model.effect(X, {"took": 0.0}, {"took": 1.0}, progress=False)
    report = effect.refute("bootstrap", progress=False)
    assert report.table["verdict"][0] == "doubtful", report.to_text()


@pytest.mark.slow
def test_a_model_without_an_intercept_fails():
    """A permuted treatment takes the place of the intercept that the kernel forgot."""

    def kernel(X, y=None):
        w = numpyro.sample("w", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ w, 0.5), obs=y)

    model = ImpactModel(kernel, inference="svi").fit(FRAME, Y + 1, progress=False)
    effect = model.effect(FRAME, {"took": 0.0}, {"took": 1.0}, progress=False)
    report = effect.refute("placebo", progress=False)
    assert report.table["verdict"][0] == "fails", report.to_text()
