"""Engines of one density of one vector: posteriors and evidence against closed forms."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.special import betaln

from aimz import AimzError, FitWarning, ImpactModel, InputError, KernelValidationError
from aimz.inference import DADVI, MCLMC, Laplace, NestedSampling, Pathfinder
from aimz.testing import EngineContract


class TestLaplace(EngineContract):
    def make_engine(self):
        return Laplace()


class TestDADVI(EngineContract):
    def make_engine(self):
        return DADVI()


@pytest.mark.slow
class TestPathfinder(EngineContract):
    def make_engine(self):
        return Pathfinder(paths=4)


@pytest.mark.slow
class TestMCLMC(EngineContract):
    def make_engine(self):
        return MCLMC(chains=2, warmup=1000)


@pytest.mark.slow
class TestNestedSampling(EngineContract):
    def make_engine(self):
        return NestedSampling(live=100, runs=2)


RNG = np.random.default_rng(5)
ENGINES = [Laplace(), DADVI()]
NAMES = ["laplace", "dadvi"]
ALL = [*ENGINES, Pathfinder(4), MCLMC(2, 1000), NestedSampling(100, runs=2)]
every_engine = pytest.mark.parametrize("engine", ALL, ids=lambda engine: engine.name)
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=NAMES)


def fitted(kernel, X, y, engine, seed=0, **settings):
    model = ImpactModel(kernel, inference=engine, rng_key=seed, num_samples=1000)
    return model.fit(X, y, progress=False, **settings)


def zeros(rows):
    return np.zeros((rows, 1), np.float32)


def line(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.5), obs=y)


X_LINE = RNG.normal(size=(30, 2)).astype(np.float32)
X_LINE[:, 1] = 300.0 + 100.0 * X_LINE[:, 0] + X_LINE[:, 1]  # far from any unit scale
Y_LINE = (X_LINE @ [1.0, -0.5] + 1.5 * RNG.normal(size=30)).astype(np.float32)


@each_engine
def test_a_normal_posterior_is_exact(engine):
    """Covariances too, where columns are nearly the same and of other scales."""
    model = fitted(line, X_LINE, Y_LINE, engine)
    X = X_LINE.astype(float)
    precision = np.eye(2) / 4.0 + X.T @ X / 1.5**2
    covariance = np.linalg.inv(precision)
    state = model._fitted.fit.state
    np.testing.assert_allclose(state["loc"], covariance @ (X.T @ Y_LINE / 1.5**2), rtol=1e-4)
    np.testing.assert_allclose(state["root"] @ state["root"].T, covariance, rtol=1e-4)
    assert model.diagnostics_["verdict"] == "good"
    if engine.name == "laplace":
        cov = 4.0 * X @ X.T + 1.5**2 * np.eye(30)
        truth = stats.multivariate_normal(np.zeros(30), cov).logpdf(Y_LINE)
        assert model.diagnostics_["log_evidence"] == pytest.approx(truth, abs=1e-3)


def coin(X, y=None):
    p = numpyro.sample("p", dist.Uniform())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


@pytest.mark.slow
def test_evidence_of_ten_thousand_coins():
    y = (RNG.random(10_000) < 0.3).astype(np.float32)
    found = fitted(coin, zeros(len(y)), y, Laplace()).diagnostics_
    truth = betaln(1 + y.sum(), 1 + len(y) - y.sum())
    assert found["log_evidence"] == pytest.approx(truth, abs=2e-3)
    assert found["log_evidence_weighted"] == pytest.approx(truth, abs=2e-3)
    assert np.isnan(found["log_evidence_se"])


def sum_only(X, y=None):
    prior = dist.ImproperUniform(dist.constraints.real, (), ())
    total = numpyro.sample("a", prior) + numpyro.sample("b", prior)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(total, 1.0), obs=y)


def saddle(X, y=None):
    a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
    b = numpyro.sample("b", dist.Normal())
    numpyro.factor("up", 0.5 * a**2)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


@pytest.mark.slow
@each_engine
@pytest.mark.parametrize(("kernel", "way"), [(sum_only, "'a' - 'b'"), (saddle, "a'")])
def test_a_density_that_does_not_fall_is_an_error_that_names_the_direction(engine, kernel, way):
    with pytest.raises(AimzError, match=way) as caught:
        fitted(kernel, zeros(4), np.ones(4, np.float32), engine)
    assert caught.value.code == "no-mode"


def square(X, y=None):
    t = numpyro.sample("t", dist.Normal(0.0, 3.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(t**2, 1.0), obs=y)


def funnel(X, y=None):
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    with numpyro.plate("rows", X.shape[0]):
        x = numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


FUNNEL = np.array([0.2, -3.0, 0.5, 1.0, -0.4, 2.6], np.float32)


@pytest.mark.slow
@each_engine
@pytest.mark.parametrize(
    ("kernel", "y", "words"),
    [(square, np.full(20, 4.0, np.float32), "another mode"), (funnel, FUNNEL, "Pareto-k")],
    ids=["two modes", "funnel"],
)
def test_a_normal_that_is_wrong_says_so(engine, kernel, y, words):
    with pytest.warns(FitWarning, match=words):
        found = fitted(kernel, zeros(len(y)), y, engine).diagnostics_
    assert found["verdict"].startswith("bad")


def labelled(X, y=None):
    with numpyro.plate("rows", X.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def sampled_rows(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", X.shape[0], subsample_size=2):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=None if y is None else y[:2])


def nothing(X, y=None):
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


REFUSED = [
    (labelled, "'z' is discrete", "enumerated"),
    (sampled_rows, "'rows' takes a subsample", "terms"),
    (nothing, "no latent site", "terms"),
]


@every_engine
@pytest.mark.parametrize(("kernel", "message", "code"), REFUSED, ids=["z", "subsample", "none"])
def test_kernels_that_it_cannot_do_are_refused_by_name(engine, kernel, message, code):
    with pytest.raises(KernelValidationError, match=message) as caught:
        fitted(kernel, zeros(4), np.ones(4, np.float32), engine)
    assert caught.value.code == code


@pytest.mark.parametrize("setting", ["num_chains", "num_warmup", "num_steps", "epochs"])
@pytest.mark.parametrize("name", ["laplace", "dadvi", "pathfinder", "nested"])
def test_settings_of_other_engines_are_refused(name, setting):
    asked: dict[str, Any] = {setting: 3}
    with pytest.raises(InputError, match=f"{setting}=3 is for"):
        ImpactModel(coin, inference=name).fit(zeros(4), np.ones(4), **asked)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Laplace(0),
        lambda: Laplace(starts=True),
        lambda: DADVI(1),
        lambda: Pathfinder(0),
        lambda: MCLMC(0),
        lambda: MCLMC(warmup=10),
        lambda: NestedSampling(5),
        lambda: NestedSampling(moves=0),
    ],
)
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(InputError, match="is no whole number"):
        make()


@pytest.mark.parametrize("target", [0, 1, 1.0, 0.0, -0.5, float("nan"), True, "high"])
def test_a_target_that_is_no_probability_is_refused(target):
    with pytest.raises(InputError, match="is no probability between 0 and 1") as caught:
        MCLMC(target_accept_prob=target)
    assert caught.value.code == "settings"


def scaled(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", X.shape[0]), numpyro.handlers.scale(scale=2.0):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def plain(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def improper(X, y=None):
    b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def masked(X, y=None):
    b = numpyro.sample("b", dist.Normal().mask(False))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def within_a_mask(X, y=None):
    with numpyro.handlers.mask(mask=X[0, 0] > 0.0):
        b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "weights", "reason"),
    [
        (scaled, None, "'y' is scaled"),
        (plain, np.full(4, 2.0), "rows are weighted"),
        (improper, None, "prior of 'b' is not proper"),
        (masked, None, "prior of 'b' is masked"),
        (within_a_mask, None, "prior of 'b' is masked"),
    ],
    ids=["scaled", "weighted", "improper", "masked", "within a mask"],
)
def test_what_is_no_probability_of_the_data_is_no_evidence(kernel, weights, reason):
    model = fitted(kernel, zeros(4), np.ones(4, np.float32), Laplace(), sample_weight=weights)
    assert "log_evidence" not in model.diagnostics_
    assert any(reason in note for note in model.diagnostics_["notes"])


@pytest.mark.slow
def test_a_density_to_the_power_of_two_is_that_of_twice_the_rows():
    """Scale and weights reach the density itself."""
    y = np.array([0.5, 1.5, 1.0, 2.0], np.float32)
    twice = fitted(plain, zeros(8), np.tile(y, 2), Laplace())._fitted.fit.state
    for kernel, weights in ((scaled, None), (plain, np.full(4, 2.0))):
        found = fitted(kernel, zeros(4), y, Laplace(), sample_weight=weights)._fitted.fit.state
        np.testing.assert_allclose(found["loc"], twice["loc"], atol=1e-6)
        np.testing.assert_allclose(found["root"], twice["root"], atol=1e-6)


@pytest.mark.slow
@every_engine
def test_a_saved_model_is_the_same_and_draws_on(engine, tmp_path):
    y = np.array([0.5, 1.5, 1.0, 2.0], np.float32)
    model = fitted(plain, zeros(4), y, engine)
    model.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", plain, inference=engine)
    np.testing.assert_array_equal(loaded.posterior["b"], model.posterior["b"])
    call: dict[str, Any] = {"X": zeros(4), "y": y}  # what a loaded model does not hold
    more, again = (
        np.asarray(m.sample(num_samples=50, **data)["posterior"]["b"])
        for m, data in ((model, {}), (loaded, call))
    )
    np.testing.assert_array_equal(more, again)
    assert not np.isin(more, model.posterior["b"]).any()


# ------------------------------------------------------------------ of the extra
SCHOOLS = np.array([28, 8, -3, 7, -1, 1, 18, 12], np.float32)
ERRORS = np.array([15, 10, 16, 11, 9, 11, 10, 18], np.float32)[:, None]


def schools(X, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.LogNormal(5.0, 1.0))
    with numpyro.plate("schools", X.shape[0]):
        z = numpyro.sample("z", dist.Normal())
        numpyro.sample("y", dist.Normal(mu + tau * z, X[:, 0]), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [MCLMC(), NestedSampling()], ids=["mclmc", "nested"])
def test_eight_schools_are_those_of_quadrature(engine):
    model = fitted(schools, ERRORS, SCHOOLS, engine)
    posterior, found = model.posterior, model.diagnostics_
    assert found["verdict"] == "good"
    for name, mean, sd in (("mu", 5.799, 5.447), ("tau", 13.167, 6.909)):
        assert np.mean(posterior[name]) == pytest.approx(mean, abs=0.1 * sd)
        assert np.std(posterior[name]) == pytest.approx(sd, rel=0.1)
    if engine.name == "nested":
        assert found["log_evidence"] == pytest.approx(-36.1308, abs=0.35)
        assert found["log_evidence_se"] >= found["log_evidence_volume_sd"] / 2


@pytest.mark.slow
def test_a_path_whose_k_is_high_is_bad_and_has_no_evidence():
    with pytest.warns(FitWarning, match="Pareto-k"):
        found = fitted(schools, ERRORS, SCHOOLS, Pathfinder()).diagnostics_
    assert found["verdict"] == "bad: k-hat"
    assert np.isnan(found["log_evidence"])


@pytest.mark.slow
@pytest.mark.parametrize("engine", [Pathfinder(), MCLMC()], ids=["pathfinder", "mclmc"])
def test_columns_of_other_scales_are_no_trouble(engine):
    model = fitted(line, X_LINE, Y_LINE, engine)
    X = X_LINE.astype(float)
    covariance = np.linalg.inv(np.eye(2) / 4.0 + X.T @ X / 1.5**2)
    mean, sd = covariance @ (X.T @ Y_LINE / 1.5**2), np.sqrt(np.diag(covariance))
    draws = np.asarray(model.posterior["b"], float)
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - mean), 0.15 * sd)
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.1)
    assert model.diagnostics_["verdict"] == "good"


class _Stopped(MCLMC):
    """Ctrl-C in the third piece of the draws."""

    def _piece(self, posterior, key, state, count):
        if state["rounds"] == 2:
            raise KeyboardInterrupt
        return super()._piece(posterior, key, state, count)


@pytest.mark.slow
def test_ctrl_c_keeps_the_draws_that_are_there():
    y = np.array([0.5, 1.5, 1.0, 2.0], np.float32)
    with pytest.warns(FitWarning, match="interrupted: 2 of them kept 400 draws"):
        stopped = fitted(plain, zeros(4), y, _Stopped(2, 1000))
    assert stopped.diagnostics_["interrupted"]
    whole = fitted(plain, zeros(4), y, MCLMC(2, 1000))
    for chain in range(2):
        np.testing.assert_array_equal(
            stopped.posterior_tree["posterior"]["b"][chain],
            whole.posterior_tree["posterior"]["b"][chain, :400],
        )


@pytest.mark.slow
def test_a_limit_of_the_data_does_not_hold_chains_up():
    def kernel(X, y=None):
        top = numpyro.sample("top", dist.Uniform(0.0, 1.0))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Uniform(0.0, top), obs=y)

    y = np.array([0.1, 0.2, 0.75], np.float32)
    with pytest.warns(FitWarning, match="diverged"):
        fitted(kernel, zeros(3), y, MCLMC(2, 500))


@pytest.mark.slow
def test_impossible_places_of_the_prior_are_a_plateau_of_no_evidence():
    """Half of the prior gives the data no density at all."""

    def kernel(X, y=None):
        top = numpyro.sample("top", dist.Uniform(0.0, 2.0))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Uniform(0.0, top, validate_args=False), obs=y)

    y = np.array([0.2, 1.0, 0.7], np.float32)
    found = fitted(kernel, zeros(3), y, NestedSampling(runs=2)).diagnostics_
    truth = np.log(0.5 * (1.0 - 2.0**-2) / 2.0)  # of the integral of top ** -3 / 2 from 1 to 2
    assert found["log_evidence"] == pytest.approx(truth, abs=4 * found["log_evidence_se"])
    assert found["log_evidence_se"] < 0.1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("laplace", Laplace),
        ("dadvi", DADVI),
        ("pathfinder", Pathfinder),
        ("mclmc", MCLMC),
        ("nested", NestedSampling),
    ],
)
def test_names_stand_for_engines(name, kind):
    engine = ImpactModel(plain, inference=name)._setup.engine
    assert isinstance(engine, kind)
    assert engine.name == name
