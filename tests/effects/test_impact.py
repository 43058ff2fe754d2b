"""Impact over time: what happened against what would have, in draws, table, text and picture."""

import pickle
import re
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro.contrib.control_flow import scan

from aimz import ImpactModel, InputError
from aimz.effects import Impact
from aimz.kernels import kalman

mpl.use("Agg")

ROWS, KNOWN = 20, 14
RNG = np.random.default_rng(1)
TIMES = pd.date_range("2024-01-01", periods=ROWS, freq="W")
X = pd.DataFrame({"control": RNG.normal(size=ROWS)}, index=TIMES)
Y = pd.Series(5 + X["control"] + 2.0 * (np.arange(ROWS) >= KNOWN), index=TIMES, name="sales")
NOISE = 0.5
QUIET: dict[str, Any] = {"progress": False}


def regression(X: Any, y: Any = None) -> None:
    mean = numpyro.sample("a", dist.Normal(0.0, 10.0)) + X[:, 0]
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def level(X: Any, y: Any = None) -> None:
    step = numpyro.sample("step", dist.LogNormal(0.0, 1.0))
    law: Any = {"transition": [[1.0]], "noise": [step], "observe": [1.0], "scale": NOISE}
    kalman("y", X[:, 0], **law, start=5.0, spread=3.0, obs=y)


def autoregression(X: Any, y: Any = None) -> None:
    share = numpyro.sample("share", dist.Normal(0.5, 0.1))

    def step(last: Any, seen: Any) -> Any:
        now = numpyro.sample("y", dist.Normal(share * last + seen[0], NOISE), obs=seen[1])
        return now, None

    scan(step, 5.0, (X[:, 0], y), length=X.shape[0])


def hidden_level(X: Any, y: Any = None) -> None:
    def step(state: Any, seen: Any) -> Any:
        state = numpyro.sample("level", dist.Normal(state, 0.4))
        numpyro.sample("y", dist.Normal(state + seen[0], NOISE), obs=seen[1])
        return state, None

    scan(step, 5.0, (X[:, 0], y), length=X.shape[0])


def several(X: Any, y: Any = None) -> None:
    mean = numpyro.sample("a", dist.Normal(0.0, 10.0)) + X @ np.ones((1, 2), np.float32)
    numpyro.sample("y", dist.Normal(mean, NOISE).to_event(1), obs=y)


DRAWS = 3000


@pytest.fixture(scope="module")
def impact() -> Any:
    im = ImpactModel(regression).set_posterior_sample({"a": np.full(DRAWS, 5.0)})
    return im.impact(X, Y, intervention_time="2024-04-10", **QUIET)


def test_numbers_are_those_of_the_closed_form(impact):
    after = ROWS - KNOWN
    assert impact.pointwise.sizes == {"chain": 1, "draw": DRAWS, "rows": after}
    np.testing.assert_allclose(impact.pointwise.mean(("chain", "draw")), 2.0, atol=0.05)
    np.testing.assert_allclose(impact.pointwise.std(("chain", "draw")), NOISE, rtol=0.1)
    np.testing.assert_allclose(
        impact.cumulative.mean(("chain", "draw")), 2.0 * np.arange(1, after + 1), atol=0.1
    )
    assert float(impact.average.std()) == pytest.approx(NOISE / after**0.5, rel=0.1)
    assert impact.pointwise["rows"].values[0] == TIMES[KNOWN]
    total = float((Y - 2.0)[KNOWN:].sum())
    assert float(impact.relative.mean()) == pytest.approx(2.0 * after / total, rel=0.02)
    table = impact.summary(ci_prob=0.9, ci_kind="eti").set_index("effect")
    for effect, count in (("average", 1), ("cumulative", after)):
        row = table.loc[effect]
        sd = NOISE * count / after**0.5
        assert row["actual"] == pytest.approx(Y[KNOWN:].mean() * count)
        assert row["predicted"] == pytest.approx(total / after * count, rel=0.01)
        assert row["absolute_eti90_lb"] == pytest.approx(
            2.0 * count - 1.645 * sd, abs=0.1 * sd + 0.02 * count
        )
        assert row["absolute_eti90_ub"] == pytest.approx(
            2.0 * count + 1.645 * sd, abs=0.1 * sd + 0.02 * count
        )
        assert row["P(effect > 0)"] == 1.0
    assert not impact.summary(direction="<")["P(effect < 0)"].any()
    assert all(kind.kind in "fi" for kind in table.dtypes)


