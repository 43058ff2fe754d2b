"""Options of methods: what is no such choice, such as data of the same name, is refused by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aimz.errors import InputError

__all__ = ["check_choice", "check_switches", "shown"]


def check_choice(value: Any, name: str, valid: Sequence[str]) -> None:
    """Refuse what is none of the words that an option has.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    if not isinstance(value, str) or value not in valid:
        listed = " or ".join(repr(word) for word in valid)
        raise InputError(f"{name} must be {listed}, not {shown(value)}.", code="option-unknown")


def check_switches(**given: Any) -> None:
    """Refuse options that are neither true nor false; 0, 1 and None are.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, bool | int | np.bool_ | np.integer):
            msg = f"{name}= is True or False, not {shown(value)}. Pass one of them."
            raise InputError(msg, code="option-unknown")


def shown(value: Any) -> str:
    """The beginning of what a value looks like, on one line."""
    return " ".join(repr(value).split())[:40]
