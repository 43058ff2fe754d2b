"""The handler that answers a kernel's statements: given, set, or drawn by the row's own key."""

import copy
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from aimz.arrays import Array
from aimz.errors import InputError
from aimz.families import FAMILIES, Mark, base_distribution, is_inside
from aimz.kernel import Inside, Step, enter, leave
from aimz.outcomes import completed
from aimz.programs import NO_ROW, as_stock_key, draw_words, pair_words, site_key
from aimz.sampling.block import Block, Task, row_axis
from aimz.sampling.drawing import (
    draw,
    draw_rows,
    drawn_if_possible,
    drawn_on,
    narrow_draw,
)
from aimz.sampling.widening import answered, in_place_of

__all__ = ["Answer"]


class Answer(Inside):
    """Answers every statement of the kernel: a given value, one that was set, or a keyed draw.

    Around a step of a scan stands an answer of its own, with the values and keys of the step.
    """

    def __init__(
        self,
        *,
        task: Task,
        block: Block,
        given: Mapping[str, Any],
        do: Mapping[str, Any],
        condition: Mapping[str, Any],
        needed: Collection[str],
    ) -> None:
        super().__init__()
        self.task, self.rows, self.redraw = task, block.rows, block.redraw
        self.words = draw_words(block.words, block.draws.number)
        self.pair, self.half = pair_words(block.words, block.draws.pair), block.draws.half
        self.given, self.do, self.condition = given, do, condition
        self.needed = needed
        self.ordinals: dict[str, int] = {}
        self.place: Any = NO_ROW
        self.prefix = ""
        self.step: Step | None = None
        self.drawn: dict[str, Any] = {}  # None, or in which rows
        self.marks: dict[str, list[Mark]] = {}  # where what a function gave cannot be

    def process_message(self, msg: dict[str, Any]) -> None:
        kind, name = msg["type"], str(msg.get("name"))
        if msg.get("_control_flow_done", False):
            return
        if kind == "sample":
            self._answer_sample(msg)
        elif kind == "deterministic" and name in self.do:
            msg["value"] = self._as_set(name, msg["value"], None)
        elif kind in ("param", "mutable") and name in self.given:
            msg["value"] = self.given[name]
        elif kind == "plate" and msg["value"] is None:
            msg["kwargs"]["rng_key"] = site_key(self.words, name, self.place)
        elif kind in ("prng_key", "control_flow"):
            self._answer_unnamed(msg, kind)

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            leave(msg)

    def _answer_sample(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        if name in self.condition:
            self._condition(msg)
            return
        if name in self.given and (not msg["is_observed"] or name in self.task.held):
            msg["value"] = self._given(msg)
        elif msg["is_observed"] and name in self.redraw:
            msg["value"] = self._anew(msg, msg["value"])
        if name in self.do:
            natural = self._natural(msg) if callable(self.do[name]) else _like(msg)
            msg["value"] = self._as_set(name, natural, msg["fn"])
        elif msg["value"] is None:
            msg["value"] = self._natural(msg)

    def _as_set(self, name: str, natural: jax.Array, fn: dist.Distribution | None) -> jax.Array:
        """The value that a site is set to, in the shape and dtype of its natural value."""
        setting = self._setting(self.do, name)
        if not callable(setting):
            return in_place_of(natural, setting)
        try:
            value, overflown = answered(setting, natural)
        except InputError:
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0]
            msg = (
                f"The function for site '{name}' does not run: {reason:.100}. It gets an array of "
                "JAX: write it with jax.numpy, for each value alone."
            )
            raise InputError(msg, code="site-function") from error
        if self.step is None:  # in a scan it was tried before
            marks = [] if overflown is None else [Mark("answer", *overflown)]
            self.marks[name] = [*marks, *_outside(fn, value)]
        return value

    def _setting(self, settings: Mapping[str, Any], name: str) -> Any:
        """What a site is set to: a function, a value, or in a scan the value of the step."""
        setting = settings[name]
        if callable(setting) or self.step is None:
            return setting
        return jnp.broadcast_to(setting, self.task.spec[name].shape)[self.step.places]

    def _condition(self, msg: dict[str, Any]) -> None:
        """Hold a site at what it is known to be; what is known may end before the rows do."""
        name, value = msg["name"], self.condition[msg["name"]]
        if self._is_begun(name, value):
            msg["value"] = self._begun(msg, value)
            return
        msg["value"] = in_place_of(_like(msg), self._setting(self.condition, name))
        msg["is_observed"] = True

    def _given(self, msg: dict[str, Any]) -> Any:
        """The posterior's value of a site, except in rows where it is drawn anew."""
        name = msg["name"]
        value = self.given[name]
        if self._is_numbered_in_reverse(name):
            value = value[::-1]
        if self._is_begun(name, value):
            return self._begun(msg, value)
        value = value if self.step is None else value[self.step.places]
        return self._anew(msg, value) if name in self.redraw else value

    def _is_numbered_in_reverse(self, name: str) -> bool:
        """Whether draws of a site are in the order of the steps, and that is not that of places."""
        step = self.step
        is_fitted = step is not None and len(step.places) == 1 and name not in self.task.held
        return is_fitted and step is not None and step.in_reverse

    def _anew(self, msg: dict[str, Any], value: jax.Array) -> Any:
        """A site's value, drawn anew where that is asked for: in rows, or element by element."""
        name, rank = msg["name"], jnp.ndim(value)
        anew, axis = self.redraw[name], row_axis(self.task.spec, name)
        drawn = self._natural({**msg, "value": None})
        is_whole = self.task.spec.coupled
        if self.step is not None:  # a mask of rows is that of all their steps
            whole = self.task.spec[name].shape
            anew = jnp.expand_dims(anew, tuple(range(jnp.ndim(anew), len(whole))))
            anew = jnp.broadcast_to(jnp.moveaxis(anew, 0, axis), whole)
            is_anew = anew[self.step.places]
            if name in self.task.held or msg["is_observed"]:
                return completed(msg["fn"], ~is_anew, value, drawn)
            return jnp.where(is_anew, drawn, value)
        if jnp.ndim(anew) + (not is_whole) == rank:
            anew = jnp.moveaxis(anew, 0, axis) if is_whole else jnp.expand_dims(anew, axis)
            if name in self.task.held or msg["is_observed"]:  # some of an event may be known
                return completed(msg["fn"], ~anew, value, drawn)
        shape = [1] * rank
        shape[axis] = -1
        self.drawn[name] = jnp.reshape(anew, shape) if jnp.ndim(anew) < rank else anew
        return jnp.where(self.drawn[name], drawn, value)

    def _is_begun(self, name: str, value: Array) -> bool:
        """Whether a value is that of the first rows or steps only."""
        spec, site = self.task.spec, self.task.spec[name]
        may_be = spec.coupled or not site.belongs_to_rows  # groups may follow those of the fit
        return may_be and jnp.shape(value) != tuple(site.shape)

    def _begun(self, msg: dict[str, Any], value: jax.Array) -> jax.Array:
        """A value as far as it is known, and one that is drawn from there on."""
        natural = self._natural(msg)
        value = value.astype(natural.dtype)
        if self.step is None:
            return drawn_on(msg["fn"], value, natural)
        (place, *inner), steps_known = self.step.places, len(value)
        value_there = value[(jnp.minimum(place, steps_known - 1), *inner)]
        value_there = natural.at[tuple(slice(0, size) for size in value_there.shape)].set(
            value_there
        )
        return jnp.where(place < steps_known, value_there, natural)

    def _natural(self, msg: dict[str, Any]) -> Any:
        """The value that the site has when nobody sets it."""
        if msg["value"] is not None:
            return msg["value"]
        name, shape = msg["name"], msg["kwargs"].get("sample_shape", ())
        site = self.task.spec[name]
        one = narrow_draw if self.task.is_wide else draw
        if name not in self.needed:
            one = drawn_if_possible(one)
        self.drawn[name] = None
        if not site.follows_rows or site.rows == "scan":
            return one(msg["fn"], site_key(self.words, name, self.place), shape, name)
        if not self.task.spec.coupled:
            key = site_key(self.words, name, self.rows)
            if FAMILIES.above[type(base_distribution(msg["fn"]))].is_half_block:
                key = site_key(self.pair, name, self.rows, self.half)
            return one(msg["fn"], key, shape, name)
        keyed = partial(site_key, self.words, name)
        return draw_rows(one, msg["fn"], keyed, self.rows, site, shape)

    def _answer_unnamed(self, msg: dict[str, Any], kind: str) -> None:
        ordinal = self.ordinals.get(kind, 0)
        self.ordinals[kind] = ordinal + 1
        name = f"{self.prefix}{kind}:{ordinal}"
        # NumPyro hands this key on to code that may insist on JAX's own generator.
        msg["kwargs"]["rng_key"] = as_stock_key(site_key(self.words, name, self.place))
        if kind == "control_flow":
            enter(msg, partial(self._inside, f"{name}/"), self.step)

    def _inside(self, prefix: str, step: Step | None) -> "Answer":
        """The answer around a step, or a branch."""
        inside = copy.copy(self)
        inside.noted, inside.ordinals, inside.prefix = {}, {}, prefix
        if step is not None and step is not self.step:
            outer = np.uint32(0) if self.step is None else inside.place
            inside.place = outer * np.uint32(step.length) + step.places[-1].astype(np.uint32)
            inside.step = step
        return inside


def _outside(fn: dist.Distribution | None, value: jax.Array) -> list[Mark]:
    """Where a value is not in the support of a distribution that says what it is."""
    try:
        support = None if fn is None else fn.support
    except NotImplementedError:
        support = None
    if not isinstance(support, constraints.Constraint):
        return []
    events = tuple(range(value.ndim - support.event_dim, value.ndim))
    shown = value.astype(jnp.result_type(float)).min(axis=events)
    return [Mark("support", ~is_inside(support, value), shown)]


def _like(msg: dict[str, Any]) -> Any:
    """Shape and dtype of a sample site's value."""
    if msg["value"] is not None:
        return jnp.asarray(msg["value"])
    fn, shape = msg["fn"], msg["kwargs"].get("sample_shape", ())
    return jax.eval_shape(lambda: draw(fn, jax.random.key(0), shape, msg["name"]))
