"""Pure programs of one block of rows by draws: prediction, prior and log-likelihood.

A random choice is a function of the call, the draw, the site's name and the row, and of that row's
own parameters. Where rows do not interact the kernel runs on one row at a time, vectorised over
rows and draws, so that this holds for every distribution by construction. Where they interact the
rows stay whole and only the draws are vectorised.

No input or output, no choice of device and no warning happens here.
"""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers

from aimz.control_flow import Inside, Step, enter, leave
from aimz.drawing import (
    HALF_A_BLOCK,
    draw,
    draw_rows,
    drawn_if_possible,
    drawn_on,
    narrow_draw,
)
from aimz.errors import InputError
from aimz.families import (
    Faults,
    Mark,
    faults_of,
    first_fault,
    is_inside,
    mean_of,
    mean_of_known,
)
from aimz.kernel import row_plates
from aimz.laws import Evidence, Law, law_of
from aimz.presence import completed, densities_of
from aimz.randomness import NO_ROW, Draw, as_stock_key, draw_words, pair_words, site_key
from aimz.spec import KernelSpec, SiteSpec
from aimz.structure import base_distribution
from aimz.widening import answered, in_place_of

__all__ = [
    "DENSITY",
    "WEIGHT",
    "Block",
    "Found",
    "Task",
    "density_spec",
    "evidence_block",
    "expectation_block",
    "follows_rows",
    "law_block",
    "log_likelihood_block",
    "population_block",
    "predict_block",
    "predict_pairs",
    "presence_block",
    "score_block",
    "scored",
]

# Results of `score_block`.
DENSITY, WEIGHT = "aimz:density", "aimz:weight"


class Found(NamedTuple):
    """What a program returns: values by site, and by site where its distribution cannot be."""

    values: dict[str, Any]
    faults: dict[str, Faults]


class Block(NamedTuple):
    """Arrays of one block of rows by draws; every leaf is an input of the program."""

    words: Any  # (2,) uint32: the call
    draws: Any  # (draw,) uint32: numbers of the draws; in a program, a `Draw`
    rows: Any  # (row,) uint32: global numbers of the rows
    inputs: dict[str, Any]  # kernel arguments that go whole
    row_inputs: dict[str, Any]  # (row, ...)
    params: dict[str, Any]  # values of `param` sites and mutable state
    posterior: dict[str, Any]  # (draw, ...): sites that no row owns
    row_posterior: dict[str, Any]  # (draw, row, ...): the row axis comes second
    values: dict[str, Any]  # interventions and conditions that are the same for all rows
    row_values: dict[str, Any]  # (row, ...): those that belong to rows
    redraw: dict[str, Any]  # (row,) of bool, or (row, ...): where a site of rows is drawn anew
    kept: Any = None  # numbers of the rows to return, where others run along; None for all


@dataclass(frozen=True)
class Task:
    """What a program does, beside its arrays: the kernel, what is read and what is set."""

    kernel: Callable[..., Any]
    spec: KernelSpec
    results: KernelSpec  # the sites as they are returned: `spec`, or `density_spec(spec)`
    static: Mapping[str, Any]
    sites: tuple[str, ...]
    do: tuple[str, ...] = ()
    condition: tuple[str, ...] = ()
    functions: tuple[tuple[str, Callable[..., Any]], ...] = ()
    held: tuple[str, ...] = ()  # sites that keep the block's values though the call observes them
    missing: bool = False  # whether outcomes may be missing
    unchecked: tuple[str, ...] = ()  # latents whose draws have not been held to their supports
    is_wide: bool = False  # in double precision but for draws, which are those of single precision


def follows_rows(site: SiteSpec) -> bool:
    """Whether a site's value is cut with the rows."""
    return site.follows_rows


def density_spec(spec: KernelSpec) -> KernelSpec:
    """The sites as their log densities are shaped: without event dimensions.

    A density that is joint over the rows (a process, a multivariate normal over rows) follows no
    row.
    """
    return replace(spec, sites=tuple(_density_site(site) for site in spec.sites))


