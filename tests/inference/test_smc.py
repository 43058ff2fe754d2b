"""Sequential Monte Carlo: posteriors, evidence and blocks against closed forms and quadrature."""

from types import SimpleNamespace
from typing import Any

import blackjax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpyro.contrib.control_flow import scan
from scipy import integrate, stats
from scipy.special import betaln, gammaln, logsumexp

from aimz import FitWarning, ImpactModel, InputError, KernelValidationError
from aimz.inference import SMC, Gibbs, NestedSampling
from aimz.inference.smc.engine import _judged
from aimz.inference.smc.run import Run
from aimz.inference.smc.steps import grouped_steps
from aimz.prediction import problem_of
from aimz.testing import EngineContract

SCHOOLS = np.array([28, 8, -3, 7, -1, 1, 18, 12], np.float32)
ERRORS = np.array([15, 10, 16, 11, 9, 11, 10, 18], np.float32)[:, None]
LOG_EVIDENCE = -36.1308  # of eight schools, by quadrature


class TestSMC(EngineContract):
    def make_engine(self):
        return SMC(particles=500, runs=2)


def centred(X, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.LogNormal(5.0, 1.0))
    with numpyro.plate("schools", X.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, X[:, 0]), obs=y)


def not_centred(X, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.LogNormal(5.0, 1.0))
    with numpyro.plate("schools", X.shape[0]):
        z = numpyro.sample("z", dist.Normal())
        numpyro.sample("y", dist.Normal(mu + tau * z, X[:, 0]), obs=y)


def fitted(kernel, X, y, seed=0, **settings):
    model = ImpactModel(kernel, inference=SMC(**settings), rng_key=seed, num_samples=1000)
    return model.fit(X, y, progress=False)


def zeros(rows):
    return np.zeros((rows, 1), np.float32)


# ------------------------------------------------------------------ evidence
STEPS_OF_RUNS = {"temperatures": 0.5, "acceptance": 0.3, "ess": 1250.0, "increments": -1.0}
RNG = np.random.default_rng(5)


def coin(X, y=None):
    p = numpyro.sample("p", dist.Uniform())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


def coin_case():
    y = (RNG.random(10_000) < 0.3).astype(np.float32)
    hits = y.sum()
    return coin, zeros(len(y)), y, betaln(1 + hits, 1 + len(y) - hits)


def line(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.5), obs=y)


def line_case():
    X = RNG.normal(size=(30, 2)).astype(np.float32)
    y = (X @ [1.0, -0.5] + 1.5 * RNG.normal(size=30)).astype(np.float32)
    cov = 4.0 * X.astype(float) @ X.T + 1.5**2 * np.eye(30)
    return line, X, y, stats.multivariate_normal(np.zeros(30), cov).logpdf(y)


def labelled_mixture(X, y=None):
    w = numpyro.sample("w", dist.Beta(2.0, 2.0))
    with numpyro.plate("rows", X.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(w))
        numpyro.sample("y", dist.Normal(3.0 * z - 1.0, 1.0), obs=y)


def mixture_case():
    y = np.array([-1.5, 2.2, 0.4, 1.8, 2.5, -0.3, 1.1, 0.7], np.float32)
    grid = (np.arange(20_000) + 0.5) / 20_000
    log_likelihood = np.log(
        grid[:, None] * stats.norm(2, 1).pdf(y) + (1 - grid[:, None]) * stats.norm(-1, 1).pdf(y)
    ).sum(axis=1)
    truth = logsumexp(log_likelihood + stats.beta(2, 2).logpdf(grid)) - np.log(len(grid))
    return labelled_mixture, zeros(len(y)), y, truth


