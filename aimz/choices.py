"""What a user may choose: options of a method, and those of the whole process.

What is no such choice, such as data of the same name, is refused by name. What is chosen for the
process is kept in the environment, so that worker processes that start later follow it. The one
place that makes progress bars stands with the option that silences them.
"""

import os
import time
from collections.abc import Sequence
from typing import Any, Self, TypeGuard

import jax
import numpy as np

from aimz.errors import InputError

__all__ = [
    "bounds_of",
    "check_choice",
    "check_interval",
    "check_switches",
    "chosen_client",
    "devices_in_use",
    "names_of",
    "number_of",
    "progress_bar",
    "quantiles_of",
    "set_options",
    "shown",
    "wants_cluster",
    "wants_progress",
]


_PROGRESS, _CLUSTER = "AIMZ_PROGRESS", "AIMZ_CLUSTER"
_CLIENT: list[Any] = [None]  # of the cluster that was chosen; no other process can have it


def check_choice(value: object, name: str, valid: Sequence[str]) -> None:
    """Refuse what is none of the words that an option has.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    if not isinstance(value, str) or value not in valid:
        *first, last = map(repr, valid)
        listed = f"{', '.join(first)} or {last}" if first else last
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


def check_interval(ci_prob: object, ci_kind: object) -> None:
    """Refuse a probability or a kind that no interval has; None is ArviZ's own.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    if ci_kind is not None:
        check_choice(ci_kind, "ci_kind", ("eti", "hdi"))
    if ci_prob is not None and not (_is_number(ci_prob) and 0 < ci_prob <= 1):
        msg = f"ci_prob is a number above 0 and up to 1, such as 0.9, not {shown(ci_prob)}."
        raise InputError(msg, code="option-unknown")


def quantiles_of(value: object, option: str) -> tuple[float, ...]:
    """The quantiles that an option lists, or the one that it is.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    is_list = isinstance(value, Sequence | np.ndarray) and np.ndim(value) > 0
    listed: list[Any] = [*value] if is_list else [value]  # type: ignore[misc]  # told by is_list
    if not listed or not all(_is_number(q) and 0 <= q <= 1 for q in listed):
        msg = f"{option} are numbers between 0 and 1, such as [0.05, 0.95], not {shown(value)}."
        raise InputError(msg, code="option-unknown")
    return tuple(map(float, listed))


def bounds_of(value: Any, option: str) -> tuple[float, float]:
    """Two numbers, the lower one first.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    is_pair = isinstance(value, Sequence | np.ndarray) and np.shape(value) == (2,)
    if not is_pair or not all(map(_is_number, value)) or not value[0] <= value[1]:
        msg = f"{option} is two numbers, the lower one first, not {shown(value)}."
        raise InputError(msg, code="option-unknown")
    return float(value[0]), float(value[1])


def number_of(value: object, option: str) -> float:
    """A number that is finite.

    Raises
    ------
    InputError
        `option-unknown`.
    """
    if not _is_number(value) or not np.isfinite(value):
        raise InputError(f"{option} is a number, not {shown(value)}.", code="option-unknown")
    return float(value)


def _is_number(value: object) -> TypeGuard[float]:
    is_bool = isinstance(value, bool | np.bool_)
    return isinstance(value, int | float | np.integer | np.floating) and not is_bool


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


def devices_in_use() -> list[Any]:
    """Devices to use: JAX's default device where one was chosen, else all local ones."""
    chosen = jax.config.jax_default_device
    if chosen is not None:
        return [chosen] if not isinstance(chosen, str) else jax.local_devices(backend=chosen)[:1]
    return list(jax.local_devices())
