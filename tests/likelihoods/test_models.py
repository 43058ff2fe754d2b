"""Likelihoods in larger models: a learning rule gives the drift; a model without a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel
from aimz.inference import NUTS
from aimz.likelihoods import DriftDiffusion, NeuralLikelihood, Training, simulate
from aimz.sequential import hierarchical, recovery, scan_trials

pytestmark = pytest.mark.slow


def learned_drift(X, reward, y=None):
    """Two options are learned; the difference of their values is the drift."""
    subjects = numpyro.plate("subject", X.shape[0])
    rate = hierarchical("rate", subjects, jax.nn.sigmoid)
    gain = hierarchical("gain", subjects, jnp.exp, 1.0, 0.5)

    def step(value, trial):
        gains, response = trial
        v = gain * (value[:, 1] - value[:, 0])
        response = numpyro.sample("y", DriftDiffusion(v, 1.5, 0.5, 0.2), obs=response)
        chosen = jax.nn.one_hot((response[:, 1] > 0).astype(int), 2)
        return value + rate[:, None] * (gains - value) * chosen, v

    scan_trials(step, jnp.full((X.shape[0], 2), 0.5), (reward, y), members=subjects)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_a_learning_rule_gives_the_drift():
    rng, members, trials = np.random.default_rng(0), 3, 10
    X, reward = np.zeros((members, 1)), rng.integers(0, 2, (members, trials, 2)).astype(float)
    draws = {
        f"{name}_{part}": 0.5 * np.abs(rng.normal(size=(4, *shape)))
        for name in ("rate", "gain")
        for part, shape in (("loc", ()), ("sd", ()), ("offset", (members,)))
    }
    model = ImpactModel(learned_drift).set_posterior_sample(draws)
    drawn = np.asarray(model.predict_on_batch(X, reward=reward).posterior_predictive["y"])
    assert drawn.shape == (1, 4, trials, members, 2)
    y = drawn[0, 0].swapaxes(0, 1)
    scored = model.log_likelihood(X, y, reward=reward, store="memory", progress=False)
    standard = {
        n: draws[f"{n}_loc"][0] + draws[f"{n}_sd"][0] * draws[f"{n}_offset"][0]
        for n in ("rate", "gain")
    }
    rate, gain = 1 / (1 + np.exp(-standard["rate"])), np.exp(standard["gain"])
    value = np.full((members, 2), 0.5)
    for trial in range(trials):
        v = gain * (value[:, 1] - value[:, 0])
        truth = DriftDiffusion(v, 1.5, 0.5, 0.2).log_prob(y[:, trial])
        found = scored.log_likelihood["y"][0, 0, trial]
        np.testing.assert_allclose(found, truth, rtol=1e-3, atol=1e-4)
        chosen = (y[:, trial, 1] > 0).astype(int)
        rows = np.arange(members)
        value[rows, chosen] += rate * (reward[rows, trial, chosen] - value[rows, chosen])


ANGLE = {
    "v": (-2.0, 2.0),
    "a": (0.5, 2.0),
    "z": (0.3, 0.7),
    "t": (0.1, 1.0),
    "theta": (0.0, 1.0),
}


@pytest.fixture(scope="module")
def angle() -> NeuralLikelihood:
    """Boundaries that collapse: the model `angle` of ssm-simulators has no closed form."""
    return NeuralLikelihood.train(simulate("angle", ANGLE, n=200_000), shift="t")


def angle_kernel(lik):
    def kernel(X, y=None):
        box = {**lik.bounds, "t": (0.1, 0.3)}  # of all of it, few starts lie before all times
        given = {n: numpyro.sample(n, dist.Uniform(*box[n])) for n in box}
        with numpyro.plate("trial", X.shape[0]):
            numpyro.sample("y", lik(**given), obs=y)

    return kernel


def angle_trials(key, parameters, n=100):
    """Of the simulator itself, for one set of parameters."""
    box = {name: (value - 1e-6, value + 1e-6) for name, value in parameters.items()}
    seed = int(jax.random.bits(key)) % 2**31
    return simulate(
        "angle", {k: (float(a), float(b)) for k, (a, b) in box.items()}, n, seed
    ).outcomes


def test_boundaries_that_collapse_are_learned(angle):
    validation = angle.validate(simulate("angle", ANGLE, n=20_000, key=1))
    print(validation.to_text())
    assert validation.off.empty
    whole = validation.table.iloc[0]
    assert whole["pit"] < 0.02
    assert whole["choice"] < 0.02


def test_posteriors_of_collapsing_boundaries_are_right(angle):
    """Truths are of the prior and trials of the simulator: ranks are even if the net is right."""
    design = {"X": np.zeros((100, 1))}
    found = recovery(
        angle_kernel(angle),
        design,
        list(ANGLE),
        n=40,
        engine=NUTS(chains=2, warmup=300),
        simulator=angle_trials,
    )
    print(found.table.round(3))
    print(sorted(set(found.verdicts)), sum(v.startswith("bad") for v in found.verdicts))
    assert found.failed == ()


def test_boundaries_that_collapse_are_fitted(angle):
    truth = {"v": 0.8, "a": 1.2, "z": 0.5, "t": 0.2, "theta": 0.4}
    seen = angle_trials(jax.random.key(5), truth, 500)
    X = np.zeros((500, 1))
    model = ImpactModel(angle_kernel(angle), inference="nuts").fit(X, seen, progress=False)
    for name, value in truth.items():
        low, high = np.quantile(model.posterior[name], [0.01, 0.99])
        print(name, value, low, high)
        assert low < value < high, name
    drawn = model.predict_on_batch(X).posterior_predictive["y"]
    assert float((drawn[..., 1] == 1).mean()) == pytest.approx((seen[:, 1] == 1).mean(), abs=0.06)
    assert float(drawn[..., 0].mean()) == pytest.approx(seen[:, 0].mean(), abs=0.08)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_a_learning_rule_with_a_net_fits_and_predicts():
    """The difference of two learned values is the drift of a net's likelihood."""
    box = {"v": (-6.0, 6.0), "a": (0.8, 2.2), "t": (0.1, 0.5)}

    @jax.jit
    def simulator(key, v, a, t):
        drawn = DriftDiffusion(v, a, 0.5, t).sample(key)
        return drawn[:, 0], drawn[:, 1]

    training = Training(width=32, depth=2, components=6, epochs=15)
    lik = NeuralLikelihood.train(simulate(simulator, box, n=200_000), shift="t", training=training)

    def kernel(X, reward, y=None):
        subjects = numpyro.plate("subject", X.shape[0])
        rate = hierarchical("rate", subjects, jax.nn.sigmoid)
        gain = hierarchical("gain", subjects, lambda value: 6 * jax.nn.sigmoid(value))
        a = numpyro.sample("a", dist.Uniform(*box["a"]))

        def step(value, trial):
            gains, response = trial
            law = lik(v=gain * (value[:, 1] - value[:, 0]), a=a, t=0.25)
            response = numpyro.sample("y", law, obs=response)
            chosen = jax.nn.one_hot((response[:, 1] > 0).astype(int), 2)
            return value + rate[:, None] * (gains - value) * chosen, None

        scan_trials(step, jnp.full((X.shape[0], 2), 0.5), (reward, y), members=subjects)

    rng, members, trials = np.random.default_rng(3), 12, 60
    X, pays = np.zeros((members, 1)), np.array([0.2, 0.8])
    reward = (rng.uniform(size=(members, trials, 2)) < pays).astype(np.float32)
    truth = {"rate": rng.uniform(0.1, 0.6, members), "gain": rng.uniform(1.5, 4.5, members)}
    value, y = np.full((members, 2), 0.5), np.zeros((members, trials, 2), np.float32)
    for trial in range(trials):
        v = truth["gain"] * (value[:, 1] - value[:, 0])
        closed = DriftDiffusion(v, 1.5, 0.5, 0.25)
        y[:, trial] = np.asarray(closed.sample(jax.random.key(trial)))
        rows, chosen = np.arange(members), (y[:, trial, 1] > 0).astype(int)
        value[rows, chosen] += truth["rate"] * (reward[rows, trial, chosen] - value[rows, chosen])
    model = ImpactModel(kernel, inference=NUTS(chains=2, warmup=500))
    model.fit(X, y, reward=reward, progress=False)
    assert model.diagnostics_["verdict"] == "good", model.diagnostics_
    found = model.predict_on_batch(X, reward=reward, return_sites=["rate", "gain", "a", "y"])
    found = found.posterior_predictive
    low, high = np.quantile(found["a"], [0.005, 0.995])
    print("a", low, high)
    assert low < 1.5 < high
    held = []
    for name, true in truth.items():
        draws = np.asarray(found[name]).reshape(-1, members)
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        held += ((low < true) & (true < high)).tolist()
        print(name, np.corrcoef(draws.mean(0), true)[0, 1], np.mean(held))
    assert np.mean(held) >= 0.7  # of 24 intervals of 90%
    drawn = np.asarray(found["y"]).reshape(-1, trials, members, 2)
    print(
        (drawn[..., 1] > 0).mean(), (y[..., 1] > 0).mean(), drawn[..., 0].mean(), y[..., 0].mean()
    )
    assert (drawn[..., 1] > 0).mean() == pytest.approx((y[..., 1] > 0).mean(), abs=0.06)
    assert drawn[..., 0].mean() == pytest.approx(y[..., 0].mean(), rel=0.08)
