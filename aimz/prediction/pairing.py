"""Two predictions that are to be subtracted: what they differ in, and whether that is told by both.

Each result carries a number for every argument of its call, and what a change of that argument
would meet on its way to what was asked for. So two results can be compared long after the calls.
"""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Callable, Hashable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from aimz.data import row_fingerprint
from aimz.errors import InputError, Note, OutputWarning
from aimz.execution import run_in_threads
from aimz.kernel import KernelSpec
from aimz.libraries import xr
from aimz.prediction.inputs import Given
from aimz.prediction.interventions import global_carries
from aimz.prediction.one_call import Prepared
from aimz.prediction.request import Fitted
from aimz.programs import Cache, fingerprint_values
from aimz.results import aligned, difference_layout, less, shared_group, shared_measure, subtract
from aimz.store import Scratch, Sink, Tile, Variable, temporary_sink

__all__ = ["concerns", "difference", "leads", "name_of", "why_unpaired"]


_NOWHERE, _GLOBAL, _POOLED, _KEPT = "nowhere", "global", "pooled", "kept "
_MEASURED = "measured"  # what is set against a statistic of itself
_ANYWHERE = "anywhere"  # of what is not traced
# What a call sets, among its arguments.
_SETTINGS = "intervention and condition"
# Of each task, by its arguments and the sites whose draws it holds.
_WAYS: Cache[Any, dict[str, str]] = Cache(limit=256)


def leads(given: Given, prepared: Prepared, fitted: Fitted) -> str:
    """For each argument of a prediction a number for its values, and where a change leads; JSON."""
    task, block = prepared.call.task, prepared.call.block
    output = task.spec.output
    targets = {output} if output in task.sites else set(task.sites)
    own = {
        n: v for n, v in given.arguments.arrays.items() if n not in {*given.source.names, output}
    }
    held = frozenset((*block.posterior, *block.row_posterior))

    def make() -> dict[str, str]:
        fixed = {*task.do, *task.condition}
        return {name: _way(task.spec, name, targets, fixed, held) for name in own}

    ways: dict[str, dict[str, str]] = {_SETTINGS: {"value": _settings(prepared), "leads": ""}}
    for name, way in _WAYS.of_owner(task, (tuple(own), held), make).items():
        # A fit has compared the call with its own data: nothing else is left unsaid.
        told = way if way == _NOWHERE or fitted.spec is None else ""
        is_primary = own[name] is given.primary
        number = f"{given.fingerprint:08x}" if is_primary else _number(own[name])
        ways[name] = {"value": number, "leads": told}
    for name, value in given.arguments.static.items():  # may lead anywhere
        ways[name] = {"value": fingerprint_values(value), "leads": _ANYWHERE}
    if task.spec.measured:
        for name, number in _measured(given, prepared, targets).items():
            ways.setdefault(name, {"value": "", "leads": ""})[_MEASURED] = number
    return json.dumps(ways)


def _measured(given: Given, prepared: Prepared, targets: set[str]) -> dict[str, str]:
    """For what the kernel sets against its own statistic, a number for what is set so."""
    task, block = prepared.call.task, prepared.call.block
    spec, arrays = task.spec, given.arguments.arrays
    numbers: dict[str, str] = {}
    for name, column in sorted(spec.measured, key=str):
        if name in arrays and targets & spec.descendants(arguments={name}):
            part = arrays[name] if column is None else np.asarray(arrays[name])[:, column]
            numbers[name] = numbers.get(name, "") + _number(part)
        elif name in task.do and targets & spec.descendants({name}):
            set_to = [{**block.values, **block.row_values}.get(name)]
            set_to += [name_of(function) for site, function in task.functions if site == name]
            numbers[name] = fingerprint_values(set_to)
    return numbers


def _settings(prepared: Prepared) -> str:
    """A name for what a call sets and conditions on."""
    task, block = prepared.call.task, prepared.call.block
    if not task.do and not task.condition:
        return _nothing_set()
    functions = [name_of(function) for _, function in task.functions]
    return fingerprint_values(task.do, task.condition, block.values, block.row_values, functions)


@functools.cache
def _nothing_set() -> str:
    return fingerprint_values((), (), {}, {}, [])


def name_of(function: Callable[..., Any]) -> str:
    """A name for a function as long as it lives, which no other one gets in any process.

    Another function may have its address later, and another process any address.
    """
    try:
        return _NAMES.setdefault(function, uuid.uuid4().hex)
    except TypeError:  # nothing can tell when it is gone: it is another one each time
        return uuid.uuid4().hex


_NAMES: WeakKeyDictionary[Callable[..., Any], str] = WeakKeyDictionary()


