"""A family of distributions as a record: what is known of it beyond NumPyro's own code."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from aimz.families.continuous import Standard
from aimz.families.law import Law

__all__ = ["Border", "Coupling", "Density", "Families", "Family", "LogTails", "Vector"]


class Coupling(Protocol):
    """How the noise behind a value is recovered and replayed, in double precision."""

    @property
    def coupling(self) -> str:
        """How two laws share noise: "residual", "quantile" or "gumbel-max"."""

    def kind(self, law: Law) -> str:
        """What shares the noise: laws of one kind."""

    def noise(
        self, law: Law, value: np.ndarray, uniform: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Parts of the noise, and where it is sound."""

    def value(self, law: Law, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        """The value that has this noise under a law."""


class LogTails(NamedTuple):
    """Log probabilities of more, and of at most, a value: functions of a distribution and it."""

    upper: Callable[[Any, Any], Any]
    lower: Callable[[Any, Any], Any]


class Density(NamedTuple):
    """A log density that keeps its digits, and which values inside the support it is for."""

    log_density: Callable[[Any, Any], Any]
    is_regular: Callable[[Any], Any] | None = None
    is_everywhere: bool = False


class Border(NamedTuple):
    """The limit of a log density, where NumPyro's is NaN and where `is_on` says so.

    `is_on` takes the value, and whether it is on an edge that the support leaves out.
    """

    limit: Callable[[Any, Any], Any]
    is_on: Callable[[Any, Any], Any] | None = None


class Vector(NamedTuple):
    """What is known of some elements of a vector.

    Without the others (`marginal` log density), of the others given them (`completed`), of those
    that follow the first ones (`after`), and of all from independent normal noise (`of_noise`).
    Of a series also the log density of each element given those before it (`earlier`), and given
    all others (`others`).
    """

    marginal: Callable[[Any, Any, Any], Any] | None = None
    completed: Callable[[Any, Any, Any, Any], Any] | None = None
    after: Callable[[Any, Any, Any], Any] | None = None
    of_noise: Callable[[Any, Any], Any] | None = None
    earlier: Callable[[Any, Any, Any], Any] | None = None
    others: Callable[[Any, Any, Any], Any] | None = None


_SCALARS = Vector()


@dataclass(frozen=True)
class Family:
    """One family, under NumPyro's names for it.

    What is None is left to NumPyro, or cannot be had: `why` says which, where it is not NumPyro's.

    Parameters
    ----------
    name : str
        Of laws of the family.
    kinds : mapping of type to tuple of str
        NumPyro's classes, and the attributes that are their parameters.
    axes : mapping of str to int
        Axes of their own, of parameters that have some.
    noise : Coupling, optional
        How the noise behind a value is recovered.
    standard : Standard, optional
        Distribution function and quantile in standard units, of a family that may be truncated.
    density, border, tails :
        In the precision of the program.
    mean : callable, optional
        Mean of a distribution, or None where there is none.
    reach : callable, optional
        What draws of counts without a limit hardly ever exceed.
    vector : Vector
        Of families of vectors.
    by_row : tuple of type
        Classes whose array samplers let a row's parameters change its neighbours' draws: they are
        made again for each row.
    is_half_block : bool
        Two draws share a block of random bits: a value takes half of it.
    is_coded : bool
        Its support says truly which codes a value can have (that of a mixture does not).
    is_of_categories : bool
        Its mean is the probability of each category.
    has_order : bool
        A difference of values means something.
    edge : bool, optional
        Whether a value on the border can be fitted, where the support says otherwise.
    shapes : tuple of str, optional
        Parameters beside location and scale, of families that chains move to standard units.
    why : mapping of str to str
        Why a field is None.
    """

    name: str
    kinds: Mapping[type, tuple[str, ...]]
    axes: Mapping[str, int] = field(default_factory=dict)
    noise: Coupling | None = None
    standard: Standard | None = None
    density: Density | None = None
    border: Border | None = None
    tails: LogTails | None = None
    mean: Callable[[Any], jax.Array | None] | None = None
    reach: Callable[[Any], Any] | None = None
    vector: Vector = _SCALARS
    by_row: tuple[type, ...] = ()
    is_half_block: bool = False
    is_coded: bool = False
    is_of_categories: bool = False
    has_order: bool = True
    edge: bool | None = None
    shapes: tuple[str, ...] | None = None
    why: Mapping[str, str] = field(default_factory=dict)


class Families:
    """The rows by name, and by NumPyro's classes.

    `of` has rows of classes themselves: a subclass of a user may mean something else. `above` has
    that of the nearest class that one is made from. Where there is none, a row is empty.
    """

    def __init__(self, *rows: Family) -> None:
        self.named = {row.name: row for row in rows}
        by_class = {kind: row for row in rows for kind in row.kinds}
        self.of, self.above = _Own(by_class), _Nearest(by_class)

    def __iter__(self) -> Iterator[Family]:
        return iter(self.named.values())


class _Own(dict[type, Family]):
    def __missing__(self, kind: type) -> Family:
        return _UNKNOWN


class _Nearest(dict[type, Family]):
    def __missing__(self, kind: type) -> Family:
        return next((self[base] for base in kind.__mro__ if base in self), _UNKNOWN)


_UNKNOWN = Family("", {})
