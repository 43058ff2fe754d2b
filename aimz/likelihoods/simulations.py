"""Simulated responses: parameters drawn from a box, and what a simulator makes of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import numpyro.distributions as dist

from aimz.choices import check_switches, progress_bar
from aimz.errors import InputError, nearest
from aimz.likelihoods.kept import KeptSimulations

if TYPE_CHECKING:
    import os

    from aimz.arrays import Array

__all__ = ["Simulations", "check_responses", "simulate"]


_CHUNK = 50_000
# Times that differ by less are one time, in single precision and after a shift is taken off.
_ROUNDING = 1e-5

#: Of each parameter, the smallest and the largest value, or a distribution between two numbers.
type _Sides = Mapping[str, tuple[float, float] | dist.Distribution]


@dataclass(frozen=True)
class Simulations:
    """Parameters and the response to each set of them.

    Parameters
    ----------
    parameters : dict of arrays, shape (n,)
        By name.
    outcomes : array, shape (n, 2)
        Times and choices.
    bounds : dict of pairs
        The box that the parameters were drawn from; of a prior the ends of its support.
    """

    parameters: dict[str, np.ndarray]
    outcomes: np.ndarray
    bounds: dict[str, tuple[float, float]]

    def __len__(self) -> int:
        return len(self.outcomes)


def simulate(
    simulator: Callable[..., Any] | str,
    bounds: _Sides | None = None,
    n: int = 100_000,
    key: int = 0,
    *,
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Simulations:
    """Draw parameters from a box or a prior, and simulate one response for each set of them.

    It goes by chunks, each with a key of its own. With `store=` each is kept as soon as it is
    there: where a call was stopped, the same call goes on, and gives the same numbers bit by bit.

    Parameters
    ----------
    simulator : callable or str
        `simulator(key, **parameters)`, which gets arrays of one length and returns times and
        choices, two arrays of that length; it may be written in JAX, or in NumPy with a key of
        JAX's to seed it. Or the name of a model of ssm-simulators.
    bounds : mapping of pairs or distributions
        Smallest and largest value of each parameter, between which it is drawn evenly, or a prior
        of bounded support, such as a truncated normal: a net learns most where it is drawn most,
        and its box are the ends of the support. Bounds of ssm-simulators where its model is named
        and none are given.
    n : int
        Number of simulations.
    key : int
        Seed.
    store : path, optional
        A directory for a Zarr store. What is there is taken after its first chunk has been
        simulated again and found the same; a simulator that has changed is refused.
    progress : bool
        Show a bar where there are several chunks.

    Returns
    -------
    Simulations

    Raises
    ------
    InputError
        `simulations`: bounds that are none, a simulator that is not known, times that are no
        numbers, or a store of other simulations.

    Examples
    --------
    >>> def exponential(key, rate):
    ...     times = jax.random.exponential(key, rate.shape) / rate
    ...     return times, jax.numpy.ones_like(times)
    >>> simulate(exponential, {"rate": (0.5, 2.0)}, n=5).outcomes.shape
    (5, 2)
    """
    if isinstance(simulator, str):
        simulator, bounds = _of_package(simulator, bounds)
    box = _checked(bounds)
    priors = {k: v for k, v in (bounds or {}).items() if isinstance(v, dist.Distribution)}
    check_switches(progress=progress)
    about = {"bounds": [[name, *pair] for name, pair in box.items()], "key": key}
    kept = None if store is None else KeptSimulations(store, about, n, len(box), _CHUNK)
    count = -(-n // _CHUNK)
    parts = []
    shown = progress and count > 1
    with progress_bar(count, desc="simulate", unit="chunk", shown=shown) as bar:
        for number in range(count):
            parts.append(_chunk(simulator, box, priors, n, key, number, kept))
            bar.update(1)
    whole, pairs = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Simulations(dict(zip(box, whole.T, strict=True)), pairs, box)


def _chunk(
    simulator: Callable[..., Any],
    box: dict[str, tuple[float, float]],
    priors: Mapping[str, dist.Distribution],
    n: int,
    key: int,
    number: int,
    kept: KeptSimulations | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and outcomes of a chunk, which follow from its number and the key alone."""
    if kept is not None and number > 0 and (found := kept.read(number)) is not None:
        return found
    low, high = np.array(list(box.values()), np.float32).T
    base = jax.random.fold_in(jax.random.key(key), number)
    place, noise = jax.random.split(base)
    drawn = low + (high - low) * np.asarray(jax.random.uniform(place, (_CHUNK, len(low))))
    for column, name in enumerate(box):
        if name in priors:
            own = jax.random.fold_in(place, column)
            drawn[:, column] = np.clip(priors[name].sample(own, (_CHUNK,)), *box[name])
    drawn = drawn[: min(_CHUNK, n - number * _CHUNK)].astype(np.float32)
    response = simulator(noise, **dict(zip(box, drawn.T, strict=True)))
    pairs = np.stack([np.asarray(part, np.float32) for part in response], -1)
    if pairs.shape != (len(drawn), 2) or not np.isfinite(pairs).all() or (pairs[:, 0] < 0).any():
        msg = (
            f"The simulator gave responses of the shape {pairs.shape}, or times that are negative "
            "or no numbers. It must return times and choices, one for each set of parameters."
        )
        raise InputError(msg, code="simulations")
    if kept is not None and number == 0:
        kept.check_first(drawn, pairs)
    if kept is not None:
        kept.write(number, drawn, pairs)
    return drawn, pairs


