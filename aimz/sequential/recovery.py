"""Does a design tell the parameters? Simulated from the prior, fitted again, and compared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy import special

from aimz.errors import AimzWarning, InputError
from aimz.libraries import pd
from aimz.model import ImpactModel
from aimz.plots import COLOURS, check_matplotlib

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
        of the rows.
    """
    given = dict(design)
    if "X" not in given or "y" in given:
        msg = "The design is what the kernel takes but for its outcome, and has an 'X'. Pass both."
        raise InputError(msg, code="recovery")
    X = given.pop("X")
    prior: Any = ImpactModel(kernel, rng_key=key).sample_prior_predictive_on_batch(
        X, num_samples=n, return_sites=[*parameters, "y"], return_datatree=False, **given
    )
    truths = {name: np.asarray(prior[name]) for name in parameters}
    outcomes = np.asarray(prior["y"])
    rows, model = len(X), ImpactModel(kernel, inference=engine)
    summaries: list[dict[str, Any]] = []
    verdicts: list[str] = []
    for number in range(n):
        truth = {name: truths[name][number] for name in parameters}
        if simulator is None:
            y = _by_row(outcomes[number], rows)
        else:
            y = np.asarray(simulator(jax.random.fold_in(jax.random.key(key), number), truth))
        found = _found(model, {**given, "X": X, "y": y}, key + 1 + number, parameters)
        verdicts.append(str(model.diagnostics_["verdict"]))
        summaries.append({name: _summary(found[name], truth[name], probability) for name in truth})
    parts = {field: _stacked(summaries, field) for field in ("mean", "rank", "covered")}
    table = pd.DataFrame(
        {name: _line(truths[name], *(parts[f][name] for f in parts)) for name in parameters}
    ).T
    return Recovery(table, truths, parts["mean"], parts["rank"], probability, tuple(verdicts))


def _found(model: ImpactModel, data: dict[str, Any], key: int, parameters: Sequence[str]) -> Any:
    """Posterior draws of parameters, after a fit whose verdict is asked for by whoever calls."""
    X, y, given = data.pop("X"), data.pop("y"), data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AimzWarning)  # verdicts say as much
        model.fit(X, y, rng_key=key, progress=False, **given)
        return model.predict_on_batch(X, return_sites=[*parameters], return_datatree=False, **given)


def _stacked(summaries: list[dict[str, Any]], field: str) -> dict[str, np.ndarray]:
    """One number of all replicates, by parameter."""
    return {name: np.stack([one[name][field] for one in summaries]) for name in summaries[0]}


def _by_row(outcome: np.ndarray, rows: int) -> np.ndarray:
    """An outcome with its rows first: that of a scan has its trials first."""
    fits = [axis for axis in range(min(2, outcome.ndim)) if outcome.shape[axis] == rows]
    if len(fits) == 1:
        return np.moveaxis(outcome, fits[0], 0)
    msg = (
        f"Outcomes of the shape {outcome.shape} have their {rows} rows in none of the first two "
        "axes, or in both. Simulate another number of trials, or pass simulator=."
    )
    raise InputError(msg, code="recovery")


def _summary(draws: np.ndarray, truth: np.ndarray, probability: float) -> dict[str, np.ndarray]:
    values = np.asarray(draws)
    low, high = np.quantile(values, [0.5 - probability / 2, 0.5 + probability / 2], axis=0)
    rank = (values < truth).mean(axis=0)
    return {"mean": values.mean(0), "rank": rank, "covered": (low <= truth) & (truth <= high)}


def _line(
    truth: np.ndarray, mean: np.ndarray, rank: np.ndarray, covered: np.ndarray
) -> dict[str, float]:
    """Numbers of one parameter, members and replicates together."""
    by_replicate = covered.reshape(len(covered), -1).mean(axis=1)
    binomial = np.sqrt(0.09 / covered.size)  # of a coverage of 0.9, where replicates agree
    spread = by_replicate.std(ddof=1) / np.sqrt(len(by_replicate))
    return {
        "r": float(np.corrcoef(truth.ravel(), mean.ravel())[0, 1]),
        "bias": float((mean - truth).mean()),
        "rmse": float(np.sqrt(((mean - truth) ** 2).mean())),
        "coverage": float(covered.mean()),
        "se": float(max(spread, binomial)),
        "p_uniform": _evenness(rank),
    }


def _evenness(rank: np.ndarray) -> float:
    """Probability of ranks that are less even, by one member of each replicate: they are apart."""
    flat = rank.reshape(len(rank), -1)
    one = flat[np.arange(len(flat)), np.arange(len(flat)) % flat.shape[1]]
    bins = max(2, min(_BINS, len(one) // 5))
    counts = np.bincount(np.minimum((one * bins).astype(int), bins - 1), minlength=bins)
    expected = len(one) / bins
    return float(special.chdtrc(bins - 1, ((counts - expected) ** 2 / expected).sum()))
