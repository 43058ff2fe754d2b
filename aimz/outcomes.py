"""Observed values that their distributions cannot take, refused before anything is compiled.

A kernel is traced for what its sites observe and for their supports; both are computed where they
follow from the arguments alone. A support that a latent decides is left to the log density.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints

from aimz import programs
from aimz.errors import InputError
from aimz.families import is_inside
from aimz.lookups import known_outputs
from aimz.presence import is_there, unmasked
from aimz.structure import Inputs, base_distribution, spread_sites, stand_ins

__all__ = ["check_outcomes"]

# Families whose density has a limit on the border of their support, which is open.
_EDGED = (dist.Exponential, dist.Gompertz, dist.HalfCauchy, dist.HalfNormal)
# Families whose density has none there, though their support is closed.
_EDGELESS = (dist.Beta, dist.Kumaraswamy)
# Supports that leave nothing out (angles go around), or are not known.
_FREE = tuple(
    type(getattr(constraints, name)) for name in ("circular", "dependent", "real", "real_vector")
)


def check_outcomes(kernel: Callable[..., Any], inputs: Inputs, *, is_fit: bool) -> None:
    """Refuse observed values outside the supports of their sites; of a fit also on open borders.

    Raises
    ------
    InputError
        `outcome-support`.
    """
    sites: list[tuple[str, Any, Any]] = []
    spread = spread_sites(kernel, inputs.spread, inputs.always_rows[0])

    def look(arrays: dict[str, Any], key: Any) -> list[Any]:
        sites.clear()
        found: list[Any] = []
        with handlers.block():
            trace = handlers.trace(handlers.seed(stand_ins(spread), key)).get_trace(
                **arrays, **inputs.static
            )
        for name, site in trace.items():
            support = _support_of(site)
            if support is None:
                continue
            leaves, form = jax.tree.flatten(support)
            sites.append((name, form, type(base_distribution(site["fn"]))))
            found.append([site["value"], unmasked(site["fn"]), *leaves])
        return found

    arrays = inputs.arrays
    with programs.TRACE_LOCK:
        program, shapes = programs.trace(look, arrays, jax.random.key(0))
    names = [name for name in sorted(arrays) for _ in jax.tree.leaves(arrays[name])]
    known = iter(known_outputs(program, [*names, None], arrays))
    for (name, form, family), own in zip(sites, shapes, strict=True):
        value, mask, *leaves = [next(known) for _ in own]
        if value is not None and mask is not None and all(leaf is not None for leaf in leaves):
            support = jax.tree.unflatten(form, leaves)
            _check(name, value, np.asarray(mask), support, family, is_fit=is_fit)


def _support_of(site: Any) -> Any:
    """The support of an observed site; None where there is nothing to check."""
    is_observed = site["type"] == "sample" and site["is_observed"]
    if not is_observed or site.get("_control_flow_done") or isinstance(site["fn"], dist.Unit):
        return None
    try:
        support = site["fn"].support
    except NotImplementedError:
        return None
    is_known = isinstance(support, constraints.Constraint)
    if not is_known or isinstance(support, _FREE) or np.ndim(site["value"]) == 0:
        return None
    return support


def _check(
    name: str, value: Any, mask: np.ndarray, support: Any, family: Any, *, is_fit: bool
) -> None:
    value = np.asarray(value)
    there = np.asarray(is_there(value))
    events = tuple(range(value.ndim - support.event_dim, value.ndim))
    there = there.all(axis=events) if events else there
    inside = np.asarray(is_inside(support, value))
    if is_fit and not issubclass(family, _EDGED) and not support.is_discrete:
        inside = inside & np.asarray(support(value) | ~is_inside(support, value))
        if issubclass(family, _EDGELESS):
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
    own = _words(support, where, bad.shape)
    raise InputError(
        f"Site '{name}' observes {shown}{row}{more}, which {family.__name__} cannot take: its "
        f"support is {own}. Check the coding of the outcome, or choose another family.",
        code="outcome-support",
    )


def _words(support: Any, where: tuple[int, ...], shape: tuple[int, ...]) -> str:
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
