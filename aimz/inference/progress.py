"""What a user sees of a fit while it runs, and how it is stopped.

A bar says that programs are compiled before it moves, and is gone at the end. JAX hears no Ctrl-C
while a program is compiled or runs: a long one runs in a thread, and what waits for it hears it.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import jax

from aimz.choices import progress_bar

__all__ = ["Bar", "waited_for"]


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


def waited_for[Computed](compute: Callable[[], Computed]) -> Computed:
    """What `compute` gives; Ctrl-C ends the waiting, and what was begun ends unheard.

    It must read no handler of NumPyro's: these are of the thread that waits.
    """
    if threading.current_thread() is not threading.main_thread():
        return compute()
    done: Future[Computed] = Future()
    x64 = jax.config.jax_enable_x64  # of this thread

    def run() -> None:
        try:
            with jax.enable_x64(x64):
                done.set_result(jax.block_until_ready(compute()))
        except BaseException as error:  # noqa: BLE001  # rethrown by who waits
            done.set_exception(error)

    threading.Thread(target=run).start()
    return done.result()
