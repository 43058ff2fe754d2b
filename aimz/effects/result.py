"""The answer to a question about effects: its draws, a table, sentences and a picture."""

from __future__ import annotations

import html
import importlib.util
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from aimz.choices import bounds_of, check_choice, check_interval
from aimz.data import check_positive
from aimz.decisions import Decision, decision_of
from aimz.effects.behind import Behind
from aimz.effects.deciding import gains_of
from aimz.effects.hidden import Strengths, hidden_cause_of
from aimz.effects.question import POPULATIONS, RUNGS, TARGETS, Question
from aimz.effects.refuting import Course, refuted
from aimz.effects.robustness import evidence_of
from aimz.effects.wording import Compared, fault_of, labels_of, share_text, weighed_text
from aimz.errors import InputError
from aimz.libraries import pd, xr
from aimz.plots import label_text
from aimz.refutation import Refutation
from aimz.sensitivity import HiddenCause, Sensitivity, sensitivity_of
from aimz.store import PlaceLike, local_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Effect"]


_SAMPLE = ("chain", "draw")
_LINES = 20  # of a table in print
_SIGNS = {">": 1.0, "<": -1.0}
_SHARED = {
    "residual": "residual",
    "quantile": "quantile (monotone)",
    "gumbel-max": "Gumbel noise (Gumbel-max)",
}
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
    bounds : DataArray, optional
        Least and greatest probability, along the dimension `bound`, that the laws of the outcome
        leave open whatever the coupling of the worlds; where two worlds at once are asked about.
    couplings : mapping of str
        How each replayed site shares its noise between worlds: "residual", "quantile" (a monotone
        function of the same uniform) or "gumbel-max".
    support : Dataset, optional
        For each scenario whether a row that is asked about lies `outside` the data, and the
        `fraction` of rows that do and did not have what they are given there; `aimz.overlap` has
        the rules. None where there are no data to compare with.
    row_summary : Dataset, optional
        Mean, sd, quantiles and probability of exceeding a threshold of each row's effect.
    scenarios : Compared
        What each scenario sets, in words: `str(effect.scenarios)` is `t=1 against t=0`.
    behind : callable, optional
        Gives the fit, by reference: what `sensitivity` and `refute` look at. Pickle leaves it out.
    """

    draws: xr.DataArray
    averages: xr.DataArray
    question: Question
    rows: int
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    redrawn: tuple[str, ...] = ()
    bounds: xr.DataArray | None = None
    couplings: Mapping[str, str] = field(default_factory=dict)
    support: xr.Dataset | None = None
    row_summary: xr.Dataset | None = None
    scenarios: Compared = field(default_factory=lambda: Compared({}))
    behind: Callable[[], Behind | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "behind": None}  # data of a fit do not travel with a number

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
            the probability of an effect in the direction, or for a probability the posterior means
            of its bounds. Where the fit is bad, the column `fit` says why.

        Raises
        ------
        InputError
            `option-unknown`.
        """
        import arviz as az

        check_choice(direction, "direction", (">", "<"))
        check_interval(ci_prob, ci_kind)
        region = None if rope is None else bounds_of(rope, "rope")
        labels, cells = self._cells()
        table: pd.DataFrame = az.summary(
            cells.to_dataset(name="effect"),
            kind="stats",
            ci_prob=ci_prob,
            ci_kind=ci_kind,
            round_to="none",
        ).reset_index(drop=True)
        if self.bounds is not None:
            for bound in ("lower", "upper"):
                table[f"{bound} bound"] = (
                    self._flat(self.bounds.sel(bound=bound)).mean(_SAMPLE).values
                )
        null = self.question.null
        if null is not None:
            beyond = (_SIGNS[direction] * (cells - null) > 0).mean(_SAMPLE)
            table[f"P(effect {direction} {null:g})"] = beyond.values
        if region is not None:
            low, high = region
            inside = ((cells >= low) & (cells <= high)).mean(_SAMPLE)
            table[f"P({low:g} <= effect <= {high:g})"] = inside.values
        table.insert(0, "estimand", self.question.estimand)
        table.insert(1, "comparison", self.question.comparison)
        if self.fault:
            table.insert(2, "fit", f"bad: {self.fault}")
        if self._is_pair:
            labels = {"contrast": [str(self.scenarios)] * len(table), **labels}
        for place, (name, values) in enumerate(labels.items(), 3 if self.fault else 2):
            table.insert(place, name, values)
        return table

    def plot(
        self,
        *,
        ax: Axes | None = None,
        ci_prob: float | None = None,
        ci_kind: str | None = None,
    ) -> Axes:
        """Draw the effect: a density, a forest, or a curve against the dose or over time.

        One number is drawn as the density of its draws. Three or more scenarios whose names are
        numbers are drawn as a curve against them, one for each group where there are at most eight.
        Groups or rows that are dates are drawn as a path over time. Other effects are drawn as a
        forest, with a line for each contrast, group or row: at most 60 of them, for `"ite"` spread
        evenly over the order of their means. The intervals are those of `summary`.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; default a new figure.
        ci_prob : float, optional
            Probability of the interval; default ArviZ's.
        ci_kind : {"eti", "hdi"}, optional
            Kind of the interval; default ArviZ's.

        Returns
        -------
        Axes
            Matplotlib's, with the question as its title and the technical facts in its caption.

        Raises
        ------
        InputError
            `plots-missing`: Matplotlib is not installed.

        See Also
        --------
        summary : The numbers that are drawn.

        Examples
        --------
        >>> import numpy as np, xarray as xr
        >>> from aimz.effects import question_of
        >>> draws = xr.DataArray(np.linspace(-1, 3, 100)[None], dims=("chain", "draw"))
        >>> question = question_of("y", "ate", "difference", "expectation", "sample")
        >>> ax = Effect(draws, draws, question, rows=50).plot(ci_prob=0.9)
        >>> ax.get_xlabel()
        "average effect on 'y' (difference)"
        >>> ax.figure.savefig("effect.pdf")  # doctest: +SKIP
        """
        from aimz.effects.plot import plot_effect

        return plot_effect(self, ax=ax, ci_prob=ci_prob, ci_kind=ci_kind)

    def to_text(self, *, ci_prob: float | None = None, ci_kind: str | None = None) -> str:
        """Two sentences: what the effect is, and what was compared of whom."""
        table = self.summary(ci_prob=ci_prob, ci_kind=ci_kind)
        bounds = [name for name in table.columns if name.endswith(("_lb", "_ub"))]
        kind = bounds[0].removesuffix("_lb")
        lines = []
        for _, row in table.head(8).iterrows():
            where = "".join(f", {name} {label_text(row[name])}" for name in self._cells()[0])
            low, high = (float(row[name]) for name in bounds)
            lines.append(
                f"{_number(row['mean'])}{where} ({kind[3:]}% {kind[:3]} {_number(low)} to "
                f"{_number(high)})"
            )
        more = f" and {len(table) - 8} more" if len(table) > 8 else ""
        last = table.columns[-1]
        chance = ""
        if self.question.null is not None:
            share = self._share(table[last].iloc[0])
            chance = f" {last} {share}." if share[0] in _SIGNS else f" {last} is {share}."
        if self.bounds is not None:
            low, high = (float(table[f"{bound} bound"].iloc[0]) for bound in ("lower", "upper"))
            chance = f" Whatever the coupling, its mean is between {low:.1%} and {high:.1%}."
        if len(table) > 1:
            chance = ""
        cause = f" of {self.scenarios}" if self._is_pair else ""
        what = self.question.worded(cause, f"'{self.question.site}'")
        return (
            f"The {what}{_WORDS.get(self.question.comparison, '')} is "
            f"{'; '.join(lines)}{more}.{chance} {self._account()}"
        )

    def sensitivity(
        self,
        *,
        benchmarks: str | Sequence[str] = (),
        multiples: Sequence[float] = (1.0, 2.0, 3.0),
        treatment: str | None = None,
        dof: float | None = None,
        q: float = 1.0,
        alpha: float = 0.05,
        ci_prob: float | None = None,
    ) -> Sensitivity:
        """Say how strong a confounder that nobody measured must be to overturn the effect.

        In shares of variance (robustness value and benchmarks: Cinelli and Hazlett, 2020), exact
        for a linear regression and else of its linear approximation; and as ratios of risks
        (E-values: VanderWeele and Ding, 2017), one for each draw. A ratio is looked at by its
        logarithm.

        Parameters
        ----------
        benchmarks : str or list of str
            Covariates to compare a confounder with: columns, or arguments of one value per row.
        multiples : sequence of float
            How many times as strong as a benchmark. The report says which of them no confounder
            can be, and which bound nothing of the outcome; these have no interval.
        treatment : str, optional
            The treatment; default the one thing that the scenarios set.
        dof : float, optional
            Degrees of freedom of the outcome's residuals; default the rows of the fit, less the
            rank of treatment and covariates.
        q : float
            Share of the effect that is to be lost.
        alpha : float
            Level of the robustness value that asks for uncertainty.
        ci_prob : float, optional
            Probability of equal-tailed intervals; default ArviZ's.

        Returns
        -------
        Sensitivity
            Numbers, `to_text()`, and `plot()` of the contours.

        Raises
        ------
        InputError
            `data-gone`: no rows of the fit are known; `effect-several`, `effect-scale`,
            `treatment-unknown`, `option-unknown`.

        Examples
        --------
        >>> import numpy as np, xarray as xr
        >>> from aimz.effects import question_of
        >>> draws = xr.DataArray(np.linspace(1, 3, 100)[None], dims=("chain", "draw"))
        >>> question = question_of("y", "ate", "difference", "expectation", "sample")
        >>> report = Effect(draws, draws, question, rows=50).sensitivity(dof=48)
        >>> round(report.robustness_value, 2)
        0.39
        """
        listed = (benchmarks,) if isinstance(benchmarks, str) else tuple(benchmarks)
        return sensitivity_of(
            evidence_of(self, treatment),
            benchmarks=listed,
            multiples=multiples,
            dof=dof,
            q=q,
            alpha=alpha,
            ci_prob=ci_prob,
        )

    def hidden_cause(
        self,
        on_treatment: Strengths,
        on_outcome: Strengths,
        *,
        kind: str = "binary",
        treatment: str | None = None,
        repeats: int = 40,
        seed: int = 0,
        ci_prob: float | None = None,
        progress: bool = True,
    ) -> HiddenCause:
        """Fit again with a cause of treatment and outcome that nobody measured, of some strengths.

        Each row has a cause U whose distribution follows from the treatment that the row had, t,
        and from nothing else: log odds `on_treatment * (t - mean)` of a binary one, which is 0 or
        1, or a mean of that and an sd of 1 of a normal one. `on_outcome * U` is added to the
        location of the outcome, its log odds, or the logarithm of its mean, and U is summed or
        integrated out. Scenarios change the treatment and leave U as it is (McCandless, Gustafson
        and Levy, 2007; Dorie and others, 2016). In a linear normal model the effect of one more of
        the treatment loses `on_outcome * on_treatment` to a normal cause. To a binary one of a
        binary treatment it loses about `on_outcome` times the difference of P(U = 1) between the
        arms: not exactly, since residuals tell who is likely to have it.

        Data say next to nothing of the strengths. Over priors of them each of `repeats` refits has
        a pair of its own, and their draws are pooled: a Monte Carlo sensitivity analysis
        (Greenland, 2005, JRSS-A 168, 267-306), in which data do not speak on the strengths.

        Parameters
        ----------
        on_treatment : sequence of float, or Distribution
            A grid of strengths of one sign (0 is always asked too), or a prior.
        on_outcome : sequence of float, or Distribution
            Likewise. An effect of more treatment that is above none shrinks where both have the
            same sign, one below it where the signs differ.
        kind : {"binary", "normal"}
            Of the cause. A normal one is of normal and log-normal outcomes.
        treatment : str, optional
            The treatment; default the one thing that the scenarios set.
        repeats : int
            Refits over priors.
        seed : int
            Of the refits and the strengths.
        ci_prob : float, optional
            Probability of equal-tailed intervals; default ArviZ's.
        progress : bool
            Show a bar.

        Returns
        -------
        HiddenCause
            A table, the tipping points of a grid or pooled draws over priors, sentences, `plot()`.

        Raises
        ------
        InputError
            `family-unknown`: an outcome without such a predictor, or of several numbers per row;
            `data-differ`: asked of other rows than those of the fit; `data-gone`, `effect-several`,
            `effect-scale`, `treatment-unknown`, `option-unknown`.

        Examples
        --------
        >>> effect = im.effect(X, {"t": 0}, {"t": 1}, t=t)  # doctest: +SKIP
        >>> effect.hidden_cause([0, 1, 2], [0.5, 1.0]).tipping  # doctest: +SKIP
        """
        check_positive(repeats, "repeats")
        strengths, course = (on_treatment, on_outcome), Course(repeats, seed, progress)
        return hidden_cause_of(self, strengths, kind, treatment, course, ci_prob)

    def refute(
        self,
        tests: str | Sequence[str] = ("placebo", "random_cause", "subset", "dummy_outcome"),
        *,
        repeats: int = 20,
        treatment: str | None = None,
        seed: int = 0,
        ci_prob: float | None = None,
        progress: bool = True,
    ) -> Refutation:
        """Fit changed data again and again, and say whether the effect behaves as it should.

        Each refit begins anew with the settings of the fit and asks the same question. Nothing of
        the model or its data is changed. A pass does not prove an effect: no test sees a confounder
        that nobody measured (`sensitivity` does what can be done about that).

        Parameters
        ----------
        tests : str or list of str
            `"placebo"`: the treatment is permuted, and no effect is left. `"dummy_outcome"`:
            outcomes simulated with everybody in the first scenario have none. `"injected"`:
            outcomes simulated from one draw have the effect of that draw, which comes back.
            `"random_cause"`: a random covariate changes nothing. `"subset"`: four rows of five give
            the same. `"bootstrap"`: rows weighed at random give the same, and spread as the
            posterior does.
        repeats : int
            Refits of each test.
        treatment : str, optional
            What is permuted; default the one thing that the scenarios set.
        seed : int
            Of the changes and the refits.
        ci_prob : float, optional
            Probability of equal-tailed intervals; default ArviZ's.
        progress : bool
            Show a bar.

        Returns
        -------
        Refutation
            A table, sentences, `plot()`.

        Raises
        ------
        InputError
            `data-gone`: there is no fit in this process to repeat; `data-differ`: its rows were
            changed in place; `effect-several`, `effect-scale`, `treatment-unknown`,
            `family-unknown`, `option-unknown`.

        Examples
        --------
        >>> effect = im.effect(X, {"t": 0}, {"t": 1}, t=t)  # doctest: +SKIP
        >>> effect.refute("placebo", repeats=5)  # doctest: +SKIP
        """
        check_positive(repeats, "repeats")
        listed = (tests,) if isinstance(tests, str) else tuple(tests)
        return refuted(self, listed, treatment, Course(repeats, seed, progress), ci_prob)

    def decide(
        self,
        *,
        cost: ArrayLike = 0.0,
        value: float = 1.0,
        threshold: float = 0.0,
        budget: float | None = None,
        sizes: ArrayLike | Mapping[Any, float] | None = None,
        features: pd.DataFrame | ArrayLike | None = None,
        max_depth: int = 2,
        ci_prob: float | None = None,
    ) -> Decision:
        """Say whom to treat: the rule of the greatest expected utility, and what it may miss.

        Rows (of `estimand="ite"`) or groups (of `"cate"`) gain `value` times their effect, less
        `cost`, if they are treated. Rules are judged on the same draws: a rule that was chosen by
        them is not worse than it looks if the model and its priors are right, is if they are not,
        and held-out randomised rows tell (`aimz.decisions.rank_scores`). Draws are read some rows
        at a time, and nothing of rows x draws is made beside them.

        Parameters
        ----------
        cost : float or array-like
            Of treating one row, or one for each row or group. A Series is lined up by its labels.
        value : float
            Of one unit of the outcome.
        threshold : float
            Of the effect, whose probability of being exceeded is reported for each row or group.
        budget : float, optional
            Greatest share of the rows that can be treated.
        sizes : array-like, Series or dict, optional
            Rows in each group, by its label or in the order of the effect; needed where there are
            groups.
        features : DataFrame or array, optional
            What a shallow tree of the rule may split on: numbers, by label or in the order of the
            effect.
        max_depth : int
            Of the tree.
        ci_prob : float, optional
            Probability of equal-tailed intervals; default ArviZ's.

        Returns
        -------
        Decision
            Tables of units and of rules, `to_text()`, `plot()`.

        Raises
        ------
        InputError
            `effect-scale`, `effect-several`, `rows-mismatch`, `row-labels`, `option-unknown`.

        Examples
        --------
        >>> import numpy as np, xarray as xr
        >>> from aimz.effects import question_of
        >>> values = np.array([[[1.0, 3.0]], [[-2.0, 0.0]]])
        >>> draws = xr.DataArray(values, dims=("obs", "chain", "draw"))
        >>> question = question_of("y", "ite", "difference", "expectation", "sample")
        >>> Effect(draws, draws, question, rows=2).decide(cost=0.5).units["treat"].tolist()
        [True, False]
        """
        return decision_of(
            gains_of(self, value, cost, sizes, features),
            threshold=threshold,
            budget=budget,
            max_depth=max_depth,
            ci_prob=ci_prob,
        )

    def to_parquet(self, path: PlaceLike) -> Path:
        """Write the summary of each row, where it was asked for, else the table of `summary`.

        Parameters
        ----------
        path : path-like
            The file; it is there when it is whole.

        Returns
        -------
        Path
            Where it is.

        Raises
        ------
        InputError
            `pyarrow-missing`, `output-dir`.

        Examples
        --------
        >>> effect = im.effect(X, {"t": 0}, {"t": 1}, t=t, row_summary=True)  # doctest: +SKIP
        >>> effect.to_parquet("effects.parquet")  # doctest: +SKIP
        """
        if importlib.util.find_spec("pyarrow") is None:
            msg = "A Parquet file is written by pyarrow. pip install 'aimz[parquet]'."
            raise InputError(msg, code="pyarrow-missing")
        final = local_path(path, "path")
        rows = self.row_summary
        table = self.summary() if rows is None else rows.to_dataframe().reset_index()
        partial = final.with_name(f".{final.name}.partial")
        table.to_parquet(partial, index=False)
        partial.replace(final)
        return final

    def to_datatree(self) -> xr.DataTree:
        """The effect for ArviZ, with its labels: a tree with the group `posterior`.

        Examples
        --------
        >>> import arviz as az, numpy as np, xarray as xr
        >>> from aimz.effects import question_of
        >>> draws = xr.DataArray(np.linspace(-1, 3, 400).reshape(4, 100), dims=("chain", "draw"))
        >>> question = question_of("y", "ate", "difference", "expectation", "sample")
        >>> effect = Effect(draws, draws, question, rows=50)
        >>> list(az.summary(effect.to_datatree()).index)
        ['effect']
        """
        data = self.draws.transpose(*_SAMPLE, ...).to_dataset(name="effect")
        if "scenario" in data.coords:
            data = data.drop_vars("scenario")  # of contrasts, which have names of their own
        tree = xr.DataTree.from_dict({"/posterior": data.assign_attrs(self.draws.attrs)})
        tree.attrs.update(self.draws.attrs, account=self._account())
        return tree

    @property
    def fault(self) -> str:
        """What is wrong with the fit behind the effect, such as "k-hat"; empty where nothing is."""
        return fault_of(self.diagnostics)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001
        """Draws, (chain, draw, ...): what ArviZ and NumPy make of an effect as it is."""
        draws = self.draws.transpose(*_SAMPLE, ...).to_numpy()
        return np.array(draws, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        table = self._printed()
        shown = table.head(_LINES).to_string(index=False, float_format=_number)
        return f"Effect\n{self._account()}\n{shown}{_left_out(table)}"

    def _repr_html_(self) -> str:
        table = self._printed()
        shown = table.head(_LINES).to_html(index=False, float_format=_number, border=0)
        return f"<div><p>{html.escape(self._account())}</p>{shown}{_left_out(table)}</div>"

    def _printed(self) -> pd.DataFrame:
        """The summary, with chances as text that says no more than the draws can."""
        table = self.summary()
        chances = [name for name in table.columns if str(name).startswith("P(")]
        return table.assign(**{name: table[name].map(self._share) for name in chances})

    def _share(self, share: float) -> str:
        return share_text(float(share), self._num_draws)

    @property
    def _num_draws(self) -> int:
        return self.draws.sizes["chain"] * self.draws.sizes["draw"]

    @property
    def _is_pair(self) -> bool:
        """Whether two scenarios are compared, whose words then stand for their names."""
        return len(self.scenarios.settings) == 2 and self.question.derive is None

    def _account(self) -> str:
        """Everything that the number depends on, in a sentence."""
        asked, sizes = self.question, self.draws.sizes
        compares = f"is about '{asked.site}'"
        if asked.null is not None:
            compares = f"compares '{asked.site}' by {asked.comparison}"
        if self.scenarios.settings:
            compares += f", {self.scenarios},"
        mediated = f"; mediator: {asked.mediator}" if asked.mediator else ""
        chains = f"{sizes['chain']} chain{'s' if sizes['chain'] > 1 else ''}"
        redrawn = f"; drawn anew: {', '.join(self.redrawn)}" if self.redrawn else ""
        doubt = f" The fit is bad ({self.fault}): do not trust the number." if self.fault else ""
        doubt += weighed_text(self.diagnostics) if self.fault else ""
        listed = ", ".join(f"{site} by {_SHARED[how]}" for site, how in self.couplings.items())
        coupled = f"; noise shared between worlds: {listed}" if listed else ""
        return (
            f"It {compares} over {self.rows:,} rows; "
            f"target: {asked.target} ({TARGETS[asked.target]}); "
            f"population: {asked.population} ({POPULATIONS[asked.population]}); "
            f"rung: {asked.rung} ({RUNGS[asked.rung]}){coupled}{mediated}; "
            f"{self._num_draws:,} posterior draws in {chains}{redrawn}.{doubt}"
        )

    def _cells(self) -> tuple[dict[str, list[Any]], xr.DataArray]:
        """Labels of each number that the effect has, and the draws with one axis for them."""
        dims = [str(dim) for dim in self.draws.dims if dim not in _SAMPLE]
        axes = [labels_of(self.draws, dim) for dim in dims]
        combined = list(itertools.product(*axes))
        labels = {dim: [cell[place] for cell in combined] for place, dim in enumerate(dims)}
        return labels, self._flat(self.draws)

    def _flat(self, draws: xr.DataArray) -> xr.DataArray:
        """Draws with one axis for everything but the sample."""
        dims = [dim for dim in draws.dims if dim not in _SAMPLE]
        bare = draws.drop_vars([name for name in draws.coords if name not in _SAMPLE])
        if not dims:
            return bare.expand_dims("cell")
        return bare.stack(cell=dims, create_index=False).transpose("cell", *_SAMPLE)


def _left_out(table: pd.DataFrame) -> str:
    more = len(table) - _LINES
    return f"\nand {more:,} more, in .summary()" if more > 0 else ""


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
