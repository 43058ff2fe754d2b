"""Exceptions and warnings, each with a stable `code`.

Prose may improve from release to release; codes do not change. A warning's category says the
consequence: `FitWarning` (do not trust the fit), `OutputWarning` (not what you asked for),
`PerformanceWarning` (slower than it could be, the answer is right).
"""

import difflib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aimz.libraries import sklearn

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
    "check_names",
    "function_raised",
    "nearest",
]


class AimzError(Exception):
    """Base of the library's exceptions; `code` is stable across releases.

    A traceback ends with the place where the documentation explains the code.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
        self.add_note(f"The documentation explains it: errors.html#{code}")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args[0], self.code))


class InputError(AimzError, ValueError):
    """What was passed to a method cannot be used as it is."""


class KernelValidationError(AimzError, ValueError):
    """The kernel itself cannot be used as it is written."""


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


def check_names(given: Iterable[str], valid: tuple[str, ...], *, what: str) -> None:
    """Refuse a name that is not valid, with the nearest one that is."""
    for name in given:
        if name not in valid:
            msg = f"There is no {what} '{name}'. {nearest(name, valid)}"
            raise InputError(msg, code=f"{what}-unknown")


def function_raised(what: str, gets: str, error: Exception) -> InputError:
    """The error of a user's own function; raise it from the function's."""
    reason = " ".join(str(error).split())
    msg = f"{what} raised {type(error).__name__}: {reason:.80}. It gets {gets}. Correct it."
    return InputError(msg, code="function-raised")


def _rebuild(kind: type, message: str, code: str) -> object:
    return kind(message, code=code)


if TYPE_CHECKING:

    class NotFittedError(AimzError, ValueError, AttributeError):
        """The model has no posterior yet; also scikit-learn's `NotFittedError`."""


_MAKING = threading.Lock()


def __getattr__(name: str) -> Any:
    """`NotFittedError` inherits from scikit-learn's, which is loaded when somebody asks for it."""
    if name != "NotFittedError":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    with _MAKING:  # one class, however many threads ask
        if name not in globals():
            bases = (AimzError, sklearn.exceptions.NotFittedError)
            about = "The model has no posterior yet; also scikit-learn's `NotFittedError`."
            globals()[name] = type(name, bases, {"__module__": __name__, "__doc__": about})
    return globals()[name]


@dataclass(frozen=True)
class Note:
    """Something the user should hear, as data: the shell decides how to show it."""

    category: type[Warning]
    message: str
    code: str
