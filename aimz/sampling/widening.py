"""A function of the natural value gets numbers that do not wrap around.

Narrow numbers wrap (`uint8`: 0 - 1 is 255) and 32 bits overflow without a word, in NumPy, pandas,
polars and JAX alike. So a function gets its value in 64 bits, in the container it was given in, and
runs where JAX computes in 64 bits too. What it returns is checked as any other input is.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from aimz.data import as_array
from aimz.errors import AimzError, InputError, function_raised
from aimz.kernel import SiteSpec
from aimz.libraries import pd

__all__ = ["answered", "applied", "check_range", "in_place_of", "widened"]


# A count that many sites may have, where nothing bounds them.
_COUNT = 1000
_WIDE = {"i": "int64", "u": "int64", "f": "float64", "V": "float64"}


def applied(function: Callable[[Any], Any], value: object, name: str) -> Any:
    """What a user's function gives for the natural value of an argument.

    >>> applied(lambda t: t - 1, np.array([0, 1], np.uint8), "t").tolist()
    [-1, 0]

    Raises
    ------
    InputError
        `function-raised`.
    """
    with jax.enable_x64(True):
        as_given = widened(value)
        try:
            if not _holds_bools(as_given):
                return _called(function, as_given, name)
            return _of_bools(function, as_given, widened(value, bools=True), name)
        except AimzError:
            raise
        except Exception as error:
            gets = f"the natural value, a {type(as_given).__name__}"
            raise function_raised(f"The function for '{name}'", gets, error) from error


def check_range(function: Callable[[Any], Any], site: SiteSpec) -> None:
    """Refuse a function of a site of whole numbers in a scan whose answer the site cannot take.

    It is tried at the site's bounds, or at a count of a thousand: inside a step nothing looks.

    Raises
    ------
    InputError
        `cast-overflow`: its dtype cannot hold the answer; `site-support`.
    """
    if site.dtype is None or site.dtype.kind not in "iu" or jax.config.jax_enable_x64:
        return
    limits = np.iinfo(np.int32)
    for value in site.bounds or (_COUNT,):
        with jax.enable_x64(True):
            try:
                answer = np.asarray(function(jnp.full(site.shape, value, np.int64)))
            except Exception:  # noqa: BLE001  # the program itself will say what is wrong
                return
        if answer.dtype.kind not in "iu" or not answer.size:
            return
        least, most = int(answer.min()), int(answer.max())
        low, high = site.bounds or (limits.min, limits.max)
        if low <= least and most <= high:
            continue
        extreme, code = max(most, least, key=abs), "cast-overflow"
        why = f"{limits.dtype} cannot hold. Rescale it, or set what depends on the site."
        if limits.min <= extreme <= limits.max:
            extreme, code = (least if least < low else most), "site-support"
            why = f"it cannot take. Keep to {low} to {high}, for example by jnp.clip."
        msg = (
            f"The function for site '{site.name}' gives {extreme} where the site is {value}, which "
        )
        raise InputError(msg + why, code=code)


def in_place_of(natural: jax.Array, setting: ArrayLike) -> jax.Array:
    """A value in the shape and dtype of a natural one."""
    return jnp.broadcast_to(jnp.asarray(setting), natural.shape).astype(natural.dtype)


def answered(setting: Callable[[Any], Any], natural: jax.Array) -> tuple[jax.Array, Any]:
    """What a function gives for a natural value, and where it does not fit its dtype, if it may.

    Whole numbers are computed with in 64 bits, in a program of its own, which keeps the precision
    of its numbers. A function of narrow numbers, or of bools, has the dtype of 32 bits that its
    answer needs.
    """
    dtype, is_bool = natural.dtype, natural.dtype.name == "bool"
    if dtype.itemsize < 4 and not is_bool:
        wide = np.int32 if jnp.issubdtype(dtype, np.integer) else np.float32
        dtype = jnp.result_type(dtype, wide)
    is_whole = jnp.issubdtype(dtype, jnp.integer)
    with jax.enable_x64(True) if is_whole else contextlib.nullcontext():
        answer = jax.jit(lambda value: jnp.asarray(setting(value))) if is_whole else setting
        value = jnp.asarray(answer(jnp.asarray(natural, np.int64 if is_whole else dtype)))
        if is_whole and jnp.issubdtype(value.dtype, jnp.inexact):
            msg = (
                "An intervention on a discrete site gives floating-point numbers, which would be "
                "cut off. Round them and make them integers, e.g. jnp.round(v).astype(int)."
            )
            raise InputError(msg, code="site-integer")
        value = jnp.broadcast_to(value, natural.shape)
        if not is_whole:
            return value.astype(value.dtype if is_bool else dtype), None
        limits = np.iinfo(dtype)
        overflown = (value < limits.min) | (value > limits.max)
        return value.astype(dtype), (overflown, value.astype(np.float32))


def widened(value: Any, *, bools: bool = False) -> Any:
    """A copy in 64 bits, in the same container; a list becomes an array.

    Where `bools`, those become 0 and 1.
    """
    kind = type(value).__module__.partition(".")[0]
    if isinstance(value, list | tuple):
        return _widened_list(value, bools=bools)
    if isinstance(value, dict):
        return {name: widened(item, bools=bools) for name, item in value.items()}
    if isinstance(value, pd.DataFrame):
        made = value.copy()
        for place in range(made.shape[1]):
            made.isetitem(place, widened(made.iloc[:, place], bools=bools))
        return made
    if kind == "polars" and hasattr(value, "get_columns"):
        columns = [widened(column, bools=bools) for column in value.get_columns()]
        return value.with_columns(*columns)
    if hasattr(value, "dtype") and hasattr(value, "astype" if kind != "polars" else "cast"):
        return _widened_array(value, kind, bools=bools)
    return copy.deepcopy(value)


def _widened_list(value: object, *, bools: bool) -> Any:
    try:
        array = np.asarray(value)
    except ValueError:  # of rows of unequal length: refused where it is used
        return copy.deepcopy(value)
    return widened(array, bools=bools) if array.dtype.kind in "biuf" else copy.deepcopy(value)


def _widened_array(value: Any, kind: str, *, bools: bool) -> Any:
    """An array, a series or a scalar with a dtype in 64 bits."""
    dtype = value.dtype
    if kind == "polars":
        polars = sys.modules["polars"]
        whole = dtype.is_integer() or (bools and dtype == polars.Boolean)
        wide = polars.Int64 if whole else polars.Float64 if dtype.is_float() else dtype
        return value.cast(wide, strict=False) if _fits(value, whole=whole) else value.clone()
    letter = getattr(dtype, "kind", "O")
    if letter == "V" and dtype.name != "bfloat16":
        letter = "O"
    to: Any = "int64" if bools and letter == "b" else _WIDE.get(letter)
    if to is None or not _fits(value, whole=to == "int64"):
        return copy.deepcopy(value)
    if isinstance(dtype, pd.ArrowDtype):
        to = f"{to.replace('float64', 'double')}[pyarrow]"
    elif isinstance(dtype, pd.api.extensions.ExtensionDtype) and hasattr(dtype, "numpy_dtype"):
        to = to.capitalize()  # those that know missing values
    return jnp.array(value, to) if isinstance(value, jax.Array) else value.astype(to)


def _fits(value: Any, *, whole: bool) -> bool:
    """Whether int64 holds whole numbers, some of which may be missing."""
    if not whole or "64" not in str(value.dtype).lower() or not getattr(value, "size", 1):
        return True
    greatest = value.max()
    return greatest is None or bool(pd.isna(greatest)) or int(greatest) < 2**63


def _holds_bools(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_bools, value.values()))
    dtypes = getattr(value, "dtypes", None)
    listed = [getattr(value, "dtype", None)] if dtypes is None else list(np.atleast_1d(dtypes))
    return any(str(dtype).lower().startswith("bool") for dtype in listed)


def _called(function: Callable[[Any], Any], value: object, name: str) -> Any:
    """The function's answer; one that takes arrays only, as those of `jax.numpy`, gets an array."""
    try:
        return function(value)
    except TypeError as error:
        if isinstance(value, np.ndarray | jax.Array) or not hasattr(value, "to_numpy"):
            raise
        try:
            return function(np.asarray(as_array(value, name)))
        except Exception:  # noqa: BLE001  # it was not that: the first error is the user's
            raise error from None


def _of_bools(function: Callable[[Any], Any], bools: Any, numbers: Any, name: str) -> Any:
    """What a function gives for bools, with the sums of numbers: True + True is 2, ~True False."""
    try:
        answer = _called(function, bools, name)
    except Exception:  # noqa: BLE001  # there is no minus for bools; what else it is comes again
        return _called(function, numbers, name)
    try:
        counted = _called(function, numbers, name)
        first, second = (np.asarray(as_array(result, name)) for result in (answer, counted))
    except (InputError, TypeError, ValueError, IndexError, KeyError):  # e.g. a mask must be bools
        return answer
    if first.shape != second.shape or np.array_equal(first, second):
        return answer
    is_complement = second.min() < 0 and not np.array_equal(second, -np.asarray(numbers))
    return answer if is_complement else counted
