"""What `effect.hidden_cause` leaves of an effect, against closed forms of linear models."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm

from aimz import ImpactModel, InputError
from aimz.sensitivity import Strength, adjusted
from tests.support.engines import ByHand

RNG = np.random.default_rng(5)
ROWS, LEAN, WEIGHT = 400, 1.0, 0.6
AGE, NOISE, U = RNG.normal(size=(3, ROWS))
TOOK = RNG.permutation(np.arange(ROWS) % 2) * 1.0
FRAME = pd.DataFrame({"age": AGE, "took": TOOK})
CAUSE = LEAN * (TOOK - TOOK.mean()) + U  # the omitted confounder; the true effect is 1
Y = TOOK + 0.5 * AGE + WEIGHT * CAUSE + 0.5 * NOISE


def linear(X, y=None):
    w = numpyro.sample("w", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    s = numpyro.sample("s", dist.HalfNormal(2.0))
    numpyro.sample("y", dist.Normal(a + X @ w, s), obs=y)


def fitted(y, kernel=linear, X=FRAME, draws=400):
    return ImpactModel(kernel, inference="laplace", num_samples=draws).fit(X, y, progress=False)


def asked(model, X=FRAME):
    return model.effect(X, {"took": 0.0}, {"took": 1.0}, progress=False)


def slope(y):
    """Least-squares slope of the treatment, and its standard error."""
    design = np.column_stack([TOOK, AGE, np.ones(ROWS)])
    beta, (rest,), *_ = np.linalg.lstsq(design, y)
    return beta[0], np.sqrt(rest / (ROWS - 3) * np.linalg.inv(design.T @ design)[0, 0])


def mixture_slope(y, share, weight):
    """Slope of the treatment of greatest likelihood, beside a cause that some rows have."""
    design = np.column_stack([TOOK, AGE, np.ones(ROWS)])

    def loss(theta):
        at = y - design @ theta[:3]
        density = (1 - share) * norm.pdf(at, scale=np.exp(theta[3]))
        return -np.log(density + share * norm.pdf(at - weight, scale=np.exp(theta[3]))).sum()

    return minimize(loss, [1.0, 0.5, 0.0, -0.7]).x[0]


@pytest.fixture(scope="module")
def model():
    return fitted(Y)


@pytest.fixture(scope="module")
def by_hand():
    draws = {"w": np.ones((9, 2)), "a": np.zeros(9), "s": np.ones(9)}
    return ImpactModel(linear, inference=ByHand(**draws)).fit(FRAME, Y, progress=False)


@pytest.fixture(scope="module")
def effect(model):
    return asked(model)


@pytest.fixture(scope="module")
def report(effect):
    return effect.hidden_cause([1, 3], [0, WEIGHT], kind="normal", ci_prob=0.9, progress=False)


def test_a_normal_cause_takes_away_what_least_squares_says(effect):
    leans = [0.0, LEAN, 3.0]
    report = effect.hidden_cause(leans, WEIGHT, kind="normal", ci_prob=0.9, progress=False)
    estimate, se = slope(Y)
    left = estimate - WEIGHT * np.array(leans)
    np.testing.assert_allclose(report.table["mean"], left, atol=0.03)
    assert report.table["low"].iloc[0] > 1.0  # the truth, which the effect as it is does not hold
    assert report.table["low"].iloc[1] < 1.0 < report.table["high"].iloc[1]
    np.testing.assert_allclose(
        report.tipping["on_treatment"], (estimate - 1.645 * se) / WEIGHT, atol=0.12
    )


@pytest.mark.slow
def test_a_normal_cause_takes_the_product_of_its_strengths(report):
    estimate, se = slope(Y)
    table = report.table
    assert table[["on_treatment", "on_outcome"]].to_numpy().tolist() == [
        [x, y] for x in (0.0, 1.0, 3.0) for y in (0.0, WEIGHT)
    ]
    left = estimate - table["on_treatment"] * table["on_outcome"]
    np.testing.assert_allclose(table["mean"], left, atol=0.03)
    np.testing.assert_allclose(table["high"] - table["low"], 2 * 1.645 * se, rtol=0.3)


@pytest.mark.slow
def test_at_the_true_strengths_the_interval_holds_the_true_effect(report, effect):
    row = report.table.query("on_treatment == 1 and on_outcome == @WEIGHT").iloc[0]
    assert row["low"] < 1.0 < row["high"]
    assert np.quantile(effect.draws, 0.01) > 1.0  # which the effect as it is does not


@pytest.mark.slow
def test_the_tipping_point_is_that_of_least_squares(report):
    estimate, se = slope(Y)
    tips = report.tipping.set_index("on_outcome")["on_treatment"]
    assert np.isnan(tips[0.0])
    assert tips[WEIGHT] == pytest.approx((estimate - 1.645 * se) / WEIGHT, abs=0.12)
    assert "reaches 0 at a strength of 2." in report.to_text()


@pytest.mark.slow
def test_a_binary_cause_leaves_what_a_mixture_of_greatest_likelihood_does():
    share = expit(2.0 * (TOOK - 0.5))
    y = TOOK + 0.5 * AGE + 1.0 * (RNG.uniform(size=ROWS) < share) + 0.5 * NOISE
    report = asked(fitted(y)).hidden_cause(2.0, 1.0, ci_prob=0.98, progress=False)
    expected = [mixture_slope(y, np.full(ROWS, 0.5), 1.0), mixture_slope(y, share, 1.0)]
    np.testing.assert_allclose(report.table["mean"], expected, atol=0.015)
    assert report.table["low"].iloc[1] < 1.0 < report.table["high"].iloc[1]


@pytest.mark.slow
def test_priors_of_the_strengths_widen_the_effect(effect):
    priors = dist.Normal(1.0, 0.5), dist.Normal(WEIGHT, 1e-3)
    report = effect.hidden_cause(*priors, kind="normal", repeats=4, progress=False)
    products = report.points.strengths.prod(axis=1)
    estimate, _ = slope(Y)
    assert report.pooled.shape == (4 * 400,)
    assert report.pooled.mean() == pytest.approx(estimate - products.mean(), abs=0.03)
    spread = np.hypot(np.std(effect.draws.to_numpy()), products.std())
    assert report.pooled.std() == pytest.approx(spread, rel=0.15)
    assert report.summary()["sd"].iloc[1] > 1.5 * report.summary()["sd"].iloc[0]
    assert "on the same side of 0" in report.to_text()
    plt.close(report.plot().figure)


@pytest.mark.slow
def test_the_picture_has_a_line_for_each_strength_on_the_outcome(report):
    picture = report.plot()
    assert len(picture.collections) == 2
    assert picture.get_ylabel() == "effect, with 0.9 intervals"
    plt.close(picture.figure)


@pytest.mark.parametrize(
    ("strengths", "options", "code"),
    [
        (([-1, 1], 1), {}, "option-unknown"),
        (([], 1), {}, "option-unknown"),
        (([np.nan], 1), {}, "option-unknown"),
        ((dist.Normal(0, 1), [1]), {}, "option-unknown"),
        ((dist.Normal(np.zeros(2), 1), dist.Normal(0, 1)), {}, "option-unknown"),
        ((1, 1), {"kind": "gamma"}, "option-unknown"),
        ((1, 1), {"treatment": "tok"}, "treatment-unknown"),
        ((1, 1), {"repeats": 0}, "not-positive"),
    ],
    ids=["signs", "none", "nan", "mixed", "vector", "kind", "treatment", "repeats"],
)
def test_what_cannot_be_asked_is_refused(by_hand, strengths, options, code):
    with pytest.raises(InputError) as error:
        asked(by_hand).hidden_cause(*strengths, progress=False, **options)
    assert error.value.code == code


def test_the_rows_must_be_those_of_the_fit(by_hand):
    other = asked(by_hand, FRAME[:50])
    with pytest.raises(InputError) as error:
        other.hidden_cause(1, 1, progress=False)
    assert error.value.code == "data-differ"


@pytest.mark.slow
def test_a_family_without_a_predictor_is_refused_by_name():
    def shares(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Beta(1.0 + jnp.exp(b * X[:, 1]), 2.0), obs=y)

    effect = asked(fitted(RNG.uniform(0.1, 0.9, size=ROWS), shares))
    with pytest.raises(InputError, match="Beta") as error:
        effect.hidden_cause(1, 1, progress=False)
    assert error.value.code == "family-unknown"


def without_effect(number):
    """Rows whose treatment does nothing, and the cause that makes it look as if it did."""
    rng = np.random.default_rng(number)
    age, noise, rest = rng.normal(size=(3, ROWS))
    cause = LEAN * (TOOK - 0.5) + rest
    return FRAME.assign(age=age), 0.5 * age + WEIGHT * cause + 0.5 * noise, cause


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_over_data_sets_the_tipping_points_bracket_the_confounder_that_was_left_out():
    counts = dict.fromkeys(("naive", "strengths", "bracket"), 0)
    for number in range(50):
        X, y, _ = without_effect(number)
        options = {"kind": "normal", "seed": number, "ci_prob": 0.9, "progress": False}
        table = asked(fitted(y, X=X), X).hidden_cause(LEAN, WEIGHT, **options).table
        holds = ((table["low"] < 0.0) & (table["high"] > 0.0)).tolist()
        counts["naive"] += holds[0]
        counts["strengths"] += holds[1]
        # strengths on the treatment at which either end of the interval is at 0
        first, last = table.loc[0, ["low", "high"]] / WEIGHT
        counts["bracket"] += bool(first < LEAN < last)
    for name in ("strengths", "bracket"):
        assert 39 <= counts[name] <= 50, counts  # Bin(50, 0.9): less once in 200
    assert counts["naive"] == 0


@pytest.mark.slow
def test_over_data_sets_the_shares_of_the_confounder_that_was_left_out_take_the_effect_away():
    """Many draws: the bias that shares stand for is a multiple of the sd, with its error."""
    held = 0
    for number in range(50):
        X, y, cause = without_effect(number)
        held += covers_with_shares(asked(fitted(y, X=X, draws=8000), X), X, y, cause)
    assert 39 <= held <= 50, held  # Bin(50, 0.9): less once in 200


def covers_with_shares(effect, X, y, cause):
    """Whether 0 lies in the 90% interval once the shares that the cause explains are told."""
    given = np.column_stack([X["age"], np.ones(ROWS)])
    on_treatment = explained(X["took"].to_numpy(), cause, given)
    on_outcome = explained(y, cause, np.column_stack([given, X["took"]]))
    report = effect.sensitivity()
    left = adjusted(report.estimate, report.se, report.dof, Strength(on_treatment, on_outcome))
    return bool(abs(left.estimate) < 1.66 * left.se)


def explained(values, cause, given):
    """Share of what `given` leaves over that a cause explains."""
    rest = [one - given @ np.linalg.lstsq(given, one, rcond=None)[0] for one in (values, cause)]
    return np.corrcoef(*rest)[0, 1] ** 2
