"""Standard units, in which the ready-made regressions state their priors.

They are constants of a kernel, computed once: a statistic of the rows inside a kernel would be
another one for other rows.
"""

import inspect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpy.typing import ArrayLike

from aimz.arrays import pieces
from aimz.errors import InputError

__all__ = ["PIECE_ROWS", "OutcomeUnits", "Standard", "observed", "standard"]


_FAMILIES = ("normal", "bernoulli", "poisson")
# A column's or outcome's mean and standard deviation, beyond which priors would not fit it.
_MEAN, _LEAST, _MOST = 3.0, 0.1, 5.0
#: Rows that are looked at together.
PIECE_ROWS = 2**16


def standard(X: ArrayLike | None = None, y: ArrayLike | None = None) -> dict[str, Any]:
    """Settings that bring columns and an outcome to standard units inside a ready-made kernel.

    Columns get mean 0 and standard deviation 1; those of two values, whose rare one would be far
    away, mean 0 and distance 1 (Gelman, 2008, doi:10.1002/sim.3107).

    Parameters
    ----------
    X : array-like, shape (rows, columns), optional
        The rows of the fit.
    y : array-like, shape (rows,), optional
        The outcome, where its family is normal. NaN is missing.

    Returns
    -------
    dict
        `center` and `scale` of the columns, `loc` and `unit` of the outcome.

    Raises
    ------
    InputError
        `shape`: `X` is no table.

    Examples
    --------
    >>> from aimz.kernels import standard
    >>> standard([[0.0, 10.0], [0.0, 30.0], [1.0, 50.0], [1.0, 30.0]], y=[1.0, 3.0, 1.0, 3.0])
    {'center': (0.5, 30.0), 'scale': (1.0, 14.142...), 'loc': 2.0, 'unit': 1.0}
    """
    settings: dict[str, Any] = {}
    if X is not None:
        columns = _moments_of_columns(np.asarray(X))
        settings["center"] = tuple(columns.mean.tolist())
        spread = np.where(columns.distance > 0, columns.distance, columns.spread)
        settings["scale"] = tuple(spread.tolist())
    if y is not None:
        outcome = _moments_of_outcome(np.asarray(y))
        settings["loc"], settings["unit"] = float(outcome.mean[0]), float(outcome.spread[0])
    return settings


