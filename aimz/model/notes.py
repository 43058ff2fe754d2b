"""Notes of planners, shown as warnings at the user's own line."""

import warnings
from collections.abc import Sequence

from aimz.errors import AimzWarning, Note
from aimz.programs import TRACE_LOCK

__all__ = ["SAID_ONCE", "show"]


# What is said of a fit once, not at every call of a service that sends the same.
SAID_ONCE = frozenset({"columns-unnamed", "single-precision"})


def show(notes: Sequence[Note], *, level: int = 4) -> None:
    """Show notes as warnings, at the line of the user's call, `level` frames from here."""
    with TRACE_LOCK:  # tracing changes the filters, which are one for all threads
        for note in notes:
            warnings.warn(_as_warning(note), stacklevel=level)


def _as_warning(note: Note) -> Warning:
    if issubclass(note.category, AimzWarning):
        return note.category(note.message, code=note.code)
    return note.category(note.message)
