"""Traced programs: how they are recognised, compiled once and reused.

A kernel may read globals, attributes and closures, so the only sound way to know what it computes
is to trace it. `compile_program` traces afresh at each call (a few milliseconds), recognises the
program by the structure of its jaxpr, and reuses the executable. Constants and floating-point
literals are inputs of the executable: a kernel in which only a value changed compiles nothing.

NumPyro's handler stack is one global list, so tracing happens under one lock.
"""

import enum
import hashlib
import itertools
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core

from aimz.errors import ProcessError

__all__ = [
    "TRACE_LOCK",
    "Bound",
    "clear_programs",
    "compile_program",
    "fingerprint",
    "fingerprint_values",
    "forget_traces",
    "num_compiled",
    "numbers",
    "program_stats",
    "shared_traces",
    "trace",
]

TRACE_LOCK = threading.RLock()

_MAX_PROGRAMS = 512
_MAX_TRACES = 64
_TRACES = itertools.count(1)
# Parameters of these primitives that are not jaxprs only say how to differentiate.
_DERIVATIVE_RULES = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})


@dataclass(frozen=True)
class _Program:
    run: Any
    jaxpr: Any  # kept alive: the fingerprint may name objects by address


@dataclass(frozen=True)
class Bound:
    """A compiled program with the constants and literals of one trace."""

    program: _Program
    name: str
    constants: list[Any]
    literals: list[Any]
    shapes: Any  # of what it returns

    def __call__(self, *inputs: Any) -> Any:
        flat = self.program.run(self.constants, self.literals, jax.tree.leaves(inputs))
        return jax.tree.unflatten(jax.tree.structure(self.shapes), flat)

    def check(self, *inputs: Any) -> None:
        """Raise a TypeError or ValueError if the program does not fit together.

        JAX gives a constant of NumPy in the precision in which another program holds it: then a
        program in the other precision cannot be built.
        """
        if self.name not in _CACHE.sound:
            self.program.run.lower(self.constants, self.literals, jax.tree.leaves(inputs))
            _CACHE.sound.add(self.name)

    @property
    def identity(self) -> str:
        """Name of the program and of every value in it."""
        digest = hashlib.blake2b(self.name.encode(), digest_size=16)
        for value in (*self.constants, *self.literals):
            _add_value(digest, value)
        return digest.hexdigest()


@dataclass
class _Cache:
    programs: OrderedDict[str, _Program] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    sound: set[str] = field(default_factory=set)
    traced: int = 0
    made: int = 0
    is_forked: bool = False


_CACHE = _Cache()
_INNER_NAMES: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()


