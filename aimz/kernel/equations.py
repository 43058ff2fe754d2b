"""A kernel as equations: each site by the sites before it, evaluated on given values."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from aimz.kernel.statements import Reading, bound_kernel, parts_of, shape_of, traced_plainly

__all__ = ["Equations", "drawn_sites", "equations", "evaluate", "given_shapes"]


@dataclass(frozen=True)
class Equations:
    """The traced structural equations: outputs are (site, role) in order."""

    program: Any
    inputs: list[tuple[str, str]]  # ("argument" | "site" | "key", name), one per flat input
    outputs: list[tuple[str, str]]
    shapes: list[tuple[int, ...]]


def equations(
    kernel: Callable[..., Any],
    arrays: Mapping[str, Any],
    static: Mapping[str, Any],
    rows: int,
    reading: Reading,
    plates: Collection[str] = (),
) -> Equations:
    """Trace the structural equations at the number of rows of a reading."""
    values = given_shapes(reading)
    names: list[tuple[str, str]] = []
    inputs = [("argument", name) for name in sorted(arrays) for _ in jax.tree.leaves(arrays[name])]
    inputs += [("key", "")]
    inputs += [("site", name) for name in sorted(values) for _ in jax.tree.leaves(values[name])]

    def run(arrays: dict[str, Any], key: jax.Array, values: dict[str, Any]) -> list[Any]:
        watch = bound_kernel(kernel, static, plates, rows)(arrays, key, values)
        parts = parts_of(watch, with_density=True)
        names.extend((site, role) for site, by_role in parts.items() for role in by_role)
        return [value for by_role in parts.values() for value in by_role.values()]

    program = traced_plainly(run, dict(arrays), values)
    shapes = [tuple(aval.shape) for aval in program.out_avals]
    return Equations(program, inputs, names, shapes)


def given_shapes(reading: Reading) -> dict[str, Any]:
    """Shapes of every value that the structural equations take as given."""
    values: dict[str, Any] = dict(reading.states)
    for name, statement in reading.statements.items():
        is_computed = statement.type == "deterministic" and statement.is_array
        if is_computed or (statement.type in ("sample", "param") and not statement.is_factor):
            values[name] = statement.value
    shapes: dict[str, Any] = jax.tree.map(shape_of, values)
    return shapes


def evaluate(
    kernel: Callable[..., Any], static: Mapping[str, Any], plates: Collection[str], rows: int
) -> Callable[..., dict[tuple[str, str], Any]]:
    """The structural equations, without densities, as a function of arrays, a key and values."""

    def run(
        arrays: dict[str, Any], key: jax.Array, values: dict[str, Any]
    ) -> dict[tuple[str, str], Any]:
        watch = bound_kernel(kernel, static, plates, rows)(arrays, key, values)
        parts = parts_of(watch, with_density=False)
        return {(site, role): v for site, by_role in parts.items() for role, v in by_role.items()}

    return run


def drawn_sites(reading: Reading) -> Iterator[str]:
    """Names of the sites that have a value of their own."""
    for name, statement in reading.statements.items():
        if statement.type in ("sample", "param") and not statement.is_factor:
            yield name
