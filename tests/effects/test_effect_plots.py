"""Pictures of effects: which one is drawn, and that its numbers are those of the table."""

import sys
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from matplotlib import colors, dates
from matplotlib import pyplot as plt

from aimz import ImpactModel, InputError
from aimz.effects import Effect, question_of
from aimz.effects.plot import plot_effect
from aimz.effects.wording import in_words, share_text

RNG = np.random.default_rng(0)
GROUPS = ["north", "_east", "$a$ and $b$"]


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def answer(coords: Any = None, estimand: str = "ate", comparison: str = "difference", **given: Any):
    """An effect with a number for each combination of labels."""
    coords = coords or {}
    shape = [len(labels) for labels in coords.values()]
    logs = RNG.normal(size=shape)[..., None, None] + 0.3 * RNG.normal(size=(*shape, 2, 60))
    draws = xr.DataArray(
        logs if comparison == "difference" else np.exp(logs),
        dims=(*coords, "chain", "draw"),
        coords=coords,
    )
    names = given.pop("scenarios", ["baseline", "intervention"])
    averages = xr.DataArray(np.zeros(len(names)), dims="scenario", coords={"scenario": names})
    question = question_of(
        "y", estimand, comparison, "expectation", "sample", given.pop("mediator", None)
    )
    return Effect(draws, averages, question, given.pop("rows", 1_500), **given)


def doses(names: Any, coords: Any = None, **given: Any):
    contrasts = [f"{name} vs {names[0]}" for name in names[1:]]
    return answer({"contrast": contrasts, **(coords or {})}, scenarios=names, **given)


def named(ax, label):
    """What is drawn under a label, in order."""
    return [artist for artist in (*ax.lines, *ax.collections) if artist.get_label() == label]


def segments(ax, label):
    """Ends of horizontal lines and their heights, (line, (low, high, y))."""
    ends = [s for lines in named(ax, label) for s in lines.get_segments()]
    assert all(low[1] == high[1] for low, high in ends)
    return np.array([(low[0], high[0], low[1]) for low, high in ends])


def caption_of(ax):
    """The caption below a picture, in one line."""
    (caption,) = [text for text in ax.texts if text.get_label() == "_caption"]
    return caption.get_text().replace("\n", " ")


def bounds(effect, **options):
    table = effect.summary(**options)
    names = [name for name in table.columns if name.endswith(("_lb", "_ub"))]
    return table[names].to_numpy()


def band(artist, x):
    """Lowest and highest vertex of a band at each x."""
    vertices = artist.get_paths()[0].vertices
    at = [vertices[np.isclose(vertices[:, 0], place), 1] for place in x]
    return np.array([(ys.min(), ys.max()) for ys in at])


def is_whole(ax):
    """Whether all text lies within the figure."""
    ax.figure.canvas.draw()
    box, page = ax.get_tightbbox(), ax.figure.bbox
    return box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1


# ------------------------------------------------------------------ one number


@pytest.mark.parametrize("options", [{}, {"ci_prob": 0.8, "ci_kind": "hdi"}, {"ci_prob": 0.3}])
def test_one_number_is_a_density_with_the_interval_of_the_table(options):
    effect = answer()
    ax = effect.plot(**options)
    (line,), (point,) = named(ax, "_interval"), named(ax, "_mean")
    np.testing.assert_array_equal(line.get_xdata(), bounds(effect, **options)[0])
    assert point.get_xdata()[0] == effect.summary()["mean"].item()
    assert point.get_ydata()[0] == line.get_ydata()[0] < 0
    (null,), (density,) = named(ax, "_null"), named(ax, "_density")
    assert set(null.get_xdata()) == {0.0}
    x, y = density.get_data()
    assert np.trapezoid(y, x) == pytest.approx(1.0, abs=0.02)
    assert ax.get_xlabel() == "average effect on 'y' (difference)"
    assert is_whole(ax)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_density_says_the_chance_of_an_effect_in_its_direction(sign):
    effect = answer()
    effect = Effect(sign * abs(effect.draws.mean()) + 0.2 * effect.draws, *_rest(effect))
    direction = ">" if effect.draws.mean() > 0 else "<"
    name = f"P(effect {direction} 0)"
    chance = effect.summary(direction=direction)[name].item()
    (text,) = [text for text in effect.plot().texts if text.get_label() == "_chance"]
    assert any(f"{name}{sign}{share_text(chance, 120)}" in text.get_text() for sign in (" = ", " "))


