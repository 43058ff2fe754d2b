"""Options of methods: what is no such choice, such as data of the same name, is refused by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aimz.errors import InputError

__all__ = ["check_choice", "check_switches", "names_of", "shown"]


def check_choice(value: object, name: str, valid: Sequence[str]) -> None:
    """Refuse what is none of the words that an option has.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    if not isinstance(value, str) or value not in valid:
        listed = " or ".join(repr(word) for word in valid)
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