def test_the_expectation_has_no_noise():
    im = ImpactModel(regression).set_posterior_sample({"a": np.linspace(4.9, 5.1, 101)})
    impact = im.impact(X, Y, post=np.arange(ROWS) >= KNOWN, target="expectation", **QUIET)
    np.testing.assert_allclose(impact.average.values[0], np.linspace(2.1, 1.9, 101), rtol=1e-5)
    assert "without its noise" in impact.to_text()


def numbers_in(text: str) -> list[float]:
    plain = text.replace("\N{MINUS SIGN}", "-").replace(",", "")
    return [float(number) for number in re.findall(r"(?<![\w.])-?\d+\.?\d*", plain)]


def test_text_table_and_picture_agree(impact):
    from matplotlib import pyplot as plt

    table = impact.summary(ci_prob=0.8).set_index("effect")
    said = numbers_in(impact.to_text(ci_prob=0.8))
    figure = impact.plot(ci_prob=0.8)
    caption = next(t.get_text() for t in figure.axes[2].texts)
    drawn = numbers_in(caption)
    for effect in ("average", "cumulative"):
        row = table.loc[effect]
        for name in ("predicted", "absolute"):
            for column in (name, f"{name}_eti80_lb", f"{name}_eti80_ub"):
                assert min(abs(row[column] - number) for number in said) < 6e-3 * abs(row[column])
                if name == "absolute":
                    assert min(abs(row[column] - n) for n in drawn) < 6e-3 * abs(row[column])
        assert min(abs(row["actual"] - number) for number in said) < 6e-3 * row["actual"]
        assert min(abs(100 * row["relative"] - number) for number in said) < 0.6 * row["relative"]
    (so_far,) = [line for line in figure.axes[2].lines if line.get_label() == "_mean"]
    assert so_far.get_ydata()[-1] == pytest.approx(table.loc["cumulative", "absolute"])
    band = figure.axes[2].collections[0].get_paths()[0].vertices
    at_end = band[band[:, 0] == band[:, 0].max()][:, 1]
    assert at_end.min() == pytest.approx(table.loc["cumulative", "absolute_eti80_lb"])
    assert at_end.max() == pytest.approx(table.loc["cumulative", "absolute_eti80_ub"])
    (observed,) = [line for line in figure.axes[0].lines if line.get_label() == "observed"]
    np.testing.assert_allclose(observed.get_ydata(), Y)
    plt.close(figure)
    assert "average" in impact._repr_html_()
    assert "average" in repr(impact)


def test_a_part_of_the_time_has_its_own_sums(impact):
    part = impact.window(TIMES[KNOWN + 1], TIMES[KNOWN + 3])
    assert part.summary()["rows"].tolist() == [3, 3]
    want = impact.pointwise.isel(rows=slice(1, 4)).sum("rows")
    np.testing.assert_allclose(part.cumulative.isel(rows=-1), want)
    with pytest.raises(InputError) as caught:
        impact.window("2030-01-01")
    assert caught.value.code == "time-unknown"


def test_missing_outcomes_add_nothing():
    y = Y.copy()
    y.iloc[[3, KNOWN + 1]] = np.nan
    im = ImpactModel(regression).set_posterior_sample({"a": np.full(500, 5.0)})
    impact = im.impact(X, y, intervention_time=TIMES[KNOWN], missing="mask", **QUIET)
    assert impact.summary()["rows"].tolist() == [ROWS - KNOWN - 1] * 2
    assert float(impact.average.mean()) == pytest.approx(2.0, abs=0.1)
    assert bool(impact.pointwise.isel(rows=1).isnull().all())
    nothing = impact.window(TIMES[KNOWN + 1], TIMES[KNOWN + 1])
    table = nothing.summary().drop(columns=["effect", "rows"])
    assert table.isnull().all(axis=None), "a sum of nothing is no effect of 0"
    assert nothing.to_text().startswith("There is no average effect: no outcome is known.")
    with pytest.raises(InputError) as caught:
        im.impact(X, y, intervention_time=TIMES[KNOWN], **QUIET)
    assert caught.value.code == "not-finite"


