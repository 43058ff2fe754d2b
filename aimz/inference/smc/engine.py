"""Adaptive tempered sequential Monte Carlo of a plain kernel, as an engine.

Particles start as draws of the prior, and the likelihood is let in by degrees (Del Moral, Doucet
& Jasra, 2006): each temperature is as far as an effective sample size allows (Jasra et al., 2011).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from aimz.arrays import Seed
from aimz.errors import FitWarning, InputError, Note
from aimz.inference import health
from aimz.inference.binding import check_draws, check_weights, fixed_params, param_notes
from aimz.inference.engine import Draws, Fit, Problem, Settings
from aimz.inference.evidence import why_no_evidence
from aimz.inference.progress import Bar
from aimz.inference.settings import check_count, check_probability
from aimz.inference.smc.steps import check_steps
from aimz.programs import as_key

__all__ = ["SMC"]


_SAMPLES = 1000
# Spread of the log evidence over runs that is said: a factor of e in a Bayes factor.
_MAX_SPREAD = 1.0


@dataclass(frozen=True)
class SMC:
    """Sequential Monte Carlo: pass it as `inference=`.

    It needs no gradient and no tuning, explores separate modes, and gives the evidence. The latents
    are moved site by site, members of a plate accepted one by one, and finite discrete latents are
    drawn from their full conditionals.

    Parameters
    ----------
    particles : int
        Particles of each run.
    steps : dict, optional
        For a site, or a tuple of sites that are to move together: "rwm" (random walk), "mala",
        "elliptical" (of normal priors), "enumerate" (of discrete sites), or a function from a log
        density to an algorithm of Blackjax, such as
        ``lambda density: blackjax.nuts(density, 0.5, numpy.ones(3))``, which sees the block's
        numbers in units of their spread. By default each site walks on its own, in members that
        are accepted one by one, and discrete ones are enumerated.
    mutations : int
        Sweeps over all sites at each temperature.
    runs : int
        Independent runs, which tell the error of the evidence.
    target_ess : float
        Effective share of the particles at which the next temperature is set, between 0 and 1.

    Raises
    ------
    InputError
        "settings": a number that cannot be.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel
    >>> from aimz.inference import SMC
    >>> def kernel(X, y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> im = ImpactModel(kernel, inference=SMC(particles=500), rng_key=0)
    >>> im = im.fit(np.zeros((4, 1)), np.full(4, 0.5), progress=False)
    >>> round(im.diagnostics_["log_evidence"], 1)  # -4.58 in closed form
    -4.6
    """

    particles: int = 1000
    steps: Mapping[Any, Any] | None = None
    mutations: int = 20
    runs: int = 4
    target_ess: float = 0.5

    name = "smc"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for setting, least in (("particles", 10), ("mutations", 1), ("runs", 1)):
            check_count("SMC", setting, getattr(self, setting), least)
        check_steps(self.steps)
        check_probability("SMC", "target_ess", self.target_ess)

    def fit(self, rng_key: Seed, problem: Problem, settings: Settings, *, state: Any = None) -> Fit:
        """Run from the prior, or go on from an earlier fit's particles; see `Engine`."""
        check_weights(problem)
        count = settings.num_samples or _SAMPLES
        key = as_key(rng_key)
        if state is not None:
            notes = param_notes(state["params"])
            before = Fit({}, {}, {}, dict(state["attrs"]), state, state["params"], notes)
            return self.proceed(key, problem, before, count)
        run = _run_of(self, problem, fixed_params(problem, key))
        with Bar("temperatures", None, shown=settings.progress) as bar:
            course = run.from_the_prior(key, bar.advance)
        draws, particles = run.drawn(jax.random.fold_in(key, 1), course.particles, course, count)
        check_draws(problem.spec.latents, draws, self.name)
        attrs, notes = _judged(self, course, draws, why_no_evidence(problem))
        state = course.state(particles, attrs)
        return Fit(draws, {}, {}, attrs, state, run.params, (*param_notes(run.params), *notes))

    def draw(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> Mapping[str, Any]:
        """More draws: the particles are moved on; see `Engine`."""
        return self.proceed(rng_key, problem, fit, num_samples).draws

    def proceed(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Fit:
        """More draws, and the particles afterwards."""
        run = _run_of(self, problem, fit.state["params"])
        key = jax.random.fold_in(as_key(rng_key), fit.state["rounds"])
        draws, state = run.proceeded(key, fit.state, num_samples)
        return fit.with_draws(draws, state=state)


def _run_of(settings: SMC, problem: Problem, params: dict[str, Any]) -> Any:
    try:
        from aimz.inference.smc.run import Run  # needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "blackjax":
            raise
        msg = "SMC needs Blackjax, which is not installed. Run: pip install 'blackjax>=1.7'"
        raise InputError(msg, code="blackjax-missing") from error
    return Run(settings, problem, params)


def _judged(
    settings: SMC, course: Any, draws: Draws, no_evidence: str
) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """The account of a fit and its health."""
    evidence = np.asarray(course.log_evidence, np.float64)
    judged = health.judge_chains(draws, {})
    runs = len(evidence)
    spread = float(evidence.std(ddof=1)) if runs > 1 else float("nan")
    attrs = {
        "engine": settings.name,
        "sampler": "tempered SMC",
        "chains": runs,
        "particles": settings.particles,
        "temperatures": len(course.temperatures),
        "ladder": [float(np.mean(value)) for value in course.temperatures],
        "acceptance": [float(np.mean(value)) for value in course.acceptance],
        "ess": [float(np.min(value)) for value in course.ess],
        "notes": [f"There is no evidence. {no_evidence}"] if no_evidence else [],
        **judged.attrs,
    }
    notes = judged.notes
    if no_evidence:
        return attrs, notes
    attrs["log_evidence"] = float(np.logaddexp.reduce(evidence) - np.log(runs))
    # A few runs agree by chance: their error is no less than what weights of each step explain.
    by_weights = np.sum(1.0 / np.stack(course.ess) - 1.0 / settings.particles, axis=0)
    error = np.maximum(spread, np.sqrt(np.mean(by_weights)))  # not a number, of one run
    attrs["log_evidence_se"] = float(error / np.sqrt(runs))
    attrs["log_evidence_by_run"] = [float(value) for value in evidence]
    attrs["log_evidence_increments"] = np.stack(course.increments, axis=1).tolist()
    attrs["ladder_by_run"] = np.stack(course.temperatures, axis=1).tolist()
    if spread > _MAX_SPREAD:
        message = (
            f"The log evidence differs by {spread:.1f} (standard deviation) between runs: a Bayes "
            "factor of it means little. Pass SMC(particles=, mutations=) larger numbers."
        )
        notes = (*notes, Note(FitWarning, message, "evidence"))
        attrs["verdict"] = "bad: evidence"
    return attrs, notes
