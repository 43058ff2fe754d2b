"""Checks of names, sizes and outcomes as the user gave them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from aimz.choices import check_choice, shown
from aimz.data.arguments import MISSING
from aimz.errors import InputError

__all__ = ["check_finite", "check_outcome", "check_positive"]


def check_positive(value: Any, name: str) -> None:
    """Refuse a count that is not a positive whole number; None is no count."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        msg = f"{name} must be a whole number of at least 1, not {shown(value)}."
        raise InputError(msg, code="not-positive")


def check_finite(
    arrays: Mapping[str, Any], columns: Mapping[str, Sequence[str]] | None = None, first: int = 0
) -> None:
    """Refuse data that are not finite, naming the argument, how many values, and the first.

    `columns` names those of the arrays, whose rows begin with number `first`.

    Raises
    ------
    InputError
        `not-finite`.
    """
    for name, value in arrays.items():
        for leaf in jax.tree.leaves(value):
            array = np.asarray(leaf)
            bad = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros((), bool)
            if not bad.any():
                continue
            msg = f"'{name}' holds {bad.sum()} values that are not finite"
            if array.ndim:
                row, *rest = np.argwhere(bad)[0].tolist()
                names = (columns or {}).get(name)
                column = f", column {repr(names[rest[0]]) if names else rest[0]}" if rest else ""
                msg += f" (the first in row {first + row}{column})"
            msg += ". Fill them, or drop rows."
            raise InputError(msg, code="not-finite")


def check_outcome(outcome: Any, missing: str, output: str) -> np.ndarray | None:
    """Which values of an outcome are there; None where all are.

    Raises
    ------
    InputError
        `not-finite`: some are missing and may not be, all are, or one is infinite; and
        `option-unknown`.
    """
    check_choice(missing, "missing", ("raise", "mask"))
    array = np.asarray(outcome)
    there = np.isfinite(array) if array.dtype.kind == "f" else array != MISSING
    if there.all():
        return None
    infinite = int(np.isinf(array).sum())
    if missing == "raise" or infinite or not there.any():
        fix = "Leave those rows out, or pass missing='mask'."
        count = infinite or int((~there).sum())
        if infinite or not there.any():
            fix = "Some must be there, and all that are must be finite."
        msg = f"'{output}' holds {count} values that are not finite. {fix}"
        raise InputError(msg, code="not-finite")
    return there
