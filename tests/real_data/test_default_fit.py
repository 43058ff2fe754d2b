"""The default fit on real data in its own units, with no settings, against the exact posterior."""

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest

from aimz import ImpactModel


@pytest.mark.slow
def test_the_default_fit_of_the_smokers_is_right_and_says_nothing():
    # Warnings are errors here: none is the point.
    path = Path(__file__).parents[2] / "examples" / "quickstart.py"
    spec = importlib.util.spec_from_file_location("quickstart", path)
    assert spec is not None
    assert spec.loader is not None
    smokers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(smokers)
    X, quit_smoking, gained = smokers.load()
    intensity = X[:, smokers.INTENSITY]
    begun = time.perf_counter()
    im = ImpactModel(smokers.kernel)
    im.fit(X, gained, qsmk=quit_smoking, intensity=intensity, progress=False)
    natural = {"qsmk": quit_smoking, "intensity": intensity}
    effect = im.effect(X, {"qsmk": 0}, {"qsmk": 1}, **natural, progress=False)
    assert time.perf_counter() - begun < 60.0
    assert im.diagnostics_["verdict"] == "good"
    assert effect.fault == ""
    mean, sd = exact_effect(X, quit_smoking, intensity, gained)
    assert float(effect.draws.mean()) == pytest.approx(mean, rel=0.1)
    assert abs(float(effect.draws.mean()) - mean) < 0.15 * sd
    assert float(effect.draws.std()) == pytest.approx(sd, rel=0.1)


def exact_effect(X, quit_smoking, intensity, gained):
    """Mean and sd of the average effect: normal given sigma, and a grid of sigma."""
    columns = [np.ones(len(X)), *X.T, quit_smoking, quit_smoking * intensity]
    A, y = np.column_stack(columns).astype(float), gained.astype(float)
    prior = np.diag([1 / 100] * (A.shape[1] - 1) + [1.0])
    about = np.zeros(A.shape[1])
    about[-2:] = 1.0, intensity.mean()
    logs, means, variances = [], [], []
    grid = np.linspace(6.0, 9.0, 301)
    for sigma in grid:
        precision = A.T @ A / sigma**2 + prior
        center = np.linalg.solve(precision, A.T @ y / sigma**2)
        rest = y @ y / sigma**2 - center @ precision @ center
        log_det = np.linalg.slogdet(precision)[1]
        logs.append(-len(y) * np.log(sigma) - 0.5 * rest - 0.5 * log_det - sigma**2 / 200)
        means.append(about @ center)
        variances.append(about @ np.linalg.solve(precision, about))
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    mean = weights @ means
    return mean, np.sqrt(weights @ (np.array(variances) + np.square(means)) - mean**2)
