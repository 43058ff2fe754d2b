"""What makes two programs, or two values, the same: fingerprints that hold across processes."""

import enum
import hashlib
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import jax
import numpy as np
from jax.extend import core

from aimz.arrays import pieces

__all__ = [
    "add_value",
    "fingerprint",
    "fingerprint_values",
    "float_literals",
    "is_float_literal",
    "numbers",
]


# Parameters of these primitives that are not jaxprs only say how to differentiate.
_DERIVATIVE_RULES = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
_INNER_NAMES: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()


class _Digest:
    """A digest in which a size that is the number of rows, if that is told, is a symbol."""

    def __init__(self, rows: int | None = None) -> None:
        self._hashed, self.rows = hashlib.blake2b(digest_size=16), rows
        self.update, self.digest = self._hashed.update, self._hashed.digest
        self.hexdigest = self._hashed.hexdigest

    def sizes(self, shape: Sequence[int]) -> str:
        return ",".join("rows" if size == self.rows else str(size) for size in shape)


def fingerprint(closed: core.ClosedJaxpr, *, values: bool = False, rows: int | None = None) -> str:
    """Name of a traced program; equal names compute the same function of their inputs.

    Constants and top-level float literals count as inputs, unless `values` is true. Where `rows`
    are told, programs at two numbers of rows have equal names if they differ in sizes alone, and
    every size in which they differ is the number of rows.
    """
    digest = _Digest(rows)
    digest.update(repr(jax.config.jax_enable_x64).encode())
    digest.update(repr(jax.config.jax_default_matmul_precision).encode())
    _add_jaxpr(digest, closed.jaxpr, hoist=not values)
    if values:
        for constant in closed.consts:
            add_value(digest, constant)
    return digest.hexdigest()


def numbers(jaxpr: core.Jaxpr) -> set[float]:
    """All scalar literals of a program and of the programs inside it."""
    literals: set[float] = set()
    for eqn in jaxpr.eqns:
        for atom in eqn.invars:
            literal = atom.val if isinstance(atom, core.Literal) else np.nan
            if np.ndim(literal) == 0 and np.isreal(literal) and np.isfinite(literal):
                literals.add(float(literal))
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                literals |= numbers(getattr(value, "jaxpr", value))
    return literals


def fingerprint_values(*values: object) -> str:
    """Name of some pytrees of arrays and plain values, by their values alone.

    >>> fingerprint_values({"a": np.ones(2)}) == fingerprint_values({"a": np.ones(2)})
    True
    """
    digest = _Digest()
    for value in values:
        add_value(digest, value)
    return digest.hexdigest()


def is_float_literal(atom: Any) -> bool:
    """Whether an atom is one floating-point number."""
    return bool(np.issubdtype(atom.aval.dtype, np.floating)) and atom.aval.shape == ()


def float_literals(jaxpr: core.Jaxpr) -> list[Any]:
    """Values of the top-level float literals in reading order; weak types of its precision kept."""
    double = jax.dtypes.canonicalize_dtype(np.float64)
    atoms: list[Any] = [atom for eqn in jaxpr.eqns for atom in eqn.invars]
    atoms += jaxpr.outvars
    return [
        float(atom.val)
        if atom.aval.weak_type and atom.aval.dtype == double
        else np.asarray(atom.val, atom.aval.dtype)
        for atom in atoms
        if _is_literal(atom) and is_float_literal(atom)
    ]


def _is_literal(atom: object) -> bool:
    return isinstance(atom, core.Literal)


def _add_jaxpr(digest: _Digest, jaxpr: core.Jaxpr, *, hoist: bool) -> None:
    """Feed a jaxpr's structure: equations, types, parameters; variables by order of appearance."""
    names: dict[Any, int] = {}

    def text_of(aval: Any) -> str:
        if digest.rows is None or digest.rows not in getattr(aval, "shape", ()):
            return _type_text(aval)
        return f"{aval.dtype}[{digest.sizes(aval.shape)}]"

    def atom_text(atom: Any) -> str:
        if _is_literal(atom):
            if hoist and is_float_literal(atom):
                return f"float:{text_of(atom.aval)}:{atom.aval.weak_type}"
            value = np.asarray(atom.val)
            return f"literal:{text_of(atom.aval)}:{atom.aval.weak_type}:{value.tobytes().hex()}"
        return f"v{names.setdefault(atom, len(names))}:{text_of(atom.aval)}"

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
            add_value(digest, value)
        digest.update(f"->{','.join(map(atom_text, eqn.outvars))};".encode())
    digest.update(",".join(map(atom_text, jaxpr.outvars)).encode())


