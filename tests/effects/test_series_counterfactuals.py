"""Counterfactuals through a scan: the noise of each step is kept, and later steps follow anew."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import cond, scan

from aimz import ImpactModel, InputError
from tests.support.series import rescorla_wagner

pytestmark = pytest.mark.filterwarnings("ignore:Rows are predicted together")

ROWS, DRAWS = 9, 4
RNG = np.random.default_rng(0)
X = np.zeros((ROWS, 1), np.float32)
PUSH, PUSHED = RNG.normal(size=(2, ROWS))
PUSHED[:3] = PUSH[:3]
Y = np.cumsum(RNG.normal(size=ROWS))
SHARES = np.linspace(0.3, 0.9, DRAWS)
LEVELS = RNG.normal(size=(DRAWS, ROWS))


def autoregression(X, push, y=None):
    """AR(2), of which the second lag is fixed."""
    share = numpyro.sample("share", dist.Normal(0.5, 0.2))

    def step(last, seen):
        now = share * last["one"] + 0.2 * last["two"] + seen[0]
        now = numpyro.sample("y", dist.Normal(numpyro.deterministic("mean", now), 0.7), obs=seen[1])
        return {"one": now, "two": last["one"]}, None

    begin = {"one": jnp.asarray(0.3), "two": jnp.asarray(-0.1)}
    scan(step, begin, (push, y), length=X.shape[0])


def lagged(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    before = np.concatenate([[-0.1, 0.3], y])
    return before[1 : len(y) + 1], before[: len(y)]


def of_autoregression(share: float, _: np.ndarray, *, push=PUSH, mean=None) -> Any:
    one, two = lagged(Y)
    noise = Y - (share * one + 0.2 * two + PUSH)
    now = [-0.1, 0.3]
    for t in range(ROWS):
        natural = share * now[-1] + 0.2 * now[-2] + push[t]
        now.append((natural if mean is None else mean[t]) + noise[t])
    return np.array(now[2:])


def local_level(X, push, y=None):
    share = numpyro.sample("share", dist.Normal(0.5, 0.2))

    def step(level, seen):
        level = numpyro.sample("level", dist.Normal(share * level + seen[0], 0.5))
        numpyro.sample("y", dist.LogNormal(level, 0.4), obs=seen[1])
        return level, None

    scan(step, jnp.asarray(0.0), (push, y), length=X.shape[0])


def of_level(share: float, level: np.ndarray, *, push=PUSH, set_to=None) -> Any:
    noise = level - share * np.concatenate([[0.0], level[:-1]]) - PUSH
    now, last = [], 0.0
    for t in range(ROWS):
        last = share * last + push[t] + noise[t] if set_to is None else set_to[t]
        now.append(last)
    return np.exp(np.array(now) + Y - level)


def switching(X, push, y=None):
    """A branch of a cond, which reads what was drawn."""
    share = numpyro.sample("share", dist.Normal(0.5, 0.2))

    def step(last, seen):
        mean = cond(last > 0, lambda v: share * v, lambda v: v - 1.0, last)
        now = numpyro.sample("y", dist.Normal(mean + seen[0], 0.7), obs=seen[1])
        return now, None

    scan(step, jnp.asarray(0.2), (push, y), length=X.shape[0])


def of_switching(share: float, _: np.ndarray, *, push=PUSH) -> Any:
    def mean(last: Any) -> Any:
        return np.where(last > 0, share * last, last - 1.0)

    noise = Y - mean(np.concatenate([[0.2], Y[:-1]])) - PUSH
    now = [0.2]
    for t in range(ROWS):
        now.append(mean(now[-1]) + push[t] + noise[t])
    return np.array(now[1:])


def backwards(X, push, y=None):
    """From the last row on; posterior draws are numbered as NumPyro runs the steps."""
    share = numpyro.sample("share", dist.Normal(0.5, 0.2))

    def step(level, seen):
        level = numpyro.sample("level", dist.Normal(share * level + seen[0], 0.5))
        numpyro.sample("y", dist.Normal(level, 0.4), obs=seen[1])
        return level, None

    scan(step, jnp.asarray(0.0), (push, y), reverse=True, length=X.shape[0])


def of_backwards(share: float, level: np.ndarray, *, push=PUSH) -> Any:
    noise = level - share * np.concatenate([[0.0], level[:-1]]) - PUSH[::-1]
    now, last = [], 0.0
    for t in range(ROWS):
        last = share * last + push[::-1][t] + noise[t]
        now.append(last)
    return np.array(now)[::-1] + Y - level[::-1]


WORLDS: dict[str, Any] = {
    "an argument": (autoregression, {"push": PUSHED}, of_autoregression, {"push": PUSHED}),
    "what is computed": (autoregression, {"mean": PUSHED}, of_autoregression, {"mean": PUSHED}),
    "an argument of a level": (local_level, {"push": PUSHED}, of_level, {"push": PUSHED}),
    "a level": (local_level, {"level": PUSHED}, of_level, {"set_to": PUSHED}),
    "an argument of a switch": (switching, {"push": PUSHED}, of_switching, {"push": PUSHED}),
    "backwards": (backwards, {"push": PUSHED}, of_backwards, {"push": PUSHED}),
}


FAST = ("what is computed", "an argument of a level")


@pytest.mark.parametrize(
    ("kernel", "change", "world", "options"),
    [
        pytest.param(*world, id=name, marks=() if name in FAST else pytest.mark.slow)
        for name, world in WORLDS.items()
    ],
)
def test_each_step_keeps_its_noise(kernel, change, world, options):
    draws = {"share": SHARES}
    if kernel in (local_level, backwards):
        draws["level"] = LEVELS
    im = ImpactModel(kernel).set_posterior_sample(draws)
    y = np.exp(Y) if kernel is local_level else Y
    effect = im.effect(
        X, {}, change, push=PUSH, y=y, rung="counterfactual", estimand="ite", progress=False
    )
    want = [world(s, level, **options) - y for s, level in zip(SHARES, LEVELS, strict=True)]
    got = effect.draws.transpose("chain", "draw", "obs").values[0]
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.slow
def test_choices_of_a_learner_are_replayed_trial_by_trial():
    """What is paid in one trial changes choices after it only."""
    subjects, trials = 30, 6
    rng = np.random.default_rng(1)
    reward = rng.integers(0, 2, size=(subjects, trials)).astype(np.float32)
    choices = rng.integers(0, 2, size=(subjects, trials))
    rate = np.tile(rng.normal(size=subjects), (200, 1))
    draws = {"center": np.zeros(200), "slope": np.full(200, 3.0), "rate": rate}
    im = ImpactModel(rescorla_wagner).set_posterior_sample(draws)
    paid = reward.copy()
    paid[:, 2] = 1 - paid[:, 2]
    options: Any = {"y": choices, "rung": "counterfactual", "estimand": "ite", "progress": False}
    inputs: dict[str, Any] = {"X": np.zeros((subjects, 1)), "reward": reward}
    changed: Any = im.effect(**inputs, baseline={}, intervention={"reward": paid}, **options).draws
    moved = np.abs(changed).mean(("chain", "draw", "subjects")).values
    assert (moved[:3] == 0).all()
    assert (moved[3:] > 0).all()
    # The probability of a 1 moves from p to q: a choice of 1 stays with probability min(1, q / p).
    values, rates = np.full((subjects, 2), 0.5), 1 / (1 + np.exp(-rate[0]))
    pulls = []
    for gains in (reward, paid):
        values = np.full((subjects, 2), 0.5)
        for trial in range(3):
            chosen = np.eye(2)[choices[:, trial]]
            values = values + rates[:, None] * (gains[:, trial, None] - values) * chosen
        pulls.append(1 / (1 + np.exp(-3.0 * (values[:, 1] - values[:, 0]))))
    p, q = pulls
    falls, rises = np.minimum(1, q / p) - 1, 1 - np.minimum(1, (1 - q) / (1 - p))
    want = np.where(choices[:, 3] == 1, falls, rises)
    got = changed.isel(y_dim_0=3).mean(("chain", "draw")).values
    assert np.abs(got - want).max() < 4.5 * 0.5 / np.sqrt(200)


def test_missing_outcomes_that_later_steps_read_are_not_replayed():
    im = ImpactModel(autoregression).set_posterior_sample({"share": SHARES})
    y = Y.copy()
    y[3] = np.nan
    with pytest.raises(InputError, match="later steps read"):
        im.effect(X, {}, {"push": PUSHED}, push=PUSH, y=y, rung="counterfactual", progress=False)


@pytest.mark.slow
def test_missing_outcomes_of_a_level_are_drawn_and_replayed():
    im = ImpactModel(local_level).set_posterior_sample({"share": SHARES, "level": LEVELS})
    y = np.exp(Y)
    y[3] = np.nan
    effect = im.effect(
        X, {}, {"level": PUSHED}, push=PUSH, y=y, rung="counterfactual", estimand="ite"
    )
    got = effect.draws.transpose("chain", "draw", "obs").values[0]
    shifted = np.exp(PUSHED - LEVELS)
    want = np.exp(Y) * (shifted - 1)
    seen = np.arange(ROWS) != 3
    np.testing.assert_allclose(got[:, seen], want[:, seen], rtol=2e-4, atol=2e-4)
    assert (np.sign(got[:, 3]) == np.sign(shifted[:, 3] - 1)).all()


@pytest.mark.slow
def test_steps_that_are_masked_hand_on_the_state_as_it_was():
    there = np.arange(ROWS) % 3 != 1

    def kernel(X, push, y=None):
        share = numpyro.sample("share", dist.Normal(0.5, 0.2))

        def step(last, seen):
            law = dist.Normal(share * last + seen[0], 0.7).mask(seen[1])
            now = numpyro.sample("y", law, obs=seen[2])
            return jnp.where(seen[1], now, last), None

        scan(step, jnp.asarray(0.5), (push, jnp.asarray(there), y), length=X.shape[0])

    im = ImpactModel(kernel).set_posterior_sample({"share": SHARES})
    options: Any = {"rung": "counterfactual", "estimand": "ite", "progress": False}
    effect = im.effect(X, {}, {"push": PUSHED}, push=PUSH, y=Y, **options)
    want = np.zeros((DRAWS, ROWS))
    for draw, share in enumerate(SHARES):
        last = 0.0  # of the difference
        for t in range(ROWS):
            want[draw, t] = share * last + PUSHED[t] - PUSH[t]
            last = want[draw, t] if there[t] else last
    got = effect.draws.transpose("chain", "draw", "obs").values[0]
    np.testing.assert_allclose(got, want, atol=2e-4)
