"""Regression and classification as scikit-learn has them, with draws behind each number.

`ImpactRegressor` and `ImpactClassifier` follow scikit-learn's contract to the letter: arrays in,
arrays of floats or labels out, a posterior mean or a label per row. Without a kernel they are a
Bayesian linear and a Bayesian (multinomial) logistic regression, fitted and evaluated in double
precision. The `ImpactModel` inside is `model_`: effects, diagnostics and everything else are there.
`CausalRegressor` has EconML's habits around the kernel `Flexible`.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from aimz.choices import check_switches, number_of, quantiles_of
from aimz.data import Value
from aimz.errors import InputError
from aimz.inference import Columns, Engine, LinearKernel, LogisticKernel, linear_engine
from aimz.kernels import Flexible
from aimz.model import ImpactModel, Inference, Kernel, Portable

__all__ = ["CausalRegressor", "ImpactClassifier", "ImpactRegressor"]


# Draws or expectations, rows x draws x classes: of one piece, and of what memory may hold.
_VALUES_AT_ONCE, _VALUES_HELD = 1_000_000, 16_000_000
_SCENARIO = "expected outcome"

type Table = np.ndarray | pd.DataFrame


@dataclass(frozen=True)
class _Own:
    """What an estimator fits without a kernel; `coords` labels its sites beyond the columns."""

    kernel: LinearKernel | LogisticKernel
    engine: Engine
    coords: dict[str, list[str]] = field(default_factory=dict)


class _Impact(Portable, BaseEstimator):  # type: ignore[misc]  # no stubs
    """What both estimators share: parameters, the model inside, its expectations and draws."""

    model_: ImpactModel

    def __init__(
        self,
        kernel: Kernel | None = None,
        *,
        inference: Inference | None = None,
        num_samples: int = 1000,
        num_steps: int | None = None,
        prior_scale: float = 2.5,
        random_state: int | np.random.RandomState | None = 0,
        param_input: str = "X",
        param_output: str = "y",
        on_bad_fit: str = "warn",
        verbose: int = 0,
    ) -> None:
        self.kernel = kernel
        self.inference = inference
        self.num_samples = num_samples
        self.num_steps = num_steps
        self.prior_scale = prior_scale
        self.random_state = random_state
        self.param_input = param_input
        self.param_output = param_output
        self.on_bad_fit = on_bad_fit
        self.verbose = verbose

    def predict_draws(self, X: ArrayLike) -> np.ndarray:
        """Draws from the posterior predictive distribution, all in memory.

        Parameters
        ----------
        X : array-like, shape (rows, columns)
            The rows.

        Returns
        -------
        ndarray, shape (draw, row)
            Outcomes with their noise: numbers, or labels.
        """
        return np.concatenate(list(self._drawn(X)), axis=1)

    def _fit(self, own: _Own, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Self:
        """Fit the model inside; `own` is taken where no kernel is given."""
        check_switches(verbose=self.verbose)
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        options: dict[str, Any] = {"param_input": self.param_input, "kernel": self.kernel}
        options |= {"param_output": self.param_output, "inference": "auto"}
        if self.kernel is None:
            names = getattr(self, "feature_names_in_", range(X.shape[1]))
            coords = {"feature": list(names), **own.coords}
            options = {"kernel": own.kernel, "inference": own.engine}
            options |= {"coords": coords, "dims": {"coef": list(coords), "level": list(own.coords)}}
        if self.inference is not None:
            options["inference"] = self.inference
        settings: Any = {"num_samples": self.num_samples, "num_steps": self.num_steps}
        settings["on_bad_fit"] = self.on_bad_fit
        model = ImpactModel(rng_key=int(seed), **settings, **options)
        with self._precision():
            self.model_ = model.fit(
                self._named(X), y, sample_weight=weights, progress=bool(self.verbose)
            )
        return self

    def _drawn(self, X: ArrayLike) -> Iterator[np.ndarray]:
        """Outcomes drawn, (draw, row, ...), of some rows after the other; many come from disk."""
        rows = self._rows(X)
        name = self.model_.param_output
        size = max(1, _VALUES_AT_ONCE // self.num_samples)
        where = "memory" if len(rows) * self.num_samples <= _VALUES_HELD else "persistent"
        options: Any = {"in_sample": False, "return_sites": name, "store": where}
        with self._precision():
            tree = self.model_.predict(rows, progress=bool(self.verbose), **options)
        drawn = tree["predictions"][name]
        row = tree.attrs["row_dim"]
        for first in range(0, len(rows), size):
            part = drawn.isel({row: slice(first, first + size)})
            flat = part.stack(sample=("chain", "draw")).transpose("sample", row, ...)
            yield np.asarray(flat.values)

    def _expectations(self, X: ArrayLike) -> Iterator[np.ndarray]:
        """Mean outcomes, (draw, row, ...), of some rows after the other."""
        rows = self._rows(X)
        draws = self.model_.posterior
        values = len(next(iter(draws.values()))) * len(getattr(self, "classes_", "1"))
        size = max(1, _VALUES_AT_ONCE // values)
        if self.kernel is None:  # as `effect` would have it, without a program to compile
            kernel: Any = self.model_.kernel
            for part in _parts(np.asarray(rows), size):
                yield kernel.expected(part, draws)
            return
        for part in _parts(rows, len(rows) if self.model_.kernel_spec.coupled else size):
            yield self._expected(part)

    def _expected(self, rows: Table) -> np.ndarray:
        """Mean outcomes, (draw, row, ...): what `effect` compares, before it compares."""
        natural: Any = {_SCENARIO: {self.param_input: rows}, "the same": {}}
        with warnings.catch_warnings():
            # Said of scenarios that are compared, not of a prediction.
            warnings.filterwarnings("ignore", f"Scenario '({_SCENARIO}|the same)'")
            effect = self.model_.effect(
                rows, scenarios=natural, estimand="ite", in_sample=False, progress=False
            )
        averages = effect.averages.sel(scenario=_SCENARIO)
        row = averages.dims[0]  # named after the plate of the rows
        flat = averages.stack(sample=("chain", "draw")).transpose("sample", row, ...)
        return np.asarray(flat.values, np.float64)

    def _own_kernel(self) -> Any:
        """The kernel of this module behind the fit.

        Raises
        ------
        AttributeError
            There is none, or no fit.
        """
        if self.kernel is not None or not hasattr(self, "model_"):
            msg = "Only a fit without a kernel of one's own has coefficients. See model_.posterior."
            raise AttributeError(msg)
        return self.model_.kernel

    def _posterior(self, site: str) -> np.ndarray:
        """Draws of a site, (draw, ...)."""
        self._own_kernel()
        return np.asarray(self.model_.posterior[site])

    def _rows(self, X: ArrayLike) -> Table:
        check_is_fitted(self)
        _check_no_times(X=X)
        rows = self._named(validate_data(self, X, dtype=np.float64, reset=False))
        names, fitted = _names_of(X), getattr(self, "_names", None)
        is_text = fitted is not None and all(isinstance(name, str) for name in fitted)
        if names == [*range(len(names or ()))] and is_text:
            names = None  # only counted: scikit-learn warns
        if names is not None and fitted is not None and names != fitted:
            msg = (
                f"X has the columns {names!s:.60}, and the fit had {fitted!s:.60}. Pass them in "
                "the order of the fit, X[columns], or without names, X.to_numpy()."
            )
            raise InputError(msg, code="columns-mismatch")
        return rows

    def _named(self, X: np.ndarray) -> Table:
        """Rows with the names of their columns, where there are any."""
        names = getattr(self, "feature_names_in_", None)
        return X if names is None else pd.DataFrame(X, columns=names)

    def _precision(self) -> AbstractContextManager[Any]:
        """Double precision for the kernels of this module; for others what the user has set."""
        return jax.enable_x64(True) if self.kernel is None else nullcontext()


class ImpactRegressor(RegressorMixin, _Impact):  # type: ignore[misc]  # scikit-learn has no stubs
    """Regression with a posterior: scikit-learn's contract around an `ImpactModel`.

    Rows and outcomes belong together by position, whatever their labels, as in scikit-learn.
    Without a kernel it is Bayesian linear regression with normal noise. In units of the standard
    deviations of columns and outcome, coefficients and the outcome at the mean row have the prior
    Normal(0, `prior_scale`), and the noise is half-normal with scale 1, at least 0.001. The
    posterior is then exact: no search, no chains, and its mean is that of the draws.

    Parameters
    ----------
    kernel : callable, optional
        NumPyro model function of rows and outcome; everything else that it takes has a default.
    inference : str, SVI, MCMC or engine, optional
        Replaces the exact posterior, or `"auto"` where there is a kernel.
    num_samples : int
        Posterior draws.
    num_steps : int, optional
        Exactly so many steps of SVI.
    prior_scale : float
        Scale of the priors, without a kernel.
    random_state : int, RandomState or None
        Seed; the same one gives the same draws.
    param_input, param_output : str
        Names of the kernel's arguments.
    on_bad_fit : {"warn", "raise", "ignore"}
        What a fit does whose numbers may be wrong, as in `ImpactModel`.
    verbose : int
        Above 0, progress bars.

    Attributes
    ----------
    model_ : ImpactModel
        The fitted model. Without a kernel its sites are `coef` (column), `level` (the outcome at
        the mean row) and `sigma`.
    coef_ : ndarray, shape (column,)
        Without a kernel: posterior means of the coefficients.
    intercept_ : float
        Without a kernel: posterior mean of the outcome where all columns are 0.
    n_features_in_, feature_names_in_
        Columns of the fit, as in scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(40.0)[:, None]
    >>> y = 2.0 * X[:, 0] + np.tile([-1.0, 1.0], 20)
    >>> regressor = ImpactRegressor().fit(X, y)
    >>> regressor.predict([[10.0]]).round(1)
    array([20.])
    >>> regressor.predict_quantiles([[10.0]]).shape
    (1, 2)
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the posterior.

        Parameters
        ----------
        X : array-like, shape (rows, columns)
            The rows, finite numbers.
        y : array-like, shape (rows,)
            The outcomes.
        sample_weight : array-like, shape (rows,), optional
            Multiplies each row's log density; a weight of 2 is the row twice.

        Returns
        -------
        ImpactRegressor
            The estimator itself.
        """
        _check_no_times(X=X, y=y)
        rows, outcomes = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self._names = _names_of(X)
        outcomes = np.asarray(outcomes, np.float64)
        weights = _weights(sample_weight, rows)
        kernel = LinearKernel.on(rows, outcomes, weights, _scale(self.prior_scale))
        return self._fit(_Own(kernel, linear_engine(LinearKernel)), rows, outcomes, weights)

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Posterior mean of each row's expected outcome.

        Parameters
        ----------
        X : array-like, shape (rows, columns)
            The rows.
        return_std : bool
            Also return the standard deviation of the posterior predictive distribution, which has
            the outcome's noise in it.

        Returns
        -------
        ndarray, shape (row,), or a tuple of two
            Means over the draws of means of the outcome's distribution, without its noise; and
            standard deviations.
        """
        mean = np.concatenate([own.mean(axis=0) for own in self._expectations(X)])
        check_switches(return_std=return_std)
        if not return_std:
            return mean
        if self.kernel is not None:
            return mean, np.concatenate([own.std(axis=0) for own in self._drawn(X)])
        noise = np.mean(self._posterior("sigma") ** 2)
        spread = [own.var(axis=0) for own in self._expectations(X)]
        return mean, np.sqrt(np.concatenate(spread) + noise)

    @property
    def coef_(self) -> np.ndarray:
        """Posterior means of the coefficients; absent with a kernel."""
        return np.asarray(self._posterior("coef").mean(axis=0))

    @property
    def intercept_(self) -> float:
        """Posterior mean of the outcome where all columns are 0; absent with a kernel."""
        center = self._own_kernel().columns.center
        return float(self._posterior("level").mean() - self.coef_ @ center)

    def predict_quantiles(
        self, X: ArrayLike, quantiles: Sequence[float] = (0.055, 0.945)
    ) -> np.ndarray:
        """Quantiles of the posterior predictive distribution of each row.

        Parameters
        ----------
        X : array-like, shape (rows, columns)
            The rows.
        quantiles : sequence of float
            Between 0 and 1.

        Returns
        -------
        ndarray, shape (row, quantile)
            Quantiles of outcomes, their noise included.
        """
        return np.concatenate([_quantiles(own, quantiles) for own in self._drawn(X)])