def predict_block(task: Task, block: Block) -> Found:
    """Values of `task.sites`: (row, draw, ...) for sites of rows, else (draw, ...)."""
    return _run_block(task, block, _site_values)


def predict_pairs(task: Task, block: Block) -> Found:
    """`predict_block` of sites of 0 and 1, two draws in the bytes of a uint16: (row, draw / 2).

    The draws are an even number of them and begin at an even one. Both of a pair are drawn in one
    loop, which computes the block of random bits that they share once.
    """
    pair = Draw.numbered(block.draws[::2]).pair

    @jax.jit  # both halves by one trace of the kernel
    def draw_half(block: Block) -> Found:
        return _run_block(task, block, _site_values)

    def half_of(half: int) -> Block:
        posterior, row_posterior = jax.tree.map(
            lambda values: values[half::2], (block.posterior, block.row_posterior)
        )
        draws = Draw(pair, jnp.full_like(pair, half))
        return block._replace(draws=draws, posterior=posterior, row_posterior=row_posterior)

    first, second = draw_half(half_of(0)), draw_half(half_of(1))
    values = {
        name: first.values[name].astype(np.uint16)
        | second.values[name].astype(np.uint16) << np.uint16(8)
        for name in task.sites
    }
    faults = {
        name: first_fault(jax.tree.map(lambda *v: jnp.stack(v, -1), own, second.faults[name]))
        for name, own in first.faults.items()
    }
    return Found(values, faults)


def log_likelihood_block(task: Task, block: Block) -> Found:
    """Log density of the observed sites in `task.sites`, shaped like `predict_block`'s values.

    What is missing, or masked by the kernel, has none: NaN.
    """
    return _run_block(task, block, _site_densities)


def presence_block(task: Task, block: Block) -> Found:
    """Which densities of `log_likelihood_block` count, shaped like them."""
    return _run_block(task, block, _site_presence)


def score_block(task: Task, block: Block) -> Found:
    """Log density of each row over all its data, and what the row counts: (row, draw) each.

    A row counts what the kernel scales it by, and 0 where all its data are missing or masked.
    """
    return _run_block(task, block, _row_scores)


def scored(task: Task) -> Task:
    """A task of `score_block`, from one of `log_likelihood_block`.

    Raises
    ------
    InputError
        `rows-joint`: a density that is joint over the rows.
    """
    spec = task.spec
    for name in spec.row_data_sites:
        if not follows_rows(task.results[name]):
            msg = f"Site '{name}' has no log density per row, so there is no score of a row."
            raise InputError(msg, code="rows-joint")
    parts = [DENSITY]
    if task.missing or any(spec[name].masked or spec[name].scaled for name in spec.row_data_sites):
        parts.append(WEIGHT)
    own = [
        SiteSpec(name, "deterministic", "leading", 0, (spec.rows,), np.dtype(np.float32))
        for name in parts
    ]
    results = replace(task.results, sites=(*task.results.sites, *own))
    return replace(task, results=results, sites=tuple(parts))


def expectation_block(task: Task, block: Block) -> Found:
    """Means of the distributions of `task.sites`, shaped like `predict_block`'s values.

    A categorical outcome has a probability per category, in a last axis. A site that is set, or
    computed, is its own mean.

    Raises
    ------
    InputError
        `no-mean`: a distribution without a mean.
    """
    return _run_block(task, block, _site_means)


def law_block(task: Task, block: Block) -> Found:
    """Laws of `task.sites`, whose arrays are shaped like `predict_block`'s values.

    Raises
    ------
    InputError
        `family-unknown`
    """
    return _run_block(task, block, _site_laws)


def evidence_block(task: Task, block: Block) -> Found:
    """Laws and values of `task.sites`, with uniforms in (0, 1) that are keyed like sites.

    Raises
    ------
    InputError
        `family-unknown`
    """
    return _run_block(task, block, _site_evidence)


