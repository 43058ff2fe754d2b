"""Logistic regression by Laplace's method: the mode by Newton, and the curvature there."""

from dataclasses import dataclass, field

import numpy as np

from aimz.arrays import Seed
from aimz.errors import InputError
from aimz.inference import health
from aimz.inference.engine import Draws, Fit, Problem, Settings
from aimz.inference.linear.kernels import (
    DRAWS,
    Data,
    LogisticKernel,
    generator,
    kernel_of,
    log_sum_exp,
    mirrored,
)

__all__ = ["LaplaceLogistic"]


_MAX_COEFFICIENTS = 8192
_MAX_STEPS = 100


class LaplaceLogistic:
    """Draws from the Laplace approximation of the posterior of a `LogisticKernel`."""

    name = "laplace"

    def fit(
        self, rng_key: Seed, problem: Problem, settings: Settings, *, state: object = None
    ) -> Fit:
        """Find the mode and draw; see `Engine`."""
        kernel = kernel_of(problem, LogisticKernel)
        target = _Softmax.of(kernel, Data.of(problem))
        mode, steps = _mode(target)
        drawn, log_density = _around(generator(rng_key), target, mode, settings.num_samples)
        log_weights = None
        if len(target.data.y) <= health.WEIGH_ROWS:
            log_weights = np.array([target.log_density(coef) for coef in drawn]) - log_density
        # Log-concave densities have no tail that the draws around the mode would not see.
        evidence = health.Evidence(log_weights, absent="many rows", sees_tails=True)
        judged = health.judge_shape(evidence)
        attrs = {"engine": self.name, "steps": steps, **judged.attrs}
        return Fit(target.sites(kernel, drawn), attrs=attrs, state=(), notes=judged.notes)

    def draw(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Draws:
        """More draws from the approximation; see `Engine`."""
        kernel = kernel_of(problem, LogisticKernel)
        target = _Softmax.of(kernel, Data.of(problem))
        drawn, _ = _around(generator(rng_key), target, _mode(target)[0], num_samples)
        return target.sites(kernel, drawn)


@dataclass(frozen=True)
class _Softmax:
    """Log posterior of coefficients, (column, class) with the intercepts first, in unit scale."""

    data: Data
    hits: np.ndarray = field(repr=False)  # (row, class), one where the row has the class
    prior_scale: float

    @classmethod
    def of(cls, kernel: LogisticKernel, data: Data) -> "_Softmax":
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
        by_row = np.sum(self.hits * logits, axis=1) - log_sum_exp(logits)
        return float(self.data.w @ by_row - 0.5 * np.sum((coef / self.prior_scale) ** 2))

    def slope(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient, (column, class), and negative Hessian on its flattened axes."""
        A, w = self.data.A, self.data.w
        logits = A @ coef
        share = np.exp(logits - log_sum_exp(logits)[:, None])
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
    count = num_samples or DRAWS
    root = np.linalg.cholesky(target.slope(mode)[1])
    normal = rng.standard_normal(((count + 1) // 2, mode.size))
    moves = np.linalg.solve(root.T, normal.T).T.reshape(-1, *mode.shape)
    density = -0.5 * np.sum(normal**2, axis=1)
    return mirrored(mode, moves, count), np.tile(density, 2)[:count]
