"""Nested sampling of a plain kernel, as an engine: the evidence by volumes of the prior."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from aimz.arrays import Seed
from aimz.errors import FitWarning, Note
from aimz.inference import health
from aimz.inference.binding import check_draws, param_notes
from aimz.inference.engine import Fit, Problem, Settings
from aimz.inference.evidence import why_no_evidence
from aimz.inference.progress import Bar
from aimz.inference.settings import check_count
from aimz.inference.terms import Terms
from aimz.inference.vector.posterior import VectorPosterior, begun, import_blackjax
from aimz.programs import as_key

__all__ = ["NestedSampling"]

_SAMPLES = 1000
# Slice moves for each new point and latent, and at least; below the first the evidence comes out
# too high (Blackjax, `nss`).
_MOVES, _LEAST_MOVES = 3, 10
# Spread of the log evidence over runs that is said: a factor of e, or beyond what volumes explain.
_MAX_SPREAD, _MAX_RATIO = 1.0, 2.5


@dataclass(frozen=True)
class NestedSampling:
    """Nested sampling: pass it as `inference=`, or its name "nested".

    Points of the prior are replaced, the least likely first, by others that are more likely, found
    by slices through the points that are left (Skilling, 2006; Yallup, Kroupa & Handley, 2026). It
    climbs in likelihood, not in temperature: a narrow spike that holds most of the evidence is no
    trap for it. It needs proper priors and takes more evaluations than `SMC`.

    Parameters
    ----------
    live : int
        Points of each run.
    moves : int, optional
        Slice moves for each new point; by default three for each latent number, at least ten.
    runs : int
        Independent runs, which tell the error of the evidence.

    Raises
    ------
    InputError
        "settings": a number that cannot be; "blackjax-missing".

    Examples
    --------
    >>> from aimz.inference import NestedSampling
    >>> NestedSampling(live=200).runs
    4
    """

    live: int = 400
    moves: int | None = None
    runs: int = 4

    name = "nested"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_count("NestedSampling", "live", self.live, 20)
        check_count("NestedSampling", "runs", self.runs, 1)
        if self.moves is not None:
            check_count("NestedSampling", "moves", self.moves, 1)

    def fit(
        self,
        rng_key: Seed,
        problem: Problem,
        settings: Settings,
        *,
        state: dict[str, Any] | None = None,
    ) -> Fit:
        """Run from the prior, or draw on from an earlier fit's points; see `Engine`."""
        import_blackjax("NestedSampling")
        from aimz.inference.vector.contours import climbed  # needs the extra

        key = as_key(rng_key)
        count = settings.num_samples or _SAMPLES
        posterior = begun(self.name, problem, key, state)
        if state is not None:
            notes = param_notes(posterior.params)
            before = Fit({}, {}, {}, dict(state["attrs"]), state, posterior.params, notes)
            return self.proceed(rng_key, problem, before, count)
        Terms(problem, posterior.params).check(self.name)
        with Bar("contours", None, shown=settings.progress) as bar:
            moves = self._moves(posterior)
            found = climbed(
                posterior, jax.random.fold_in(key, 1), self.runs, self.live, moves, bar.advance
            )
        kept: dict[str, Any] = {**found.state, "params": posterior.params, "rounds": 0}
        fit = self._drawn(posterior, jax.random.fold_in(key, 2), kept, count)
        check_draws(problem.spec.latents, fit.draws, self.name)
        attrs, notes = _judged(self, problem, found, fit)
        fit.state["attrs"] = attrs
        return replace(fit, attrs=attrs, notes=(*param_notes(posterior.params), *notes))

    def draw(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> Mapping[str, Any]:
        """More draws: points are chosen anew and moved on; see `Engine`."""
        return self.proceed(rng_key, problem, fit, num_samples).draws

    def proceed(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Fit:
        """More draws, and the state afterwards."""
        import_blackjax("NestedSampling")
        key = as_key(rng_key)
        posterior = VectorPosterior(self.name, problem, key, fit.state["params"])
        moved = self._drawn(posterior, jax.random.fold_in(key, 3), fit.state, num_samples)
        return fit.with_draws(moved.draws, state=moved.state)

    def _moves(self, posterior: VectorPosterior) -> int:
        return self.moves or max(_LEAST_MOVES, _MOVES * len(posterior.names))

    def _drawn(
        self, posterior: VectorPosterior, key: jax.Array, state: dict[str, Any], count: int
    ) -> Fit:
        """Draws of points by their weights, moved on so that none comes twice."""
        from aimz.inference.vector.contours import moved_points

        key = jax.random.fold_in(key, int(state["rounds"]))
        points = moved_points(posterior, key, state, count, self._moves(posterior))
        after = {**state, "rounds": state["rounds"] + 1}
        return Fit(posterior.draws(points), {}, {}, {}, after, posterior.params)


def _judged(
    settings: NestedSampling, problem: Problem, found: Any, fit: Fit
) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """The account of a fit and its health."""
    judged = health.judge_chains(fit.draws, {})
    attrs: dict[str, Any] = {
        "engine": settings.name,
        "sampler": "nested slice sampling",
        "chains": settings.runs,
        "live": settings.live,
        "contours": found.contours,
        "notes": [],
        **judged.attrs,
    }
    absent = why_no_evidence(problem)
    if absent:
        attrs["notes"] = [f"There is no evidence. {absent}"]
        return attrs, judged.notes
    logs = np.asarray(found.log_evidence, np.float64)
    runs = len(logs)
    by_volume = float(np.sqrt(np.mean(np.square(found.volume_sd))))
    spread = float(logs.std(ddof=1)) if runs > 1 else float("nan")
    attrs["log_evidence"] = float(np.logaddexp.reduce(logs) - np.log(runs))
    # Volumes are one source of error; that of points that have hardly moved shows between runs.
    attrs["log_evidence_se"] = float(np.fmax(spread, by_volume) / np.sqrt(runs))
    attrs["log_evidence_by_run"] = [float(value) for value in logs]
    attrs["log_evidence_volume_sd"] = by_volume
    if runs == 1:
        attrs["notes"] = ["Of one run only the error by volumes is known."]
    if spread > _MAX_SPREAD or spread > _MAX_RATIO * by_volume:
        message = (
            f"The log evidence differs by {spread:.2f} (standard deviation) between runs, where "
            f"volumes explain {by_volume:.2f}. Pass NestedSampling(moves=, live=) larger numbers."
        )
        attrs["verdict"] = "bad: evidence"
        return attrs, (*judged.notes, Note(FitWarning, message, "evidence"))
    return attrs, judged.notes
