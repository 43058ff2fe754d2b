"""Deterministic variational inference: the draws are fixed, and the search ends by itself.

Giordano, Ingram & Broderick (2024), "Black box variational inference with a deterministic
objective". A mean-field normal is fitted to the average of the energy at fixed draws, and the
linear response of its mean gives the covariances that a mean field has not.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aimz.arrays import Seed
from aimz.errors import FitWarning, Note
from aimz.inference.binding import check_draws, param_notes
from aimz.inference.engine import Fit, Problem, Settings
from aimz.inference.progress import Bar
from aimz.inference.settings import check_count
from aimz.inference.vector.normal_fit import (
    RIVAL,
    NormalFit,
    judged_normal,
    modes_note,
    root_of,
)
from aimz.inference.vector.posterior import VectorPosterior, View, begun
from aimz.inference.vector.search import (
    ARRIVED,
    Curve,
    best_of,
    curve_at,
    inverse_of,
    minimum_of,
    no_mode,
    rival_of,
    starts_of,
)
from aimz.programs import as_key

__all__ = ["DADVI", "curves_at", "slopes_at"]

_SAMPLES = 1000
_CHUNK = 16  # pairs of draws that a call of a program takes
_MOST_PAIRS = 256
# Error of a mean by the fixed draws, in posterior standard deviations, that is small, and large.
_SMALL_ERROR, _LARGE_ERROR = 0.1, 0.25
_STARTS = 4


@dataclass(frozen=True)
class DADVI(NormalFit):
    """Deterministic variational inference: pass it as `inference=`, or its name "dadvi".

    There is no learning rate and no question whether it has converged: a quasi-Newton search of a
    fixed function ends by itself (Giordano, Ingram & Broderick, 2024). Covariances are those of
    linear response, exact where the posterior is normal. How far the means depend on which draws
    were fixed is known, and the draws become more until it is little.

    Parameters
    ----------
    draws : int, optional
        Fixed draws, in pairs of opposite signs; by default as many as are needed, up to 512.

    Raises
    ------
    InputError
        "settings": a number that cannot be.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel
    >>> from aimz.inference import DADVI
    >>> def kernel(X, y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> im = ImpactModel(kernel, inference=DADVI(), rng_key=0)
    >>> im = im.fit(np.zeros((4, 1)), np.full(4, 0.5), progress=False)
    >>> round(float(im.posterior["mean"].std()), 1)  # 0.45 in closed form
    0.4
    """

    draws: int | None = None

    name = "dadvi"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.draws is not None:
            check_count("DADVI", "draws", self.draws, 2)

    def fit(
        self,
        rng_key: Seed,
        problem: Problem,
        settings: Settings,
        *,
        state: dict[str, Any] | None = None,
    ) -> Fit:
        """Search, or search on from where an earlier fit was; see `Engine`."""
        key = as_key(rng_key)
        posterior = begun(self.name, problem, key, state)
        with Bar("search", None, shown=settings.progress):
            found = _Search(posterior, jax.random.fold_in(key, 1), state).run(self.draws)
        root = root_of(found.covariance, "the posterior")
        keys = [jax.random.fold_in(key, use) for use in (2, 3)]
        count = settings.num_samples or _SAMPLES
        judged = judged_normal(posterior, keys, found.loc, root, count)
        check_draws(problem.spec.latents, judged.draws, self.name)
        attrs = {
            "engine": self.name,
            "fixed_draws": found.draws,
            "error_of_means": found.error,
            "notes": [],
            **judged.report.attrs,
        }
        notes = [*param_notes(posterior.params), *judged.report.notes]
        if found.error > _LARGE_ERROR:
            worst = posterior.names[found.worst]
            notes.append(_rough(found, worst))
            attrs["verdict"] = "bad: fixed-draws"
        if found.rival > RIVAL:
            notes.append(modes_note(found.rival))
            attrs["verdict"] = "bad: modes"
        kept = {"loc": found.loc, "root": root, "params": posterior.params}
        return Fit(
            judged.draws, {}, {}, attrs, kept, posterior.params, tuple(notes), judged.kept_weights
        )


class _Found(NamedTuple):
    """Mean and covariance, fixed draws, error of the means in sds, another mode's share."""

    loc: np.ndarray
    covariance: np.ndarray
    draws: int
    error: float
    worst: int
    rival: float


class _Search:
    """The function of means and log standard deviations, and its minimum."""

    def __init__(
        self, posterior: VectorPosterior, key: jax.Array, state: dict[str, Any] | None
    ) -> None:
        self.posterior, self.dim = posterior, len(posterior.names)
        with jax.enable_x64(True):
            noise_key, start_key = jax.random.split(key)
            noise = jax.random.normal(noise_key, (_MOST_PAIRS, self.dim), float)
            keys = jax.random.split(start_key, _STARTS)
        self.noise = np.asarray(noise)
        self.starts = posterior.call(starts_of, keys, has_prior=posterior.has_prior)
        if state is not None:
            self.starts = np.concatenate([state["loc"][None], self.starts])
        chunk = np.zeros((2 * _CHUNK, self.dim))
        self.slopes = posterior.program(slopes_at, chunk)
        self.curves = posterior.program(curves_at, chunk, chunk)
        self.curve = posterior.program(curve_at, chunk[0])

    def run(self, draws: int | None) -> _Found:
        """The minimum at a number of draws, or at as many as leave the means little error."""
        pairs = _CHUNK if draws is None else -(-draws // (2 * _CHUNK)) * _CHUNK
        with jax.enable_x64(True):
            self.fixed = self._pairs(pairs)
            found = [minimum_of(self._slope, self._curve, start) for start in self._begins()]
            minima = [one for one in found if one is not None]
            minimum = best_of(minima, lambda one: -one.curve.value)
            rival = rival_of(minimum, minima, lambda one: -one.curve.value, self.dim)
            while True:
                inverse = inverse_of(minimum.curve.hessian)
                if inverse is None or not minimum.distance < ARRIVED:
                    names = self.posterior.names
                    sizes = [f"sd of {name}" for name in names]
                    raise no_mode(minimum, [*names, *sizes], "the best mean and sd")
                error, worst = self._error(minimum.point, inverse)
                if draws is not None or error <= _SMALL_ERROR or pairs >= _MOST_PAIRS:
                    break
                pairs = min(4 * pairs, _MOST_PAIRS)
                self.fixed = self._pairs(pairs)
                minimum = minimum_of(self._slope, self._curve, minimum.point) or minimum
        dim = self.dim
        return _Found(minimum.point[:dim], inverse[:dim, :dim], 2 * pairs, error, worst, rival)

    def _begins(self) -> list[np.ndarray]:
        """The starts, with standard deviations by the curvature there."""
        begins = []
        for start in self.starts:
            _, _, hessian = self.curve(start)
            size = np.abs(np.diag(np.asarray(hessian)))
            if np.all(np.isfinite(size)):
                sd = 1.0 / np.sqrt(np.maximum(size, 1e-20 * size.max() + 1e-30))
                begins.append(np.concatenate([start, np.log(0.1 * sd)]))
        return begins

    def _pairs(self, count: int) -> np.ndarray:
        """Fixed draws in chunks, each of pairs of opposite signs."""
        noise = self.noise
        if count > len(noise):
            with jax.enable_x64(True):
                noise = np.asarray(jax.random.normal(jax.random.key(count), (count, self.dim)))
        half = noise[:count].reshape(-1, _CHUNK, self.dim)
        return np.concatenate([half, -half], axis=1)

    def _by_draw(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies and gradients in means and log standard deviations, of each draw."""
        loc, sd = theta[: self.dim], np.exp(theta[self.dim :])
        energies, slopes = [], []
        for chunk in self.fixed:
            energy, gradient = (np.asarray(part) for part in self.slopes(loc + sd * chunk))
            energies.append(energy)
            slopes.append(np.concatenate([gradient, gradient * sd * chunk - 1.0], axis=1))
        return np.array(energies), np.array(slopes)

    def _slope(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):
            energies, slopes = self._by_draw(theta)
            return float(energies.mean() - theta[self.dim :].sum()), slopes.mean(axis=(0, 1))

    def _curve(self, theta: np.ndarray) -> Curve:
        loc, sd = theta[: self.dim], np.exp(theta[self.dim :])
        total: Any = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for chunk in self.fixed:
                total = total + np.asarray(self.curves(loc + sd * chunk, sd * chunk))
            return Curve(*self._slope(theta), total / len(self.fixed))

    def _error(self, theta: np.ndarray, inverse: np.ndarray) -> tuple[float, int]:
        """Largest error of a mean by the draws that were fixed, in standard deviations."""
        _, slopes = self._by_draw(theta)
        pairs = 0.5 * (slopes[:, :_CHUNK] + slopes[:, _CHUNK:]).reshape(-1, 2 * self.dim)
        response = (pairs @ inverse)[:, : self.dim]
        errors = response.std(axis=0, ddof=1) / np.sqrt(len(pairs))
        relative = errors / np.sqrt(np.diag(inverse)[: self.dim])
        return float(relative.max()), int(relative.argmax())


def slopes_at(view: View, points: jax.Array) -> tuple[Any, Any]:
    """Energies and their gradients at points."""
    found: tuple[Any, Any] = jax.lax.map(jax.value_and_grad(view.energy), points, batch_size=8)
    return found


def curves_at(view: View, points: jax.Array, moves: jax.Array) -> Any:
    """The average Hessian in means and log standard deviations; `moves` are points less means."""
    dim = view.dim

    def add(total: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        point, move = one
        _, gradient, hessian = curve_at(view, point)
        across = hessian * move
        both = move[:, None] * across + jnp.diag(gradient * move)
        return total + jnp.block([[hessian, across], [across.T, both]]), None

    total, _ = jax.lax.scan(add, jnp.zeros((2 * dim, 2 * dim)), (points, moves))
    return total / len(points)


def _rough(found: _Found, worst: str) -> Note:
    return Note(
        FitWarning,
        f"With {found.draws} fixed draws the mean of '{worst}' is known to {found.error:.2f} "
        "standard deviations only. Pass DADVI(draws=) more, or use inference='nuts'.",
        "fixed-draws",
    )
