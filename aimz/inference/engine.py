"""The records that engines take and give back, and the protocol that an engine follows.

An engine turns a kernel and its data into draws and says how much they can be trusted. It never
warns and never touches a model: notes travel in the `Fit` and the shell shows them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from aimz.arrays import Seed
from aimz.errors import Note
from aimz.inference.health import Health, judge_effect
from aimz.kernel import Inputs, KernelSpec
from aimz.outcomes import Presence

__all__ = [
    "ContinuingEngine",
    "Course",
    "Draws",
    "Engine",
    "Fit",
    "ObjectEngine",
    "Problem",
    "Settings",
    "SteppingEngine",
    "VariationalEngine",
    "more_draws",
]


type Draws = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is fitted: the kernel, its inputs with the outcome, what is known of it, weights.

    Parameters
    ----------
    kernel : callable
        The user's NumPyro model function.
    inputs : Inputs
        Arguments of the kernel, the outcome among them.
    spec : KernelSpec
        What the inspection of the kernel on these inputs found.
    weights : array, optional
        One weight per row; multiplies the row's log density.
    presence : Presence, optional
        What is missing of the outcomes, where some are: they are left out of the likelihood.
    notes : tuple of Note
        What the user should hear of the data.
    """

    kernel: Callable[..., Any]
    inputs: Inputs
    spec: KernelSpec
    weights: Any = None
    presence: Presence | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How to fit.

    Parameters
    ----------
    num_samples : int, optional
        Posterior draws (per chain for chains); None keeps what the inference object says, or 1000.
    num_steps : int, optional
        Exactly so many steps on the whole data; overrides `epochs`.
    epochs : int, optional
        Exactly so many passes over the rows; None trains until the loss has reached a plateau.
    batch_size : int, optional
        Rows per step; None takes the whole data up to 8,192 rows, and 1,024 rows above.
    shuffle : bool
        Visit the rows in a new random order at each pass.
    progress : bool
        Show a progress bar.
    whole : bool
        Fit the whole data as one batch, whatever its size.
    num_shards : int, optional
        Equal parts of each batch, over the devices of this process.
    num_chains, num_warmup : int, optional
        Chains and their warm-up transitions; None keeps what the inference object says.
    """

    num_samples: int | None = None
    num_steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    shuffle: bool = True
    progress: bool = True
    whole: bool = False
    num_shards: int | None = None
    num_chains: int | None = None
    num_warmup: int | None = None


@dataclass(frozen=True)
class Fit:
    """What an engine found.

    Parameters
    ----------
    draws : dict
        Posterior draws of the latent sites, each (chain, draw, ...).
    stats : dict
        One number per draw, under ArviZ's names (`diverging`, `energy`, ...).
    trace : dict
        One number per step (`loss`).
    attrs : dict
        The account of the fit and its health.
    state : Any
        What the engine needs to continue and to draw again.
    params : dict
        Values of the kernel's `param` sites and mutable state, which predictions need.
    notes : tuple of Note
        What the user should hear.
    log_weights : array (draw,), optional
        Log p - log q of the first draws, up to one number; where they are known, and differ.
    """

    draws: Draws
    stats: Draws = field(default_factory=dict)
    trace: Draws = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    state: Any = None
    params: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    log_weights: np.ndarray | None = None

    def judged(self, values: np.ndarray) -> Health:
        """Health of numbers that were computed from the draws, (draw, number), by their weights.

        It says nothing where no weights are known, or the numbers are not of these draws.
        """
        sizes = {np.shape(draws)[:2] for draws in self.draws.values()}
        if self.log_weights is None or sizes != {(1, len(values))}:
            return Health()
        return judge_effect(self.log_weights, values)

    def with_draws(self, draws: Mapping[str, Any], **others: Any) -> "Fit":
        """The fit with other draws, without what was known of those that it had."""
        return replace(self, **{"stats": {}, "log_weights": None, **others, "draws": dict(draws)})


@runtime_checkable
class Engine(Protocol):
    """What turns a kernel and data into draws."""

    @property
    def name(self) -> str:
        """Short name shown in results."""

    def fit(self, rng_key: Seed, problem: Problem, settings: Settings, *, state: Any = None) -> Fit:
        """Fit the problem, afresh or continuing from the `state` of an earlier fit."""

    def draw(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> Mapping[str, Any]:
        """More posterior draws, (chain, draw, ...), never those of `fit` again."""


@runtime_checkable
class SteppingEngine(Engine, Protocol):
    """An engine that also trains by single steps."""

    def step(self, rng_key: Seed, problem: Problem, state: Any = None) -> tuple[Any, float]:
        """One step on the rows of the problem: the new state, and the loss before the step."""

    def fit_of(self, state: Any, rng_key: Seed, problem: Problem, num_samples: int) -> Fit:
        """The fit that a stepped state stands for, with draws."""


@runtime_checkable
class ContinuingEngine(Engine, Protocol):
    """An engine whose fit has moved when it has drawn more, as chains do."""

    def proceed(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Fit:
        """More draws, and the state afterwards."""


@runtime_checkable
class VariationalEngine(Engine, Protocol):
    """An engine whose fit is a run of NumPyro's SVI."""

    def vi_result(self, fit: Fit) -> Any:
        """NumPyro's own record of a fit."""

    def fit_from(self, rng_key: Seed, result: Any, num_samples: int | None = None) -> Fit:
        """The fit that a run elsewhere stands for, with draws."""


@runtime_checkable
class ObjectEngine(Engine, Protocol):
    """An engine that can show its fit as an object of NumPyro's."""

    def fitted_object(self, fit: Fit, problem: Problem | None) -> Any:
        """NumPyro's object, as if it had run."""


@dataclass
class Course:
    """What has happened so far in a fit: the moving state and the losses."""

    state: Any
    total: Any = None
    averaged: int = 0
    losses: list[np.ndarray] = field(default_factory=list)
    settled: bool = True
    interrupted: bool = False

    @property
    def steps(self) -> int:
        """Steps taken."""
        return sum(len(losses) for losses in self.losses)


def more_draws(
    engine: Engine, key: jax.Array, problem: Problem | None, fit: Fit, num_samples: int
) -> Fit:
    """A fit with further draws: of a stepped state, of a guide, or of chains that continue."""
    data: Any = problem  # an engine that needs the data says so itself
    if not fit.draws and isinstance(engine, SteppingEngine):
        return engine.fit_of(fit.state, key, data, num_samples)
    if isinstance(engine, ContinuingEngine):
        return engine.proceed(key, data, fit, num_samples)
    return fit.with_draws(engine.draw(key, data, fit, num_samples))