def _way(
    spec: KernelSpec, argument: str, targets: set[str], fixed: set[str], held: frozenset[str]
) -> str:
    """What a change of an argument meets on its way to what was asked for."""
    if not targets & spec.descendants(arguments={argument}, held=fixed):
        return _NOWHERE
    constant = {n for n in held if n in spec and not spec[n].belongs_to_rows} | fixed
    below = spec.descendants(arguments={argument}, held=constant)
    if not targets & below:
        return _GLOBAL
    if argument in spec.pooled:
        return _POOLED
    on_the_way = (below & held) - fixed
    return f"{_KEPT}{min(on_the_way)}" if on_the_way else ""


def _number(value: object) -> str:
    if isinstance(value, Mapping) or np.asarray(value).dtype.kind not in "biuf":
        return fingerprint_values(value)
    return f"{row_fingerprint(np.asarray(value)):08x}"


def concerns(baseline: xr.DataTree, intervention: xr.DataTree) -> tuple[Note, ...]:
    """What is said of the difference of two predictions.

    Raises
    ------
    InputError
        `global-carries`: only a global latent of the posterior carries what they differ in;
        `statistic-cancels`: the kernel sets what they differ in against a statistic of itself.
    """
    unpaired = why_unpaired(baseline, intervention)
    notes = [Note(OutputWarning, unpaired, "unpaired")] if unpaired else []
    group = shared_group(baseline, intervention)
    first, second = (tree[group].data_vars for tree in (baseline, intervention))
    one, other = (_leads_of(tree) for tree in (baseline, intervention))
    _check_measured(one, other)
    if not unpaired:
        notes += [*_on_the_way(one, other), *_unmoved(one, other, first, second)]
    for name in first.keys() & second.keys():
        if shared_measure(second[name], first[name]) == "category":
            text = (
                f"'{name}' is a category without an order, whose codes are subtracted: a "
                "difference of 2 is no more than one of 1. Ask im.effect, which compares the share "
                "of each category."
            )
            notes.append(Note(OutputWarning, text, "categories-subtracted"))
    return tuple(notes)


def _unmoved(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    baseline: Mapping[Hashable, xr.DataArray],
    intervention: Mapping[Hashable, xr.DataArray],
) -> list[Note]:
    """What is said of arguments that are not traced, may lead anywhere, and led nowhere."""
    both = first.keys() & second.keys()
    differ = sorted(n for n in both if first[n]["value"] != second[n]["value"])
    if not differ or any(first[n]["leads"] != _ANYWHERE for n in differ):
        return []
    if not all(baseline[n].equals(intervention[n]) for n in baseline.keys() & intervention.keys()):
        return []
    text = (
        f"The scenarios differ in '{differ[0]}' and agree in every draw: no path leads to what is "
        "compared, or only through latents that keep their posterior draws. Set such a latent, or "
        "fit with each value."
    )
    return [Note(OutputWarning, text, "no-effect")]


def _leads_of(tree: xr.DataTree) -> dict[str, Any]:
    """What `leads` has written into a result; nothing in one that is older."""
    leads_by_name: dict[str, Any] = json.loads(str(tree.attrs.get("arguments", "{}")))
    return leads_by_name


