"""Placebos in space: the intervention is pretended of series that it did not touch.

Abadie, Diamond and Hainmueller (2010, doi:10.1198/jasa.2009.ap08746), section 2.4: an effect is
told from chance where predictions of the treated series get worse, and those of others do not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from aimz.errors import InputError
from aimz.libraries import pd, xr

__all__ = ["placebos_in_space"]


class _Answer(Protocol):
    """What placebos need of an `Impact`."""

    @property
    def observed(self) -> xr.DataArray: ...
    @property
    def predicted(self) -> xr.DataArray: ...
    @property
    def before(self) -> xr.DataArray | None: ...
    @property
    def site(self) -> str: ...
    @property
    def elsewhere(self) -> Mapping[Hashable, Callable[[], Any]] | None: ...

    def summary(
        self, *, ci_prob: float | None = ..., ci_kind: str | None = ...
    ) -> pd.DataFrame: ...


def placebos_in_space(
    impact: _Answer, donors: Sequence[Hashable] | None, interval: Mapping[str, Any]
) -> pd.DataFrame:
    """Make the table of `Impact.placebo_in_space`."""
    asked = _asked(impact, donors)
    rows = [_row(impact, interval), *(_row(made(), interval) for made in asked.values())]
    table = pd.DataFrame(rows)
    table.insert(0, "series", pd.Series([impact.site, *asked], dtype=object))
    table.insert(1, "treated", [True, *[False] * len(asked)])
    ratio = table["ratio"].to_numpy()
    table["share_as_large"] = (ratio >= ratio[:, None]).mean(axis=1)
    return table


def _row(impact: _Answer, interval: Mapping[str, Any]) -> dict[str, Any]:
    first = impact.summary(**interval).iloc[0]  # its rows: average, cumulative
    average = {str(name): value for name, value in first.items()}
    ends = [c for c in average if c.startswith("absolute_") and c[-3:] in ("_lb", "_ub")]
    low, high = (float(average[end]) for end in ends)
    before, after = (_error(impact, draws) for draws in (impact.before, impact.predicted))
    return {
        "error_before": before,
        "error_after": after,
        "ratio": after / before if before else np.inf,
        "effect": float(average["absolute"]),
        **{end.replace("absolute", "effect"): float(average[end]) for end in ends},
        "covers_0": low <= 0 <= high,
    }


def _error(impact: _Answer, draws: Any) -> float:
    """Root mean square error of the predicted means, of times whose outcome is there."""
    size = draws.shape[2]
    series = impact.observed.values
    actual = series[:size] if draws is impact.before else series[-size:]
    return float(np.sqrt(np.nanmean((actual - draws.mean(("chain", "draw")).values) ** 2)))


def _asked(impact: _Answer, donors: Sequence[Hashable] | None) -> dict[Hashable, Callable[[], Any]]:
    """The series that are asked for theirs.

    Raises
    ------
    InputError
        `no-data`, `series-several`, `placebo-space`, `column-unknown`.
    """
    others = impact.elsewhere
    if others is None:
        msg = "Only a whole impact, in the process that made it, has placebos. Ask it again."
        raise InputError(msg, code="no-data")
    if impact.observed.ndim > 1:
        msg = "Placebos in space are of one series, not of several. Ask for the impact on each."
        raise InputError(msg, code="series-several")
    if impact.before is None or len(others) < 2:
        msg = (
            "Placebos in space take two columns of numbers in X, and a model whose predictions do "
            "not need the outcomes before, such as 'synthetic_control'. Else ask check(times=...)."
        )
        raise InputError(msg, code="placebo-space")
    chosen = list(others) if donors is None else list(dict.fromkeys(donors))
    if not chosen or not all(label in others for label in chosen):
        listed = ", ".join(map(str, others))
        msg = f"donors={donors!r:.60} are not columns of X. There are {listed:.100}."
        raise InputError(msg, code="column-unknown")
    return {label: others[label] for label in chosen}