def test_what_may_be_zero_has_no_share():
    im = ImpactModel(regression).set_posterior_sample({"a": np.linspace(-2, 2, 200)})
    impact = im.impact(X, Y - 5, intervention_time=TIMES[KNOWN], **QUIET)
    assert impact.summary()["relative"].isna().all()
    assert "no share" in impact.to_text()


def ahead(kernel: Any) -> np.ndarray:
    """Expected rows after a history, of the laws with 0.4 or a half for their parameter."""
    x, y = X["control"].to_numpy(), Y.to_numpy()
    if kernel is autoregression:
        path = [y[KNOWN - 1]]
        for row in range(KNOWN, ROWS):
            path.append(0.5 * path[-1] + x[row])
        return np.array(path[1:])
    cover = 9 + 0.16 * np.minimum.outer(np.arange(ROWS), np.arange(ROWS)) + NOISE**2 * np.eye(ROWS)
    off = np.linalg.solve(cover[:KNOWN, :KNOWN], (y - x - 5)[:KNOWN])
    return (5 + x + cover[:, :KNOWN] @ off)[KNOWN:]


@pytest.mark.parametrize(
    ("kernel", "draws"), [(level, {"step": 0.4}), (autoregression, {"share": 0.5})]
)
def test_series_go_on_from_their_history(kernel, draws):
    im = ImpactModel(kernel).set_posterior_sample({n: np.full(DRAWS, v) for n, v in draws.items()})
    impact = im.impact(X, Y, intervention_time=TIMES[KNOWN], **QUIET)
    assert impact.before is None
    got = impact.predicted.mean(("chain", "draw"))
    np.testing.assert_allclose(got, ahead(kernel), atol=0.12)


def test_a_series_with_holes_before_goes_on_from_what_is_there():
    y = Y.copy()
    y.iloc[[2, KNOWN - 1]] = np.nan
    im = ImpactModel(level).set_posterior_sample({"step": np.full(DRAWS, 0.4)})
    impact = im.impact(X, y, intervention_time=TIMES[KNOWN], missing="mask", **QUIET)
    there = np.setdiff1d(np.arange(KNOWN), [2, KNOWN - 1])
    cover = 9 + 0.16 * np.minimum.outer(np.arange(ROWS), np.arange(ROWS)) + NOISE**2 * np.eye(ROWS)
    off = np.linalg.solve(cover[np.ix_(there, there)], (Y - X["control"] - 5).to_numpy()[there])
    want = 5 + X["control"].to_numpy() + cover[:, there] @ off
    np.testing.assert_allclose(impact.predicted.mean(("chain", "draw")), want[KNOWN:], atol=0.12)
    with pytest.raises(InputError) as caught:
        im.impact(X, Y, intervention_time=TIMES[KNOWN], target="expectation", **QUIET)
    assert caught.value.code == "no-mean"


def test_latents_behind_a_series_need_no_history():
    draws = {"level": np.full((DRAWS, KNOWN), 5.0)}
    im = ImpactModel(hidden_level).set_posterior_sample(draws)
    impact = im.impact(X, Y, intervention_time=TIMES[KNOWN], **QUIET)
    got = impact.predicted.mean(("chain", "draw"))
    np.testing.assert_allclose(got, 5 + X["control"][KNOWN:], atol=0.1)
    spread = impact.predicted.std(("chain", "draw")).values
    want = np.sqrt(NOISE**2 + 0.16 * np.arange(1, ROWS - KNOWN + 1))
    np.testing.assert_allclose(spread, want, rtol=0.1)
    assert impact.before is not None
    np.testing.assert_allclose(
        impact.before.mean(("chain", "draw")), 5 + X["control"][:KNOWN], atol=0.1
    )


