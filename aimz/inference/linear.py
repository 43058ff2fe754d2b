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

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import special

from aimz.errors import InputError, KernelValidationError
from aimz.inference import health
from aimz.inference.records import Draws, Fit, Problem, Settings
from aimz.randomness import as_key

__all__ = ["Columns", "ExactLinear", "LaplaceLogistic", "LinearKernel", "LogisticKernel"]

_DRAWS = 1000
_LEAST_NOISE = 1e-3  # in standard deviations of the outcome
_NEGLIGIBLE = 1e-12  # a standard deviation below this share of the values is rounding
_GRID = 512
_NATS = 40.0  # densities further below the highest are left out
_MAX_COEFFICIENTS = 8192
_MAX_STEPS = 100


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

    def __call__(self, X: Any, y: Any = None) -> None:
        wide = self.prior_scale * self.spread
        level = numpyro.sample("level", dist.Normal(self.location, wide))
        coef = numpyro.sample("coef", dist.Normal(0.0, wide / self.columns.scale).to_event(1))
        noise = dist.TruncatedNormal(0.0, self.spread, low=_LEAST_NOISE * self.spread)
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

    def __call__(self, X: Any, y: Any = None) -> None:
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
        return np.asarray(np.exp(logits - _log_sum_exp(logits)[..., None]))


