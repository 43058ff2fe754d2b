"""Notes of planners, shown as warnings at the user's own line."""

import functools
import importlib.util
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aimz.errors import AimzWarning, Note
from aimz.programs import TRACE_LOCK

__all__ = ["SAID_ONCE", "notes_on_key", "show"]

# What is said of a fit once, not at every call of a service that sends the same.
SAID_ONCE = frozenset({"columns-unnamed", "single-precision"})
# Packages that call us on behalf of a user, whose line is further up.
_BETWEEN = ("joblib", "mlflow", "sklearn")


def show(notes: Sequence[Note]) -> None:
    """Show notes as warnings, at the line of the user's that led here."""
    with TRACE_LOCK:  # tracing changes the filters, which are one for all threads
        for note in notes:
            warnings.warn(_as_warning(note), skip_file_prefixes=_not_the_users())


def notes_on_key(rng_key: object) -> tuple[Note, ...]:
    """Say that a key is of an old kind."""
    if getattr(rng_key, "dtype", None) != np.uint32:
        return ()
    text = "rng_key is a legacy key of two words. Pass jax.random.key(seed) instead."
    return (Note(DeprecationWarning, text, ""),)


@functools.cache
def _not_the_users() -> tuple[str, ...]:
    """Directories whose lines are not the user's own."""
    specs = [importlib.util.find_spec(name) for name in _BETWEEN]
    homes = [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin]
    return tuple(f"{home}{os.sep}" for home in (Path(__file__).parents[1], *homes))


def _as_warning(note: Note) -> Warning:
    if issubclass(note.category, AimzWarning):
        return note.category(note.message, code=note.code)
    return note.category(note.message)