def test_several_series_are_columns():
    wide = pd.DataFrame({"a": Y, "b": Y - 2.0 * (np.arange(ROWS) >= KNOWN)})
    im = ImpactModel(several).set_posterior_sample({"a": np.full(500, 5.0)})
    impact = im.impact(X, wide, intervention_time=TIMES[KNOWN], **QUIET)
    table = impact.summary()
    assert table.iloc[:, :2].to_numpy().tolist() == [
        ["a", "average"],
        ["a", "cumulative"],
        ["b", "average"],
        ["b", "cumulative"],
    ]
    np.testing.assert_allclose(table["absolute"], [2.0, 12.0, 0.0, 0.0], atol=0.3)
    with pytest.raises(InputError) as caught:
        impact.plot()
    assert caught.value.code == "series-several"
    one = impact.of(**{str(impact.observed.dims[1]): "b"})
    np.testing.assert_allclose(one.summary()["absolute"], table["absolute"][2:])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "post-unclear"),
        ({"post": np.ones(ROWS, bool), "intervention_time": 3}, "post-unclear"),
        ({"post": np.ones(ROWS, bool)}, "post-unclear"),
        ({"post": np.zeros(ROWS, bool)}, "post-unclear"),
        ({"post": np.arange(ROWS) < 3}, "post-unclear"),
        ({"post": np.arange(3) > 1}, "post-unclear"),
        ({"intervention_time": "2031-01-01"}, "post-unclear"),
        ({"intervention_time": "yesterday, perhaps"}, "time-unknown"),
        ({"intervention_time": TIMES[KNOWN], "target": "mean"}, "option-unknown"),
    ],
)
def test_an_intervention_that_divides_nothing_is_refused(options, code):
    im = ImpactModel(regression).set_posterior_sample({"a": np.full(2, 5.0)})
    with pytest.raises(InputError) as caught:
        im.impact(X, Y, **options, **QUIET)
    assert caught.value.code == code


def test_rows_out_of_order_are_refused():
    im = ImpactModel(regression).set_posterior_sample({"a": np.full(2, 5.0)})
    with pytest.raises(InputError) as caught:
        im.impact(X[::-1], Y, intervention_time=TIMES[KNOWN], **QUIET)
    assert caught.value.code == "time-unknown"


@pytest.mark.slow
def test_a_fresh_model_sees_only_the_rows_before_and_is_checked_on_them():
    im = ImpactModel(regression, inference="laplace", num_samples=300)
    impact = im.impact(X, Y, intervention_time=TIMES[KNOWN], **QUIET)
    assert not im.is_fitted()
    assert float(impact.average.mean()) == pytest.approx(2.0, abs=0.3)
    table = impact.check(times=[8])
    assert table["rows"].tolist() == [KNOWN - 8]
    assert table["covers_0"].all()
    assert (table["error"] < NOISE).all()
    assert (table["coverage"] == 1.0).all()
    with pytest.raises(InputError) as caught:
        impact.check(times=[KNOWN])
    assert caught.value.code == "time-unknown"
    with pytest.raises(InputError) as caught:
        pickle.loads(pickle.dumps(impact)).check()
    assert caught.value.code == "no-data"
    whole = ImpactModel(regression, inference="laplace", num_samples=300).fit(X, Y, **QUIET)
    with pytest.raises(InputError) as caught:
        whole.impact(X, Y, intervention_time=TIMES[KNOWN], **QUIET)
    assert caught.value.code == "fit-saw-after"
    before = ImpactModel(regression, inference="laplace", num_samples=300).fit(
        X[:KNOWN], Y[:KNOWN], **QUIET
    )
    again = before.impact(X, Y, intervention_time=TIMES[KNOWN], **QUIET)
    np.testing.assert_array_equal(again.predicted, impact.predicted)


def weighted(X: Any, y: Any = None) -> None:
    weights = numpyro.sample("weights", dist.Dirichlet(np.ones(X.shape[1], np.float32)))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ weights, NOISE), obs=y)


DONORS = pd.DataFrame(RNG.normal(size=(ROWS, 4)), index=TIMES, columns=list("abcd"))


