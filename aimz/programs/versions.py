"""A version of a function: equal ones mean that a trace of it would be the same.

A version stands for all that the function reads beside its arguments, for what users may replace in
JAX and NumPyro, and for JAX's settings. NumPyro's own settings are among what may be replaced.

`name_of` gives plain values a name of this kind, and `name_of_shapes` arguments of a trace.
`remembered` does a thing again only when its name is a new one.
"""

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from numpyro.primitives import _PYRO_STACK

from aimz.programs.caches import Cache
from aimz.programs.tracing import TRACE_LOCK, num_traced, renew_constants
from aimz.reads import Record, UnrecordedError, library_record, record_of

__all__ = ["name_of", "name_of_shapes", "one_look", "remembered", "unversioned", "version_of"]


_MAX_RECORDS = 256


@dataclass
class _Latest:
    """The latest record of an object, or why there is none; keeps the object alive."""

    thing: Any
    record: Record | None = None
    reason: str = "nothing is known of it"
    may_change: bool = True


_RECORDS: Cache[int, _Latest] = Cache(_MAX_RECORDS)
_LIBRARIES = "libraries"


@dataclass
class _Look:
    """What one call has seen of functions, until something was traced: then it looks again."""

    traced: int = -1
    seen: dict[int, tuple[Any, int | None, int | None]] = field(default_factory=dict)


_LOOK: ContextVar[_Look | None] = ContextVar("_LOOK", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """Inside, which is one call of the user's, a function is looked at once, until a trace is made.

    So the call sees the kernel as it was when it was read first. What is made anew is traced, and
    is looked at again before it is kept.

    Examples
    --------
    >>> scale = [2.0]
    >>> def double(x):
    ...     return scale[0] * x
    >>> with one_look():
    ...     before = version_of(double)
    ...     scale[0] = 3.0
    ...     version_of(double) == before
    True
    >>> version_of(double) == before
    False
    """
    token = _LOOK.set(_Look())
    try:
        yield
    finally:
        _LOOK.reset(token)


def version_of(function: Any) -> Hashable | None:
    """Name of all that a trace of a function follows from, beside the arguments of the trace.

    Equal names mean that nothing of it has changed. None means that this cannot be known, as for a
    function that reads a clock: then only a new trace tells.

    Examples
    --------
    >>> scale = [2.0]
    >>> def double(x):
    ...     return scale[0] * x
    >>> before = version_of(double)
    >>> version_of(double) == before
    True
    >>> scale[0] = 3.0
    >>> version_of(double) == before
    False
    """
    context = getattr(sys.modules.get("jax._src.config"), "trace_context", None)
    if context is None:
        return None
    # JAX's settings, and what holds in this thread of those by which JAX names its own traces.
    settings = (context(), *jax.config.values.values())
    plain: list[Hashable] = []
    while _is_wrapper(function):
        function, beside = function.reads
        plain.append(beside)
    with TRACE_LOCK:  # while another thread traces, the stack is its
        if _PYRO_STACK:
            return None
        look, traced = _LOOK.get() or _Look(), num_traced()
        if look.traced != traced:
            look.traced, look.seen = traced, {}
        if id(function) not in look.seen:  # it is kept there, so that the address stays its own
            latest = _RECORDS.get_or_make(id(function), lambda: _Latest(function))
            libraries = _number_of(_RECORDS.get_or_make(0, lambda: _Latest(_LIBRARIES)))
            look.seen[id(function)] = (function, _number_of(latest), libraries)
        _, number, libraries = look.seen[id(function)]
    if number is None or libraries is None:
        return None
    return (number, libraries, settings, *plain)


def unversioned(function: Any) -> str:
    """Why a function has no version; "" if it has one."""
    if version_of(function) is not None:
        return ""
    while _is_wrapper(function):
        function, _ = function.reads
    return _RECORDS.get_or_make(id(function), lambda: _Latest(function)).reason


def _is_wrapper(function: Any) -> bool:
    """Whether it is a wrapper of ours, which says what it wraps and its plain settings."""
    cls = type(function)
    return cls.__module__.startswith("aimz.") and hasattr(cls, "reads")


def remembered[Value](
    cache: Cache[Any, Value], name: Callable[[], Hashable | None], make: Callable[[], Value]
) -> Value:
    """What is made, and made again only when its name is a new one, or None.

    `name` is of all that it follows from. It is asked again afterwards: to make a thing may change
    what it follows from.
    """
    key = name()
    if key is None:
        return make()
    return cache.get_or_make(key, make, lambda: name() == key)


def name_of(value: Any) -> Hashable | None:
    """Name of a value by what it holds, and of a function or an object by all that it reads.

    >>> name_of([1.0, "a"]) == name_of([1.0, "a"]), name_of(1) == name_of(1.0)
    (True, False)
    """
    kind = type(value)
    if value is None or kind in (bool, int, str, bytes):
        return (kind, value)
    if kind in (float, complex):
        return (kind, repr(value))
    if kind in (list, tuple):
        return _joined(kind, map(name_of, value))
    if kind is dict:
        return _joined(kind, map(name_of, (part for item in value.items() for part in item)))
    if isinstance(value, np.generic | np.ndarray) and not value.dtype.hasobject:
        return (kind, value.shape, value.dtype, value.tobytes())
    return version_of(value)


def name_of_shapes(tree: Any) -> Hashable | None:
    """Name of arguments as a trace sees them: containers of arrays; None where others are in them.

    >>> name_of_shapes({"a": np.ones(2)}) == name_of_shapes({"a": np.zeros(2)})
    True
    """
    kind = type(tree)
    if tree is None or kind in (bool, int, float, complex):
        return (kind,)
    if kind in (list, tuple):
        return _joined(kind, map(name_of_shapes, tree))
    if kind is dict:
        return _joined(tuple(tree), map(name_of_shapes, tree.values()))
    if isinstance(tree, jax.core.Tracer):
        return None
    if isinstance(tree, np.ndarray | np.generic | jax.Array):
        return (tree.shape, tree.dtype, getattr(tree, "weak_type", False))
    if kind is jax.ShapeDtypeStruct:
        return (kind, tree.shape, tree.dtype)
    return None


def _joined(kind: object, names: Iterable[Hashable | None]) -> Hashable | None:
    parts = tuple(names)
    return None if any(part is None for part in parts) else (kind, parts)


def _number_of(latest: _Latest) -> int | None:
    """Number of the state that an object is in, or None."""
    if latest.record is not None and latest.record.holds():
        return latest.record.number
    if latest.record is None and not latest.may_change:
        return None
    try:
        is_library = latest.thing is _LIBRARIES
        latest.record = library_record() if is_library else record_of(latest.thing)
        latest.reason = ""
        renew_constants(latest.record.arrays())
    except UnrecordedError as error:
        latest.record, latest.reason, latest.may_change = None, str(error), error.may_change
    return None if latest.record is None else latest.record.number