def _mark_forked() -> None:
    """In a forked child: JAX's threads are gone, and locks may be held by nobody."""
    bridge: Any = sys.modules.get("jax._src.xla_bridge")
    started = getattr(bridge, "backends_are_initialized", lambda: False)()
    _CACHE.is_forked = _CACHE.is_forked or _CACHE.traced > 0 or bool(started)
    for lock in (TRACE_LOCK, _CACHE.lock):
        reset: Any = getattr(lock, "_at_fork_reinit", None)  # as threading does with its own
        reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def trace(
    fn: Callable[..., Any], *args: Any, version: str | None = None
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
    if _CACHE.is_forked:
        msg = (
            "This process was forked from one in which JAX had started, and would hang. Start "
            "workers by 'spawn' or 'forkserver', or let joblib do so (its loky backend does)."
        )
        raise ProcessError(msg, code="forked")
    # JAX remembers traces by function identity, also those of nested jitted functions and scan
    # bodies, and so would miss a changed global that they read. Metadata is part of what its
    # caches are keyed by: a new number makes every function inside be traced anew.
    with TRACE_LOCK:
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


def _as_traced(constant: Any, aval: Any) -> Any:
    """A constant in the precision that its program computes in; a copy, if it is one of NumPy.

    While the array that JAX made of it lives, JAX takes that one in the other precision, too.
    """
    if not isinstance(constant, np.ndarray):
        return constant
    return np.array(constant, jax.dtypes.canonicalize_dtype(aval.dtype))


def forget_traces() -> None:
    """Empty JAX's one cache of traces that has no limit; what it has compiled stays."""
    partial_eval: Any = sys.modules.get("jax._src.interpreters.partial_eval")
    cache = getattr(partial_eval, "trace_to_jaxpr", None)
    getattr(cache, "cache_clear", lambda: None)()


def compile_program(fn: Callable[..., Any], *args: Any, version: str | None = None) -> Bound:
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
    with _CACHE.lock:
        _CACHE.traced += 1
        program = _CACHE.programs.get(key)
        if program is None:
            program = _Program(_executable(closed.jaxpr), closed.jaxpr)
            _CACHE.programs[key] = program
            _CACHE.made += 1
            if len(_CACHE.programs) > _MAX_PROGRAMS:
                _CACHE.programs.popitem(last=False)
        _CACHE.programs.move_to_end(key)
    return Bound(program, key, list(closed.consts), _float_literals(closed.jaxpr), shapes)


def num_compiled() -> int:
    """Number of distinct programs made so far in this process."""
    return _CACHE.made


def program_stats() -> dict[str, int]:
    """Counts of traces taken and programs made so far in this process."""
    return {"traced": _CACHE.traced, "made": _CACHE.made, "kept": len(_CACHE.programs)}


def clear_programs() -> None:
    """Forget every compiled program."""
    with _CACHE.lock:
        _CACHE.programs.clear()


def fingerprint(closed: core.ClosedJaxpr, *, values: bool = False) -> str:
    """Name of a traced program; equal names compute the same function of their inputs.

    Constants and top-level float literals count as inputs, unless `values` is true.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(jax.config.jax_enable_x64).encode())
    digest.update(repr(jax.config.jax_default_matmul_precision).encode())
    _add_jaxpr(digest, closed.jaxpr, hoist=not values)
    if values:
        for constant in closed.consts:
            _add_value(digest, constant)
    return digest.hexdigest()


def numbers(jaxpr: Any) -> set[float]:
    """All scalar literals of a program and of the programs inside it."""
    found: set[float] = set()
    for eqn in jaxpr.eqns:
        for atom in eqn.invars:
            is_number = _is_literal(atom) and np.ndim(atom.val) == 0 and np.isreal(atom.val)
            if is_number and np.isfinite(atom.val):
                found.add(float(atom.val))
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                found |= numbers(getattr(value, "jaxpr", value))
    return found


def fingerprint_values(*values: Any) -> str:
    """Name of some pytrees of arrays and plain values, by their values alone.

    >>> fingerprint_values({"a": np.ones(2)}) == fingerprint_values({"a": np.ones(2)})
    True
    """
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        _add_value(digest, value)
    return digest.hexdigest()


def _executable(jaxpr: Any) -> Callable[..., list[Any]]:
    """A jitted function of (constants, hoisted literals, flat inputs)."""

    def evaluate(constants: list[Any], literals: list[Any], inputs: list[Any]) -> list[Any]:
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        values.update(zip(jaxpr.invars, inputs, strict=True))
        hoisted = iter(literals)

        def read(atom: Any) -> Any:
            if not isinstance(atom, core.Literal):
                return values[atom]
            return next(hoisted) if _is_float_literal(atom) else atom.val

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            params = eqn.primitive.get_bind_params(eqn.params)
            results = eqn.primitive.bind(*operands, **params)
            outputs = results if eqn.primitive.multiple_results else [results]
            values.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    return jax.jit(evaluate)


def _is_float_literal(atom: Any) -> bool:
    return bool(np.issubdtype(atom.aval.dtype, np.floating)) and atom.aval.shape == ()


def _float_literals(jaxpr: Any) -> list[Any]:
    """Values of the top-level float literals in reading order; weak types of its precision kept."""
    own = jax.dtypes.canonicalize_dtype(np.float64)
    atoms: list[Any] = [atom for eqn in jaxpr.eqns for atom in eqn.invars]
    atoms += jaxpr.outvars
    return [
        float(atom.val)
        if atom.aval.weak_type and atom.aval.dtype == own
        else np.asarray(atom.val, atom.aval.dtype)
        for atom in atoms
        if _is_literal(atom) and _is_float_literal(atom)
    ]


def _is_literal(atom: Any) -> bool:
    return isinstance(atom, core.Literal)


def _add_jaxpr(digest: Any, jaxpr: Any, *, hoist: bool) -> None:
    """Feed a jaxpr's structure: equations, types, parameters; variables by order of appearance."""
    names: dict[Any, int] = {}

    def atom_text(atom: Any) -> str:
        if _is_literal(atom):
            if hoist and _is_float_literal(atom):
                return f"float:{_type_text(atom.aval)}:{atom.aval.weak_type}"
            value = np.asarray(atom.val)
            return f"literal:{_type_text(atom.aval)}:{atom.aval.weak_type}:{value.tobytes().hex()}"
        return f"v{names.setdefault(atom, len(names))}:{_type_text(atom.aval)}"

    for atom in (*jaxpr.constvars, *jaxpr.invars):
        weak = getattr(atom.aval, "weak_type", False)
        digest.update(f"{atom_text(atom)}:{weak};".encode())
    for eqn in jaxpr.eqns:
        digest.update(f"{eqn.primitive.name}({','.join(map(atom_text, eqn.invars))})".encode())
        for name in sorted(eqn.params):
            value = eqn.params[name]
            if eqn.primitive.name in _DERIVATIVE_RULES and not _is_jaxpr(value):
                continue
            digest.update(f"[{name}=".encode())
            _add_value(digest, value)
        digest.update(f"->{','.join(map(atom_text, eqn.outvars))};".encode())
    digest.update(",".join(map(atom_text, jaxpr.outvars)).encode())


def _inner_name(jaxpr: Any) -> bytes:
    """Name of a program inside another; JAX keeps and shares those of library functions."""
    name = _INNER_NAMES.get(jaxpr)
    if name is None:
        digest = hashlib.blake2b(digest_size=16)
        _add_jaxpr(digest, jaxpr, hoist=False)
        name = _INNER_NAMES[jaxpr] = digest.digest()
    return name


@lru_cache(maxsize=4096)
def _type_text(aval: Any) -> str:
    text: str = aval.str_short()
    return text


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


def _add_value(digest: Any, value: Any) -> None:
    """Feed a parameter or constant by value; an opaque object by its address."""
    if _is_jaxpr(value):
        digest.update(_inner_name(getattr(value, "jaxpr", value)))
        for constant in getattr(value, "consts", ()):
            _add_value(digest, constant)
    elif isinstance(value, tuple | list):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        for item in value:
            _add_value(digest, item)
    elif isinstance(value, dict):
        for item in value.items():
            _add_value(digest, item)
    elif isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        digest.update(repr(value.dtype).encode())
        _add_value(digest, jax.random.key_data(value))
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | enum.Enum):
        digest.update(f"{type(value).__name__}:{value!r}".encode())
    else:
        _add_object(digest, value)


