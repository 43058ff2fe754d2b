"""Which rows of a scenario lie outside the data that a model was fitted on.

A model says something about any row; the data say something only about rows like those that were
fitted. A row is outside by any of three rules, and NaN or infinity is always outside:

range
    A column below its smallest or above its largest fitted value.
joint
    Mahalanobis distance from the fitted mean larger than that of every fitted row. Columns that
    were exact sums of others must stay so. Columns with a score have no part in it, and there is
    no such rule for one column, for more than `COLUMNS`, or without twice as many rows.
score
    For a binary treatment that the scenario changes: the chance of the arm that the scenario gives
    the row, by logistic regression on all other columns (`propensity`), is below a tenth of the
    median chance among the rows that had that arm. It says nothing about values that are neither
    arm. A row that had the arm lies outside it like those around it, but what it had is no
    extrapolation.

The score's threshold is relative because a fixed one, as 0.1 to 0.9 of Crump et al. (2009,
Biometrika 96:187), calls every row of an experiment that treats few of them outside. Here everybody
had the same chance, whatever it was, and nobody is. Stürmer et al. (2010, American Journal of
Epidemiology 172:843) trim at quantiles of the score among the treated and the untreated, which is
as free of scale but drops its share of rows from every experiment, too.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aimz.errors import InputError
from aimz.overlap.columns import ROUNDING, ColumnTable, row_count, standardised
from aimz.overlap.propensity import Score, score_of, unlikely

__all__ = ["Outside", "Support", "merged", "outside", "scores_of", "sentence", "support_of"]


#: Levels of the quantiles that are kept.
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
#: Columns that the joint rule copes with.
COLUMNS = 200
#: Variance, in parts of a column's own, below which a direction counts as exactly collinear.
FLAT = 1e-8
#: Distances are compared with this tolerance, and close to the border without BLAS (`_is_far`).
SLACK, BORDER = 1e-6, 1e-7
SENTENCE = 159


@dataclass(frozen=True)
class Support:
    """Where the fitted rows lie; numbers about columns, and no row itself.

    Columns are named `"t"` for an argument of one value per row, and `"X[age]"` or `"X[3]"` for one
    of several, whose name is in `arguments`. A `scale` of 0 marks a constant column. Distances are
    the length of `standardised row @ whitening`, (column, direction), whose product with its
    transpose is the precision; `reach` is the largest among the fitted rows. Without a joint rule
    `whitening` has no directions and `reach` is 0.
    """

    rows: int
    columns: tuple[str, ...]
    arguments: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    quantiles: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    whitening: np.ndarray
    reach: float
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Outside:
    """Rows that are outside (`flags`), and how many by each rule; a row may be so by several.

    `beyond` counts by column, `unlikely` by score and arm, both in the order of the `Support`.
    `had` marks rows whose only fault is a small chance of the arm that they had: no rule counts
    them.
    """

    flags: np.ndarray
    had: np.ndarray
    beyond: np.ndarray
    jointly: int
    unlikely: np.ndarray

    @property
    def count(self) -> int:
        """Rows that are outside by any rule, but for those that had what they are given."""
        return int(np.count_nonzero(self.flags & ~self.had))


def support_of(
    arrays: Mapping[str, np.ndarray],
    columns: Mapping[str, Sequence[str]],
    *,
    treatments: Collection[str] | None = None,
    leave_out: Collection[str] = (),
    codes: Mapping[str, Collection[int]] | None = None,
) -> Support:
    """Describe where the fitted rows lie.

    Parameters
    ----------
    arrays : mapping of str to array
        Arguments of one value, or one row of values, per row. Those that are not numbers, or have
        more dimensions, are left out. Values that are not finite are ignored.
    columns : mapping of str to sequence of str
        Names of an argument's columns, where they are known.
    treatments : collection of str, optional
        Columns to score, by their full name; those with other than two values get no score. By
        default every argument that has one value per row and two distinct ones.
    leave_out : collection of str
        Arguments that say nothing about a row's place: the outcome, mediators.
    codes : mapping of str to collection of int, optional
        By argument, columns that number categories; of many only the range counts.

    Returns
    -------
    Support

    Raises
    ------
    InputError
        `rows-mismatch`, `columns-mismatch`, `treatment-unknown`: no such column.

    Examples
    --------
    >>> found = support_of({"age": np.array([20, 45, 70])}, {})
    >>> found.columns, found.low.tolist(), found.high.tolist()
    (('age',), [20.0], [70.0])
    """
    table = ColumnTable(arrays, columns, leave_out, LEVELS, codes)
    varied = np.flatnonzero(table.scale)
    scored = table.binary(treatments)
    whitening = _whitening(table, np.setdiff1d(varied, scored))
    return Support(
        rows=table.rows,
        columns=table.names,
        arguments=table.arguments,
        low=table.low,
        high=table.high,
        quantiles=table.quantiles,
        mean=table.mean,
        scale=table.scale,
        whitening=whitening,
        reach=_reach(table, whitening),
        scores=_scores(table, scored),
    )


def scores_of(
    arrays: Mapping[str, np.ndarray],
    columns: Mapping[str, Sequence[str]],
    treatments: Collection[str],
    *,
    leave_out: Collection[str] = (),
    codes: Mapping[str, Collection[int]] | None = None,
) -> Support:
    """Scores alone, of rows that are no data of a fit: ranges and distances exclude no row.

    Parameters
    ----------
    arrays, columns, leave_out, codes
        As in `support_of`.
    treatments : collection of str
        Columns to score; names of others, and columns of other than two values, are passed over.

    Returns
    -------
    Support

    Examples
    --------
    >>> rows = {"t": np.array([0, 1, 0, 1]), "age": np.array([20, 45, 70, 50])}
    >>> [score.treatment for score in scores_of(rows, {}, ["t", "dose"]).scores]
    ['t']
    """
    table = ColumnTable(arrays, columns, leave_out, (), codes)
    scored = table.binary(set(treatments) & set(table.names))
    every = np.full(len(table.names), np.inf)
    return Support(
        rows=table.rows,
        columns=table.names,
        arguments=table.arguments,
        low=-every,
        high=every,
        quantiles=table.quantiles,
        mean=table.mean,
        scale=table.scale,
        whitening=np.zeros((len(every), 0)),
        reach=0.0,
        scores=_scores(table, scored),
    )


@np.errstate(invalid="ignore", over="ignore")  # of infinities, which are outside anyhow
def outside(
    support: Support,
    arrays: Mapping[str, np.ndarray],
    *,
    natural: Mapping[str, np.ndarray] | None = None,
    changed: Collection[str] = (),
) -> Outside:
    """Rows of a scenario that lie outside the fitted ones.

    Every row is judged alone: results for pieces, `merged`, equal those for all rows.

    Parameters
    ----------
    support : Support
    arrays : mapping of str to array
        The fitted arguments, with the scenario's values and columns in the fitted order; a single
        value stands for one that all rows share. Others are ignored.
    natural : mapping of str to array, optional
        The arguments as they were: they say which rows had the arm that they are given.
    changed : collection of str
        Columns that the scenario changes. Those with a score are judged by it.

    Returns
    -------
    Outside

    Raises
    ------
    InputError
        `rows-mismatch`; `columns-mismatch`: an argument is missing or has other columns.

    Examples
    --------
    >>> fitted = support_of({"age": np.array([20, 45, 70])}, {})
    >>> outside(fitted, {"age": np.array([30, 90])}).flags.tolist()
    [False, True]
    """
    table = _scenario_table(support, arrays)
    # JAX computes in single precision by default: what that cannot tell apart is no difference.
    size = np.maximum(np.abs(support.low), np.abs(support.high))
    slack = ROUNDING * np.where(np.isfinite(size), size, np.abs(support.mean))
    beyond = _beyond(support, table, slack)
    z = standardised(table, support.mean, support.scale)
    far = np.zeros(table.shape[1], bool)
    if support.whitening.shape[1]:
        far = _is_far(z, support.whitening, support.reach * (1 + SLACK))
    strange = beyond.any(axis=0) | far
    flags, counted = strange.copy(), strange.copy()
    before = None if natural is None or not changed else _scenario_table(support, natural)
    small = np.zeros((len(support.scores), 2), np.int64)
    for number, score in enumerate(support.scores):
        if score.treatment not in changed:
            continue
        k = support.columns.index(score.treatment)
        is_new = np.ones(table.shape[1], bool) if before is None else table[k] != before[k]
        for arm, is_so in enumerate(unlikely(score, z, table[k], slack[k])):
            small[number, arm] = np.count_nonzero(is_so & is_new)
            counted |= is_so & is_new
            flags |= is_so
    columns, jointly = np.count_nonzero(beyond, axis=1), int(np.count_nonzero(far))
    return Outside(flags, flags & ~counted, columns, jointly, small)


def _beyond(support: Support, table: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """Values outside their column's range, (column, row)."""
    if np.all(np.isinf(support.high)):
        return ~np.isfinite(table)
    above = table >= (support.low - slack)[:, None]
    beyond: np.ndarray = ~(above & (table <= (support.high + slack)[:, None]))
    return beyond


