"""Pure programs of one block of rows by draws: prediction, prior and log-likelihood.

A random choice is a function of the call, the draw, the site's name and the row, and of that row's
own parameters. Where rows do not interact the kernel runs on one row at a time, vectorised over
rows and draws, so that this holds for every distribution by construction. Where they interact the
rows stay whole and only the draws are vectorised.

No input or output, no choice of device and no warning happens here.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro import handlers

from aimz.arrays import Array
from aimz.errors import InputError
from aimz.families import (
    Evidence,
    Faults,
    Law,
    Mark,
    faults_of,
    first_fault,
    is_inside,
    law_of,
    mean_of,
    mean_of_known,
)
from aimz.kernel import SiteSpec, row_plates
from aimz.outcomes import densities_of
from aimz.programs import Draw, draw_words, site_key
from aimz.sampling.answer import Answer
from aimz.sampling.block import DENSITY, WEIGHT, Block, Task, mapped, move, row_axis, with_row_axis
from aimz.sampling.drawing import drawn_on

__all__ = [
    "Found",
    "evidence_block",
    "expectation_block",
    "law_block",
    "left_out_block",
    "log_likelihood_block",
    "population_block",
    "predict_block",
    "presence_block",
    "run_block",
    "score_block",
    "scored",
    "site_values",
]


class Found(NamedTuple):
    """What a program returns: values by site, and by site where its distribution cannot be."""

    values: dict[str, Any]
    faults: dict[str, Faults]


def predict_block(task: Task, block: Block) -> Found:
    """Values of `task.sites`: (row, draw, ...) for sites of rows, else (draw, ...)."""
    return run_block(task, block, site_values)


def log_likelihood_block(task: Task, block: Block) -> Found:
    """Log density of the observed sites in `task.sites`, shaped like `predict_block`'s values.

    What is missing, or masked by the kernel, has none: NaN.
    """
    return run_block(task, block, _site_densities)


def left_out_block(task: Task, block: Block) -> Found:
    """As `log_likelihood_block`, of values that are left out: of a series each given all others.

    Under these densities draws are weighted by 1 over them to a posterior without a value.
    """
    return run_block(task, block, _left_out_densities)


def presence_block(task: Task, block: Block) -> Found:
    """Which densities of `log_likelihood_block` count, shaped like them."""
    return run_block(task, block, _site_presence)


def score_block(task: Task, block: Block) -> Found:
    """Log density of each row over all its data, and what the row counts: (row, draw) each.

    A row counts what the kernel scales it by, and 0 where all its data are missing or masked.
    """
    return run_block(task, block, _row_scores)


def scored(task: Task) -> Task:
    """A task of `score_block`, from one of `log_likelihood_block`.

    Raises
    ------
    InputError
        `rows-joint`: a density that is joint over the rows.
    """
    spec = task.spec
    for name in spec.row_data_sites:
        if not task.results[name].follows_rows:
            msg = f"Site '{name}' has no log density per row, so there is no score of a row."
            raise InputError(msg, code="rows-joint")
    parts = [DENSITY]
    if task.missing or any(spec[name].masked or spec[name].scaled for name in spec.row_data_sites):
        parts.append(WEIGHT)
    added = [
        SiteSpec(name, "deterministic", "leading", 0, (spec.rows,), np.dtype(np.float32))
        for name in parts
    ]
    results = replace(task.results, sites=(*task.results.sites, *added))
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
    return run_block(task, block, _site_means)


def law_block(task: Task, block: Block) -> Found:
    """Laws of `task.sites`, whose arrays are shaped like `predict_block`'s values.

    Raises
    ------
    InputError
        `family-unknown`
    """
    return run_block(task, block, _site_laws)


def evidence_block(task: Task, block: Block) -> Found:
    """Laws and values of `task.sites`, with uniforms in (0, 1) that are keyed like sites.

    Raises
    ------
    InputError
        `family-unknown`
    """
    return run_block(task, block, _site_evidence)


def population_block(task: Task, block: Block) -> Found:
    """Exponential weights, (row, draw), under the one name in `task.sites`: keyed like a site.

    Weights that are exponential and independent make a Bayesian bootstrap of the rows (Rubin, 1981,
    doi:10.1214/aos/1176345338).
    """
    (name,) = task.sites

    def weigh(row: ArrayLike, draw: ArrayLike) -> jax.Array:
        return jax.random.exponential(site_key(draw_words(block.words, draw), name, row))

    by_draw = jax.vmap(weigh, in_axes=(None, 0))
    rows = block.rows if block.kept is None else block.rows[block.kept]
    return Found({name: jax.vmap(by_draw, in_axes=(0, None))(rows, block.draws)}, {})


_Read = Callable[[Task, Block, Mapping[str, Any]], dict[str, Any]]


def run_block(task: Task, block: Block, read: _Read) -> Found:
    """Vectorise one draw of the rows over the block's draws.

    Rows lead the results: a row's covariates times each draw's coefficients come out in that order,
    and turning them would cost as much as drawing them.
    """
    run = partial(_draw_whole if task.spec.coupled else _draw_by_row, task, read)
    axes = mapped("draws", "posterior", "row_posterior")
    outs = {name: 1 if task.results[name].follows_rows else 0 for name in task.sites}
    if not isinstance(block.draws, Draw):
        block = block._replace(draws=Draw.numbered(block.draws))
    last: Any = -1
    every: Found = jax.vmap(run, in_axes=(axes,), out_axes=Found(outs, last))(block)
    return every._replace(
        faults={name: first_fault(of_site) for name, of_site in every.faults.items()}
    )


def _draw_by_row(task: Task, read: _Read, block: Block) -> Found:
    """One draw of rows that do not interact: one row at a time, vectorised."""
    owned = {name for name in task.sites if task.results[name].follows_rows}

    def one_row(block: Block) -> tuple[Found, Found]:
        single = block._replace(
            row_inputs={name: jnp.expand_dims(v, 0) for name, v in block.row_inputs.items()},
            row_posterior=with_row_axis(task.spec, block.row_posterior),
            row_values=with_row_axis(task.spec, block.row_values),
        )
        trace, answer = _trace(task, read, single, 1)
        values, faults = read(task, single, trace), _site_faults(task, read, trace, answer)
        rows, row_faults = {}, {}
        for name in sorted(owned):
            squeeze = partial(jnp.squeeze, axis=row_axis(task.results, name))
            rows[name] = jax.tree.map(squeeze, values.pop(name))
        for name in [name for name in faults if task.spec[name].follows_rows]:
            row_faults[name] = jax.tree.map(lambda leaf: leaf.reshape(()), faults.pop(name))
        return Found(rows, row_faults), Found(values, faults)

    axes = mapped("rows", "row_inputs", "row_posterior", "row_values", "redraw")
    rows, others = jax.vmap(one_row, in_axes=(axes,), out_axes=(0, None))(block)
    return Found(rows.values | others.values, rows.faults | others.faults)


def _draw_whole(task: Task, read: _Read, block: Block) -> Found:
    """One draw of rows that interact: all of them, in order."""
    spec = task.spec
    natural = block._replace(
        row_posterior={n: move(v, 0, row_axis(spec, n)) for n, v in block.row_posterior.items()},
        row_values={n: move(v, 0, row_axis(spec, n)) for n, v in block.row_values.items()},
    )
    trace, answer = _trace(task, read, natural, len(block.rows))
    values = read(task, natural, trace)
    for name in values.keys() & {n for n in task.sites if task.results[n].follows_rows}:
        first = partial(move, source=row_axis(task.results, name), target=0)
        values[name] = jax.tree.map(first, values[name])
        if block.kept is not None:
            values[name] = jax.tree.map(lambda value: value[block.kept], values[name])
    faults = _site_faults(task, read, trace, answer)
    if block.kept is not None:
        for name in [name for name, of_site in faults.items() if of_site.code.ndim]:
            faults[name] = jax.tree.map(lambda leaf: leaf[block.kept], faults[name])
    return Found(values, faults)


def _trace(
    task: Task, read: _Read, block: Block, num_rows: int
) -> "tuple[Mapping[str, Any], Answer]":
    """Run the kernel once under the block's values and keys: NumPyro's trace, and what gave it."""
    set_values = block.values | block.row_values
    kernel = row_plates(task.kernel, task.spec.row_plates, num_rows)
    answer = Answer(
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
    task: Task, read: _Read, trace: Mapping[str, Any], answer: "Answer"
) -> dict[str, Faults]:
    """Faults of the distributions that what is asked for is drawn from, or read of."""
    faults = {}
    set_sites = {*task.do, *task.condition}
    asked = task.spec.row_data_sites if read is _row_scores else task.sites
    for name in task.spec.above(asked):
        if name not in trace or task.spec[name].kind in ("param", "factor"):
            continue
        site, marks = trace[name], _marks(task, trace, name, answer)
        options: dict[str, Any] = {"is_read": False}
        if read is not site_values and name in asked and name not in set_sites:
            options["is_read"] = site["type"] == "sample"
            if read in (_site_densities, _left_out_densities, _row_scores):
                density, counts = _density(task, trace, name)
                density = jnp.where(counts, density, 0.0)
                marks.append(Mark("log density", ~(density < jnp.inf), density))
        elif name in answer.drawn:
            options = {"where": answer.drawn[name], "is_drawn": True}
        axis = row_axis(task.spec, name) if task.spec[name].follows_rows else None
        fn = site["fn"] if site["type"] == "sample" else dist.Delta(site["value"])
        faults[name] = faults_of(fn, jnp.shape(site["value"]), axis, marks=marks, **options)
    return {name: of_site for name, of_site in faults.items() if of_site is not None}


def _marks(task: Task, trace: Mapping[str, Any], name: str, answer: "Answer") -> list[Mark]:
    """What must not be of a value that a function gave, or that was made elsewhere."""
    marks = list(answer.marks.get(name, ()))
    if name in task.unchecked and trace[name]["value"] is answer.given[name]:
        value, support = trace[name]["value"], trace[name]["fn"].support
        shown = value.min(axis=tuple(range(value.ndim - support.event_dim, value.ndim)))
        marks.append(Mark("posterior", ~is_inside(support, value), shown))
    return marks


def _needed(task: Task, read: _Read) -> Collection[str]:
    """Sites whose values are read: of what only its distribution is asked, those above it."""
    if read is _row_scores:
        return task.spec.above(task.spec.row_data_sites)
    parents = {p for name in task.sites for p in task.spec[name].parents}
    return task.spec.above(parents if read is _site_means else task.sites)


def site_values(task: Task, _: Block, trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Values of the sites that a task asks for."""
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
        axis = row_axis(task.spec, name)
        draw = partial(_uniform, words, f"{name}:abduction", shape[:axis] + shape[axis + 1 :])
        uniform = jax.vmap(draw, out_axes=axis)(jnp.atleast_1d(block.rows))
        evidence[name] = Evidence(law, value, uniform)
    return evidence