def of_equal_weights(donors: pd.DataFrame, series: pd.Series) -> Impact:
    weights = np.full((20, donors.shape[1]), 1 / donors.shape[1], np.float32)
    im = ImpactModel(weighted).set_posterior_sample({"weights": weights})
    return im.impact(donors, series, intervention_time=TIMES[KNOWN], **QUIET)


def test_placebos_in_space_have_the_ratios_of_their_errors():
    sales = DONORS.mean(axis=1) + 0.1 * RNG.normal(size=ROWS) + 9.0 * (np.arange(ROWS) >= KNOWN)
    whole = of_equal_weights(DONORS, sales)
    assert list(whole.elsewhere or ()) == list("abcd")
    others = {name: of_equal_weights(DONORS.drop(columns=name), DONORS[name]) for name in "abc"}
    made: Any = {name: partial(others.get, name) for name in others}
    table = replace(whole, elsewhere=made).placebo_in_space(ci_prob=0.9)
    assert table["series"].tolist() == ["y", "a", "b", "c"]
    assert table["treated"].tolist() == [True, False, False, False]
    for (_, row), impact in zip(table.iterrows(), (whole, *others.values()), strict=True):
        draws = np.concatenate([impact.before, impact.predicted], axis=2)
        squares = (impact.observed.to_numpy() - draws.mean((0, 1))) ** 2
        errors = [np.sqrt(part.mean()) for part in (squares[:KNOWN], squares[KNOWN:])]
        assert row[["error_before", "error_after"]].tolist() == pytest.approx(errors)
        assert row["ratio"] == pytest.approx(errors[1] / errors[0])
        assert row["effect"] == pytest.approx(float(impact.average.mean()))
        assert row["covers_0"] == (row["effect_eti90_lb"] <= 0 <= row["effect_eti90_ub"])
        larger = (table["ratio"] >= row["ratio"]).mean()
        assert row["share_as_large"] == larger
    assert table["share_as_large"][0] == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("has_labels", [True, False])
def test_a_placebo_in_space_is_the_impact_on_that_donor(has_labels):
    """Fitted to it, given the other donors; it knows nothing of the treated series."""
    sales = DONORS.mean(axis=1) + 9.0
    donors: Any = DONORS if has_labels else DONORS.to_numpy()
    asked: Any = {"intervention_time": TIMES[KNOWN] if has_labels else KNOWN, **QUIET}
    y: Any = sales if has_labels else sales.to_numpy()
    im = ImpactModel(weighted, num_samples=400)
    table = im.impact(donors, y, **asked).placebo_in_space(["c"] if has_labels else [2])
    rest: Any = DONORS.drop(columns="c") if has_labels else np.delete(donors, 2, 1)
    series: Any = DONORS["c"] if has_labels else donors[:, 2]
    own = ImpactModel(weighted, num_samples=400).impact(rest, series, **asked)
    assert len(table) == 2
    assert table["effect"][1] == pytest.approx(float(own.average.mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("no-data", lambda impact: impact.window(TIMES[KNOWN])),
        ("no-data", lambda impact: pickle.loads(pickle.dumps(impact))),
        ("placebo-space", lambda impact: impact),
    ],
    ids=["a part", "from a file", "one column"],
)
def test_placebos_in_space_need_series(code, changed):
    im = ImpactModel(regression).set_posterior_sample({"a": np.zeros(10, np.float32)})
    impact = changed(im.impact(X, Y, intervention_time=TIMES[KNOWN], **QUIET))
    with pytest.raises(InputError) as caught:
        impact.placebo_in_space()
    assert caught.value.code == code


def test_a_donor_is_a_column():
    im = ImpactModel(regression).set_posterior_sample({"a": np.zeros(10, np.float32)})
    two = np.column_stack([X, X]) * [1.0, 2.0]
    impact = im.impact(two, Y.to_numpy(), intervention_time=KNOWN, **QUIET)
    with pytest.raises(InputError) as caught:
        impact.placebo_in_space(["control"])
    assert caught.value.code == "column-unknown"


def of_family(law: Any) -> Any:
    def kernel(X: Any, y: Any = None) -> None:
        a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", law(a + X[:, 0]), obs=y)

    return kernel


