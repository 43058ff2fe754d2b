"""Options of methods: what is no such choice, such as data of the same name, is refused by name."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from aimz.errors import InputError

__all__ = [
    "bounds_of",
    "check_choice",
    "check_interval",
    "check_switches",
    "names_of",
    "number_of",
    "quantiles_of",
    "shown",
]


def check_choice(value: object, name: str, valid: Sequence[str]) -> None:
    """Refuse what is none of the words that an option has.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    if not isinstance(value, str) or value not in valid:
        *first, last = map(repr, valid)
        listed = f"{', '.join(first)} or {last}" if first else last
        raise InputError(f"{name} must be {listed}, not {shown(value)}.", code="option-unknown")


def check_switches(**switches: object) -> None:
    """Refuse options that are neither true nor false; 0, 1 and None are.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    for name, value in switches.items():
        if value is not None and not isinstance(value, bool | int | np.bool_ | np.integer):
            msg = f"{name}= is True or False, not {shown(value)}. Pass one of them."
            raise InputError(msg, code="option-unknown")


def check_interval(ci_prob: object, ci_kind: object) -> None:
    """Refuse a probability or a kind that no interval has; None is ArviZ's own.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    if ci_kind is not None:
        check_choice(ci_kind, "ci_kind", ("eti", "hdi"))
    if ci_prob is not None and not (_is_number(ci_prob) and 0 < ci_prob <= 1):
        msg = f"ci_prob is a number above 0 and up to 1, such as 0.9, not {shown(ci_prob)}."
        raise InputError(msg, code="option-unknown")


def quantiles_of(value: object, option: str) -> tuple[float, ...]:
    """The quantiles that an option lists, or the one that it is.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    is_list = isinstance(value, Sequence | np.ndarray) and np.ndim(value) > 0
    listed: list[Any] = [*value] if is_list else [value]  # type: ignore[misc]  # told by is_list
    if not listed or not all(_is_number(q) and 0 <= q <= 1 for q in listed):
        msg = f"{option} are numbers between 0 and 1, such as [0.05, 0.95], not {shown(value)}."
        raise InputError(msg, code="option-unknown")
    return tuple(map(float, listed))


def bounds_of(value: Any, option: str) -> tuple[float, float]:
    """Two numbers, the lower one first.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    is_pair = isinstance(value, Sequence | np.ndarray) and np.shape(value) == (2,)
    if not is_pair or not all(map(_is_number, value)) or not value[0] <= value[1]:
        msg = f"{option} is two numbers, the lower one first, not {shown(value)}."
        raise InputError(msg, code="option-unknown")
    return float(value[0]), float(value[1])


def number_of(value: object, option: str) -> float:
    """A number that is finite.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    if not _is_number(value) or not np.isfinite(value):
        raise InputError(f"{option} is a number, not {shown(value)}.", code="option-unknown")
    return float(value)


def _is_number(value: object) -> TypeGuard[float]:
    is_bool = isinstance(value, bool | np.bool_)
    return isinstance(value, int | float | np.integer | np.floating) and not is_bool


def names_of(value: Any, option: str) -> tuple[str, ...]:
    """The names of sites that an option lists, or the one that it is.

    Raises
    ------
    InputError
        `option-unknown`; `site-unknown`: there is none.
    """
    listed = [value] if isinstance(value, str) or not np.iterable(value) else list(value)
    if not all(isinstance(name, str) for name in listed):
        msg = f"{option}= is the name of a site, or a list of them, not {shown(value)}."
        raise InputError(msg, code="option-unknown")
    if not listed:
        msg = f"{option} is empty. Name at least one site, or leave it out."
        raise InputError(msg, code="site-unknown")
    return tuple(dict.fromkeys(listed))


def shown(value: object) -> str:
    """The beginning of what a value looks like, on one line."""
    return " ".join(repr(value).split())[:40]
