"""Calls on the same rows and draws as one call: what they have in common is computed once.

Scenarios of an effect differ in an argument or two. In one program the compiler sees that the rest,
and all random numbers, are the same.
"""

import enum
import itertools
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.arrays import Array
from aimz.data import RowTile
from aimz.execution.call import Call, compile_call, is_binary, narrowest
from aimz.execution.plan import Plan
from aimz.execution.tiles import TileRun
from aimz.kernel import SiteSpec
from aimz.sampling import Block, Found, Task, expectation_block
from aimz.store import Tile

__all__ = ["JointRun"]


# Rows that are added in the precision of the values; sums of these are added in double precision.
_ADDED = 32
_SAME = ("words", "draws", "rows", "kept")
_SHARED = tuple(name for name in Block._fields if name not in _SAME)
type Places = Mapping[str, Mapping[str, str]]  # field of a block -> name -> name in the joint block


@dataclass(frozen=True)
class _Part:
    """One of the calls: its name in the results, and where its arrays are in the joint block."""

    name: str
    call: Call
    places: Places


class JointRun:
    """Calls on the same rows, draws and key as one function of a tile.

    Parameters
    ----------
    calls : mapping of Call
        Calls with one site of rows each.
    plan : Plan
        Their plan.
    sums : bool
        Give sums over the rows of a tile, (draw, part, ...), and not values, (row, draw, ...),
        where they are exact enough (`has_sums`): of 0 and 1, and of floating-point numbers, which
        are added in their own precision up to 32 at a time, in each part.
    """

    def __init__(self, calls: Mapping[Any, Call], plan: Plan, *, sums: bool) -> None:
        self.calls, self.names = calls, list(calls)
        numbered = {str(number): call for number, call in enumerate(calls.values())}
        self.is_packed = sums and all(is_binary(call, *call.task.sites) for call in calls.values())
        self.has_sums = sums and (self.is_packed or all(map(_is_float, calls.values())))
        form = _Form.PACKED if self.is_packed else _Form.SUMS if self.has_sums else _Form.VALUES
        joint = _joint_call(numbered, form)
        self.run = TileRun(joint, compile_call(joint, plan), plan)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(JointRun, sums=self.has_sums), (self.calls, self.run.plan)

    def __call__(self, row_tile: RowTile, tile: Tile, device: jax.Device) -> dict[Any, np.ndarray]:
        values = list(self.run(row_tile, tile, device).values())
        if self.is_packed:
            values = [half for pair in values for half in _unpacked(pair)][: len(self.names)]
        return dict(zip(self.names, values, strict=True))


class _Form(enum.Enum):
    """What a joint call returns of each site.

    Outcomes of 0 and 1 come packed, two sites in the halves of a byte: the compiler then draws
    both in one loop, and does so once.
    """

    VALUES = "values"
    SUMS = "sums"
    PACKED = "packed"


@dataclass(frozen=True)
class _JointCall(Call):
    """A call whose rows are those of its parts."""

    parts: tuple[_Part, ...] = ()
    form: _Form = _Form.VALUES

    @property
    def name(self) -> Hashable | None:
        """As of every call: here, of all its parts."""
        names = []
        for member in self.parts:
            order = tuple((field, tuple(its.items())) for field, its in member.places.items())
            names.append((member.name, member.call.name, order))
        has_all = all(name is not None for _, name, _ in names)
        return (self.form, tuple(names), self.task.sites) if has_all else None

    @property
    def is_wide(self) -> bool:
        """Whether its parts compute in double precision."""
        return all(member.call.is_wide for member in self.parts)

    def arrays(self, row_tile: RowTile) -> dict[str, Any]:
        joint: dict[str, Any] = {}
        for member in self.parts:
            places = member.places["row_inputs"]
            if places.values() - joint.keys():
                its_arrays = member.call.arrays(row_tile)
                joint |= {key: its_arrays[n] for n, key in places.items() if key not in joint}
        return joint


def _is_float(call: Call) -> bool:
    """Whether the call's values are floating-point numbers, which no sum of integers overflows."""
    (name,) = call.task.sites
    site = call.task.results[name]
    is_set = name in (*call.task.do, *call.task.condition)
    if call.program is expectation_block and site.kind in ("latent", "observed") and not is_set:
        return True
    return site.dtype is not None and np.dtype(site.dtype).kind == "f"