class ExactLinear:
    """Draws from the posterior of a `LinearKernel`."""

    name = "exact"

    def fit(self, rng_key: Any, problem: Problem, settings: Settings, *, state: Any = None) -> Fit:
        """Tabulate the noise and draw; see `Engine`."""
        draws = self.draw(rng_key, problem, None, settings.num_samples or _DRAWS)
        return Fit(draws, attrs={"engine": self.name}, state=())

    def draw(self, rng_key: Any, problem: Problem, fit: Fit | None, num_samples: int) -> Draws:
        """Draws from the posterior; see `Engine`."""
        rng = _generator(rng_key)
        kernel: LinearKernel = _kernel_of(problem, LinearKernel)
        data = _Data.of(problem)
        moments = _Moments.of(data, (data.y - kernel.location) / kernel.spread)
        noise = _draw_noise(rng, moments, kernel.prior_scale, (num_samples + 1) // 2)
        ratio = (noise / kernel.prior_scale)[:, None] ** 2
        mean = moments.cross / (moments.values + ratio)
        sd = noise[:, None] / np.sqrt(moments.values + ratio)
        rotated = _mirrored(mean, sd * rng.standard_normal(mean.shape), num_samples)
        values = rotated @ moments.vectors.T * kernel.spread
        return {
            "level": kernel.location + values[None, :, 0],
            "coef": values[None, :, 1:] / kernel.columns.scale,
            "sigma": kernel.spread * np.tile(noise, 2)[None, :num_samples],
        }


class LaplaceLogistic:
    """Draws from the Laplace approximation of the posterior of a `LogisticKernel`."""

    name = "laplace"

    def fit(self, rng_key: Any, problem: Problem, settings: Settings, *, state: Any = None) -> Fit:
        """Find the mode and draw; see `Engine`."""
        kernel = _kernel_of(problem, LogisticKernel)
        target = _Softmax.of(kernel, _Data.of(problem))
        mode, steps = _mode(target)
        drawn, log_density = _around(_generator(rng_key), target, mode, settings.num_samples)
        log_weights = None
        if len(target.data.y) <= health.WEIGH_ROWS:
            log_weights = np.array([target.log_density(own) for own in drawn]) - log_density
        # Log-concave densities have no tail that the draws around the mode would not see.
        evidence = health.Evidence(log_weights, absent="many rows", sees_tails=True)
        judged = health.judge_shape(evidence)
        attrs = {"engine": self.name, "steps": steps, **judged.attrs}
        return Fit(target.sites(kernel, drawn), attrs=attrs, state=(), notes=judged.notes)

    def draw(self, rng_key: Any, problem: Problem, fit: Fit, num_samples: int) -> Draws:
        """More draws from the approximation; see `Engine`."""
        kernel = _kernel_of(problem, LogisticKernel)
        target = _Softmax.of(kernel, _Data.of(problem))
        drawn, _ = _around(_generator(rng_key), target, _mode(target)[0], num_samples)
        return target.sites(kernel, drawn)


@dataclass(frozen=True)
class _Data:
    """Design matrix, outcomes and weights in double precision, without missing outcomes."""

    A: np.ndarray
    y: np.ndarray
    w: np.ndarray

    @classmethod
    def of(cls, problem: Problem) -> "_Data":
        X, y = (np.asarray(problem.inputs.arrays[n], np.float64) for n in ("X", "y"))
        w = np.ones(len(y)) if problem.weights is None else np.asarray(problem.weights, np.float64)
        there = np.isfinite(y) & (w > 0)
        return cls(problem.kernel.columns.design(X[there]), y[there], w[there])  # type: ignore[attr-defined]  # `_kernel_of` has looked


@dataclass(frozen=True)
class _Moments:
    """Sums over rows that a linear regression needs, in coordinates in which they are diagonal."""

    values: np.ndarray  # of the design's Gram matrix
    vectors: np.ndarray
    cross: np.ndarray  # of design and outcome
    square: float  # of the outcome
    count: float

    @classmethod
    def of(cls, data: _Data, y: np.ndarray) -> "_Moments":
        weighted = data.A * data.w[:, None]
        values, vectors = np.linalg.eigh(weighted.T @ data.A)
        cross = vectors.T @ (weighted.T @ y)
        square = float(data.w @ y**2)
        return cls(np.maximum(values, 0.0), vectors, cross, square, float(data.w.sum()))

    def log_density(self, log_noise: np.ndarray, prior_scale: float) -> np.ndarray:
        """Log posterior density of the log of the noise, up to a constant."""
        variance = np.exp(2 * log_noise)
        ratio = variance[:, None] / prior_scale**2
        explained = np.sum(self.cross**2 / (self.values + ratio), axis=1)
        volume = np.sum(np.log1p(self.values / ratio), axis=1)
        residual = self.square - explained
        own = -0.5 * variance + log_noise
        return np.asarray(own - self.count * log_noise - 0.5 * (volume + residual / variance))


def _draw_noise(
    rng: np.random.Generator, moments: _Moments, prior_scale: float, num_samples: int
) -> np.ndarray:
    """Standard deviations of the noise, (draw,), spread evenly over the quantiles."""
    low, high = np.log(_LEAST_NOISE), np.log(10.0)
    for _ in range(3):  # each time on the part of the axis where the mass is
        grid = np.linspace(low, high, _GRID)
        log_density = moments.log_density(grid, prior_scale)
        near = np.flatnonzero(log_density > log_density.max() - _NATS)
        low, high = grid[max(near[0] - 1, 0)], grid[min(near[-1] + 1, _GRID - 1)]
    density = np.exp(log_density - log_density.max())
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    levels = (rng.permutation(num_samples) + rng.random(num_samples)) / num_samples
    return np.asarray(np.exp(np.interp(levels * mass[-1], mass, grid)))


@dataclass(frozen=True)
class _Softmax:
    """Log posterior of coefficients, (column, class) with the intercepts first, in unit scale."""

    data: _Data
    hits: np.ndarray = field(repr=False)  # (row, class), one where the row has the class
    prior_scale: float

    @classmethod
    def of(cls, kernel: LogisticKernel, data: _Data) -> "_Softmax":
        size = kernel.classes * data.A.shape[1]
        if size > _MAX_COEFFICIENTS:
            msg = (
                f"The Laplace posterior of {size:,} coefficients needs their full curvature, which "
                f"is too large above {_MAX_COEFFICIENTS:,}. Pass inference='svi'."
            )
            raise InputError(msg, code="too-many-coefficients")
        return cls(data, np.eye(kernel.classes)[data.y.astype(int)], kernel.prior_scale)

    def log_density(self, coef: np.ndarray) -> float:
        """Log posterior density, up to a constant."""
        logits = self.data.A @ coef
        own = np.sum(self.hits * logits, axis=1) - _log_sum_exp(logits)
        return float(self.data.w @ own - 0.5 * np.sum((coef / self.prior_scale) ** 2))

    def slope(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient, (column, class), and negative Hessian on its flattened axes."""
        A, w = self.data.A, self.data.w
        logits = A @ coef
        share = np.exp(logits - _log_sum_exp(logits)[:, None])
        gradient = A.T @ (w[:, None] * (self.hits - share)) - coef / self.prior_scale**2
        columns, classes = coef.shape
        hessian = np.empty((columns, classes, columns, classes))
        for k in range(classes):
            for other in range(k + 1):
                both = w * share[:, k] * ((k == other) - share[:, other])
                hessian[:, k, :, other] = hessian[:, other, :, k] = A.T @ (both[:, None] * A)
        flat = hessian.reshape(coef.size, coef.size)
        flat[np.diag_indices(coef.size)] += self.prior_scale**-2
        return gradient, flat

    def sites(self, kernel: LogisticKernel, drawn: np.ndarray) -> Draws:
        """Draws, (draw, column, class), as those of the kernel's sites."""
        return {
            "level": drawn[None, :, 0],
            "coef": drawn[None, :, 1:] / kernel.columns.scale[:, None],
        }


def _mode(target: _Softmax) -> tuple[np.ndarray, int]:
    """Most probable coefficients by Newton's method with halved steps, and how many it took."""
    coef = np.zeros((target.data.A.shape[1], target.hits.shape[1]))
    best = target.log_density(coef)
    for step in range(_MAX_STEPS):
        gradient, hessian = target.slope(coef)
        move = np.linalg.solve(hessian, gradient.ravel()).reshape(coef.shape)
        if np.sum(gradient * move) < 1e-18 * max(1.0, abs(best)):
            return coef + move, step + 1
        share = 1.0
        while (new := target.log_density(coef + share * move)) < best and share > 1e-8:
            share /= 2
        if new <= best:  # as high as rounding lets it be
            return coef, step + 1
        coef, best = coef + share * move, new
    return coef, _MAX_STEPS


def _around(
    rng: np.random.Generator, target: _Softmax, mode: np.ndarray, num_samples: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Draws around a mode, (draw, column, class), and their log densities up to a constant."""
    count = num_samples or _DRAWS
    root = np.linalg.cholesky(target.slope(mode)[1])
    normal = rng.standard_normal(((count + 1) // 2, mode.size))
    moves = np.linalg.solve(root.T, normal.T).T.reshape(-1, *mode.shape)
    density = -0.5 * np.sum(normal**2, axis=1)
    return _mirrored(mode, moves, count), np.tile(density, 2)[:count]


def _mirrored(mean: np.ndarray, moves: np.ndarray, count: int) -> np.ndarray:
    """Draws on both sides of their mean, the first `count`."""
    return np.concatenate([mean + moves, mean - moves])[:count]


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=-1)
    return np.asarray(top + np.log(np.sum(np.exp(logits - top[..., None]), axis=-1)))


def _kernel_of(problem: Problem, kind: type) -> Any:
    if not isinstance(problem.kernel, kind):
        msg = (
            f"This engine fits a {kind.__name__} only, and the kernel is another. Pass "
            "inference='svi' or 'nuts'."
        )
        raise KernelValidationError(msg, code="inference-kernel")
    return problem.kernel


def _generator(rng_key: Any) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(rng_key))))
