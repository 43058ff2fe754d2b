"""Options of the whole process, and the one place that makes progress bars.

What is chosen is kept in the environment, so that worker processes that start later follow it.
"""

import os
import time
from typing import Any, Self

from aimz.choices import check_switches
from aimz.errors import InputError

__all__ = ["chosen_client", "progress_bar", "set_options", "wants_cluster", "wants_progress"]


_PROGRESS, _CLUSTER = "AIMZ_PROGRESS", "AIMZ_CLUSTER"
_CLIENT: list[Any] = [None]  # of the cluster that was chosen; no other process can have it


class set_options:  # noqa: N801  # read as a function, and used in `with` as one
    """Set options for the process, or in a `with` block for its duration.

    Parameters
    ----------
    progress : bool, optional
        False shows no progress bar anywhere, whatever a call asks for; worker processes that start
        later follow. True, the default, lets each call decide.
    cluster : bool or distributed.Client, optional
        False computes in this process although a `distributed.Client` is active. True, the default,
        sends work to the cluster of an active client. A client sends it to that client's cluster,
        whichever is active.

    Raises
    ------
    InputError
        `option-unknown`: an option is neither true nor false, nor a client that waits.

    Examples
    --------
    >>> import aimz
    >>> with aimz.set_options(progress=False):
    ...     pass  # a grid search, say
    """

    def __init__(self, *, progress: bool | None = None, cluster: Any = None) -> None:
        client = cluster if type(cluster).__module__.startswith("distributed.") else None
        check_switches(progress=progress, cluster=cluster if client is None else True)
        if client is not None and client.asynchronous:
            msg = "The client of cluster= is asynchronous. Pass one made with asynchronous=False."
            raise InputError(msg, code="option-unknown")
        self._before = {name: os.environ.get(name) for name in (_PROGRESS, _CLUSTER)}
        self._client_before = _CLIENT[0]
        if cluster is not None:
            _CLIENT[0] = client
        for name, value in ((_PROGRESS, progress), (_CLUSTER, cluster)):
            if value is not None:
                os.environ[name] = "1" if value else "0"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _CLIENT[0] = self._client_before
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def progress_bar(
    total: int | None, *, desc: str, unit: str, shown: bool, **settings: object
) -> Any:
    """A bar that says what it counts, and before it moves that programs are compiled.

    Silent where the call or the process wants none.
    """
    from tqdm.auto import tqdm

    hidden = not wants_progress(asked=shown)
    bar: Any = tqdm(total=total, desc=f"{desc}: compiling", unit=unit, disable=hidden, **settings)
    if not hidden:
        _name_when_it_moves(bar, desc)
    return bar


def _name_when_it_moves(bar: Any, name: str) -> None:
    """At the first step nothing is compiled any more: the time left is told by those after it."""
    advance = bar.update

    def update(steps: float = 1) -> Any:
        if bar.n:
            return advance(steps)
        bar.initial = bar.n = bar.last_print_n = steps
        bar.start_t = bar.last_print_t = time.time()
        bar.set_description_str(name)  # the other doubles the colon
        return True

    bar.update = update


def wants_progress(*, asked: bool) -> bool:
    """Whether a bar is to be shown: the call asks for it and the process allows it."""
    return asked and os.environ.get(_PROGRESS) != "0"


def chosen_client() -> Any:
    """The client that was chosen for the process, if one was."""
    return _CLIENT[0]


def wants_cluster() -> bool:
    """Whether the process sends work to the cluster of an active client."""
    return os.environ.get(_CLUSTER) != "0"