class _Moments(NamedTuple):
    """Of columns: mean, standard deviation, extremes, and whether there are no others between.

    `known` are how many values are there. Values are looked at by pieces: those of a file are never
    all in memory, and the piece does not depend on where they are.
    """

    known: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    low: np.ndarray
    high: np.ndarray
    is_switch: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation; 1 of a constant, whose rounded one need not be 0."""
        return np.where(self.low < self.high, np.sqrt(self.variance), 1.0)

    @property
    def distance(self) -> np.ndarray:
        """Distance of the values of a column that has two; 0 of any other."""
        return np.where(self.is_switch, self.high - self.low, 0.0)


def _moments_of_columns(rows: np.ndarray) -> _Moments:
    if rows.ndim != 2 or not len(rows):
        msg = f"X has shape {rows.shape}. Pass a table of rows and columns."
        raise InputError(msg, code="shape")
    looks = []
    for piece in pieces(rows, PIECE_ROWS):
        wide = np.asarray(piece, np.float64)
        looks.append(_moments([*wide.T], wide.mean(0)))
    return _together(looks)


def _moments_of_outcome(outcome: np.ndarray) -> _Moments:
    looks = []
    for piece in pieces(np.atleast_1d(outcome), PIECE_ROWS):
        wide = np.asarray(piece, np.float64).ravel()
        if not np.isnan(wide).all():
            looks.append(_moments([wide], np.nanmean(wide)))
    if not looks:
        raise InputError("y has no value that is there. Pass some.", code="shape")
    return _together(looks)


def _moments(columns: Sequence[np.ndarray], mean: ArrayLike) -> _Moments:
    low, high = (np.array([of(c) for c in columns]) for of in (np.nanmin, np.nanmax))
    ends = zip(columns, low, high, strict=True)
    return _Moments(
        np.array([np.count_nonzero(~np.isnan(c)) for c in columns]),
        np.atleast_1d(np.asarray(mean)),
        np.array([np.nanvar(c) for c in columns]),
        low,
        high,
        np.array([bool(np.isin(c, (first, last)).all()) for c, first, last in ends]),
    )


def _together(looks: Sequence[_Moments]) -> _Moments:
    """Moments of all pieces (Chan, Golub and LeVeque, 1983)."""
    if len(looks) == 1:
        return looks[0]
    known, mean, variance, low, high, is_switch = (np.stack(v) for v in zip(*looks, strict=True))
    share = known / known.sum(0)
    center = (share * mean).sum(0)
    least, most = low.min(0), high.max(0)
    ends = np.stack([low, high])
    has_two = is_switch.all(0) & ((ends == least) | (ends == most)).all((0, 1))
    spread = (share * (variance + (mean - center) ** 2)).sum(0)
    return _Moments(known.sum(0), center, spread, least, most, has_two)


class _Signature:
    """The signature of a kernel some of whose arguments are named by its settings."""

    def __get__(self, kernel: Any, owner: type) -> inspect.Signature | None:
        if kernel is None:
            return None  # Python then reads the class itself
        kind = inspect.Parameter.KEYWORD_ONLY
        named = [inspect.Parameter(name, kind) for name in kernel.arguments()]
        call = list(inspect.signature(owner.__call__).parameters.values())
        plain = [p for p in call[1:] if p.kind is not inspect.Parameter.VAR_KEYWORD]
        return inspect.Signature([*plain, *named])


@dataclass(frozen=True, kw_only=True)
class OutcomeUnits:
    """A kernel whose outcome has standard units, if its family is normal."""

    loc: float = 0.0
    unit: float = 1.0

    family = "normal"
    #: Latents that the mean, logits or log rate is a sum of, given all others.
    summed: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.family not in _FAMILIES:
            msg = f"family={self.family!r:.40} is none of {', '.join(_FAMILIES)}."
            raise InputError(msg, code="option-unknown")
        if self.family != "normal" and (self.loc, self.unit) != (0.0, 1.0):
            msg = (
                f"loc= and unit= are of family='normal'; a {self.family} outcome has its own "
                "units. Pass **aimz.kernels.standard(X), without y."
            )
            raise InputError(msg, code="option-unknown")
        _check_units([self.loc], [self.unit])

    def settled(self, X: Any, y: Any, arguments: Mapping[str, Any]) -> Self:
        """The kernel in the units of these data, where its settings do not say which."""
        del X, arguments
        if self.family != "normal" or (self.loc, self.unit) != (0.0, 1.0):
            return self
        return replace(self, **standard(y=y))

    def in_numbers(self, values: Mapping[str, Any], primary: str) -> dict[str, Any]:
        """Values of arguments by name, with the rows as this kernel computes with them."""
        del primary
        return dict(values)

    @property
    def reads(self) -> tuple[Any, Hashable]:
        """What a trace of the kernel follows from: its code, and its settings in full."""
        return type(self).__call__, repr(self)

    def check(self, X: Any, y: Any) -> None:
        """Refuse data that are far from standard units, whose priors would not fit them.

        Raises
        ------
        InputError
            `not-standard`.
        """
        del X
        if self.family == "normal" and y is not None:
            outcome = _moments_of_outcome(np.asarray(y))
            _check_standard("The outcome", outcome, 0, self.loc, self.unit)


@dataclass(frozen=True, kw_only=True)
class Standard(OutcomeUnits):
    """A regression whose columns have standard units too.

    `categories` are those that a fit has seen, by column of its frame, none where it holds numbers.
    """

    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    categories: tuple[tuple[str, tuple[Hashable, ...]], ...] = ()

    __signature__ = _Signature()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("center", "scale"):
            values = np.atleast_1d(np.asarray(getattr(self, name), np.float64))
            object.__setattr__(self, name, tuple(values.tolist()))
        _check_units(self.center, self.scale)

    def arguments(self) -> tuple[str, ...]:
        """Names of the kernel's arguments that settings give."""
        return ()

    def columns(self, X: Any) -> Any:
        """The columns in standard units."""
        if X.ndim != 2 or (self.center and X.shape[1] != len(self.center)):
            known = f"{len(self.center)} columns" if self.center else "rows and columns"
            msg = f"X has shape {X.shape}, and this kernel reads a table of {known}."
            raise InputError(msg, code="shape")
        return (X - jnp.array(self.center)) / jnp.array(self.scale) if self.center else X

    def in_numbers(self, values: Mapping[str, Any], primary: str) -> dict[str, Any]:
        """Values of arguments by name, with the rows' categories as zeros and ones."""
        rows: Any = values.get(primary)
        if rows is None or rows.given is None:
            return dict(values)
        return {**values, primary: rows.in_numbers(self.categories)}

    def settled(self, X: Any, y: Any, arguments: Mapping[str, Any]) -> Self:
        """The kernel in the units of these data, where its settings do not say which."""
        kernel = super().settled(X, y, arguments)
        return kernel if kernel.center else replace(kernel, **standard(X))

    def check(self, X: Any, y: Any) -> None:
        """Refuse data that are far from standard units; see `OutcomeUnits`."""
        super().check(X, y)
        center, scale = (self.center, self.scale) if self.center else (0.0, 1.0)
        columns = _moments_of_columns(np.asarray(X))
        units = np.broadcast_arrays(center, scale, columns.mean)
        for number, (loc, unit, _) in enumerate(zip(*units, strict=True)):
            _check_standard(f"Column {number} of X", columns, number, loc, unit)


