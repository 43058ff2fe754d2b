"""A small net that says how responses are distributed, and how it learns from simulations."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aimz.arrays import Array
from aimz.libraries import optax
from aimz.likelihoods.mixture import Head

__all__ = ["Course", "Examples", "Training", "head_of", "learned"]


_LEAST, _MOST = 0.005, 0.49  # of scales of log times: means and variances exist


@dataclass(frozen=True)
class Training:
    """How a net is trained.

    Parameters
    ----------
    width, depth : int
        Of its hidden layers.
    components : int
        Parts of the mixture of log times.
    epochs : int
        Passes over the simulations, at most.
    batch_size : int
    learning_rate : float
        The largest; it warms up over the first twentieth of the steps, and decays as a cosine.
    held_out : float
        Share of simulations that tell when to stop.
    patience : int
        Epochs without a better score on these before it stops.
    """

    width: int = 64
    depth: int = 3
    components: int = 8
    epochs: int = 20
    batch_size: int = 2048
    learning_rate: float = 3e-3
    held_out: float = 0.02
    patience: int = 5


class Examples(NamedTuple):
    """What a net learns from: parameters from -1 to 1, log times in units of them, choices."""

    inputs: Any
    places: Any
    choices: Any


class Course(NamedTuple):
    """Mean negative log densities after each epoch, of what was learned from and what was not."""

    trained: np.ndarray
    held_out: np.ndarray


def head_of(weights: dict[str, Any], inputs: Array, choices: int) -> Head:
    """What a net says of parameters, in units of log times."""
    hidden, layers = inputs, len(weights) // 2
    for layer in range(layers):
        hidden = hidden @ weights[f"kernel_{layer}"] + weights[f"bias_{layer}"]
        hidden = jnp.tanh(hidden) if layer < layers - 1 else hidden
    shares, parts = hidden[..., :choices], hidden[..., choices:]
    parts = parts.reshape(*parts.shape[:-1], 3, choices, -1)
    scales = _LEAST + (_MOST - _LEAST) * jax.nn.sigmoid(parts[..., 2, :, :])
    logs = jax.nn.log_softmax(shares), jax.nn.log_softmax(parts[..., 0, :, :])
    return Head(*logs, parts[..., 1, :, :], scales)


def _first_weights(key: jax.Array, inputs: int, choices: int, training: Training) -> dict[str, Any]:
    """Layers as of Glorot and Bengio (2010), the last one small: parts begin side by side."""
    count = choices + 3 * choices * training.components
    sizes = [inputs, *[training.width] * training.depth, count]
    weights: dict[str, Any] = {}
    for layer, (first, last) in enumerate(itertools.pairwise(sizes)):
        spread = (0.1 if layer == training.depth else 1.0) * np.sqrt(2 / (first + last))
        drawn = jax.random.normal(jax.random.fold_in(key, layer), (first, last))
        weights[f"kernel_{layer}"] = spread * drawn
        weights[f"bias_{layer}"] = jnp.zeros(last)
    side_by_side = jnp.tile(jnp.linspace(-1.0, 1.5, training.components), choices)
    start = choices + choices * training.components
    bias = weights[f"bias_{training.depth}"]
    weights[f"bias_{training.depth}"] = bias.at[start : start + len(side_by_side)].set(side_by_side)
    return weights


def _loss(weights: dict[str, Any], examples: Examples, choices: int) -> Any:
    head = head_of(weights, examples.inputs, choices)
    of = jax.nn.one_hot(examples.choices, choices)
    units = (examples.places[:, None, None] - head.locs) / head.scales
    parts = head.log_weights - units - 2 * jax.nn.softplus(-units) - jnp.log(head.scales)
    density = head.log_shares + jax.nn.logsumexp(parts, axis=-1)
    return -jnp.where(of > 0, density, 0.0).sum(-1).mean()


def learned(
    key: jax.Array, examples: Examples, choices: int, training: Training
) -> tuple[dict[str, np.ndarray], Course]:
    """Weights that give held-out simulations the largest density, and how they came about."""
    count = len(examples.places)
    apart = max(1, int(count * training.held_out))
    size = min(training.batch_size, count - apart)
    steps = (count - apart) // size
    total = steps * training.epochs
    rate = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, max(1, total // 20), total, training.learning_rate * 1e-3
    )
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    tests = jax.tree.map(lambda v: jnp.asarray(v[:apart]), examples)
    others = jax.tree.map(lambda v: jnp.asarray(v[apart:]), examples)

    @jax.jit
    def epoch(state: tuple[Any, Any], key: jax.Array, others: Examples, tests: Examples) -> Any:
        order = jax.random.permutation(key, count - apart)[: steps * size].reshape(steps, size)

        def step(state: tuple[Any, Any], rows: Array) -> Any:
            weights, memory = state
            batch = jax.tree.map(lambda v: v[rows], others)
            loss, slope = jax.value_and_grad(partial(_loss, choices=choices))(weights, batch)
            change, memory = rule.update(slope, memory, weights)
            return (optax.apply_updates(weights, change), memory), loss

        state, losses = jax.lax.scan(step, state, order)
        return state, losses.mean(), _loss(state[0], tests, choices)

    weights = _first_weights(key, examples.inputs.shape[1], choices, training)
    state, best, course = (weights, rule.init(weights)), (np.inf, -1, weights), []
    for number in range(training.epochs):
        state, loss, score = epoch(state, jax.random.fold_in(key, number), others, tests)
        course.append((float(loss), float(score)))
        if course[-1][1] < best[0]:
            best = (course[-1][1], number, state[0])
        if number - best[1] >= training.patience:
            break
    return {n: np.asarray(v) for n, v in best[2].items()}, Course(*np.array(course).T)
