"""What happened, against what would have: a series after an intervention and its counterfactual.

All numbers are of the same draws: the table, the sentences and the picture read `Impact.summary`
and nothing else.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.choices import check_choice, check_interval
from aimz.effects.elsewhere import placebos_in_space
from aimz.effects.times import beside_time
from aimz.effects.wording import fault_of, share_text
from aimz.errors import InputError
from aimz.libraries import pd, xr
from aimz.plots import label_text, number_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Impact"]


_SAMPLE = ("chain", "draw")
_KINDS = {
    "prediction": "the outcome that would have been, with its noise",
    "expectation": "the mean of the outcome that would have been, without its noise",
}
_SIGNS = {">": 1.0, "<": -1.0}


@dataclass(frozen=True, eq=False, repr=False)
class Impact:
    """A series after an intervention, against what it would have been without.

    Parameters
    ----------
    observed : DataArray, shape (time, ...)
        The whole series, before and after; several series have further dimensions.
    predicted : DataArray, shape (chain, draw, time, ...)
        Draws of what the rows after the intervention would have been.
    target : {"prediction", "expectation"}
        Whether the draws have the noise of an outcome, or are means of it.
    site : str
        Name of the outcome.
    before : DataArray, shape (chain, draw, time, ...), optional
        Draws of the rows before the intervention, where the model has some of its own.
    diagnostics : mapping
        Health of the fit.
    again : callable, optional
        The impact of the number of a row before the intervention, taken for one: what `check` asks.
    elsewhere : mapping of label to callable, optional
        The impact on a column of `X`, taken for the series: what `placebo_in_space` asks.
    """

    observed: xr.DataArray
    predicted: xr.DataArray
    target: str = "prediction"
    site: str = "y"
    before: xr.DataArray | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    again: Callable[[int], Impact] | None = None
    elsewhere: Mapping[Hashable, Callable[[], Impact]] | None = None

    # ---------------------------------------------------------------- draws

    @property
    def pointwise(self) -> xr.DataArray:
        """Effect at each time, (chain, draw, time, ...): observed less predicted."""
        return (self._after - self._counted).transpose(*_SAMPLE, ...)

    @property
    def cumulative(self) -> xr.DataArray:
        """Effect up to and with each time; times whose outcome is missing add nothing."""
        return self.pointwise.fillna(0.0).cumsum(self._time).assign_coords(self._after.coords)

    @property
    def average(self) -> xr.DataArray:
        """Average effect over the times whose outcome is there, (chain, draw, ...)."""
        return self.pointwise.mean(self._time)

    @property
    def relative(self) -> xr.DataArray:
        """Effect as a share of what was predicted, over all times together, (chain, draw, ...).

        NaN where the draws do not agree that the predicted total is positive, or negative.
        """
        total = self._counted.sum(self._time)
        is_sure = (np.sign(total) == np.sign(total.isel(chain=0, draw=0))) & (total != 0)
        ratio = self.pointwise.sum(self._time) / total
        return ratio.where(is_sure.all(_SAMPLE))

    def window(self, start: Any = None, stop: Any = None) -> Impact:
        """The impact in a part of the time after the intervention, both ends included.

        Parameters
        ----------
        start, stop : label, optional
            Times, as the rows are labelled; without labels, numbers of rows.

        Returns
        -------
        Impact
            Sums and averages are of these times only.

        Raises
        ------
        InputError
            `time-unknown`: no time after the intervention is between them, or they are of another
            kind than those of the rows.
        """
        labels = self._after.indexes[self._time] if self._has_labels else pd.Index(self._numbers)
        inside = np.ones(len(labels), bool)
        if start is not None:
            inside &= beside_time(labels, start, "start") >= 0
        if stop is not None:
            inside &= beside_time(labels, stop, "stop") <= 0
        if not inside.any():
            msg = f"No time after the intervention is from {start!r:.40} to {stop!r:.40}."
            raise InputError(f"{msg} The first is {labels[0]}.", code="time-unknown")
        kept = np.flatnonzero(inside)
        first = self.observed.sizes[self._time] - self._rows
        rows = np.concatenate([np.arange(first), first + kept])
        observed = self.observed.isel({self._time: rows})
        if not self._has_labels:
            observed = observed.assign_coords({self._time: rows})
        predicted = self.predicted.isel({self._time: kept})
        if not self._has_labels:
            predicted = predicted.assign_coords({self._time: first + kept})
        return replace(self, observed=observed, predicted=predicted, again=None, elsewhere=None)

    def of(self, **series: Hashable) -> Impact:
        """The impact on one of several series, by its label.

        Parameters
        ----------
        **series
            Label along each further dimension; without labels, its number.
        """
        chosen = [self.observed, self.predicted, *([] if self.before is None else [self.before])]
        for dim, label in series.items():
            if dim not in self._others:
                listed = ", ".join(self._others) or "none"
                msg = f"There is no dimension '{dim}' of series. Valid names: {listed}."
                raise InputError(msg, code="option-unknown")
            way = "sel" if dim in self.observed.coords else "isel"
            chosen = [getattr(one, way)({dim: label}) for one in chosen]
        before = chosen[2] if len(chosen) > 2 else None
        return replace(
            self, observed=chosen[0], predicted=chosen[1], before=before, again=None, elsewhere=None
        )

    # -------------------------------------------------------------- numbers

    def summary(
        self,
        *,
        ci_prob: float | None = None,
        ci_kind: str | None = None,
        direction: str = ">",
    ) -> pd.DataFrame:
        """Table of the average and of the cumulative effect, of each series.

        Parameters
        ----------
        ci_prob : float, optional
            Probability of the intervals; default ArviZ's.
        ci_kind : {"eti", "hdi"}, optional
            Kind of the intervals; default ArviZ's.
        direction : {">", "<"}
            Side of no effect whose probability is given; choose it before you see the data.

        Returns
        -------
        DataFrame
            Two rows for each series, `average` and `cumulative`, in numbers only: `actual`;
            `predicted`, `absolute` and `relative`, each a mean with its sd and interval (kind and
            probability are in the names of the columns); and the probability of an effect.
            `relative` is a share: 0.1 is 10%.

        Raises
        ------
        InputError
            `option-unknown`.
        """
        check_choice(direction, "direction", tuple(_SIGNS))
        check_interval(ci_prob, ci_kind)
        time, counted = self._time, self._counted
        # A series without any outcome after the intervention has no sum, and not a sum of 0.
        actual = {
            "average": self._after.mean(time),
            "cumulative": self._after.sum(time, min_count=1),
        }
        predicted = {"average": counted.mean(time), "cumulative": counted.sum(time, min_count=1)}
        absolute = {"average": self.average, "cumulative": self.pointwise.sum(time, min_count=1)}
        tables = {
            "predicted": _stats(self._cells(predicted), ci_prob, ci_kind),
            "absolute": _stats(self._cells(absolute), ci_prob, ci_kind),
            "relative": _stats(self._cells(dict.fromkeys(actual, self.relative)), ci_prob, ci_kind),
        }
        labels, cells = self._labels(), self._cells(absolute)
        columns: dict[str, Any] = {dim: [cell[dim] for cell in labels] for dim in self._others}
        columns["effect"] = [cell["effect"] for cell in labels]
        columns["rows"] = self._cells(dict.fromkeys(actual, self._after.notnull().sum(time))).values
        columns["actual"] = self._cells(actual).values
        for name, table in tables.items():
            named = {"mean": name}
            columns |= {named.get(c, f"{name}_{c}"): table[c].to_numpy() for c in table.columns}
        beyond = (_SIGNS[direction] * cells > 0).where(cells.notnull()).mean(_SAMPLE)
        columns[f"P(effect {direction} 0)"] = beyond.values
        return pd.DataFrame(columns)

    def to_text(self, *, ci_prob: float | None = None, ci_kind: str | None = None) -> str:
        """The table in sentences, with the same numbers."""
        table = self.summary(ci_prob=ci_prob, ci_kind=ci_kind)
        bounds = [c for c in table.columns if str(c).startswith("absolute_") and c[-3:] in _ENDS]
        kind = bounds[0].removeprefix("absolute_").removesuffix("_lb")
        interval = f"{kind[3:]}% {kind[:3]}"
        lines = []
        for _, row in table.iterrows():
            where = "".join(f" of {dim} {label_text(row[dim])}" for dim in self._others)
            if not row["rows"]:
                lines.append(f"There is no {row['effect']} effect{where}: no outcome is known.")
                continue
            texts = {
                name: f"{form(row[name])} ({interval} {form(row[f'{name}_{kind}_lb'])} to "
                f"{form(row[f'{name}_{kind}_ub'])})"
                for name, form in _FORMS.items()
            }
            share = share_text(float(row[table.columns[-1]]), self._num_draws)
            chance = f"{table.columns[-1]} {'' if share[0] in _SIGNS else 'is '}{share}"
            ratio = f", {texts['relative']} of what was predicted"
            if not np.isfinite(row["relative"]):
                ratio = ", and no share of what was predicted, which may be zero"
            lines.append(
                f"The {row['effect']} outcome{where} over {row['rows']} rows was "
                f"{number_text(row['actual'])}; predicted was {texts['predicted']}. The "
                f"{row['effect']} effect is {texts['absolute']}{ratio}; {chance}."
            )
        return " ".join([*lines, self._account()])

    def check(self, times: Sequence[Any] | None = None, **interval: Any) -> pd.DataFrame:
        """Pretend that the intervention came earlier: there should be no effect, and small errors.

        At each time the model is fitted to the rows before it, and the rows from there on that came
        before the intervention are predicted.

        Parameters
        ----------
        times : sequence of int or label, optional
            Rows at which an intervention is pretended, by number or, where labels are no numbers,
            by label; default one, at three quarters of the rows before the intervention.
        **interval
            `ci_prob` and `ci_kind`, as in `summary`.

        Returns
        -------
        DataFrame
            For each time: `rows` that were held out; the share of them inside of their intervals,
            `coverage`; the root mean square `error` of their predicted means; the average effect
            that should be none, with its interval, and whether this `covers_0`.

        Raises
        ------
        InputError
            `no-data`: the data are gone, as in a part of an impact or one from a file.
        """
        if self.again is None:
            msg = "Only a whole impact, in the process that made it, can be checked. Ask it again."
            raise InputError(msg, code="no-data")
        known = self.observed.sizes[self._time] - self._rows
        places = [round(0.75 * known)] if times is None else [*map(self._place_of, times)]
        if not all(0 < place < known for place in places):
            msg = f"times are of rows 1 to {known - 1}, before the intervention: {times!r:.60}."
            raise InputError(msg, code="time-unknown")
        tables = []
        for place in places:
            other = self.again(place)
            tables.append(_of_placebo(other, other.summary(**interval), place, interval))
        return pd.concat(tables, ignore_index=True)

    def placebo_in_space(
        self, donors: Sequence[Hashable] | None = None, **interval: Any
    ) -> pd.DataFrame:
        """Pretend that the intervention was on another series: there should be no effect.

        Each column of `X` in turn is taken for the outcome, and predicted by the other columns,
        without the treated series: one fit for each, by the engine of the model. Where predictions
        of the treated series get worse than those of all others do, the effect is not chance.

        Parameters
        ----------
        donors : sequence of label, optional
            Columns of `X` that are taken, by name, or by number where they have none; default all.
        **interval
            `ci_prob` and `ci_kind`, as in `summary`.

        Returns
        -------
        DataFrame
            A row for each series, the `treated` one first: root mean square errors of predicted
            means, `error_before` and `error_after` the intervention, and their `ratio`; the average
            `effect` with its interval, and whether this `covers_0`; and `share_as_large`, the share
            of all series with a ratio at least as large. The treated series' is a p-value, of 1 in
            as many as there are series at best.

        Raises
        ------
        InputError
            `placebo-space`: fewer than two columns, or a model that predicts no rows before the
            intervention; `column-unknown`; `series-several`; `no-data`: as in `check`.

        References
        ----------
        Abadie, Diamond and Hainmueller (2010), doi:10.1198/jasa.2009.ap08746, section 2.4.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
        ...     with numpyro.plate("times", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(X @ b, 0.5), obs=y)
        >>> X = np.random.default_rng(0).normal(size=(40, 4))
        >>> y = X.mean(axis=1) + np.where(np.arange(40) >= 30, 5.0, 0.0)
        >>> im = ImpactModel(kernel, inference="laplace")
        >>> impact = im.impact(X, y, intervention_time=30, progress=False)
        >>> table = impact.placebo_in_space()
        >>> table["series"].tolist(), round(float(table["share_as_large"][0]), 1)
        (['y', 0, 1, 2, 3], 0.2)
        """
        return placebos_in_space(self, donors, interval)

    def plot(
        self, *, ci_prob: float | None = None, ci_kind: str | None = None, path: Any = None
    ) -> Figure:
        """Draw what was observed and predicted, the effect at each time, and its sum so far.

        Parameters
        ----------
        ci_prob, ci_kind : optional
            As in `summary`.
        path : path, optional
            Where to save the figure.

        Returns
        -------
        Figure
            Matplotlib's, with three panels.

        Raises
        ------
        InputError
            `plots-missing`; `series-several`: pick one of several series first, by `of`.
        """
        from aimz.effects.impact_plot import plot_impact

        figure = plot_impact(self, ci_prob=ci_prob, ci_kind=ci_kind)
        if path is not None:
            figure.savefig(path)
        return figure

    # ------------------------------------------------------------- protocols

    def __repr__(self) -> str:
        shown = self._printed().to_string(float_format=number_text)
        return f"Impact\n{self._account()}\n{shown}"

    def _repr_html_(self) -> str:
        shown = self._printed().to_html(float_format=number_text, border=0)
        return f"<div><p>{html.escape(self._account())}</p>{shown}</div>"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "again": None, "elsewhere": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    # --------------------------------------------------------------- private

    @property
    def _time(self) -> str:
        return str(self.observed.dims[0])

    @property
    def _others(self) -> list[str]:
        return [str(dim) for dim in self.observed.dims[1:]]

    @property
    def _rows(self) -> int:
        return self.predicted.sizes[self._time]

    @property
    def _has_labels(self) -> bool:
        return self._time in self.observed.coords

    @property
    def _numbers(self) -> np.ndarray:
        """Numbers of the rows after the intervention."""
        rows = self.observed.sizes[self._time]
        return np.arange(rows - self._rows, rows)

    def _place_of(self, time: object) -> int:
        """The number of a row, of its number or label."""
        if isinstance(time, int | np.integer) and not isinstance(time, bool):
            return int(time)
        rows = pd.RangeIndex(self.observed.sizes[self._time])
        labels = self.observed.indexes[self._time] if self._has_labels else rows
        return int(np.count_nonzero(beside_time(labels, time, "times") < 0))

    @property
    def _num_draws(self) -> int:
        return self.predicted.sizes["chain"] * self.predicted.sizes["draw"]

    @property
    def _after(self) -> xr.DataArray:
        return self.observed.isel({self._time: slice(-self._rows, None)})

    @property
    def _counted(self) -> xr.DataArray:
        """Predictions of the times whose outcome is there."""
        return self.predicted.where(self._after.notnull())

    def _labels(self) -> list[dict[str, Any]]:
        axes = [
            self.observed.coords[dim].values if dim in self.observed.coords else range(size)
            for dim, size in zip(self._others, self.observed.shape[1:], strict=True)
        ]
        return [
            {**dict(zip(self._others, place, strict=True)), "effect": effect}
            for place in itertools.product(*axes)
            for effect in ("average", "cumulative")
        ]

    def _cells(self, of_effect: Mapping[str, xr.DataArray]) -> xr.DataArray:
        """Numbers of each series and effect, in the order of the table's rows."""
        arrays = [value.drop_vars(_labels_of(value)) for value in of_effect.values()]
        whole = xr.concat(arrays, dim="effect").transpose(*self._others, "effect", ...)
        return whole.stack(cell=(*self._others, "effect"), create_index=False).transpose(
            "cell", ...
        )

    def _printed(self) -> pd.DataFrame:
        """The summary, a number a line: there are more of them than of effects."""
        table = self.summary()
        last = table.columns[-1]
        shares = [share_text(float(share), self._num_draws) for share in table[last]]
        named = table.astype({last: object}).assign(**{last: shares})
        return named.set_index([*self._others, "effect"]).T

    def _account(self) -> str:
        """Everything that the numbers depend on, in a sentence."""
        sizes = self.predicted.sizes
        chains = f"{sizes['chain']} chain{'s' if sizes['chain'] > 1 else ''}"
        fault = fault_of(self.diagnostics)
        first = (self._after[self._time].values if self._has_labels else self._numbers)[0]
        known = self.observed.sizes[self._time] - self._rows
        return (
            f"It compares '{self.site}' from {label_text(first)} on with {self.target} "
            f"({_KINDS[self.target]}), after {known:,} rows; {self._num_draws:,} posterior draws "
            f"in {chains}{f'; the fit is bad: {fault}' if fault else ''}."
        )