class ImpactClassifier(ClassifierMixin, _Impact):  # type: ignore[misc]  # as above
    """Classification with a posterior: scikit-learn's contract around an `ImpactModel`.

    Without a kernel it is Bayesian multinomial logistic regression: a logit for each class, two
    classes included, whose coefficients have the prior Normal(0, `prior_scale`) in units of the
    columns' standard deviations, as has each logit at the mean row. The posterior is then the
    normal distribution at its mode (Laplace); a `FitWarning` says where Pareto-k finds its shape
    wrong. `inference="nuts"` takes the posterior itself.

    Parameters
    ----------
    kernel : callable, optional
        NumPyro model function of rows and outcome, the latter a Bernoulli or Categorical site that
        observes the position of the label among `classes_`; everything else that it takes has a
        default.
    inference : str, SVI, MCMC or engine, optional
        Replaces the Laplace approximation, or `"auto"` where there is a kernel.
    num_samples, num_steps, prior_scale, random_state, param_input, param_output, on_bad_fit,
    verbose
        As in `ImpactRegressor`.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    model_ : ImpactModel
        The fitted model. Without a kernel its sites are `coef` (column, class) and `level` (class).
    coef_ : ndarray, shape (class, column); (1, column) of two classes
        Without a kernel: posterior means of the coefficients of the logits; of two classes, those
        of the log odds of the second.
    intercept_ : ndarray, shape (class,) or (1,)
        Without a kernel: posterior means of these logits where all columns are 0.
    n_features_in_, feature_names_in_
        Columns of the fit, as in scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(40.0)[:, None]
    >>> y = np.where(X[:, 0] + np.tile([-9.0, 9.0], 20) < 20.0, "low", "high")
    >>> classifier = ImpactClassifier().fit(X, y)
    >>> classifier.predict([[0.0], [39.0]])
    array(['low', 'high'], dtype='<U4')
    >>> classifier.predict_proba([[39.0]]).round(1)
    array([[0.9, 0.1]])
    """

    classes_: np.ndarray

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the posterior.

        Parameters
        ----------
        X : array-like, shape (rows, columns)
            The rows, finite numbers.
        y : array-like, shape (rows,)
            The labels.
        sample_weight : array-like, shape (rows,), optional
            Multiplies each row's log density; a weight of 2 is the row twice.

        Returns
        -------
        ImpactClassifier
            The estimator itself.
        """
        _check_no_times(X=X)
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        self._names = _names_of(X)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        weights = _weights(sample_weight, rows)
        scale = _scale(self.prior_scale)
        kernel = LogisticKernel(Columns.of(rows, weights), len(self.classes_), scale)
        engine = linear_engine(LogisticKernel)
        own = _Own(kernel, engine, {"class": [str(label) for label in self.classes_]})
        return self._fit(own, rows, codes.astype(np.int32), weights)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Posterior mean of each class's probability.

        Parameters
        ----------
        X : array-like, shape (rows, columns)
            The rows.

        Returns
        -------
        ndarray, shape (row, class)
            Probabilities, in the order of `classes_`.

        Raises
        ------
        InputError
            `classes-differ`: the kernel's outcome has another number of classes.
        """
        return np.concatenate([own.mean(axis=0) for own in self._probabilities(X)])

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Most probable label of each row.

        Parameters
        ----------
        X : array-like, shape (rows, columns)
            The rows.

        Returns
        -------
        ndarray, shape (row,)
            Labels.
        """
        codes = np.argmax(self.predict_proba(X), axis=1)
        return np.asarray(self.classes_[codes])

    @property
    def coef_(self) -> np.ndarray:
        """Posterior means of the coefficients of the logits; absent with a kernel."""
        return self._of_two(self._posterior("coef").mean(axis=0).T)

    @property
    def intercept_(self) -> np.ndarray:
        """Posterior means of the logits where all columns are 0; absent with a kernel."""
        coef, level = (self._posterior(name).mean(axis=0) for name in ("coef", "level"))
        return self._of_two(level - self._own_kernel().columns.center @ coef)

    def _of_two(self, logits: np.ndarray) -> np.ndarray:
        """Values by class; of two classes those of the second against the first."""
        return np.asarray(logits[1:] - logits[:1] if len(logits) == 2 else logits)

    def predict_draws(self, X: ArrayLike) -> np.ndarray:
        """Labels drawn from the posterior predictive distribution; see `ImpactRegressor`."""
        codes = super().predict_draws(X).astype(int)
        return np.asarray(self.classes_[codes])

    def predict_quantiles(
        self, X: ArrayLike, quantiles: Sequence[float] = (0.055, 0.945)
    ) -> np.ndarray:
        """Quantiles of the posterior of each class's probability: how sure the probabilities are.

        Parameters
        ----------
        X : array-like, shape (rows, columns)
            The rows.
        quantiles : sequence of float
            Between 0 and 1.

        Returns
        -------
        ndarray, shape (row, class, quantile)
            Quantiles of probabilities.
        """
        return np.concatenate([_quantiles(own, quantiles) for own in self._probabilities(X)])

    def _probabilities(self, X: ArrayLike) -> Iterator[np.ndarray]:
        """Probabilities, (draw, row, class), of some rows after the other."""
        for expected in self._expectations(X):
            shares = np.stack([1 - expected, expected], -1) if expected.ndim == 2 else expected
            if shares.shape[-1] != len(self.classes_):
                msg = (
                    f"The kernel's outcome has {shares.shape[-1]} classes, but the labels of the "
                    f"fit are {len(self.classes_)}. Give the outcome one class per label."
                )
                raise InputError(msg, code="classes-differ")
            yield shares


class CausalRegressor(BaseEstimator):  # type: ignore[misc]  # as above
    """An effect of a yes-or-no treatment that varies with the columns, by EconML's names.

    Rows, outcomes and treatments belong together by position, whatever their labels.
    Columns of categories are encoded, each by a column of zeros and ones per category; the rest is
    the kernel `aimz.kernels.Flexible`, in the units of the data, with chances of treatment that are
    estimated from them.

    Parameters
    ----------
    family : {"normal", "bernoulli", "poisson"}
        Of the outcome. Effects are differences of its means.
    waves : int, optional
        Waves of the prognosis and of the effect, as of `Flexible`.
    inference : str, SVI, MCMC or engine
        As of `ImpactModel`.
    num_samples : int
        Posterior draws.
    random_state : int
        Seed; the same one gives the same draws.
    on_bad_fit : {"warn", "raise", "ignore"}
        What a fit does whose numbers may be wrong, as in `ImpactModel`.

    Attributes
    ----------
    model_ : ImpactModel
        The fitted model, whose arguments are `X`, `t` and `y`.
    n_features_in_, feature_names_in_
        Columns of the fit, as in scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 1))
    >>> T = (rng.random(200) < 0.5).astype(int)
    >>> Y = 10.0 + X[:, 0] + 2.0 * T + 0.1 * rng.normal(size=200)
    >>> model = CausalRegressor(waves=4).fit(Y, T, X=X)
    >>> model.effect(X[:3]).shape
    (3,)
    >>> low, high = model.ate_interval(X, alpha=0.1)
    >>> bool(1.9 < low < high < 2.1)
    True
    """

    def __init__(
        self,
        family: str = "normal",
        *,
        waves: int | None = None,
        inference: Inference = "auto",
        num_samples: int = 1000,
        random_state: int = 0,
        on_bad_fit: str = "warn",
    ) -> None:
        self.family = family
        self.waves = waves
        self.inference = inference
        self.num_samples = num_samples
        self.random_state = random_state
        self.on_bad_fit = on_bad_fit

    def fit(self, Y: ArrayLike, T: ArrayLike, *, X: ArrayLike | pd.DataFrame) -> Self:
        """Fit the posterior.

        Parameters
        ----------
        Y : array-like, shape (rows,)
            Outcomes.
        T : array-like, shape (rows,)
            Who was treated: 0 and 1, or booleans.
        X : array-like or DataFrame, shape (rows, columns)
            All that outcome and treatment may both depend on. Columns of a frame that are no
            numbers are categories.

        Returns
        -------
        CausalRegressor
            The estimator itself.

        Raises
        ------
        InputError
            `shape`, `treatment-unknown`: `T` is not of zeros and ones, or of one arm only;
            `not-finite`.
        """
        outcomes, arms = np.asarray(Value.of(Y, "Y").array, np.float64), np.asarray(T)
        rows, self._is_frame = _frame_of(X)
        if outcomes.shape != (len(rows),) or arms.shape != (len(rows),):
            msg = f"Y has shape {outcomes.shape}, T {arms.shape}. Pass one number for each of X."
            raise InputError(msg, code="shape")
        if arms.dtype.kind not in "biuf" or set(np.unique(arms).tolist()) != {0, 1}:
            msg = "T is not of zeros and ones, both there. For doses or more arms write a kernel."
            raise InputError(msg, code="treatment-unknown")
        self.n_features_in_ = rows.shape[1]
        if self._is_frame:
            self.feature_names_in_ = np.asarray(rows.columns, dtype=object)
        kernel = Flexible(treatment="t", family=self.family, waves=self.waves)
        self.model_ = ImpactModel(
            kernel,
            rng_key=self.random_state,
            inference=self.inference,
            num_samples=self.num_samples,
            on_bad_fit=self.on_bad_fit,
        )
        self.model_.fit(rows, outcomes, t=arms.astype(float), progress=False)
        return self

    def effect(self, X: ArrayLike | pd.DataFrame, *, T0: float = 0, T1: float = 1) -> np.ndarray:
        """Posterior mean of each row's effect of `T1` instead of `T0`.

        Parameters
        ----------
        X : array-like or DataFrame, shape (rows, columns)
            Rows, with the columns of the fit.
        T0, T1 : {0, 1}
            The treatments that are compared.

        Returns
        -------
        ndarray, shape (row,)
            Differences of mean outcomes.

        Raises
        ------
        InputError
            `columns-mismatch`: other columns, or a category that the fit has not seen.
        """
        return self.effect_draws(X, T0=T0, T1=T1).mean(axis=0)

    def const_marginal_effect(self, X: ArrayLike | pd.DataFrame) -> np.ndarray:
        """The effect of treatment by row: `effect(X)`, shape (row,)."""
        return self.effect(X)

    def effect_interval(
        self,
        X: ArrayLike | pd.DataFrame,
        *,
        T0: float = 0,
        T1: float = 1,
        alpha: float = 0.05,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ends of each row's interval of probability 1 - `alpha`, both of shape (row,)."""
        return _ends(self.effect_draws(X, T0=T0, T1=T1), alpha)

    def ate(self, X: ArrayLike | pd.DataFrame, *, T0: float = 0, T1: float = 1) -> float:
        """Posterior mean of the effect, averaged over these rows."""
        return float(self._draws(X, T0, T1, "ate").mean())

    def ate_interval(
        self,
        X: ArrayLike | pd.DataFrame,
        *,
        T0: float = 0,
        T1: float = 1,
        alpha: float = 0.05,
    ) -> tuple[float, float]:
        """Ends of the interval of probability 1 - `alpha` of the average over these rows."""
        low, high = _ends(self._draws(X, T0, T1, "ate"), alpha)
        return float(low), float(high)

    def effect_draws(
        self, X: ArrayLike | pd.DataFrame, *, T0: float = 0, T1: float = 1
    ) -> np.ndarray:
        """Posterior draws of each row's effect, shape (draw, row); as `effect`."""
        return self._draws(X, T0, T1, "ite")

    def _draws(
        self, X: ArrayLike | pd.DataFrame, T0: float, T1: float, estimand: str
    ) -> np.ndarray:
        """Draws of an effect, which come first."""
        check_is_fitted(self, "model_")
        if not {T0, T1} <= {0, 1}:
            msg = f"T0={T0!r:.40} and T1={T1!r:.40}: the treatment is 0 or 1. Compare these."
            raise InputError(msg, code="treatment-unknown")
        rows = self._lined_up(X)
        effect = self.model_.effect(
            rows,
            {"t": np.full(len(rows), float(T0))},
            {"t": np.full(len(rows), float(T1))},
            t=np.full(len(rows), float(T1)),
            estimand=estimand,
            progress=False,
        )
        stacked = effect.draws.stack(sample=("chain", "draw")).transpose("sample", ...)
        return np.asarray(stacked, np.float64)

    def _lined_up(self, X: ArrayLike | pd.DataFrame) -> pd.DataFrame:
        """The columns by name in the order of the fit; others are refused."""
        rows, is_frame = _frame_of(X)
        known = getattr(self, "feature_names_in_", None)
        names = list(rows.columns)
        is_other = len(names) != self.n_features_in_ or is_frame != self._is_frame
        if known is not None and names != list(known):
            is_other = is_other or not rows.columns.is_unique or {*names} != {*known}
        if is_other:
            msg = (
                f"X has not the {self.n_features_in_} columns of the fit, or not its kind. Pass "
                "columns of the same names, in a frame where the fit had one."
            )
            raise InputError(msg, code="columns-mismatch")
        return rows if known is None or names == list(known) else rows[list(known)]