def funnel(X, y=None):
    v = numpyro.sample("v", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", X.shape[0]):
        x = numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


def funnel_case():
    y = np.array([0.2, -3.0, 0.5, 1.0, -0.4, 2.6], np.float32)

    def density(v):
        return np.exp(
            stats.norm(0, 2).logpdf(v) + stats.norm(0, np.sqrt(1 + np.exp(v))).logpdf(y).sum()
        )

    return funnel, zeros(len(y)), y, np.log(integrate.quad(density, -12, 12)[0])


def counts(X, y=None):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def counts_case():
    y = RNG.poisson(4.0, size=12)
    n, total = len(y), y.sum()
    truth = (
        2 * np.log(0.5) - gammaln(2) + gammaln(2 + total) - (2 + total) * np.log(0.5 + n)
    ) - gammaln(y + 1).sum()
    return counts, zeros(n), y, truth


CASES = [coin_case, line_case, mixture_case, funnel_case, counts_case]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_evidence_is_that_of_closed_forms(case):
    kernel, X, y, truth = case()
    found = fitted(kernel, X, y).diagnostics_
    assert found["log_evidence"] == pytest.approx(truth, abs=0.12)
    assert found["log_evidence_se"] < 0.12


@pytest.mark.slow
@pytest.mark.parametrize("case", [coin_case, line_case, funnel_case, counts_case])
def test_nested_sampling_has_the_evidence_of_closed_forms(case):
    kernel, X, y, truth = case()
    model = ImpactModel(kernel, inference=NestedSampling(), rng_key=0).fit(X, y, progress=False)
    found = model.diagnostics_
    assert found["log_evidence"] == pytest.approx(truth, abs=3 * found["log_evidence_se"])
    assert found["log_evidence_se"] < 0.25


@pytest.mark.slow
class TestGibbs(EngineContract):
    def make_engine(self):
        return Gibbs(chains=2)


@pytest.mark.slow
class TestGibbsByBlocks(EngineContract):
    def make_engine(self):
        return Gibbs(steps={}, chains=2, warmup=400)


@pytest.mark.parametrize("steps", [None, {}], ids=["numpyro", "blocks"])
def test_gibbs_refuses_by_name(steps):
    def steady(X, y=None):
        def step(carry, row):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=row)
            return carry, None

        scan(step, 0.0, y, length=X.shape[0])

    def many(X, y=None):
        k = numpyro.sample("k", dist.Poisson(3.0))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(k, 1.0), obs=y)

    for kernel, words in ((steady, "'z' is inside scan"), (many, "'k' has no last value")):
        model = ImpactModel(kernel, inference=Gibbs(steps), rng_key=0)
        with pytest.raises(KernelValidationError, match=words):
            model.fit(zeros(4), np.ones(4, np.float32), progress=False)


@pytest.mark.parametrize("settings", [{"chains": 0}, {"walkers": 2}, {"mutations": 0}])
def test_settings_of_gibbs_that_cannot_be_are_refused(settings):
    with pytest.raises(InputError, match="is no whole number"):
        Gibbs(**settings)


