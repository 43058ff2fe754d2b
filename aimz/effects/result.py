"""The answer to a question about effects: its draws, a table, sentences and a picture."""

import html
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import xarray as xr

from aimz.effects.question import ESTIMANDS, POPULATIONS, TARGETS, Question
from aimz.errors import InputError

__all__ = ["Effect"]

_SAMPLE = ("chain", "draw")
_SIGNS = {">": 1.0, "<": -1.0}
_WORDS = {"lift": ", as a share,", "ratio": ", as a ratio,", "odds_ratio": ", as an odds ratio,"}


@dataclass(frozen=True, eq=False, repr=False)
class Effect:
    """An effect with its draws, which says what question it answers.

    Parameters
    ----------
    draws : DataArray
        The effect, with dimensions `chain` and `draw`, and where there are several also `contrast`,
        `group` (or the rows, for `"ite"`) and those of one outcome.
    averages : DataArray
        Average outcome of each scenario, with the dimension `scenario` first; of each row for
        `"ite"`.
    question : Question
        Estimand, comparison, target, population, site and rung.
    rows : int
        Rows that were asked about.
    diagnostics : mapping
        Health of the fit.
    redrawn : tuple of str
        Sites whose posterior draws were not used, or not in all rows.
    """

    draws: xr.DataArray
    averages: xr.DataArray
    question: Question
    rows: int
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    redrawn: tuple[str, ...] = ()

    def summary(
        self,
        *,
        ci_prob: float | None = None,
        ci_kind: str | None = None,
        rope: tuple[float, float] | None = None,
        direction: str = ">",
    ) -> pd.DataFrame:
        """Table with a row for each contrast and group.

        Parameters
        ----------
        ci_prob : float, optional
            Probability of the interval; default ArviZ's.
        ci_kind : {"eti", "hdi"}, optional
            Kind of the interval; default ArviZ's.
        rope : tuple of float, optional
            Bounds of a region that is practically no effect; adds its probability.
        direction : {">", "<"}
            Side of no effect whose probability is given.

        Returns
        -------
        DataFrame
            Mean, sd, the interval (its kind and probability are in the names of its columns), and
            the probability of an effect in the direction.

        Raises
        ------
        InputError
            `option-unknown`.
        """
        import arviz as az

        if direction not in _SIGNS:
            msg = f"direction must be '>' or '<', not {direction!r:.20}."
            raise InputError(msg, code="option-unknown")
        labels, cells = self._cells()
        table: pd.DataFrame = az.summary(
            cells.to_dataset(name="effect"),
            kind="stats",
            ci_prob=ci_prob,
            ci_kind=ci_kind,
            round_to="none",
        ).reset_index(drop=True)
        null = self.question.null
        beyond = (_SIGNS[direction] * (cells - null) > 0).mean(_SAMPLE)
        table[f"P(effect {direction} {null:g})"] = beyond.values
        if rope is not None:
            low, high = rope
            inside = ((cells >= low) & (cells <= high)).mean(_SAMPLE)
            table[f"P({low:g} <= effect <= {high:g})"] = inside.values
        table.insert(0, "estimand", self.question.estimand)
        table.insert(1, "comparison", self.question.comparison)
        for place, (name, values) in enumerate(labels.items(), 2):
            table.insert(place, name, values)
        return table

    def to_text(self, *, ci_prob: float | None = None, ci_kind: str | None = None) -> str:
        """Two sentences: what the effect is, and what was compared of whom."""
        table = self.summary(ci_prob=ci_prob, ci_kind=ci_kind)
        bounds = [name for name in table.columns if name.endswith(("_lb", "_ub"))]
        kind = bounds[0].removesuffix("_lb")
        lines = []
        for _, row in table.head(8).iterrows():
            where = "".join(f", {name} {row[name]}" for name in self._cells()[0])
            low, high = (float(row[name]) for name in bounds)
            lines.append(
                f"{_number(row['mean'])}{where} ({kind[3:]}% {kind[:3]} {_number(low)} to "
                f"{_number(high)})"
            )
        more = f" and {len(table) - 8} more" if len(table) > 8 else ""
        last = table.columns[-1]
        chance = f" {last} is {float(table[last].iloc[0]):.1%}." if len(table) == 1 else ""
        what = ESTIMANDS[self.question.estimand].format(site=self.question.site)
        return (
            f"The {what}{_WORDS.get(self.question.comparison, '')} is "
            f"{'; '.join(lines)}{more}.{chance} {self._account()}"
        )

    def __repr__(self) -> str:
        table = self.summary().to_string(index=False, float_format=_number)
        return f"Effect\n{self._account()}\n{table}"

    def _repr_html_(self) -> str:
        table = self.summary().to_html(index=False, float_format=_number, border=0)
        return f"<div><p>{html.escape(self._account())}</p>{table}</div>"

    def _account(self) -> str:
        """Everything that the number depends on, in a sentence."""
        asked, sizes = self.question, self.draws.sizes
        mediated = f"; mediator: {asked.mediator}" if asked.mediator else ""
        chains = f"{sizes['chain']} chain{'s' if sizes['chain'] > 1 else ''}"
        redrawn = f"; drawn anew: {', '.join(self.redrawn)}" if self.redrawn else ""
        return (
            f"It compares '{asked.site}' by {asked.comparison} over {self.rows:,} rows; "
            f"target: {asked.target} ({TARGETS[asked.target]}); "
            f"population: {asked.population} ({POPULATIONS[asked.population]}); "
            f"rung: {asked.rung}{mediated}; {sizes['draw']:,} posterior draws in {chains}{redrawn}."
        )

    def _cells(self) -> tuple[dict[str, list[Any]], xr.DataArray]:
        """Labels of each number that the effect has, and the draws with one axis for them."""
        dims = [str(dim) for dim in self.draws.dims if dim not in _SAMPLE]
        if not dims:
            return {}, self.draws.drop_vars(_own_coords(self.draws)).expand_dims("cell")
        axes = [
            self.draws[dim].values.tolist() if dim in self.draws.coords else range(size)
            for dim, size in self.draws.sizes.items()
            if dim in dims
        ]
        combined = list(itertools.product(*axes))
        labels = {dim: [cell[place] for cell in combined] for place, dim in enumerate(dims)}
        flat = self.draws.drop_vars(_own_coords(self.draws)).stack(cell=dims, create_index=False)
        return labels, flat.transpose("cell", *_SAMPLE)


def _own_coords(draws: xr.DataArray) -> list[Any]:
    return [name for name in draws.coords if name not in _SAMPLE]


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