def _rest(effect):
    return effect.averages, effect.question, effect.rows


def test_draws_that_are_equal_have_an_interval_and_no_density():
    effect = answer()
    ax = Effect(effect.draws * 0 + 0.1, *_rest(effect)).plot()
    assert not named(ax, "_density")
    np.testing.assert_allclose(named(ax, "_interval")[0].get_xdata(), 0.1)


def test_a_group_that_is_the_only_one_is_in_the_caption():
    ax = answer({"contrast": ["b vs a"], "group": ["north"]}, "cate").plot()
    assert named(ax, "_density")
    caption = caption_of(ax)
    assert "contrast: b vs a; group: north" in caption


# ------------------------------------------------------------------ forests


@pytest.mark.parametrize("options", [{}, {"ci_prob": 0.8, "ci_kind": "hdi"}])
def test_groups_are_a_forest_with_the_intervals_of_the_table(options):
    effect = answer({"group": GROUPS}, "cate")
    ax = effect.plot(**options)
    outer, inner = segments(ax, "_interval"), segments(ax, "_inner")
    np.testing.assert_array_equal(outer[:, :2], bounds(effect, **options))
    np.testing.assert_array_equal(inner[:, :2], bounds(effect, **{**options, "ci_prob": 0.5}))
    (points,) = named(ax, "_mean")
    np.testing.assert_array_equal(points.get_xdata(), effect.summary()["mean"])
    assert [text.get_text() for text in ax.get_yticklabels()] == GROUPS
    np.testing.assert_array_equal(outer[:, 2], ax.get_yticks())
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first is at the top
    assert ax.get_legend() is None
    assert is_whole(ax)


def test_an_interval_within_the_inner_one_is_drawn_alone():
    ax = answer({"group": GROUPS}, "cate").plot(ci_prob=0.4)
    assert not named(ax, "_inner")
    assert "inner" not in caption_of(ax)


def test_contrasts_that_share_groups_have_colours_and_a_legend():
    contrasts = ["_b vs a", "c vs a"]
    effect = answer({"contrast": contrasts, "group": GROUPS}, "cate")
    ax = effect.plot()
    np.testing.assert_array_equal(segments(ax, "_interval")[:, :2], bounds(effect))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == contrasts
    shades = {colors.to_hex(lines.get_color()[0]) for lines in named(ax, "_interval")}
    assert len(shades) == 2
    assert len({points.get_marker() for points in named(ax, "_mean")}) == 2
    assert is_whole(ax)


def test_numbers_keep_their_labels_whatever_the_order_of_dimensions():
    effect = answer({"contrast": ["b vs a", "c vs a"], "group": GROUPS}, "cate")
    turned = Effect(effect.draws.transpose("chain", "group", "draw", "contrast"), *_rest(effect))
    one, other = (segments(e.plot(), "_interval") for e in (effect, turned))
    np.testing.assert_allclose(one, other)


@pytest.mark.parametrize(
    ("groups", "labels"),
    [
        (np.array([0.1, 20_240_101.0], np.float32).tolist(), ["0.1", "20240100"]),
        ([0.1, 0.100000000001], ["0.1", "0.100000000001"]),
    ],
)
def test_labels_that_are_numbers_are_short(groups, labels):
    ax = answer({"group": groups}, "cate").plot()
    assert [text.get_text() for text in ax.get_yticklabels()] == labels


def test_categories_of_groups_are_named_by_both():
    effect = answer({"group": ["a", "b"], "outcome_dim_0": [0, 1]}, "cate")
    effect = Effect(effect.draws.drop_vars("outcome_dim_0"), *_rest(effect))
    ax = effect.plot()
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["a, 0", "a, 1", "b, 0", "b, 1"]
    assert ax.get_ylabel() == "group, outcome_dim_0"