def merged(parts: Iterable[Outside]) -> Outside:
    """One result of those for pieces of the rows, in their order.

    >>> fitted = support_of({"age": np.array([20, 45, 70])}, {})
    >>> parts = [outside(fitted, {"age": np.array([age])}) for age in (30, 90)]
    >>> merged(parts).flags.tolist()
    [False, True]
    """
    parts = list(parts)
    return Outside(
        np.concatenate([piece.flags for piece in parts]),
        np.concatenate([piece.had for piece in parts]),
        np.sum([piece.beyond for piece in parts], axis=0),
        sum(piece.jointly for piece in parts),
        np.sum([piece.unlikely for piece in parts], axis=0),
    )


def sentence(support: Support, found: Outside) -> str:
    """Say how many rows are outside and by what, the worst first, in under 160 characters.

    >>> fitted = support_of({"age": np.array([20, 45, 70])}, {})
    >>> sentence(fitted, outside(fitted, {"age": np.array([30, 90])}))
    '1 of 2 rows (50%) are outside the data: age beyond 20 to 70 in 1'
    """
    reasons = [
        (count, f"{_short(name)} beyond {low:.4g} to {high:.4g}")
        for count, name, low, high in zip(found.beyond, support.columns, support.low, support.high)
    ]
    reasons.append((found.jointly, "columns together too far"))
    for score, counts in zip(support.scores, found.unlikely):
        name = _short(score.treatment)
        for count, arm in zip(counts, score.arms):
            reasons.append((count, f"chance of {name}={arm:.4g} too small"))
    worst = sorted((r for r in reasons if r[0]), key=lambda reason: -reason[0])[:3]
    rows = len(found.flags)
    start = f"{found.count:,} of {rows:,} rows ({_percent(found.count, rows)}) are outside the data"
    for shown in range(len(worst), 0, -1):
        listed = ", ".join(f"{text} in {count:,}" for count, text in worst[:shown])
        if len(start) + len(listed) + 2 <= SENTENCE:
            return f"{start}: {listed}"
    return start