def population_block(task: Task, block: Block) -> Found:
    """Exponential weights, (row, draw), under the one name in `task.sites`: keyed like a site.

    Weights that are exponential and independent make a Bayesian bootstrap of the rows (Rubin, 1981,
    doi:10.1214/aos/1176345338).
    """
    (name,) = task.sites

    def weigh(row: Any, draw: Any) -> jax.Array:
        return jax.random.exponential(site_key(draw_words(block.words, draw), name, row))

    by_draw = jax.vmap(weigh, in_axes=(None, 0))
    rows = block.rows if block.kept is None else block.rows[block.kept]
    return Found({name: jax.vmap(by_draw, in_axes=(0, None))(rows, block.draws)}, {})


_Read = Callable[[Task, Block, Mapping[str, Any]], dict[str, Any]]


def _run_block(task: Task, block: Block, read: _Read) -> Found:
    """Vectorise one draw of the rows over the block's draws.

    Rows lead the results: a row's covariates times each draw's coefficients come out in that order,
    and turning them would cost as much as drawing them.
    """
    run = partial(_draw_whole if task.spec.coupled else _draw_by_row, task, read)
    axes = _mapped("draws", "posterior", "row_posterior")
    outs = {name: 1 if follows_rows(task.results[name]) else 0 for name in task.sites}
    if not isinstance(block.draws, Draw):
        block = block._replace(draws=Draw.numbered(block.draws))
    last: Any = -1
    found: Found = jax.vmap(run, in_axes=(axes,), out_axes=Found(outs, last))(block)
    return found._replace(faults={name: first_fault(own) for name, own in found.faults.items()})


def _density_site(site: SiteSpec) -> SiteSpec:
    rank = len(site.shape) - (0 if site.kind == "factor" else site.event_dim)
    kept = replace(site, shape=site.shape[:rank], dims=site.dims[:rank], event_dim=0)
    if site.row_axis is not None and site.row_axis < rank:
        return kept
    return replace(kept, rows="none", row_axis=None)


def _mapped(*fields: str) -> Any:
    """`in_axes` of a block in which some fields have a leading axis to map over."""
    axes: dict[str, Any] = {name: 0 if name in fields else None for name in Block._fields}
    return Block(**axes)


def _draw_by_row(task: Task, read: _Read, block: Block) -> Found:
    """One draw of rows that do not interact: one row at a time, vectorised."""
    owned = {name for name in task.sites if follows_rows(task.results[name])}

    def one_row(block: Block) -> tuple[Found, Found]:
        single = block._replace(
            row_inputs={name: jnp.expand_dims(v, 0) for name, v in block.row_inputs.items()},
            row_posterior=_with_row_axis(task.spec, block.row_posterior),
            row_values=_with_row_axis(task.spec, block.row_values),
        )
        trace, answer = _trace(task, read, single, 1)
        values, faults = read(task, single, trace), _site_faults(task, read, trace, answer)
        rows, row_faults = {}, {}
        for name in sorted(owned):
            squeeze = partial(jnp.squeeze, axis=_row_axis(task.results, name))
            rows[name] = jax.tree.map(squeeze, values.pop(name))
        for name in [name for name in faults if follows_rows(task.spec[name])]:
            row_faults[name] = jax.tree.map(lambda leaf: leaf.reshape(()), faults.pop(name))
        return Found(rows, row_faults), Found(values, faults)

    axes = _mapped("rows", "row_inputs", "row_posterior", "row_values", "redraw")
    rows, others = jax.vmap(one_row, in_axes=(axes,), out_axes=(0, None))(block)
    return Found(rows.values | others.values, rows.faults | others.faults)


def _draw_whole(task: Task, read: _Read, block: Block) -> Found:
    """One draw of rows that interact: all of them, in order."""
    spec = task.spec
    natural = block._replace(
        row_posterior={n: _move(v, 0, _row_axis(spec, n)) for n, v in block.row_posterior.items()},
        row_values={n: _move(v, 0, _row_axis(spec, n)) for n, v in block.row_values.items()},
    )
    trace, answer = _trace(task, read, natural, len(block.rows))
    values = read(task, natural, trace)
    for name in values.keys() & {n for n in task.sites if follows_rows(task.results[n])}:
        first = partial(_move, source=_row_axis(task.results, name), target=0)
        values[name] = jax.tree.map(first, values[name])
        if block.kept is not None:
            values[name] = jax.tree.map(lambda value: value[block.kept], values[name])
    faults = _site_faults(task, read, trace, answer)
    if block.kept is not None:
        for name in [name for name, own in faults.items() if own.code.ndim]:
            faults[name] = jax.tree.map(lambda leaf: leaf[block.kept], faults[name])
    return Found(values, faults)


