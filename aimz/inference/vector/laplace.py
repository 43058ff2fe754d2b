"""Laplace's method: the mode of the posterior, and the curvature there as a normal's precision."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from aimz.arrays import Seed
from aimz.inference.binding import check_draws, param_notes
from aimz.inference.engine import Fit, Problem, Settings
from aimz.inference.evidence import why_no_evidence
from aimz.inference.progress import Bar
from aimz.inference.settings import check_count
from aimz.inference.vector.normal_fit import (
    RIVAL,
    NormalFit,
    judged_normal,
    modes_note,
    root_of,
    weighted_evidence,
)
from aimz.inference.vector.posterior import VectorPosterior, begun
from aimz.inference.vector.search import (
    ARRIVED,
    Curve,
    Minimum,
    best_of,
    curve_at,
    inverse_of,
    minimum_of,
    no_mode,
    rival_of,
    slope_at,
    starts_of,
)
from aimz.programs import as_key

__all__ = ["Laplace"]

_SAMPLES = 1000


@dataclass(frozen=True)
class Laplace(NormalFit):
    """Laplace's approximation: pass it as `inference=`, or its name "laplace".

    The mode on the unconstrained scale, found by a quasi-Newton search from several starts, and a
    normal whose precision is the exact curvature there (Tierney & Kadane, 1986). Good where the
    posterior is near normal, and said to be bad where draws of it, weighted by the posterior,
    say so.

    Parameters
    ----------
    starts : int
        Starts of the search: near zero, then draws of the prior and places far from zero.

    Raises
    ------
    InputError
        "settings": a number that cannot be.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel
    >>> from aimz.inference import Laplace
    >>> def kernel(X, y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> im = ImpactModel(kernel, inference=Laplace(), rng_key=0)
    >>> im = im.fit(np.zeros((4, 1)), np.full(4, 0.5), progress=False)
    >>> round(im.diagnostics_["log_evidence"], 2)  # exact, of a normal posterior
    -4.58
    """

    starts: int = 5

    name = "laplace"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_count("Laplace", "starts", self.starts, 1)

    def fit(
        self,
        rng_key: Seed,
        problem: Problem,
        settings: Settings,
        *,
        state: dict[str, Any] | None = None,
    ) -> Fit:
        """Find the mode and draw; see `Engine`."""
        key = as_key(rng_key)
        posterior = begun(self.name, problem, key, state)
        with Bar("search", None, shown=settings.progress):
            found = _minima(posterior, jax.random.fold_in(key, 1), self.starts, state)
        best = best_of(found, _log_evidence)
        covariance = inverse_of(best.curve.hessian)
        if covariance is None or not best.distance < ARRIVED:
            raise no_mode(best, posterior.names, "the mode")
        root = root_of(covariance, "the posterior")
        keys = [jax.random.fold_in(key, use) for use in (2, 3)]
        count = settings.num_samples or _SAMPLES
        judged = judged_normal(posterior, keys, best.point, root, count)
        check_draws(problem.spec.latents, judged.draws, self.name)
        attrs = {
            "engine": self.name,
            **_evidence(problem, best, judged.log_weights),
            **judged.report.attrs,
        }
        notes = [*param_notes(posterior.params), *judged.report.notes]
        rival = rival_of(best, found, _log_evidence)
        if rival > RIVAL:
            notes.append(modes_note(rival))
            attrs["verdict"] = "bad: modes"
        state = {"loc": best.point, "root": root, "params": posterior.params}
        return Fit(
            judged.draws, {}, {}, attrs, state, posterior.params, tuple(notes), judged.kept_weights
        )


def _minima(
    posterior: VectorPosterior, key: jax.Array, count: int, state: dict[str, Any] | None
) -> list[Minimum]:
    """Where the searches end, from all starts."""
    with jax.enable_x64(True):
        keys = jax.random.split(key, count)
    starts = posterior.call(starts_of, keys, has_prior=posterior.has_prior)
    if state is not None:
        starts = np.concatenate([state["loc"][None], starts])
    points = np.zeros(starts.shape[1])
    slope, curve = posterior.program(slope_at, points), posterior.program(curve_at, points)

    def slope_of(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = slope(point)
        return float(value), np.asarray(gradient)

    def curve_of(point: np.ndarray) -> Curve:
        value, gradient, hessian = curve(point)
        return Curve(float(value), np.asarray(gradient), np.asarray(hessian))

    with jax.enable_x64(True):
        found = [minimum_of(slope_of, curve_of, start) for start in starts]
    return [minimum for minimum in found if minimum is not None]


def _log_evidence(one: Minimum) -> float:
    """Log of the integral of the normal at a minimum; minus infinity where it is none."""
    if not one.distance < ARRIVED or inverse_of(one.curve.hessian) is None:
        return -math.inf
    dim = len(one.point)
    _, log_det = np.linalg.slogdet(one.curve.hessian)
    return float(-one.curve.value + 0.5 * (dim * math.log(2.0 * math.pi) - log_det))


def _evidence(problem: Problem, best: Minimum, log_weights: np.ndarray) -> dict[str, Any]:
    """The log evidence by its formula, and by weights; the error of the formula is not known."""
    absent = why_no_evidence(problem)
    if absent:
        return {"notes": [f"There is no evidence. {absent}"]}
    weighted, error = weighted_evidence(log_weights)
    return {
        "log_evidence": _log_evidence(best),
        "log_evidence_se": math.nan,
        "log_evidence_weighted": weighted,
        "log_evidence_weighted_se": error,
        "notes": [],
    }