_ENDS = ("_lb", "_ub")


def _share(value: float) -> str:
    return f"{100 * value:.3g}%".replace("-", "\N{MINUS SIGN}")


_FORMS: dict[str, Callable[[float], str]] = {
    "predicted": number_text,
    "absolute": number_text,
    "relative": _share,
}


def _labels_of(value: xr.DataArray) -> list[Hashable]:
    return [name for name in value.coords if name not in _SAMPLE]


def _stats(cells: xr.DataArray, ci_prob: float | None, ci_kind: str | None) -> pd.DataFrame:
    import arviz as az

    options: Any = {"ci_prob": ci_prob, "ci_kind": ci_kind, "round_to": "none", "kind": "stats"}
    lost = cells.isnull().any(_SAMPLE)
    table = az.summary(cells.fillna(0.0).to_dataset(name="x"), **options).reset_index(drop=True)
    masked: pd.DataFrame = table.mask(np.broadcast_to(lost.values[:, None], table.shape))
    return masked


def _of_placebo(
    other: Impact, table: pd.DataFrame, place: int, interval: Mapping[str, Any]
) -> pd.DataFrame:
    """What a pretended intervention shows, one row for each series."""
    rows = table[table["effect"] == "average"].reset_index(drop=True)
    low, high = (c for c in table.columns if str(c).startswith("absolute_") and c[-3:] in _ENDS)
    time, after = other._time, other._after  # noqa: SLF001  # of the same record
    each = other.predicted.stack(cell=(time, *other._others), create_index=False)  # noqa: SLF001
    each = each.drop_vars(_labels_of(each)).transpose("cell", ...)
    table_of_each = _stats(each, interval.get("ci_prob"), interval.get("ci_kind"))
    ends = [c for c in table_of_each.columns if c[-3:] in _ENDS]
    shape = after.shape
    lower, upper, mean = (table_of_each[name].to_numpy().reshape(shape) for name in (*ends, "mean"))
    actual = after.values
    inside = np.where(np.isnan(actual), np.nan, (actual >= lower) & (actual <= upper))
    found = {
        "time": [place] * len(rows),
        "rows": rows["rows"],
        "coverage": np.ravel(np.nanmean(inside, axis=0)),
        "error": np.ravel(np.sqrt(np.nanmean((actual - mean) ** 2, axis=0))),
        "effect": rows["absolute"],
        low.replace("absolute", "effect"): rows[low],
        high.replace("absolute", "effect"): rows[high],
        "covers_0": (rows[low] <= 0) & (rows[high] >= 0),
    }
    labels = {dim: rows[dim] for dim in other._others}  # noqa: SLF001
    return pd.DataFrame({**labels, **found})