def _inner_name(jaxpr: core.Jaxpr, rows: int | None) -> bytes:
    """Name of a program inside another; JAX keeps and shares those of library functions."""
    name = _INNER_NAMES.get(jaxpr) if rows is None else None
    if name is None:
        digest = _Digest(rows)
        _add_jaxpr(digest, jaxpr, hoist=False)
        name = digest.digest()
        if rows is None:
            _INNER_NAMES[jaxpr] = name
    return name


@lru_cache(maxsize=4096)
def _type_text(aval: jax.core.AbstractValue) -> str:
    text: str = aval.str_short()
    return text


def _is_jaxpr(value: object) -> TypeGuard[core.Jaxpr]:
    return hasattr(value, "eqns")


def add_value(digest: "_Digest | hashlib.blake2b", value: object) -> None:
    """Feed a parameter or constant by value; an opaque object by its address."""
    if _is_jaxpr(value):
        rows = getattr(digest, "rows", None)
        digest.update(_inner_name(getattr(value, "jaxpr", value), rows))
        for constant in getattr(value, "consts", ()):
            add_value(digest, constant)
    elif isinstance(value, tuple | list):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        for item in value:
            add_value(digest, item)
    elif isinstance(value, dict):
        for item in value.items():
            add_value(digest, item)
    elif isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        digest.update(repr(value.dtype).encode())
        add_value(digest, jax.random.key_data(value))
    elif isinstance(value, np.ndarray) and isinstance(value.base, np.memmap):
        _add_file(digest, value)
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    elif type(value) is int and isinstance(digest, _Digest):
        digest.update(f"int:{digest.sizes([value])}".encode())
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | enum.Enum):
        digest.update(f"{type(value).__name__}:{value!r}".encode())
    else:
        _add_object(digest, value)


def _add_file(digest: "_Digest | hashlib.blake2b", array: np.ndarray) -> None:
    """Feed an array whose numbers are in a file, as one in memory."""
    digest.update(f"{array.dtype}{array.shape}".encode())
    for piece in pieces(array, 2**16):
        digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)


def _add_object(digest: "_Digest | hashlib.blake2b", value: Any) -> None:
    """Feed an opaque parameter."""
    if hasattr(value, "in_avals") and hasattr(value, "params"):
        # A primitive that JAX makes anew at each trace: what it computes is its type and these.
        digest.update(f"{type(value).__module__}.{type(value).__qualname__}".encode())
        add_value(digest, [str(aval) for aval in jax.tree.leaves(value.in_avals)])
        add_value(digest, dict(value.params))
        return
    if hasattr(value, "key_shape") and hasattr(value, "random_bits"):  # a kind of random key
        digest.update(f"{value.name}{value.key_shape}".encode())
        for function in (value.seed, value.split, value.random_bits, value.fold_in):
            add_value(digest, function)
        return
    if _is_fixed(value):  # equal in every process, so that a stored result can be recognised
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
        return
    digest.update(f"{type(value).__name__}:{value!r}:".encode())
    if isinstance(value, jax.sharding.Mesh):
        digest.update(str(value.devices.ravel().tolist()).encode())
    elif callable(value) and not isinstance(value, type):
        digest.update(str(id(value)).encode())


def _is_fixed(value: Callable[..., Any]) -> bool:
    """Whether a function is one of a library's, found under its own name."""
    module, name = getattr(value, "__module__", None) or "", getattr(value, "__qualname__", "")
    if module.partition(".")[0] not in ("aimz", "jax", "numpyro"):
        return False
    return getattr(sys.modules.get(module), name, None) is value
