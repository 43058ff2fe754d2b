"""Likelihoods that a net learns: normalised, inside a box, and distributions like any other."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from sklearn.base import clone

from aimz import ImpactModel, InputError
from aimz.likelihoods import DriftDiffusion, NeuralLikelihood, Simulations, Training, simulate
from aimz.sequential import scan_trials

BOUNDS = {"v": (-3.0, 3.0), "a": (0.6, 3.0), "z": (0.2, 0.8), "t": (0.0, 1.0)}


@jax.jit
def diffuse(key, v, a, z, t):
    drawn = DriftDiffusion(v, a, z, t).sample(key)
    return drawn[:, 0], drawn[:, 1]


BRIEF = Training(width=16, depth=1, components=4, epochs=4, batch_size=256)


@pytest.fixture(scope="module")
def simulations() -> Simulations:
    return simulate(diffuse, BOUNDS, n=8192)


@pytest.fixture(scope="module")
def lik(simulations) -> NeuralLikelihood:
    return NeuralLikelihood.train(simulations, shift="t", training=BRIEF)


def test_simulations_are_those_of_the_key_and_lie_in_the_box(simulations):
    again = simulate(diffuse, BOUNDS, n=8192)
    np.testing.assert_array_equal(again.outcomes, simulations.outcomes)
    other = simulate(diffuse, BOUNDS, n=8192, key=1)
    assert not (other.outcomes == simulations.outcomes).all(-1).any()
    assert len(simulations) == 8192
    for name, (low, high) in BOUNDS.items():
        drawn = simulations.parameters[name]
        assert low <= drawn.min() < low + 0.01 < high - 0.01 < drawn.max() <= high


def test_parameters_are_drawn_from_a_prior_where_one_is_given():
    def both(key, even, near):
        return jax.random.exponential(key, even.shape), jnp.ones_like(even)

    sides = {"even": (0.0, 1.0), "near": dist.TruncatedNormal(0.3, 0.1, low=0.0, high=2.0)}
    found = simulate(both, sides, n=5000)
    assert found.bounds == {"even": (0.0, 1.0), "near": (0.0, 2.0)}
    law = st.truncnorm(-3, 17, 0.3, 0.1)
    assert st.kstest(found.parameters["near"], law.cdf).pvalue > 0.001
    evenly = simulate(both, {**sides, "near": (0.0, 2.0)}, n=5000)
    np.testing.assert_array_equal(found.parameters["even"], evenly.parameters["even"])
    assert np.corrcoef(found.parameters["even"], found.parameters["near"])[0, 1] < 0.05


def test_training_learns(lik):
    assert lik.course.held_out[-1] < lik.course.held_out[0]
    assert np.isfinite(lik.course.trained).all()


def test_densities_integrate_to_one_and_are_the_law_of_draws(lik):
    fn = lik(v=1.0, a=1.5, z=0.4, t=0.3)

    @jax.jit
    def look(key: jax.Array) -> Any:
        places = jnp.linspace(-14.0, 12.0, 20_001)
        times = jnp.exp(places)
        shares = []
        for code in fn.codes:
            pairs = jnp.stack([fn.shift + times, jnp.full_like(times, code)], -1)
            log_density = jnp.log(times) + jax.vmap(lambda p: fn.log_prob(p))(pairs)
            shares.append(jnp.exp(log_density).sum() * (places[1] - places[0]))
        drawn = fn.sample(key, (20_000,))
        less, _ = fn.log_tails_of(drawn[:, 0] - fn.shift, (drawn[:, 1] > 0).astype(int))
        hidden = fn.censored(0.9, (1.0,)).choice()
        return jnp.stack(shares), fn.choice(), drawn, less, fn.mean, hidden

    shares, choice, drawn, less, mean, hidden = (np.asarray(v) for v in look(jax.random.key(0)))
    np.testing.assert_allclose(shares, choice, rtol=2e-3)
    assert st.kstest(np.exp(less), "uniform").pvalue > 0.001
    spread = drawn.std(0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(0) - mean) < 5 * spread).all()
    assert hidden.sum() == pytest.approx(1.0, abs=1e-5)
    seen = (drawn[:, 1] == 1) & (drawn[:, 0] <= 0.9)
    assert hidden[0] == pytest.approx(seen.mean(), abs=0.02)


# ------------------------------------------------------------------ the box
@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"v": -1.0, "a": -1.5, "z": -0.5, "t": -0.3}, "outside-box"),  # the whole row negated
        ({"v": np.array([1.0, 3.1]), "a": 1.5, "z": 0.5, "t": 0.3}, "outside-box"),
        ({"v": np.nan, "a": 1.5, "z": 0.5, "t": 0.3}, "outside-box"),
        ({"v": 1.0, "a": 1.5, "z": 0.5}, "likelihood-parameters"),
        ({"v": 1.0, "a": 1.5, "z": 0.5, "t": 0.3, "s": 1.0}, "likelihood-parameters"),
    ],
    ids=["negated", "row", "nan", "fewer", "more"],
)
def test_what_the_net_does_not_know_is_refused(lik, parameters, code):
    with pytest.raises(InputError) as error:
        lik(**parameters)
    assert error.value.code == code


def test_the_border_of_the_box_belongs_to_it(lik):
    fn = lik(v=3.0, a=0.6, z=np.float32(0.8), t=0.0)
    assert np.isfinite(fn.log_prob(jnp.array([0.5, 1.0])))


@pytest.mark.parametrize("wrong", ["a", "v"])
def test_what_a_program_puts_outside_has_no_density_and_no_draws(lik, wrong):
    @jax.jit
    def look(value: Any) -> Any:
        def score(value: Any) -> Any:
            fn = lik(**{"v": 1.0, "a": 1.5, "z": 0.5, "t": 0.3, wrong: value})
            return fn.log_prob(jnp.array([0.7, 1.0]))

        fn = lik(**{"v": 1.0, "a": 1.5, "z": 0.5, "t": 0.3, wrong: value})
        return score(value), jax.grad(score)(value), fn.sample(jax.random.key(0)), fn.choice()

    density, slope, drawn, choice = look(-4.0)
    assert np.isneginf(density)
    assert np.isfinite(slope)
    assert np.isnan(drawn).all()
    assert np.isnan(choice).all()
    assert all(np.isfinite(v).all() for v in look(1.4))


def test_parameters_keep_their_sides_of_the_box_as_trees(lik):
    """Trees, as of scans, sort parameters by name, and their box must go with them."""
    given = {"v": -2.5, "a": 0.7, "z": 0.3, "t": 0.9}  # in the side of no other
    value = jnp.array([1.5, 1.0])
    truth = lik(**given).log_prob(value)
    assert np.isfinite(truth)
    made = jax.jit(lambda v, a: lik(**{**given, "v": v, "a": a}))
    np.testing.assert_allclose(made(-2.5, 0.7).log_prob(value), truth, rtol=1e-5)
    assert list(made(-2.5, 0.7).arg_constraints["v"].takes(jnp.array([-2.5, 3.5]))) == [True, False]
    assert np.isneginf(made(-2.5, -2.5).log_prob(value))  # v's side of the box


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"choices": (0, 1)}, "Name the code of each choice"),
        ({"choices": (1,)}, "Name the code of each choice"),
        ({"shift": "a"}, "not after the shift"),
        ({"shift": "tau"}, "no parameter"),
        ({"training": Training(batch_size=5000)}, "too few"),
    ],
    ids=["zero", "one", "wrong-shift", "no-shift", "few"],
)
def test_simulations_that_teach_nothing_are_refused(simulations, change, says):
    with pytest.raises(InputError, match=says) as error:
        NeuralLikelihood.train(simulations, **{"shift": "t", "training": BRIEF, **change})
    assert error.value.code == "simulations"


@pytest.mark.parametrize(
    ("times", "shift"),
    [
        (lambda t: np.full(len(t), 0.7), None),
        (lambda t: np.full(len(t), np.nan), None),
        (lambda t: t + 0.7, "t"),
    ],
    ids=["one", "nan", "one-after-the-shift"],
)
def test_times_that_never_vary_teach_nothing(times, shift):
    t = np.linspace(0.1, 0.4, 1000, dtype=np.float32)
    outcomes = np.stack([times(t).astype(np.float32), np.ones_like(t)], -1)
    made = Simulations({"t": t}, outcomes, {"t": (0.1, 0.4)})
    with pytest.raises(InputError, match="no distribution of times") as error:
        NeuralLikelihood.train(made, choices=(1,), shift=shift, training=BRIEF)
    assert error.value.code == "simulations"


@pytest.mark.parametrize(
    ("simulator", "bounds", "says"),
    [
        (diffuse, {}, "there are none"),
        (diffuse, {**BOUNDS, "a": (2.0, 1.0)}, r"'a' has \(2\.0, 1\.0\)"),
        (diffuse, {**BOUNDS, "v": dist.Normal()}, "'v' has Normal"),
        (diffuse, {**BOUNDS, "v": dist.Uniform(np.zeros(2), 1.0)}, "'v' has Uniform"),
        (diffuse, {**BOUNDS, "v": dist.Binomial(3, 0.5)}, "'v' has Binomial"),
        (lambda key, v: (v * np.nan, v), {"v": (0.0, 1.0)}, "no numbers"),
        (lambda key, v: (v[:3], v[:3]), {"v": (0.0, 1.0)}, "shape"),
        ("no-such-model", None, "no model"),
        ("ddm", {"v": (0.0, 1.0)}, "has the parameters"),
    ],
    ids=["none", "turned", "endless", "rows", "counts", "nan", "short", "name", "names"],
)
def test_simulators_that_do_not_simulate_are_refused(simulator, bounds, says):
    with pytest.raises(InputError, match=says) as error:
        simulate(simulator, bounds, n=10)
    assert error.value.code == "simulations"


# ------------------------------------------------------------------ in a kernel
class Kernel:
    """A kernel that holds its likelihood."""

    def __init__(self, lik: NeuralLikelihood) -> None:
        self.lik = lik

    def __call__(self, X, treated, y=None):
        drift = numpyro.sample("drift", dist.Normal(1.0, 1.0))
        gain = numpyro.sample("gain", dist.Normal(0.0, 1.0))
        v = drift + gain * treated + 0 * X[:, 0]
        with numpyro.plate("trial", X.shape[0]):
            numpyro.sample("y", self.lik(v=v, a=1.5, z=0.5, t=0.25), obs=y)


ROWS = 30
X, TREATED = np.zeros((ROWS, 1)), np.arange(ROWS) % 2 * 1.0
RNG = np.random.default_rng(0)
DRAWS = {"drift": RNG.normal(0.5, 0.1, 20), "gain": RNG.normal(1, 0.1, 20)}


@pytest.mark.slow
def test_it_is_a_family_like_others(lik, tmp_path):
    model = ImpactModel(Kernel(lik)).set_posterior_sample(DRAWS)
    whole, tiled = (
        model.predict(X, treated=TREATED, store="memory", batch_size=size, progress=False)
        for size in (None, 7)
    )
    drawn = np.asarray(whole.posterior_predictive["y"])
    np.testing.assert_array_equal(drawn, tiled.posterior_predictive["y"])
    y = drawn[0, 0]
    scored = model.log_likelihood(X, y, treated=TREATED, store="memory", progress=False)
    v = DRAWS["drift"][:, None] + DRAWS["gain"][:, None] * TREATED
    truth = lik(v=v, a=1.5, z=0.5, t=0.25).log_prob(y)
    np.testing.assert_allclose(scored.log_likelihood["y"][0], truth, rtol=1e-4, atol=1e-4)
    effect = model.effect(
        X,
        {},
        {"treated": 1.0},
        y=y,
        treated=TREATED,
        progress=False,
        rung="counterfactual",
        estimand="ite",
    )
    change = np.asarray(effect.draws.transpose("chain", "draw", "trial", ...))[0]
    np.testing.assert_allclose(change[:, TREATED == 1], 0, atol=1e-4)
    assert (change[..., 1] >= 0).all()
    assert np.abs(change[:, TREATED == 0]).max() > 0.01


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_a_learning_rule_gives_the_drift_of_a_net(lik):
    """Each trial has the density that the net gives by itself for the drift that is learned."""

    def kernel(X, reward, y=None):
        rate = numpyro.sample("rate", dist.Uniform())
        gain = numpyro.sample("gain", dist.Uniform(0.0, 3.0))

        def step(value, trial):
            gains, response = trial
            law = lik(v=gain * (value[:, 1] - value[:, 0]), a=1.5, z=0.5, t=0.2)
            response = numpyro.sample("y", law, obs=response)
            chosen = jax.nn.one_hot((response[:, 1] > 0).astype(int), 2)
            return value + rate * (gains - value) * chosen, None

        subjects = numpyro.plate("subject", X.shape[0])
        scan_trials(step, jnp.full((X.shape[0], 2), 0.5), (reward, y), members=subjects)

    members, trials, rng = 3, 6, np.random.default_rng(0)
    reward = rng.integers(0, 2, (members, trials, 2)).astype(np.float32)
    model = ImpactModel(kernel).set_posterior_sample(
        {"rate": np.array([0.3, 0.6]), "gain": np.array([2.5, 1.5])}
    )
    X = np.zeros((members, 1))
    y = np.asarray(model.predict_on_batch(X, reward=reward).posterior_predictive["y"])
    y = y[0, 0].swapaxes(0, 1)
    scored = model.log_likelihood(X, y, reward=reward, store="memory", progress=False)
    value, rows, drifts = np.full((members, 2), 0.5), np.arange(members), []
    for trial in range(trials):
        drifts.append(2.5 * (value[:, 1] - value[:, 0]))
        chosen = (y[:, trial, 1] > 0).astype(int)
        value[rows, chosen] += 0.3 * (reward[rows, trial, chosen] - value[rows, chosen])
    truth = lik(v=np.stack(drifts), a=1.5, z=0.5, t=0.2).log_prob(y.swapaxes(0, 1))
    np.testing.assert_allclose(scored.log_likelihood["y"][0, 0], truth, rtol=1e-4, atol=1e-4)


def test_it_travels(lik, tmp_path):
    lik.save(tmp_path / "net.safetensors")
    value, parameters = jnp.array([0.7, 1.0]), {"v": 1.0, "a": 1.5, "z": 0.5, "t": 0.3}
    truth = lik(**parameters).log_prob(value)
    others = [NeuralLikelihood.load(tmp_path / "net.safetensors"), pickle.loads(pickle.dumps(lik))]
    others.append(clone(ImpactModel(Kernel(lik))).kernel.lik)
    for other in others:
        assert other(**parameters).log_prob(value) == truth
        assert other.bounds == lik.bounds
        with pytest.raises(InputError):
            other(**{**parameters, "a": 9.0})


def test_a_posterior_outside_of_the_box_is_named(lik):
    far = ImpactModel(Kernel(lik)).set_posterior_sample({**DRAWS, "drift": np.full(20, 9.0)})
    with pytest.raises(InputError, match="MixtureResponse with v = 9"):
        far.predict_on_batch(X, treated=TREATED)


@pytest.mark.slow
def test_a_million_simulations_give_the_closed_form():
    many = simulate(diffuse, BOUNDS, n=1_000_000)
    lik = NeuralLikelihood.train(many, shift="t")
    fresh = simulate(diffuse, BOUNDS, n=3000, key=1)
    closed, net = DriftDiffusion(*fresh.parameters.values()), lik(**fresh.parameters)
    off = np.asarray(net.log_prob(fresh.outcomes) - closed.log_prob(fresh.outcomes))
    choice = np.asarray(net.choice(1) - closed.choice(1))
    print(np.abs(off).mean(), off.mean(), np.abs(choice).mean())
    assert np.abs(off).mean() <= 0.06
    assert abs(off.mean()) <= 0.005
    assert np.abs(choice).mean() <= 0.006
