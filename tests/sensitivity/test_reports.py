"""What `effect.sensitivity` reports, from draws that are set by hand."""

import pickle

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from aimz import ImpactModel, InputError
from aimz.sensitivity import (
    Evidence,
    adjusted,
    benchmark_bound,
    e_value,
    partial_r2_of_columns,
    robustness_value,
    sensitivity_of,
)
from aimz.sensitivity.strength import Strength
from tests.support.engines import ByHand

RNG = np.random.default_rng(0)
ROWS = 200
AGE, SMOKE = RNG.normal(size=(2, ROWS))
TREATED = (RNG.uniform(size=ROWS) < 1 / (1 + np.exp(-AGE))).astype(float)
GAIN = 0.5 * TREATED + AGE + 0.3 * SMOKE + RNG.normal(size=ROWS)
FRAME = pd.DataFrame({"age": AGE, "smoke": SMOKE})
DRAWS = RNG.normal(0.5, 0.15, size=400)


def linear(X, t, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    w = numpyro.sample("w", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    took = numpyro.sample("took", dist.Normal(0.0, 1.0), obs=t)
    numpyro.sample("y", dist.Normal(X @ w + b * took, 1.0), obs=y)


def risky(X, t, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Bernoulli(logits=X[:, 0] + b * t), obs=y)


def known(kernel, y, t, **draws):
    """A model that knows its rows, with draws set by hand."""
    im = ImpactModel(kernel, inference=ByHand(b=DRAWS, **draws))
    return im.fit(FRAME, y, t=t, progress=False)


@pytest.fixture(scope="module")
def model():
    return known(linear, GAIN, TREATED, w=np.zeros((400, 2)))


@pytest.fixture(scope="module")
def effect(model):
    return model.effect(FRAME, {"t": 0.0}, {"t": 1.0}, t=TREATED, progress=False)


def test_the_report_is_that_of_the_formulas(effect):
    report = effect.sensitivity(benchmarks="smoke", multiples=[1, 2], ci_prob=0.9)
    mean, sd, dof = DRAWS.mean(), DRAWS.std(ddof=1), ROWS - 4
    assert report.robustness_value == pytest.approx(robustness_value(mean, sd, dof), rel=1e-4)
    t, rest = TREATED, AGE[:, None]
    seen = Strength(
        partial_r2_of_columns(t, SMOKE[:, None], rest),
        partial_r2_of_columns(GAIN, SMOKE[:, None], np.column_stack([rest, t])),
    )
    for k, (_, row) in zip([1, 2], report.benchmarks.iterrows(), strict=True):
        then = adjusted(mean, sd, dof, benchmark_bound(seen, k=k))
        assert row["adjusted"] == pytest.approx(then.estimate, rel=1e-3)
        assert row["sd"] == pytest.approx(then.se, rel=1e-3)
        assert then.se > 0
        assert row["high"] - row["low"] == pytest.approx(2 * 1.645 * then.se, rel=0.15)


def test_a_difference_is_a_ratio_by_the_outcomes_spread(effect):
    report = effect.sensitivity()
    each = e_value(DRAWS.ravel() / GAIN.std(ddof=1), "difference")
    assert report.e_values["e_value"].item() == pytest.approx(each.mean(), rel=1e-3)


@pytest.mark.slow
def test_a_difference_of_chances_is_a_ratio_by_its_averages():
    y = (GAIN > 0.5).astype(int)
    im = known(risky, y, TREATED)
    arguments = (FRAME, {"t": 0.0}, {"t": 1.0})
    effect = im.effect(*arguments, t=TREATED, progress=False)
    ratio = im.effect(*arguments, t=TREATED, comparison="ratio", progress=False)
    ours = effect.sensitivity().e_values
    pd.testing.assert_frame_equal(ours, ratio.sensitivity().e_values, rtol=1e-5)
    assert ours["e_value"].item() == pytest.approx(e_value(ratio.draws).mean(), rel=1e-6)


def test_a_treatment_that_a_site_observes_is_known_by_its_site(model, effect):
    by_site = model.effect(FRAME, {"took": 0.0}, {"took": 1.0}, t=TREATED, progress=False)
    assert by_site.sensitivity(benchmarks="age").dof == ROWS - 4


def test_a_confounder_that_cannot_be_or_explains_all_has_no_interval():
    age = np.tile([1.0, -1.0, 1.0, -1.0], 20)
    t = age + 2 * np.repeat([1.0, -1.0], 40)  # age explains a fifth of the treatment
    rest = np.tile(np.repeat([1.0, -1.0], 2), 20)
    gain = t + 0.5 * age + 0.8 * rest  # beside t: .2 of .84 of what is left, as .64 is of `rest`
    report = sensitivity_of(
        Evidence(DRAWS, None, "risk_ratio", t, gain, {"age": age}), benchmarks=["age"],
        multiples=[1, 3, 4], ci_prob=0.9,
    )  # fmt: skip
    seen = Strength(0.2, 0.2 / 0.84)
    worst = adjusted(DRAWS.mean(), DRAWS.std(ddof=1), 77, Strength(0.75, 1.0)).estimate
    first, all_of_it, none = (row for _, row in report.benchmarks.iterrows())
    assert first["r2_outcome"] == pytest.approx(benchmark_bound(seen).outcome, rel=1e-6)
    assert first["low"] < first["adjusted"] < first["high"]
    assert all_of_it["adjusted"] == pytest.approx(worst, rel=1e-6)
    assert all_of_it[["sd", "low", "high"]].isna().all()
    assert none[["r2_treatment", "r2_outcome", "adjusted", "sd", "low", "high"]].isna().all()
    text = report.to_text()
    assert "One 3 times as strong as 'age' may explain all that is left of the outcome" in text
    assert "None can be 4 times as strong as 'age'" in text
    assert "nan" not in text
    report.plot()
    plt.close("all")


def test_what_the_effect_does_not_know_is_asked_for(effect):
    again = pickle.loads(pickle.dumps(effect))
    with pytest.raises(InputError) as error:
        again.sensitivity()
    assert error.value.code == "data-gone"
    assert again.sensitivity(dof=196).robustness_value == effect.sensitivity().robustness_value


@pytest.mark.parametrize(
    ("options", "asked", "code"),
    [
        ({}, {"benchmarks": "agee"}, "option-unknown"),
        ({"by": AGE > 0, "estimand": "cate"}, {}, "effect-several"),
        ({"comparison": lambda new, old: new - old}, {}, "effect-scale"),
        ({}, {"treatment": "tt"}, "treatment-unknown"),
    ],
    ids=["benchmark", "groups", "scale", "treatment"],
)
def test_what_cannot_be_told_is_refused(model, options, asked, code):
    effect = model.effect(FRAME, {"t": 0.0}, {"t": 1.0}, t=TREATED, progress=False, **options)
    with pytest.raises(InputError) as error:
        effect.sensitivity(**asked)
    assert error.value.code == code


def test_the_picture_marks_benchmarks_and_the_tipping_line(effect):
    ax = effect.sensitivity(benchmarks=["age", "smoke"]).plot()
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert any(word.startswith("as smoke: 1x") for word in words)
    assert "partial R2" in ax.get_xlabel()
    plt.close("all")


def test_the_words_hold_the_numbers(effect):
    text = effect.sensitivity(benchmarks="age").to_text()
    assert f"{effect.sensitivity().robustness_value:.1%}" in text
    assert "'age'" in text