def test_more_contrasts_than_colours_are_lines_of_their_own():
    contrasts = [f"{name} vs a" for name in "bcdefghijk"]
    ax = answer({"contrast": contrasts, "group": ["x", "y"]}, "cate").plot()
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == [f"{contrast}, {group}" for contrast in contrasts for group in "xy"]
    assert ax.get_legend() is None


def test_rows_are_sorted_by_mean_and_sixty_are_shown():
    effect = answer({"row": [f"r{n}" for n in range(1_234)]}, "ite", rows=1_234)
    ax = effect.plot()
    table = effect.summary().set_index("row")
    labels = [text.get_text() for text in ax.get_yticklabels()]
    means = table.loc[labels, "mean"]
    assert len(set(labels)) == 60
    assert np.all(np.diff(means) < 0)
    assert means.iloc[0] == table["mean"].max()
    assert means.iloc[-1] == table["mean"].min()
    desired = table.loc[labels].filter(regex="_[lu]b$")
    np.testing.assert_array_equal(segments(ax, "_interval")[:, :2], desired)
    assert "60 of 1,234 rows shown" in caption_of(ax)


def test_groups_keep_their_order_and_the_first_sixty_are_shown():
    ax = answer({"group": range(70)}, "cate").plot()
    assert [text.get_text() for text in ax.get_yticklabels()] == [str(n) for n in range(60)]
    assert "60 of 70 lines shown" in caption_of(ax)


def test_a_forest_grows_with_its_lines_and_labels():
    heights = [
        answer({"group": labels}, "cate").plot().figure.get_figheight()
        for labels in (range(3), range(20), ["many words " * 9] * 20)
    ]
    assert heights[0] < heights[1] < heights[2]


def test_ratios_that_differ_much_are_on_a_scale_of_ratios():
    effect = answer({"group": GROUPS}, "cate", "odds_ratio")
    wide = Effect(effect.draws * xr.DataArray([0.2, 1.0, 9.0], dims="group"), *_rest(effect))
    ax = wide.plot()
    assert ax.get_xscale() == "log"
    assert set(named(ax, "_null")[0].get_xdata()) == {1.0}
    assert ax.get_xlabel().replace("\n", " ").endswith("(odds ratio), log scale")
    np.testing.assert_array_equal(segments(ax, "_interval")[:, :2], bounds(wide))
    assert Effect(effect.draws**0.01, *_rest(effect)).plot().get_xscale() == "linear"


# ------------------------------------------------------------------ doses


@pytest.mark.parametrize(
    "names", [[0.0, 0.5, 2.0, 3.0], [np.float32(0.1), np.float32(0.7), 5], ["0.5", "0", "1e1"]]
)
def test_scenarios_named_by_numbers_are_a_curve(names):
    effect = doses(names)
    ax = effect.plot()
    x = np.array([float(name) for name in names])
    order = np.argsort(x)
    desired = np.concatenate([[[0.0, 0.0]], bounds(effect)])[order]
    inner = np.concatenate([[[0.0, 0.0]], bounds(effect, ci_prob=0.5)])[order]
    means = np.concatenate([[0.0], effect.summary()["mean"]])[order]
    (curve,), (outer_band,), (inner_band,) = (
        named(ax, label) for label in ("_mean", "_interval", "_inner")
    )
    np.testing.assert_allclose(curve.get_data(), [x[order], means])
    np.testing.assert_allclose(band(outer_band, x[order]), desired)
    np.testing.assert_allclose(band(inner_band, x[order]), inner)
    assert ax.get_ylabel() == "average effect on 'y' (difference)"
    assert ax.get_xlabel() == f"dose, compared with {float(str(names[0])):g}"


