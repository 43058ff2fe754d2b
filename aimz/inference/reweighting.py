"""Draws of an approximation, made draws of the posterior by weights.

The weights are p / q, smoothed by a generalised Pareto distribution of their tail (Vehtari,
Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance sampling"); draws are taken again
by them.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from aimz.arrays import Seed
from aimz.errors import InputError
from aimz.inference import health
from aimz.inference.engine import Draws, Engine, Fit, Problem

__all__ = ["WeighingEngine", "reweighted"]


# Draws that are weighed for each that is kept, and effective ones that must be left.
_EACH, _LEAST = 4, 100
# Verdicts of fits that miss what no draw of them is near to.
_BLIND = ("modes", "no-intervals")


@runtime_checkable
class WeighingEngine(Engine, Protocol):
    """An engine whose draws have a density of their own."""

    def weighed(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> tuple[Draws, np.ndarray]:
        """Fresh draws, (1, draw, ...), and log p - log q of each, up to one number.

        Raises
        ------
        InputError
            `no-weights`: the densities cannot be told.
        """


def reweighted(
    engine: Engine, rng_key: jax.Array, problem: Problem | None, fit: Fit, num_samples: int
) -> Fit:
    """A fit with draws of the posterior itself, as far as weights can give them.

    Raises
    ------
    InputError
        `no-weights`: the engine's draws have no density, or weights cannot help; `no-data`.
    """
    if not isinstance(engine, WeighingEngine) or "chains" in fit.attrs:
        name = fit.attrs.get("engine", engine.name)
        msg = f"Engine '{name}' has no weights: its draws have no density to divide by. Keep them."
        raise InputError(msg, code="no-weights")
    if problem is None or fit.state is None:
        msg = "There is no fit to weigh, or not its data. Fit first, in this process."
        raise InputError(msg, code="no-data")
    verdict = str(fit.attrs.get("verdict", ""))
    if any(word in verdict for word in _BLIND):
        msg = f"The fit is {verdict}: weights say nothing of where it has no draws. Use 'nuts'."
        raise InputError(msg, code="no-weights")
    key = jax.random.fold_in(rng_key, 0)
    draws, log_weights = engine.weighed(key, problem, fit, _EACH * num_samples)
    weights, attrs = _smoothed(np.asarray(log_weights, np.float64))
    places = _taken(weights, num_samples, float(jax.random.uniform(jax.random.fold_in(rng_key, 1))))
    drawn = {name: np.asarray(value)[:, places] for name, value in draws.items()}
    before = {name: value for name, value in fit.attrs.items() if name in ("engine", "guide")}
    if "param-fixed" in verdict:
        attrs["verdict"] = "bad: param-fixed"  # by weights the posterior given these parameters
    return Fit(drawn, attrs={**before, **attrs, "notes": []}, params=fit.params)


def _smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Weights that sum to one, and what is to be said of them."""
    k_hat, limit = health.pareto_k(log_weights), health.k_limit(len(log_weights))
    if not k_hat <= limit:
        msg = (
            f"Pareto-k of {len(log_weights):,} weights is {k_hat:.2f} (limit {limit:.2f}): no "
            "weights make up for draws that are not there. Fit with inference='nuts'."
        )
        raise InputError(msg, code="no-weights")
    smooth = health.smoothed(log_weights)
    weights = np.exp(smooth - smooth.max())
    weights /= weights.sum()
    ess = float(1.0 / (weights @ weights))
    if ess < _LEAST:
        msg = f"Weights leave {ess:.0f} effective draws. Ask for more, or use inference='nuts'."
        raise InputError(msg, code="no-weights")
    return weights, {"reweighted": True, "k_hat": k_hat, "ess_min": ess, "verdict": "good"}


def _taken(weights: np.ndarray, count: int, start: float) -> np.ndarray:
    """Places of as many draws as their weights say: one in each of `count` equal parts of one."""
    edges = np.cumsum(weights)
    at = (start + np.arange(count)) / count * edges[-1]
    places: np.ndarray = np.minimum(np.searchsorted(edges, at), len(weights) - 1)
    return places