def _check_units(centers: Sequence[float], scales: Sequence[float]) -> None:
    are_numbers = np.isfinite([*centers, *scales]).all()
    if len(centers) != len(scales) or not are_numbers or min(scales, default=1.0) <= 0:
        msg = (
            "center= and scale= have a number for each column, and scale= and unit= are positive. "
            "Pass **aimz.kernels.standard(X, y)."
        )
        raise InputError(msg, code="option-unknown")


def _check_standard(name: str, moments: _Moments, column: int, loc: float, unit: float) -> None:
    """Refuse a column whose values, less `loc` and in `unit`s, are far from standard ones."""
    mean = (moments.mean[column] - loc) / unit
    is_constant = moments.low[column] == moments.high[column]
    spread = 0.0 if is_constant else np.sqrt(moments.variance[column]) / unit
    # Two values, one apart, however rare one of them.
    is_switch = abs(moments.distance[column] / unit - 1.0) < 1e-6
    is_flat = 0 < spread < _LEAST and not is_switch
    if abs(mean) > _MEAN or spread > _MOST or is_flat:
        msg = (
            f"{name} has mean {mean:.3g} and standard deviation {spread:.3g}, and the kernel's "
            "priors are for 0 and 1. Make the model with **aimz.kernels.standard(X, y), of the "
            "rows of the fit."
        )
        raise InputError(msg, code="not-standard")


def observed(kernel: OutcomeUnits, mean: jax.Array, y: Any) -> None:
    """Sample the outcome by row: `mean` is that of a normal, logits, or a logarithm of rates."""
    noise: Any = None
    if kernel.family == "normal":
        noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("rows", mean.shape[0]):
        if kernel.family == "normal":
            law: Any = dist.Normal(kernel.loc + kernel.unit * mean, kernel.unit * noise)
        elif kernel.family == "bernoulli":
            law = dist.Bernoulli(logits=mean)
        else:
            law = dist.Poisson(jnp.exp(mean))
        numpyro.sample("y", law, obs=y)
