"""One prediction as data: which sites are given, which are set, and the block of its arrays.

An intervention reaches through latents that the posterior holds: its descendants are drawn anew.
Everything here is pure; what the user should hear comes back as notes.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from aimz.choices import names_of
from aimz.continuation import (
    check_history,
    cut_where_changed,
    ends_early,
    first_axis,
    is_history,
    is_path,
    may_go_on,
    rows_known,
)
from aimz.data import Arguments, as_array, as_jax_sees, check_finite
from aimz.errors import InputError, OutputWarning, nearest
from aimz.foreign_draws import check_names, check_supports
from aimz.inference.records import Fit, Note
from aimz.sampling import Block, Task, follows_rows
from aimz.spec import KernelSpec, SiteSpec
from aimz.widening import check_range

__all__ = [
    "Origin",
    "Reuse",
    "Scenario",
    "as_site",
    "global_carries",
    "make_block",
    "observed_sites",
    "reused_draws",
    "rows_set",
    "scenario_of",
    "sites_to_return",
]


@dataclass(frozen=True)
class Scenario:
    """Sites that are set: arrays that belong to rows, those that do not, and callables."""

    values: Mapping[str, Any]
    row_values: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]
    do: tuple[str, ...]
    condition: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Where the rows of a call are among the fitted ones, and which of their arguments changed.

    `rows` is None where they are the fitted ones in order, else their numbers there; `leading` is
    how many fitted ones the rows begin with, where they go on after these. `changed` says
    for each argument that is not the fitted one in which rows, (rows,) or (). `labels` are those of
    the call's rows. A posterior that was set by hand without a fit knows no rows but by the labels
    of its draws; `elsewhere` says that no fit has made the draws. `observed` names the sites that
    were data of the fit: left out, they are drawn. `static` names changed arguments that are not
    traced, so that it is not known what they reach.
    """

    is_known: bool = True
    by_hand: bool = False
    elsewhere: bool = False
    labels: np.ndarray | None = None
    draw_labels: Mapping[str, Any] = field(default_factory=dict)
    rows: np.ndarray | None = None
    leading: int = 0
    changed: Mapping[str, np.ndarray] = field(default_factory=dict)
    observed: frozenset[str] = frozenset()
    static: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reuse:
    """Posterior draws that a scenario reuses, and where it draws anew.

    `redraw` has the rows, (rows,) of bool, in which a latent of rows is drawn anew; `redrawn` names
    every site whose posterior draws are not used, or not in all rows; `unchecked` those whose draws
    were made elsewhere and can only be held to their supports where these are computed.
    """

    draws: Mapping[str, Any]
    redraw: Mapping[str, np.ndarray]
    redrawn: tuple[str, ...]
    notes: tuple[Note, ...]
    unchecked: tuple[str, ...] = ()


def scenario_of(
    spec: KernelSpec,
    intervention: Mapping[str, Any] | None,
    condition: Mapping[str, Any] | None,
) -> Scenario:
    """Check interventions and conditions against the kernel's sites.

    Raises
    ------
    InputError
        `site-unknown`, `site-shape`, `site-integer`, `site-support`, `site-function`,
        `site-twice`, `site-in-scan`, `site-computed`, `not-finite`.

    A condition on rows that interact, or on steps of a scan, may be that of the first of them only.
    """
    do, given = dict(intervention or {}), dict(condition or {})
    twice = sorted(do.keys() & given.keys())
    if twice:
        msg = f"Site '{twice[0]}' is in both intervention and condition. Keep it in one of them."
        raise InputError(msg, code="site-twice")
    values, row_values = {}, {}
    for name, value in {**do, **given}.items():
        site = _settable(spec, name, is_condition=name in given)
        if callable(value) and name in do:
            _check_not_in_scan(spec, site)
            if site.rows == "scan":
                check_range(value, site)
            if site.rows == "scan" or (follows_rows(site) and not spec.coupled):
                _check_row_by_row(site, value)
            continue
        may_end = name in given and spec.coupled
        array = _site_value(site, value, may_end=may_end)
        _check_inside(site, array, with_edge=name in do)
        if may_end or (follows_rows(site) and array.ndim):
            ends = may_end and is_history(site, array.shape)
            array = array if ends else np.broadcast_to(array, site.shape)
        if follows_rows(site) and array.ndim:
            row_values[name] = np.moveaxis(array, site.row_axis or 0, 0)
        else:
            values[name] = array
    functions = {name: value for name, value in do.items() if callable(value)}
    return Scenario(values, row_values, functions, tuple(do), tuple(given))


