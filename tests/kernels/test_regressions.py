"""Ready-made regressions: their units, their arguments, and the truth they find."""

import pickle
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import sklearn.base
from numpyro import handlers

from aimz import ImpactModel, InputError
from aimz.kernels import GLM, Flexible, Hierarchical, Linear, standard
from aimz.model import saving

RNG = np.random.default_rng(0)
ROWS = 500
X = RNG.normal(size=(ROWS, 5))
CHANCE = 1 / (1 + np.exp(-X[:, 0]))
T = (RNG.random(ROWS) < CHANCE).astype(float)


# Of the ridge of treatments, one of which others' rows choose.
STRENGTHS = 0.003, 0.01, 0.03, 0.1, 0.3


def law_of(kernel: Any, rows: Any, values: dict[str, Any], **named: Any) -> Any:
    """The distribution of the outcome, with its latents at some values."""
    fixed = handlers.substitute(handlers.seed(kernel, 0), values)
    return handlers.trace(fixed).get_trace(rows, **named)["y"]["fn"]


@pytest.mark.parametrize(
    ("name", "settings", "arguments"),
    [
        ("linear", {}, {"X", "y"}),
        ("linear", {"treatment": "dose"}, {"X", "y", "dose"}),
        ("glm", {"family": "poisson", "treatment": "t"}, {"X", "y", "t"}),
        ("hierarchical", {"groups": 3, "group": "site"}, {"X", "y", "site"}),
        ("flexible", {"treatment": "t"}, {"X", "y", "t"}),
        ("flexible", {"propensity": "chance"}, {"X", "y", "t", "chance"}),
    ],
)
def test_arguments_are_named_by_settings(name, settings, arguments):
    im = ImpactModel(name, **settings)
    signature = im.kernel.__signature__
    assert set(signature.parameters) == arguments
    assert sklearn.base.clone(im).kernel == im.kernel
    with pytest.raises(InputError) as caught:
        im.fit(X, T, other=T, progress=False)
    assert caught.value.code == "argument-unknown"


def test_a_saved_model_finds_its_kernel(tmp_path):
    settings = standard(X[:, :2])
    latents = {"base": np.ones(4), "slope": np.ones((4, 2)), "effect": np.ones(4)}
    im = ImpactModel("glm", family="bernoulli", treatment="dose", **settings)
    im.set_posterior_sample(latents).save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model")
    assert again.kernel == im.kernel
    one, other = (
        m.predict_on_batch(X[:, :2], dose=T, return_datatree=False)["y"] for m in (im, again)
    )
    np.testing.assert_array_equal(one, other)


