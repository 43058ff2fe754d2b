"""Learning from rewards: ragged sessions, interventions inside of the scan, members of a group."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr

from aimz import ImpactModel, InputError
from aimz.sequential import hierarchical, scan_trials, sessions

ARMS = 3


def learning(X, reward, there=None, y=None):
    """Rescorla-Wagner with rates of its own for losses, and softmax choices."""
    subjects = numpyro.plate("subject", X.shape[0])
    alpha_p = hierarchical("alpha_p", subjects, jax.nn.sigmoid)
    alpha_n = hierarchical("alpha_n", subjects, jax.nn.sigmoid)
    beta = hierarchical("beta", subjects, jnp.exp, 1.0, 0.5)

    def step(value, trial):
        gain, choice = trial
        gain = numpyro.deterministic("gain", gain)
        logits = beta[:, None] * value
        choice = numpyro.sample("y", dist.Categorical(logits=logits), obs=choice)
        chosen = jax.nn.one_hot(choice, value.shape[-1])
        error = (gain - value) * chosen
        rate = jnp.where(error > 0, alpha_p[:, None], alpha_n[:, None])
        return value + rate * error, value

    start = jnp.full((X.shape[0], reward.shape[2]), 0.5)
    scan_trials(step, start, (reward, y), members=subjects, there=there)


def log_density(rates: Any, reward: np.ndarray, choice: np.ndarray) -> float:
    """Of one member's session, in plain NumPy."""
    up, down, beta = rates
    value, total = np.full(reward.shape[1], 0.5), 0.0
    for gain, chosen in zip(reward, choice, strict=True):
        logits = beta * value
        total += logits[chosen] - np.log(np.exp(logits).sum())
        error = gain[chosen] - value[chosen]
        value[chosen] += (up if error > 0 else down) * error
    return float(total)


RNG = np.random.default_rng(0)
SUBJECTS, TRIALS, DRAWS = 4, 12, 5
X = np.zeros((SUBJECTS, 1))
REWARD = RNG.integers(0, 2, (SUBJECTS, TRIALS, ARMS)).astype(np.float32)
CHOICE = RNG.integers(0, ARMS, (SUBJECTS, TRIALS))
LENGTHS = np.array([12, 7, 9, 1])
THERE = np.arange(TRIALS) < LENGTHS[:, None]
POSTERIOR = {
    f"{name}_{part}": 0.7 * RNG.normal(size=(DRAWS, *shape)) ** power
    for name in ("alpha_p", "alpha_n", "beta")
    for part, shape, power in (("loc", (), 1), ("sd", (), 2), ("offset", (SUBJECTS,), 1))
}


def rates_of(draw: int, member: int) -> list[float]:
    def standard(name: str) -> float:
        spread = POSTERIOR[f"{name}_sd"][draw] * POSTERIOR[f"{name}_offset"][draw, member]
        return float(POSTERIOR[f"{name}_loc"][draw] + spread)

    rates = [1 / (1 + np.exp(-standard(name))) for name in ("alpha_p", "alpha_n")]
    return [*rates, np.exp(standard("beta"))]


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    return ImpactModel(learning).set_posterior_sample(POSTERIOR)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
@pytest.mark.parametrize("padding", [0, 2])
def test_a_padded_session_scores_as_it_does_alone(model, padding):
    choice = np.where(THERE, CHOICE, padding)
    reward = np.where(THERE[..., None], REWARD, 7.0 * padding)
    scored = model.log_likelihood(
        X, choice, reward=reward, there=THERE, store="memory", progress=False
    )
    by_trial = np.asarray(scored.log_likelihood["y"])[0]  # draw, trial, subject
    np.testing.assert_array_equal(np.isnan(by_trial), np.broadcast_to(~THERE.T, by_trial.shape))
    for draw in range(DRAWS):
        for member, length in enumerate(LENGTHS):
            alone = log_density(
                rates_of(draw, member), REWARD[member, :length], CHOICE[member, :length]
            )
            assert np.nansum(by_trial[draw, :, member]) == pytest.approx(alone, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_an_intervention_reaches_what_is_learned(model):
    """Nobody learns from losses; one arm pays; a gain is set in named trials."""
    same = model.predict_on_batch(X, reward=REWARD).posterior_predictive["y"]
    assert same.sizes["subject"] == SUBJECTS
    none = model.predict_on_batch(X, reward=REWARD, intervention={"alpha_n": 0.0})
    assert not (none.posterior_predictive["y"] == same).all()
    np.testing.assert_array_equal(none.posterior_predictive["y"][0, :, 0], same[0, :, 0])
    schedule = np.zeros_like(REWARD)
    schedule[..., 1] = 1.0
    pays = model.predict_on_batch(X, reward=schedule).posterior_predictive["y"]
    gains = np.broadcast_to(schedule.swapaxes(0, 1), (TRIALS, SUBJECTS, ARMS))
    set_inside = model.predict_on_batch(X, reward=REWARD, intervention={"gain": gains})
    np.testing.assert_array_equal(set_inside.posterior_predictive["y"], pays)
    with pytest.raises(InputError, match="alpha_m"):
        model.predict_on_batch(X, reward=REWARD, intervention={"alpha_m": 0.0})


def small(count: int = 2, **changed: Any) -> None:
    """A scan that is asked for with wrong sizes."""
    members = numpyro.plate("subject", count)
    given = {"init": jnp.zeros((2, 3)), "inputs": jnp.zeros((2, 4)), "there": None} | changed

    def step(state, trial):
        return state, trial

    scan_trials(step, given["init"], given["inputs"], members=members, there=given["there"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 3},
        {"init": jnp.zeros(3)},
        {"init": 0.0},
        {"inputs": jnp.zeros(2)},
        {"inputs": (jnp.zeros((2, 4)), jnp.zeros((4, 2)))},
        {"there": jnp.ones((2, 5), bool)},
        {"inputs": None},
    ],
    ids=["plate", "axis", "number", "flat", "turned", "there", "nothing"],
)
def test_sizes_that_do_not_fit_are_refused(wrong):
    small()
    with pytest.raises(InputError) as error:
        small(**wrong)
    assert error.value.code == "trials-shape"


