"""Stochastic variational inference: the default guide, or any NumPyro `SVI` object.

Each program is traced with private copies of guide and model made inside it, set up with the same
key: none of them outlives a trace, so a fit can see nothing that was fitted before. What the
set-up computes beyond that is unused, and the compiler removes it.
"""

import importlib.util
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer import SVI
from numpyro.infer.svi import SVIRunResult, SVIState

from aimz.arrays import Array, Seed
from aimz.errors import FitWarning, InputError, KernelValidationError, Note
from aimz.inference import health
from aimz.inference.binding import (
    RowScale,
    check_draws,
    check_weights,
    initial_variables,
    is_read_by_window,
    marginal_of,
    moving_supports,
    rows_in_order,
    why_whole,
)
from aimz.inference.density import energy_of
from aimz.inference.engine import Course, Draws, Fit, Problem, Settings
from aimz.inference.normal import REFINED_DIM, WhitenedNormal, find_start, numbers_of
from aimz.inference.progress import Bar
from aimz.inference.svi.course import (
    BATCH_ROWS,
    CHUNK,
    Batches,
    Phase,
    Plan,
    Source,
    interrupted_note,
    plan_fit,
    run_phases,
)
from aimz.inference.svi.guides import guide_name, is_point, knows_no_rows, sample_guide
from aimz.inference.svi.shards import check_shards, on_one_device
from aimz.inference.svi.steps import advance_by_chunks, chunk_compiled, step_program
from aimz.inference.svi.surroundings import log_weights, look_around, weighed_draws
from aimz.inference.svi.task import STEP_RATE, SVIRecord, Task, empty_guide
from aimz.inference.svi.windows import Windows, batches_at_once
from aimz.programs import TRACE_LOCK, as_key

__all__ = ["SVIEngine", "learned_place"]


_RATES = (0.05, 0.01, 0.002)
# Dimensions up to which a full-rank guide takes them as they are.
_SMALL_DIM = 16
_DRAWS = 1000
# Rows, at most, whose gradients the last step takes at once.
_REFINED_ROWS = 2**20