def _frame_of(X: ArrayLike | pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """A table as a frame, and whether it has names of its own for the columns."""
    value = Value.of(X, "X")
    if value.columns is not None:
        frame = value.given if isinstance(value.given, pd.DataFrame) else value.frame
        return frame, True
    rows = np.asarray(value.array, np.float64)
    if rows.ndim != 2:
        msg = f"X has shape {rows.shape}. Pass a table of rows and columns."
        raise InputError(msg, code="shape")
    return pd.DataFrame(rows, columns=[f"x{number}" for number in range(rows.shape[1])]), False


def _names_of(X: object) -> list[Any] | None:
    """Names of columns, also those that scikit-learn does not compare: numbers, and of xarray."""
    if isinstance(X, pd.DataFrame):
        return [*X.columns]
    columns = Value.of(X, "X").columns if hasattr(X, "coords") else None
    return None if columns is None else [*columns]


def _check_no_times(**tables: object) -> None:
    """Refuse dates and durations, which scikit-learn counts in nanoseconds.

    Raises
    ------
    InputError
        `not-numeric`
    """
    for name, table in tables.items():
        dtypes = (
            table.dtypes if isinstance(table, pd.DataFrame) else [getattr(table, "dtype", None)]
        )
        if any(getattr(dtype, "kind", None) in ("m", "M") for dtype in dtypes):
            msg = f"'{name}' holds dates or times. Pass numbers, such as days since the first one."
            raise InputError(msg, code="not-numeric")


def _ends(draws: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles over draws that leave out `alpha` in all."""
    if not (np.ndim(alpha) == 0 and 0 < alpha < 1):
        msg = f"alpha={alpha!r:.40} is no probability between 0 and 1."
        raise InputError(msg, code="option-unknown")
    low, high = np.quantile(draws, [alpha / 2, 1 - alpha / 2], axis=0)
    return low, high


def _parts(rows: Table, size: int) -> Iterator[Table]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _scale(prior_scale: object) -> float:
    """The spread of the coefficients before the data."""
    scale = number_of(prior_scale, "prior_scale")
    if scale <= 0:
        raise InputError(f"prior_scale is above 0, not {scale:g}.", code="option-unknown")
    return scale


def _weights(given: ArrayLike | None, X: np.ndarray) -> np.ndarray | None:
    if given is None:
        return None
    return np.asarray(_check_sample_weight(given, X, dtype=np.float64, ensure_non_negative=True))


def _quantiles(draws: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """Quantiles over the leading axis, on a new last axis."""
    levels = quantiles_of(quantiles, "quantiles")
    return np.asarray(np.moveaxis(np.quantile(draws, levels, axis=0), 0, -1))
