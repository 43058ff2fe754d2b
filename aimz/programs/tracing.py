"""Traced programs: how they are recognised, compiled once and reused.

A kernel may read globals, attributes and closures. Where `version_of` cannot say that nothing of
it has changed, the only sound way to know what it computes is to trace it. `compile_program` traces
afresh at each call (a few milliseconds), recognises the program by the structure of its jaxpr, and
reuses the executable. Constants and floating-point literals are inputs of the executable: a kernel
in which only a value changed compiles nothing.

NumPyro's handler stack is one global list, so tracing happens under one lock.
"""

import hashlib
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core

from aimz.arrays import Array
from aimz.errors import ProcessError
from aimz.programs.caches import Cache, clear_caches, forget_holders
from aimz.programs.fingerprints import add_value, fingerprint, float_literals, is_float_literal
from aimz.programs.sizes import widest_value

__all__ = [
    "TRACE_LOCK",
    "Bound",
    "clear_programs",
    "compile_program",
    "forget_traces",
    "num_compiled",
    "num_traced",
    "program_stats",
    "renew_constants",
    "shared_traces",
    "trace",
]


TRACE_LOCK = threading.RLock()
_MAX_PROGRAMS = 512
_MAX_TRACES = 64
_TRACES = itertools.count(1)


@dataclass
class _Program:
    run: Any
    jaxpr: Any  # kept alive: the fingerprint may name objects by address
    widest: int  # bytes of the largest value on the way
    is_sound: bool = False  # it is known to fit together
    temp_bytes: int | None = None  # of memory beside inputs and results, once somebody asks


@dataclass(frozen=True)
class Bound:
    """A compiled program with the constants and literals of one trace."""

    program: _Program
    name: str
    constants: list[Any]
    literals: list[Any]
    shapes: Any  # of what it returns

    def __call__(self, *inputs: object) -> Any:
        if _PROCESS.is_forked:
            raise _forked_error()
        flat = self.program.run(self.constants, self.literals, jax.tree.leaves(inputs))
        return jax.tree.unflatten(jax.tree.structure(self.shapes), flat)

    def check(self, *inputs: object) -> None:
        """Raise a TypeError or ValueError if the program does not fit together.

        JAX gives a constant of NumPy in the precision in which another program holds it: then a
        program in the other precision cannot be built.
        """
        if not self.program.is_sound:
            self.program.run.lower(self.constants, self.literals, jax.tree.leaves(inputs))
            self.program.is_sound = True

    def temp_bytes(self, *inputs: object) -> int:
        """Bytes of memory that a run takes beside its inputs and results; compiles the program."""
        if self.program.temp_bytes is None:
            lowered = self.program.run.lower(self.constants, self.literals, jax.tree.leaves(inputs))
            told = lowered.compile().memory_analysis()  # not every backend tells
            self.program.temp_bytes = int(getattr(told, "temp_size_in_bytes", 0))
        return self.program.temp_bytes

    @property
    def identity(self) -> str:
        """Name of the program and of every value in it."""
        digest = hashlib.blake2b(self.name.encode(), digest_size=16)
        for value in (*self.constants, *self.literals):
            add_value(digest, value)
        return digest.hexdigest()


@dataclass
class _Process:
    """What has happened in this process."""

    traced: int = 0
    is_forked: bool = False


_PROGRAMS: Cache[str, _Program] = Cache(_MAX_PROGRAMS)
_PROCESS = _Process()


def _mark_forked() -> None:
    """In a forked child: JAX's threads are gone, and locks may be held by nobody."""
    bridge: Any = sys.modules.get("jax._src.xla_bridge")
    started = getattr(bridge, "backends_are_initialized", lambda: False)()
    _PROCESS.is_forked = _PROCESS.is_forked or _PROCESS.traced > 0 or bool(started)
    reset: Any = getattr(TRACE_LOCK, "_at_fork_reinit", None)  # as threading does with its own
    reset()
    forget_holders()


def _forked_error() -> ProcessError:
    msg = (
        "This process was forked from one in which JAX had started, and would hang. Start workers "
        "by 'spawn' or 'forkserver', or let joblib do so (its loky backend does)."
    )
    return ProcessError(msg, code="forked")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def trace(
    fn: Callable[..., Any], *args: object, version: str | None = None
) -> tuple[core.ClosedJaxpr, Any]:
    """Trace `fn(*args)` afresh; returns the jaxpr and the output's shapes as a pytree.

    The arguments are pytrees of arrays or of `jax.ShapeDtypeStruct`. Traces with the same
    `version`, a fingerprint of everything that `fn` reads, may share JAX's traces of the functions
    inside.

    >>> import jax.numpy as jnp
    >>> closed, shapes = trace(lambda x: {"twice": 2 * x}, jnp.ones(3))
    >>> shapes["twice"].shape
    (3,)
    """
    if _PROCESS.is_forked:
        raise _forked_error()
    # JAX remembers traces by function identity, also those of nested jitted functions and scan
    # bodies, and so would miss a changed global that they read. Metadata is part of what its
    # caches are keyed by: a new number makes every function inside be traced anew.
    with TRACE_LOCK:
        _PROCESS.traced += 1
        number = 0 if version else next(_TRACES)
        if number % _MAX_TRACES == _MAX_TRACES - 1:
            forget_traces()
        with set_xla_metadata(trace=version or f"trace {number}"):
            closed, shapes = jax.make_jaxpr(lambda *inputs: fn(*inputs), return_shape=True)(*args)
    held = zip(closed.jaxpr.constvars, closed.consts, strict=True)
    consts = [_as_traced(value, variable.aval) for variable, value in held]
    return core.ClosedJaxpr(closed.jaxpr, consts), shapes