def _check_measured(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Refuse two calls that differ in what the kernel sets against a statistic of itself."""
    for name in sorted(first.keys() & second.keys()):
        if first[name].get(_MEASURED) != second[name].get(_MEASURED):
            msg = (
                f"The scenarios differ in '{name}', which the kernel sets against a statistic of "
                "it over the rows, as in x - x.mean(): it changes along, and cancels the change. "
                "Pass the statistic as an argument."
            )
            raise InputError(msg, code="statistic-cancels")


def _on_the_way(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Note]:
    """What is said of the arguments in which two calls differ."""
    both = first.keys() & second.keys()
    differ = sorted(n for n in both if first[n]["value"] != second[n]["value"])
    ways = {n: {side[n]["leads"] for side in (first, second)} for n in differ}
    for name, way in ways.items():
        if way == {_GLOBAL}:
            raise global_carries(name, "is not the same in both scenarios")
    notes = []
    if ways and first.keys() == second.keys() and all(way == {_NOWHERE} for way in ways.values()):
        text = (
            f"The scenarios differ in '{"', '".join(ways)}', from which no path leads to what is "
            "compared, so the difference is 0. Change something that it depends on."
        )
        notes.append(Note(OutputWarning, text, "no-effect"))
    for name, way in ways.items():
        if _POOLED in way:
            text = (
                f"The scenarios differ in '{name}', of which the kernel computes a statistic over "
                "the rows: it changes along, and may cancel a shift. Compute it before, and pass "
                "the result."
            )
            notes.append(Note(OutputWarning, text, "rows-statistic"))
        latents = [side.removeprefix(_KEPT) for side in sorted(way) if side.startswith(_KEPT)]
        if latents:
            text = (
                f"The scenarios differ in '{name}', and '{latents[0]}' below it keeps its draws in "
                "both: what goes through it is not in the difference. Ask effect, which draws it "
                "anew."
            )
            notes.append(Note(OutputWarning, text, "latents-kept"))
    return notes


def difference(
    baseline: xr.DataTree, intervention: xr.DataTree, scratch: Scratch
) -> tuple[tuple[Note, ...], Callable[[], xr.DataTree]]:
    """What is said of intervention minus baseline, and a function that subtracts draw by draw.

    Results on disk are subtracted a tile at a time, into a temporary store below `scratch`.

    Raises
    ------
    InputError
        As in `concerns`.
    """
    notes = concerns(baseline, intervention)
    return notes, functools.partial(_subtracted, baseline, intervention, scratch)


def _subtracted(baseline: xr.DataTree, intervention: xr.DataTree, scratch: Scratch) -> xr.DataTree:
    group = shared_group(baseline, intervention)
    groups = {} if why_unpaired(baseline, intervention) else _of_the_fit(intervention)
    if not any("artifact_path" in tree.attrs for tree in (baseline, intervention)):
        return subtract(baseline, intervention, group, groups)
    pair = aligned(baseline, intervention, group)
    attrs = {str(k): v for k, v in intervention.attrs.items()}
    sink = temporary_sink(scratch, "estimate_effect", is_difference=True)
    return _difference_on_disk(*pair, group, sink, attrs, groups)


def _of_the_fit(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """What a result carries of the fit."""
    names = tree.children.keys() & {"posterior", "sample_stats"}
    return {name: tree[name].to_dataset().drop_encoding() for name in sorted(names)}


def why_unpaired(baseline: xr.DataTree, intervention: xr.DataTree) -> str:
    """Why two predictions do not belong together, as a sentence; "" where they do."""
    first, second = (str(tree.attrs.get("kernel", "?")) for tree in (baseline, intervention))
    if first != second or not _is_one_posterior(baseline, intervention):
        models = f"different models (kernels {first} and {second})"
        if first == second:
            models = f"two posteriors of one kernel ({first}), as of two fits"
        return (
            f"The two predictions are unpaired: they are of {models}, so more than the scenario "
            "differs. Predict both with one model."
        )
    if baseline.attrs.get("words") != intervention.attrs.get("words"):
        return (
            "The two predictions are unpaired: they were drawn with different keys or rows. Pass "
            "the same rng_key= to both, so that noise cancels draw by draw."
        )
    return ""


def _is_one_posterior(first: xr.DataTree, second: xr.DataTree) -> bool:
    """Whether two posteriors have the same draws; True where one is not told.

    A digest stands for all draws of a fit, and the ends for those of a result that was cut.
    """
    if not all("posterior" in tree.children for tree in (first, second)):
        return True
    one, other = (tree["posterior"].to_dataset() for tree in (first, second))
    if one.data_vars.keys() != other.data_vars.keys() or one.sizes != other.sizes:
        return False
    if one.attrs.get("draws_digest") != other.attrs.get("draws_digest"):
        return False
    ends = ({d: n for d in ("chain", "draw") if d in one.dims} for n in (0, -1))
    pairs = [(one.isel(end), other.isel(end)) for end in ends]  # the rest may be on disk, and large
    return all(np.array_equal(a[n].values, b[n].values) for a, b in pairs for n in one.data_vars)


def _difference_on_disk(
    baseline: xr.Dataset,
    intervention: xr.Dataset,
    group: str,
    sink: Sink,
    attrs: Mapping[str, Any],
    groups: Mapping[str, xr.Dataset],
) -> xr.DataTree:
    layout = difference_layout(baseline, intervention, group)

    def read(source: xr.Dataset, variable: Variable, place: tuple[slice, ...]) -> np.ndarray:
        values: np.ndarray = source[variable.name].variable[place].to_numpy()
        return values.astype(variable.dtype, copy=False)

    def work(item: tuple[Variable, Tile], _: int) -> int:
        variable, tile = item
        place = variable.place(tile)
        if place is not None:
            first, second = (read(ds, variable, place) for ds in (intervention, baseline))
            sink.write(tile, {variable.key: less(first, second, variable.measure)})
        return 0

    variables = {variable.key: variable for variable, _ in layout}
    try:
        sink.begin(tuple(variables.values()))
        run_in_threads(iter(layout), work, lambda _: None, threads=2)
        labels = intervention.drop_vars([variable.name for variable in variables.values()])
        return sink.commit({**groups, group: labels}, attrs, 0)
    except BaseException:  # as in `carry_out`
        sink.abort()
        raise
