"""What wrong adjustments do to an effect: linear normal structures, in closed form and as fits."""

import re
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
# Arrows of weight 1 and noise of variance 1; then what is right to adjust for, and what is wrong.
STRUCTURES = {
    "a confounder left out": ("x>t x>y t>y", "x", ""),
    "a mediator": ("t>m m>y", "", "m"),
    "one of two paths": ("t>m m>y t>y", "", "m"),
    "a collider": ("t>y t>c y>c", "", "c"),
    "a consequence of the outcome": ("t>y y>s", "", "s"),
    "M-bias": ("u>c v>c u>t v>y t>y", "", "c"),
    "an instrument, beside a hidden cause": ("z>t u>t u>y t>y", "u", "z"),
    "the front door's mediator": ("u>t t>m m>y u>y", "u", "m"),
    "an early dose's consequence": ("t>l l>d d>y l>y t>y", "", "l"),
    "a late dose without its reason": ("e>l l>t l>y e>y t>y", "le", "e"),
}


def weights_of(arrows):
    """Names, and the matrix of what each is computed from."""
    pairs = [arrow.split(">") for arrow in arrows.split()]
    names = sorted({name for pair in pairs for name in pair})
    matrix = np.zeros((len(names), len(names)))
    for cause, result in pairs:
        matrix[names.index(result), names.index(cause)] = 1.0
    return names, matrix


def effects_of(arrows, adjusted):
    """The whole effect of t on y, and the coefficient of t in the regression of y on t and some."""
    names, matrix = weights_of(arrows)
    total = np.linalg.inv(np.eye(len(names)) - matrix)
    cov = total @ total.T
    t, y = names.index("t"), names.index("y")
    given = [t, *(names.index(name) for name in adjusted)]
    slope = np.linalg.solve(cov[np.ix_(given, given)], cov[given, y])[0]
    return total[y, t], slope


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_right_adjustment_gives_the_effect_and_the_wrong_one_what_the_page_says(name):
    arrows, right, wrong = STRUCTURES[name]
    true, adjusted = effects_of(arrows, right)
    assert adjusted == pytest.approx(true)
    row = re.search(rf"^\| {name} \|(.+)\|$", PAGE.read_text(), re.MULTILINE)
    assert row is not None
    shown = [float(cell) for cell in row[1].split("|")[-2:]]
    assert shown == [round(true, 2), round(effects_of(arrows, wrong)[1], 2)]
    assert abs(effects_of(arrows, wrong)[1] - true) > 0.19


def regression(X, y=None):
    w = numpyro.sample("w", dist.Normal(0.0, 10.0).expand([3]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(3.0))
    numpyro.sample("y", dist.Normal(X @ w, s), obs=y)


@pytest.mark.slow
def test_fits_give_what_the_closed_forms_say():
    rows, rng = 4000, np.random.default_rng(7)
    for name, (arrows, right, wrong) in STRUCTURES.items():
        names, matrix = weights_of(arrows)
        noise = rng.normal(size=(len(names), rows))
        values = dict(zip(names, np.linalg.solve(np.eye(len(names)) - matrix, noise), strict=True))
        for adjusted in (right, wrong):
            others = [values[other] for other in adjusted] + list(rng.normal(size=(2, rows)))
            X = np.column_stack([values["t"], *others[:2]])
            model = ImpactModel(regression, inference="laplace", num_samples=400)
            model.fit(X, values["y"], progress=False)
            near = np.zeros((4, 3))  # the middle of the data
            scenarios = {"X": near}, {"X": near + np.array([0.5, 0.0, 0.0])}
            effect = 2 * model.effect(near, *scenarios, progress=False).draws.to_numpy()
            expected = effects_of(arrows, adjusted)[1]
            assert abs(effect.mean() - expected) < 4.5 * effect.std(), (name, adjusted)
            assert effect.std() < 0.05
