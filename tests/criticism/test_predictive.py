"""A predictive check finds what is wrong with a model, and nothing where it is right."""

from typing import Any

import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats

from aimz import ImpactModel, InputError
from aimz.criticism import Compared, left_out_weights, predictive_check

mpl.use("Agg")

ROWS, DRAWS = 600, 400
RNG = np.random.default_rng(3)
X = RNG.normal(size=(ROWS, 2)).astype(np.float32)
T = (RNG.random(ROWS) < 0.5).astype(np.float32)
NOISE = RNG.normal(size=ROWS).astype(np.float32)
QUIET: dict[str, Any] = {"progress": False}


def linear(X: Any, t: Any, y: Any = None) -> None:
    b = numpyro.sample("b", dist.Normal(0.0, 5.0).expand([3]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b[:2] + b[2] * t, 1.0), obs=y)


def counts(X: Any, y: Any = None) -> None:
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.GeometricProbs(0.5 + 0.0 * (a + X[:, 0])), obs=y)


def mixed(X: Any, y: Any = None) -> None:
    """Each row has a latent, which hardly lets its outcome surprise it."""
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        u = numpyro.sample("u", dist.Normal())
        numpyro.sample("y", dist.Normal(a + u, 0.2), obs=y)


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    b = np.tile(np.array([1.0, -1.0, 2.0], np.float32), (DRAWS, 1))
    return ImpactModel(linear).set_posterior_sample({"b": b})


def checked(model: ImpactModel, y: np.ndarray, **options: Any) -> Any:
    return model.check(X, y, t=T, treatment="t", **options, **QUIET)


MEAN = X @ np.array([1.0, -1.0], np.float32) + 2 * T


def test_nothing_is_found_where_the_model_is_right(model):
    check = checked(model, MEAN + NOISE)
    assert check.misfits == []
    assert "No misfit was found" in check.to_text()
    # Places are those of the closed form, up to the noise of so many draws.
    want = stats.norm.cdf(NOISE)
    kept = 0.75 * DRAWS  # the others say where the regions are
    error = np.sqrt(want * (1 - want) / kept) + 1 / kept
    assert (np.abs(check.rows["pit"] - want) / error).max() < 4.5
    assert list(check.regions["arm"][:3]) == ["all", "0", "1"]
    assert len(check.regions) == 15
    whole = check.regions.iloc[0]
    assert whole["rows"] == ROWS
    assert whole["spread"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("y", "said", "column"),
    [
        (MEAN + NOISE + 0.5 * T, "in arm 1 are too low", None),
        (MEAN + 0.6 * NOISE, "of all rows are too wide", None),
        (MEAN + NOISE * np.where(T == 0, 1.5, 1.0), "in arm 0 are too narrow", None),
        (MEAN + NOISE + 0.4 * (X[:, 1] ** 2 - 1), "curvature along 'X[1]'", "X[1]"),
        (MEAN + NOISE + 0.5 * T * X[:, 0], "slope along 'X[0]' in arm 1", "X[0]"),
    ],
    ids=["one arm", "too wide", "one arm's noise", "curvature", "effect that varies"],
)
def test_what_is_wrong_is_said(model, y, said, column):
    check = checked(model, y)
    assert any(said in sentence for sentence in check.misfits), check.to_text()
    assert said in check.to_text()
    wrong = check.columns[check.columns["verdict"] != ""]["column"]
    assert set(wrong) <= {column}


def test_verdicts_are_rarely_wrong(model):
    rng = np.random.default_rng(0)
    alarms = sum(bool(checked(model, MEAN + rng.normal(size=ROWS)).misfits) for _ in range(30))
    assert alarms <= 2  # 0.3 are expected, of Holm's 1%


def test_regions_know_nothing_of_the_ranks():
    """Where all predictions are alike, chance decides which draws lie high."""
    rows = 20_000

    def same(X: Any, y: Any = None) -> None:
        a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(a + 0.0 * X[:, 0], 1.0), obs=y)

    im = ImpactModel(same).set_posterior_sample({"a": np.zeros(100, np.float32)})
    y = np.random.default_rng(0).normal(size=rows)
    check = im.check(np.zeros((rows, 1), np.float32), y, **QUIET)
    shifts = check.regions["shift"][1:]
    assert len(shifts) == 4
    assert shifts.abs().max() < 4 / np.sqrt(rows / 4)


def test_counts_have_uniform_places():
    """Outcomes come of the seed that people use: the numbers that split ties must be others."""
    a = np.zeros(DRAWS, np.float32)
    im = ImpactModel(counts).set_posterior_sample({"a": a})
    check = im.check(X, np.random.default_rng(0).geometric(0.5, ROWS) - 1, **QUIET)
    assert check.misfits == []
    assert stats.kstest(check.rows["pit"], "uniform").pvalue > 0.01
    more = im.check(X, np.random.default_rng(0).geometric(0.4, ROWS) - 1, **QUIET)
    assert "too low" in more.regions["verdict"][0]


def test_a_row_that_no_draw_tells_apart_is_as_the_others_leave_it():
    """Its likelihood is the same in all draws, so that its weights are, by the last digit or so."""
    draws = RNG.normal(size=(40, DRAWS))
    alike = np.full(draws.shape, -1.3)
    alike[1::2] += 1e-16 * RNG.integers(0, 2, size=(20, DRAWS))
    there = np.ones(40, bool)
    left_out, plain = (
        predictive_check(Compared(NOISE[:40], draws, density, learned), None, 1, {}).rows["pit"]
        for density, learned in ((alike, there), (None, ~there))
    )
    np.testing.assert_allclose(left_out, plain, rtol=1e-9)


