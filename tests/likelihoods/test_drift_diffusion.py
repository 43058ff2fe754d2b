"""Drift-diffusion responses: against images and waves, Wald's identities, and quadrature."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from scipy import integrate

from aimz import ImpactModel, InputError
from aimz.likelihoods import DriftDiffusion


def density(time: float, v: float, a: float, z: float, choice: float) -> float:
    """Of time and choice: many images where early, many waves where late, in double precision."""
    if choice > 0:
        v, z = -v, 1 - z
    unit = time / a**2
    if unit < 0.3:
        images = z + 2 * np.arange(-40, 41)
        series = (images * np.exp(-(images**2) / (2 * unit))).sum() / np.sqrt(2 * np.pi * unit**3)
    else:
        k = np.arange(1, 200)
        decay = np.exp(-(k**2) * np.pi**2 * unit / 2)
        series = np.pi * (k * decay * np.sin(k * np.pi * z)).sum()
    return float(np.exp(-v * a * z - v**2 * time / 2) * series / a**2)


RNG = np.random.default_rng(0)
SIZE = 2000
V, A, Z = RNG.normal(0, 3, SIZE), RNG.uniform(0.3, 5, SIZE), RNG.uniform(0.02, 0.98, SIZE)
ELAPSED, CHOICE = np.exp(RNG.uniform(-4, 1.5, SIZE)), RNG.choice([-1.0, 1.0], SIZE)


@cache
def computed(*, is_double: bool) -> dict[str, np.ndarray]:
    def look(parameters: Any, value: Any) -> dict[str, Any]:
        fn = DriftDiffusion(*parameters)
        less, more = fn.log_tails_of(value[:, 0], (value[:, 1] + 1) // 2)
        total = lambda p: DriftDiffusion(*p).log_prob(value).sum()
        return {
            "density": fn.log_prob(value),
            "less": less,
            "more": more,
            "slopes": jnp.stack(jax.grad(total)(parameters), -1),
        }

    with jax.enable_x64(is_double):
        parameters = tuple(jnp.asarray(p) for p in (V, A, Z, np.zeros(SIZE)))
        found = jax.jit(look)(parameters, jnp.asarray(np.stack([ELAPSED, CHOICE], -1)))
        return {name: np.asarray(value, float) for name, value in found.items()}


@pytest.mark.parametrize(("is_double", "slack"), [(False, 3e-6), (True, 1e-8)])
def test_log_densities_keep_their_digits(is_double, slack):
    truth = np.array([density(*case) for case in zip(ELAPSED, V, A, Z, CHOICE, strict=True)])
    there = truth > 1e-26
    off = np.abs(computed(is_double=is_double)["density"] - np.log(np.where(there, truth, 1)))
    assert (off[there] / (1 + np.abs(np.log(truth[there])))).max() < slack


def test_single_precision_has_the_tails_and_slopes_of_double():
    single, double = (computed(is_double=is_double) for is_double in (False, True))
    for name in ("less", "more", "slopes"):
        there = np.isfinite(double[name]) & (double["density"] > -60).reshape(
            SIZE, *[1] * (double[name].ndim - 1)
        )
        off = np.abs(single[name] - double[name]) / (1 + np.abs(double[name]))
        assert np.isfinite(single[name]).all()
        assert off[there].max() < 1e-4, name


def test_distribution_functions_are_integrals_of_the_density():
    double = computed(is_double=True)
    for i in range(8):
        parts = [ELAPSED[i] / 50, ELAPSED[i] / 5]
        below, _ = integrate.quad(
            density, 0, ELAPSED[i], (V[i], A[i], Z[i], CHOICE[i]), 0, 1e-12, 1e-10, 200, parts
        )
        reached = float(DriftDiffusion(V[i], A[i], Z[i]).choice(CHOICE[i]))
        assert np.exp(double["less"][i]) == pytest.approx(below / reached, rel=3e-6)
    np.testing.assert_allclose(np.exp(double["less"]) + np.exp(double["more"]), 1, rtol=1e-7)


@jax.jit
def choice_and_mean(v: Any) -> Any:
    def fn(v: Any) -> DriftDiffusion:
        return DriftDiffusion(v, 1.5, 0.3, 0.25)

    upper = lambda v: fn(v).choice(1.0)
    near = upper(v + 1e-3) - upper(v - 1e-3)
    return fn(v).choice(), fn(v).mean, jax.grad(upper)(v), near / 2e-3


@pytest.mark.parametrize("v", [-4.0, -0.3, -1e-4, 0.0, 0.05, 0.31, 2.0, 40.0])
def test_choices_and_means_are_those_of_a_textbook(v):
    a, z = 1.5, 0.3
    upper = z if v == 0 else np.expm1(-2 * v * a * z) / np.expm1(-2 * v * a)
    elapsed = a**2 * z * (1 - z) if abs(v) < 1e-3 else a * (upper - z) / v
    choice, mean, slope, near = choice_and_mean(v)
    np.testing.assert_allclose(choice, [1 - upper, upper], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(mean, [0.25 + elapsed, 2 * upper - 1], rtol=3e-4, atol=2e-7)
    assert float(slope) == pytest.approx(float(near), abs=2e-3)


def test_boundaries_of_other_packages_are_half_as_far():
    """ssm-simulators and HSSM have boundaries at -a and a: the same times need twice the `a`."""
    rng = np.random.default_rng(1)
    place, time = np.zeros(4000), np.zeros(4000)
    step, half = 2e-4, 0.75
    while (active := np.abs(place) < half).any():
        place[active] += 1.0 * step + np.sqrt(step) * rng.normal(size=active.sum())
        time[active] += step
    fn = DriftDiffusion(v=1.0, a=2 * half)
    assert time.mean() == pytest.approx(float(fn.mean[0]), abs=0.04)
    assert (place > 0).mean() == pytest.approx(float(fn.choice(1)), abs=0.025)


def test_draws_have_the_law():
    fn = DriftDiffusion(v=1.0, a=2.0, z=0.4, t=0.3)

    def look(key: jax.Array) -> Any:
        drawn = fn.sample(key, (20_000,))
        return drawn, fn.log_tails_of(drawn[:, 0] - 0.3, (drawn[:, 1] + 1) // 2)[0]

    drawn, less = (np.asarray(v) for v in jax.jit(look)(jax.random.key(0)))
    assert (drawn[:, 1] > 0).mean() == pytest.approx(float(fn.choice(1)), abs=0.013)
    for code in fn.codes:
        assert st.kstest(np.exp(less[drawn[:, 1] == code]), "uniform").pvalue > 0.01


def test_draws_are_precise_where_parameters_are_not_tame():
    shares = RNG.uniform(size=SIZE)
    shares[:100], shares[100:200] = 1e-5, 1 - 1e-5
    index = jnp.asarray((CHOICE + 1) // 2)

    def place(share: Any) -> Any:
        fn = DriftDiffusion(V, A, Z)
        elapsed = fn.elapsed_at(jnp.log(share), jnp.log1p(-share), index, precise=False)
        return jnp.exp(fn.log_tails_of(elapsed, index)[0])

    share = jnp.asarray(shares, jnp.float32)
    np.testing.assert_allclose(jax.jit(place)(share), share, atol=3e-5)


@pytest.mark.parametrize(
    ("deadline", "shown"),
    [
        (0.6, None),
        pytest.param(1.2, None, marks=pytest.mark.slow),
        pytest.param(0.6, (1.0,), marks=pytest.mark.slow),
        pytest.param(1.2, (-1.0,), marks=pytest.mark.slow),
        (np.inf, (1.0,)),
        pytest.param(np.inf, (-1.0,), marks=pytest.mark.slow),
    ],
)
def test_what_a_deadline_hides_adds_up_to_one(deadline, shown):
    v, a, z, t = 0.8, 1.6, 0.6, 0.2
    end = 60.0 if np.isinf(deadline) else deadline
    seen = {
        code: integrate.quad(density, 1e-9, end - t, (v, a, z, code), points=[0.1, 1], limit=200)[0]
        for code in shown or (-1.0, 1.0)
    }
    hidden = 1 - sum(seen.values())
    first = min(seen)
    values = [[0, 0], [deadline + 0.1, first], [0, first], [0.4, 0], [0.4, -first]]

    @jax.jit
    def look(deadline: Any, key: jax.Array) -> Any:
        fn = DriftDiffusion(v, a, z, t).censored(deadline, shown)
        drawn = fn.sample(key, (4000,))
        return fn.log_prob(jnp.asarray(values)), fn.choice(), drawn, fn.support(drawn).all()

    densities, choice, drawn, is_inside = look(deadline, jax.random.key(0))
    assert float(jnp.exp(densities[0])) == pytest.approx(hidden, abs=2e-6)
    np.testing.assert_allclose(choice, [*seen.values(), hidden], atol=2e-6)
    assert float((drawn == 0).all(-1).mean()) == pytest.approx(hidden, abs=0.03)
    assert np.isneginf(densities[1:4]).all()
    assert np.isneginf(densities[4]) == (shown is not None)
    assert is_inside


def test_a_choice_that_does_not_exist_is_refused_by_name():
    fn = DriftDiffusion(1.0, 2.0)
    for ask in (lambda: fn.choice(2), lambda: fn.censored(1.0, (0,))):
        with pytest.raises(InputError) as error:
            ask()
        assert error.value.code == "response-choice"
    with pytest.raises(InputError, match="not seen here"):
        fn.censored(1.0, (1,)).choice(-1)


# ------------------------------------------------------------------ as an outcome of a kernel
def diffusion(X, treated, y=None):
    drift = numpyro.sample("drift", dist.Normal(1.0, 1.0))
    gain = numpyro.sample("gain", dist.Normal(0.0, 1.0))
    apart = numpyro.sample("apart", dist.HalfNormal(2.0))
    v = numpyro.deterministic("v", drift + gain * treated + 0 * X[:, 0])
    numpyro.deterministic("right", DriftDiffusion(v, apart, 0.5, 0.25).choice(1))
    with numpyro.plate("trial", X.shape[0]):
        numpyro.sample("y", DriftDiffusion(v, apart, 0.5, 0.25), obs=y)


ROWS = 40
X, TREATED = np.zeros((ROWS, 1)), np.arange(ROWS) % 2 * 1.0


DRAWS = {
    "drift": RNG.normal(1, 0.1, 30).astype(np.float32),
    "gain": RNG.normal(1, 0.1, 30).astype(np.float32),
    "apart": RNG.uniform(1.4, 1.6, 30).astype(np.float32),
}


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    return ImpactModel(diffusion).set_posterior_sample(DRAWS)


@pytest.fixture(scope="module")
def outcome(model) -> Any:
    drawn = model.predict_on_batch(X, treated=TREATED).posterior_predictive["y"]
    return np.asarray(drawn)[0, 0]


@pytest.mark.slow
def test_predictions_belong_to_their_rows(model):
    whole, tiled = (
        model.predict(X, treated=TREATED, store="memory", batch_size=size, progress=False)
        for size in (None, 7)
    )
    drawn = np.asarray(whole.posterior_predictive["y"])
    assert drawn.shape == (1, 30, ROWS, 2)
    np.testing.assert_array_equal(drawn, tiled.posterior_predictive["y"])
    assert set(np.unique(drawn[..., 1])) == {-1.0, 1.0}
    assert drawn[..., 0].min() > 0.25


@pytest.mark.slow
def test_scores_are_the_densities_of_pairs(model, outcome):
    scored = model.log_likelihood(X, outcome, treated=TREATED, store="memory", progress=False)
    v = DRAWS["drift"][:, None] + DRAWS["gain"][:, None] * TREATED
    truth = DriftDiffusion(v, DRAWS["apart"][:, None], 0.5, 0.25).log_prob(outcome)
    np.testing.assert_allclose(scored.log_likelihood["y"][0], truth, rtol=1e-4, atol=1e-5)


def test_effects_are_on_mean_time_and_choice(model):
    effect = model.effect(X, {"treated": 0}, {"treated": 1}, treated=TREATED, progress=False)
    assert effect.draws.shape[-1] == 2
    time, choice = np.asarray(effect.draws.mean(("chain", "draw")))
    assert choice == pytest.approx(2 * (1 / (1 + np.exp(-3)) - 1 / (1 + np.exp(-1.5))), abs=0.03)
    assert time < 0


@pytest.mark.slow
def test_a_counterfactual_keeps_the_place_of_each_response(model, outcome):
    effect = model.effect(
        X,
        {},
        {"treated": 1.0},
        y=outcome,
        treated=TREATED,
        rung="counterfactual",
        estimand="ite",
        progress=False,
    )
    assert set(effect.couplings.values()) == {"quantile"}
    change = np.asarray(effect.draws.transpose("chain", "draw", "trial", ...))[0]
    np.testing.assert_allclose(change[:, TREATED == 1], 0, atol=1e-5)
    moved = change[:, TREATED == 0]
    assert (moved[..., 1] >= 0).all()  # more drift makes nobody err
    stay = (outcome[TREATED == 0, 1] == 1) & (moved[..., 1] == 0)
    assert (moved[..., 0][stay] < 1e-5).all()  # and those who are right sooner


def test_outcomes_that_no_response_has_are_refused(model, outcome):
    for bad in ([0.2, 1.0], [0.6, 0.0], [-0.6, -1.0]):
        wrong = outcome.copy()
        wrong[3] = bad
        with pytest.raises(InputError) as error:
            model.log_likelihood(X, wrong, treated=TREATED, store="memory", progress=False)
        assert error.value.code == "outcome-support"