def _move(value: jax.Array, source: int, target: int) -> jax.Array:
    return jnp.moveaxis(value, source, target)


def _row_axis(spec: KernelSpec, name: str) -> int:
    return spec[name].row_axis or 0


def _with_row_axis(spec: KernelSpec, values: dict[str, Any]) -> dict[str, Any]:
    return {n: jnp.expand_dims(v, _row_axis(spec, n)) for n, v in values.items()}


def _trace(
    task: Task, read: _Read, block: Block, num_rows: int
) -> "tuple[Mapping[str, Any], _Answer]":
    """Run the kernel once under the block's values and keys: NumPyro's trace, and what gave it."""
    set_values = block.values | block.row_values
    kernel = row_plates(task.kernel, task.spec.row_plates, num_rows)
    answer = _Answer(
        task=task,
        block=block,
        given=block.params | block.posterior | block.row_posterior,
        do={name: set_values[name] for name in task.do if name in set_values}
        | dict(task.functions),
        condition={name: set_values[name] for name in task.condition},
        needed=_needed(task, read),
    )
    arguments = {**task.static, **block.inputs, **block.row_inputs}
    with handlers.trace() as trace, answer:
        kernel(**arguments)
    return dict(trace), answer


def _site_faults(
    task: Task, read: _Read, trace: Mapping[str, Any], answer: "_Answer"
) -> dict[str, Faults]:
    """Faults of the distributions that what is asked for is drawn from, or read of."""
    faults = {}
    set_sites = {*task.do, *task.condition}
    asked = task.spec.row_data_sites if read is _row_scores else task.sites
    for name in task.spec.above(asked):
        if name not in trace or task.spec[name].kind in ("param", "factor"):
            continue
        site, marks = trace[name], _marks(task, trace, name, answer)
        own: dict[str, Any] = {"is_read": False}
        if read is not _site_values and name in asked and name not in set_sites:
            own["is_read"] = site["type"] == "sample"
            if read in (_site_densities, _row_scores):
                density, counts = _density(task, trace, name)
                density = jnp.where(counts, density, 0.0)
                marks.append(Mark("log density", ~(density < jnp.inf), density))
        elif name in answer.drawn:
            own = {"where": answer.drawn[name], "is_drawn": True}
        axis = _row_axis(task.spec, name) if follows_rows(task.spec[name]) else None
        fn = site["fn"] if site["type"] == "sample" else dist.Delta(site["value"])
        faults[name] = faults_of(fn, jnp.shape(site["value"]), axis, marks=marks, **own)
    return {name: found for name, found in faults.items() if found is not None}


def _marks(task: Task, trace: Mapping[str, Any], name: str, answer: "_Answer") -> list[Mark]:
    """What must not be of a value that a function gave, or that was made elsewhere."""
    marks = [Mark("answer", *answer.overflown[name])] if name in answer.overflown else []
    if name in task.unchecked and trace[name]["value"] is answer.given[name]:
        value, support = trace[name]["value"], trace[name]["fn"].support
        shown = value.min(axis=tuple(range(value.ndim - support.event_dim, value.ndim)))
        marks.append(Mark("posterior", ~is_inside(support, value), shown))
    return marks


def _needed(task: Task, read: _Read) -> Collection[str]:
    """Sites whose values are read: of what only its distribution is asked, those above it."""
    if read is _row_scores:
        return task.spec.above(task.spec.row_data_sites)
    own = {p for name in task.sites for p in task.spec[name].parents}
    return task.spec.above(own if read is _site_means else task.sites)


def _site_values(task: Task, _: Block, trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(trace[name]["value"]) for name in task.sites}


