"""Rules of whom to treat, against sums by hand."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib import pyplot as plt

from aimz import InputError
from aimz.decisions import Gains, decision_of, policies
from aimz.effects import Effect, question_of

RNG = np.random.default_rng(0)
DRAWS = RNG.normal(size=(6, 1)) + RNG.normal(size=(6, 300))
SIZES = np.array([1, 2, 3, 1, 2, 1]) / 10


def effect_of(values, estimand="ite", comparison="difference"):
    dim = "obs" if estimand == "ite" else "group"
    draws = xr.DataArray(values[:, None], dims=(dim, "chain", "draw"))
    question = question_of("y", estimand, comparison, "expectation", "sample")
    return Effect(draws, draws, question, rows=len(values))


def table_of(decision):
    return decision.policies.set_index("policy")


def test_utilities_and_regret_are_the_sums():
    decision = decision_of(Gains(DRAWS, SIZES, range(6)))
    table, means = table_of(decision), DRAWS.mean(axis=1)
    assert table.loc["all", "utility"] == pytest.approx(SIZES @ means)
    assert table.loc["rule", "utility"] == pytest.approx(SIZES @ np.maximum(means, 0))
    perfect = (SIZES @ np.maximum(DRAWS, 0)).mean()
    regret = perfect - table["utility"]
    np.testing.assert_allclose(table["regret"], regret, rtol=1e-9)
    assert decision.best == "rule"
    assert decision.value_of_information == pytest.approx(regret["rule"])
    assert table["P(best)"].sum() == pytest.approx(1.0)


def test_a_rule_that_no_draw_doubts_leaves_nothing_to_know():
    gains = np.abs(np.random.default_rng(1).normal(size=(37, 200))) + 0.1
    decision = decision_of(Gains(gains, np.full(37, 1 / 37), range(37)))
    assert decision.value_of_information == table_of(decision).loc["all", "regret"] == 0.0
    assert "would be worth 0 per row" in decision.to_text()
    assert table_of(decision).loc["none", "regret"] == pytest.approx(gains.mean())


def test_a_budget_goes_to_the_greatest_gains():
    decision = decision_of(Gains(DRAWS, SIZES, range(6)), budget=0.25)
    means, left, total = DRAWS.mean(axis=1), 0.25, 0.0
    for unit in np.argsort(-means):
        share = min(left, SIZES[unit]) if means[unit] > 0 else 0.0
        total, left = total + share * means[unit], left - share
    assert table_of(decision).loc["rule", "utility"] == pytest.approx(total)
    assert table_of(decision)["treated"].max() <= 0.25 + 1e-12
    assert (decision.policies["regret"] >= -1e-12).all()


def test_a_tree_finds_the_rule_that_made_the_gains():
    x = RNG.normal(size=(400, 2))
    gains = np.where(x[:, :1] > 0.3, 1.0, -1.0) + 0.3 * RNG.normal(size=(400, 50))
    features = pd.DataFrame(x, columns=["age", "income"])
    decision = decision_of(Gains(gains, np.full(400, 1 / 400), range(400), features), max_depth=1)
    table = table_of(decision)
    assert "age" in str(decision.tree)
    assert table.loc["tree", "treated"] == pytest.approx((x[:, 0] > 0.3).mean())
    assert table.loc["tree", "utility"] <= table.loc["rule", "utility"] + 1e-12


def test_cost_and_value_are_those_of_a_row():
    decision = effect_of(DRAWS).decide(cost=0.5, value=2.0, threshold=0.5)
    gains = 2 * DRAWS - 0.5
    assert table_of(decision).loc["all", "utility"] == pytest.approx(gains.mean())
    np.testing.assert_allclose(decision.units["P(effect > 0.5)"], (DRAWS > 0.5).mean(axis=1))
    each = effect_of(DRAWS).decide(cost=np.arange(6.0))
    assert table_of(each).loc["all", "utility"] == pytest.approx(DRAWS.mean() - 2.5)


def test_the_words_and_the_picture_hold_the_rules():
    decision = effect_of(DRAWS).decide()
    assert "'rule'" in decision.to_text()
    ax = decision.plot()
    assert [t.get_text().split(" ")[0] for t in ax.get_yticklabels()] == ["none", "all", "rule"]
    plt.close("all")


@pytest.mark.parametrize(
    ("make", "options", "code"),
    [
        (lambda: effect_of(DRAWS, "cate"), {}, "rows-mismatch"),
        (lambda: effect_of(DRAWS, "cate"), {"sizes": [1, 2]}, "rows-mismatch"),
        (lambda: effect_of(DRAWS), {"cost": [1.0, 2.0]}, "rows-mismatch"),
        (lambda: effect_of(DRAWS), {"budget": 2.0}, "option-unknown"),
        (lambda: effect_of(np.exp(DRAWS), comparison="ratio"), {}, "effect-scale"),
    ],
    ids=["no-sizes", "sizes", "cost", "budget", "scale"],
)
def test_what_is_no_decision_is_refused(make, options, code):
    with pytest.raises(InputError) as error:
        make().decide(**options)
    assert error.value.code == code


@pytest.mark.parametrize("budget", [None, 0.3])
def test_blocks_of_units_and_draws_give_what_the_whole_gives(monkeypatch, budget):
    x = pd.DataFrame({"age": RNG.normal(size=6)})
    options = {"cost": np.arange(6.0) / 6, "value": 1.5, "features": x, "budget": budget}
    cube = xr.DataArray(DRAWS.reshape(6, 3, 100).transpose(1, 0, 2), dims=("chain", "obs", "draw"))
    question = question_of("y", "ite", "difference", "expectation", "sample")
    by_chain = Effect(cube, cube, question, rows=6)
    whole = by_chain.decide(**options)
    monkeypatch.setattr(policies, "_BLOCK", 700)
    blocks = by_chain.decide(**options)
    pd.testing.assert_frame_equal(blocks.policies, whole.policies)
    pd.testing.assert_frame_equal(blocks.units, whole.units)
    pd.testing.assert_frame_equal(effect_of(DRAWS).decide(**options).policies, whole.policies)
    net = 1.5 * DRAWS - options["cost"][:, None]
    best = np.sort(np.maximum(net, 0), axis=0)[::-1]
    perfect = best.mean(axis=0) if budget is None else (best[0] + 0.8 * best[1]) / 6
    utility = table_of(whole).loc["rule", "utility"]
    assert table_of(whole).loc["rule", "regret"] == pytest.approx(perfect.mean() - utility)


def test_no_more_than_some_blocks_lie_in_memory(monkeypatch):
    monkeypatch.setattr(policies, "_BLOCK", 2**18)  # 2 MB
    values = np.zeros((20_000, 1, 500), np.float32)  # 80 MB as doubles
    values[::2] = 1.0
    effect = effect_of(values[:, 0])
    for budget in (None, 0.2):
        tracemalloc.start()
        effect.decide(budget=budget)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20e6


def test_a_gain_that_is_no_number_is_refused():
    values = DRAWS.copy()
    values[2, 5] = np.nan
    with pytest.raises(InputError) as error:
        effect_of(values).decide()
    assert error.value.code == "not-finite"


def test_a_chosen_rule_is_fair_under_a_right_prior_and_looks_too_good_under_a_flat_one():
    """Gains of 2,000 rows are N(-0.2, 0.5), and each was seen once, with an sd of 1."""
    rng = np.random.default_rng(1)
    truth = -0.2 + 0.5 * rng.normal(size=2000)
    seen = truth + rng.normal(size=2000)
    weight = 0.25 / 1.25
    claimed, true = {}, {}
    for name, mean, sd in (
        ("right", (1 - weight) * -0.2 + weight * seen, np.sqrt(weight)),
        ("flat", seen, 1.0),
    ):
        decision = effect_of(mean[:, None] + sd * rng.normal(size=(2000, 500))).decide()
        claimed[name] = table_of(decision).loc["rule", "utility"]
        true[name] = (decision.units["treat"].to_numpy() * truth).mean()
        assert "same draws that judge it" in decision.to_text()
    assert claimed["right"] == pytest.approx(true["right"], abs=0.01)
    assert claimed["flat"] > true["flat"] + 0.25


@pytest.mark.slow
def test_the_value_of_a_known_rule_is_covered_at_its_rate():
    """Gains of rows with a conjugate normal posterior: the interval of a rule's value holds it."""
    covered = 0
    for number in range(300):
        rng = np.random.default_rng(number)
        truth = 0.3 + rng.normal(size=40)
        seen = truth + rng.normal(size=40)
        mean, sd = (0.3 + seen) / 2, np.sqrt(0.5)  # prior N(0.3, 1), one observation of sd 1
        draws = mean[:, None] + sd * rng.normal(size=(40, 400))
        decision = decision_of(Gains(draws, np.full(40, 1 / 40), range(40)), ci_prob=0.9)
        rule = decision.units["treat"].to_numpy()
        row = table_of(decision).loc["rule"]
        covered += row["low"] <= (rule * truth).mean() <= row["high"]
    assert 252 <= covered <= 287  # Bin(300, 0.9): outside once in 500


