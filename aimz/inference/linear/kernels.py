"""Linear and multinomial logistic regression: kernels, and engines that need no search.

Both kernels measure columns in their own standard deviations, and give each coefficient the prior
Normal(0, `prior_scale`) in those units; the intercept, taken at the mean row, has it too. The noise
of the linear kernel has a half-normal prior with the outcome's standard deviation, cut off below a
thousandth of it.

`ExactLinear` draws from the posterior itself: given the noise, the coefficients are normal, and the
density of the noise is known up to a constant and tabulated. `LaplaceLogistic` draws from the
normal distribution at the mode with the curvature there, and says how far that can be trusted.
Coefficients come in pairs mirrored at their mean, so that averages over draws hardly err.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import special

from aimz.arrays import Array, Seed
from aimz.errors import KernelValidationError
from aimz.inference.engine import Draws, Problem
from aimz.programs import as_key

__all__ = [
    "DRAWS",
    "LEAST_NOISE",
    "Columns",
    "Data",
    "LinearKernel",
    "LogisticKernel",
    "generator",
    "kernel_of",
    "log_sum_exp",
    "mirrored",
]


DRAWS = 1000
LEAST_NOISE = 1e-3  # in standard deviations of the outcome
_NEGLIGIBLE = 1e-12  # a standard deviation below this share of the values is rounding


@dataclass(frozen=True, eq=False)
class Columns:
    """Where the columns of the input lie, (column,), and how far they spread."""

    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, weights: np.ndarray | None = None) -> "Columns":
        """Weighted means and standard deviations; a constant column counts as spread by 1."""
        center = np.average(X, axis=0, weights=weights)
        scale = np.sqrt(np.average((X - center) ** 2, axis=0, weights=weights))
        size = np.max(np.abs(X), axis=0, initial=0.0)
        return cls(center, np.where(scale > _NEGLIGIBLE * size, scale, 1.0))

    def design(self, X: np.ndarray) -> np.ndarray:
        """Rows in units of the columns, after a column of ones."""
        return np.column_stack([np.ones(len(X)), (X - self.center) / self.scale])


@dataclass(frozen=True, eq=False)
class LinearKernel:
    """Linear regression on columns; the outcome lies at `location` and spreads by `spread`."""

    columns: Columns
    location: float
    spread: float
    prior_scale: float = 2.5

    @classmethod
    def on(
        cls, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None, prior_scale: float
    ) -> "LinearKernel":
        """The kernel whose priors are scaled by some data."""
        outcome = Columns.of(y[:, None], weights)
        location, spread = float(outcome.center[0]), float(outcome.scale[0])
        return cls(Columns.of(X, weights), location, spread, prior_scale)

    def __call__(self, X: Array, y: Array | None = None) -> None:
        wide = self.prior_scale * self.spread
        level = numpyro.sample("level", dist.Normal(self.location, wide))
        coef = numpyro.sample("coef", dist.Normal(0.0, wide / self.columns.scale).to_event(1))
        noise = dist.TruncatedNormal(0.0, self.spread, low=LEAST_NOISE * self.spread)
        sigma = numpyro.sample("sigma", noise)
        mean = level + (X - self.columns.center) @ coef
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(mean, sigma), obs=y)

    def expected(self, X: np.ndarray, draws: Draws) -> np.ndarray:
        """Means of the outcome, (draw, row)."""
        return np.asarray(draws["level"][:, None] + draws["coef"] @ (X - self.columns.center).T)


@dataclass(frozen=True, eq=False)
class LogisticKernel:
    """Multinomial logistic regression on columns: one logit per class, none a reference."""

    columns: Columns
    classes: int
    prior_scale: float = 2.5

    def __call__(self, X: Array, y: Array | None = None) -> None:
        wide = jnp.broadcast_to(self.prior_scale, (self.classes,))
        level = numpyro.sample("level", dist.Normal(0.0, wide).to_event(1))
        scale = wide / self.columns.scale[:, None]
        coef = numpyro.sample("coef", dist.Normal(0.0, scale).to_event(2))
        logits = level + (X - self.columns.center) @ coef
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def expected(self, X: np.ndarray, draws: Draws) -> np.ndarray:
        """Probabilities of the classes, (draw, row, class)."""
        if self.classes == 2:  # a single exponential, and none of it on an axis of two
            level, coef = (draws[name][..., 1] - draws[name][..., 0] for name in ("level", "coef"))
            second = special.expit(level[:, None] + coef @ (X - self.columns.center).T)
            return np.stack([1 - second, second], axis=-1)
        logits = draws["level"][:, None] + (X - self.columns.center) @ draws["coef"]
        return np.asarray(np.exp(logits - log_sum_exp(logits)[..., None]))


@dataclass(frozen=True)
class Data:
    """Design matrix, outcomes and weights in double precision, without missing outcomes."""

    A: np.ndarray
    y: np.ndarray
    w: np.ndarray

    @classmethod
    def of(cls, problem: Problem) -> "Data":
        X, y = (np.asarray(problem.inputs.arrays[n], np.float64) for n in ("X", "y"))
        w = np.ones(len(y)) if problem.weights is None else np.asarray(problem.weights, np.float64)
        there = np.isfinite(y) & (w > 0)
        return cls(problem.kernel.columns.design(X[there]), y[there], w[there])  # type: ignore[attr-defined]  # `kernel_of` has looked


def mirrored(mean: np.ndarray, moves: np.ndarray, count: int) -> np.ndarray:
    """Draws on both sides of their mean, the first `count`."""
    return np.concatenate([mean + moves, mean - moves])[:count]


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Logarithm of a sum of exponentials over the last axis."""
    top = logits.max(axis=-1)
    return np.asarray(top + np.log(np.sum(np.exp(logits - top[..., None]), axis=-1)))


def kernel_of(problem: Problem, kind: type) -> Any:
    """The kernel that an engine is made for, or an error."""
    if not isinstance(problem.kernel, kind):
        msg = (
            f"This engine fits a {kind.__name__} only, and the kernel is another. Pass "
            "inference='svi' or 'nuts'."
        )
        raise KernelValidationError(msg, code="inference-kernel")
    return problem.kernel


def generator(rng_key: Seed) -> np.random.Generator:
    """NumPy's generator from a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(rng_key))))
