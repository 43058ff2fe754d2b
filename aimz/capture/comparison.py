"""Whether two objects are made of the same pieces: a kernel, and what its captured file makes."""

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from aimz.arrays import Array
from aimz.capture.definitions import is_alike
from aimz.capture.names import GONE
from aimz.reads import globals_read, is_of_library

__all__ = ["Comparison"]


_JITTED, _CACHED = type(jax.jit(len)), type(functools.lru_cache(len))
# What Python and its libraries put into a class by themselves.
_MACHINERY = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.BuiltinFunctionType,
)
_PLAIN = (bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType)


class Comparison:
    """Whether two objects are made of the same pieces."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[Any, Any]] = {}

    def difference(self, one: object, other: object, place: tuple[str, ...]) -> tuple[str, ...]:
        """Names that lead to where two objects differ, none where they do not."""
        if one is other or (id(one), id(other)) in self._seen:
            return ()
        self._seen[id(one), id(other)] = (one, other)
        if _type_name(one) != _type_name(other):
            return place
        if isinstance(one, jax.Array | np.ndarray | np.generic):
            return () if _equal_arrays(one, other) else place
        if type(one) in _PLAIN:
            return () if repr(one) == repr(other) else place
        for name, a, b in self._pieces(one, other):
            place_inside = self.difference(a, b, (*place, name)) if b is not GONE else place
            if place_inside:
                return place_inside
        return () if self._is_whole(one, other) else place

    def _is_whole(self, one: object, other: Any) -> bool:
        if isinstance(one, types.FunctionType):
            renamed = one.__code__.co_freevars != other.__code__.co_freevars
            return renamed or is_alike(one.__code__, other.__code__)
        if isinstance(one, types.ModuleType):
            return False
        if isinstance(one, list | tuple | dict | set | frozenset):
            return len(one) == len(other)
        return True

    def _pieces(self, one: object, other: Any) -> Iterator[tuple[str, Any, Any]]:
        if isinstance(one, types.FunctionType):
            yield from _function_pieces(one, other)
        elif isinstance(one, type):
            yield from _class_pieces(one, other)
        elif isinstance(one, dict | list | tuple | set | frozenset):
            yield from _items(one, other)
        elif isinstance(one, functools.partial):
            yield "func", one.func, other.func
            yield "args", (one.args, one.keywords), (other.args, other.keywords)
        elif isinstance(one, (_JITTED, _CACHED)):
            yield "__wrapped__", vars(one)["__wrapped__"], vars(other)["__wrapped__"]
            yield "options", _options(one), _options(other)
        elif not isinstance(one, types.ModuleType):
            yield "class", type(one), type(other)
            a, b = one.__reduce_ex__(4), other.__reduce_ex__(4)
            if isinstance(a, str) or isinstance(b, str):
                yield "name", a, b
            else:
                for x, y in zip(_contents(a), _contents(b), strict=True):
                    yield "state", x, y


def _items(one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict):
        yield from ((str(k), one[k], other.get(k, GONE)) for k in one if type(k) in _PLAIN)
    elif isinstance(one, list | tuple):
        yield from ((str(n), a, b) for n, (a, b) in enumerate(zip(one, other, strict=False)))
    else:
        yield "items", sorted(map(repr, one)), sorted(map(repr, other))


def _class_pieces(one: type, other: type) -> Iterator[tuple[str, Any, Any]]:
    for name, value in vars(one).items():
        is_users = isinstance(value, types.FunctionType) and not is_of_library(value)
        if not is_users and (name.startswith("__") or isinstance(value, _MACHINERY)):
            continue
        theirs = vars(other).get(name, GONE)
        if isinstance(value, staticmethod | classmethod) and theirs is not GONE:
            yield name, value.__func__, theirs.__func__
        elif isinstance(value, property) and theirs is not GONE:
            yield name, value.fget, theirs.fget
            yield name, value.fset, theirs.fset
        else:
            yield name, value, theirs


def _function_pieces(
    one: types.FunctionType, other: types.FunctionType
) -> Iterator[tuple[str, Any, Any]]:
    yield "defaults", one.__defaults__, other.__defaults__
    yield "defaults", one.__kwdefaults__, other.__kwdefaults__
    ours, theirs = _variables(one), _variables(other)
    for name in globals_read(one.__code__) | set(one.__code__.co_freevars):
        if name in ours:
            yield name, ours[name], theirs.get(name, GONE)
    wrapped = getattr(one, "__wrapped__", None)
    if wrapped is not None:
        yield "__wrapped__", wrapped, getattr(other, "__wrapped__", GONE)


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    if isinstance(function, _CACHED):
        return dict(function.cache_parameters())
    state: Any = function.__reduce_ex__(4)[2]
    return {name: state.get(name) for name in ("static_argnums", "static_argnames")}


def _variables(function: types.FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {**function.__globals__, **{n: c.cell_contents for n, c in cells if _is_set(c)}}


def _is_set(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not GONE
    except ValueError:
        return False


def _contents(reduced: tuple[Any, ...]) -> list[Any]:
    """Arguments, state and items of an object as `copy` takes it apart."""
    contents = (*reduced, None, None, None)[1:5]
    return [list(content) if isinstance(content, Iterator) else content for content in contents]


def _type_name(value: object) -> tuple[str, str]:
    return type(value).__module__, type(value).__qualname__


def _equal_arrays(one: Array | np.generic, other: Any) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if isinstance(one, jax.Array) and jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    if one.dtype == object:
        return [repr(a) for a in one.ravel()] == [repr(b) for b in other.ravel()]
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()
