"""Linear regression without search: its posterior in closed form, but for the noise on a grid."""

from dataclasses import dataclass

import numpy as np

from aimz.arrays import Seed
from aimz.inference.engine import Draws, Fit, Problem, Settings
from aimz.inference.linear.kernels import (
    DRAWS,
    LEAST_NOISE,
    Data,
    LinearKernel,
    generator,
    kernel_of,
    mirrored,
)

__all__ = ["ExactLinear"]


_GRID = 512
_NATS = 40.0  # densities further below the highest are left out


class ExactLinear:
    """Draws from the posterior of a `LinearKernel`."""

    name = "exact"

    def fit(
        self, rng_key: Seed, problem: Problem, settings: Settings, *, state: object = None
    ) -> Fit:
        """Tabulate the noise and draw; see `Engine`."""
        draws = self.draw(rng_key, problem, None, settings.num_samples or DRAWS)
        return Fit(draws, attrs={"engine": self.name}, state=())

    def draw(self, rng_key: Seed, problem: Problem, fit: Fit | None, num_samples: int) -> Draws:
        """Draws from the posterior; see `Engine`."""
        rng = generator(rng_key)
        kernel: LinearKernel = kernel_of(problem, LinearKernel)
        data = Data.of(problem)
        moments = _Moments.of(data, (data.y - kernel.location) / kernel.spread)
        noise = _draw_noise(rng, moments, kernel.prior_scale, (num_samples + 1) // 2)
        ratio = (noise / kernel.prior_scale)[:, None] ** 2
        mean = moments.cross / (moments.values + ratio)
        sd = noise[:, None] / np.sqrt(moments.values + ratio)
        rotated = mirrored(mean, sd * rng.standard_normal(mean.shape), num_samples)
        values = rotated @ moments.vectors.T * kernel.spread
        return {
            "level": kernel.location + values[None, :, 0],
            "coef": values[None, :, 1:] / kernel.columns.scale,
            "sigma": kernel.spread * np.tile(noise, 2)[None, :num_samples],
        }


@dataclass(frozen=True)
class _Moments:
    """Sums over rows that a linear regression needs, in coordinates in which they are diagonal."""

    values: np.ndarray  # of the design's Gram matrix
    vectors: np.ndarray
    cross: np.ndarray  # of design and outcome
    square: float  # of the outcome
    count: float

    @classmethod
    def of(cls, data: Data, y: np.ndarray) -> "_Moments":
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
        prior = -0.5 * variance + log_noise
        return np.asarray(prior - self.count * log_noise - 0.5 * (volume + residual / variance))


def _draw_noise(
    rng: np.random.Generator, moments: _Moments, prior_scale: float, num_samples: int
) -> np.ndarray:
    """Standard deviations of the noise, (draw,), spread evenly over the quantiles."""
    low, high = np.log(LEAST_NOISE), np.log(10.0)
    for _ in range(3):  # each time on the part of the axis where the mass is
        grid = np.linspace(low, high, _GRID)
        log_density = moments.log_density(grid, prior_scale)
        near = np.flatnonzero(log_density > log_density.max() - _NATS)
        low, high = grid[max(near[0] - 1, 0)], grid[min(near[-1] + 1, _GRID - 1)]
    density = np.exp(log_density - log_density.max())
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    levels = (rng.permutation(num_samples) + rng.random(num_samples)) / num_samples
    return np.asarray(np.exp(np.interp(levels * mass[-1], mass, grid)))
