"""What Laplace and DADVI share: a normal over the vector, its draws, its health."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from aimz.arrays import Seed
from aimz.errors import AimzError, FitWarning, Note
from aimz.inference import health
from aimz.inference.engine import Draws, Fit, Problem
from aimz.inference.normal import CLOSE, GLANCE, Look, around_normal, numbers_at, numbers_of
from aimz.inference.vector.posterior import VectorPosterior, View, values_at
from aimz.programs import as_key

__all__ = [
    "RIVAL",
    "Judged",
    "NormalFit",
    "judged_normal",
    "modes_note",
    "root_of",
    "weighted_evidence",
]

#: Share of the evidence at another mode that is worth a word.
RIVAL = 0.01


def root_of(covariance: np.ndarray, what: str) -> np.ndarray:
    """The lower root of a covariance."""
    unit = np.sqrt(np.diag(covariance))
    try:
        root: np.ndarray = unit[:, None] * np.linalg.cholesky(covariance / np.outer(unit, unit))
    except np.linalg.LinAlgError as error:
        msg = f"The covariance of {what} is singular to rounding. Standardise the columns."
        raise AimzError(msg, code="no-mode") from error
    return root


class NormalFit:
    """More draws of an engine whose posterior is one normal over the vector."""

    name: ClassVar[str]

    def draw(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> Mapping[str, Any]:
        """More draws of the normal; see `Engine`."""
        key, state = jax.random.fold_in(as_key(rng_key), 4), fit.state
        posterior = VectorPosterior(self.name, problem, key, state["params"])
        return _draws_of(posterior, key, state["loc"], state["root"], num_samples)

    def weighed(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> tuple[Draws, np.ndarray]:
        """Fresh draws of the normal, and log p - log q of each; see `WeighingEngine`."""
        key, state = jax.random.fold_in(as_key(rng_key), 5), fit.state
        posterior = VectorPosterior(self.name, problem, key, state["params"])
        return _weighed_draws(posterior, key, state["loc"], state["root"], num_samples)


def _draws_of(
    posterior: VectorPosterior, key: jax.Array, loc: np.ndarray, root: np.ndarray, count: int
) -> Draws:
    """Draws of a normal, (1, draw, ...)."""
    return posterior.draws(_points_of(key, loc, root, count)[None])


def _points_of(key: jax.Array, loc: np.ndarray, root: np.ndarray, count: int) -> np.ndarray:
    with jax.enable_x64(True):
        noise = np.asarray(jax.random.normal(key, (count, len(loc)), float))
    points: np.ndarray = loc + noise @ root.T
    return points


def _weighed_draws(
    posterior: VectorPosterior, key: jax.Array, loc: np.ndarray, root: np.ndarray, count: int
) -> tuple[Draws, np.ndarray]:
    """Draws of a normal, (1, draw, ...), and log p - log q of each."""
    with jax.enable_x64(True):
        noise = np.asarray(jax.random.normal(key, (count, len(loc)), float))
    points = loc + noise @ root.T
    logs = posterior.call(_densities, points) + 0.5 * np.sum(noise**2, axis=1)
    return posterior.draws(points[None]), logs


def _densities(view: View, points: jax.Array) -> Any:
    return jax.lax.map(view.density, points, batch_size=20)


class Judged(NamedTuple):
    """Health of a normal, log p - log q at draws that it was judged by, and draws that are kept.

    `kept_weights` are of the first of these, where they say something.
    """

    report: health.Health
    log_weights: np.ndarray
    draws: Draws
    kept_weights: np.ndarray | None


def judged_normal(
    posterior: VectorPosterior,
    keys: Sequence[jax.Array],
    loc: np.ndarray,
    root: np.ndarray,
    count: int,
) -> Judged:
    """How well a normal has the shape, by draws of the first key; and draws of the second."""
    rows = posterior.problem.inputs.rows
    wanted = CLOSE if rows <= health.WEIGH_ROWS else GLANCE
    with jax.enable_x64(True):
        look_keys = jax.random.split(keys[0], 2)
    points = _points_of(keys[1], loc, root, count)
    seen = posterior.call(_looked, look_keys, loc, root, points[: wanted.draws], wanted=wanted)
    weights = health.told_weights(seen.pop("own_weights"))
    lines = seen.pop("lines")
    names = [posterior.names[line] for line in lines]
    values = seen.pop("values")
    numbers = numbers_of({name: value.shape[1:] for name, value in values.items()})
    drawn: dict[str, Any] = {"values": np.asarray(numbers_at(values)), "numbers": numbers}
    judged = health.judge_shape(health.Evidence(sites=names, **seen, **drawn))
    return Judged(judged, seen["log_weights"], posterior.draws(points[None]), weights)


def _looked(
    view: View,
    keys: jax.Array,
    loc: jax.Array,
    root: jax.Array,
    kept: jax.Array,
    *,
    wanted: Look,
) -> dict[str, Any]:
    normal = dist.MultivariateNormal(loc, scale_tril=root, validate_args=False)
    seen, lines = around_normal((keys[0], keys[1]), view.density, normal, loc, root, wanted, kept)
    values = values_at(view, seen.pop("points"))
    return {**seen, "values": values, "lines": jnp.asarray(lines)}


def weighted_evidence(log_weights: np.ndarray) -> tuple[float, float]:
    """Log of the mean weight, and its standard error, which means something while k-hat is good."""
    top = log_weights.max()
    weights = np.exp(log_weights - top)
    mean = float(weights.mean())
    error = float(weights.std(ddof=1) / np.sqrt(len(weights)) / mean)
    return float(top + np.log(mean)), error


def modes_note(rival: float) -> Note:
    """What to say of another mode."""
    return Note(
        FitWarning,
        f"The posterior has another mode, with about {rival:.0%} of the evidence of both, and the "
        "normal describes one. Tell the modes apart by priors, or use inference='smc'.",
        "modes",
    )