def square(X, y=None):
    t = numpyro.sample("t", dist.Normal(0.0, 3.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(t**2, 1.0), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [None, {}], ids=["numpyro", "blocks"])
def test_chains_that_stay_at_their_modes_say_so(steps):
    model = ImpactModel(square, inference=Gibbs(steps), rng_key=0)
    with pytest.warns(FitWarning, match="have not mixed"):
        model.fit(zeros(8), np.full(8, 4.0, np.float32), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [SMC(), Gibbs(), Gibbs(steps={})],
    ids=["smc", "gibbs", "gibbs by blocks"],
)
def test_an_assignment_is_drawn_from_its_posterior(engine):
    kernel, X, y, _ = mixture_case()
    model = ImpactModel(kernel, inference=engine, rng_key=0, num_samples=1000)
    found = model.fit(X, y, progress=False).posterior
    grid = (np.arange(20_000) + 0.5) / 20_000
    parts = [
        grid[:, None] * stats.norm(2, 1).pdf(y),
        (1 - grid[:, None]) * stats.norm(-1, 1).pdf(y),
    ]
    log_weights = np.log(parts[0] + parts[1]).sum(axis=1) + stats.beta(2, 2).logpdf(grid)
    weights = np.exp(log_weights - logsumexp(log_weights))
    truth = weights @ (parts[0] / (parts[0] + parts[1]))
    np.testing.assert_allclose(np.mean(found["z"], axis=0), truth, atol=0.05)
    assert np.mean(found["w"]) == pytest.approx(weights @ grid, abs=0.02)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kernel", [centred, not_centred], ids=["centred", "not_centred"])
def test_eight_schools(kernel):
    scores = []
    for seed in range(20):
        inference = SMC(particles=10_000)
        model = ImpactModel(kernel, inference=inference, rng_key=seed, num_samples=10_000)
        model.fit(ERRORS, SCHOOLS, progress=False)
        found, posterior = model.diagnostics_, model.posterior
        error = found["log_evidence"] - LOG_EVIDENCE
        assert abs(error) < 0.04
        assert np.mean(posterior["mu"]) == pytest.approx(5.799, abs=0.1)
        assert np.mean(posterior["tau"]) == pytest.approx(13.167, abs=0.3)
        scores.append(error / found["log_evidence_se"])
    assert np.std(scores) < 1.5


def test_runs_that_agree_by_chance_have_the_error_that_their_weights_explain():
    # Nine steps to half of the particles: each has a variance of one particle's share.
    steps = {name: [np.full(4, value) for _ in range(9)] for name, value in STEPS_OF_RUNS.items()}
    draws = {"mu": np.random.default_rng(0).normal(size=(4, 500))}
    for spread, expected in ((0.0, 0.03), (0.5, 0.25)):
        logs = -36.0 + spread * np.array([-1.0, 1.0, -1.0, 1.0]) * np.sqrt(0.75)
        course: Any = SimpleNamespace(log_evidence=logs, **steps)
        attrs, notes = _judged(SMC(particles=2500, runs=4), course, draws, "")
        assert attrs["log_evidence_se"] == pytest.approx(expected)
        assert not notes
    one: Any = SimpleNamespace(
        log_evidence=[-36.0], **{name: [value[:1] for value in of] for name, of in steps.items()}
    )
    attrs, _ = _judged(SMC(particles=2500, runs=1), one, draws, "")
    assert np.isnan(attrs["log_evidence_se"])


# ------------------------------------------------------------------ blocks and steps
def test_members_of_a_plate_are_accepted_one_by_one():
    problem = problem_of(centred, ("X", "y"), {"X": ERRORS, "y": SCHOOLS}, None, "raise")[0]
    blocks = {block.name: block for block in Run(SMC(), problem, {}).blocks}
    assert (blocks["theta"].members, blocks["theta"].size) == (8, 1)
    assert (blocks["mu"].members, blocks["tau"].members) == (1, 1)
    assert set(blocks["theta"].owners) == {"theta", "y"}
    assert set(blocks["mu"].owners) == {"mu", "theta"}


STEPS = {
    "mala": {"b": "mala"},
    "elliptical": {"b": "elliptical"},
    "together": {("b", "s"): "rwm"},
    "nuts": {"b": lambda density: blackjax.nuts(density, 0.7, np.ones(2))},
}


def scaled_line(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.Uniform(1.4999, 1.5001))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, s), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("steps", STEPS.values(), ids=list(STEPS))
def test_every_step_leads_to_the_posterior(steps):
    _, X, y, truth = line_case()
    model = fitted(scaled_line, X, y, steps=steps, runs=2)
    precision = np.eye(2) / 4.0 + X.T.astype(float) @ X / 1.5**2
    mean = np.linalg.solve(precision, X.T @ y / 1.5**2)
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    draws = model.posterior["b"]
    np.testing.assert_allclose(np.mean(draws, axis=0), mean, atol=0.15 * sd.max())
    np.testing.assert_allclose(np.std(draws, axis=0), sd, rtol=0.1)
    assert model.diagnostics_["log_evidence"] == pytest.approx(truth, abs=0.3)


