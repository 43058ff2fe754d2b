"""Kernels that observe inside NumPyro's scan, their latents, and dense answers for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import cond, scan

__all__ = ["SERIES", "SPREAD", "Series", "level_given", "local_level", "made_of"]

#: Standard deviation of the noise, and of a step of the level, of `local_level`.
SPREAD = 0.5


@dataclass(frozen=True)
class Series:
    """A kernel of a series, its latents, and whether rows are subjects, not steps."""

    kernel: Callable[..., Any]
    latents: tuple[str, ...]
    by_subject: bool = False

    @property
    def name(self) -> str:
        return self.kernel.__name__


def decaying(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))

    def step(level, outcome):
        numpyro.sample("y", dist.Normal(level + b, 1.0), obs=outcome)
        return level * 0.9 + 0.1, None

    scan(step, 0.0, y, length=X.shape[0])


def by_closure(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))

    def step(level, i):
        outcome = None if y is None else y[i]
        numpyro.sample("y", dist.Normal(level + b * X[i, 0], 1.0), obs=outcome)
        return level * 0.9 + 1.0, None

    scan(step, 0.0, jnp.arange(X.shape[0]))


def autoregression(X, y=None):
    """AR(2): the outcome itself is carried."""
    first = numpyro.sample("first", dist.Normal(0.5, 0.2))
    second = numpyro.sample("second", dist.Normal(0.0, 0.2))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))

    def step(last, outcome):
        mean = numpyro.deterministic("mean", first * last[0] + second * last[1] + 1.0)
        now = numpyro.sample("y", dist.Normal(mean, noise), obs=outcome)
        return (now, last[0]), None

    scan(step, (jnp.zeros(()), jnp.zeros(())), y, length=X.shape[0])


def local_level(X, y=None):
    def step(level, outcome):
        level = numpyro.sample("level", dist.Normal(level, SPREAD))
        numpyro.sample("y", dist.Normal(level, SPREAD), obs=outcome)
        return level, None

    scan(step, 0.0, y, length=X.shape[0])


def local_trend(X, y=None):
    """A local linear trend with a regression, in a scan of arguments and outcomes."""
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))

    def step(carry, seen):
        level, slope = carry
        x, outcome = seen
        slope = numpyro.sample("slope", dist.Normal(slope, 0.1))
        level = numpyro.sample("level", dist.Normal(level + slope, 0.2))
        numpyro.sample("y", dist.Normal(level + b * x, SPREAD), obs=outcome)
        return (level, slope), None

    scan(step, (0.0, 0.0), (X[:, 0], y), length=X.shape[0])


def hidden_markov(X, y=None):
    """Two hidden states, summed out step by step: the outcome given those before it."""
    means = numpyro.sample("means", dist.Normal(jnp.array([-1.0, 2.0]), 0.5).to_event(1))
    stay = numpyro.sample("stay", dist.Beta(8.0, 2.0))
    moves = jnp.array([[stay, 1 - stay], [1 - stay, stay]])

    def step(weights, outcome):
        here = weights @ moves
        law = dist.MixtureSameFamily(dist.Categorical(probs=here), dist.Normal(means, 1.0))
        now = numpyro.sample("y", law, obs=outcome)
        after = here * jnp.exp(dist.Normal(means, 1.0).log_prob(now))
        return after / after.sum(), None

    scan(step, jnp.array([0.5, 0.5]), y, length=X.shape[0])


def either(X, y=None):
    """A branch of a cond in each step."""
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))

    def step(level, seen):
        x, outcome = seen
        numpyro.sample("y", dist.Normal(level + b * x, 1.0), obs=outcome)
        return cond(x > 0, lambda v: v + 1.0, lambda v: v * 0.5, level), None

    scan(step, 0.0, (X[:, 0], y), length=X.shape[0])


def rescorla_wagner(X, reward, y=None):
    """Rows are subjects with a learning rate each; a scan runs over their trials."""
    center = numpyro.sample("center", dist.Normal(0.0, 1.0))
    slope = numpyro.sample("slope", dist.HalfNormal(3.0))
    subjects = numpyro.plate("subjects", X.shape[0])
    with subjects:
        rate = jax.nn.sigmoid(numpyro.sample("rate", dist.Normal(center, 0.5)))

    def step(values, seen):
        gain, choice = seen
        with subjects:
            pull = numpyro.deterministic("pull", slope * (values[:, 1] - values[:, 0]))
            choice = numpyro.sample("y", dist.Bernoulli(logits=pull), obs=choice)
        chosen = jnp.stack([1 - choice, choice], axis=-1)
        return values + rate[:, None] * (gain[:, None] - values) * chosen, None

    begin = jnp.full((X.shape[0], 2), 0.5)
    scan(step, begin, (reward.T, None if y is None else y.T), length=reward.shape[1])


SERIES = (
    Series(decaying, ("b",)),
    Series(by_closure, ("b",)),
    Series(autoregression, ("first", "second", "noise")),
    Series(local_level, ("level",)),
    Series(local_trend, ("b", "slope", "level")),
    Series(hidden_markov, ("means", "stay")),
    Series(either, ("b",)),
    Series(rescorla_wagner, ("center", "slope", "rate"), by_subject=True),
)


def made_of(series: Series, rows: int, seed: int = 0) -> tuple[dict[str, Any], Any]:
    """Arguments, and an outcome."""
    rng = np.random.default_rng(seed)
    arguments = {"X": rng.normal(size=(rows, 1)).astype(np.float32)}
    if series.by_subject:
        arguments["reward"] = rng.integers(0, 2, size=(rows, 7)).astype(np.float32)
        return arguments, rng.integers(0, 2, size=(rows, 7))
    return arguments, np.cumsum(rng.normal(size=rows)).astype(np.float32)


def level_given(y: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the level of `local_level` in so many steps, given outcomes."""
    steps = np.arange(1, rows + 1)
    prior = SPREAD**2 * np.minimum.outer(steps, steps)
    seen = np.flatnonzero(np.isfinite(y))
    gain = prior[:, seen] @ np.linalg.inv(prior[np.ix_(seen, seen)] + SPREAD**2 * np.eye(len(seen)))
    return gain @ np.asarray(y, float)[seen], prior - gain @ prior[seen]
