"""The search for a minimum by a quasi-Newton method, ended by Newton's own steps.

SciPy's L-BFGS-B (Byrd, Lu, Nocedal & Zhu, 1995) walks in units of the curvature at its start, which
raw covariates need; the exact curvature then takes the last steps and says whether it has arrived.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aimz.errors import AimzError
from aimz.inference.vector.posterior import View

__all__ = [
    "ARRIVED",
    "Curve",
    "Minimum",
    "best_of",
    "curve_at",
    "direction_of",
    "inverse_of",
    "minimum_of",
    "no_mode",
    "rival_of",
    "slope_at",
    "starts_of",
]

_STEPS, _MEMORY, _NEWTON = 2000, 20, 20
# The distance to the minimum, in standard deviations of the curvature there, that counts as none.
ARRIVED = 1e-3
# Smallest eigenvalue, of a curvature with a unit diagonal, that still says something.
FLAT = 1e-9
_IMPOSSIBLE = 1e18
_NEAR, _FAR = 0.01, 2.0
_BATCH = 32
_OTHER_MODE = 4.0  # standard deviations that part two modes


class Curve(NamedTuple):
    """A function at a point: value, gradient and Hessian."""

    value: float
    gradient: np.ndarray
    hessian: np.ndarray

    @property
    def is_finite(self) -> bool:
        """Whether all of it is known."""
        return bool(np.isfinite(self.value)) and bool(
            np.all(np.isfinite(self.gradient)) and np.all(np.isfinite(self.hessian))
        )


class Minimum(NamedTuple):
    """Where a search has ended, what is there, and how far it is from the minimum in sds."""

    point: np.ndarray
    curve: Curve
    distance: float


def starts_of(view: View, keys: jax.Array, *, has_prior: bool) -> Any:
    """Starts of a search, (start, number).

    Near zero; far from it, in two opposite directions, as modes that mirror each other lie; and
    of the prior, if it can be drawn.
    """
    found: list[Any] = []
    for number in range(len(keys)):
        place = number % 4
        if place == 1 and has_prior:
            found.append(view.pack(view.prior(keys[number])))
        elif place == 3:
            found.append(-found[-1])
        else:
            radius = _FAR if number else _NEAR
            found.append(jax.random.uniform(keys[number], (view.dim,), float, -radius, radius))
    return jnp.stack(found)


def slope_at(view: View, point: jax.Array) -> tuple[Any, Any]:
    """Value and gradient of the energy."""
    found: tuple[Any, Any] = jax.value_and_grad(view.energy)(point)
    return found


def curve_at(view: View, point: jax.Array) -> tuple[Any, Any, Any]:
    """Value, gradient and Hessian of the energy."""
    slope = jax.value_and_grad(view.energy)

    def column(way: jax.Array) -> Any:
        return jax.jvp(lambda at: slope(at)[1], (point,), (way,))[1]

    value, gradient = slope(point)
    hessian = jax.lax.map(column, jnp.eye(view.dim), batch_size=_BATCH)
    return value, gradient, 0.5 * (hessian + hessian.T)


def minimum_of(
    slope: Callable[[np.ndarray], tuple[float, np.ndarray]],
    curve: Callable[[np.ndarray], Curve],
    start: np.ndarray,
) -> Minimum | None:
    """The minimum that a search leads to; None where the start has no finite value."""
    first = curve(start)
    if not first.is_finite:
        return None
    size = np.abs(np.diag(first.hessian))
    unit = 1.0 / np.sqrt(np.maximum(size, 1e-20 * size.max() + 1e-30))

    def scaled(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = slope(start + unit * point)
        if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
            return _IMPOSSIBLE, np.zeros_like(point)
        return value, unit * gradient

    from scipy import optimize  # long to import

    options = {"maxiter": _STEPS, "maxcor": _MEMORY, "ftol": 1e-13, "gtol": 1e-7}
    found = optimize.minimize(
        scaled, np.zeros_like(start), jac=True, method="L-BFGS-B", options=options
    )
    return _finished(curve, start + unit * found.x)


def best_of(found: list[Minimum], worth: Callable[[Minimum], float]) -> Minimum:
    """The minimum that is worth most; the lowest of those worth nothing."""
    if not found:
        msg = (
            "No starting point with a finite log density was found. Check the outcome against its "
            "distribution's support and the priors' scales."
        )
        raise AimzError(msg, code="fit-diverged")
    return max(found, key=lambda one: (worth(one), -one.curve.value))


def rival_of(
    best: Minimum, found: list[Minimum], worth: Callable[[Minimum], float], dim: int | None = None
) -> float:
    """Share of the best of the other minima in the evidence of both; `worth` is in nats."""
    precision = best.curve.hessian[:dim, :dim]
    share = 0.0
    for other in found:
        apart = (other.point - best.point)[:dim]
        if apart @ precision @ apart > _OTHER_MODE**2:
            share = max(share, 1.0 / (1.0 + math.exp(min(worth(best) - worth(other), 700.0))))
    return share


def _finished(curve: Callable[[np.ndarray], Curve], point: np.ndarray) -> Minimum:
    """The last steps by Newton's method, as long as they lead down."""
    here = curve(point)
    for _ in range(_NEWTON):
        inverse = inverse_of(here.hessian) if here.is_finite else None
        if inverse is None:
            return Minimum(point, here, np.inf)
        move = -inverse @ here.gradient
        distance = float(np.sqrt(max(-move @ here.gradient, 0.0)))
        if distance < ARRIVED:
            return Minimum(point, here, distance)
        other = curve(point + move)
        share = 1.0
        while not (other.is_finite and other.value <= here.value) and share > 1e-3:
            share /= 4.0
            other = curve(point + share * move)
        if not (other.is_finite and other.value <= here.value):
            return Minimum(point, here, distance)
        point, here = point + share * move, other
    return Minimum(point, here, distance)


