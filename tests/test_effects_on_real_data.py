"""Effects on real data against published figures, with draws from exact posteriors."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimz import ImpactModel

DRAWS = 8_000


@pytest.fixture(scope="module")
def smokers() -> Any:
    """The kernel, covariates and outcome of the quickstart."""
    path = Path(__file__).parents[1] / "examples" / "quickstart.py"
    spec = importlib.util.spec_from_file_location("quickstart", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(smokers) -> dict[str, Any]:
    covariates, qsmk, gained = smokers.load()
    X = (covariates - covariates.mean(0)) / covariates.std(0)
    return {"X": X, "qsmk": qsmk, "intensity": covariates[:, smokers.INTENSITY], "y": gained}


@pytest.fixture(scope="module")
def model(smokers, data) -> ImpactModel:
    """Draws from the posterior of least squares under a flat prior."""
    qsmk, intensity = data["qsmk"], data["intensity"]
    columns = [np.ones(len(qsmk)), *data["X"].T, qsmk, qsmk * intensity]
    A, y = np.column_stack(columns).astype(float), data["y"].astype(float)
    estimate = np.linalg.lstsq(A, y, rcond=None)[0]
    rest, freedom = np.sum((y - A @ estimate) ** 2), len(y) - A.shape[1]
    rng = np.random.default_rng(0)
    sigma = np.sqrt(rest / rng.chisquare(freedom, DRAWS))
    root = np.linalg.cholesky(np.linalg.inv(A.T @ A))
    draws = estimate + sigma[:, None] * (rng.normal(size=(DRAWS, A.shape[1])) @ root.T)
    sites = {
        "intercept": draws[:, 0],
        "slopes": draws[:, 1:-2],
        "effect": draws[:, -2],
        "per_cigarette": draws[:, -1],
        "sigma": sigma,
    }
    return ImpactModel(smokers.kernel).set_posterior_sample(
        {name: value.astype(np.float32) for name, value in sites.items()}
    )


def ask(model: ImpactModel, data: dict[str, Any], **options: Any) -> Any:
    natural = {name: data[name] for name in ("X", "qsmk", "intensity")}
    scenarios = {"baseline": {"qsmk": 0}, "intervention": {"qsmk": 1}}
    return model.effect(**{**natural, **scenarios, "progress": False, **options})


# Hernan and Robins, "Causal Inference: What If", chapters 12 and 13, by least squares.
@pytest.mark.parametrize(
    ("estimand", "published"), [("ate", 3.517), ("att", 3.428), ("atc", 3.548)]
)
def test_the_effects_of_quitting_are_the_published_ones(estimand, published, model, data):
    draws = ask(model, data, estimand=estimand).draws
    assert float(draws.mean()) == pytest.approx(published, abs=0.05)
    assert 0.43 < float(draws.std()) < 0.5


@pytest.mark.parametrize(("cigarettes", "published"), [(5, 2.79), (40, 4.43)])
def test_the_effect_of_quitting_depends_on_the_cigarettes(cigarettes, published, model, data):
    arms = {n: {"qsmk": n, "intensity": cigarettes} for n in (0, 1)}
    got = ask(model, data, baseline=arms[0], intervention=arms[1])
    assert float(got.draws.mean()) == pytest.approx(published, abs=0.1)


def test_three_populations_have_three_standard_deviations(model, data):
    def sd(**options):
        return float(ask(model, data, **options).draws.std())

    sample, superpopulation = sd(), sd(population="superpopulation")
    assert 0.43 < sample < 0.46
    # The effect varies little between people, so that sampling these adds little.
    slope = float(model.posterior["per_cigarette"].mean())
    spread = slope * float(data["intensity"].std())
    desired = np.sqrt(sample**2 + spread**2 / len(data["y"]))
    assert superpopulation == pytest.approx(desired, abs=0.005)
    # By least squares: the outcomes that were observed are not uncertain.
    finite = {"population": "finite", "target": "prediction", "y": data["y"]}
    assert sd(**finite) == pytest.approx(0.369, abs=0.015)