def check_responses(
    simulations: Simulations, shift: str | None, codes: np.ndarray, least: int
) -> np.ndarray:
    """Times since the shift, of responses that a likelihood can take.

    Raises
    ------
    InputError
        `simulations`: choices without a code, too few simulations, or times that are before the
        shift or all the same.
    """
    elapsed = simulations.outcomes[:, 0].astype(np.float64)
    if shift is not None:
        if shift not in simulations.bounds:
            msg = f"'{shift}' is no parameter. {nearest(shift, simulations.bounds)}"
            raise InputError(msg, code="simulations")
        elapsed = elapsed - simulations.parameters[shift]
    made = np.unique(simulations.outcomes[:, 1])
    if not set(made) <= set(codes) or 0 in codes:
        msg = (
            f"Simulated choices are {made[:6].tolist()}, but choices={codes.tolist()}. Name the "
            "code of each choice, and keep 0 for no response."
        )
        raise InputError(msg, code="simulations")
    if (elapsed <= 0).any():
        msg = (
            f"{int((elapsed <= 0).sum())} simulated times are not after the shift. Name the "
            "parameter that is added to all times, or none."
        )
        raise InputError(msg, code="simulations")
    if not np.ptp(np.log(elapsed)) > _ROUNDING:
        msg = (
            f"All simulated times are {elapsed[0]:.6g} after the shift, or are no numbers: there "
            "is no distribution of times to learn. Look at what the simulator does with its key."
        )
        raise InputError(msg, code="simulations")
    if len(elapsed) < least:
        msg = f"{len(elapsed)} simulations are too few: at least {least} are needed here."
        raise InputError(msg, code="simulations")
    return elapsed


def _ends(side: tuple[float, float] | dist.Distribution) -> tuple[float, float]:
    if not isinstance(side, dist.Distribution):
        return float(side[0]), float(side[1])
    ends = (getattr(side.support, end, np.nan) for end in ("lower_bound", "upper_bound"))
    low, high = (float(end) if np.ndim(end) == 0 else np.nan for end in ends)
    return (low, high) if side.shape() == () and not side.support.is_discrete else (np.nan, np.nan)


def _checked(bounds: _Sides | None) -> dict[str, tuple[float, float]]:
    box = {name: _ends(side) for name, side in (bounds or {}).items()}
    wrong = [
        name for name, pair in box.items() if not (np.isfinite(pair).all() and pair[0] < pair[1])
    ]
    if wrong or not box:
        given = (bounds or {})[wrong[0]] if wrong else None
        shown = type(given).__name__ if isinstance(given, dist.Distribution) else given
        which = f"'{wrong[0]}' has {shown}" if wrong else "there are none"
        msg = (
            "Bounds are a smaller and a larger number for each parameter, or a distribution of "
            f"one number between two, as dist.TruncatedNormal(low=, high=), but {which}."
        )
        raise InputError(msg, code="simulations")
    return box


def _of_package(name: str, bounds: _Sides | None) -> tuple[Callable[..., Any], _Sides]:
    """A model of ssm-simulators, and its box."""
    try:
        known = importlib.import_module("ssms.config").model_config
        run = importlib.import_module("ssms.basic_simulators.simulator").simulator
    except ImportError as error:
        msg = "Models by name are those of ssm-simulators. Run: pip install 'aimz[ssm]'"
        raise InputError(msg, code="simulations") from error
    if name not in known:
        msg = f"ssm-simulators has no model '{name}'. Name another, or pass a function."
        raise InputError(msg, code="simulations")
    names = list(known[name]["params"])
    own = dict(zip(names, zip(*known[name]["param_bounds"], strict=True), strict=True))
    box = dict(own if bounds is None else bounds)
    if set(box) != set(names):
        msg = f"The model '{name}' has the parameters {names}, but bounds name {sorted(box)}."
        raise InputError(msg, code="simulations")

    def simulator(key: Array, **parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        theta = np.stack([parameters[name] for name in names], -1)
        seed = int(jax.random.bits(key, (), "uint32")) % 2**31
        found = run(theta=theta, model=name, n_samples=1, random_state=seed)
        return found["rts"].reshape(-1), found["choices"].reshape(-1)

    return simulator, {name: box[name] for name in names}
