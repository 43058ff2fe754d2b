"""Does a design tell models from each other? Simulated by each, and explained by all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aimz.choices import check_choice
from aimz.data import check_positive
from aimz.errors import InputError
from aimz.libraries import pd
from aimz.model import ImpactModel
from aimz.plots import PLAIN, check_matplotlib
from aimz.sequential.replicates import (
    Design,
    drawn_outcomes,
    fit_again,
    quiet,
    say_bad_fits,
    say_unsure,
    split_design,
    taken_by,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Confusion", "confusion"]


@dataclass(frozen=True)
class Confusion:
    """Which model explains best what each of them has simulated.

    Parameters
    ----------
    table : DataFrame
        A line for each model that simulates, a column for each that is fitted: the share of
        replicates that it explains best. The diagonal is 1 where models are told apart.
    scores : array, shape (simulated, replicate, fitted)
        Log predictive density of rows left out, or log evidence, in nats; -inf where outcomes are
        outside of the support.
    outcomes : dict of arrays, shape (replicate, ...)
        What each model has simulated.
    by : str
        What models were compared by.
    verdicts : tuple of str
        What each fit said of itself.
    """

    table: pd.DataFrame
    scores: np.ndarray
    outcomes: dict[str, np.ndarray]
    by: str
    verdicts: tuple[str, ...]

    @property
    def inverse(self) -> pd.DataFrame:
        """Share of each model that simulates among what a fitted model explains best.

        That is how far to trust the best of a comparison, if all models are as probable before
        (Wilson and Collins, 2019, eLife 8:e49547). A column of a model that is never best is NaN.
        """
        return self.table / self.table.sum()

    @property
    def se(self) -> pd.DataFrame:
        """Standard errors of the shares, by the number of replicates."""
        variance: pd.DataFrame = self.table * (1 - self.table) / self.scores.shape[1]
        return variance.pow(0.5)

    def plot(self) -> Figure:
        """Draw the shares, simulated by rows and explained by columns."""
        check_matplotlib()
        from matplotlib import pyplot as plt

        size = 1.6 + 0.8 * len(self.table)
        figure, ax = plt.subplots(figsize=(size + 0.8, size), layout="constrained")
        ax.imshow(self.table.to_numpy(), cmap="Blues", vmin=0.0, vmax=1.0)
        for row, line in enumerate(self.table.to_numpy()):
            for column, share in enumerate(line):
                colour = "white" if share > 0.6 else "black"  # on dark blue
                style: dict[str, Any] = {
                    "ha": "center",
                    "va": "center",
                    "color": colour,
                    "fontsize": PLAIN,
                }
                ax.text(column, row, f"{share:.2f}", **style)
        places = range(len(self.table))
        ax.set_xticks(places, self.table.columns, fontsize=PLAIN, rotation=30, parse_math=False)
        ax.set_yticks(places, self.table.index, fontsize=PLAIN, parse_math=False)
        ax.set_xlabel("explained best by", fontsize=PLAIN)
        ax.set_ylabel("simulated by", fontsize=PLAIN)
        return figure


def confusion(
    kernels: Mapping[str, Callable[..., Any]],
    design: Mapping[str, Any],
    *,
    n: int = 20,
    by: str = "loo",
    engine: Any = "nuts",
    key: int = 0,
) -> Confusion:
    """Simulate outcomes by each model, fit all models to them, and count which is best.

    Parameters are drawn from each model's prior. A model that is often explained best by another
    cannot be told from it by this design, however the real comparison comes out.

    Parameters
    ----------
    kernels : mapping of str to callable
        Two or more kernels with the outcome `y`, by name.
    design : mapping
        What the kernels take but for `y`, `X` among it; each gets those that it has.
    n : int
        Replicates of each model. All fits of a kernel share one compiled program.
    by : {"loo", "evidence"}
        Rows left out (`ImpactModel.loo`), or the evidence, which an engine must give (`"smc"`,
        `"nested"`, `"laplace"`).
    engine : str or engine
        How they are fitted, as `inference=` of `ImpactModel`.
    key : int
        Seed.

    Returns
    -------
    Confusion
        With `table`, `inverse`, `se` and `plot()`.

    Raises
    ------
    InputError
        `confusion`: fewer than two kernels, a design with what no kernel takes,
        outcomes that cannot be compared (of other shapes or kinds, or left out by other pieces), or
        an engine without evidence; `recovery`: a design without
        `X`; `not-positive`, `option-unknown`.

    Warns
    -----
    FitWarning
        `refits`: some of the fits say that they are bad.
    OutputWarning
        `pareto-k`: of some fits, rows left out are told by few draws.

    See Also
    --------
    recovery : Does a design tell the parameters?

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz.sequential import confusion
    >>> def known(X, y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    ...     with numpyro.plate("rows", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> def unknown(X, y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    ...     with numpyro.plate("rows", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> kernels = {"known": known, "unknown": unknown}
    >>> told = confusion(kernels, {"X": np.zeros((9, 1))}, n=4, by="evidence", engine="laplace")
    >>> float(told.table.loc["known", "known"]) > 0.5
    True
    """
    check_positive(n, "n")
    check_choice(by, "by", ("loo", "evidence"))
    designs = _designs(kernels, design)
    seeds = [
        int(seed) for seed in np.random.SeedSequence(key).generate_state(2 * len(kernels)) >> 1
    ]
    drawn = {
        name: drawn_outcomes(kernel, designs[name], (), n, seed)[1]
        for (name, kernel), seed in zip(kernels.items(), seeds, strict=False)
    }
    _check_alike(drawn)
    outcomes = list(itertools.chain.from_iterable(drawn.values()))
    fits = {
        name: _fits(ImpactModel(kernel, inference=engine), designs[name], outcomes, seed, by)
        for (name, kernel), seed in zip(kernels.items(), seeds[len(kernels) :], strict=True)
    }
    _check_pieces(fits)
    scores = np.array([[fit.score for fit in each] for each in fits.values()])
    scores = scores.reshape(len(kernels), len(kernels), n).transpose(1, 2, 0)
    _check_own(scores, list(kernels))
    every = list(itertools.chain.from_iterable(fits.values()))
    verdicts = [fit.verdict for fit in every]
    say_bad_fits(verdicts)
    say_unsure([fit.is_unsure for fit in every])
    best = scores == scores.max(axis=-1, keepdims=True)
    shares = (best / best.sum(axis=-1, keepdims=True)).mean(axis=1)
    table = pd.DataFrame(shares, index=list(kernels), columns=list(kernels))
    return Confusion(table, scores, {k: np.stack(v) for k, v in drawn.items()}, by, tuple(verdicts))


class _Fit(NamedTuple):
    verdict: str
    score: float
    pieces: int = 0  # that are left out, each in turn
    is_unsure: bool = False


def _fits(
    model: ImpactModel, design: Design, outcomes: list[np.ndarray], seed: int, by: str
) -> list[_Fit]:
    return [_fit(model, design, y, seed + number, by) for number, y in enumerate(outcomes)]


def _fit(model: ImpactModel, design: Design, y: np.ndarray, seed: int, by: str) -> _Fit:
    """How well a model explains outcomes."""
    try:
        verdict = fit_again(model, design, y, seed)
    except InputError as error:
        if error.code != "outcome-support":
            raise
        return _Fit("the outcomes are impossible", -np.inf)
    if by == "evidence":
        return _Fit(verdict, float(model.diagnostics_.get("log_evidence", np.nan)))
    with quiet():
        left_out = model.loo(design[0], y, pointwise=False, progress=False, **design[1])
    return _Fit(verdict, float(left_out.elpd), left_out.n_data_points, bool(left_out.warning))


def _designs(kernels: Any, design: Mapping[str, Any]) -> dict[str, Design]:
    """What each kernel takes of a design, all of which is taken by one of them."""
    if not isinstance(kernels, Mapping) or len(kernels) < 2:  # to be confused
        msg = 'confusion takes two or more kernels by name, as in confusion({"a": f, "b": g}, ...).'
        raise InputError(msg, code="confusion")
    whole = split_design(design)
    designs = {name: taken_by(kernel, whole) for name, kernel in kernels.items()}
    taken = {name for _, given in designs.values() for name in given}
    for name in whole[1]:
        if name not in taken:
            msg = f"The design has '{name}', which none of the kernels takes. Leave it out."
            raise InputError(msg, code="confusion")
    return designs


def _check_alike(drawn: Mapping[str, list[np.ndarray]]) -> None:
    """Refuse outcomes of several shapes, or of numbers that are counted and such that are not."""
    (first, some), *others = ((name, outcomes[0]) for name, outcomes in drawn.items())
    for name, one in others:
        if one.shape != some.shape or (one.dtype.kind == "f") != (some.dtype.kind == "f"):
            msg = (
                f"'{first}' simulates {some.dtype} of the shape {some.shape}, and '{name}' "
                f"{one.dtype} of {one.shape}. Densities of these are no measure of one thing: "
                "compare kernels of the same outcome."
            )
            raise InputError(msg, code="confusion")


def _check_pieces(fits: Mapping[str, list[_Fit]]) -> None:
    """Refuse models of which other pieces of an outcome are left out, such as rows and elements."""
    (first, some), *others = ((k, {f.pieces for f in v if f.pieces}) for k, v in fits.items())
    for name, pieces in others:
        if some and pieces and pieces != some:
            msg = (
                f"Of '{first}' {min(some)} values are left out in turn, and of '{name}' "
                f"{min(pieces)}: one has rows as wholes, the other their elements. Write both "
                "with the same to_event(), or compare by='evidence'."
            )
            raise InputError(msg, code="confusion")


def _check_own(scores: np.ndarray, names: list[str]) -> None:
    """Refuse scores that are no numbers, and models to which their own outcomes are impossible."""
    unknown = np.isnan(scores) | (scores == np.inf)
    unknown |= ~np.isfinite(scores) & np.eye(len(names), dtype=bool)[:, None]
    if unknown.any():
        row, number, column = np.argwhere(unknown)[0]
        msg = (
            f"Replicate {number} of '{names[row]}' gives '{names[column]}' the score "
            f"{scores[row, number, column]}. By evidence, an engine must give one: 'smc', "
            "'nested', 'laplace'; else look at that fit."
        )
        raise InputError(msg, code="confusion")