class SVIEngine:
    """Fit by stochastic variational inference.

    Parameters
    ----------
    kernel : callable
        The model's kernel.
    given : SVI, optional
        A NumPyro `SVI` object for that kernel; it is copied for each fit and never changed.
        Without one, a normal guide (full-rank up to 200 dimensions, mean-field above) is learned
        in coordinates scaled by the posterior's own curvature.
    """

    name = "svi"

    def __init__(self, kernel: Callable[..., Any], given: SVI | None = None) -> None:
        if given is not None and given.model is not kernel:
            raise KernelValidationError(
                "The SVI object was made for another kernel than this model's. It would fit "
                "something else than predictions use. Pass the same function to SVI and to "
                "ImpactModel.",
                code="inference-kernel",
            )
        self.kernel = kernel
        self.given = given

    @property
    def guide_name(self) -> str:
        """Name of the guide, for results."""
        return "normal" if self.given is None else guide_name(self.given.guide)

    def fit(
        self,
        rng_key: Seed,
        problem: Problem,
        settings: Settings,
        *,
        state: SVIRecord | None = None,
    ) -> Fit:
        """Fit on whole data or minibatches; see `Engine`."""
        plan = plan_fit(problem, settings)
        task = self._task(problem, None if plan.is_whole else plan.batch)
        check_shards(task, plan)
        begin_key, order_key, draw_key = jax.random.split(as_key(rng_key), 3)
        with Bar("fit", None, shown=settings.progress):
            record = state if state is not None else _begin(begin_key, task, plan.batch)
        record, course = _train(order_key, task, plan, settings, record)
        if not (plan.is_whole or course.interrupted):
            record = _refined(jax.random.fold_in(draw_key, 1), task, record)
        num_samples = _DRAWS if settings.num_samples is None else settings.num_samples
        absent = _why_unweighed(task)
        finished = _finish(draw_key, task, record, num_samples, weigh=not absent)
        losses = np.concatenate(course.losses).astype(np.float64)
        looked = finished.keys() & {"log_weights", "sections", "values", "sites", "numbers"}
        evidence = health.Evidence(**{name: finished[name] for name in looked}, absent=absent)
        explicit = plan.steps is not None
        judged = health.judge_svi(losses, evidence, explicit=explicit, settled=course.settled)
        judged = _with_modes(_with_points(judged, finished["draws"]), record)
        bad = (interrupted_note(record.steps),) if course.interrupted else judged.notes
        attrs = {
            **self._attrs(record),
            **judged.attrs,
            "batch_size": plan.batch,
            "interrupted": course.interrupted,
            "notes": _account(plan, absent, task),
        }
        fit = Fit(finished["draws"], {}, {"loss": losses}, attrs, record, finished["params"])
        weights = health.told_weights(finished.get("own_weights"))
        return replace(fit, notes=(*plan.notes, *bad), log_weights=weights)

    def draw(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Draws:
        """More draws from the fitted guide; see `Engine`."""
        task = self._task(problem, min(BATCH_ROWS, problem.inputs.rows))
        draws: Draws = _finish(as_key(rng_key), task, fit.state, num_samples)["draws"]
        return draws

    def weighed(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> tuple[Draws, np.ndarray]:
        """Fresh draws of the guide, and log p - log q of each; see `WeighingEngine`."""
        task = self._task(problem)
        absent = _why_unweighed(task)
        if absent:
            msg = f"The guide cannot be weighed: {absent}. Compare with inference='nuts'."
            raise InputError(msg, code="no-weights")
        return _weighed(as_key(rng_key), task, fit.state, num_samples)

    def step(
        self, rng_key: Seed, problem: Problem, state: SVIRecord | None = None
    ) -> tuple[SVIRecord, float]:
        """One step on the rows of `problem`: the new state, and the loss before the step."""
        task = self._task(problem)
        rows = problem.inputs.rows
        record = _begin(as_key(rng_key), task, rows) if state is None else state
        course = Course(record.svi)
        one = Phase(1, 1, 1, STEP_RATE if self.given is None else None)
        advance = advance_by_chunks(task, Plan(rows, rows, 1, shuffle=False), record, step_program)
        losses = advance(course, None, np.arange(CHUNK) < 1, one)()
        return record._replace(svi=course.state, steps=record.steps + 1), float(losses[0])

    def fit_of(
        self, state: SVIRecord, rng_key: Seed, problem: Problem, num_samples: int = _DRAWS
    ) -> Fit:
        """The fit that a stepped state stands for, with draws; its health is not judged."""
        finished = _finish(as_key(rng_key), self._task(problem), state, num_samples)
        return Fit(finished["draws"], {}, {}, self._attrs(state), state, finished["params"])

    def vi_result(self, fit: Fit) -> SVIRunResult:
        """NumPyro's own record of a fit: parameters, state and losses."""
        if fit.state is None:
            msg = "The draws of this model were set, so that it has no vi_result. Call fit first."
            raise InputError(msg, code="vi-result")
        losses = jnp.asarray(fit.trace.get("loss", ()))
        state = fit.state.svi
        return SVIRunResult(self._constrained(fit.state), state, losses)

    def fitted_object(self, fit: Fit, problem: Problem | None) -> SVI:
        """A NumPyro `SVI` object whose guide has seen the data, for the states of `vi_result`."""
        if problem is None or fit.state is None:
            msg = (
                "A guide is set up by the data of the fit, which this model does not hold: it was "
                "loaded, or its draws were set. Fit again."
            )
            raise InputError(msg, code="no-data")
        task, record = self._task(problem), fit.state
        with TRACE_LOCK:
            fixed = (record.setup_key, record.start)
            return task.set_up(problem.inputs.rows, fixed, task.kwargs(problem.inputs.arrays))

    def fit_from(self, rng_key: Seed, result: SVIRunResult, num_samples: int | None = None) -> Fit:
        """The fit that a run of the user's own `SVI` object stands for, with draws.

        The guide must have been set up by that run; it is read, never changed.
        """
        if self.given is None:
            raise InputError(
                "The default engine has no guide to read a vi_result with. Its parameters have no "
                "names there. Pass the SVI object that made the result as inference=.",
                code="vi-result",
            )
        count = _DRAWS if num_samples is None else num_samples
        values = sample_guide(self.given, as_key(rng_key), result.params, count, {})
        draws = {n: np.asarray(v)[None] for n, v in values.items() if not n.startswith("_")}
        params = {**result.params, **(getattr(result.state, "mutable_state", None) or {})}
        attrs = {"engine": self.name, "guide": self.guide_name, "steps": len(result.losses)}
        trace = {"loss": np.asarray(result.losses, np.float64)}
        return Fit(draws, {}, trace, attrs, None, params)

    def _attrs(self, record: SVIRecord) -> dict[str, Any]:
        return {
            "engine": SVIEngine.name,
            "guide": self.guide_name,
            "steps": int(record.steps),
        }

    def _constrained(self, record: SVIRecord) -> dict[str, Any]:
        """Parameters of guide and kernel, on their own scales where the object knows them."""
        if self.given is not None:
            params: dict[str, Any] = self.given.optim.get_params(record.svi.optim_state)
            constrain = self.given.constrain_fn
            return params if constrain is None else constrain(params)
        _, (params, _) = record.svi.optim_state
        return dict(params)

    def _task(self, problem: Problem, head: int | None = None) -> "Task":
        """The problem, checked, with what the programs need to know of it.

        Where its rows are too many to be held, and the guide does not ask for them, so many of them
        stand for all.
        """
        check_weights(problem)
        can_enumerate = self.given is not None and self.given.loss.can_infer_discrete
        can_enumerate = can_enumerate and importlib.util.find_spec("funsor") is not None
        for name in problem.spec.latents:
            if problem.spec[name].discrete and not can_enumerate:
                raise KernelValidationError(
                    f"Latent site '{name}' is discrete and variational inference cannot draw it. "
                    f"{marginal_of(problem.spec[name])}",
                    code="enumerated",
                )
        moving = moving_supports(problem) if self.given is None else []
        if moving:
            raise KernelValidationError(
                f"The support of '{moving[0]}' depends on another latent, which the default guide "
                "cannot follow. Use inference='nuts', or write the site as a scaled base variable.",
                code="moving-support",
            )
        if head is None or not is_read_by_window(problem):
            return Task(problem, self.given)
        knows_all = self.given is not None and not knows_no_rows(self.given.guide)
        return Task(problem, self.given, None if knows_all else head)


def learned_place(record: SVIRecord) -> dict[str, Any] | None:
    """Where the default guide is, for chains to start from: its centre and full-rank scale."""
    if record.start is None or record.start["scale"].ndim == 1:
        return None
    _, (params, _) = record.svi.optim_state
    guide = WhitenedNormal(empty_guide, record.start)
    loc, scale = guide.affine(*(params[f"{guide.prefix}_{name}"] for name in ("mu", "scale")))
    return {"loc": loc, "scale": scale, "starts": loc[None]}


def _begin(rng_key: jax.Array, task: Task, rows: int) -> SVIRecord:
    """The state before the first step."""
    problem = task.problem
    setup_key, start_key = jax.random.split(rng_key)
    index = None if rows == problem.inputs.rows else np.arange(rows, dtype=np.int32)
    place: dict[str, Any] | None = None
    values: dict[str, Any] = {}
    informed, rival = False, 0.0
    if task.given is None and problem.spec.latents:
        start = find_start(problem, setup_key, start_key, task.version)
        place, values, informed, rival, *_ = start

    def begin(
        setup_key: jax.Array,
        place: dict[str, Any] | None,
        values: dict[str, Any],
        arrays: dict[str, Any],
    ) -> Any:
        svi = task.svi(rows, place)
        return svi.init(setup_key, init_params=values or None, **task.kwargs(arrays, index))

    arguments = (setup_key, place, values, task.arrays)
    state = task.program(begin, *arguments, beside=(rows,))(*arguments)
    return SVIRecord(state, setup_key, place, 0, informed, rival)


def _train(
    rng_key: jax.Array, task: Task, plan: Plan, settings: Settings, record: SVIRecord
) -> tuple[SVIRecord, Course]:
    """Run the plan's steps from a state."""
    source: Source | None = None
    order_key = jax.random.fold_in(rng_key, record.steps)
    if task.head is not None:
        source = Windows(plan, order_key, task.problem)
    elif not plan.is_whole:
        source = Batches(plan, order_key, _batches_at_once(task, plan))
    course = Course(record.svi)
    advance = advance_by_chunks(task, plan, record, chunk_compiled)
    run_phases(advance, course, _phases(task, plan, record), source, progress=settings.progress)
    state = on_one_device(course.state) if plan.shards else course.state
    if course.averaged and not task.is_mutable:
        mean = jax.tree.map(lambda total: _mean(total, course.averaged), course.total)
        count, (_, inner) = state.optim_state
        state = state._replace(optim_state=(count, (mean, inner)))
    return record._replace(svi=state, steps=record.steps + course.steps), course


def _batches_at_once(task: Task, plan: Plan) -> int:
    """Steps that are taken together: of shards, whose rows go to their devices, as many as fit."""
    if not plan.shards:
        return CHUNK
    leaves = jax.tree.leaves(rows_in_order(task.problem))
    return batches_at_once(plan.batch * sum(leaf[:1].nbytes for leaf in leaves))


def _mean(total: np.ndarray, count: int) -> jax.Array:
    """The mean of so many, as XLA divides by one number: nothing is compiled for it."""
    return jnp.asarray(total * np.reciprocal(total.dtype.type(count)))


def _refined(rng_key: jax.Array, task: Task, record: SVIRecord) -> SVIRecord:
    """The state with a guide that all rows have had their say in, where that is affordable."""
    problem = task.problem
    is_wanted = health.WEIGH_ROWS < problem.inputs.rows <= _REFINED_ROWS
    place = learned_place(record)
    is_wanted &= task.head is None
    if place is None or not is_wanted or task.is_mutable or task.is_subsampled:
        return record
    if place["loc"].size > REFINED_DIM:
        return record
    count, (params, inner) = record.svi.optim_state

    def refine(
        key: jax.Array,
        params: dict[str, Any],
        fixed: tuple[jax.Array, dict[str, Any] | None],
        arrays: dict[str, Any],
        weights: Array | None,
    ) -> Any:
        kwargs = task.kwargs(arrays)
        svi = task.set_up(problem.inputs.rows, fixed, kwargs)
        kernel = handlers.substitute(handlers.seed(svi.model, 0), params)
        energy = energy_of(problem, kernel, kwargs, svi.guide)

        def log_density(point: jax.Array) -> Any:
            with RowScale(problem, {}, weights):
                return -energy(point)

        return svi.guide.refined(jax.grad(log_density), params, key)

    fixed = (record.setup_key, record.start)
    arguments = (rng_key, params, fixed, task.arrays, task.weights)
    better = task.program(refine, *arguments, beside=())(*arguments)
    return record._replace(svi=record.svi._replace(optim_state=(count, (better, inner))))


def _phases(task: Task, plan: Plan, record: SVIRecord) -> list[Phase]:
    """Step sizes and stopping rules of a fit."""
    epoch = 0 if plan.is_whole else min(-(-plan.rows // plan.batch), 2000)
    if task.given is not None:
        return [Phase(plan.steps, max(500, epoch), max(20_000, 10 * epoch))]
    # Adam moves every entry of a matrix by its rate: noise grows with the root of a row's length.
    shape: tuple[int, ...] = () if record.start is None else record.start["scale"].shape
    slower = min(1.0, math.sqrt(_SMALL_DIM / shape[0])) if len(shape) > 1 else 1.0
    rates = [slower * rate for rate in _RATES]
    last = rates[-1]
    if plan.steps is None:
        slow = 1 if record.informed else 4
        window, most = max(100 * slow, epoch), max(5000 * slow, 10 * epoch)
        return [Phase(None, window, most, rate, rate == last) for rate in rates]
    ends = [round(plan.steps * share) for share in (0.0, 0.4, 0.7, 1.0)]
    counts = [end - begin for begin, end in itertools.pairwise(ends)]
    phases = zip(counts, rates, strict=True)
    return [Phase(n, 1, n, rate, rate == last) for n, rate in phases if n]


def _finish(
    rng_key: jax.Array, task: Task, record: SVIRecord, num_samples: int, *, weigh: bool = False
) -> dict[str, Any]:
    """Draws of the latent sites, the kernel's parameters and, if asked, log p - log q."""
    problem = task.problem
    latents = problem.spec.latents

    def finish(
        keys: tuple[jax.Array, ...],
        state: SVIState,
        fixed: tuple[jax.Array, dict[str, Any] | None],
        arrays: dict[str, Any],
        weights: Array | None,
    ) -> Any:
        kwargs = task.kwargs(arrays)
        svi = task.set_up(task.rows, fixed, kwargs)
        params = {**svi.get_params(state), **(state.mutable_state or {})}
        draw_key, *look_keys = keys
        kernel_params = initial_variables(problem, fixed[0], arrays, task.head)
        finished = {
            "draws": {},
            "params": {name: params[name] for name in kernel_params if name in params},
        }
        if latents:
            if task.given is None:
                values = svi.guide.sample_at(draw_key, params)
            else:
                values = sample_guide(svi, draw_key, params, num_samples, kwargs)
            finished["draws"] = {name: values[name] for name in latents if name in values}
        if weigh:
            look = look_around if task.given is None else log_weights
            finished |= look(look_keys, draw_key, problem, svi, params, kwargs, weights)
        return finished

    fixed = (record.setup_key, record.start)
    # Keys are made outside: what makes them is compiled once for all kernels.
    draw_key, look_key = jax.random.split(rng_key)
    if task.given is None and latents:
        draw_key = jax.random.split(draw_key, num_samples)
    keys = (draw_key, look_key, jax.random.fold_in(look_key, 1)) if weigh else (draw_key,)
    arguments = (keys, record.svi, fixed, task.arrays, task.weights)
    program = task.program(finish, *arguments, beside=(num_samples, weigh, task.head))
    finished: dict[str, Any] = dict(program(*arguments))
    check_draws(latents, finished["draws"], SVIEngine.name)
    finished["draws"] = {name: np.asarray(value)[None] for name, value in finished["draws"].items()}
    for name in finished.keys() & {"log_weights", "sections", "values", "own_weights"}:
        finished[name] = np.asarray(finished[name])
    if "values" in finished:
        finished["numbers"] = numbers_of({n: v.shape[2:] for n, v in finished["draws"].items()})
    if "sections" in finished:
        names = sorted(finished["draws"])
        finished["sites"] = [names[number] for number in np.asarray(finished["sites"])]
    return finished


def _weighed(
    rng_key: jax.Array, task: Task, record: SVIRecord, count: int
) -> tuple[Draws, np.ndarray]:
    """Draws, (1, draw, ...), and log p - log q of each."""
    problem = task.problem

    def weigh(
        key: jax.Array,
        state: SVIState,
        fixed: tuple[jax.Array, dict[str, Any] | None],
        arrays: dict[str, Any],
        weights: Array | None,
    ) -> Any:
        kwargs = task.kwargs(arrays)
        svi = task.set_up(problem.inputs.rows, fixed, kwargs)
        params = {**svi.get_params(state), **(state.mutable_state or {})}
        return weighed_draws(key, count, problem, svi, params, kwargs, weights)

    fixed = (record.setup_key, record.start)
    arguments = (rng_key, record.svi, fixed, task.arrays, task.weights)
    logs, values = task.program(weigh, *arguments, beside=(count,))(*arguments)
    return {name: np.asarray(value)[None] for name, value in values.items()}, np.asarray(logs)


def _why_unweighed(task: Task) -> str:
    """Why the guide's shape cannot be looked at; empty where it can."""
    problem = task.problem
    most = health.WEIGH_ROWS if why_whole(problem) else health.GLANCE_ROWS
    if problem.inputs.rows > most:
        return f"more than {most:,} rows"
    if task.head is not None:
        return "more bytes of rows than memory should hold"
    if not problem.spec.latents:
        return "no latents"
    if any(problem.spec[name].discrete for name in problem.spec.latents):
        return "discrete latents are summed out"
    if task.is_mutable or task.is_subsampled:
        return "the kernel's density is random"
    if task.given is not None and is_point(task.given.guide):
        return "the guide is a point while it is trained"
    return ""


def _with_modes(judged: health.Health, record: SVIRecord) -> health.Health:
    """Health that also says that there is another mode."""
    if not record.rival:
        return judged
    note = Note(
        FitWarning,
        f"The posterior has another mode, with about {record.rival:.0%} of the evidence, and the "
        "guide describes one. Tell the modes apart by priors or constraints, or use a mixture.",
        "modes",
    )
    return health.Health(judged.attrs | {"verdict": "bad: modes"}, (*judged.notes, note))


def _with_points(judged: health.Health, draws: Draws) -> health.Health:
    """Health that also says which sites are points."""
    still = health.still_sites(draws)
    if not still:
        return judged
    note = Note(
        FitWarning,
        f"All draws of '{still[0]}' are the same: the guide gives a point, so intervals have no "
        "width. Use a guide with a spread, or inference='nuts'.",
        "no-intervals",
    )
    return health.Health(judged.attrs | {"verdict": "bad: no-intervals"}, (*judged.notes, note))


def _account(plan: Plan, absent: str, task: Task) -> list[str]:
    """What was done on the user's behalf, and what was not, in sentences."""
    said = []
    if absent.startswith("more"):
        said.append(f"The guide's shape was not looked at: there are {absent}.")
    if task.head is not None:
        how = "by blocks in a random order" if plan.shuffle else "in their order"
        said.append(f"The rows of batches were read from a file, {how}.")
        said += ["No step was taken on all rows."] if plan.rows <= _REFINED_ROWS else []
    part = "shard" if plan.shards else "batch"
    said += [f"Each batch was cut into {plan.shards} shards."] if plan.shards else []
    said += [
        f"Each {part} counts the rows of {n} {f:g} times."
        for n, f in plan.factors.items()
        if f != 1.0
    ]
    return said