def _uniform(words: jax.Array, name: str, shape: tuple[int, ...], row: ArrayLike) -> jax.Array:
    """Numbers between 0 and 1, neither of them included."""
    return jax.random.uniform(site_key(words, name, row), shape, np.float32) + 2.0**-25


def _site_densities(task: Task, _: Block, trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    return _that_count({name: _density(task, trace, name) for name in task.sites})


def _left_out_densities(task: Task, _: Block, trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    given = "others"
    return _that_count({name: _density(task, trace, name, given) for name in task.sites})


def _that_count(densities: Mapping[str, tuple[Any, Any]]) -> dict[str, jax.Array]:
    return {
        name: jnp.where(counts, density, jnp.nan) for name, (density, counts) in densities.items()
    }


def _site_presence(task: Task, _: Block, trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {name: _density(task, trace, name)[1] for name in task.sites}


def _density(
    task: Task, trace: Mapping[str, Any], name: str, given: str = "earlier"
) -> tuple[Any, Any]:
    """Log densities of a site and which count; where nothing is masked or missing, all do."""
    fn, value, site = trace[name]["fn"], trace[name]["value"], task.spec[name]
    return densities_of(fn, value, site, missing=task.missing, given=given)


def _row_scores(task: Task, _: Block, trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    total, weight, count = (jnp.zeros(()) for _ in range(3))
    for name in task.spec.row_data_sites:
        elements, counts = _density(task, trace, name)
        scale = 1.0 if trace[name]["scale"] is None else trace[name]["scale"]
        counts = counts & (jnp.broadcast_to(scale, elements.shape) != 0)
        axis = row_axis(task.results, name)
        parts = (jnp.where(counts, elements, 0.0), jnp.where(counts, scale, 0.0), counts)
        density, scales, ones = (
            jnp.moveaxis(values, axis, 0).reshape(elements.shape[axis], -1).sum(axis=1)
            for values in parts
        )
        total, weight, count = total + density, weight + scales, count + ones
    scores: dict[str, jax.Array] = {DENSITY: total, WEIGHT: weight / jnp.maximum(count, 1)}
    return {name: scores[name] for name in task.sites}


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
        set_value: Any = {**block.values, **block.row_values}.get(name)
        if name in task.condition and jnp.shape(set_value) != value.shape:
            means[name] = _mean_after(set_value, site["fn"], value, name)
    return means


def _mean_after(set_value: Array, fn: dist.Distribution, value: jax.Array, name: str) -> jax.Array:
    """A mean given the value in the first rows or steps, where it is known."""
    mean, first = mean_of(fn, name, value.shape), tuple(map(slice, jnp.shape(set_value)))
    if fn.event_dim == jnp.ndim(value) == mean.ndim:  # a mean moves with what is known as draws do
        mean = drawn_on(fn, value[first], mean)
    return mean.at[first].set(mean_of_known(fn, value)[first])
