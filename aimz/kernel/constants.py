"""Constants of a kernel that 32 bits cannot hold, or blur.

JAX makes the arrays that a kernel reads ones of 32 bits as it meets them: 5,000,000,000 becomes
705,032,704 without a word. A kernel that reads such numbers is traced in double precision once
more, where it is seen which of them it computes with: NumPy may have made them smaller before.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from numpy.typing import ArrayLike

from aimz import programs
from aimz.data import Casts
from aimz.errors import InputError
from aimz.kernel.equations import equations
from aimz.kernel.graph import graph_of
from aimz.kernel.statements import Inputs, read
from aimz.reads import UnrecordedError, record_of

__all__ = ["check_constants"]


_LARGE = 2.0**24


def check_constants(kernel: Callable[..., Any], inputs: Inputs, program: core.ClosedJaxpr) -> None:
    """Refuse a kernel that computes with numbers of its own which 32 bits make others.

    `program` is the kernel's, traced in single precision.

    Raises
    ------
    InputError
        `cast-overflow`, `cast-precision`.
    """
    if jax.config.jax_enable_x64:
        return
    large = [number for number in _numbers_read(kernel) if _is_large(number)]
    if not large:
        return
    casts, seen = Casts(), {float(c) for c in _constants_of(program) if not c.ndim}
    whole = {int(number) for number in large if np.ndim(number) == 0 and number == int(number)}
    wide_ones = _wide_constants(kernel, inputs)
    # A kernel that fixes its own dtypes may have none: then it answers for all that it reads.
    constants = [*filter(_may_be_lost, large)] if wide_ones is None else wide_ones
    for number, constant in enumerate(map(np.asarray, constants)):
        _check_whole(constant)
        if constant.ndim:
            if constant.dtype != np.float64:
                continue
            wide = constant.reshape(len(constant), -1)
            casts.note("the kernel", wide, wide.astype(np.float32), number)
        # JAX may have made a whole number a floating-point one as it met it.
        elif float(constant) in whole and float(np.float32(constant)) not in seen:
            _check_whole(np.asarray(int(constant)))
    casts.check()


def _numbers_read(kernel: Any) -> list[Any]:
    """Numbers and arrays of NumPy that a kernel reads; none where that is not known."""
    while hasattr(type(kernel), "reads"):
        kernel, _ = kernel.reads
    try:
        return record_of(kernel).numbers()
    except UnrecordedError:
        return []


def _is_large(number: ArrayLike) -> bool:
    array = np.asarray(number)
    is_number = array.dtype.kind in "iuf" and bool(array.size)
    return is_number and _LARGE < float(np.abs(array.astype(np.float64)).max()) < np.inf


def _may_be_lost(number: ArrayLike) -> bool:
    """Whether JAX may cut or blur a large number; one with a point keeps its size."""
    return bool(np.ndim(number)) or np.asarray(number).dtype.kind in "iu"


def _wide_constants(kernel: Callable[..., Any], inputs: Inputs) -> list[np.ndarray] | None:
    """Constants of a kernel's equations in double precision; None where these cannot be had."""
    try:
        with programs.TRACE_LOCK, jax.enable_x64(True):
            reading = read(kernel, inputs.arrays, inputs.static, inputs.rows)
            traced = equations(kernel, inputs.arrays, inputs.static, inputs.rows, reading)
    except Exception:  # noqa: BLE001  # what is wrong in single precision, too, is said there
        return None
    return _constants_of(traced.program)


def _constants_of(program: core.ClosedJaxpr) -> list[np.ndarray]:
    """Constants and literal numbers of a program, and of those inside of it."""
    graph = graph_of(program, [None] * len(program.jaxpr.invars))
    nodes = {parent: None for node in graph.nodes for parent in node.parents}
    found = (node.constant for node in [*nodes, *graph.outputs])
    return [np.asarray(constant) for constant in found if _is_number(constant)]


def _is_number(constant: object) -> bool:
    is_array = isinstance(constant, jax.Array | np.ndarray | np.generic | int | float)
    return is_array and not jnp.issubdtype(jnp.result_type(constant), jax.dtypes.extended)


def _check_whole(constant: np.ndarray) -> None:
    """Refuse whole numbers that are cut to the dtype that JAX gives them."""
    if constant.dtype.kind not in "iu" or not constant.size:
        return
    dtype = jax.dtypes.canonicalize_dtype(constant.dtype)
    outside = (constant < np.iinfo(dtype).min) | (constant > np.iinfo(dtype).max)
    if outside.any():
        msg = (
            f"The kernel computes with its own whole number {constant[outside].flat[0]}, which "
            f"{dtype} cannot hold: JAX would cut it. Write it as a floating-point number, subtract "
            "a constant in NumPy, or set jax.config.update('jax_enable_x64', True)."
        )
        raise InputError(msg, code="cast-overflow")
