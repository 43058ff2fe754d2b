"""What a fit of the flexible kernel learns of its columns beforehand: constants of that kernel.

They say where a prior has its freedom, not what the outcome is: no coefficient comes from here.
"""

import warnings

import numpy as np

__all__ = ["chances_of", "effect_relevance_of", "knots_of", "relevance_of"]

_FLOOR = 0.1  # of relevance that all columns share
_TREES, _LEAF = 60, 5
_PLACES = 9  # of steps along a column, by which the effect is asked whether it varies


def relevance_of(columns: np.ndarray, outcome: np.ndarray, arms: np.ndarray) -> tuple[float, ...]:
    """How much each column may bend the outcome in either arm; they add up to 1.

    Trees see bends along single columns, and products with the residuals of a line those that no
    single column shows (principal Hessian directions: Li, 1992, doi:10.2307/2290640).
    """
    from sklearn.ensemble import ExtraTreesRegressor

    width = columns.shape[1]
    known = np.isfinite(outcome)
    unit = (outcome - outcome[known].mean()) / (outcome[known].std() or 1.0)
    found = np.zeros(width)
    for arm in np.unique(arms):
        of_arm = known & (arms == arm)
        if of_arm.sum() < 4 * _LEAF:
            continue
        trees = ExtraTreesRegressor(_TREES, min_samples_leaf=_LEAF, random_state=0)
        trees.fit(columns[of_arm], unit[of_arm])
        size = 0.5 * unit[of_arm].var()  # an arm of mere noise has little to say
        found += size * trees.feature_importances_ + _bends(columns[of_arm], unit[of_arm])
    total = found.sum()
    share = found / total if total > 0 else np.full(width, 1.0 / width)
    return tuple(((1.0 - _FLOOR) * share + _FLOOR / width).tolist())


def effect_relevance_of(
    columns: np.ndarray,
    features: np.ndarray,
    outcome: np.ndarray,
    treatment: np.ndarray,
    relevance: tuple[float, ...],
) -> tuple[float, ...]:
    """How far the effect may vary along each column; they add up to 1.

    Half goes by the prognosis' relevance, for what is too weak to be found. What features leave of
    the outcome, times the treatment beyond its chances, has the effect's moments (Robinson, 1988;
    Nie and Wager, 2021, doi:10.1093/biomet/asaa076): here those with columns, steps along them and
    products.
    """
    from sklearn.linear_model import RidgeCV

    width = columns.shape[1]
    known = np.isfinite(outcome)
    columns, features, treatment = columns[known], features[known], treatment[known]
    if known.sum() < 4 * _LEAF or not treatment.any():
        return relevance
    unit = (outcome[known] - outcome[known].mean()) / (outcome[known].std() or 1.0)
    left = unit - RidgeCV(np.geomspace(1.0, 300.0, 6)).fit(features, unit).predict(features)
    weights = treatment**2 / (treatment @ treatment)
    scores = treatment * (left - treatment * (treatment @ left) / (treatment @ treatment))

    def strongest(bends: np.ndarray) -> np.ndarray:
        apart = bends - weights @ bends
        apart /= np.sqrt(np.maximum(weights @ apart**2, 1e-9))
        moments = scores @ apart / len(apart)
        errors = np.sqrt(scores**2 @ apart**2) / len(apart)
        return np.asarray(np.where(np.abs(moments) > _chance(2 * width) * errors, moments**2, 0.0))

    places = np.quantile(columns, (np.arange(_PLACES) + 0.5) / _PLACES, axis=0)
    along = [strongest(columns), *(strongest(np.tanh(4.0 * (columns - at))) for at in places)]
    found = np.max(along, axis=0) + _products(columns, scores)
    if not found.any():
        return relevance
    return tuple((0.5 * found / found.sum() + 0.5 * np.array(relevance)).tolist())


def _bends(columns: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """The same of what a line leaves."""
    rows, width = columns.shape
    line = np.column_stack([np.ones(rows), columns])
    slopes = np.linalg.solve(line.T @ line + np.eye(width + 1), line.T @ outcome)
    left = (outcome - line @ slopes) / max(0.2, 1.0 - (width + 1) / rows) ** 0.5
    return _products(columns, left)


def _products(columns: np.ndarray, left: np.ndarray) -> np.ndarray:
    """By column, squares of the moments of residuals with products, where they are no chance."""
    rows, width = columns.shape
    weighed = columns * left[:, None]
    moments = weighed.T @ columns / rows
    errors = np.sqrt(np.maximum((weighed**2).T @ columns**2, 1e-9)) / rows
    kept = np.where(np.abs(moments) > _chance(width * (width + 1) / 2) * errors, moments, 0.0)
    return np.asarray((kept**2).sum(axis=1))


def _chance(count: float) -> float:
    """Standard errors that the largest of so many moments may have of nothing, and some more."""
    return float(np.sqrt(2 * np.log(count)) + 0.5)


def knots_of(
    columns: np.ndarray, relevance: tuple[float, ...], count: int
) -> tuple[tuple[float, ...], ...]:
    """Quantiles of each column, in all `count` or none, more of those that are relevant."""
    bends = np.array([column.min() < column.max() for column in columns.T])
    bends &= [not np.isin(c, (c.min(), c.max())).all() for c in columns.T]
    shares = np.where(bends, relevance, 0.0)
    if not shares.any():
        return ((),) * len(relevance)
    ends = np.rint(np.cumsum(shares) / shares.sum() * count)
    numbers = np.diff(ends, prepend=0.0).astype(int)
    knots: list[tuple[float, ...]] = []
    for column, number in zip(columns.T, numbers, strict=True):
        middles = (np.arange(number) + 0.5) / max(number, 1)
        knots.append(tuple(np.quantile(column, middles).tolist()))
    return tuple(knots)


def chances_of(features: np.ndarray, treatment: np.ndarray) -> tuple[float, ...]:
    """Intercept and slopes of the logit of treatment, by a ridge whose penalty others judge."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    def ridge(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-5)

    def log_loss(strength: float) -> float:
        logits = cross_val_predict(
            ridge(strength), features, arms, cv=3, method="decision_function"
        )
        return float(np.logaddexp(0.0, (1 - 2 * arms) * logits).mean())

    arms = treatment.astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the solver takes another, where its own matrix is poor
        strength = 0.01
        if min(arms.sum(), (1 - arms).sum()) >= 10:
            strength = min((0.003, 0.01, 0.03, 0.1, 0.3), key=log_loss)
        fitted = ridge(strength).fit(features, arms)
    return (*fitted.intercept_.tolist(), *fitted.coef_[0].tolist())