def against(statistic: Any) -> Any:
    def kernel(X: Any, y: Any = None) -> None:
        a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(a + statistic(X)[:, 0], 1.0), obs=y)

    return kernel


ANGLE = of_family(lambda mean: dist.VonMises(mean, 50.0))
CATEGORY = of_family(lambda mean: dist.Categorical(logits=jnp.stack([mean, 0 * mean, -mean], -1)))
COUNT = of_family(lambda mean: dist.Poisson(jnp.exp(mean)))
YES_OR_NO = of_family(lambda mean: dist.Bernoulli(logits=mean))
CODES = np.arange(ROWS) % 2
NO_EFFECT: dict[str, tuple[Any, Any, str]] = {
    "angle": (ANGLE, np.where(np.arange(ROWS) < KNOWN, -3.0, 3.0), "not-quantity"),
    "category": (CATEGORY, CODES, "not-quantity"),
    "negative count": (COUNT, np.where(np.arange(ROWS) == ROWS - 1, -1, 3), "outcome-support"),
    "half a count": (COUNT, np.where(np.arange(ROWS) == ROWS - 1, 2.5, 3.0), "outcome-support"),
    "two of one": (YES_OR_NO, np.where(np.arange(ROWS) == ROWS - 1, 2, CODES), "outcome-support"),
    "blurred": (regression, 1e7 + Y.to_numpy(), "cast-precision"),
    "centred": (against(lambda x: x - x.mean(0)), Y, "statistic-cancels"),
    "standardised": (against(lambda x: (x - x.mean()) / x.std()), Y, "statistic-cancels"),
    "ranks": (against(lambda x: jnp.argsort(jnp.argsort(x, 0), 0)), Y, "statistic-cancels"),
    "share of the greatest": (against(lambda x: x / x.max()), Y, "statistic-cancels"),
}


@pytest.mark.parametrize("target", ["prediction", "expectation"])
@pytest.mark.parametrize("case", NO_EFFECT)
def test_what_no_effect_can_be_taken_of_is_refused(case, target):
    kernel, y, code = NO_EFFECT[case]
    im = ImpactModel(kernel).set_posterior_sample({"a": np.full(50, 1e7 if code[0] == "c" else 0)})
    if code == "cast-precision" and target == "expectation":  # it is computed in double precision
        impact = im.impact(X, y, intervention_time=TIMES[KNOWN], target=target, **QUIET)
        assert float(impact.average.mean()) == pytest.approx(7.0, abs=1e-6)
        return
    with pytest.raises(InputError) as caught:
        im.impact(X, y, intervention_time=TIMES[KNOWN], target=target, **QUIET)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("kernel", "y"), [(YES_OR_NO, CODES), (YES_OR_NO, CODES > 0), (COUNT, CODES.astype(np.uint8))]
)
def test_codes_of_yes_and_no_and_counts_have_an_effect(kernel, y):
    im = ImpactModel(kernel).set_posterior_sample({"a": np.zeros(50)})
    asked: Any = {"intervention_time": TIMES[KNOWN], "target": "expectation", **QUIET}
    control = X["control"].to_numpy()[KNOWN:]
    mean = 1 / (1 + np.exp(-control)) if kernel is YES_OR_NO else np.exp(control)
    want = (y[KNOWN:].astype(float) - mean).mean()
    assert float(im.impact(X, y, **asked).average.mean()) == pytest.approx(want, abs=1e-5)


# ------------------------------------------------------------------ times of every kind

YEARS = pd.date_range("1955-01-01", periods=ROWS, freq="YS")  # past 1970, where nanoseconds start
RISING = np.arange(ROWS) ** 2.0


def rising(labels: Any, **when: Any) -> Impact:
    im = ImpactModel(regression).set_posterior_sample({"a": np.zeros(2)})
    rows: Any = np.zeros((ROWS, 1)) if labels is None else pd.DataFrame({"x": 0.0}, index=labels)
    return im.impact(rows, RISING, target="expectation", **when, **QUIET)


