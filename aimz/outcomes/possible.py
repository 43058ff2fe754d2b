"""Observed values that their distributions cannot take, refused before anything is compiled.

A kernel is traced for what its sites observe and for their supports; both are computed where they
follow from the arguments alone. A support that a latent decides is left to the log density.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints

from aimz import programs
from aimz.arrays import Array
from aimz.errors import InputError
from aimz.families import (
    FAMILIES,
    Faults,
    base_distribution,
    density_of,
    fault_of,
    faults_of,
    is_inside,
)
from aimz.kernel import Inputs, known_outputs, spread_sites, stand_ins
from aimz.likelihoods import has_box
from aimz.outcomes.presence import is_there, unmasked

__all__ = ["check_outcomes", "check_reachable"]


#: Draws of the prior that look for a place where outcomes are possible.
_PRIOR_DRAWS = 64
_MAX_SEEN = 64
# Supports that leave nothing out (angles go around), or are not known.
_FREE = tuple(
    type(getattr(constraints, name)) for name in ("circular", "dependent", "real", "real_vector")
)


def check_outcomes(kernel: Callable[..., Any], inputs: Inputs, *, is_fit: bool) -> tuple[str, ...]:
    """Refuse observed values outside the supports of their sites; of a fit also on open borders.

    Returns the sites of which this is not known, because a latent decides.

    Raises
    ------
    InputError
        `outcome-support`.
    """
    arrays = inputs.arrays
    seen = programs.remembered(
        _SEEN, lambda: inputs.name(kernel), lambda: _observations(kernel, inputs)
    )
    names = [name for name in sorted(arrays) for _ in jax.tree.leaves(arrays[name])]
    outputs = iter(known_outputs(seen.program, [*names, None], arrays))
    unknown = sorted(seen.others)
    for (name, form, family), of_site in zip(seen.sites, seen.shapes, strict=True):
        value, mask, *leaves = [next(outputs) for _ in of_site]
        if value is not None and mask is not None and all(leaf is not None for leaf in leaves):
            support = jax.tree.unflatten(form, leaves)
            _check(name, value, np.asarray(mask), support, family, is_fit=is_fit)
        elif value is not None:
            unknown.append(name)
    return tuple(unknown)


@dataclass(frozen=True)
class _Observations:
    """What sites observe, and the supports of these sites, as outputs of a traced program."""

    program: Any
    shapes: Any
    sites: list[tuple[str, Any, Any]]  # name, form of the support, family
    others: set[str]  # sites whose support says little


# By all that the trace follows from.
_SEEN: programs.Cache[Any, _Observations] = programs.Cache(_MAX_SEEN)


def _observations(kernel: Callable[..., Any], inputs: Inputs) -> _Observations:
    sites: list[tuple[str, Any, Any]] = []
    others: set[str] = set()
    spread = spread_sites(kernel, inputs.spread, inputs.always_rows[0])

    def look(arrays: dict[str, Any], key: jax.Array) -> list[Any]:
        sites.clear()
        observed: list[Any] = []
        with handlers.block():
            trace = handlers.trace(handlers.seed(stand_ins(spread), key)).get_trace(
                **arrays, **inputs.static
            )
        for name, site in trace.items():
            is_observed = site["type"] == "sample" and site["is_observed"]
            is_scanned = bool(site.get("_control_flow_done"))  # its first axis are no rows
            if is_observed and not is_scanned and has_box(site["fn"]):
                others.add(name)
            support = _support_of(site)
            if support is None:
                if is_observed and _says_little(site["fn"]):
                    others.add(name)
                continue
            leaves, form = jax.tree.flatten(support)
            sites.append((name, form, type(base_distribution(site["fn"]))))
            observed.append([site["value"], unmasked(site["fn"]), *leaves])
        return observed

    with programs.TRACE_LOCK:
        program, shapes = programs.trace(look, inputs.arrays, jax.random.key(0))
    return _Observations(program, shapes, sites, others)


def check_reachable(kernel: Callable[..., Any], inputs: Inputs, names: Collection[str]) -> None:
    """Refuse outcomes that no draw of the prior finds possible: a fit would not know where to go.

    Raises
    ------
    InputError
        `outcome-support`; `outside-box`, where all draws are outside of what a net knows.
    """
    families: dict[str, str] = {}

    def look(arrays: dict[str, Any], keys: jax.Array) -> dict[str, Any]:
        def one(key: jax.Array) -> dict[str, Any]:
            with handlers.block():
                sites = handlers.trace(handlers.seed(kernel, key)).get_trace(
                    **arrays, **inputs.static
                )
            families.update({n: type(base_distribution(sites[n]["fn"])).__name__ for n in names})
            return {name: (_is_possible(sites[name]), _outside_box(sites[name])) for name in names}

        def step(before: dict[str, Any], key: jax.Array) -> tuple[dict[str, Any], None]:
            now = one(key)
            return {name: _together(before[name], now[name]) for name in names}, None

        return jax.lax.scan(step, one(keys[0]), keys[1:])[0]

    keys = jax.random.split(jax.random.key(0), _PRIOR_DRAWS)
    try:
        by_site = programs.compile_program(look, inputs.arrays, keys)(inputs.arrays, keys)
    except (NotImplementedError, TypeError, ValueError):  # a prior without a sampler
        return
    for name, (possible, outside) in by_site.items():
        bad = np.argwhere(~np.asarray(possible))
        if len(bad):
            _check_in_box(name, outside, np.asarray(possible))
            row = f" in row {bad[0][0]}" if len(bad[0]) else ""
            raise InputError(
                f"In none of {_PRIOR_DRAWS} draws of the prior can site '{name}' be what it "
                f"observes{row}: it is outside the support of {families[name]}, which latents "
                "decide. Check the outcome, or widen the priors.",
                code="outcome-support",
            )


def _is_possible(site: Mapping[str, Any]) -> Any:
    """Where an observed site has a density, is missing, or is masked."""
    fn, value = site["fn"], jnp.asarray(site["value"])
    events = tuple(range(value.ndim - fn.event_dim, value.ndim))
    return ~jnp.isneginf(density_of(fn, value)) | ~is_there(value).all(axis=events)


def _outside_box(site: Mapping[str, Any]) -> Faults | None:
    """Where parameters are outside of the box that a net knows; None where there is no box."""
    if not has_box(site["fn"]):
        return None
    return faults_of(site["fn"], jnp.shape(site["value"]), 0)


def _together(before: tuple[Any, Faults | None], now: tuple[Any, Faults | None]) -> tuple[Any, Any]:
    """What some draw finds possible, and what all of them find outside."""
    possible = before[0] | now[0]
    if before[1] is None or now[1] is None:
        return possible, None
    code = jnp.where(now[1].code > 0, before[1].code, 0).astype(before[1].code.dtype)
    return possible, replace(before[1], code=code)


def _check_in_box(name: str, outside: Faults | None, possible: np.ndarray) -> None:
    """Refuse rows whose parameters every draw of the prior puts outside of the box."""
    if outside is None:
        return
    is_bad = ~possible.reshape(len(possible), -1).all(axis=1) if possible.ndim else np.array([True])
    fault = fault_of(outside, len(is_bad), is_bad)
    if fault is not None and fault[1].box:
        row, (family, parameter, value, box) = fault
        where = "" if row is None else f" in row {row}"
        raise InputError(
            f"All {_PRIOR_DRAWS} draws of the prior put site '{name}'{where} outside of the box of "
            f"{family}, such as at {parameter} = {value:.4g}: it was trained in {box}. Narrow the "
            "priors to its bounds, or train it in a larger box.",
            code="outside-box",
        )


def _says_little(fn: dist.Distribution) -> bool:
    """Whether a distribution leaves out more than its support says."""
    base = base_distribution(fn)
    return isinstance(base, dist.Delta) or (
        isinstance(base, dist.TransformedDistribution) and isinstance(base.support, _FREE)
    )


def _support_of(site: Mapping[str, Any]) -> Any:
    """The support of an observed site; None where there is nothing to check."""
    is_observed = site["type"] == "sample" and site["is_observed"]
    if not is_observed or site.get("_control_flow_done") or isinstance(site["fn"], dist.Unit):
        return None
    try:
        support = site["fn"].support
    except NotImplementedError:
        return None
    is_known = isinstance(support, constraints.Constraint) and not _says_little(site["fn"])
    if not is_known or isinstance(support, _FREE) or np.ndim(site["value"]) == 0:
        return None
    return support


def _check(
    name: str,
    value: Array,
    mask: np.ndarray,
    support: constraints.Constraint,
    family: type[dist.Distribution],
    *,
    is_fit: bool,
) -> None:
    value = np.asarray(value)
    there = np.asarray(is_there(value))
    events = tuple(range(value.ndim - support.event_dim, value.ndim))
    there = there.all(axis=events) if events else there
    inside = np.asarray(is_inside(support, value))
    edge = FAMILIES.above[family].edge
    if is_fit and edge is not True and not support.is_discrete:
        inside = inside & np.asarray(support(value) | ~is_inside(support, value))
        if edge is False:
            inside = inside & (value > 0) & (value < 1)
    try:
        used = there & np.broadcast_to(mask, inside.shape)
    except ValueError:
        used = there & mask.all()
    bad = used & ~inside
    if not bad.any():
        return
    where = tuple(np.argwhere(bad)[0])
    row = f" in row {where[0]}" if where else ""
    event = np.ravel(value[where])
    shown = f"{event[0]:g}" if len(event) == 1 else f"{event.tolist()!s:.40}"
    more = f" ({int(bad.sum())} such values)" if bad.sum() > 1 else ""
    words = _words(support, where, bad.shape)
    raise InputError(
        f"Site '{name}' observes {shown}{row}{more}, which {family.__name__} cannot take: its "
        f"support is {words}. Check the coding of the outcome, or choose another family.",
        code="outcome-support",
    )


def _words(support: constraints.Constraint, where: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """A support in words, as it is at one place of an array."""
    if support is constraints.boolean:
        return "0 and 1"
    if isinstance(support, type(constraints.simplex)):
        return "shares of at least 0 that add up to 1"
    if isinstance(support, type(constraints.multinomial(1))):
        return "whole numbers of at least 0 that add up to the number of trials"
    if isinstance(support, type(constraints.independent(constraints.real, 1))):
        return f"vectors of {_words(support.base_constraint, where, shape)}"

    def bound(name: str) -> Any:
        value = getattr(support, name, None)
        return None if value is None else np.broadcast_to(value, shape)[where].item()

    kind = "whole numbers" if support.is_discrete else "numbers"
    try:
        low, high = bound("lower_bound"), bound("upper_bound")
    except ValueError:
        low = high = None
    if low is None and high is None:
        return f"{type(support).__name__.strip('_')}"
    if low is not None and high is not None:
        return f"{kind} from {low:g} to {high:g}"
    if high is not None:
        return f"{kind} of at most {high:g}"
    is_open = not (support.is_discrete or isinstance(support, type(constraints.greater_than_eq(0))))
    return f"{kind} {'above' if is_open else 'of at least'} {low:g}"