# ------------------------------------------------------------------ sessions
FRAME = pd.DataFrame(
    {
        "who": ["b", "a", "b", "c", "a", "b"],
        "round": [3, 1, 1, 5, 2, 2],
        "gain": [0.5, 1.0, 0.25, 2.0, 3.0, 4.0],
        "choice": [1, 0, 2, 1, 1, 0],
    }
)


def test_sessions_keep_labels_and_order():
    padded = sessions(FRAME, by="who", trial="round")
    assert padded["who"].values.tolist() == ["b", "a", "c"]
    assert padded["gain"].values.tolist() == [[0.25, 4.0, 0.5], [1, 3, 0], [2, 0, 0]]
    assert padded["choice"].dtype == FRAME["choice"].dtype
    assert padded["there"].values.tolist() == [
        [True] * 3,
        [True, True, False],
        [True, False, False],
    ]
    assert padded["trial_label"].values[0].tolist() == [1, 2, 3]
    as_they_come = sessions(FRAME.drop(columns="round"), by="who")
    assert as_they_come["gain"].values[0].tolist() == [0.5, 0.25, 4.0]
    assert isinstance(padded, xr.Dataset)


@pytest.mark.parametrize(
    ("frame", "arguments", "says"),
    [
        (FRAME, {}, "no column 'subject'"),
        (FRAME, {"by": "who", "trial": "trial"}, "no column 'trial'"),
        (FRAME.assign(there=1), {"by": "who"}, "'there'"),
        (FRAME.assign(note="x"), {"by": "who"}, "'note' holds no numbers"),
        (FRAME.replace({"round": {3: 1}}), {"by": "who", "trial": "round"}, "more than one row"),
        (
            FRAME.assign(who=FRAME["who"].where(FRAME["who"] != "c")),
            {"by": "who"},
            "without a value",
        ),
        (FRAME[:0], {"by": "who"}, "none at all"),
    ],
    ids=["by", "trial", "taken", "words", "twice", "nobody", "empty"],
)
def test_sessions_that_cannot_be_padded_are_refused(frame, arguments, says):
    with pytest.raises(InputError, match=says) as error:
        sessions(frame, **arguments)
    assert error.value.code == "sessions"


# ------------------------------------------------------------------ the whole of it
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_rates_are_recovered_and_answer_what_if():
    rng, count, length, arms = np.random.default_rng(1), 40, 200, 5
    truth = {
        "alpha_p": 1 / (1 + np.exp(-rng.normal(-0.5, 0.8, count))),
        "alpha_n": 1 / (1 + np.exp(-rng.normal(-1.0, 0.8, count))),
        "beta": np.exp(rng.normal(1.3, 0.3, count)),
    }
    pays = np.linspace(0.2, 0.8, arms)
    reward = (rng.uniform(size=(count, length, arms)) < pays).astype(np.float32)
    choice = np.zeros((count, length), int)
    for member in range(count):
        value = np.full(arms, 0.5)
        for trial in range(length):
            weights = np.exp(truth["beta"][member] * value)
            chosen = choice[member, trial] = rng.choice(arms, p=weights / weights.sum())
            error = reward[member, trial, chosen] - value[chosen]
            value[chosen] += truth["alpha_p" if error > 0 else "alpha_n"][member] * error
    X = np.zeros((count, 1))
    fitted = ImpactModel(learning, inference="nuts").fit(X, choice, reward=reward, progress=False)
    assert fitted.diagnostics_["verdict"] == "good", fitted.diagnostics_
    found = fitted.predict_on_batch(X, reward=reward, return_sites=[*truth, "y"])
    found = found.posterior_predictive
    for name, least in (("alpha_p", 0.6), ("alpha_n", 0.7), ("beta", 0.7)):
        draws = np.asarray(found[name]).reshape(-1, count)
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        covered = ((low < truth[name]) & (truth[name] < high)).mean()
        print(name, np.corrcoef(draws.mean(0), truth[name])[0, 1], covered)
        assert np.corrcoef(draws.mean(0), truth[name])[0, 1] > least
        assert 0.75 <= covered <= 1.0  # 40 members: .9 within three standard errors
    none = fitted.predict_on_batch(X, reward=reward, intervention={"alpha_n": 0.0})
    best, without = (
        (tree["y"] == arms - 1).mean().item() for tree in (found, none.posterior_predictive)
    )
    print(best, without)
    assert best - without > 0.05
    lengths = rng.integers(80, 201, count)
    there = np.arange(length) < lengths[:, None]
    scores = [
        fitted.log_likelihood(
            X,
            np.where(there, choice, fill),
            reward=reward,
            there=there,
            store="memory",
            progress=False,
        ).log_likelihood["y"]
        for fill in (0, 3)
    ]
    np.testing.assert_array_equal(*scores)
