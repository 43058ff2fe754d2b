"""Pathfinder of several paths, whose draws count by their weights, as an engine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from aimz.arrays import Seed
from aimz.inference import health
from aimz.inference.binding import check_draws, param_notes
from aimz.inference.engine import Draws, Fit, Problem, Settings
from aimz.inference.evidence import why_no_evidence
from aimz.inference.progress import Bar
from aimz.inference.settings import check_count
from aimz.inference.vector.normal_fit import weighted_evidence
from aimz.inference.vector.posterior import VectorPosterior, begun, import_blackjax
from aimz.programs import as_key

__all__ = ["Pathfinder"]

_SAMPLES = 1000
_POOL = 4  # draws that are weighted for each that is kept
_LEAST_POOL = 2000


@dataclass(frozen=True)
class Pathfinder:
    """Pathfinder of several paths: pass it as `inference=`, or its name "pathfinder".

    Quasi-Newton paths from several starts; on each the normal that is nearest to the posterior;
    draws of all of them, chosen by their smoothed importance weights (Zhang, Carpenter, Gelman &
    Vehtari, 2022). Pareto-k of the weights says whether that works: above its limit the fit is bad.

    Parameters
    ----------
    paths : int
        Paths, each from a start of its own.

    Raises
    ------
    InputError
        "settings": a number that cannot be; "blackjax-missing".

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel
    >>> from aimz.inference import Pathfinder
    >>> def kernel(X, y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> im = ImpactModel(kernel, inference=Pathfinder(paths=4), rng_key=0)
    >>> im = im.fit(np.zeros((4, 1)), np.full(4, 0.5), progress=False)
    >>> round(im.diagnostics_["log_evidence"], 1)  # -4.58 in closed form
    -4.6
    """

    paths: int = 8

    name = "pathfinder"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_count("Pathfinder", "paths", self.paths, 1)

    def fit(
        self,
        rng_key: Seed,
        problem: Problem,
        settings: Settings,
        *,
        state: dict[str, Any] | None = None,
    ) -> Fit:
        """Walk the paths and draw; see `Engine`."""
        import_blackjax("Pathfinder")
        from aimz.inference.vector.paths import walked_paths  # needs the extra

        key = as_key(rng_key)
        posterior = begun(self.name, problem, key, state)
        with Bar("paths", None, shown=settings.progress):
            paths = walked_paths(posterior, jax.random.fold_in(key, 1), self.paths)
        count = settings.num_samples or _SAMPLES
        draws, log_weights = _drawn(posterior, jax.random.fold_in(key, 2), paths, count)
        check_draws(problem.spec.latents, draws, self.name)
        # The draws are those of the weights: what they do not see is all that there is to doubt.
        judged = health.judge_shape(health.Evidence(log_weights, sees_tails=True))
        attrs = {"engine": self.name, "paths": self.paths, "notes": [], **judged.attrs}
        absent = why_no_evidence(problem)
        if absent:
            attrs["notes"] = [f"There is no evidence. {absent}"]
        elif judged.notes:
            attrs["log_evidence"] = attrs["log_evidence_se"] = math.nan
        else:
            found = weighted_evidence(log_weights)
            attrs["log_evidence"], attrs["log_evidence_se"] = found
        kept = {"normals": paths.normals, "unit": paths.unit, "params": posterior.params}
        notes = (*param_notes(posterior.params), *judged.notes)
        return Fit(draws, {}, {}, attrs, kept, posterior.params, notes)

    def draw(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> Mapping[str, Any]:
        """More draws of the paths, weighted anew; see `Engine`."""
        import_blackjax("Pathfinder")
        from aimz.inference.vector.paths import Paths

        key = jax.random.fold_in(as_key(rng_key), 3)
        state = fit.state
        posterior = VectorPosterior(self.name, problem, key, state["params"])
        return _drawn(posterior, key, Paths(state["normals"], state["unit"]), num_samples)[0]


def _drawn(
    posterior: VectorPosterior, key: jax.Array, paths: Any, count: int
) -> tuple[Draws, np.ndarray]:
    """Draws by their weights, (1, draw, ...), and all the weights."""
    from aimz.inference.vector.paths import pool_of

    each = -(-max(_POOL * count, _LEAST_POOL) // len(paths.normals["elbo"]))
    with jax.enable_x64(True):
        pool_key, key = jax.random.split(key)
    pool = pool_of(posterior, pool_key, paths, each)
    with jax.enable_x64(True):
        chosen = np.asarray(jax.random.categorical(key, pool.smoothed, shape=(count,)))
    return posterior.draws(pool.points[chosen][None]), pool.log_weights