def limited(X, y=None):
    top = numpyro.sample("top", dist.Uniform(0.0, 1.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Uniform(0.0, top), obs=y)


@pytest.mark.parametrize("largest", [0.3, 0.98])
def test_data_may_rule_out_most_of_the_prior(largest):
    """Particles without a density leave at once, and their share is a factor of the evidence."""
    y = np.array([0.1, 0.2, largest], np.float32)
    model = fitted(limited, zeros(3), y, particles=400, mutations=4, runs=2)
    evidence = (largest**-2 - 1.0) / 2.0
    mean = (largest**-1 - 1.0) / evidence
    sd = np.sqrt(-np.log(largest) / evidence - mean**2)
    draws = model.posterior["top"]
    assert abs(draws.mean() - mean) < 0.15 * sd
    assert abs(draws.std() / sd - 1.0) < 0.1
    assert abs(model.diagnostics_["log_evidence"] - np.log(evidence)) < 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"particles": 2}, "particles=2"),
        ({"runs": 0}, "runs=0"),
        ({"mutations": 1.5}, "mutations=1.5"),
        ({"target_ess": 1.0}, "target_ess=1.0"),
        ({"steps": ["b"]}, "is no dict"),
        ({"steps": {"b": "gibbs"}}, "names no step"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SMC(**settings)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"c": "rwm"}, "no latent site"),
        ({("b", "s"): "rwm", "b": "mala"}, "twice"),
        ({"b": "enumerate"}, "continuous"),
        ({("b", "s"): "elliptical"}, "one site"),
    ],
    ids=["unknown", "twice", "continuous", "together"],
)
def test_steps_that_cannot_move_a_site_are_refused(steps, message):
    with pytest.raises(InputError, match=message):
        grouped_steps(steps, ("b", "s"), ())


@pytest.mark.parametrize("setting", ["num_chains", "num_warmup", "num_steps", "epochs"])
def test_settings_of_other_engines_are_refused(setting):
    asked: dict[str, Any] = {setting: 3}
    with pytest.raises(InputError, match=f"{setting}=3 is for"):
        ImpactModel(coin, inference="smc").fit(zeros(4), np.ones(4), **asked)


@pytest.mark.slow
def test_param_sites_are_said_to_keep_their_values():
    def kernel(X, y=None):
        shift = numpyro.param("shift", 0.5)
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(b + shift, 1.0), obs=y)

    y = np.full(4, 1.5, np.float32)
    model = ImpactModel(kernel, inference=SMC(50, None, 2, 1), rng_key=0, warm_start=True)
    for _ in range(2):  # the second fit goes on, with the same values
        with pytest.warns(FitWarning, match="'shift' keep"):
            model.fit(zeros(4), y, progress=False)
        assert model._fitted.fit.params["shift"] == 0.5


def test_kernels_that_it_cannot_do_are_refused_by_name():
    def flat(X, y=None):
        b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(b, 1.0), obs=y)

    def many(X, y=None):
        k = numpyro.sample("k", dist.Poisson(3.0))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(k, 1.0), obs=y)

    for kernel, message in ((flat, "'b' has no proper prior"), (many, "'k' has no last value")):
        with pytest.raises(KernelValidationError, match=message):
            fitted(kernel, zeros(4), np.ones(4, np.float32))


@pytest.mark.slow
def test_a_saved_model_is_the_same_and_more_draws_are_new(tmp_path):
    kernel, X, y, _ = mixture_case()
    model = fitted(kernel, X, y, particles=100, mutations=10, runs=2)
    model.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", labelled_mixture, inference=SMC(100, None, 10, 2))
    for name, draws in model.posterior.items():
        np.testing.assert_array_equal(loaded.posterior[name], draws)
    first, again = (m.predict_on_batch(X, progress=False) for m in (model, loaded))
    xr.testing.assert_equal(first["posterior_predictive"], again["posterior_predictive"])
    more = model.sample(num_samples=150)["posterior"]["w"]
    assert more.shape == (2, 150)
    # Ten moves are all refused once in some hundred times, as a step of a chain may be.
    assert np.isin(more, model.posterior["w"]).mean() < 0.05
