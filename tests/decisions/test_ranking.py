"""Measures of a ranking against CausalML 0.18.0 and EconML 0.17.0, and their intervals."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from aimz import InputError
from aimz.decisions import (
    RANKINGS,
    auuc_score,
    calibration,
    qini_score,
    rank_scores,
    rate_of_effects,
    rate_score,
    toc_curve,
    uplift_at,
)

# fmt: off
TREATED = [
    0, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0, 1, 1,
    0, 1, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0,
]
OUTCOME = [
    -0.02, 1.77, -0.39, -0.23, -0.41, -0.41, -0.67, 1.69, -2.18, -2.66, 0.19, -0.54, 0.87, 1.31,
    -0.86, 1.27, -1.98, 0.04, -2.08, -2.29, -1.14, 0.28, -2.3, 0.96, 0.19, -0.93, -4.27, -1.4,
    1.38, 0.92, -1.44, -1.05, -1.58, -3.12, 1.49, -0.75, -2.16, 1.73, -2.41, 0.65, -0.12, 1.41,
    -1.09, -0.88, 2.61, -0.11, 0.79, 0.46, -0.94, 3.53, 3.12, -2.44, 0.02, -0.22, -0.5, -0.59,
    1.19, 0.51, 4.34, -0.66,
]
SCORE = [
    0.154, 0.635, -0.054, -0.387, -0.142, -0.642, -0.129, 1.437, 0.835, -0.456, 0.463, 1.026,
    1.309, -1.157, 0.366, 0.879, -1.725, 0.41, -1.413, -0.754, -1.718, 0.492, -1.037, 0.7, 0.103,
    -0.295, -1.349, -0.292, 0.597, 0.596, -1.251, -0.232, -0.163, -0.46, 1.485, -0.296, 1.056,
    1.725, 0.108, 0.107, -0.081, 1.039, -0.242, 0.506, 2.13, -0.656, 1.775, 1.08, -0.369, 3.258,
    0.639, -0.268, 0.821, 1.513, 1.251, 1.925, -0.139, 0.323, 2.347, -0.683,
]
EFFECTS = [  # doubly robust ones
    -0.01, 1.17, -1.95, -3.09, -0.24, -1.05, -0.18, 1.51, -1.4, -2.2, 0.37, -0.58, -1.53, -0.52,
    -0.09, 1.17, -2.47, -1.16, -3.09, -2.31, -1.83, -1.04, -1.04, 0.64, 2.2, -1.6, -1.88, -0.68,
    -0.07, -1.33, -2.14, 0.22, -1.16, -0.81, 0.88, 0.27, -0.06, -1.23, -1.33, -2.09, -3.13, -0.46,
    -0.01, 0.13, 0.32, -2.64, 2.08, 0.29, -0.66, 2.15, 0.88, -0.51, 0.63, 0.85, -1.25, 1.26, -0.76,
    1.83, 0.31, -0.88,
]
# fmt: on
DATA = (SCORE, OUTCOME, TREATED)


@pytest.mark.parametrize(
    ("value", "theirs"),
    [
        (lambda: qini_score(*DATA), 1.4650777998560702),
        (lambda: qini_score(*DATA, normalize=False), 7.647706115248681),
        (lambda: auuc_score(*DATA), 1.9864410070457599),
        (lambda: auuc_score(*DATA, normalize=False), 20.738444113557726),
        (lambda: toc_curve(*DATA)[10], 1.3818333333333328),
        (lambda: toc_curve(*DATA)[30], 1.1839464285714287),
        (lambda: toc_curve(*DATA)[45], 0.17772619047619032),
        (lambda: rate_score(*DATA), 0.7515668507355457),
        (lambda: rate_score(*DATA, weighting="qini"), 0.5249659764409376),
    ],
    ids=["qini", "qini-raw", "auuc", "auuc-raw", "toc10", "toc30", "toc45", "autoc", "rate-qini"],
)
def test_a_measure_is_that_of_causalml(value, theirs):
    assert value() == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(
    ("weighting", "theirs"), [("toc", 0.5890537098551031), ("qini", 0.22892916666666668)]
)
def test_an_area_over_effects_is_that_of_econml(weighting, theirs):
    shares = np.linspace(5, 95, 19)
    ours = rate_of_effects(SCORE, EFFECTS, percentiles=shares, weighting=weighting)
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("name", ["qini", "auuc", "autoc"])
def test_a_measure_does_not_follow_the_order_of_the_rows(name):
    order = np.random.default_rng(0).permutation(60)
    shuffled = RANKINGS[name](*(np.asarray(values)[order] for values in DATA))
    assert shuffled == pytest.approx(RANKINGS[name](*DATA), rel=1e-9)


def test_uplift_at_a_share_is_the_difference_among_the_top():
    score, outcome, treated = (np.asarray(values, float) for values in DATA)
    top = np.argsort(-score)[:18]
    arms = [outcome[top][treated[top] == side].mean() for side in (1, 0)]
    assert uplift_at(*DATA, share=0.3) == pytest.approx(arms[0] - arms[1], rel=1e-9)


def test_calibration_holds_where_the_score_is_the_effect():
    rng = np.random.default_rng(1)
    effect, treated = rng.normal(size=5_000), rng.integers(0, 2, size=5_000)
    outcome = effect * treated + rng.normal(size=5_000)
    table = calibration(effect, outcome, treated, groups=5)
    assert (table["z"].abs() < 3.5).all()
    assert calibration(3 * effect, outcome, treated)["z"].abs().max() > 10


def test_a_group_whose_arm_is_one_row_has_no_standard_error():
    score, outcome, treated = [1] * 3 + [2] * 4, [0, 2, 5, 1, 3, 4, 8], [0, 1, 1, 0, 0, 1, 1]
    alone = calibration(score[:3], outcome[:3], treated[:3], groups=1).iloc[0]
    assert (alone["observed"], np.isnan(alone["se"]), np.isnan(alone["z"])) == (3.5, True, True)
    pair = calibration(score[3:], outcome[3:], treated[3:], groups=1).iloc[0]
    assert pair["se"] == pytest.approx(np.sqrt(2 / 2 + 8 / 2))  # unequal variances (Welch, 1947)
    assert pair["z"] == pytest.approx((4.0 - 2.0) / np.sqrt(5.0))


@pytest.mark.parametrize(
    ("effects", "code"), [([1.0, 2.0], "rows-mismatch"), ([1.0, np.nan, 2.0], "not-finite")]
)
def test_effects_that_are_not_one_for_each_row_are_refused(effects, code):
    with pytest.raises(InputError) as caught:
        rate_of_effects([3, 2, 1], effects, percentiles=[0, 50, 100])
    assert caught.value.code == code


def test_the_parts_of_an_interval_are_told_apart():
    rng = np.random.default_rng(0)
    effect, treated = rng.normal(size=200), rng.integers(0, 2, size=200)
    outcome = effect * treated + rng.normal(size=200)
    sure = rank_scores(effect, outcome, treated, repeats=60)
    noisy = effect + rng.normal(size=(50, 200))
    unsure = rank_scores(noisy, outcome, treated, repeats=60)
    assert (sure["sd_scores"] == 0).all()
    assert (unsure["sd_scores"] > 0).all()
    parts = unsure.loc["uplift@30%"]
    assert parts["sd"] == pytest.approx(np.hypot(parts["sd_scores"], parts["sd_rows"]), rel=0.4)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: qini_score([1, 2], [1, 2], [1, 1]), "arms-missing"),
        (lambda: qini_score([1, 2], [1, 2, 3], [1, 0]), "rows-mismatch"),
        (lambda: qini_score([1, np.nan], [1, 2], [1, 0]), "not-finite"),
        (lambda: uplift_at(*DATA, share=0.0), "option-unknown"),
        (lambda: uplift_at(*DATA, share=0.02), "arms-missing"),
        (lambda: calibration(*DATA, groups=30), "arms-missing"),
        (lambda: rate_score(*DATA, weighting="auc"), "option-unknown"),
    ],
    ids=["arms", "rows", "nan", "share", "top", "groups", "weighting"],
)
def test_what_cannot_be_ranked_is_refused(call, code):
    with pytest.raises(InputError) as error:
        call()
    assert error.value.code == code


@pytest.mark.slow
def test_the_interval_of_a_useless_score_holds_its_truth():
    covered = {"qini": 0, "autoc": 0}
    for number in range(200):
        rng = np.random.default_rng(number)
        treated, score = rng.integers(0, 2, size=300), rng.normal(size=300)
        outcome = 1.0 * treated + rng.normal(size=300)
        table = rank_scores(score, outcome, treated, repeats=150, seed=number)
        holds = (table["low"] <= 0) & (table["high"] >= 0)
        for name in covered:
            covered[name] += int(holds[name])
    for count in covered.values():  # Bin(200, 0.9): outside of these once in 500
        assert 166 <= count <= 193, covered


# ------------------------------------------------------------------ labels, and equal scores

NAMES = [f"p{number}" for number in range(60)]
LABELLED = [pd.Series(values, index=NAMES) for values in DATA]


@pytest.mark.parametrize("shuffled", range(3))
@pytest.mark.parametrize("name", RANKINGS)
def test_a_measure_lines_up_what_has_labels(name, shuffled):
    given = list(LABELLED)
    given[shuffled] = given[shuffled].sample(frac=1, random_state=0)
    assert RANKINGS[name](*given) == pytest.approx(RANKINGS[name](*DATA), rel=1e-9)


def test_draws_of_an_effect_are_ranked_as_they_are():
    draws = np.random.default_rng(0).normal(SCORE, 0.1, size=(2, 5, 60))
    labelled = xr.DataArray(draws, dims=("chain", "draw", "row"), coords={"row": NAMES})
    plain = rank_scores(draws.reshape(10, 60), *DATA[1:], repeats=5)
    turned = labelled.transpose("row", "draw", "chain")[::-1]
    for scores in (labelled, turned):
        own = rank_scores(scores, *LABELLED[1:], repeats=5)
        np.testing.assert_allclose(own["value"], plain["value"], rtol=1e-9)
    pd.testing.assert_frame_equal(rank_scores(labelled, *DATA[1:], repeats=5), plain)


def mean_over_orders(measure, score, outcome, treated):
    """Of sums of rows whose equal scores come in every order, by hand for few rows."""
    sums = np.zeros((4, len(score)))
    orders = [
        order
        for order in itertools.permutations(range(len(score)))
        if all(np.diff(np.asarray(score)[list(order)]) <= 0)
    ]
    for order in map(list, orders):
        y, arm = np.asarray(outcome)[order], np.asarray(treated)[order]
        sums += np.cumsum([arm, 1 - arm, arm * y, (1 - arm) * y], axis=1)
    return measure(sums / len(orders))


def test_rows_of_equal_scores_share_the_mean_of_all_their_orders():
    score, outcome, treated = [2, 1, 1, 1, 0], [3.0, 1.0, 4.0, 0.0, 2.0], [1, 0, 1, 0, 1]

    def uplift(sums):
        return sums[2, 2] / sums[0, 2] - sums[3, 2] / sums[1, 2]  # of the top three

    wanted = mean_over_orders(uplift, score, outcome, treated)
    assert uplift_at(score, outcome, treated, share=0.6) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    "measure", [*RANKINGS.values(), lambda *data: calibration(*data)["observed"]]
)
def test_the_order_of_equal_scores_does_not_count(measure):
    score, outcome, treated = np.round(SCORE), np.asarray(OUTCOME), np.asarray(TREATED)
    order = np.random.default_rng(0).permutation(60)
    shuffled = measure(score[order], outcome[order], treated[order])
    np.testing.assert_allclose(shuffled, measure(score, outcome, treated), rtol=1e-9)


@pytest.mark.parametrize("name", ["qini", "autoc"])
def test_a_score_that_is_one_number_is_useless(name):
    assert RANKINGS[name](np.ones(60), *DATA[1:]) == pytest.approx(0.0, abs=1e-12)


def test_groups_keep_equal_scores_together():
    table = calibration(np.repeat([1.0, 2.0, 3.0], [30, 20, 10]), OUTCOME, TREATED, groups=5)
    assert table["rows"].tolist() == [30, 20, 10]
    assert calibration(*DATA, groups=7)["rows"].tolist() == [9, 9, 9, 9, 8, 8, 8]


def wrong(option: str, value: Any) -> dict[str, Any]:
    return {option: value}


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: qini_score(SCORE, OUTCOME, ["a", "b"] * 30), "not-numeric"),
        (lambda: qini_score(LABELLED[0], LABELLED[1].set_axis(range(60)), TREATED), "row-labels"),
        (lambda: calibration(*DATA, **wrong("groups", 2.5)), "not-positive"),
        (lambda: calibration(*DATA, groups=0), "not-positive"),
        (lambda: uplift_at(*DATA, **wrong("share", "30%")), "option-unknown"),
        (lambda: rank_scores(*DATA, repeats=0), "not-positive"),
        (lambda: rank_scores(*DATA, ci_prob=90), "option-unknown"),
        (lambda: rate_of_effects(SCORE, EFFECTS, percentiles=[100, 50, 0]), "option-unknown"),
        (lambda: rate_of_effects(SCORE, EFFECTS, percentiles=[0, 150]), "option-unknown"),
    ],
)
def test_options_of_measures_are_checked(call, code):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.code == code