# ------------------------------------------------------------------ what has labels


def effect_on(labels, estimand="ite"):
    dim = "obs" if estimand == "ite" else "group"
    draws = xr.DataArray(DRAWS[:, None], dims=(dim, "chain", "draw"), coords={dim: labels})
    question = question_of("y", estimand, "difference", "expectation", "sample")
    return Effect(draws, draws, question, rows=6)


PEOPLE = list("uvwxyz")
COST = pd.Series(np.arange(6) / 10, index=PEOPLE)


@pytest.mark.parametrize("cost", [COST, COST[::-1], COST.sample(frac=1, random_state=0)])
def test_costs_are_lined_up_by_their_labels(cost):
    units = effect_on(PEOPLE).decide(cost=cost).units
    np.testing.assert_allclose(units["gain"], DRAWS.mean(axis=1) - np.arange(6) / 10, rtol=1e-12)


@pytest.mark.parametrize(
    "sizes",
    [
        [1, 2, 3, 1, 2, 1],
        pd.Series(list("uvvwwwxyyz")).value_counts(),  # the largest group first
        {"z": 1, "y": 2, "x": 1, "w": 3, "v": 2, "u": 1},
    ],
)
def test_sizes_are_those_of_the_groups_that_they_name(sizes):
    decision = effect_on(PEOPLE, "cate").decide(sizes=sizes)
    assert table_of(decision).loc["all", "utility"] == pytest.approx(SIZES @ DRAWS.mean(axis=1))