def test_means_are_those_of_the_formula():
    rows = 3.0 + 2.0 * X[:, :2]
    at: Any = {"base": 0.5, "slope": np.array([1.0, -1.0]), "effect": 2.0, "noise": 0.5}
    units = standard(rows, [10.0, 14.0])
    mean = 0.5 + ((rows - rows.mean(0)) / rows.std(0)) @ at["slope"] + 2.0 * T
    linear = law_of(Linear(treatment="t", **units), rows, at, t=T)
    np.testing.assert_allclose(linear.loc, 12.0 + 2.0 * mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(linear.scale, 1.0)
    del units["loc"], units["unit"]
    for family, law_mean in (("bernoulli", 1 / (1 + np.exp(-mean))), ("poisson", np.exp(mean))):
        law = law_of(GLM(family=family, treatment="t", **units), rows, at, t=T)
        np.testing.assert_allclose(law.mean, law_mean, rtol=1e-4)
    groups = np.arange(ROWS) % 3
    at |= {"level": np.array([0.0, 1.0, 2.0]), "effect_beyond": np.array([1.0, 0.0, -1.0])}
    hierarchical = Hierarchical(groups=3, treatment="t", **units)
    law = law_of(hierarchical, rows, at, t=T, group=groups)
    want = mean + at["level"][groups] + at["effect_beyond"][groups] * T
    np.testing.assert_allclose(law.loc, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("columns", [1, 5, 60])
def test_waves_have_the_size_of_their_spread_whatever_the_columns(columns):
    rows = np.random.default_rng(1).normal(size=(100, columns))
    at: Any = {"base": 0.0, "effect": 0.0}
    at |= {f"{part}_line": np.zeros(columns) for part in ("prognosis", "variation")}
    at |= {"prognosis_wave": np.zeros(40), "variation_step": np.zeros(20)}
    surfaces = []
    for seed in range(100):
        at["variation_wave"] = np.random.default_rng(seed).normal(size=20) / 20**0.5
        surfaces.append(law_of(Flexible(waves=40), rows, at, t=np.full(100, 1.5)).loc)
    assert np.std(surfaces) == pytest.approx(1.0, rel=0.15)


def test_a_propensity_centres_the_treatment_and_is_a_column_of_the_prognosis():
    at: Any = {"base": 0.0, "effect": 2.0, "prognosis_line": np.eye(6)[5]}
    at |= {"prognosis_wave": np.zeros(40), "variation_line": np.zeros(5)}
    at |= {"variation_step": np.zeros(20), "variation_wave": np.zeros(20)}
    law = law_of(Flexible(propensity="e", waves=40), X.astype(np.float32), at, t=T, e=CHANCE)
    np.testing.assert_allclose(law.loc, 4 * CHANCE - 2 + 2 * (T - CHANCE), atol=1e-5)


@pytest.mark.parametrize(("columns", "waves"), [(1, 120), (180, 120), (225, 75), (500, 20)])
def test_beside_many_columns_there_are_fewer_waves(columns, waves):
    traced = handlers.trace(handlers.seed(Flexible(), 0)).get_trace(np.ones((2, columns)), t=1.0)
    assert traced["prognosis_wave"]["value"].shape == (waves,)
    numbers = [traced[f"variation_{part}"]["value"].shape[0] for part in ("step", "wave")]
    assert numbers == [waves // 2, waves - waves // 2]


def test_chances_of_treatment_are_those_of_a_ridge():
    rows = 40.0 + 3.0 * X
    kernel = Flexible(waves=40).settled(rows, 7.0 * X[:, 0], {"t": T})
    columns = kernel.columns(rows)
    features = np.column_stack([columns, 0.5 * np.asarray(kernel.curves(columns))])
    slopes = np.array(kernel.chance[1:])
    chance = 1 / (1 + np.exp(-kernel.chance[0] - features @ slopes))
    # Where the penalised likelihood is greatest, its slope is zero.
    assert np.sum(T - chance) == pytest.approx(0.0, abs=1e-2)
    excess = [np.abs(features.T @ (T - chance) - slopes / c).max() for c in STRENGTHS]
    assert min(excess) < 1e-2
    assert np.corrcoef(chance, CHANCE)[0, 1] > 0.95
    known = Flexible(propensity="e").settled(rows, T, {"t": T, "e": CHANCE})
    assert known.chance == Flexible().settled(rows, T, {"t": T * 2}).chance == ()
    at: Any = {"base": 0.0, "effect": 2.0, "prognosis_line": np.eye(6)[5]}
    at |= {"prognosis_wave": np.zeros(40), "variation_line": np.zeros(5)}
    at |= {"variation_step": np.zeros(20), "variation_wave": np.zeros(20)}
    mean = (law_of(kernel, np.float32(rows), at, t=T).loc - kernel.loc) / kernel.unit
    np.testing.assert_allclose(mean, 4 * chance - 2 + 2 * (T - chance), atol=1e-3)


@pytest.mark.parametrize(
    ("outcome", "relevant"),
    [
        (np.sin(2 * X[:, 3]), {3}),
        (X[:, 1] * X[:, 4], {1, 4}),
        (2.0 * T * np.sin(2 * X[:, 2]), {2}),
        (np.where(np.arange(ROWS) % 7 == 0, np.nan, X[:, 0] ** 2), {0}),
    ],
    ids=["a bend", "a product", "a bend of the effect", "with gaps"],
)
def test_columns_that_bend_the_outcome_are_found(outcome, relevant):
    noise = 0.3 * np.random.default_rng(1).normal(size=ROWS)
    kernel = Flexible(waves=40).settled(40.0 + 3.0 * X, 100.0 * (outcome + noise), {"t": T})
    shares = np.array(kernel.relevance)
    assert shares.sum() == pytest.approx(1.0)
    assert shares.min() > 0.01  # none is left out
    assert shares[sorted(relevant)].sum() > 0.6
    assert set(np.argsort(shares)[-len(relevant) :]) == relevant
    numbers = [len(places) for places in kernel.knots]
    assert sum(numbers) == 20
    assert sum(numbers[column] for column in relevant) > 12


@pytest.mark.parametrize(
    ("effect", "relevant"),
    [
        (X[:, 3], {3}),
        (X[:, 3] > 0.5, {3}),
        (X[:, 1] * X[:, 4], {1, 4}),
        (X[:, 2] ** 2, {2}),
        (np.where(np.arange(ROWS) % 7 == 0, np.nan, X[:, 3]), {3}),
    ],
    ids=["a line", "a step", "a product", "a bend", "with gaps"],
)
def test_columns_that_move_the_effect_are_found(effect, relevant):
    noise = 0.3 * np.random.default_rng(1).normal(size=ROWS)
    outcome = 2.0 * X[:, 0] + noise
    even = (0.2,) * 5  # of the prognosis, for which trees need not be grown here
    kernel = Flexible(waves=40, relevance=even)
    found = kernel.settled(40.0 + 3.0 * X, outcome + T * effect, {"t": T})
    shares = np.array(found.effect_relevance)
    assert shares.sum() == pytest.approx(1.0)
    # Half of all goes by what was found, and half by the prognosis: none is left out.
    beyond = 2.0 * shares - even
    assert beyond.min() > -1e-9
    assert beyond[sorted(relevant)].sum() > 0.8
    assert sum(len(found.effect_knots[column]) for column in relevant) > 10
    # Where it is the same for all, it has no columns of its own.
    constant = kernel.settled(40.0 + 3.0 * X, outcome + T, {"t": T})
    assert constant.effect_relevance == even
    known = Flexible(waves=40, relevance=even, propensity="e")
    known = known.settled(X, outcome + T * effect, {"t": T, "e": CHANCE})
    np.testing.assert_allclose(known.effect_relevance, shares, atol=0.2)


def test_switches_have_no_steps_and_waves_take_their_place():
    switches = (X[:, :3] > 0).astype(float)
    kernel = Flexible(waves=10).settled(switches, X[:, 0], {"t": T})
    assert kernel.knots == ((), (), ())
    assert kernel.curves(kernel.columns(switches)).shape == (ROWS, 10)
    traced = handlers.trace(handlers.seed(kernel, 0)).get_trace(switches, t=T)
    assert traced["variation_wave"]["value"].shape == (10,)
    assert "variation_step" not in traced


@pytest.mark.parametrize(
    "settings",
    [
        {
            "chance": (0.0,) * 7,
            "waves": 10,
        },
        {"chance": (0.0,) * 6, "waves": 10},
        {"relevance": (1.0,)},
        {"knots": ((0.0,), ())},
        {"effect_relevance": (1.0,)},
        {"effect_knots": ((0.0,), ())},
    ],
)
def test_what_a_flexible_kernel_has_learned_of_other_columns_is_refused(settings):
    with pytest.raises(InputError) as caught:
        Flexible(**settings)(jnp.asarray(X), t=jnp.asarray(T))
    assert caught.value.code == "shape"


@pytest.mark.parametrize("rows", [3, 12])
def test_of_few_rows_no_column_is_preferred(rows):
    kernel = Flexible(waves=4).settled(X[:rows], X[:rows, 0], {"t": T[:rows]})
    np.testing.assert_allclose([kernel.relevance, kernel.effect_relevance], 0.2)


@pytest.mark.parametrize(
    ("name", "settings", "code"),
    [
        ("glm", {"family": "gamma"}, "option-unknown"),
        ("glm", {"family": "poisson", "unit": 2.0}, "option-unknown"),
        ("linear", {"center": (1.0, 2.0), "scale": (1.0,)}, "option-unknown"),
        ("linear", {"center": (1.0,), "scale": (0.0,)}, "option-unknown"),
        ("linear", {"unit": -1.0}, "option-unknown"),
        ("difference_in_differences", {"units": 2, "times": 2, "unit": 0.0}, "option-unknown"),
        ("flexible", {"waves": 0}, "option-unknown"),
        ("hierarchical", {}, "kernel-name"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, settings, code):
    with pytest.raises(InputError) as caught:
        ImpactModel(name, **settings)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("rows", "y", "settings"),
    [
        (X * 10.0, T, {}),
        (X + 5.0, T, {}),
        (X * 0.01, T, {}),
        (X, 100.0 + X[:, 0], {}),
        (X, 100.0 * X[:, 0], standard(X)),
        (X + 5.0, T, standard(X)),
    ],
    ids=["wide", "aside", "narrow", "outcome aside", "outcome wide", "settings of others"],
)
def test_a_step_refuses_data_in_other_units(rows, y, settings):
    im = ImpactModel("linear", **settings)
    with pytest.raises(InputError) as caught:
        im.train_on_batch(rows, y)
    assert caught.value.code == "not-standard"


@pytest.mark.parametrize("method", ["fit", "fit_on_batch"])
def test_a_fit_refuses_data_that_are_far_from_its_settings(method):
    with pytest.raises(InputError) as caught:
        getattr(ImpactModel("linear", **standard(X)), method)(X + 5.0, T)
    assert caught.value.code == "not-standard"


def test_a_fit_brings_the_kernel_to_the_units_of_its_data(tmp_path, monkeypatch):
    rows, y = np.float32(40.0 + 1e-3 * X), np.float32(1e6 + 1e4 * X[:, 0])
    y[3] = np.nan
    once: dict[str, Any] = {"missing": "mask", "num_steps": 5, "progress": False}
    im = ImpactModel("linear", on_bad_fit="ignore").fit_on_batch(rows, y, **once)
    assert im.kernel_ == Linear(**standard(rows, y))
    assert im.kernel == sklearn.base.clone(im).kernel == Linear()
    assert pickle.loads(pickle.dumps(im)).kernel_ == im.kernel_
    im.save(tmp_path / "model")
    models = im, ImpactModel.load(tmp_path / "model", kernel=im.kernel_)
    with pytest.raises(InputError) as caught:
        ImpactModel.load(tmp_path / "model", kernel=Linear())
    assert caught.value.code == "kernel-differs"
    with monkeypatch.context() as another_version:
        another_version.setattr(saving, "_shown", lambda kernel: "Linear(center=())")
        im.save(tmp_path / "of another version")
    with pytest.raises(InputError, match="another version of aimz must be fitted again") as caught:
        ImpactModel.load(tmp_path / "of another version")
    assert caught.value.code == "kernel-differs"
    first, again = (m.predict_on_batch(rows).posterior_predictive["y"] for m in models)
    assert 0.5e6 < float(first.mean()) < 1.5e6
    np.testing.assert_array_equal(again, first)


@pytest.mark.slow
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_fit_that_goes_on_keeps_its_units_and_another_has_its_own(goes_on):
    im = ImpactModel("linear", warm_start=goes_on, on_bad_fit="ignore")
    im.fit_on_batch(X, T, num_steps=5, progress=False)
    before = im.kernel_
    assert before == Linear(**standard(np.float32(X), T))
    im.fit_on_batch(X + 1.0, 2.0 * T, num_steps=5, progress=False)
    assert (im.kernel_ == before) is goes_on


@pytest.mark.slow
def test_the_units_of_whole_numbers_are_those_of_what_is_there():
    y = pd.array([1, 2, None, 3] * 10, dtype="Int32")
    im = ImpactModel("linear", on_bad_fit="ignore")
    im.fit_on_batch(X[:40], y, missing="mask", num_steps=1, progress=False)
    assert (im.kernel_.loc, im.kernel_.unit) == (2.0, np.std([1, 2, 3]))


@pytest.mark.parametrize("value", [0.1, 3.3, 1e6 + 0.1, -7.0])
def test_what_is_constant_keeps_its_unit(value):
    # A rounded standard deviation of equal numbers need not be zero.
    constant = np.full(300, value)
    settings = standard(np.column_stack([constant, np.arange(300.0)]), constant)
    assert settings["scale"] == (1.0, pytest.approx(np.arange(300.0).std()))
    assert (settings["loc"], settings["unit"]) == (pytest.approx(value), 1.0)


def test_units_that_are_found_by_pieces_are_those_of_all_rows(monkeypatch):
    """To the last digits; a third value that shows late makes a switch none."""
    monkeypatch.setattr(sys.modules[standard.__module__], "PIECE_ROWS", 70)
    late = np.arange(ROWS) >= ROWS - 5.0
    three = np.where(np.arange(ROWS) < 100, 0.0, 1.0 + late)
    rows = np.column_stack([1e6 + X[:, 0], late, three, np.full(ROWS, 0.1)])
    y = 50.0 + 3.0 * X[:, 0]
    y[10:150] = np.nan  # a whole piece
    units = standard(rows, y)
    np.testing.assert_allclose(units["center"], rows.mean(0), rtol=1e-14)
    np.testing.assert_allclose(units["scale"], [X[:, 0].std(), 1.0, three.std(), 1.0], rtol=1e-9)
    assert (units["loc"], units["unit"]) == pytest.approx((np.nanmean(y), np.nanstd(y)), rel=1e-13)
    Linear(**units).check(rows, y)
    with pytest.raises(InputError, match="Column 0 of X has mean"):
        Linear(center=(0.0,) * 4, scale=(1.0,) * 4, loc=50.0, unit=3.0).check(rows, y)


def test_rare_switches_constants_and_missing_outcomes_are_standard():
    rare = (np.arange(ROWS) < 3).astype(float)
    rows = np.column_stack([rare, np.ones(ROWS)])
    y = 1000.0 * X[:, 0]
    y[0] = np.nan
    Linear(**standard(rows, y)).check(rows, y)
    Linear(**standard(y=y)).check(rows, y)
    GLM(family="bernoulli").check(rows, rare)


def test_columns_that_settings_do_not_know_are_refused():
    im = ImpactModel("linear", **standard(X))
    with pytest.raises(InputError) as caught:
        im.fit(X[:, :1], T, progress=False)
    assert caught.value.code == "shape"


def surface(effect: np.ndarray, seed: int = 5) -> np.ndarray:
    """Outcomes of a curved prognosis, rows being treated for a part of it."""
    noise = np.random.default_rng(seed).normal(size=ROWS)
    prognosis = np.sin(X[:, 0]) + 0.5 * X[:, 1] ** 2 + 0.5 * X[:, 2] * X[:, 3]
    outcomes: np.ndarray = prognosis + effect * T + 0.5 * noise
    return outcomes


def effects_by_row(y: np.ndarray) -> np.ndarray:
    """Draws of each row's effect, (draw, row)."""
    im = ImpactModel("flexible", treatment="t", **standard(X, y))
    im.fit(X, y, t=T, progress=False)
    effect = im.effect(X, {"t": 0.0}, {"t": 1.0}, t=T, estimand="ite", progress=False)
    return np.asarray(effect.draws.stack(sample=("chain", "draw")).transpose("sample", ...))


@pytest.mark.slow
def test_a_linear_fit_is_the_conjugate_posterior():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(60, 2))
    y = 0.3 + rows @ [0.5, -0.4] + 0.7 * rng.normal(size=60)
    im = ImpactModel("linear", prior_scale=2.0).fit(rows, y, progress=False)
    units = im.kernel_
    design = np.column_stack([np.ones(60), (rows - units.center) / units.scale])
    y = (y - units.loc) / units.unit
    means, covers = [], []
    for noise in im.posterior["noise"]:  # given the noise, coefficients are normal
        cover = np.linalg.inv(design.T @ design / noise**2 + np.diag([1 / 9, 0.25, 0.25]))
        means.append(cover @ design.T @ y / noise**2)
        covers.append(np.diag(cover))
    sd = np.sqrt(np.mean(covers, 0) + np.var(means, 0))
    got = np.column_stack([im.posterior["base"], im.posterior["slope"]])
    np.testing.assert_allclose(got.mean(0), np.mean(means, 0), atol=0.15 * sd.min())
    np.testing.assert_allclose(got.std(0), sd, rtol=0.1)


@pytest.mark.slow
def test_effects_that_vary_are_found():
    truth = 1.0 + 0.5 * X[:, 1]
    by_row = effects_by_row(surface(truth))
    average = by_row.mean(1)  # an interval of 90% would miss in one data set of ten
    assert abs(average.mean() - truth.mean()) < 3 * average.std() < 0.3
    assert np.corrcoef(by_row.mean(0), truth)[0, 1] > 0.9
    assert np.sqrt(np.mean((by_row.mean(0) - truth) ** 2)) < 0.25


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_effects_that_are_none_shrink():
    """Over several data sets, to the size of a dense reference that knows the spreads."""
    sizes, bounds, scores, held = [], [], [], []
    for seed in range(6):
        y = surface(np.zeros(ROWS), seed)
        by_row = effects_by_row(y)
        sizes.append(by_row.mean(0).std())
        bounds.append(_dense_effects(y, varies=0.2).std())
        low, high = np.quantile(by_row, [0.05, 0.95], axis=0)
        held.append(((low < 0) & (high > 0)).mean())
        scores.append(by_row.mean() / by_row.mean(1).std())
    assert np.mean(held) > 0.85  # of intervals of 90%
    assert np.sqrt(np.mean(np.square(scores))) < 2.0  # 1 if averages' intervals were right
    assert np.mean(sizes) < 2.0 * np.mean(bounds)
    assert np.mean(sizes) < 0.12  # of 0.43 where effects vary by 0.5


def _dense_effects(y: np.ndarray, varies: float) -> np.ndarray:
    """Mean effects by row of a Gaussian process whose effect varies by so much, row by row."""
    squares = np.square(X[:, None] - X[None]).sum(-1)
    level, effect = np.exp(-squares / 10.0) + X @ X.T / 5.0, np.exp(-squares / 10.0)
    arm = T - 0.5
    cover = 2.0 * level + 5.0 + 0.25 * np.eye(ROWS)
    of_effect = 1.0 + varies**2 * effect
    cover = cover + np.outer(arm, arm) * of_effect
    return np.asarray((of_effect * arm) @ np.linalg.solve(cover, y))
