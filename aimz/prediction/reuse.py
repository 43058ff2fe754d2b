"""What of the posterior a prediction keeps, and what it draws anew."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.arrays import Array
from aimz.errors import InputError, Note, OutputWarning
from aimz.inference import Fit
from aimz.kernel import KernelSpec, SiteSpec
from aimz.prediction.continuation import (
    check_history,
    cut_where_changed,
    is_path,
    may_go_on,
    rows_known,
)
from aimz.prediction.foreign_draws import check_names, check_supports
from aimz.prediction.interventions import Scenario, as_site, check_carried, check_shape
from aimz.prediction.request import Origin

__all__ = ["Reuse", "reused_draws"]


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
        check_shape(spec[name], reused[name], may_grow=name in grown)
    redraw = _changed_rows(spec, reused, origin, grown if grows else ())
    joined = (*_joined_notes(spec, origin, redraw), *_statistic_notes(spec, scenario))
    redrawn += [*cut_where_changed(spec, reused, redraw, foresight), *begun]
    _check_foresight(spec, begun, reused, foresight)
    for name in [name for name, rows in redraw.items() if rows.all()]:
        del reused[name], redraw[name]
        redrawn.append(name)
    set_values = {**scenario.values, **scenario.row_values}
    history = set_values.get(spec.output) if spec.output in scenario.condition else None
    check_history(spec, history, set_values, reused, redraw)
    notes = _notes(spec, fit, scenario, redrawn, origin.observed, in_sample=in_sample)
    redrawn_names = tuple(sorted({*redrawn, *redraw, *grown}))
    # A support that is computed with its site is held to there; in a scan it is not known.
    computed = {s.name for s in spec.sites if s.support is None and s.rows != "scan"}
    unchecked = [n for n in reused if origin.elsewhere and n in computed & set(spec.latents)]
    return Reuse(reused, redraw, redrawn_names, (*notes, *joined), tuple(unchecked))


def _more_groups(site: SiteSpec, value: Array) -> bool:
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
    usable: dict[str, Any] = {}
    begun = []
    for name, value in draws.items():
        if name not in spec or name in redrawn or spec[name].kind == "deterministic":
            continue  # what the kernel computes is computed again
        if not spec[name].belongs_to_rows:
            usable[name] = value
        elif _goes_on(spec, spec[name], value, origin):
            usable[name] = value
            begun.append(name)
        elif in_sample:
            usable[name] = _of_rows(spec[name], value, origin, coupled=spec.coupled)
    for name, value in usable.items():
        usable[name] = as_site(spec[name], value)
    return usable, begun


def _goes_on(spec: KernelSpec, site: SiteSpec, value: Array, origin: Origin) -> bool:
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
    counts = [rows_known(spec, spec[n], reused[n]) for n in begun if n in reused]
    reason = foresight(max(counts)) if counts else ""
    if reason:
        msg = (
            f"{reason} Rows that follow would change what was fitted. Compute such numbers outside "
            "of the kernel and pass them, or fit all rows."
        )
        raise InputError(msg, code="rows-look-ahead")


def _of_rows(site: SiteSpec, value: Array, origin: Origin, *, coupled: bool) -> Any:
    """Draws of a latent of rows for the rows of a call; where rows interact, only as they were."""
    axis = 2 + (site.axis)
    rows, is_known = origin.rows, origin.is_known
    labels_then = origin.draw_labels.get(site.name, {}).get(axis)
    if origin.by_hand and labels_then is not None and origin.labels is not None:
        places = {label: number for number, label in enumerate(labels_then.tolist())}
        numbers = [places.get(label, -1) for label in origin.labels.tolist()]
        rows, is_known = np.array(numbers), min(numbers) >= 0 and len(places) == len(labels_then)
    if coupled and rows is not None:
        is_known = np.array_equal(rows, np.arange(np.shape(value)[axis]))
    if not is_known or (rows is not None and not site.follows_rows):
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
        check_carried(spec, argument, held, "is not the fitted one")
        every = np.broadcast_to(rows, (spec.rows,))
        for name in reached & reused.keys():
            apart = spec[name].follows_rows and not spec.coupled
            keeps = apart or is_path(spec[name])
            where = every if keeps else np.full(spec.rows, every.any())
            redraw[name] = redraw.get(name, np.zeros(spec.rows, bool)) | where
    return redraw


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