def sites_to_return(spec: KernelSpec, asked: Any) -> tuple[str, ...]:
    """Names of the sites of a result: those asked for, else the output and the deterministics."""
    valid = [site.name for site in spec.sites if site.kind not in ("param", "factor")]
    if asked is None:
        chosen = [s.name for s in spec.sites if s.kind == "deterministic" or s.name == spec.output]
        return tuple(name for name in chosen if name in valid)
    names = names_of(asked, "return_sites")
    for name in names:
        if name not in valid:
            msg = f"There is no site '{name}' to return. {nearest(name, valid)}"
            raise InputError(msg, code="site-unknown")
    return names


def observed_sites(spec: KernelSpec, draws: Mapping[str, Any]) -> tuple[str, ...]:
    """Sites whose density is one of data; refused where the posterior lacks a latent.

    Raises
    ------
    InputError
        `latent-missing`, `nothing-observed`.
    """
    lacking = [name for name in spec.latents if name not in draws]
    if lacking:
        msg = (
            f"The posterior holds no draws of '{lacking[0]}', so the likelihood given it is not "
            "known. Fit the model, or pass its draws to set_posterior_sample."
        )
        raise InputError(msg, code="latent-missing")
    sites = spec.data_sites
    if not sites:
        msg = f"The kernel observes nothing here. Pass '{spec.output}' so that a site observes it."
        raise InputError(msg, code="nothing-observed")
    return sites


def reused_draws(
    spec: KernelSpec,
    fit: Fit,
    scenario: Scenario,
    origin: Origin,
    *,
    in_sample: bool,
    foresight: Callable[[int], str],
    grows: bool = False,
) -> Reuse:
    """Posterior draws that a scenario reuses; the others are drawn anew, and why is noted.

    What an intervention reaches is drawn anew. A changed argument reaches latents that belong to
    rows, in the rows where it has changed, and never a global one. Where rows interact and others
    follow the fitted ones, latents are known for these and drawn for those after them; `foresight`
    says how so many first rows depend on what follows. With `grows`, latents of groups are known
    for the first of them and drawn for those that the fit did not see.

    Raises
    ------
    InputError
        `rows-not-fitted`: latents that belong to the fitted rows, and other rows; `draws-shape`,
        `draws-support`, `draws-unknown`: draws that are not the kernel's; `global-carries`;
        `static-changed`; `rows-look-ahead`; `history-not-fitted`.
    """
    check_names(spec, fit.draws)
    if origin.elsewhere:
        check_supports(spec, fit.draws)
    below = spec.descendants(scenario.do) - set(scenario.do)
    latents = set(spec.latents)
    redrawn = sorted(name for name in below if name in fit.draws and name in latents)
    reused, begun = _known_draws(spec, fit.draws, origin, redrawn, in_sample=in_sample)
    grown = [name for name, value in reused.items() if _more_groups(spec[name], value)]
    for name in [name for name in reused if name not in begun and not (grows and name in grown)]:
        _check_shape(spec[name], reused[name], may_grow=name in grown)
    redraw = _changed_rows(spec, reused, origin, grown if grows else ())
    joined = (*_joined_notes(spec, origin, redraw), *_statistic_notes(spec, scenario))
    redrawn += [*cut_where_changed(spec, reused, redraw, foresight), *begun]
    _check_foresight(spec, begun, reused, foresight)
    for name in [name for name, rows in redraw.items() if rows.all()]:
        del reused[name], redraw[name]
        redrawn.append(name)
    known = {**scenario.values, **scenario.row_values}
    history = known.get(spec.output) if spec.output in scenario.condition else None
    check_history(spec, history, known, reused, redraw)
    notes = _notes(spec, fit, scenario, redrawn, origin.observed, in_sample=in_sample)
    redrawn_names = tuple(sorted({*redrawn, *redraw, *grown}))
    # A support that is computed with its site is held to there; in a scan it is not known.
    computed = {s.name for s in spec.sites if s.support is None and s.rows != "scan"}
    unchecked = [n for n in reused if origin.elsewhere and n in computed & set(spec.latents)]
    return Reuse(reused, redraw, redrawn_names, (*notes, *joined), tuple(unchecked))