@pytest.mark.parametrize(
    ("labels", "time", "place"),
    [
        (YEARS, "1970", 15),
        (YEARS, "1969-06-01", 15),
        (YEARS, np.datetime64("1970"), 15),
        (YEARS, YEARS[15].date(), 15),
        (YEARS, pd.Period("1970", "Y"), 15),
        (YEARS.tz_localize("Europe/Paris"), "1970-01-01", 15),
        (YEARS.tz_localize("Europe/Paris"), YEARS[15].tz_localize("Europe/Paris"), 15),
        (YEARS.strftime("%Y-%m-%d"), "1970-1-1", 15),
        (YEARS.strftime("%Y-%m-%d"), YEARS[15], 15),
        (pd.Index([time.date() for time in YEARS]), YEARS[15].date(), 15),
        (YEARS.to_period(), "1970", 15),
        (YEARS.to_period(), pd.Period("1970", "Y"), 15),
        (pd.date_range("1955-01-01", periods=ROWS).strftime("%Y-%m-%d"), "1955-1-9", 8),
        (pd.Index([f"w{number}" for number in range(1, ROWS + 1)]), "w9", 8),
        (pd.timedelta_range(0, periods=ROWS, freq="D"), "8 days", 8),
        (pd.RangeIndex(1955, 1955 + ROWS), 1970, 15),
        (None, 8, 8),
        (None, 7.5, 8),
    ],
)
def test_a_time_is_found_among_times_of_its_kind(labels, time, place):
    impact = rising(labels, intervention_time=time)
    assert impact.average.values.tolist() == [[RISING[place:].mean()] * 2]


@pytest.mark.parametrize(
    ("labels", "time"),
    [
        (YEARS, 15),  # the number of a row, and not 15 nanoseconds after 1970
        (YEARS, 1970),
        (YEARS, 15.0),
        (YEARS, np.int64(15)),
        (YEARS, True),
        (YEARS, "15"),  # of this month, as pandas has it
        (YEARS, "March"),
        (YEARS, "NaT"),
        (YEARS, pd.Timestamp("1970", tz="UTC")),
        (YEARS.strftime("%Y-%m-%d"), 15),
        (
            pd.date_range("2020-03-20", periods=ROWS, tz="Europe/Paris"),
            "2020-03-25",
        ),  # + 1 h, + 2 h
        (pd.Index([f"w{number}" for number in range(ROWS)]), "w99"),
        (pd.Index(["w1"] * ROWS), "w1"),
        (pd.RangeIndex(1955, 1955 + ROWS), "1970"),
        (pd.MultiIndex.from_product([range(4), range(5)]), (2, 0)),
        (None, True),
        (None, "2020-01-01"),
    ],
)
def test_a_time_of_another_kind_is_refused(labels, time):
    with pytest.raises(InputError) as caught:
        rising(labels, intervention_time=time)
    assert caught.value.code == "time-unknown"


def test_a_window_takes_times_of_the_rows_only():
    impact = rising(YEARS, intervention_time="1960")
    narrow = impact.window("1962-6", pd.Period("1964", "Y"))
    assert narrow.average.values.tolist() == [[RISING[8:10].mean()] * 2]
    for start, stop in ((5, None), (None, 5), (1962, 1964)):
        with pytest.raises(InputError) as caught:
            impact.window(start, stop)
        assert caught.value.code == "time-unknown"


@pytest.mark.parametrize(
    ("post", "code"),
    [
        (pd.Series(np.arange(ROWS) >= 15, index=YEARS).sample(frac=1, random_state=0), None),
        (pd.Series(np.arange(ROWS) >= 15, index=YEARS[::-1]), "post-unclear"),
        (pd.Series(np.arange(ROWS) >= 15, index=YEARS.shift(1)), "row-labels"),
        (
            pd.Series([pd.NA, *[False] * 14, *[True] * 5], dtype="boolean", index=YEARS),
            "post-unclear",
        ),
    ],
)
def test_what_comes_after_is_lined_up_by_its_labels(post, code):
    if code is None:
        assert rising(YEARS, post=post).average.values.tolist() == [[RISING[15:].mean()] * 2]
        return
    with pytest.raises(InputError) as caught:
        rising(YEARS, post=post)
    assert caught.value.code == code