def _add_object(digest: Any, value: Any) -> None:
    """Feed an opaque parameter."""
    if hasattr(value, "in_avals") and hasattr(value, "params"):
        # A primitive that JAX makes anew at each trace: what it computes is its type and these.
        digest.update(f"{type(value).__module__}.{type(value).__qualname__}".encode())
        _add_value(digest, [str(aval) for aval in jax.tree.leaves(value.in_avals)])
        _add_value(digest, dict(value.params))
        return
    if hasattr(value, "key_shape") and hasattr(value, "random_bits"):  # a kind of random key
        digest.update(f"{value.name}{value.key_shape}".encode())
        for function in (value.seed, value.split, value.random_bits, value.fold_in):
            _add_value(digest, function)
        return
    if _is_fixed(value):  # equal in every process, so that a stored result can be recognised
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
        return
    digest.update(f"{type(value).__name__}:{value!r}:".encode())
    if isinstance(value, jax.sharding.Mesh):
        digest.update(str(value.devices.ravel().tolist()).encode())
    elif callable(value) and not isinstance(value, type):
        digest.update(str(id(value)).encode())


def _is_fixed(value: Any) -> bool:
    """Whether a function is one of a library's, found under its own name."""
    module, name = getattr(value, "__module__", None) or "", getattr(value, "__qualname__", "")
    if module.partition(".")[0] not in ("aimz", "jax", "numpyro"):
        return False
    return getattr(sys.modules.get(module), name, None) is value