def test_weights_without_an_observation_are_one_over_its_likelihood():
    rows = RNG.normal(size=(3, DRAWS))
    rows[1], rows[2, :5] = -2.0, -np.inf
    weights, k = left_out_weights(rows)
    assert abs(k[0]) < 0.7
    np.testing.assert_array_equal(k[1:], [-np.inf, np.inf])
    shares = np.exp(-rows[0]) / np.exp(-rows[0]).sum()
    smallest = np.argsort(shares)[: DRAWS // 2]  # which no smoothing moves
    np.testing.assert_allclose(
        np.exp(weights[0] - weights[0][smallest[0]])[smallest],
        shares[smallest] / shares[smallest[0]],
    )
    np.testing.assert_allclose(weights[1], -np.log(DRAWS))
    np.testing.assert_allclose(np.exp(weights[2]), np.where(np.arange(DRAWS) < 5, 0.2, 0.0))


def test_rows_that_do_not_count_are_left_out(model):
    y = MEAN + NOISE
    y[:50] = np.nan
    check = checked(model, y, missing="mask")
    assert len(check.rows) == ROWS - 50
    with pytest.raises(InputError):
        checked(model, y)


def test_regions_may_be_named(model):
    named = np.where(X[:, 0] > 0, "right", "left")
    check = checked(model, MEAN + NOISE + (X[:, 0] > 0), regions=named)
    rows = check.regions.set_index(["arm", "region"])
    assert "too low" in rows.loc[("all", "right"), "verdict"]
    assert rows.loc[("all", "left"), "verdict"] == ""


def series(X: Any, y: Any = None) -> None:
    a = numpyro.sample("a", dist.Normal())

    def step(state: Any, x: Any) -> Any:
        now = numpyro.sample("y", dist.Normal(a * state + x[0][0], 1.0), obs=x[1])
        return now, None

    scan(step, 0.0, (X, y), length=X.shape[0])


def vector(X: Any, y: Any = None) -> None:
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X, 1.0).to_event(1), obs=y)


def categories(X: Any, y: Any = None) -> None:
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        logits = X[:, :1] * np.ones(3, np.float32) + a
        numpyro.sample("y", dist.Categorical(logits=logits), obs=y)


def censored(X: Any, y: Any = None) -> None:
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        law = dist.RightCensoredDistribution(dist.Normal(a, 1.0), X[:, 0] > 0)
        numpyro.sample("y", law, obs=y)


def masked(X: Any, y: Any = None) -> None:
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(a, 1.0).mask(X[:, 0] > 0), obs=y)


@pytest.mark.parametrize("kernel", [series, vector, categories, censored, masked])
def test_outcomes_that_have_no_places_are_refused(kernel):
    im = ImpactModel(kernel).set_posterior_sample({"a": np.zeros(DRAWS, np.float32)})
    y: Any = X[:30] if kernel is vector else np.zeros(30, int if kernel is categories else "f4")
    with pytest.raises(InputError) as caught:
        im.check(X[:30], y, **QUIET)
    assert caught.value.code == "check-site"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"treatment": "nobody"}, "treatment-unknown"),
        ({"regions": 0}, "not-positive"),
        ({"regions": np.zeros(3)}, "rows-mismatch"),
    ],
)
def test_groups_that_there_are_not_are_refused(model, options, code):
    with pytest.raises(InputError) as caught:
        model.check(X, MEAN, t=T, **options, **QUIET)
    assert caught.value.code == code


def test_draws_may_be_too_few():
    few = ImpactModel(linear).set_posterior_sample({"b": np.zeros((50, 3), np.float32)})
    with pytest.raises(InputError) as caught:
        checked(few, MEAN)
    assert caught.value.code == "draws-few"


def test_the_picture_has_a_panel_for_each_question(model, tmp_path):
    figure = checked(model, MEAN + NOISE).plot(path=tmp_path / "check.png")
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "Calibration",
        "By region",
        "Along the worst column",
    ]
    assert (tmp_path / "check.png").stat().st_size > 1_000


@pytest.mark.slow
def test_rows_of_the_fit_are_judged_without_themselves():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(120, 40)).astype(np.float32)

    def many(X: Any, y: Any = None) -> None:
        b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)

    y = wide @ rng.normal(size=40) + rng.normal(size=120)
    im = ImpactModel(many, num_samples=4_000).fit(wide, y, **QUIET)
    check = im.check(wide, y, **QUIET)
    assert check.left_out == 120
    # The closed form of each row, left out.
    cov = np.linalg.inv(wide.T @ wide + np.eye(40))
    hat = ((wide @ cov) * wide).sum(1)
    score = (y - wide @ cov @ wide.T @ y) / (1 - hat) / np.sqrt(1 / (1 - hat))
    assert np.corrcoef(check.rows["score"], score)[0, 1] > 0.98
    assert check.regions["spread"][0] == pytest.approx(np.sqrt(np.mean(score**2)), rel=0.07)
    assert check.misfits == []
    again = im.check(wide, rng.permutation(y), **QUIET)  # other outcomes of the same rows
    assert again.left_out == 0


@pytest.mark.slow
def test_a_latent_of_each_row_does_not_make_a_model_look_too_wide():
    y = 0.5 + np.random.default_rng(0).normal(size=300) * np.sqrt(1.04)
    im = ImpactModel(mixed).fit(X[:300], y, **QUIET)
    check = im.check(X[:300], y, **QUIET)
    assert check.regions["spread"][0] == pytest.approx(1.0, abs=0.15)
    assert "too wide" not in check.to_text()
