"""Does a design tell the parameters? Simulated from the prior, fitted again, and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy import special

from aimz.choices import check_interval
from aimz.data import check_positive
from aimz.libraries import pd
from aimz.model import ImpactModel
from aimz.plots import COLOURS, check_matplotlib
from aimz.sequential.replicates import (
    drawn_outcomes,
    fit_again,
    quiet,
    say_bad_fits,
    split_design,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Recovery", "recovery"]


_BINS = 10


@dataclass(frozen=True)
class Recovery:
    """True parameters beside what fits to simulated outcomes say of them.

    Parameters
    ----------
    table : DataFrame
        For each parameter: `r`, the correlation of truth and posterior mean; `bias` and `rmse` of
        the mean; `coverage` of intervals of `probability`, and `se`, its standard error over
        replicates; `p_uniform`, the probability of ranks less even than these (small: the
        posterior is wrong).
    truths, means, ranks : dict of arrays, shape (replicate, ...)
        Ranks are shares of posterior draws below the truth.
    probability : float
        Of the intervals.
    verdicts : tuple of str
        What each fit said of itself.
    """

    table: pd.DataFrame
    truths: dict[str, np.ndarray]
    means: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]
    probability: float
    verdicts: tuple[str, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Parameters whose intervals or ranks are not those of a right posterior.

        Coverage is more than three standard errors off, or even ranks are less likely than 1 in
        1000.
        """
        off = (self.table["coverage"] - self.probability).abs() > 3 * self.table["se"]
        return tuple(self.table.index[off | (self.table["p_uniform"] < 1e-3)])

    def plot(self) -> Figure:
        """Truth against posterior mean, and ranks, of each parameter."""
        check_matplotlib()
        from matplotlib import pyplot as plt

        names = list(self.truths)
        figure, axes = plt.subplots(
            2,
            len(names),
            figsize=(2.6 * len(names) + 0.6, 4.8),
            layout="constrained",
            squeeze=False,
        )
        for (above, below), name in zip(axes.T, names, strict=True):
            truth, mean = self.truths[name].ravel(), self.means[name].ravel()
            ends = [min(truth.min(), mean.min()), max(truth.max(), mean.max())]
            above.plot(ends, ends, color="#7F7F7F", lw=1)
            above.plot(truth, mean, "o", ms=2.5, alpha=0.5, color=COLOURS[0], mew=0)
            above.set(title=name, xlabel="true value", ylabel="posterior mean")
            ranks = self.ranks[name].ravel()
            below.hist(ranks, bins=_BINS, range=(0, 1), color=COLOURS[0], alpha=0.7)
            below.axhline(len(ranks) / _BINS, color="#7F7F7F", lw=1)
            below.set(xlabel="rank of the true value", ylabel="count")
        return figure


def recovery(
    kernel: Callable[..., Any],
    design: Mapping[str, Any],
    parameters: Sequence[str],
    *,
    n: int = 30,
    engine: Any = "nuts",
    simulator: Callable[..., Any] | None = None,
    probability: float = 0.9,
    key: int = 0,
) -> Recovery:
    """Draw parameters from the prior and outcomes from the kernel, fit them, and compare.

    If the posterior is right, intervals hold the truth as often as they say, and its ranks among
    posterior draws are even (Talts and others, 2018, arXiv:1804.06788), whatever the design; how
    well means follow the truth says what the design can tell.

    Parameters
    ----------
    kernel : callable
        A kernel whose outcome is `y`.
    design : mapping
        What the kernel takes but for `y`, `X` among it.
    parameters : sequence of str
        Sites to compare, latents or computed.
    n : int
        Number of replicates.
    engine : str or engine
        How they are fitted, as `inference=` of `ImpactModel`.
    simulator : callable, optional
        `simulator(key, parameters) -> y`, in the place of the kernel's own draws: a program that is
        to be checked against the kernel.
    probability : float
        Of the intervals.
    key : int
        Seed. Each replicate has a key of its own, and in it each row.

    Returns
    -------
    Recovery

    Raises
    ------
    InputError
        `recovery`: a design without `X`, or outcomes of which it is not known which axis is that
        of the rows; `not-positive`, `option-unknown`.

    Warns
    -----
    FitWarning
        `refits`: some of the fits say that they are bad.

    See Also
    --------
    confusion : Does a design tell models from each other?
    """
    check_positive(n, "n")
    check_interval(probability, None)
    own = split_design(design)
    truths, outcomes = drawn_outcomes(kernel, own, parameters, n, key)
    model = ImpactModel(kernel, inference=engine)
    summaries: list[dict[str, Any]] = []
    verdicts: list[str] = []
    for number, drawn in enumerate(outcomes):
        truth = {name: truths[name][number] for name in parameters}
        if simulator is None:
            y = drawn
        else:
            y = np.asarray(simulator(jax.random.fold_in(jax.random.key(key), number), truth))
        verdicts.append(fit_again(model, own, y, key + 1 + number))
        with quiet():
            found: Any = model.predict_on_batch(
                own[0], return_sites=[*parameters], return_datatree=False, **own[1]
            )
        summaries.append({name: _summary(found[name], truth[name], probability) for name in truth})
    say_bad_fits(verdicts)
    parts = {field: _stacked(summaries, field) for field in ("mean", "rank", "covered")}
    table = pd.DataFrame(
        {
            name: _line(truths[name], {f: parts[f][name] for f in parts}, probability)
            for name in parameters
        }
    ).T
    return Recovery(table, truths, parts["mean"], parts["rank"], probability, tuple(verdicts))


def _stacked(summaries: list[dict[str, Any]], field: str) -> dict[str, np.ndarray]:
    """One number of all replicates, by parameter."""
    return {name: np.stack([one[name][field] for one in summaries]) for name in summaries[0]}


def _summary(draws: np.ndarray, truth: np.ndarray, probability: float) -> dict[str, np.ndarray]:
    values = np.asarray(draws)
    low, high = np.quantile(values, [0.5 - probability / 2, 0.5 + probability / 2], axis=0)
    rank = (values < truth).mean(axis=0)
    return {"mean": values.mean(0), "rank": rank, "covered": (low <= truth) & (truth <= high)}


def _line(
    truth: np.ndarray, parts: Mapping[str, np.ndarray], probability: float
) -> dict[str, float]:
    """Numbers of one parameter, members and replicates together."""
    mean, covered = parts["mean"], parts["covered"]
    by_replicate = covered.reshape(len(covered), -1).mean(axis=1)
    binomial = np.sqrt(probability * (1 - probability) / covered.size)  # where replicates agree
    spread = by_replicate.std(ddof=1) / np.sqrt(len(by_replicate)) if len(by_replicate) > 1 else 0.0
    return {
        "r": float(np.corrcoef(truth.ravel(), mean.ravel())[0, 1]),
        "bias": float((mean - truth).mean()),
        "rmse": float(np.sqrt(((mean - truth) ** 2).mean())),
        "coverage": float(covered.mean()),
        "se": float(max(spread, binomial)),
        "p_uniform": _evenness(parts["rank"]),
    }


def _evenness(rank: np.ndarray) -> float:
    """Probability of ranks that are less even, by one member of each replicate: they are apart."""
    flat = rank.reshape(len(rank), -1)
    one = flat[np.arange(len(flat)), np.arange(len(flat)) % flat.shape[1]]
    bins = max(2, min(_BINS, len(one) // 5))
    counts = np.bincount(np.minimum((one * bins).astype(int), bins - 1), minlength=bins)
    expected = len(one) / bins
    return float(special.chdtrc(bins - 1, ((counts - expected) ** 2 / expected).sum()))