def _more_groups(site: SiteSpec, value: Any) -> bool:
    """Whether a site has groups after those that its draws are of."""
    shape, batch = np.shape(value)[2:], len(site.shape) - site.event_dim
    if site.belongs_to_rows or site.rows == "scan" or len(shape) != len(site.shape):
        return False
    pairs = list(zip(shape, site.shape, strict=True))
    return (
        shape[batch:] == site.shape[batch:]
        and shape != site.shape
        and all(old <= new for old, new in pairs)
    )


def _statistic_notes(spec: KernelSpec, scenario: Scenario) -> tuple[Note, ...]:
    """What is said of a site that is set, of which the kernel takes a statistic over the rows."""
    pooled = [name for name in scenario.do if name in spec.pooled]
    if not pooled or spec.output not in spec.descendants(scenario.do):
        return ()
    text = (
        f"Site '{pooled[0]}' is set, and the kernel computes a statistic of it over the rows: it "
        "changes along, and may cancel a shift. If it is to stay, compute it before."
    )
    return (Note(OutputWarning, text, "rows-statistic"),)


def _joined_notes(
    spec: KernelSpec, origin: Origin, redraw: Mapping[str, np.ndarray]
) -> tuple[Note, ...]:
    """What is said of what joins rows, such as a map, where another one is passed than fitted."""
    whole = sorted(name for name, rows in origin.changed.items() if not np.ndim(rows))
    below = spec.descendants(arguments=set(whole) - spec.row_inputs) & redraw.keys()
    if not spec.coupled or not below:
        return ()
    text = (
        f"'{whole[0]}' is not the fitted one, so {_listed(sorted(below))} below it is drawn anew "
        "in all rows, and its posterior is not used. Pass the fitted one to keep it."
    )
    return (Note(OutputWarning, text, "rows-redrawn"),)