def inverse_of(hessian: np.ndarray) -> np.ndarray | None:
    """The inverse of a positive definite matrix; None of any other."""
    values, vectors, unit = _eigen(hessian)
    if not values[0] > FLAT:
        return None
    half = unit[:, None] * vectors / np.sqrt(values)
    inverse: np.ndarray = half @ half.T
    return inverse


def direction_of(hessian: np.ndarray, names: list[str]) -> tuple[float, str]:
    """Least curvature, of a Hessian with a unit diagonal, and the direction of it in words."""
    if not np.all(np.isfinite(hessian)):
        worst = int(np.argmin(np.isfinite(hessian).all(axis=1)))
        return np.nan, f"'{names[worst]}'"
    values, vectors, _ = _eigen(hessian)
    way = vectors[:, 0] * np.sign(vectors[np.argmax(np.abs(vectors[:, 0])), 0])
    order = np.argsort(-np.abs(way))[:3]
    parts = [number for number in order if abs(way[number]) > 0.3 * np.abs(way).max()]
    text = "".join(
        f"{' - ' if way[number] < 0 else ' + '}'{names[number]:.40}'" for number in parts
    )
    return float(values[0]), text.removeprefix(" + ")


def no_mode(minimum: Minimum, names: list[str], what: str) -> AimzError:
    """The error of a search that has found no minimum with a curvature all around."""
    least, way = direction_of(minimum.curve.hessian, names)
    if least > FLAT:
        msg = (
            f"The search for {what} has not ended: it is {minimum.distance:.2g} standard "
            "deviations away. Use inference='nuts'."
        )
        return AimzError(msg, code="fit-diverged")
    kind = "curves the wrong way" if least < -FLAT else "does not curve"
    msg = (
        f"At {what} the density {kind} along {way}: it has no normal approximation there. Give "
        "these latents priors that tell them apart, or use inference='nuts'."
    )
    return AimzError(msg, code="no-mode")


def _eigen(hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues and vectors of a matrix scaled to a unit diagonal, and the scale."""
    size = np.abs(np.diag(hessian))
    unit = 1.0 / np.sqrt(np.maximum(size, 1e-28 * size.max() + 1e-30))
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = unit[:, None] * hessian * unit
    try:
        values, vectors = np.linalg.eigh(scaled)  # which refuses what is not finite
    except np.linalg.LinAlgError:  # of numbers at the end of what there is
        order = np.argsort(-size)
        values, vectors = np.full(len(size), np.nan), np.eye(len(size))[:, order]
    return values, vectors, unit
