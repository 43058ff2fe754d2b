"""A version of a function: equal ones mean that a trace of it would be the same.

A version stands for all that the function reads beside its arguments, for what users may replace in
JAX and NumPyro, and for JAX's settings. NumPyro's own settings are among what may be replaced.
"""

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import jax
from numpyro.primitives import _PYRO_STACK

from aimz.programs.caches import Cache
from aimz.programs.tracing import TRACE_LOCK
from aimz.reads import Record, UnrecordedError, library_record, record_of

__all__ = ["unversioned", "version_of"]


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
    settings = _settings()
    if settings is None:
        return None
    plain: list[Hashable] = []
    while type(function).__module__.startswith("aimz."):  # a wrapper of ours, which says so
        function, beside = function.reads
        plain.append(beside)
    with TRACE_LOCK:  # while another thread traces, the stack is its
        if _PYRO_STACK:
            return None
        libraries = _number_of(_RECORDS.get_or_make(0, lambda: _Latest(_LIBRARIES)))
        latest = _RECORDS.get_or_make(id(function), lambda: _Latest(function))
        number = _number_of(latest)
    if number is None or libraries is None:
        return None
    return (number, libraries, settings, *plain)


def unversioned(function: Any) -> str:
    """Why a function has no version; "" if it has one."""
    if version_of(function) is not None:
        return ""
    while type(function).__module__.startswith("aimz."):
        function, _ = function.reads
    return _RECORDS.get_or_make(id(function), lambda: _Latest(function)).reason


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
    except UnrecordedError as error:
        latest.record, latest.reason, latest.may_change = None, str(error), error.may_change
    return None if latest.record is None else latest.record.number


def _settings() -> Hashable | None:
    """JAX's settings, and what holds in this thread of those by which JAX names its own traces."""
    config: Any = sys.modules.get("jax._src.config")
    context = getattr(config, "trace_context", None)
    if context is None:
        return None
    return (context(), *jax.config.values.values())
