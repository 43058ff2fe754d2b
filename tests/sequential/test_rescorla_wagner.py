"""Asymmetric Rescorla-Wagner learning by 40 subjects: what is found, and what of it is right."""

from typing import Any

import jax
import numpy as np
import pytest

from aimz import ImpactModel
from aimz.inference import NUTS
from aimz.sequential import recovery
from tests.sequential.test_trials import learning

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:Rows are predicted together"),
]

SUBJECTS, TRIALS, ARMS = 40, 200, 5
X = np.zeros((SUBJECTS, 1))
RATES = ("alpha_p", "alpha_n", "beta")


def schedule(trials: int = TRIALS, arms: int = ARMS, *, seed: int = 1) -> np.ndarray:
    """Rewards of all arms, of which the last pays most, drawn for each subject."""
    rng = np.random.default_rng(seed)
    pays = np.linspace(0.2, 0.8, arms)
    return (rng.uniform(size=(SUBJECTS, trials, arms)) < pays).astype(np.float32)


def chosen(rates: Any, reward: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Choices by softmax, in plain NumPy: the largest of the values and Gumbel noise."""
    up, down, beta = (np.asarray(rates[name]) for name in RATES)
    rows = np.arange(len(reward))
    value, choices = np.full(reward[:, 0].shape, 0.5), []
    for trial in range(reward.shape[1]):
        choice = np.argmax(beta[:, None] * value + noise[:, trial], -1)
        error = reward[rows, trial, choice] - value[rows, choice]
        value[rows, choice] += np.where(error > 0, up, down) * error
        choices.append(choice)
    return np.stack(choices, -1)


def learned(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """True rates, rewards and choices."""
    rng = np.random.default_rng(seed)
    truth = {
        "alpha_p": 1 / (1 + np.exp(-rng.normal(-0.5, 0.8, SUBJECTS))),
        "alpha_n": 1 / (1 + np.exp(-rng.normal(-1.0, 0.8, SUBJECTS))),
        "beta": np.exp(rng.normal(1.3, 0.5, SUBJECTS)),
    }
    reward = schedule(seed=seed)
    return truth, reward, chosen(truth, reward, rng.gumbel(size=reward.shape))


@pytest.fixture(scope="module")
def data() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    return learned(1)


def test_chains_find_the_rates_and_answer_what_if(data):
    """The default engine runs them, and says why, and that they can be trusted."""
    truth, reward, choice = data
    fitted = ImpactModel(learning).fit(X, choice, reward=reward, progress=False)
    says = fitted.diagnostics_
    assert (says["sampler"], says["chains"]) == ("NUTS", 4)
    assert "Chains were run" in says["notes"][0]
    assert says["rhat_max"] < 1.01
    assert says["divergences"] == 0
    assert says["verdict"] == "good"
    found = fitted.predict_on_batch(X, reward=reward, return_sites=[*RATES, "y"])
    found, held = found.posterior_predictive, []
    for name, least in zip(RATES, (0.6, 0.7, 0.85), strict=True):
        draws = np.asarray(found[name]).reshape(-1, SUBJECTS)
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        held.append(((low < truth[name]) & (truth[name] < high)).mean())
        r = np.corrcoef(draws.mean(0), truth[name])[0, 1]
        assert r > least
    assert 0.85 <= np.mean(held) <= 0.95  # of 120 intervals
    never = fitted.predict_on_batch(X, reward=reward, intervention={"alpha_n": 0.0})
    best, without = (
        float((tree["y"] == ARMS - 1).mean()) for tree in (found, never.posterior_predictive)
    )
    rng = np.random.default_rng(2)
    alike = [
        (chosen(rates, reward, rng.gumbel(size=reward.shape)) == ARMS - 1).mean()
        for rates in (truth, {**truth, "alpha_n": np.zeros(SUBJECTS)})
    ]
    assert best == pytest.approx(0.40, abs=0.03)
    assert without == pytest.approx(0.24, abs=0.03)
    assert [best, without] == pytest.approx(alike, abs=0.03)


def test_a_ragged_session_is_its_padded_truth(data):
    """Whatever stands where nothing is, chains and predictions are the same bit by bit."""
    _, reward, choice = data
    there = np.arange(TRIALS) < np.random.default_rng(3).integers(80, TRIALS + 1, SUBJECTS)[:, None]
    engine, posteriors = NUTS(chains=1, warmup=20, max_tree_depth=5), []
    model = ImpactModel(learning, inference=engine, num_samples=20)
    for fill in (0, 3):
        model.fit(
            X,
            np.where(there, choice, fill),
            reward=np.where(there[..., None], reward, float(fill)),
            there=there,
            progress=False,
            on_bad_fit="ignore",
        )
        posteriors.append({name: np.asarray(draws) for name, draws in model.posterior.items()})
    for name, draws in posteriors[0].items():
        np.testing.assert_array_equal(draws, posteriors[1][name])


def test_intervals_of_many_data_sets_hold_as_many_as_they_say():
    """120 intervals of each parameter: .9 but for .027, the standard error of a binomial share."""
    model = ImpactModel(learning, inference=NUTS(chains=1, warmup=300), num_samples=500)
    held: dict[str, list[Any]] = {name: [] for name in RATES}
    for seed in range(10, 13):
        truth, reward, choice = learned(seed)
        model.fit(X, choice, reward=reward, progress=False, on_bad_fit="ignore")
        found = model.predict_on_batch(X, reward=reward, return_sites=list(RATES))
        for name, draws in found.posterior_predictive.data_vars.items():
            low, high = np.quantile(np.asarray(draws)[0], [0.05, 0.95], axis=0)
            held[str(name)].append(((low < truth[name]) & (truth[name] < high)).mean())
    for name, shares in held.items():
        assert 0.85 <= np.mean(shares) <= 0.95, name


def shared(key: jax.Array, rates: Any) -> np.ndarray:
    """The mistake: one key for all subjects."""
    reward = schedule(20, 2)
    noise = np.asarray(jax.random.gumbel(key, (1, *reward.shape[1:])))
    return chosen(rates, reward, np.broadcast_to(noise, reward.shape))


def apart(key: jax.Array, rates: Any) -> np.ndarray:
    reward = schedule(20, 2)
    return chosen(rates, reward, np.asarray(jax.random.gumbel(key, reward.shape)))


@pytest.mark.filterwarnings("ignore:.*fits say that they are bad")
def test_one_key_for_all_subjects_fails_the_check():
    """The same design and the same kernel: with a key for each subject posteriors are right."""
    design = {"X": X, "reward": schedule(20, 2)}
    groups = ["alpha_p_loc", "alpha_n_loc", "beta_loc"]
    right, wrong = (
        recovery(
            learning, design, [*groups, *RATES], n=30, engine=NUTS(1, 300), simulator=simulator
        )
        for simulator in (apart, shared)
    )
    assert right.failed == ()
    assert set(wrong.failed) & set(groups)