def _scores(table: ColumnTable, scored: Iterable[int]) -> tuple[Score, ...]:
    scores = (score_of(table, k) for k in scored)
    return tuple(score for score in scores if score is not None)


def _whitening(data: ColumnTable, joint: np.ndarray) -> np.ndarray:
    """Matrix, (column, direction), that takes standardised rows to uncorrelated ones."""
    rows = data.complete
    whitening = np.zeros((len(data.views), 0))
    if not 2 <= len(joint) <= COLUMNS or len(rows) <= 2 * len(joint):
        return whitening
    products = np.zeros((len(joint), len(joint)))
    for z in data.pieces(rows):
        products += z[joint] @ z[joint].T
    variances, directions = np.linalg.eigh(products / len(rows))
    # A pseudo-inverse would give directions without variance no weight, and let a scenario break
    # what held in every fitted row, as that dummies sum to one. They get a very large one.
    whitening = np.zeros((len(data.views), len(joint)))
    whitening[joint] = directions / np.sqrt(np.maximum(variances, FLAT))
    return whitening


def _reach(data: ColumnTable, whitening: np.ndarray) -> float:
    """The largest distance among the rows."""
    pieces = data.pieces(data.complete)
    return max((float(_distances(z, whitening).max()) for z in pieces), default=0.0)


def _distances(z: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    directions = whitening.T @ z
    lengths: np.ndarray = np.sqrt(np.sum(directions * directions, axis=0))
    return lengths


def _is_far(z: np.ndarray, whitening: np.ndarray, border: float) -> np.ndarray:
    """Whether rows lie beyond a distance.

    The last digits of a BLAS product depend on how many rows it is of. Rows so close to the border
    that these could decide are computed again by sums of which each row has its own.
    """
    distances = _distances(z, whitening)
    far: np.ndarray = ~(distances <= border)
    close = np.flatnonzero(np.abs(distances - border) < BORDER * border)
    if len(close):
        squares = np.zeros(len(close))
        for direction in whitening.T:
            squares += _weighted(direction, z[:, close]) ** 2
        far[close] = np.sqrt(squares) > border
    return far


def _weighted(weights: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Weighted sum of the columns, term by term and so the same for any number of rows."""
    total = np.zeros(z.shape[1])
    for k in np.flatnonzero(weights):
        total += weights[k] * z[k]
    return total


def _scenario_table(support: Support, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Values of a scenario, (column, row)."""
    widths = {name: support.arguments.count(name) for name in support.arguments}
    missing = sorted(set(widths) - set(arrays))
    if missing:
        msg = f"The argument '{missing[0]}', which the fit saw, is missing. Pass its values."
        raise InputError(msg, code="columns-mismatch")
    used = {name: np.asarray(arrays[name]) for name in widths}
    table = np.empty((len(support.columns), row_count(used) if used else 0))
    start = 0
    for name, width in widths.items():
        array = used[name]
        if array.ndim > 2 or (array.shape[1] if array.ndim == 2 else 1) != width:
            msg = f"'{name}' has shape {array.shape} but the fit saw {width} columns of it."
            raise InputError(msg, code="columns-mismatch")
        table[start : start + width] = array.T
        start += width
    return table


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:21]}..."


def _percent(count: int, rows: int) -> str:
    """Share in percent; 0% and 100% only where it is none and all."""
    if count in (0, rows):
        return "100%" if count else "0%"
    return f"{min(99, max(1, round(100 * count / rows)))}%"
