"""Rules of whom to treat, judged by expected utility over posterior draws of the gains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.choices import number_of
from aimz.data import check_positive
from aimz.errors import InputError
from aimz.libraries import pd
from aimz.plots import interval_of, number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Decision", "Gains", "decision_of"]


CHOSEN = ("rule", "tree")
_OPTIMISM = (
    "It was chosen by the same draws that judge it: that is fair if the model is right, and looks "
    "better than it is if not. Randomised rows that were not fitted tell (`rank_scores`)."
)
_ROUNDING = 1e-12  # of a utility, by the order in which units are summed
_BLOCK = 2**22  # values that are looked at together: 32 MB


@dataclass(frozen=True, eq=False)
class Gains:
    """Posterior draws of what treating each unit gains: `value` times its effect, less `cost`.

    Parameters
    ----------
    effect : array, shape (units, draws) or (units, chains, draws)
        Effect on each row or group, per row. A few units are read at a time, and of draws a few at
        a time where there is a budget: what is sliced like an array need not lie in memory.
    sizes : array, shape (units,)
        Share of the rows that each unit stands for; they sum to 1.
    labels : sequence
        Name of each unit.
    features : DataFrame, optional
        What a tree may split on, a row for each unit.
    value : float
        Of one unit of the outcome.
    cost : float or array, shape (units,)
        Of treating one row.
    """

    effect: Any
    sizes: np.ndarray
    labels: Sequence[Any]
    features: pd.DataFrame | None = None
    value: float = 1.0
    cost: float | np.ndarray = 0.0

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Effects, (units, draws), of some units at a time."""
        units, *shape = self.effect.shape
        step = max(1, _BLOCK // math.prod(shape))
        for first in range(0, units, step):
            span = slice(first, min(first + step, units))
            block = np.asarray(self.effect[span], np.float64)
            yield span, block.reshape(len(block), -1)

    def columns(self) -> Iterator[np.ndarray]:
        """Net gains of all units in one draw, of each draw in order."""
        units, *chains, draws = self.effect.shape
        step = max(1, _BLOCK // units)
        for chain in np.ndindex(*chains):
            for first in range(0, draws, step):
                block = np.asarray(self.effect[:, *chain, first : first + step], np.float64)
                yield from self.net(slice(None), block).T

    def net(self, units: slice, effect: np.ndarray) -> np.ndarray:
        """What effects, (units, draws), are worth, cost taken off."""
        cost = np.broadcast_to(self.cost, len(self.sizes))[units]
        return np.asarray(self.value * effect - cost[:, None])


@dataclass(frozen=True, eq=False, repr=False)
class Decision:
    """Whom to treat; `Effect.decide` makes it.

    Parameters
    ----------
    units : DataFrame
        For each row or group the mean gain, P(effect > threshold), and whether to treat it.
    policies : DataFrame
        For each rule (nobody, all or a random share within the budget, those of the greatest
        gains, a tree) the share that it treats, its expected utility per row with interval, the
        expected regret against the best choice that a perfect forecast of the gains would make
        within the same budget, and the probability that it is the best of these rules.
    best : str
        The rule of the greatest expected utility.
    value_of_information : float
        Expected regret of that rule: what knowing the gains exactly would be worth, per row.
    tree : str or None
        A shallow tree of the rule, in words.
    """

    units: pd.DataFrame
    policies: pd.DataFrame
    best: str
    value_of_information: float
    tree: str | None = None

    def to_text(self) -> str:
        """The decision in sentences."""
        row = self.policies[self.policies["policy"] == self.best].iloc[0]
        utility, low, high = (number_text(float(row[n])) for n in ("utility", "low", "high"))
        text = (
            f"The best rule is '{self.best}', which treats {row['treated']:.0%}: its expected "
            f"utility per row is {utility} ({low} to {high}), and it is the best of these with "
            f"probability {row['P(best)']:.0%}. Knowing every gain exactly would be worth "
            f"{number_text(self.value_of_information)} per row."
        )
        return text if self.best not in CHOSEN else f"{text} {_OPTIMISM}"

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the expected utility of each rule with its interval."""
        from aimz.decisions.plot import plot_policies

        return plot_policies(self.policies, ax=ax)

    def __repr__(self) -> str:
        shown = self.policies.to_string(index=False, float_format=lambda value: f"{value:.4g}")
        tree = "" if self.tree is None else f"\n{self.tree}"
        return f"Decision\n{self.to_text()}\n{shown}{tree}"


def decision_of(
    gains: Gains,
    *,
    threshold: float = 0.0,
    budget: float | None = None,
    max_depth: int = 2,
    ci_prob: float | None = None,
) -> Decision:
    """Compare rules of whom to treat.

    Parameters
    ----------
    gains : Gains
        Of each unit.
    threshold : float
        Of the probability that is reported for each unit.
    budget : float, optional
        Greatest share of the rows that can be treated.
    max_depth : int
        Of the tree, where there are features.
    ci_prob : float, optional
        Probability of the intervals; default ArviZ's.

    Raises
    ------
    InputError
        `option-unknown`, `not-positive`

    Examples
    --------
    >>> draws = np.array([[1.0, 3.0], [-2.0, 0.0]])
    >>> gains = Gains(draws, np.array([0.5, 0.5]), ["a", "b"])
    >>> decision_of(gains).policies[["policy", "utility"]].values.tolist()
    [['none', 0.0], ['all', 0.5], ['rule', 1.0]]
    """
    if budget is not None and not 0 < number_of(budget, "budget=") <= 1:
        msg = f"budget= is a share of the rows, above 0 and at most 1, not {budget!r:.40}."
        raise InputError(msg, code="option-unknown")
    threshold = number_of(threshold, "threshold=")
    check_positive(max_depth, "max_depth")
    prob, _ = interval_of(ci_prob, None)
    most = 1.0 if budget is None else float(budget)
    means, exceeding = _of_units(gains, threshold)
    everybody = "all" if budget is None else "random"
    rules = {"none": np.zeros(len(means)), everybody: np.full(len(means), most)}
    rules["rule"] = _within(means, gains.sizes, most)
    words = None
    if gains.features is not None:
        chosen, words = _tree(gains, means, max_depth)
        share = float(chosen @ gains.sizes)  # at random among those whom it names, if too many
        rules["tree"] = chosen * min(1.0, most / share) if share else chosen
    utilities, perfect = _by_draw(gains, rules, most)
    table = _table(rules, utilities, gains.sizes, perfect, prob)
    best = str(table["policy"].iloc[int(table["utility"].to_numpy().argmax())])
    units = pd.DataFrame(
        {
            "unit": list(gains.labels),
            "gain": means,
            f"P(effect > {threshold:g})": exceeding,
            "treat": rules["rule"] > 0,
        }
    )
    information = _missed(perfect, utilities[best])
    return Decision(units, table, best, information, words)


def _of_units(gains: Gains, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean gain of each unit, and the probability that its effect exceeds a threshold."""
    means, exceeding = np.empty((2, len(gains.sizes)))
    for span, effect in gains.blocks():
        means[span] = gains.net(span, effect).mean(axis=1)
        exceeding[span] = (effect > threshold).mean(axis=1)
    if not np.isfinite(means).all():
        label = gains.labels[int(np.flatnonzero(~np.isfinite(means))[0])]
        msg = f"The gain of {label!s:.40} is no finite number in every draw: no rule can be judged."
        raise InputError(msg, code="not-finite")
    return means, exceeding


def _by_draw(
    gains: Gains, rules: Mapping[str, np.ndarray], most: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Utility in each draw of each rule, and of the one that knows the gains."""
    treated = np.stack([*rules.values()]) * gains.sizes
    total: Any = 0.0
    perfect: Any = 0.0
    for span, effect in gains.blocks():
        net = gains.net(span, effect)
        total = total + treated[:, span] @ net
        if most == 1.0:
            perfect = perfect + gains.sizes[span] @ np.maximum(net, 0.0, out=net)
    if most < 1.0:
        perfect = np.array([_best_within(net, gains.sizes, most) for net in gains.columns()])
    return dict(zip(rules, total, strict=True)), np.asarray(perfect)


def _within(means: np.ndarray, sizes: np.ndarray, most: float) -> np.ndarray:
    """Share of each unit to treat: those of positive gain, the greatest first, within a budget."""
    order = np.argsort(-means, kind="stable")
    wanted = np.where(means[order] > 0, sizes[order], 0.0)
    before = np.concatenate([[0.0], np.cumsum(wanted)[:-1]])
    taken = np.clip(most - before, 0.0, wanted)
    shares = np.zeros(len(means))
    shares[order] = np.divide(taken, sizes[order], out=np.zeros_like(taken), where=sizes[order] > 0)
    return shares


def _best_within(net: np.ndarray, sizes: np.ndarray, most: float) -> float:
    """Utility of treating the greatest gains above 0, in one draw, within a budget."""
    wanted = np.flatnonzero(net > 0)
    order = wanted[np.argsort(net[wanted])[::-1]]
    reached = np.minimum(np.cumsum(sizes[order]), most)
    return float(np.diff(reached, prepend=0.0) @ net[order])


def _table(
    rules: Mapping[str, np.ndarray],
    utilities: Mapping[str, np.ndarray],
    sizes: np.ndarray,
    perfect: np.ndarray,
    prob: float,
) -> pd.DataFrame:
    stacked = np.stack([*utilities.values()])
    is_best = stacked >= stacked.max(axis=0) - 1e-12
    shares = (is_best / is_best.sum(axis=0)).mean(axis=1)
    rows = []
    for name, share in zip(rules, shares, strict=True):
        low, high = np.quantile(utilities[name], [(1 - prob) / 2, (1 + prob) / 2])
        mean = float(utilities[name].mean())
        regret = _missed(perfect, utilities[name])
        rows.append((name, float(rules[name] @ sizes), mean, low, high, regret, float(share)))
    names = ["policy", "treated", "utility", "low", "high", "regret", "P(best)"]
    return pd.DataFrame(rows, columns=names)


def _missed(perfect: np.ndarray, utility: np.ndarray) -> float:
    """Mean utility that a rule misses, and 0 where only the order of sums tells them apart."""
    gap = perfect - utility
    is_rounding = np.abs(gap) <= _ROUNDING * np.maximum(np.abs(perfect), np.abs(utility))
    return float(np.where(is_rounding, 0.0, gap).mean())


def _tree(gains: Gains, means: np.ndarray, max_depth: int) -> tuple[np.ndarray, str]:
    """A shallow tree of whom to treat, which minds gains and not heads, and its words."""
    from sklearn.tree import DecisionTreeClassifier, export_text

    assert gains.features is not None  # noqa: S101  # asked by the caller
    tree = DecisionTreeClassifier(max_depth=max_depth, random_state=0)
    weights = np.abs(means) * gains.sizes
    if (means > 0).all() or not (means > 0).any():
        return (means > 0).astype(float), "treat everybody" if means[0] > 0 else "treat nobody"
    tree.fit(gains.features.to_numpy(np.float64), means > 0, sample_weight=weights + 1e-12)
    words = export_text(tree, feature_names=[str(name) for name in gains.features.columns])
    treats = tree.predict(gains.features.to_numpy(np.float64)).astype(float)
    words = words.replace("class: True", "treat").replace("class: False", "leave")
    return treats, words