def shared_traces() -> AbstractContextManager[Any]:
    """Inside, JAX may reuse its traces: for functions that read nothing but their arguments."""
    context: AbstractContextManager[Any] = set_xla_metadata(trace="shared")
    return context


def _as_traced(constant: Array, aval: Any) -> Any:
    """A constant in the precision that its program computes in; a copy, if it is one of NumPy.

    While the array that JAX made of it lives, JAX takes that one in the other precision, too.
    """
    if not isinstance(constant, np.ndarray):
        return constant
    return np.array(constant, jax.dtypes.canonicalize_dtype(aval.dtype))


def renew_constants(arrays: Iterable[np.ndarray]) -> None:
    """Bring what JAX has made of NumPy's arrays to the values that these have now.

    An array in a precision in which JAX does not compute is converted once, and JAX takes that copy
    as long as it lives, whatever has been written into the array since.
    """
    convert: Any = getattr(sys.modules.get("jax._src.dtypes"), "canonicalize_value", None)
    for array in arrays if convert is not None else ():
        if array.dtype.kind not in "biufc":
            continue
        made = convert(array)
        if isinstance(made, np.ndarray) and not np.shares_memory(made, array):
            np.copyto(made.view(np.ndarray), array, casting="unsafe")


def forget_traces() -> None:
    """Empty JAX's one cache of traces that has no limit; what it has compiled stays."""
    partial_eval: Any = sys.modules.get("jax._src.interpreters.partial_eval")
    cache = getattr(partial_eval, "trace_to_jaxpr", None)
    getattr(cache, "cache_clear", lambda: None)()


def compile_program(fn: Callable[..., Any], *args: object, version: str | None = None) -> Bound:
    """Compile `fn` for arguments shaped like `args`, or find the program that does the same.

    Parameters
    ----------
    fn : callable
        A function from pytrees of arrays to a pytree of arrays.
    *args : pytree of arrays
        Arguments, or `jax.ShapeDtypeStruct`s, that say the shapes and dtypes.
    version : str, optional
        As in `trace`.

    Returns
    -------
    Bound
        A callable: takes arguments of the same structure, returns what `fn` returns.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> scale = 2.0
    >>> double = compile_program(lambda x: scale * x, jnp.ones(3))
    >>> made = num_compiled()
    >>> scale = 3.0
    >>> triple = compile_program(lambda x: scale * x, jnp.ones(3))
    >>> float(triple(jnp.ones(3))[0]), num_compiled() - made
    (3.0, 0)
    """
    closed, shapes = trace(fn, *args, version=version)
    key = fingerprint(closed)
    program = _PROGRAMS.get_or_make(key, lambda: _program(closed.jaxpr))
    return Bound(program, key, list(closed.consts), float_literals(closed.jaxpr), shapes)


def num_compiled() -> int:
    """Number of distinct programs made so far in this process."""
    return _PROGRAMS.made


def num_traced() -> int:
    """Number of traces taken so far in this process."""
    return _PROCESS.traced


def program_stats() -> dict[str, int]:
    """Counts of traces taken and programs made so far in this process."""
    return {"traced": _PROCESS.traced, "made": _PROGRAMS.made, "kept": len(_PROGRAMS)}


def clear_programs() -> None:
    """Forget every compiled program, and all else that was kept to save time."""
    clear_caches()
    forget_traces()


def _program(jaxpr: core.Jaxpr) -> _Program:
    return _Program(_executable(jaxpr), jaxpr, widest_value(jaxpr))


def _executable(jaxpr: core.Jaxpr) -> Callable[..., list[Any]]:
    """A jitted function of (constants, hoisted literals, flat inputs)."""

    def evaluate(constants: list[Any], literals: list[Any], inputs: list[Any]) -> list[Any]:
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        values.update(zip(jaxpr.invars, inputs, strict=True))
        hoisted = iter(literals)

        def read(atom: core.Var | core.Literal) -> Any:
            if not isinstance(atom, core.Literal):
                return values[atom]
            return next(hoisted) if is_float_literal(atom) else atom.val

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            params = eqn.primitive.get_bind_params(eqn.params)
            results = eqn.primitive.bind(*operands, **params)
            outputs = results if eqn.primitive.multiple_results else [results]
            values.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    return jax.jit(evaluate)
