"""Steps, batches and when to stop.

A fit is a stream of batches cut one after another from random permutations of the rows, so every
row is used equally often whatever the batch size: a batch may hold the end of one pass and the
beginning of the next, and none is short or dropped. Steps run as `lax.scan` over chunks.

Without a number of steps or epochs, training goes on until the loss has reached a plateau: over
the last two windows of steps the loss fell by less than its own noise allows to see, or by less
than 0.01 nats. The default engine does so at three decreasing step sizes (at least 2 windows of
100 steps and at most 5,000 steps each; 4 times that from a start that knows nothing) and averages
the last; a user's `SVI` is run for at least 2 windows of 500 steps, at most 20,000 steps. With
minibatches a window is at least one epoch, up to 2,000 steps.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from aimz.errors import AimzError, FitWarning, InputError, Note, PerformanceWarning
from aimz.inference.binding import as_seed, row_factors, why_whole
from aimz.inference.engine import Course, Problem, Settings
from aimz.inference.progress import Bar

__all__ = [
    "BATCH_ROWS",
    "CHUNK",
    "Advance",
    "Batches",
    "Phase",
    "Plan",
    "Rows",
    "Source",
    "has_settled",
    "interrupted_note",
    "plan_fit",
    "run_phases",
]


CHUNK = 50
WHOLE_ROWS = 8192
BATCH_ROWS = 1024
#: Steps on the whole data as one batch.
WHOLE_STEPS = 10_000
#: Nats that a window may still gain when the loss counts as settled.
SETTLED_NATS = 0.01


@dataclass(frozen=True)
class Plan:
    """What is done at each step and when it ends. `steps` None: until the loss has settled.

    `factors` say how often a batch, or where it is cut into `shards` each of them, counts its rows,
    by site.
    """

    rows: int
    batch: int
    steps: int | None
    shuffle: bool
    notes: tuple[Note, ...] = ()
    factors: Mapping[str, float] = field(default_factory=dict)
    shards: int = 0

    @property
    def rows_of_shard(self) -> int:
        """Rows whose gradients are taken together."""
        return self.batch // max(1, self.shards)

    @property
    def is_whole(self) -> bool:
        """Whether each step sees all rows."""
        return self.batch == self.rows


@dataclass(frozen=True)
class Phase:
    """Steps at one step size; `steps` is exact, or else the least and most are."""

    steps: int | None
    window: int
    most: int
    rate: float | None = None
    average: bool = False


class Rows(NamedTuple):
    """The rows of a chunk of batches: their numbers, (step, row), among those of the arrays.

    `arrays` and `weights` are theirs alone; None where the numbers are of all rows.
    """

    numbers: np.ndarray
    arrays: dict[str, Any] | None = None
    weights: np.ndarray | None = None


class Source(Protocol):
    """Rows of one batch after another, endlessly; `size` batches at once, at most."""

    size: int

    def chunk(self, count: int) -> Rows:
        """The next `count` batches, padded to `size` with the last of them."""

    def prepare(self, count: int) -> None:
        """Have the rows of so many batches ready."""


class Advance(Protocol):
    """What begins a chunk of steps of a course, and returns what waits for their losses."""

    def __call__(
        self, course: Course, rows: Rows | None, active: np.ndarray, phase: Phase, /
    ) -> Callable[[], np.ndarray]:
        """Begin them."""


def plan_fit(problem: Problem, settings: Settings) -> Plan:
    """Decide the batches and the number of steps."""
    rows = problem.inputs.rows
    _check_positive(settings)
    reason = why_whole(problem)
    asked = settings.batch_size
    if settings.whole or settings.num_steps is not None or reason:
        batch = rows
    elif asked is None:
        batch = rows if rows <= WHOLE_ROWS else BATCH_ROWS
    else:
        batch = min(asked, rows)
    shards = settings.num_shards or 0
    if shards:
        _check_divides(shards, batch, rows, reason)
    factors = row_factors(problem, batch // max(1, shards))
    if factors is None:
        reason = "The kernel scales its sites by what follows the size of a batch."
        if shards:
            raise _no_shards(shards, reason)
        batch, factors = rows, {}
    notes: list[Note] = []
    if reason and asked is not None and asked < rows and not settings.whole:
        message = f"{reason} All {rows} rows are fitted at once; batch_size={asked} is not used."
        notes.append(Note(PerformanceWarning, message, "fit-whole"))
    steps = settings.num_steps
    if steps is None and settings.whole:
        steps = WHOLE_STEPS
    if steps is None and settings.epochs is not None:
        steps = math.ceil(settings.epochs * rows / batch)
    return Plan(rows, batch, steps, settings.shuffle, tuple(notes), factors, shards)


class Batches:
    """Row numbers of one batch after another, endlessly.

    Parameters
    ----------
    plan : Plan
        How many rows there are and are in a batch, and whether they are shuffled.
    rng_key : jax.Array
        What their order follows from.
    size : int
        Batches at once, at most.
    """

    def __init__(self, plan: Plan, rng_key: jax.Array, size: int = CHUNK) -> None:
        self.plan, self.size = plan, size
        seed = np.random.SeedSequence(as_seed(rng_key))
        self._generator = np.random.Generator(np.random.Philox(seed))
        self._waiting = np.empty(0, np.int32)

    def chunk(self, count: int) -> Rows:
        """The next `count` batches, padded to a chunk with the last of them."""
        self.prepare(count)
        size = count * self.plan.batch
        rows, self._waiting = self._waiting[:size], self._waiting[size:]
        rows = rows.reshape(count, -1)
        return Rows(np.concatenate([rows, *[rows[-1:]] * (self.size - count)]))

    def prepare(self, count: int) -> None:
        """Have the rows of so many batches ready."""
        missing = count * self.plan.batch - len(self._waiting)
        if missing > 0:
            orders = [self._order() for _ in range(-(-missing // self.plan.rows))]
            self._waiting = np.concatenate([self._waiting, *orders])

    def _order(self) -> np.ndarray:
        rows = self.plan.rows
        order = self._generator.permutation(rows) if self.plan.shuffle else np.arange(rows)
        return order.astype(np.int32)


def run_phases(
    advance: Advance,
    course: Course,
    phases: list[Phase],
    source: Source | None,
    *,
    progress: bool,
) -> Course:
    """Run the phases; Ctrl-C keeps what was reached, if anything was."""
    exact = [phase.steps for phase in phases if phase.steps is not None]
    total = sum(exact) if len(exact) == len(phases) else None
    with Bar("fit", total, shown=progress) as bar:
        try:
            for phase in phases:
                _run_phase(advance, course, phase, source, bar)
        except KeyboardInterrupt:
            if not course.losses:
                raise
            course.interrupted = True
            course.settled = False
    return course


def has_settled(losses: np.ndarray, window: int) -> bool:
    """Whether the loss fell no further between the last two windows than noise hides."""
    if len(losses) < 2 * window:
        return False
    before, after = losses[-2 * window : -window], losses[-window:]
    gain = float(before.mean() - after.mean())
    noise = math.sqrt((float(before.var()) + float(after.var())) / window)
    rounding = 1e-6 * abs(float(after.mean()))
    return gain < max(noise, SETTLED_NATS, rounding)


def interrupted_note(steps: int) -> Note:
    """What an interrupted fit says."""
    message = (
        f"The fit was interrupted after {steps} steps. Its posterior is that of an unfinished fit. "
        "Call fit again, or continue it with warm_start=True."
    )
    return Note(FitWarning, message, "interrupted")


def _run_phase(
    advance: Advance,
    course: Course,
    phase: Phase,
    source: Source | None,
    bar: Bar,
) -> None:
    """Run one phase chunk by chunk until its steps are done or its loss has settled."""
    first = len(course.losses)
    done, limit = 0, phase.steps or phase.most
    size = CHUNK if source is None else source.size
    while done < limit:
        count = min(size, limit - done)
        rows = None if source is None else source.chunk(count)
        wait = advance(course, rows, np.arange(size) < count, phase)
        done += count
        if source is not None:  # while the steps are computed
            source.prepare(min(size, limit - done))
        losses = wait()[:count]
        _check_finite(losses, course.steps, phase)
        course.losses.append(losses)
        bar.advance(count, f"loss {losses.mean():.5g}")
        if phase.steps is None:
            course.settled = has_settled(np.concatenate(course.losses[first:]), phase.window)
            if course.settled:
                return


def _check_finite(losses: np.ndarray, before: int, phase: Phase) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        advice = "fit with inference='nuts'" if phase.rate else "lower the optimiser's step size"
        raise AimzError(
            f"The loss became {losses[bad[0]]} at step {before + bad[0] + 1}, so the fit has no "
            f"answer. Check the inputs for extreme values, narrow the priors, or {advice}.",
            code="fit-diverged",
        )


def _check_divides(shards: int, batch: int, rows: int, reason: str) -> None:
    """Refuse shards that are not equal parts of a batch, or rows that are no batch."""
    if reason and shards > 1:
        raise _no_shards(shards, reason)
    if batch % shards:
        size = max(1, batch // shards) * shards
        msg = f"num_shards={shards} does not divide a batch of {batch} rows into equal parts."
        fix = f"Pass batch_size={size}" if size <= rows else "Pass fewer shards"
        raise InputError(f"{msg} {fix}, or leave num_shards out.", code="shards")


def _no_shards(shards: int, reason: str) -> InputError:
    msg = f"{reason} So no batch is cut into num_shards={shards} parts. Leave it out."
    return InputError(msg, code="shards")


def _check_positive(settings: Settings) -> None:
    for name in ("num_steps", "epochs", "batch_size", "num_samples", "num_shards"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise InputError(
                f"{name}={value} is not positive. The fit needs at least one. "
                f"Pass a positive integer, or leave {name} out.",
                code="settings",
            )
