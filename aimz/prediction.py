"""From a request and a fit to a call: what one streamed result reuses, sets, draws and notes.

`prepare` is pure: it returns the call, its plan and its notes, and the shell runs and warns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from aimz.data import Arguments
from aimz.errors import PerformanceWarning
from aimz.execute import Call, Plan, plan_tiles
from aimz.inference import Fit, Note, Problem
from aimz.kernel import KernelSpec, SiteSpec
from aimz.randomness import call_words
from aimz.sampling import Task, density_spec, log_likelihood_block
from aimz.scenario import make_block, reused_draws, scenario_of

__all__ = ["Fitted", "Prepared", "Request", "account_of", "kernel_name", "more_draws", "prepare"]


@dataclass(frozen=True)
class Fitted:
    """What a fit left: draws and health, the kernel's structure, and a number for its rows."""

    fit: Fit
    spec: KernelSpec | None = None
    rows: int = 0
    fingerprint: int = 0
    row_shape: tuple[int, ...] | None = None
    labels: np.ndarray | None = None
    steps: int = 0
    problem: Problem | None = None  # in this process only: never saved


@dataclass(frozen=True)
class Request:
    """One streamed result: which program, over which draws, into which group."""

    program: Callable[..., Any]
    group: str
    tag: int
    fit: Fit
    num_draws: int
    sites: Callable[[KernelSpec], tuple[str, ...]]
    rng_key: Any = None
    in_sample: bool = True
    progress: bool = True
    intervention: Mapping[str, Any] | None = None
    condition: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to run, its grid, the words of its key, and what to tell the user."""

    call: Call
    plan: Plan
    words: tuple[int, int]
    notes: tuple[Note, ...]


def prepare(
    kernel: Callable[..., Any],
    request: Request,
    arguments: Arguments,
    spec: KernelSpec,
    key: jax.Array,
    *,
    fitted_rows: bool,
) -> Prepared:
    """Turn a request on some rows into a call.

    `fitted_rows` says whether these are the rows that latents of the posterior belong to.
    """
    scenario = scenario_of(spec, request.intervention, request.condition)
    draws, notes = reused_draws(
        spec,
        request.fit.draws,
        request.fit.params,
        scenario,
        fitted_rows=fitted_rows,
        in_sample=request.in_sample,
    )
    if spec.coupled:
        text = f"Rows are predicted together, not in tiles: {spec.reason}"
        notes = (*notes, Note(PerformanceWarning, text, "rows-coupled"))
    task = Task(
        kernel,
        spec,
        density_spec(spec) if request.program is log_likelihood_block else spec,
        dict(arguments.static),
        request.sites(spec),
        scenario.do,
        scenario.condition,
        tuple(scenario.functions.items()),
    )
    words = np.asarray(call_words(key))
    block = make_block(
        task,
        arguments,
        scenario,
        draws,
        request.fit.params,
        words=words,
        num_draws=request.num_draws,
    )
    plan = plan_tiles(spec, arguments.rows, request.num_draws)
    return Prepared(Call(request.program, task, block), plan, (int(words[0]), int(words[1])), notes)


def more_draws(
    engine: Any, key: jax.Array, problem: Problem | None, fit: Fit, num_samples: int
) -> Fit:
    """A fit with further draws: of a stepped state, of a guide, or of chains that continue."""
    if not fit.draws and hasattr(engine, "fit_of"):
        stepped: Fit = engine.fit_of(fit.state, key, problem, num_samples)
        return stepped
    if hasattr(engine, "proceed"):
        draws, state = engine.proceed(key, problem, fit, num_samples)
        return replace(fit, draws=dict(draws), state=state)
    return replace(fit, draws=dict(engine.draw(key, problem, fit, num_samples)))


def account_of(fitted: Fitted) -> dict[str, Any]:
    """Account of a fit in plain Python values."""
    account: dict[str, Any] = {
        "rows": fitted.rows,
        "posterior": {name: tuple(np.shape(v)) for name, v in fitted.fit.draws.items()},
        "health": dict(fitted.fit.attrs),
    }
    if fitted.spec is not None:
        account["coupled"] = fitted.spec.reason or False
        account["sites"] = {site.name: _site_account(site) for site in fitted.spec.sites}
    return account


def kernel_name(kernel: Any) -> str:
    """Module and qualified name of a kernel."""
    module = getattr(kernel, "__module__", "")
    return f"{module}.{getattr(kernel, '__qualname__', type(kernel).__name__)}"


def _site_account(site: SiteSpec) -> dict[str, Any]:
    return {
        "kind": site.kind,
        "rows": site.rows,
        "shape": tuple(site.shape),
        "plates": list(site.plates),
        "parents": sorted(site.parents),
    }