def test_features_are_lined_up_by_their_labels():
    is_good = pd.DataFrame({"good": (DRAWS.mean(axis=1) > 0).astype(float)}, index=PEOPLE)
    decisions = [effect_on(PEOPLE).decide(features=f) for f in (is_good, is_good[::-1])]
    for table in map(table_of, decisions):
        assert table.loc["tree", "utility"] == pytest.approx(table.loc["rule", "utility"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"cost": COST.set_axis(list("abcdef"))}, "row-labels"),
        ({"cost": "a"}, "not-numeric"),
        ({"value": "2"}, "option-unknown"),
        ({"value": np.inf}, "option-unknown"),
        ({"threshold": np.nan}, "option-unknown"),
        ({"budget": "0.3"}, "option-unknown"),
        ({"budget": True}, "option-unknown"),
        ({"features": pd.DataFrame({"a": ["x"] * 6}, index=PEOPLE)}, "not-numeric"),
        ({"features": np.ones((5, 2))}, "rows-mismatch"),
        ({"features": np.ones((6, 2)), "max_depth": 0}, "not-positive"),
        ({"sizes": {"u": 1}}, "rows-mismatch"),
    ],
)
def test_what_is_no_number_of_the_rows_is_refused(options, code):
    with pytest.raises(InputError) as caught:
        effect_on(PEOPLE).decide(**options)
    assert caught.value.code == code
