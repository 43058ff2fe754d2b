"""Two predictions that are to be subtracted: what they differ in, and whether that is told by both.

Each result carries a number for every argument of its call, and what a change of that argument
would meet on its way to what was asked for. So two results can be compared long after the calls.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from aimz.data import row_fingerprint
from aimz.errors import OutputWarning
from aimz.inference import Note
from aimz.inputs import Given
from aimz.prediction import Prepared, why_unpaired
from aimz.programs import fingerprint_values
from aimz.requests import Fitted
from aimz.results import shared_group, shared_measure
from aimz.scenario import global_carries
from aimz.spec import KernelSpec

__all__ = ["concerns", "leads"]

_NOWHERE, _GLOBAL, _POOLED, _KEPT = "nowhere", "global", "pooled", "kept "
# What a call sets, among its arguments.
_SETTINGS = "intervention and condition"


def leads(given: Given, prepared: Prepared, fitted: Fitted) -> str:
    """For each argument of a prediction a number for its values, and where a change leads; JSON."""
    task, block = prepared.call.task, prepared.call.block
    read = given.stream.names if given.stream is not None else frozenset[str]()
    output = task.spec.output
    targets = {output} if output in task.sites else set(task.sites)
    fixed = {*task.do, *task.condition}
    held = {*block.posterior, *block.row_posterior}
    found = {_SETTINGS: {"value": _settings(prepared), "leads": ""}}
    for name, value in given.arguments.arrays.items():
        if name in read or name == output:
            continue
        way = _way(task.spec, name, targets, fixed, held)
        # A fit has compared the call with its own data: nothing else is left unsaid.
        way = way if way == _NOWHERE or fitted.spec is None else ""
        found[name] = {"value": _number(value), "leads": way}
    for name, value in given.arguments.static.items():  # may lead anywhere
        found[name] = {"value": fingerprint_values(value), "leads": ""}
    return json.dumps(found)


def _settings(prepared: Prepared) -> str:
    """A name for what a call sets and conditions on."""
    task, block = prepared.call.task, prepared.call.block
    functions = [id(function) for _, function in task.functions]
    return fingerprint_values(task.do, task.condition, block.values, block.row_values, functions)


def _way(
    spec: KernelSpec, argument: str, targets: set[str], fixed: set[str], held: set[str]
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
    kept = (below & held) - fixed
    return f"{_KEPT}{min(kept)}" if kept else ""


def _number(value: Any) -> str:
    if isinstance(value, Mapping) or np.asarray(value).dtype.kind not in "biuf":
        return fingerprint_values(value)
    return f"{row_fingerprint(np.asarray(value)):08x}"


def concerns(baseline: xr.DataTree, intervention: xr.DataTree) -> tuple[Note, ...]:
    """What is said of the difference of two predictions.

    Raises
    ------
    InputError
        `global-carries`: only a global latent of the posterior carries what they differ in.
    """
    unpaired = why_unpaired(baseline, intervention)
    notes = [Note(OutputWarning, unpaired, "unpaired")] if unpaired else []
    if not unpaired:
        notes += _on_the_way(*(_leads_of(tree) for tree in (baseline, intervention)))
    group = shared_group(baseline, intervention)
    first, second = (tree[group].data_vars for tree in (baseline, intervention))
    for name in first.keys() & second.keys():
        if shared_measure(second[name], first[name]) == "category":
            text = (
                f"'{name}' is a category without an order, whose codes are subtracted: a "
                "difference of 2 is no more than one of 1. Ask im.effect, which compares the share "
                "of each category."
            )
            notes.append(Note(OutputWarning, text, "categories-subtracted"))
    return tuple(notes)


def _leads_of(tree: xr.DataTree) -> dict[str, Any]:
    """What `leads` has written into a result; nothing in one that is older."""
    found: dict[str, Any] = json.loads(str(tree.attrs.get("arguments", "{}")))
    return found


def _on_the_way(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Note]:
    """What is said of the arguments in which two calls differ."""
    both = first.keys() & second.keys()
    differ = sorted(n for n in both if first[n]["value"] != second[n]["value"])
    ways = {n: {own[n]["leads"] for own in (first, second)} for n in differ}
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
        kept = [own.removeprefix(_KEPT) for own in sorted(way) if own.startswith(_KEPT)]
        if kept:
            text = (
                f"The scenarios differ in '{name}', and '{kept[0]}' below it keeps its draws in "
                "both: what goes through it is not in the difference. Ask effect, which draws it "
                "anew."
            )
            notes.append(Note(OutputWarning, text, "latents-kept"))
    return notes