def _site_laws(task: Task, _: Block, trace: Mapping[str, Any]) -> dict[str, Law]:
    return {
        name: law_of(name, trace[name]["fn"], jnp.shape(trace[name]["value"]))
        for name in task.sites
    }


def _site_evidence(task: Task, block: Block, trace: Mapping[str, Any]) -> dict[str, Evidence]:
    words = draw_words(block.words, block.draws.number)
    evidence = {}
    for name, law in _site_laws(task, block, trace).items():
        value = jnp.asarray(trace[name]["value"])
        shape = jnp.shape(value)
        if law.family == "categorical":
            (parameter,) = law.parameters.values()
            shape = jnp.shape(parameter)
        axis = _row_axis(task.spec, name)
        draw = partial(_uniform, words, f"{name}:abduction", shape[:axis] + shape[axis + 1 :])
        uniform = jax.vmap(draw, out_axes=axis)(jnp.atleast_1d(block.rows))
        evidence[name] = Evidence(law, value, uniform)
    return evidence


def _uniform(words: jax.Array, name: str, shape: tuple[int, ...], row: Any) -> jax.Array:
    """Numbers between 0 and 1, neither of them included."""
    return jax.random.uniform(site_key(words, name, row), shape, np.float32) + 2.0**-25


def _site_densities(task: Task, _: Block, trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    found = {name: _density(task, trace, name) for name in task.sites}
    return {name: jnp.where(counts, own, jnp.nan) for name, (own, counts) in found.items()}


def _site_presence(task: Task, _: Block, trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {name: _density(task, trace, name)[1] for name in task.sites}


def _density(task: Task, trace: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """Log densities of a site and which count; where nothing is masked or missing, all do."""
    site = trace[name]
    return densities_of(site["fn"], site["value"], task.spec[name], missing=task.missing)


def _row_scores(task: Task, _: Block, trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    total, weight, count = (jnp.zeros(()) for _ in range(3))
    for name in task.spec.row_data_sites:
        own, counts = _density(task, trace, name)
        scale = 1.0 if trace[name]["scale"] is None else trace[name]["scale"]
        counts = counts & (jnp.broadcast_to(scale, own.shape) != 0)
        axis = _row_axis(task.results, name)
        parts = (jnp.where(counts, own, 0.0), jnp.where(counts, scale, 0.0), counts)
        density, scales, ones = (
            jnp.moveaxis(part, axis, 0).reshape(own.shape[axis], -1).sum(axis=1) for part in parts
        )
        total, weight, count = total + density, weight + scales, count + ones
    found: dict[str, jax.Array] = {DENSITY: total, WEIGHT: weight / jnp.maximum(count, 1)}
    return {name: found[name] for name in task.sites}


def _site_means(task: Task, block: Block, trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    means = {}
    for name in task.sites:
        site = trace[name]
        value = jnp.asarray(site["value"])
        is_known = name in task.do or name in task.condition
        is_drawn = site["type"] == "sample" and not is_known
        if is_drawn:
            means[name] = mean_of(site["fn"], name, value.shape)
        else:
            means[name] = mean_of_known(site["fn"], value) if site["type"] == "sample" else value
        known: Any = {**block.values, **block.row_values}.get(name)
        if name in task.condition and jnp.shape(known) != value.shape:
            given = mean_of_known(site["fn"], value)
            means[name] = _mean_after(known, given, mean_of(site["fn"], name, value.shape))
    return means


def _mean_after(known: Any, value: jax.Array, mean: jax.Array) -> jax.Array:
    """A mean, with the value in the first rows or steps, where it is known."""
    first = tuple(slice(0, size) for size in jnp.shape(known))
    return mean.at[first].set(value[first])


class _Answer(Inside):
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
        self.overflown: dict[str, Any] = {}  # where what a function gave does not fit, and it

    def process_message(self, msg: dict[str, Any]) -> None:
        kind, name = msg["type"], str(msg.get("name"))
        if msg.get("_control_flow_done", False):
            return
        if kind == "sample":
            self._answer_sample(msg)
        elif kind == "deterministic" and name in self.do:
            msg["value"] = self._as_set(name, msg["value"])
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
            msg["value"] = self._as_set(name, natural)
        elif msg["value"] is None:
            msg["value"] = self._natural(msg)

    def _as_set(self, name: str, natural: Any) -> Any:
        """The value that a site is set to, in the shape and dtype of its natural value."""
        setting = self._setting(self.do, name)
        if not callable(setting):
            return in_place_of(natural, setting)
        value, overflown = answered(setting, natural)
        if overflown is not None and self.step is None:  # in a scan it was tried before
            self.overflown[name] = overflown
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

    def _anew(self, msg: dict[str, Any], value: Any) -> Any:
        """A site's value, drawn anew where that is asked for: in rows, or element by element."""
        name, rank = msg["name"], jnp.ndim(value)
        anew, axis = self.redraw[name], _row_axis(self.task.spec, name)
        drawn = self._natural({**msg, "value": None})
        is_whole = self.task.spec.coupled
        if self.step is not None:  # a mask of rows is that of all their steps
            whole = self.task.spec[name].shape
            anew = jnp.expand_dims(anew, tuple(range(jnp.ndim(anew), len(whole))))
            anew = jnp.broadcast_to(jnp.moveaxis(anew, 0, axis), whole)
            here = anew[self.step.places]
            if name in self.task.held or msg["is_observed"]:
                return completed(msg["fn"], ~here, value, drawn)
            return jnp.where(here, drawn, value)
        if jnp.ndim(anew) + (not is_whole) == rank:
            anew = jnp.moveaxis(anew, 0, axis) if is_whole else jnp.expand_dims(anew, axis)
            if name in self.task.held or msg["is_observed"]:  # some of an event may be known
                return completed(msg["fn"], ~anew, value, drawn)
        shape = [1] * rank
        shape[axis] = -1
        self.drawn[name] = jnp.reshape(anew, shape) if jnp.ndim(anew) < rank else anew
        return jnp.where(self.drawn[name], drawn, value)

    def _is_begun(self, name: str, value: Any) -> bool:
        """Whether a value is that of the first rows or steps only."""
        spec, site = self.task.spec, self.task.spec[name]
        may_be = spec.coupled or not site.belongs_to_rows  # groups may follow those of the fit
        return may_be and jnp.shape(value) != tuple(site.shape)

    def _begun(self, msg: dict[str, Any], value: Any) -> Any:
        """A value as far as it is known, and one that is drawn from there on."""
        natural = self._natural(msg)
        value = value.astype(natural.dtype)
        if self.step is None:
            return drawn_on(msg["fn"], value, natural)
        (place, *inner), known = self.step.places, len(value)
        here = value[(jnp.minimum(place, known - 1), *inner)]
        here = natural.at[tuple(slice(0, size) for size in here.shape)].set(here)
        return jnp.where(place < known, here, natural)

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
        if not follows_rows(site) or site.rows == "scan":
            return one(msg["fn"], site_key(self.words, name, self.place), shape, name)
        if not self.task.spec.coupled:
            key = site_key(self.words, name, self.rows)
            if isinstance(base_distribution(msg["fn"]), HALF_A_BLOCK):
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

    def _inside(self, prefix: str, step: Step | None) -> "_Answer":
        """The answer around a step, or a branch."""
        inside = copy.copy(self)
        inside.noted, inside.ordinals, inside.prefix = {}, {}, prefix
        if step is not None and step is not self.step:
            outer = np.uint32(0) if self.step is None else inside.place
            inside.place = outer * np.uint32(step.length) + step.places[-1].astype(np.uint32)
            inside.step = step
        return inside


def _like(msg: dict[str, Any]) -> Any:
    """Shape and dtype of a sample site's value."""
    if msg["value"] is not None:
        return jnp.asarray(msg["value"])
    fn, shape = msg["fn"], msg["kwargs"].get("sample_shape", ())
    return jax.eval_shape(lambda: draw(fn, jax.random.key(0), shape, msg["name"]))
