"""Sums of one pass, turned to the answer: contrasts, labels and attributes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.effects.probabilities import EVENT
from aimz.effects.question import Question
from aimz.effects.reduction import RowSummary
from aimz.effects.scenarios import Scenarios
from aimz.errors import AimzError, InputError, function_raised
from aimz.kernel import SiteSpec
from aimz.libraries import pd, xr
from aimz.results import Schema, site_dims

__all__ = [
    "AnswerShape",
    "answer_of",
    "attributes_of_effect",
    "compared",
    "contrasts_of",
    "derived",
    "own_dims",
    "row_labels",
    "row_table",
]


def compared(question: Question, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The comparison of two aggregates, draw by draw."""
    if not (np.all(np.isfinite(new)) and np.all(np.isfinite(old))):
        if question.rung == "counterfactual":
            msg = (
                f"Counterfactuals of '{question.site}' are not finite: what was observed cannot "
                "come from its distribution. Check the outcomes, or the fit."
            )
            raise InputError(msg, code="not-finite")
        msg = (
            f"An average of '{question.site}' is not finite, so it has no effect to report. If the "
            "mean of its distribution does not exist, ask for target='prediction' of a bounded "
            "site."
        )
        raise InputError(msg, code="no-mean")
    try:
        values = np.asarray(question.compare(new, old))
    except AimzError:
        raise
    except Exception as error:
        gets = "the averages of a scenario and those of the baseline, (group, draw, ...)"
        raise function_raised("comparison=", gets, error) from error
    if values.shape != new.shape:
        msg = f"comparison= returned shape {values.shape} for aggregates of shape {new.shape}."
        raise InputError(msg, code="comparison-shape")
    return values


def derived(question: Question, averages: Mapping[Any, np.ndarray]) -> np.ndarray:
    """An estimand of a user's own, from each scenario's averages (group, draw, ...)."""
    assert question.derive is not None  # noqa: S101  # asked by the caller
    copies = {n: v.copy() for n, v in averages.items()}
    try:
        values = np.asarray(question.derive(copies), np.float64)
    except Exception as error:
        gets = "a dict of each scenario's averages, (group, draw, ...)"
        raise function_raised("estimand=", gets, error) from error
    shape = next(iter(averages.values())).shape
    if values.shape != shape or not np.all(np.isfinite(values)):
        msg = (
            f"estimand={question.estimand} returned shape {values.shape}, or values that are not "
            f"finite, for averages of shape {shape}. Return one finite number for each."
        )
        raise InputError(msg, code="comparison-shape")
    return values


def answer_of(
    question: Question, averages: Mapping[Any, np.ndarray], names: list[Any], shape: AnswerShape
) -> xr.DataArray:
    """Averages of one pass, as the labelled answer to a question."""
    if question.meaning.is_joint:
        if not np.all(np.isfinite(averages[EVENT])):
            msg = (
                "What was observed of some rows has probability 0 under some draws, so that "
                "nothing follows from it. Check the outcomes, or the fit."
            )
            raise InputError(msg, code="not-probability")
        return shape.labelled(averages[EVENT])
    if question.derive is not None:
        return shape.labelled(derived(question, {n: averages[n] for n in names}))
    pairs = contrasts_of(question, names)
    by_contrast = {
        f"{new} vs {old}": compared(question, averages[new], averages[old]) for new, old in pairs
    }
    draws = shape.along("contrast", by_contrast)
    if len(pairs) == 1:
        return draws.isel(contrast=0)
    return draws.assign_coords(scenario=("contrast", [new for new, _ in pairs]))


@dataclass(frozen=True)
class AnswerShape:
    """How arrays (group, draw, ...) are named; a single group has no axis."""

    labels: pd.Index
    schema: Schema
    dim: str
    own: tuple[str, ...]  # of one outcome

    def labelled(self, values: np.ndarray) -> xr.DataArray:
        return self.along("one", {0: values}).isel(one=0, drop=True)

    def along(self, dim: str, parts: Mapping[Any, np.ndarray]) -> xr.DataArray:
        """Several arrays along a dimension that names them."""
        schema, values = self.schema, np.stack([*parts.values()])
        shape = (schema.chains, schema.draws, *values.shape[3:])
        groups: tuple[str, ...] = (self.dim,) if len(self.labels) else ()
        values = values.reshape(len(parts), *[len(self.labels)] * len(groups), *shape)
        dims = (dim, *groups, "chain", "draw", *self.own)
        sizes: dict[Hashable, int] = dict(zip(dims, values.shape, strict=True))
        labels = {"chain": np.arange(schema.chains), "draw": np.arange(schema.draws)}
        labels |= _own_coords(sizes, self.own, schema)
        if groups:
            labels |= _label_coords(self.dim, self.labels, (self.dim, *dims[2:]))
        return xr.DataArray(values, {**labels, dim: [*parts]}, dims)