def test_each_group_has_a_curve():
    effect = doses([0, 1, 2], {"group": GROUPS}, estimand="cate")
    ax = effect.plot()
    table = effect.summary()
    for name, curve in zip(GROUPS, named(ax, "_mean"), strict=True):
        desired = table.loc[table["group"] == name, "mean"]
        np.testing.assert_allclose(curve.get_ydata(), [0.0, *desired])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == GROUPS
    assert len({curve.get_linestyle() for curve in named(ax, "_mean")}) > 1
    assert is_whole(ax)


@pytest.mark.parametrize(
    "effect",
    [
        doses(["none", "1", "2"]),
        doses([False, True, 2]),
        doses(["1", "1.0", "2"]),
        doses([0, 1, 2], {"group": range(9)}, estimand="cate"),
        doses([0, 1, 2], {"row": range(3)}, estimand="ite"),
        answer({"contrast": ["b vs a", "c vs a"]}, scenarios=[0, 1, 2]),
    ],
    ids=["a name", "truth", "twice the same", "many groups", "rows", "other contrasts"],
)
def test_what_is_no_dose_is_a_forest(effect):
    assert len(segments(effect.plot(), "_interval")) == effect.draws[..., 0, 0].size


# ------------------------------------------------------------------ paths over time

WEEKS = pd.date_range("2024-01-07", periods=5, freq="W")
SHUFFLED = [3, 0, 4, 1, 2]
TIMES: dict[str, tuple[Any, Any]] = {
    "dates": (WEEKS, WEEKS),
    "in another order": (WEEKS[SHUFFLED], WEEKS),
    "of Python": ([day.date() for day in WEEKS], WEEKS),
    "with hours": (WEEKS + pd.Timedelta(hours=6), WEEKS + pd.Timedelta(hours=6)),
    "days": (np.asarray(WEEKS, "datetime64[s]"), WEEKS),
    "durations": (WEEKS - WEEKS[0], np.arange(5) * 7.0),
}


@pytest.mark.parametrize("estimand", ["ite", "cate"])
@pytest.mark.parametrize("kind", TIMES)
def test_dates_are_a_path_in_their_order(kind, estimand):
    labels, x = TIMES[kind]
    effect = answer({"obs": labels}, estimand)
    ax = effect.plot()
    order = np.argsort(np.asarray(labels))
    (path,), (outer,), (inner,) = (named(ax, label) for label in ("_mean", "_interval", "_inner"))
    places = x if isinstance(x, np.ndarray) else dates.date2num(x)
    drawn = path.get_xdata()
    np.testing.assert_allclose(drawn if kind == "durations" else dates.date2num(drawn), places)
    np.testing.assert_array_equal(path.get_ydata(), effect.summary()["mean"].to_numpy()[order])
    np.testing.assert_allclose(band(outer, places), bounds(effect)[order])
    np.testing.assert_allclose(band(inner, places), bounds(effect, ci_prob=0.5)[order])
    assert is_whole(ax)
    shown = [text.get_text() for text in ax.get_xticklabels()]
    assert ("2024" in "".join([*shown, ax.xaxis.get_major_formatter().get_offset()])) == (
        kind != "durations"
    )


def test_each_contrast_has_a_path():
    effect = answer({"contrast": ["b vs a", "c vs a"], "group": WEEKS}, "cate")
    ax = effect.plot()
    table = effect.summary()
    for name, path in zip(["b vs a", "c vs a"], named(ax, "_mean"), strict=True):
        np.testing.assert_array_equal(
            path.get_ydata(), table.loc[table["contrast"] == name, "mean"]
        )
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["b vs a", "c vs a"]


@pytest.mark.parametrize("labels", [WEEKS[[0, 0, 1, 2]], WEEKS[:2]], ids=["twice", "two"])
def test_dates_that_are_no_path_are_a_forest_of_dates(labels):
    effect = answer({"obs": labels}, "cate")
    ax = effect.plot()
    assert len(segments(ax, "_interval")) == len(labels)
    shown = [text.get_text() for text in ax.get_yticklabels()]
    assert shown == [str(day.date()) for day in labels]
    assert "obs 2024-01-07 (" in effect.to_text()
    assert effect.summary()["obs"].tolist() == list(labels)


