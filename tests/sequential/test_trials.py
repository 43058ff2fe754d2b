"""Learning from rewards: ragged sessions, interventions inside of the scan, members of a group."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats as st
import xarray as xr
from numpyro import infer, optim

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


# ------------------------------------------------------------------ members of a fit
def one_rate(X, reward, there=None, y=None):
    """Two arms, and a rate for each member."""
    subjects = numpyro.plate("subject", X.shape[0])
    rate = hierarchical("rate", subjects, jax.nn.sigmoid)

    def step(value, trial):
        gain, choice = trial
        choice = numpyro.sample("y", dist.Categorical(logits=3.0 * value), obs=choice)
        error = (gain - value) * jax.nn.one_hot(choice, 2)
        return value + rate[:, None] * error, None

    scan_trials(step, jnp.zeros((X.shape[0], 2)), (reward, y), members=subjects, there=there)


WHO = ["dan", "bea", "ann", "cem"]


def rows_of(*who: str) -> dict[str, Any]:
    """Members by name, and their rewards."""
    return {
        "X": pd.DataFrame({"one": np.zeros(len(who))}, index=list(who)),
        "reward": np.stack([REWARD[WHO.index(name) if name in WHO else 0, :, :2] for name in who]),
    }


@pytest.fixture(scope="module")
def fitted() -> ImpactModel:
    """Fitted to sessions of several lengths, in draws that need not be good."""
    guide = infer.autoguide.AutoNormal(one_rate)
    svi = infer.SVI(one_rate, guide, optim.Adam(0.01), infer.Trace_ELBO())
    model = ImpactModel(one_rate, inference=svi, num_samples=200, num_steps=5)
    choice = np.where(THERE, CHOICE % 2, 0)
    return model.fit(**rows_of(*WHO), y=choice, there=THERE, progress=False, on_bad_fit="ignore")


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_what_stands_where_nothing_is_changes_no_draw(fitted):
    before = {name: np.asarray(draws) for name, draws in fitted.posterior.items()}
    rows = rows_of(*WHO)
    rows["reward"] = np.where(THERE[..., None], rows["reward"], 7.0)
    choice = np.where(THERE, CHOICE % 2, 1)
    fitted.fit(**rows, y=choice, there=THERE, progress=False, on_bad_fit="ignore")
    for name, draws in before.items():
        np.testing.assert_array_equal(fitted.posterior[name], draws)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_members_keep_their_names_and_new_ones_are_of_the_group(fitted):
    def rates(*who: str, **options: Any) -> Any:
        tree = fitted.predict_on_batch(**rows_of(*who), return_sites=["rate", "y"], **options)
        return (tree.predictions if options else tree.posterior_predictive)["rate"]

    whole = rates(*WHO)
    assert whole["subject"].values.tolist() == WHO
    some = rates("ann", "dan")
    assert some["subject"].values.tolist() == ["ann", "dan"]
    np.testing.assert_array_equal(some, whole.sel(subject=["ann", "dan"]))
    with pytest.raises(InputError, match="in_sample=False") as error:
        rates("ann", "eve")
    assert error.value.code == "rows-not-fitted"
    new = np.asarray(rates("eve", "fay", in_sample=False))[0]
    loc, sd = (np.asarray(fitted.posterior[f"rate_{part}"])[:, None] for part in ("loc", "sd"))
    standard = (np.log(new / (1 - new)) - loc) / sd
    assert st.kstest(standard.ravel(), "norm").pvalue > 0.001