def _known_draws(
    spec: KernelSpec,
    draws: Mapping[str, Any],
    origin: Origin,
    redrawn: Sequence[str],
    *,
    in_sample: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Draws that the rows of a call have, and names of those that end before the rows do."""
    known: dict[str, Any] = {}
    begun = []
    for name, value in draws.items():
        if name not in spec or name in redrawn or spec[name].kind == "deterministic":
            continue  # what the kernel computes is computed again
        if not spec[name].belongs_to_rows:
            known[name] = value
        elif _goes_on(spec, spec[name], value, origin):
            known[name] = value
            begun.append(name)
        elif in_sample:
            known[name] = _of_rows(spec[name], value, origin, coupled=spec.coupled)
    for name, value in known.items():
        known[name] = as_site(spec[name], value)
    return known, begun


def _goes_on(spec: KernelSpec, site: SiteSpec, value: Any, origin: Origin) -> bool:
    """Whether draws of a latent of rows are for the first of the rows, and others follow."""
    return (origin.leading > 0 or origin.by_hand) and may_go_on(
        spec, site, tuple(np.shape(value)[2:]), origin.leading
    )


def _check_foresight(
    spec: KernelSpec,
    begun: Sequence[str],
    reused: Mapping[str, Any],
    foresight: Callable[[int], str],
) -> None:
    """Refuse to go on where the kernel says something else of the fitted rows than at the fit."""
    known = [rows_known(spec, spec[n], reused[n]) for n in begun if n in reused]
    reason = foresight(max(known)) if known else ""
    if reason:
        msg = (
            f"{reason} Rows that follow would change what was fitted. Compute such numbers outside "
            "of the kernel and pass them, or fit all rows."
        )
        raise InputError(msg, code="rows-look-ahead")


def _of_rows(site: SiteSpec, value: Any, origin: Origin, *, coupled: bool) -> Any:
    """Draws of a latent of rows for the rows of a call; where rows interact, only as they were."""
    axis = 2 + (site.row_axis or 0)
    rows, is_known = origin.rows, origin.is_known
    own = origin.draw_labels.get(site.name, {}).get(axis)
    if origin.by_hand and own is not None and origin.labels is not None:
        places = {label: number for number, label in enumerate(own.tolist())}
        found = [places.get(label, -1) for label in origin.labels.tolist()]
        rows, is_known = np.array(found), min(found) >= 0 and len(places) == len(own)
    if coupled and rows is not None:
        is_known = np.array_equal(rows, np.arange(np.shape(value)[axis]))
    if not is_known or (rows is not None and not follows_rows(site)):
        msg = (
            f"Site '{site.name}' has one value per fitted row, and these are other rows. Pass "
            "the fitted rows, or predict with in_sample=False to draw it anew."
        )
        raise InputError(msg, code="rows-not-fitted")
    return value if rows is None else np.take(np.asarray(value), rows, axis=axis)


def _changed_rows(
    spec: KernelSpec, reused: Mapping[str, Any], origin: Origin, grown: Collection[str]
) -> dict[str, np.ndarray]:
    """Rows in which each latent of rows lies below a changed argument."""
    held = frozenset(name for name in reused if not spec[name].belongs_to_rows) - set(grown)
    redraw: dict[str, np.ndarray] = {}
    of_rows = [name for name in reused if spec[name].belongs_to_rows]
    for argument in sorted(origin.static) if of_rows else ():
        msg = (
            f"'{argument}' is not the fitted one, and it is not known whether '{of_rows[0]}' "
            "depends on it. Predict with in_sample=False, or make it a floating-point number."
        )
        raise InputError(msg, code="static-changed")
    for argument, rows in origin.changed.items():
        reached = spec.descendants(arguments={argument}, held=held)
        _check_carried(spec, argument, held, "is not the fitted one")
        every = np.broadcast_to(rows, (spec.rows,))
        for name in reached & reused.keys():
            apart = follows_rows(spec[name]) and not spec.coupled
            keeps = apart or is_path(spec[name])
            part = every if keeps else np.full(spec.rows, every.any())
            redraw[name] = redraw.get(name, np.zeros(spec.rows, bool)) | part
    return redraw


def _check_carried(spec: KernelSpec, argument: str, held: Collection[str], how: str) -> None:
    """Refuse a change that only latents which are `held`, being global, carry to the outcome."""
    reached = spec.descendants(arguments={argument}, held=held)
    if spec.output not in reached and spec.output in spec.descendants(arguments={argument}):
        raise global_carries(argument, how)


def global_carries(argument: str, how: str) -> InputError:
    """The error of a change that only global latents of the posterior carry to the outcome."""
    msg = (
        f"'{argument}' {how}, and only global latents of the posterior carry its change to the "
        "outcome. They are never drawn anew for an argument: set them by intervention=, or fit "
        "again."
    )
    return InputError(msg, code="global-carries")


def rows_set(spec: KernelSpec, draws: Mapping[str, Any], settings: Mapping[str, Any]) -> int | None:
    """Number of rows that draws of per-row latents, or values set row by row, belong to."""
    for values, leading in ((draws, 2), (settings, 0)):
        for name, value in values.items():
            if name not in spec or callable(value) or not follows_rows(spec[name]):
                continue
            shape = np.shape(value)
            if len(shape) == leading + len(spec[name].shape):
                return int(shape[leading + (spec[name].row_axis or 0)])
    return None


def make_block(
    task: Task,
    arguments: Arguments,
    scenario: Scenario,
    reuse: Reuse,
    params: Mapping[str, Any],
    *,
    words: Any,
    num_draws: int,
    kept: np.ndarray | None = None,
) -> Block:
    """All the arrays of one result, rows and draws complete."""
    spec = task.spec
    posterior, row_posterior = {}, {}
    for name, value in reuse.draws.items():
        flat = np.reshape(np.asarray(value), (-1, *np.shape(value)[2:]))
        if name in spec and follows_rows(spec[name]):
            row_posterior[name] = np.moveaxis(flat, 1 + (spec[name].row_axis or 0), 1)
        else:
            posterior[name] = jnp.asarray(flat)
    rows = {n: v for n, v in arguments.arrays.items() if n in spec.row_inputs}
    whole = {n: v for n, v in arguments.arrays.items() if n not in spec.row_inputs}
    return Block(
        words=words,
        draws=np.arange(num_draws, dtype=np.uint32),
        rows=np.arange(task.spec.rows, dtype=np.uint32),
        inputs=whole,
        row_inputs=rows,
        params=dict(params),
        posterior=posterior,
        row_posterior=row_posterior,
        values=dict(scenario.values),
        row_values=dict(scenario.row_values),
        redraw=dict(reuse.redraw),
        kept=kept,
    )


def _check_shape(site: SiteSpec, value: Any, *, may_grow: bool = False) -> None:
    shape = tuple(np.shape(value)[2:])
    if shape != tuple(site.shape):
        more = " New groups can be drawn: new_groups='prior'." if may_grow else ""
        msg = (
            f"Each posterior draw of '{site.name}' has shape {shape}, but here the site has shape "
            f"{tuple(site.shape)}. Pass the rows and columns that the draws belong to.{more}"
        )
        raise InputError(msg, code="draws-shape")


def _settable(spec: KernelSpec, name: str, *, is_condition: bool) -> SiteSpec:
    valid = [s.name for s in spec.sites if s.kind not in ("param", "factor")]
    if name not in valid:
        msg = f"There is no site '{name}' to set. {nearest(name, valid)}"
        raise InputError(msg, code="site-unknown")
    if is_condition and spec[name].kind == "deterministic":
        msg = (
            f"Site '{name}' is computed from others, not drawn, so no condition can hold it. Set "
            f"it with intervention={{'{name}': ...}}, or condition on a site that is drawn."
        )
        raise InputError(msg, code="site-computed")
    return spec[name]


def _check_not_in_scan(spec: KernelSpec, site: SiteSpec) -> None:
    """Refuse a function of a latent in a scan that follows from itself as it was a step before.

    Its natural value after a step that was changed is not the posterior's.
    """
    below = spec.descendants({site.name})
    reads_itself = site.name in site.parents or site.name in spec.descendants(below)
    if site.rows == "scan" and site.kind == "latent" and reads_itself:
        msg = (
            f"Site '{site.name}' is inside a scan and follows from its last step, so a function of "
            "its natural value would meet its own changes. Pass its values."
        )
        raise InputError(msg, code="site-in-scan")


def _site_value(site: SiteSpec, value: Any, *, may_end: bool) -> np.ndarray:
    """A value for a site, refused unless it has the site's shape or broadcasts to it exactly.

    One that may end early may be that of the first rows or steps only. One value is not spread over
    rows, nor n values over n x n: they may be one per row or one per column.
    """
    array = as_site(site, as_array(value, site.name))
    check_finite({site.name: array})
    shape = tuple(site.shape)
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    is_single = len(shape) == 1 and array.shape == (1,) != shape
    is_square = array.ndim > 0 and shape == 2 * array.shape and bool((array != array[0]).any())
    fits = fits and not (follows_rows(site) and (is_single or is_square))
    if not fits and not (may_end and ends_early(array.shape, shape, first_axis(site))):
        msg = (
            f"The value for site '{site.name}' has shape {array.shape}, but the site has shape "
            f"{shape}. Pass a scalar or an array of that shape."
        )
        raise InputError(msg, code="site-shape")
    return array


def _check_inside(site: SiteSpec, array: np.ndarray, *, with_edge: bool) -> None:
    """Refuse values that a site cannot take.

    The edge of an open support has no density, and yet is what many interventions mean: an
    exposure that is always positive is set to 0.
    """
    inside = np.ones(array.shape, bool)
    if site.bounds is not None:
        inside = (array >= site.bounds[0]) & (array <= site.bounds[1])
    elif site.support is not None and not site.support.event_dim and not site.is_angle:
        inside = np.asarray(site.support(array))
        for edge in ("lower_bound", "upper_bound") if with_edge else ():
            inside = inside | (array == getattr(site.support, edge, np.nan))
    if not inside.all():
        outside = np.broadcast_to(array, inside.shape)[~inside][0]
        msg = (
            f"Site '{site.name}' is set to {outside!s}, which it cannot take. Set "
            f"it to a value in its support ({site.bounds or site.support!s:.60})."
        )
        raise InputError(msg, code="site-support")


def as_site(site: SiteSpec, value: Any) -> np.ndarray:
    """Values in the dtype of a site, refused where it cannot hold them."""
    array = np.asarray(value)
    if site.dtype is None or array.dtype == site.dtype:
        return array
    if site.dtype.kind not in "biu":
        wide = array.astype(np.float64) if array.dtype.kind in "biu" else array
        cast: np.ndarray = as_jax_sees(wide, site.name).astype(site.dtype)
        return cast
    if array.dtype.kind == "f" and np.any(array != np.round(array)):
        msg = (
            f"Site '{site.name}' holds {site.dtype} and cannot take "
            f"{array[array != np.round(array)].flat[0]!r}. Pass integers."
        )
        raise InputError(msg, code="site-integer")
    array = array.astype(np.float64) if array.dtype.kind == "f" else array
    low, high = (0, 1)
    if site.dtype.kind != "b":
        low, high = np.iinfo(site.dtype).min, np.iinfo(site.dtype).max
    if array.size and (array.min() < low or array.max() > high):
        msg = (
            f"Site '{site.name}' holds {site.dtype}, which cannot hold the values that it is "
            "set to. Pass smaller ones."
        )
        raise InputError(msg, code="cast-overflow")
    return array.astype(site.dtype)


def _check_row_by_row(site: SiteSpec, function: Callable[[Any], Any]) -> None:
    """Refuse a function of a site of rows that looks at more than one row: it gets one at a time.

    Rows do not interact, so the rows of the values made up here are as good as any.
    """
    axis, count = first_axis(site), 5
    shape = [count if place == axis else size for place, size in enumerate(site.shape)]
    noise = np.random.default_rng(len(site.name)).normal(size=shape)
    values = _made_up(site, noise)
    is_whole = jnp.issubdtype(values.dtype, jnp.integer)
    try:
        with jax.enable_x64(True) if is_whole else contextlib.nullcontext():
            values = values.astype(np.int64) if is_whole else values
            whole = np.asarray(function(values))
            one = tuple(1 if place == axis else s for place, s in enumerate(shape))
            rows = [jnp.take(values, np.array([n]), axis=axis) for n in range(count)]
            alone = [np.broadcast_to(np.asarray(function(row)), one) for row in rows]
        whole = np.broadcast_to(whole, tuple(shape))
    except (TypeError, ValueError, IndexError) as error:
        msg = (
            f"The function for site '{site.name}' does not work on one row at a time: "
            f"{error!s:.80}. Pass one value per row, or a function of each value alone."
        )
        raise InputError(msg, code="site-function") from error
    apart = np.concatenate(alone, axis=axis)
    close = np.isclose(whole.astype(float), apart.astype(float), rtol=1e-4, equal_nan=True)
    if not close.all():
        msg = (
            f"The function for site '{site.name}' looks at other rows, but it gets one row at a "
            "time. Pass one value per row, or a function of each value alone."
        )
        raise InputError(msg, code="site-function")
    if site.support is not None and not np.isfinite(whole.astype(float)).all():
        msg = f"The function for site '{site.name}' gives NaN or infinity for values of the site."
        raise InputError(msg, code="not-finite")


def _made_up(site: SiteSpec, noise: np.ndarray) -> Any:
    """Values that a site can take, made of normal noise."""
    if site.dtype is not None and site.dtype.kind in "biu":
        low, high = site.bounds or (0, 3)
        return jnp.asarray(np.clip(np.round(np.abs(noise) * 2), low, high).astype(site.dtype))
    if site.support is None:
        return jnp.asarray(noise, jnp.result_type(float))
    try:
        transform = biject_to(site.support)
        free = noise[..., : transform.inverse_shape(noise.shape)[-1]] if noise.ndim else noise
        return transform(jnp.asarray(free, jnp.result_type(float)))
    except (NotImplementedError, ValueError, TypeError):
        return jnp.asarray(noise, jnp.result_type(float))


def _notes(
    spec: KernelSpec,
    fit: Fit,
    scenario: Scenario,
    redrawn: list[str],
    observed: frozenset[str],
    *,
    in_sample: bool,
) -> tuple[Note, ...]:
    notes, draws = [], fit.draws
    set_sites = set(scenario.do) | set(scenario.condition)
    global_redrawn = [name for name in redrawn if not spec[name].belongs_to_rows]
    if global_redrawn:
        text = (
            f"The intervention redraws {_listed(global_redrawn)} from the prior, because its "
            "distribution depends on a site that was set. Its posterior is not used."
        )
        notes.append(Note(OutputWarning, text, "global-redrawn"))
    lacking = [
        name
        for name in spec.latents
        if name not in draws
        and name != spec.output
        and name not in set_sites | observed
        and (in_sample or not spec[name].belongs_to_rows)
    ]
    if lacking and draws:
        text = (
            f"The posterior holds no draws of {_listed(lacking)}: each is drawn from its prior, "
            "once per draw. Pass them to set_posterior_sample if that is not what you want."
        )
        notes.append(Note(OutputWarning, text, "site-from-prior"))
    initial = [s.name for s in spec.sites if s.kind == "param" and s.name not in fit.params]
    if initial and draws:
        text = (
            f"Parameter {_listed(initial)} keeps its initial value, because no fit has set it. Fit "
            "the model if that is not what you want."
        )
        notes.append(Note(OutputWarning, text, "param-initial"))
    reach = spec.descendants(scenario.do) | set(scenario.do)
    if scenario.do and spec.output not in reach:
        text = (
            f"Setting {_listed(scenario.do)} cannot change '{spec.output}': no path leads there. "
            "Set a site that the outcome depends on."
        )
        notes.append(Note(OutputWarning, text, "no-effect"))
    blocked = [n for n in reach if n in spec and spec[n].kind == "observed" and n != spec.output]
    blocked = [name for name in blocked if name not in set_sites and spec[name].is_given]
    if blocked:
        text = (
            f"Setting {_listed(scenario.do)} does not change {_listed(sorted(blocked))}, which the "
            "data of the call hold. Leave these data out to let the change through."
        )
        notes.append(Note(OutputWarning, text, "blocked-by-data"))
    return tuple(notes)


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