# ------------------------------------------------------------------ every picture

TITLES: dict[str, tuple[str, Any, str]] = {
    "all": ("ate", {}, "Average effect of t on y: 1 against 0"),
    "treated": ("att", {}, "Average effect of t on y in the treated: 1 against 0"),
    "rows": ("ite", {}, "Effect of t on y in each row: 1 against 0"),
    "path": ("nde", {"mediator": "m"}, "Natural direct effect of t on y: 1 against 0"),
    "event": (
        "benefit",
        {"rung": "counterfactual"},
        "Probability that y is 1 with, and 0 without, the intervention of t: 1 against 0",
    ),
}


@pytest.mark.parametrize("kind", TITLES)
def test_the_title_says_what_is_compared(kind):
    estimand, options, title = TITLES[kind]
    words = in_words({"baseline": {"t": 0}, "intervention": {"t": 1}})
    question = question_of("y", estimand, "difference", None, "sample", **options)
    effect = answer()
    ax = Effect(effect.draws, effect.averages, question, 50, scenarios=words).plot()
    assert ax.get_title("left").replace("\n", " ") == title
    assert is_whole(ax)


KINDS = {
    "density": lambda: answer(),
    "forest": lambda: answer({"contrast": ["b vs a", "c vs a"], "group": GROUPS}, "cate"),
    "curves": lambda: doses([0, 1, 2], {"group": GROUPS}, estimand="cate"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_axes_that_are_given_are_drawn_on_and_no_other(kind):
    _, (left, right) = plt.subplots(1, 2)
    before = plt.get_fignums()
    assert plot_effect(KINDS[kind](), ax=right) is right
    assert plt.get_fignums() == before
    assert right.lines
    assert not left.lines


def test_a_part_of_a_figure_may_be_given():
    part = plt.figure().subfigures(1, 2)[0]
    assert named(answer().plot(ax=part.subplots()), "_density")


@pytest.mark.parametrize("kind", KINDS)
def test_the_caption_says_what_was_asked(kind):
    caption = caption_of(KINDS[kind]().plot(ci_prob=0.29, ci_kind="hdi"))
    for part in (
        *("target: expectation", "population: sample", "rung: intervention", "29% hdi"),
        *("1,500 rows", "120 draws in 2 chains", "no effect (0)"),
    ):
        assert part in caption


def test_the_caption_names_the_mediator_and_what_was_drawn_anew():
    sites = tuple(f"latent_site_{n}" for n in range(12))
    ax = answer(estimand="nde", mediator="m", redrawn=sites).plot()
    caption = caption_of(ax)
    assert "mediator: m" in caption
    assert f"drawn anew: {', '.join(sites)}" in caption
    assert is_whole(ax)


@pytest.mark.parametrize("options", [{"ci_prob": 2.0}, {"ci_kind": "up"}])
def test_an_interval_that_there_is_not_leaves_no_figure(options):
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=r"prob|ci_kind"):
        answer().plot(**options)
    assert plt.get_fignums() == before


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(InputError, match="pip install matplotlib") as raised:
        answer().plot()
    assert raised.value.code == "plots-missing"


def test_an_effect_of_a_model_can_be_drawn():
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * t + X[:, 0], 1.0), obs=y)

    draws = {"b": np.linspace(1.0, 3.0, 101)}
    im = ImpactModel(kernel).set_posterior_sample(draws)
    X, t = np.ones((6, 1)), np.zeros(6)
    one = im.effect(X, {"t": 0}, {"t": 1}, t=t, progress=False)
    np.testing.assert_array_equal(named(one.plot(), "_interval")[0].get_xdata(), bounds(one)[0])
    scenarios = {dose: {"t": dose} for dose in (0, 0.5, 2)}
    curve = im.effect(X, scenarios=scenarios, t=t, progress=False)
    x, y = named(curve.plot(), "_mean")[0].get_data()
    np.testing.assert_allclose(x, [0.0, 0.5, 2.0])
    np.testing.assert_allclose(y, [0.0, 1.0, 4.0], rtol=1e-5)
