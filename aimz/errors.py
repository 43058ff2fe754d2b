"""Exceptions and warnings, each with a stable `code`.

Prose may improve from release to release; codes do not change. A warning's category says the
consequence: `FitWarning` (do not trust the fit), `OutputWarning` (not what you asked for),
`PerformanceWarning` (slower than it could be, the answer is right).
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from sklearn.exceptions import NotFittedError as _SklearnNotFittedError

__all__ = [
    "AimzError",
    "AimzWarning",
    "FitWarning",
    "InputError",
    "KernelValidationError",
    "NotFittedError",
    "Note",
    "OutputWarning",
    "PerformanceWarning",
    "ProcessError",
    "StoreError",
    "nearest",
]


class AimzError(Exception):
    """Base of the library's exceptions; `code` is stable across releases."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args[0], self.code))


class InputError(AimzError, ValueError):
    """What was passed to a method cannot be used as it is."""


class KernelValidationError(AimzError, ValueError):
    """The kernel itself cannot be used as it is written."""


class NotFittedError(AimzError, _SklearnNotFittedError):  # type: ignore[misc]  # no stubs
    """The model has no posterior yet; also scikit-learn's `NotFittedError`."""


class ProcessError(AimzError, RuntimeError):
    """A process that cannot compute."""


class StoreError(AimzError, OSError):
    """A stored result is missing, unfinished or damaged, or cannot be written."""


class AimzWarning(UserWarning):
    """Base of the library's warnings; `code` is stable across releases."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args[0], self.code))


class FitWarning(AimzWarning, RuntimeWarning):
    """The posterior may be wrong."""


class OutputWarning(AimzWarning):
    """The result is not quite what was asked for."""


class PerformanceWarning(AimzWarning):
    """The result is right but took longer than it could."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Sentence that suggests the nearest valid name, or lists the valid ones."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Valid names: {', '.join(names) or 'none'}."


def _rebuild(kind: type, message: str, code: str) -> object:
    return kind(message, code=code)


@dataclass(frozen=True)
class Note:
    """Something the user should hear, as data: the shell decides how to show it."""

    category: type[Warning]
    message: str
    code: str