def _joint_call(calls: Mapping[str, Call], form: _Form) -> _JointCall:
    first = next(iter(calls.values()))
    fields: dict[str, dict[str, Any]] = {field: {} for field in _SHARED}
    parts = []
    for name, call in calls.items():
        values = {field: getattr(call.block, field) for field in _SHARED}
        replaced = {
            n: call.block.row_inputs[n] if v is None else v for n, v in call.replaced.items()
        }
        # Of what comes with the tiles, what is not replaced is what is read.
        read = dict.fromkeys(call.task.spec.row_inputs & call.source.names, np.zeros(0))
        values["row_inputs"] = {**values["row_inputs"], **read, **replaced}
        places = {
            field: {n: _place(fields[field], n, v) for n, v in by_name.items()}
            for field, by_name in values.items()
        }
        parts.append(_Part(name, call, places))
    spec = replace(
        first.task.spec,
        row_inputs=frozenset(fields["row_inputs"]),
        version="+".join(call.task.spec.version for call in calls.values()),
    )
    names = list(calls)[:: 2 if form is _Form.PACKED else 1]
    rows = ("none", None) if form is _Form.SUMS else ("leading", 0)
    results = replace(spec, sites=tuple(SiteSpec(n, "deterministic", *rows) for n in names))
    task = Task(first.task.kernel, spec, results, {}, tuple(names))
    return _JointCall(
        partial(_run, tuple(parts), form),
        first.group,
        task,
        first.block._replace(**fields),
        first.source,
        parts=tuple(parts),
        form=form,
    )


def _place(joint: dict[str, Any], name: str, value: Array) -> str:
    """The name of a value in the joint block, which holds equal values once."""
    number = 0
    while (key := f"{name} {number}") in joint:
        if _is_same(joint[key], value):
            return key
        number += 1
    joint[key] = value
    return key


def _is_same(one: object, other: object) -> bool:
    if one is other:
        return True
    first, second = (jax.tree_util.tree_leaves_with_path(tree) for tree in (one, other))
    if [path for path, _ in first] != [path for path, _ in second]:
        return False
    return all(_is_same_array(a, b) for (_, a), (_, b) in zip(first, second))


def _is_same_array(one: object, other: object) -> bool:
    if one is other:
        return True
    one, other = np.asarray(one), np.asarray(other)
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    views = (one.__array_interface__["data"], one.strides)
    if views == (other.__array_interface__["data"], other.strides):
        return True
    return np.array_equal(
        np.frombuffer(one.tobytes(), np.uint8), np.frombuffer(other.tobytes(), np.uint8)
    )


def _run(parts: tuple[_Part, ...], form: _Form, task: Task, block: Block) -> Found:
    """The program of a joint call."""
    computed: dict[str, jax.Array] = {}
    faults: dict[str, Any] = {}
    for member in parts:
        its_fields = {
            field: {name: getattr(block, field)[key] for name, key in places.items()}
            for field, places in member.places.items()
        }
        its = replace(member.call.task, is_wide=task.is_wide)
        ran = member.call.program(its, block._replace(**its_fields))
        ((site, value),) = ran.values.items()
        faults |= {f"{member.name}\0{name}": fault for name, fault in ran.faults.items()}
        computed[member.name] = value.astype(narrowest(member.call, site, np.dtype(value.dtype)))
    if form is _Form.VALUES:
        return Found(computed, faults)
    # The last tile is padded with its first row.
    is_own = (jnp.arange(len(block.rows)) == 0) | (block.rows != block.rows[0])
    if form is _Form.SUMS:
        return Found({name: _sums(value, is_own) for name, value in computed.items()}, faults)
    packed = {
        pair[0]: _packed([computed[name] for name in pair], is_own)
        for pair in itertools.batched(computed, 2)
    }
    return Found(packed, faults)


def _sums(values: jax.Array, is_own: jax.Array) -> jax.Array:
    """Sums over rows of values (row, draw, ...): (draw, part, ...)."""
    values = jnp.where(is_own.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
    size = math.gcd(len(is_own), _ADDED)
    return jnp.moveaxis(values.reshape(-1, size, *values.shape[1:]).sum(axis=1), 0, 1)


def _packed(pair: list[jax.Array], is_own: jax.Array) -> jax.Array:
    """Two arrays of 0 and 1, (row, draw, ...), in the halves of a byte."""
    together = sum(value.astype(np.uint8) << shift for value, shift in zip(pair, (0, 4)))
    return jnp.where(is_own.reshape(-1, *[1] * (pair[0].ndim - 1)), together, np.uint8(0))


def _unpacked(pair: np.ndarray) -> list[np.ndarray]:
    """Sums over the rows of a packed pair, (draw, 1, ...) each."""
    rows = len(pair) - len(pair) % 8  # eight of them do not overflow
    eights = pair[:rows].reshape(-1, 8, *pair.shape[1:]).sum(axis=1, dtype=np.uint8)
    parts = [eights, pair[rows:]]
    halves = ([counts & 15 for counts in parts], [counts >> 4 for counts in parts])
    return [
        np.add(*(counts.sum(axis=0, dtype=np.int64) for counts in half))[:, None] for half in halves
    ]
