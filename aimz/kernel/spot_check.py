"""Look at a few real rows before a kernel is called separable.

Four rows, a permutation of them, the first of them repeated, and the first alone must give the
same structural equations row by row. This catches what no walk over axes can: a kernel that counts
its rows (`X.sum() / X.shape[0]`, `if len(X) > 1`), or loses an axis when there is one row.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from numpyro import handlers

from aimz import programs
from aimz.arrays import Array
from aimz.kernel.equations import evaluate, given_shapes
from aimz.kernel.plausible import plausible_values
from aimz.kernel.row_flow import Verdict
from aimz.kernel.spec import KernelSpec
from aimz.kernel.statements import Inputs, read

__all__ = ["disagreement", "foresight", "is_reordered"]


_ORDER = np.array([2, 0, 3, 1])
_SKIPPED = frozenset({"observation", "scale"})
_MAX_CHECKS = 64
# Compiled checks by fingerprint; the jaxpr stays alive because the name may hold addresses.
_CHECKS: programs.Cache[str, tuple[Any, Any]] = programs.Cache(_MAX_CHECKS)
# A check runs once, on a few rows: making it well takes longer than it will ever run.
_PLAIN = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
type _Answers = Mapping[tuple[str, str], Any]


def disagreement(kernel: Callable[..., Any], inputs: Inputs, verdict: Verdict) -> str:
    """Say how a few rows contradict a separable verdict; "" when they do not."""
    rows = {name: inputs.arrays[name] for name in verdict.row_inputs}
    others = {name: v for name, v in inputs.arrays.items() if name not in verdict.row_inputs}
    if any(not _is_concrete(leaf) for leaf in jax.tree.leaves(inputs.arrays)):
        return ""
    first = np.arange(len(_ORDER)) % inputs.rows
    rows = jax.tree.map(lambda leaf: jax.device_put(leaf[first]), rows)
    compare = _comparison(kernel, inputs.static, verdict)
    key = programs.as_key(0)
    try:
        answers = _run_once(compare, rows, others, key)
    except Exception as error:  # noqa: BLE001  # whatever the kernel raises there becomes the reason
        return f"The kernel cannot run on {len(_ORDER)} rows and on one row alike: {_short(error)}"
    together, permuted, repeated, alone = (
        {name: np.asarray(value) for name, value in each.items()} for each in answers
    )
    for name, value in together.items():
        if name[1] in _SKIPPED:
            continue
        if not _agree(value, permuted[name], repeated[name], alone.get(name)):
            return (
                f"Site '{name[0]}' gives a row another value when it is alone, repeated or in "
                "another place."
            )
    return "" if set(together) == set(alone) else "The kernel has other sites when it sees one row."


def foresight(kernel: Callable[..., Any], inputs: Inputs, spec: KernelSpec, first: int) -> str:
    """Say how the first rows depend on those after them; "" when they do not.

    The structural equations of the first rows must be the same whether others follow or not, with
    the same values of all sites. Posterior draws of rows that have been fitted hold for longer
    data only then.
    """
    rows = {n: v for n, v in inputs.arrays.items() if n in spec.row_inputs}
    few = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:first], rows)
    arrays, key = dict(inputs.arrays), programs.as_key(0)
    static, plates = inputs.static, spec.row_plates
    with programs.TRACE_LOCK:
        try:
            reading = read(kernel, {**arrays, **few}, static, first, plates)
            computed = {n for n, s in reading.statements.items() if s.type == "deterministic"}
            drawn = {n: s for n, s in given_shapes(reading).items() if n not in computed}

            def compare(
                arrays: dict[str, Any], few: dict[str, Any], key: jax.Array
            ) -> list[_Answers]:
                values = plausible_values(kernel, static, plates, spec.rows)(arrays, key)
                begun = jax.tree.map(_first_of, {n: values[n] for n in drawn}, drawn)
                whole = evaluate(kernel, static, plates, spec.rows)(arrays, key, values)
                return [whole, evaluate(kernel, static, plates, first)(few, key, begun)]

            answers = _run_once(compare, arrays, {**arrays, **few}, key)
        except Exception as error:  # noqa: BLE001  # whatever the kernel raises becomes the reason
            return f"The kernel cannot run on the first {first} rows alone: {_short(error)}"
    if reading.in_reverse:
        return "A scan of the kernel runs in reverse, from the last row on."
    whole, alone = ({n: np.asarray(v) for n, v in each.items()} for each in answers)
    for name, value in alone.items():
        compared = name[1] not in _SKIPPED and name in whole and whole[name].ndim == value.ndim
        if compared and not _equal(_first_of(whole[name], value), value):
            return f"Site '{name[0]}' has other values in the first {first} rows when more follow."
    return ""


def is_reordered(kernel: Callable[..., Any], inputs: Inputs, output: str, axis: int) -> bool:
    """Whether a site observes its outcomes in another order than that of the rows, on `axis`."""
    if len(jax.tree.leaves(inputs.arrays[output])) != 1:
        return False
    if any(not _is_concrete(leaf) for leaf in jax.tree.leaves(inputs.arrays)):
        return False

    def look(arrays: dict[str, Any]) -> Any:
        with handlers.block():
            seeded = handlers.seed(kernel, 0)
            return handlers.trace(seeded).get_trace(**arrays, **inputs.static)[output]["value"]

    seen = np.moveaxis(np.asarray(_run_once(look, inputs.arrays)), axis, 0)
    outcomes = np.asarray(inputs.arrays[output], seen.dtype)
    if seen.shape != outcomes.shape or np.array_equal(
        seen, outcomes, equal_nan=seen.dtype.kind == "f"
    ):
        return False
    return sorted(row.tobytes() for row in seen) == sorted(row.tobytes() for row in outcomes)


def _first_of(value: Array, like: Array) -> Any:
    """The first values along every axis, as many as another array has."""
    return value[tuple(map(slice, like.shape))]


def _run_once(compare: Callable[..., Any], *args: object) -> Any:
    """Run a check; it is no prediction, so it takes no place among the compiled programs."""
    closed, shapes = programs.trace(compare, *args)
    key = programs.fingerprint(closed, values=True)
    leaves = jax.tree.leaves(args)

    def make() -> tuple[Any, Any]:
        lowered = jax.jit(core.jaxpr_as_fun(closed)).lower(*leaves)
        options = _PLAIN if jax.default_backend() == "cpu" else None
        return lowered.compile(compiler_options=options), closed

    values = _CHECKS.get_or_make(key, make)[0](*leaves)
    return jax.tree.unflatten(jax.tree.structure(shapes), values)


def _comparison(
    kernel: Callable[..., Any], static: Mapping[str, Any], verdict: Verdict
) -> Callable[..., list[_Answers]]:
    """A function of four rows that returns the equations under the four arrangements."""
    count = len(_ORDER)
    axes = {name: f.row_axis for name, f in verdict.sites.items() if f.rows == "leading"}
    draw = plausible_values(kernel, static, verdict.row_plates, count)

    def compare(rows: dict[str, Any], others: dict[str, Any], key: jax.Array) -> list[_Answers]:
        values = draw({**rows, **others}, key)

        def on(order: Array) -> _Answers:
            chosen = jax.tree.map(lambda leaf: leaf[order], rows)
            chosen_values = {
                name: jnp.take(value, order, axis=axes[name]) if name in axes else value
                for name, value in values.items()
            }
            run = evaluate(kernel, static, verdict.row_plates, len(order))
            return run({**chosen, **others}, key, chosen_values)

        arrangements = jnp.array([np.arange(count), _ORDER, np.zeros(count, int)])
        several = jax.lax.map(on, arrangements)
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], several) for i in range(len(arrangements))]
        return [*each, on(jnp.zeros(1, int))]

    return compare


def _agree(
    value: np.ndarray, permuted: np.ndarray, repeated: np.ndarray, alone: np.ndarray | None
) -> bool:
    """Whether four arrangements tell the same row by row, along the axis that one row shortens."""
    if alone is None or alone.ndim != value.ndim:
        return False
    changed = [a for a in range(value.ndim) if alone.shape[a] != value.shape[a]]
    if not changed:
        return _equal(value, permuted) and _equal(value, repeated) and _equal(value, alone)
    if len(changed) > 1 or alone.shape[changed[0]] != 1 or value.shape[changed[0]] != len(_ORDER):
        return False
    axis = changed[0]
    first = np.take(value, [0], axis)
    return (
        _equal(np.take(value, _ORDER, axis), permuted)
        and _equal(np.repeat(first, len(_ORDER), axis), repeated)
        and _equal(first, alone)
    )


def _equal(left: np.ndarray, right: np.ndarray) -> bool:
    """Equality up to rounding; values that are not finite must be so in the same places."""
    if left.shape != right.shape:
        return False
    if left.dtype.kind not in "fc":
        return bool(np.array_equal(left, right))
    finite = np.abs(left[np.isfinite(left)])
    size = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(left, right, rtol=1e-3, atol=1e-5 * size + 1e-7, equal_nan=True))


def _is_concrete(leaf: object) -> bool:
    return not isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."
