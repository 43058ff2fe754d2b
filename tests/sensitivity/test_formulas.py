"""Formulas of hidden confounding against published figures and least squares."""

import numpy as np
import pytest
from scipy import stats

from aimz import InputError
from aimz.sensitivity import (
    Strength,
    adjusted,
    benchmark_bound,
    e_value,
    e_value_limit,
    partial_r2,
    partial_r2_of_columns,
    robustness_value,
)

# Darfur, as PySensemakr 0.0.8 prints it (statsmodels 0.14).
DARFUR = (0.09731581928496041, 0.0232565378098112, 783)
FEMALE_BOUNDS = {
    1: (0.009164286675, 0.124640923036, 0.075220271214, 0.021873327744),
    2: (0.018328573350, 0.249324064200, 0.052915172384, 0.020350062078),
    3: (0.027492860025, 0.374050471038, 0.030396023464, 0.018670064817),
}


@pytest.mark.parametrize(
    ("value", "published"),
    [
        (partial_r2(*DARFUR), 0.02187309334111142),
        (robustness_value(*DARFUR), 0.13877635389359338),
        (robustness_value(*DARFUR, alpha=0.05), 0.07625796554486274),
        (robustness_value(50.0, 1.0, 100, alpha=0.05), 0.960008901521),  # a limit of the outcome
        (robustness_value(60.0, 1.0, 20, alpha=0.05), 0.99320129407),
        (robustness_value(0.1, 1.0, 100, alpha=0.05), 0.0),
    ],
    ids=["partial", "rv", "rv-alpha", "strong", "stronger", "uncertain"],
)
def test_shares_are_those_of_sensemakr(value, published):
    assert value == pytest.approx(published, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("k", FEMALE_BOUNDS)
def test_bounds_of_a_benchmark_are_those_of_sensemakr(k):
    treatment, outcome, estimate, se = FEMALE_BOUNDS[k]
    first = FEMALE_BOUNDS[1]
    # partial R2 of `female` with the treatment is f / (1 + f), and with the outcome what gives k=1
    seen = first[0] / (1 + first[0])
    shared = seen**2 / (1 - seen) ** 2
    odds = first[1] * (1 - shared) / (1 + np.sqrt(shared)) ** 2
    bound = benchmark_bound(Strength(seen, odds / (1 + odds)), k=k)
    assert (bound.treatment, bound.outcome) == pytest.approx((treatment, outcome), rel=1e-9)
    after = adjusted(*DARFUR, bound)
    assert (after.estimate, after.se) == pytest.approx((estimate, se), rel=1e-9)


def test_adjusting_for_a_confounder_gives_the_regression_that_has_it():
    rng = np.random.default_rng(0)
    u, x = rng.normal(size=(2, 300))
    t = 0.8 * u + 0.3 * x + rng.normal(size=300)
    y = t + 1.2 * u - x + rng.normal(size=300)
    estimate, se, dof = _least_squares(y, [t, x])
    strength = Strength(
        partial_r2_of_columns(t, u[:, None], x[:, None]),
        partial_r2_of_columns(y, u[:, None], np.column_stack([x, t])),
    )
    after = adjusted(estimate, se, dof, strength)
    assert (after.estimate, after.se) == pytest.approx(_least_squares(y, [t, x, u])[:2], rel=1e-9)


def test_a_partial_share_is_that_of_the_t_value():
    rng = np.random.default_rng(1)
    t, x = rng.normal(size=(2, 60))
    y = t + x + rng.normal(size=60)
    found = partial_r2_of_columns(y, t[:, None], x[:, None])
    assert found == pytest.approx(partial_r2(*_least_squares(y, [t, x])), rel=1e-9)


def test_the_robustness_value_is_the_tipping_point():
    value = robustness_value(*DARFUR)
    assert adjusted(*DARFUR, Strength(value, value)).estimate == pytest.approx(0, abs=1e-12)
    value = robustness_value(*DARFUR, alpha=0.05)
    after = adjusted(*DARFUR, Strength(value, value))
    critical = stats.t.ppf(0.975, DARFUR[2] - 1)
    assert after.estimate / after.se == pytest.approx(critical, rel=1e-6)


@pytest.mark.parametrize(
    ("value", "measure", "published"),
    [
        (3.9, "risk_ratio", 7.263),
        (1.8, "risk_ratio", 3.0),
        (1 / 3.9, "risk_ratio", 7.263),
        (1.0, "risk_ratio", 1.0),
        (4.0, "odds_ratio", 2 + np.sqrt(2)),
        (0.5, "difference", np.exp(0.455) + np.sqrt(np.exp(0.455) * (np.exp(0.455) - 1))),
        (1.0, "hazard_ratio", 1.0),
        (4.0, "hazard_ratio", 2.56066 + np.sqrt(2.56066 * 1.56066)),
    ],
)
def test_e_values_are_the_published_ones(value, measure, published):
    assert float(e_value(value, measure)) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize(
    ("low", "high", "limit"), [(1.8, 8.7, 3.0), (0.2, 0.5, 2 + np.sqrt(2)), (0.9, 1.4, 1.0)]
)
def test_the_limit_is_the_end_nearest_to_no_effect(low, high, limit):
    assert e_value_limit(low, high) == pytest.approx(limit, abs=1e-9)


@pytest.mark.parametrize(
    ("seen", "k", "outcome"),
    [
        (Strength(0.2, 0.1), 2.0, 2 * (1 + np.sqrt(1 / 12)) ** 2 * 6 / 5 / 9),  # shared is 1/6
        (Strength(0.2, 0.1), 3.9, 1.0),  # beyond what is left of the outcome
        (Strength(0.2, 0.1), 4.0, None),  # would explain the treatment altogether
        (Strength(0.5, 0.1), 1.0, None),
        (Strength(1.0, 0.1), 1.0, None),
        (Strength(0.0, 0.5), 50.0, 1.0),
        (Strength(0.0, 0.2), 2.0, 0.5),
        (Strength(0.2, 1.0), 1.0, 1.0),
        (Strength(0.2, 0.1), -1.0, None),
    ],
)
def test_a_bound_ends_where_no_confounder_can_be(seen, k, outcome):
    if outcome is None:
        with pytest.raises(InputError, match="nothing can be stronger"):
            benchmark_bound(seen, k=k)
        return
    bound = benchmark_bound(seen, k=k)
    odds = seen.treatment / (1 - seen.treatment)
    assert (bound.treatment, bound.outcome) == pytest.approx((k * odds, outcome), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: partial_r2(1.0, 0.0, 10), "option-unknown"),
        (lambda: robustness_value(1.0, 1.0, 10, alpha=2), "option-unknown"),
        (lambda: adjusted(1.0, 1.0, 10, Strength(1.0, 0.5)), "option-unknown"),
        (lambda: benchmark_bound(Strength(0.6, 0.1), k=2), "option-unknown"),
        (lambda: e_value(-1.0), "ratio-undefined"),
        (lambda: e_value_limit(2.0, 1.0), "option-unknown"),
        (lambda: e_value(1.0, "risk"), "option-unknown"),
    ],
    ids=["se", "alpha", "share", "times", "negative", "order", "measure"],
)
def test_what_has_no_answer_is_refused(call, code):
    with pytest.raises(InputError) as error:
        call()
    assert error.value.code == code


def _least_squares(y, columns):
    design = np.column_stack([np.ones(len(y)), *columns])
    beta, (rest,), *_ = np.linalg.lstsq(design, y)
    dof = len(y) - design.shape[1]
    cov = rest / dof * np.linalg.inv(design.T @ design)
    return float(beta[1]), float(np.sqrt(cov[1, 1])), dof
