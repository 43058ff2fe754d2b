"""What was found out of a kernel, and the programs of fits, kept while nothing has changed.

A trace of a fit follows from what the kernel reads (its version), its plain arguments, the shapes
and dtypes of the arrays, what the inspection found, and what the traced function closes over: plain
values, passed as `beside`, and objects of a user's own, whose versions hold all that they read. All
of that is the name of what is kept. Nothing is kept of a kernel or an object without a version, or
where outcomes are missing, whose places are values.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from aimz import programs
from aimz.inference.engine import Problem
from aimz.programs import Bound, Cache, compile_program, version_of

__all__ = ["program_of", "remembered"]


_KEPT: Cache[Hashable, Any] = Cache(256)
_PLAIN = (bool, int, float, str, type(None))


def remembered(
    problem: Problem,
    what: str,
    make: Callable[[], Any],
    *beside: Hashable,
    shapes: Any = None,
    users: tuple[Any, ...] = (),
) -> Any:
    """What `make` gives, which follows from the kernel, shapes, `beside` and `users` alone."""
    return programs.remembered(_KEPT, lambda: _key(problem, what, beside, shapes, users), make)


def program_of(
    problem: Problem,
    fn: Callable[..., Any],
    *args: object,
    version: str,
    beside: tuple[Hashable, ...] = (),
    users: tuple[Any, ...] = (),
) -> Bound:
    """The program of a function of a fit; traced only where what it follows from has changed.

    `beside` is what it closes over apart from the problem, and `users` are a user's objects in it.
    """

    def make() -> Bound:
        return compile_program(fn, *args, version=version)

    what = f"{fn.__module__}.{fn.__qualname__}"
    bound: Bound = remembered(problem, what, make, *beside, shapes=args, users=users)
    return bound


def _key(
    problem: Problem, what: str, beside: tuple[Hashable, ...], shapes: Any, users: tuple[Any, ...]
) -> Hashable | None:
    static = problem.inputs.static
    if problem.presence is not None or any(type(v) not in _PLAIN for v in static.values()):
        return None
    kernel = problem.kernel
    if type(kernel).__module__.startswith("aimz.") and not hasattr(kernel, "reads"):
        return None  # a wrapper that does not say what it is
    versions = [version_of(read) for read in (kernel, *users)]
    if None in versions:
        return None
    leaves, form = jax.tree.flatten((dict(problem.inputs.arrays), shapes))
    kinds = tuple((np.shape(leaf), _kind(leaf)) for leaf in leaves)
    # 1, 1.0 and True are equal, and so are 0.0 and -0.0: not so their types and texts.
    plain = tuple((name, type(v).__name__, repr(v)) for name, v in sorted(static.items()))
    weighed = problem.weights is not None
    names = (problem.inputs.always_rows, problem.inputs.rows, weighed)
    return (what, *versions, problem.spec, plain, names, form, kinds, beside)


def _kind(leaf: Any) -> Hashable:
    kind = getattr(leaf, "dtype", None) or type(leaf)
    return kind, bool(getattr(leaf, "weak_type", False))