def _label_coords(dim: str, labels: pd.Index, taken: Sequence[Hashable]) -> dict[str, Any]:
    """Labels of groups or rows; combinations in words, and each part by its own name."""
    if not isinstance(labels, pd.MultiIndex):
        return {dim: _plain_labels(labels)}
    names = [str(name) for name in labels.names]
    words = [
        ", ".join(f"{n}={v}" for n, v in zip(names, combination, strict=True))
        for combination in labels
    ]
    parts = {
        name: (dim, _plain_labels(labels.get_level_values(place)))
        for place, name in enumerate(names)
        if name not in taken
    }
    return {dim: words, **parts}


def _plain_labels(labels: pd.Index) -> Any:
    """Labels in a dtype that files hold: dates stay dates, what is no number becomes text."""
    array = labels.to_numpy()  # dates with a time zone are objects
    if array.dtype.kind in "biufmM":
        return array
    return [str(label) for label in labels]


def contrasts_of(question: Question, names: list[Any]) -> list[tuple[Any, Any]]:
    """Which scenarios are compared, the new one first."""
    mediated = question.meaning.mediated
    if mediated is None:
        return [(name, names[0]) for name in names[1:]]
    return [(names[mediated[0]], names[mediated[1]])]


def attributes_of_effect(
    question: Question, scenarios: Scenarios, health: Mapping[str, Any]
) -> dict[str, Any]:
    """What was asked, and how far the fit can be trusted, as attributes of the answer."""
    verdict = {"fit_verdict": health["verdict"]} if "verdict" in health else {}
    return {
        "estimand": question.estimand,
        "comparison": question.comparison,
        "target": question.target,
        "population": question.population,
        "rung": question.rung,
        "words": " ".join(map(str, scenarios.own.words)),
        **verdict,
    }


def row_labels(schema: Schema, rows: int) -> Any:
    """Labels of the rows; numbers that only count them take no memory."""
    return schema.labels if schema.labels is not None else pd.RangeIndex(rows)


def row_table(summary: RowSummary, shape: AnswerShape, row_dim: str, rows: int) -> xr.Dataset:
    """Summaries of the effect on each row, by contrast."""
    tables = {}
    for (new, old), columns in summary.columns().items():
        variables = {
            name: ((*(["quantile"] if name == "quantiles" else []), row_dim, *shape.own), values)
            for name, values in columns.items()
        }
        table = xr.Dataset(variables)
        coords = _own_coords(table.sizes, shape.own, shape.schema)
        labels = {row_dim: row_labels(shape.schema, rows)}
        quantiles = {"quantile": list(summary.asked.quantiles)}
        tables[f"{new} vs {old}"] = table.assign_coords({**labels, **quantiles, **coords})
    if len(tables) == 1:
        return next(iter(tables.values()))
    contrast = xr.DataArray(list(tables), dims="contrast", name="contrast")
    return xr.concat(tables.values(), contrast)


def own_dims(
    site: SiteSpec, averages: Mapping[Any, np.ndarray], schema: Schema, row_dim: str
) -> tuple[str, ...]:
    """Names of the dimensions of one outcome; means of categories have one more."""
    named = [n for n in site_dims(site, len(site.shape), schema, row_dim) if n != row_dim]
    more = next(iter(averages.values())).ndim - 2 - len(named)
    return (*named, *["category"] * more)


def _own_coords(
    sizes: Mapping[Hashable, int], dims: tuple[str, ...], schema: Schema
) -> dict[str, Any]:
    by_dim = {dim: schema.coords.get(dim, ()) for dim in dims}
    return {
        dim: list(labels) if len(labels) == sizes[dim] else np.arange(sizes[dim])
        for dim, labels in by_dim.items()
    }
