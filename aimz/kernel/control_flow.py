"""NumPyro's `scan` and `cond`, seen from inside.

NumPyro runs the body of a control-flow statement behind a block and tells the handlers outside of
its sites when all steps are done: what happens in a step, they neither see nor change. A handler
that stands around the body itself does both. What it notes comes out with the results of the steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import Messenger

__all__ = ["Inside", "Step", "enter", "leave", "names_inside"]


class Step(NamedTuple):
    """A step of a scan: its places among the results, of how many, and whether they run in reverse.

    Where a scan is in a step of another, the places of the outer ones come first. NumPyro numbers
    the values that it puts in a scan as the steps run, from the last place on where they run in
    reverse; it puts none in a scan inside another.
    """

    places: tuple[Any, ...]
    length: int
    in_reverse: bool


class Inside(Messenger):  # type: ignore[misc]  # NumPyro has no stubs
    """A handler around one step, or around a branch; `noted` are arrays by name."""

    def __init__(self) -> None:
        super().__init__(None)
        self.noted: dict[str, Any] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        return self


def enter(
    msg: dict[str, Any], handler_of: Callable[[Step | None], Inside], outer: Step | None = None
) -> None:
    """Let a handler stand around each step, or each branch, of a control-flow message.

    `outer` is the step of a scan that the message is in. `leave` must be called on the message when
    it is done.
    """
    if msg["fn"].__name__ == "scan_wrapper":
        body, begin, xs, length, reverse = msg["args"]
        if length is None:
            length = jnp.shape(jax.tree.leaves(xs)[0])[0]

        def stepped(carry: Any, numbered: tuple[Any, Any]) -> tuple[Any, Any]:
            place, x = numbered
            places = (place,) if outer is None else (*outer.places, place)
            with handler_of(Step(places, length, reverse)) as handler:
                carry, out = body(carry, x)
            return carry, (out, handler.noted)

        msg["args"] = (stepped, begin, (jnp.arange(length), xs), length, reverse)
        return

    def under(branch: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def branched(operand: Any) -> tuple[Any, dict[str, Any]]:
            with handler_of(outer) as handler:
                out = branch(operand)
            return out, handler.noted

        return branched

    which, if_true, if_false, operand = msg["args"]
    msg["args"] = (which, under(if_true), under(if_false), operand)


def leave(msg: dict[str, Any]) -> dict[str, Any]:
    """What the handlers inside have noted, by step; the message is as if they had not been."""
    noted: dict[str, Any]
    if msg["fn"].__name__ == "scan_wrapper":
        carried, (trace, (out, noted)) = msg["value"]
        msg["value"] = (carried, (trace, out))
    else:
        (out, noted), trace = msg["value"]
        msg["value"] = (out, trace)
    return noted


def names_inside(value: object) -> set[str]:
    """Names of the sites that a control-flow statement recorded."""
    leaves = jax.tree.leaves(value, is_leaf=lambda node: isinstance(node, PytreeTrace))
    return {name for leaf in leaves if isinstance(leaf, PytreeTrace) for name in leaf.trace}
