"""The progress bar of a fit: it says that it compiles before it moves, and is gone at the end."""

from types import TracebackType
from typing import Any, Self

from aimz.choices import progress_bar

__all__ = ["Bar"]


class Bar:
    """A bar of steps; before the first of them it says that programs are compiled.

    Parameters
    ----------
    name : str
        What moves.
    total : int or None
        Steps to come, if that is known.
    shown : bool
        Whether anything is shown.
    """

    def __init__(self, name: str, total: int | None, *, shown: bool) -> None:
        self.bar: Any = progress_bar(total, desc=name, unit="step", shown=shown, leave=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    def advance(self, steps: int, text: str = "") -> None:
        """Move on, with a few words on where the fit is."""
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(steps)
