"""The estimator without its predictions: parameters as given, and what a fit left.

State is the constructor's parameters and one frozen `Fitted` record.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import xarray as xr

from aimz.capture import fetched, kept, kept_account
from aimz.choices import check_choice, check_switches, shown
from aimz.data import Arguments, Known, check_names, check_positive, only_counted, row_fingerprint
from aimz.errors import InputError, Note, NotFittedError, OutputWarning, StoreError
from aimz.inference import (
    AbsentEngine,
    Fit,
    ObjectEngine,
    Problem,
    Settings,
    SteppingEngine,
    VariationalEngine,
    as_engine,
    check_settings,
    more_draws,
)
from aimz.kernel import KernelSpec, read_signature, unknown_argument
from aimz.model.account import account_of, attributes_of, described, kernel_name
from aimz.model.archive import read_archive, write_archive
from aimz.model.copying import Portable
from aimz.model.metadata_routing import Routed
from aimz.model.notes import SAID_ONCE, show
from aimz.prediction import Fitted, Use, check_same_data, fitted_on, problem_of, support_seen
from aimz.programs import as_key, derived_key
from aimz.results import (
    Schema,
    as_draws,
    check_labels,
    draw_count,
    draw_labels,
    draws_dataset,
    flat_draws,
    tree_of,
)

__all__ = ["Estimator"]


class _NoResultError(InputError, AttributeError):
    """An engine has no such record; an AttributeError, so that looking through attributes works."""


class _UnknownError(InputError, TypeError):
    """A parameter that there is not; a TypeError too, as Python's own."""

    def __init__(self, name: str, owner: str, valid: list[str]) -> None:
        super().__init__(str(unknown_argument(name, owner, (), valid)), code="argument-unknown")


class Estimator(Routed, Portable):
    """What `ImpactModel` is before it predicts; its parameters are described there."""

    def __init__(
        self,
        kernel: Callable[..., Any],
        rng_key: Any = 0,
        inference: Any = "auto",
        *,
        param_input: str = "X",
        param_output: str = "y",
        num_samples: int | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        num_steps: int | None = None,
        warm_start: bool = False,
        coords: Mapping[str, Sequence[Any]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            raise _UnknownError(name, type(self).__name__, list(self._get_param_names()))
        self.kernel = kernel
        self.rng_key = rng_key
        self.inference = inference
        self.param_input = param_input
        self.param_output = param_output
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.epochs = epochs
        self.num_steps = num_steps
        self.warm_start = warm_start
        self.coords = coords
        self.dims = dims
        read_signature(kernel, param_input, param_output)
        if getattr(rng_key, "dtype", None) == np.uint32:
            text = "rng_key is a legacy key of two words. Pass jax.random.key(seed) instead."
            show([Note(DeprecationWarning, text, "")])

    # ---------------------------------------------------------------- fitting

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        num_samples: int | None = None,
        rng_key: Any = None,
        progress: bool = True,
        batch_size: int | None = None,
        epochs: int | None = None,
        num_steps: int | None = None,
        num_chains: int | None = None,
        num_warmup: int | None = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        missing: str = "raise",
        **kwargs: Any,
    ) -> Self:
        """Fit the posterior; with no settings, train until the loss has reached a plateau.

        Parameters
        ----------
        X : array-like, shape (rows, ...), or loader
            The primary input. The batches of a loader, or of another iterable of dicts of named
            arrays, are collected first.
        y : array-like, shape (rows, ...)
            The outcome, unless the batches name it.
        num_samples : int, optional
            Posterior draws.
        rng_key : int or Array, optional
            Replaces the model's key for this fit.
        progress : bool
            Show a progress bar.
        batch_size : int, optional
            Rows per step; None takes the whole data up to 8,192 rows, 1,024 above.
        epochs : int, optional
            Exactly so many passes over the rows.
        num_steps : int, optional
            Exactly so many steps on the whole data.
        num_chains, num_warmup : int, optional
            Chains and their warm-up transitions, for `inference="nuts"` and its like.
        shuffle : bool
            Visit the rows in a new random order at each pass.
        sample_weight : array-like, shape (rows,), optional
            Multiplies each row's log density.
        missing : {"raise", "mask"}
            What to do with outcomes that are NaN: refuse them, or leave them out of the likelihood.
            Of a vector the elements that are there count, where its family has marginals.
        **kwargs
            The kernel's other arguments.

        Returns
        -------
        ImpactModel
            The model itself.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> im = ImpactModel(kernel).fit(np.zeros((50, 1)), np.full(50, 3.0), progress=False)
        >>> round(float(im.posterior["mean"].mean()), 1)
        3.0
        """
        called = {"num_steps": num_steps, "epochs": epochs}
        self._check_settings(called | {"num_chains": num_chains, "num_warmup": num_warmup})
        settings = Settings(
            num_samples=self._setting("num_samples", num_samples),
            epochs=self._setting("epochs", epochs),
            batch_size=self._setting("batch_size", batch_size),
            num_steps=self._setting("num_steps", num_steps),
            num_chains=num_chains,
            num_warmup=num_warmup,
            shuffle=shuffle,
            progress=progress,
        )
        return self._fit(X, y, settings, rng_key, sample_weight, missing, kwargs)

    def fit_on_batch(
        self,
        X: Any,
        y: Any = None,
        *,
        num_steps: int | None = None,
        num_chains: int | None = None,
        num_warmup: int | None = None,
        num_samples: int | None = None,
        rng_key: Any = None,
        progress: bool = True,
        sample_weight: Any = None,
        missing: str = "raise",
        **kwargs: Any,
    ) -> Self:
        """Fit the whole data as one batch, by any engine.

        Parameters
        ----------
        num_steps : int, optional
            Exactly so many steps of SVI; default the model's `num_steps`, or else 10,000.
        X, y, num_chains, num_warmup, num_samples, rng_key, progress, sample_weight, missing
            As in `fit`.
        **kwargs
            The kernel's other arguments.

        Returns
        -------
        Self
            The model itself.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> X, y = np.zeros((50, 1)), np.full(50, 3.0)
        >>> im = ImpactModel(kernel).fit_on_batch(X, y, num_steps=500, progress=False)
        >>> im.diagnostics_["steps"]
        500
        """
        self._check_settings({"num_chains": num_chains, "num_warmup": num_warmup})
        settings = Settings(
            num_samples=self._setting("num_samples", num_samples),
            num_steps=self._setting("num_steps", num_steps),
            num_chains=num_chains,
            num_warmup=num_warmup,
            progress=progress,
            whole=True,
        )
        return self._fit(X, y, settings, rng_key, sample_weight, missing, kwargs)

    def train_on_batch(
        self, X: Any, y: Any, *, rng_key: Any = None, missing: str = "raise", **kwargs: Any
    ) -> tuple[Any, float]:
        """Take one SVI step on a batch and keep the state.

        Parameters
        ----------
        X : array-like, shape (rows, ...)
            Rows of one batch.
        y : array-like, shape (rows, ...)
            Their outcomes.
        rng_key : int or Array, optional
            Replaces the key of this step.
        missing : {"raise", "mask"}
            As in `fit`.
        **kwargs
            The kernel's other arguments.

        Returns
        -------
        state
            The engine's state, which the model keeps too.
        loss : float
            The negative evidence lower bound, in nats.

        Raises
        ------
        InputError
            `no-steps`: the engine does not train by steps; `columns-mismatch`: rows of another
            shape than those of the steps before.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> X, y = np.zeros((50, 1)), np.full(50, 3.0)
        >>> im = ImpactModel(kernel)
        >>> losses = [im.train_on_batch(X, y)[1] for _ in range(30)]
        >>> round(losses[-1])  # minus the log evidence
        50
        >>> dict(im.sample(num_samples=10).posterior["mean"].sizes)
        {'chain': 1, 'draw': 10}
        """
        engine = self._stepping_engine()
        self._check_known("train_on_batch", kwargs)
        last: Fitted | None = getattr(self, "_fitted", None)
        before = last if last is not None and last.fit.state is not None else None
        known = before.known if before else None
        problem, arguments = self._problem(X, y, None, missing, kwargs, known)
        steps = before.steps if before else 0
        key = self._derived_key(rng_key, Use.STEP, steps)
        state, loss = engine.step(key, problem, before.fit.state if before else None)
        fit = replace(before.fit, state=state) if before else Fit(draws={}, state=state)
        self._fitted = fitted_on(problem, arguments, replace(fit, draws={}, attrs={}), steps + 1)
        return state, float(loss)

    def partial_fit(self, X: Any, y: Any, **kwargs: Any) -> Self:
        """Take one SVI step on a batch, as `train_on_batch`.

        Parameters
        ----------
        X, y, **kwargs
            As in `train_on_batch`.

        Returns
        -------
        Self
            The model itself.
        """
        self.train_on_batch(X, y, **kwargs)
        return self

    def sample(
        self,
        *,
        num_samples: int | None = None,
        rng_key: Any = None,
        return_sites: Sequence[str] | None = None,
        return_datatree: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Draw more from the fitted posterior; a chain continues and never repeats itself.

        Parameters
        ----------
        num_samples : int, optional
            Draws per chain; default the model's `num_samples`.
        rng_key : int or Array, optional
            Replaces the key that the fitted state would use next.
        return_sites : sequence of str, optional
            Latent sites to return; default all.
        return_datatree : bool
            A DataTree with a `posterior` group, or a dict of arrays (draw, ...).
        **kwargs
            The data as they were passed to `fit`, `sample_weight` and `missing` included: needed
            after the model was loaded from a file.

        Returns
        -------
        DataTree or dict of ndarray
            Group `posterior`, or arrays (draw, ...) by site, those of all chains after one another.

        Raises
        ------
        InputError
            `no-data`: there is no fit to continue, or not its data; `data-differ`: other data than
            the fit has seen.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> X, y = np.zeros((50, 1)), np.full(50, 3.0)
        >>> im = ImpactModel(kernel).fit(X, y, progress=False)
        >>> more = im.sample(num_samples=200, return_datatree=False)
        >>> more["mean"].shape, bool(np.isin(more["mean"], im.posterior["mean"]).any())
        ((200,), False)
        """
        fitted = self._trained()
        problem = fitted.problem
        if fitted.fit.state is None or (problem is None and not kwargs):
            msg = "There is no fit to continue, or no data. Fit first, or pass the fit's arguments."
            raise InputError(msg, code="no-data")
        if kwargs:
            weights, missing = kwargs.pop("sample_weight", None), kwargs.pop("missing", "raise")
            X, y = (kwargs.pop(name, None) for name in self._names)
            self._check_known("sample", kwargs)
            problem, arguments = self._problem(X, y, weights, missing, kwargs)
            check_same_data(fitted, problem, arguments)
        elif problem and row_fingerprint(problem.inputs.arrays[self._names[0]]) != (
            fitted.fingerprint
        ):
            msg = f"'{self.param_input}' has been changed in place since the fit. Fit again."
            raise InputError(msg, code="data-differ")
        key = self._derived_key(rng_key, Use.SAMPLE, fitted.steps)
        count = self._setting("num_samples", num_samples) or 1000
        engine = as_engine(self.inference, self.kernel)
        fit = more_draws(engine, key, problem, fitted.fit, count)
        draws = fit.draws
        kept = fit if not fitted.fit.draws else replace(fitted.fit, state=fit.state)
        self._fitted = replace(fitted, steps=fitted.steps + 1, fit=kept)
        if return_sites is not None:
            check_names(dict.fromkeys(return_sites), tuple(draws), what="site")
            draws = {name: draws[name] for name in return_sites}
        if not return_datatree:
            return flat_draws(draws)
        attrs = self._attrs("posterior")
        return tree_of(self._fit_groups(replace(fit, draws=draws), fitted, attrs), attrs)

    def set_posterior_sample(
        self, posterior_sample: Mapping[str, Any] | xr.DataTree | xr.Dataset, *, num_chains: int = 1
    ) -> Self:
        """Use posterior draws made elsewhere.

        After a fit they are taken for draws of the fitted rows, whose columns, labels and values
        stay known; draws of other data belong to a new model. What the fit said of its quality is
        not said of them.

        Parameters
        ----------
        posterior_sample : mapping of arrays (draw, ...), DataTree or Dataset
            Draws by site; a tree or dataset has dimensions `chain` and `draw`. With several
            chains the arrays of a mapping hold the chains one after another.
        num_chains : int
            Chains in the arrays of a mapping.

        Returns
        -------
        Self
            The model itself.

        Raises
        ------
        InputError
            `draws-empty`, `draws-shape`: nothing, or arrays that do not split into the chains.
            Names, shapes and supports are checked by the first call, which knows the kernel.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)}, num_chains=2)
        >>> dict(im.posterior_tree.posterior["b"].sizes)
        {'chain': 2, 'draw': 5}
        """
        fit = Fit(draws=as_draws(posterior_sample, num_chains))
        before: Fitted = getattr(self, "_fitted", None) or Fitted(fit)
        self._fitted = before.with_draws(fit, draw_labels(posterior_sample))
        return self

    @property
    def posterior(self) -> dict[str, np.ndarray]:
        """Posterior draws by site, (draw, ...), those of all chains after one another; read-only.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)}, num_chains=2)
        >>> im.posterior["b"].shape
        (10,)
        """
        return flat_draws(self._fitted_state().fit.draws)

    @property
    def posterior_tree(self) -> xr.DataTree:
        """Posterior draws with labels, and what the sampler says of each, as ArviZ has them.

        Groups `posterior` and, of chains, `sample_stats`; the dimensions `chain` and `draw` lead.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)}, num_chains=2)
        >>> dict(im.posterior_tree.posterior["b"].sizes)
        {'chain': 2, 'draw': 5}
        """
        fitted = self._fitted_state()
        attrs = self._attrs("posterior")
        return tree_of(self._fit_groups(fitted.fit, fitted, attrs), attrs)

    @property
    def inference_(self) -> Any:
        """NumPyro's own object with the result of the last fit; the one that was passed has none.

        Chains: an `MCMC` with `get_samples`, `get_extra_fields` and `print_summary`, in which sites
        that are not latent are missing. A guide: an `SVI` whose `guide` has seen the data, for the
        state and the parameters in `vi_result`.
        """
        engine = as_engine(self.inference, self.kernel)
        if not isinstance(engine, ObjectEngine):
            who = "A loaded model" if engine.name == "absent" else f"Engine '{engine.name}'"
            msg = f"{who} has no object of NumPyro's. Use posterior_tree."
            raise _NoResultError(msg, code="no-object")
        fitted = self._fitted_state()
        if "engine" not in fitted.fit.attrs:
            msg = "The draws were set by hand, so no engine holds them. Use posterior_tree."
            raise _NoResultError(msg, code="no-object")
        return engine.fitted_object(fitted.fit, fitted.problem)

    @property
    def vi_result(self) -> Any:
        """NumPyro's `SVIRunResult` of the last SVI fit; set it to use one run elsewhere."""
        return self._variational_engine().vi_result(self._trained().fit)

    @vi_result.setter
    def vi_result(self, result: Any) -> None:
        engine = self._variational_engine()
        key = self._derived_key(None, Use.FIT)
        self._fitted = Fitted(engine.fit_from(key, result, self._setting("num_samples", None)))

    @property
    def kernel_spec(self) -> KernelSpec:
        """Structure of the kernel as the fit saw it."""
        spec = self._fitted_state().spec
        if spec is None:
            msg = "The posterior was set by hand, so no data has shown the kernel's structure yet."
            raise NotFittedError(msg, code="no-spec")
        return spec

    @property
    def diagnostics_(self) -> dict[str, Any]:
        """Health of the last fit: engine, steps, plateau and k-hat, or R-hat, ESS, divergences."""
        return dict(self._fitted_state().fit.attrs)

    @property
    def n_features_in_(self) -> int:
        """Number of columns of the input at the fit; absent where its rows are not vectors."""
        shape = self._trained().known.shapes.get(self.param_input)
        if not shape:
            msg = "No fit has seen the columns of the input, or its rows are no vectors."
            raise AttributeError(msg)
        return shape[0]

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the columns of the input at the fit; absent where they had none."""
        names = self._trained().known.columns.get(self.param_input)
        if names is None or only_counted(names):
            msg = "The input of the fit had no column names, or the posterior was set by hand."
            raise AttributeError(msg)
        return np.asarray(names, dtype=object)

    def is_fitted(self) -> bool:
        """Whether the model holds a posterior."""
        return getattr(self, "_fitted", None) is not None

    def describe(self) -> dict[str, Any]:
        """Account of kernel, sites, fit and health in plain Python values."""
        account: dict[str, Any] = {
            "kernel": kernel_name(self.kernel),
            "inference": described(self.inference),
            "kernel_kept": kept_account(self.kernel),
            "fitted": self.is_fitted(),
        }
        if not self.is_fitted():
            return account
        return account | account_of(self._fitted)

    def save(self, path: Any) -> None:
        """Save the fitted model as arrays and JSON, and its kernel; see `load`.

        A kernel in a module is kept as its import path. Any other, such as one of a notebook, a
        closure or a callable object, is kept as a Python file that holds it and what it reads:
        helpers, constants, arrays. `describe()["kernel_kept"]` lists it.

        Parameters
        ----------
        path : path
            A directory that does not exist yet.

        Raises
        ------
        InputError
            `path-taken`; `not-plain`: a setting that is neither JSON nor an array.
        StoreError
            `store-unwritable`: a full disk, a place without permission, a file in the way.

        Warns
        -----
        OutputWarning
            `kernel-not-kept`: the kernel reads what no file can hold; loading needs it again.

        Examples
        --------
        >>> import tempfile, numpy as np, numpyro, numpyro.distributions as dist
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal())
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)})
        >>> path = tempfile.mkdtemp() + "/model"
        >>> im.save(path)
        >>> again = ImpactModel.load(path)
        >>> X = np.ones((3, 1))
        >>> bool((im.predict_on_batch(X)["posterior_predictive"]["y"]
        ...       == again.predict_on_batch(X)["posterior_predictive"]["y"]).all())
        True
        """
        fitted = self._trained()
        settings = self.get_params()
        settings["kernel"] = kernel_name(self.kernel)
        if not isinstance(self.inference, str):
            settings["inference"] = {"object": described(self.inference)}
        own = kept(self.kernel)
        write_archive(path, settings, fitted, own)
        if own.absent:
            text = (
                f"The kernel is not in the saved model, because of {own.absent:.120}. Pass it to "
                "load, or move it to a module that can be imported."
            )
            show([Note(OutputWarning, text, "kernel-not-kept")])

    @classmethod
    def load(
        cls, path: Any, kernel: Callable[..., Any] | None = None, *, inference: Any = None
    ) -> Self:
        """Load a model that `save` wrote.

        Without `kernel` the kernel that the files name is imported, or its Python file is run: load
        only models that you trust. With `kernel=` nothing in the files is executed.

        Parameters
        ----------
        path : path
            The directory.
        kernel : callable, optional
            The kernel, instead of the one that the files keep.
        inference : SVI, MCMC, engine or str, optional
            Replaces the saved one; needed to fit again where that was an object.

        Returns
        -------
        Self
            A model that predicts bit for bit what the saved one did. See `save` for an example.

        Raises
        ------
        StoreError
            `store-missing`, `store-foreign`, `store-version`, `store-damaged`: no sound model;
            `kernel-missing`, `model-unsafe`: no kernel.

        Warns
        -----
        OutputWarning
            `precision-differs`: the model was saved where JAX computes in another precision.
        """
        archive = read_archive(path)
        settings = dict(archive.settings)
        saved = settings.pop("inference", None)
        if saved is None or settings.keys() - cls(_no_kernel).get_params().keys():
            msg = f"{path!s:.100} does not hold the settings of a saved model."
            raise StoreError(msg, code="store-damaged")
        if inference is None:
            inference = AbsentEngine(saved["object"]) if isinstance(saved, dict) else saved
        if kernel is None:
            kernel = fetched(archive.kernel, archive.files, Path(path))
        model = cls(**{**settings, "kernel": kernel, "inference": inference})
        model._fitted = archive.fitted
        if archive.double not in (None, bool(jax.config.jax_enable_x64)):
            text = (
                f"The model was saved with jax_enable_x64={archive.double}, which is not so here. "
                "Predictions are drawn from other random bits than they were. Set it to the same."
            )
            show([Note(OutputWarning, text, "precision-differs")])
        return model

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001
        """Refuse to be an array, which is what ArviZ asks of a model that it is given."""
        del dtype, copy
        msg = (
            "An ImpactModel is no array of draws, and keeps no data. For ArviZ (loo, summary, ...) "
            "pass im.log_likelihood(X, y) or im.to_datatree(X, y); im.posterior_tree has its draws."
        )
        raise InputError(msg, code="no-array")

    def __sklearn_is_fitted__(self) -> bool:
        return self.is_fitted()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_told", None)
        state.pop("_temporary", None)  # a copy elsewhere does not own these files
        if state.get("_fitted") is not None:
            state["_fitted"] = replace(state["_fitted"], problem=None)
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        del memo
        return self.__copy__()

    def __copy__(self) -> Self:
        # Fits work on private copies and the fitted record is frozen: both may be shared.
        copied = type(self)(**self.get_params())
        if self.is_fitted():
            copied._fitted = self._fitted  # noqa: SLF001  # its own class
        if hasattr(self, "_metadata_request"):
            copied._metadata_request = self.get_metadata_routing()  # noqa: SLF001  # as above
        return copied

    # ---------------------------------------------------------------- private

    def _fit(
        self,
        X: Any,
        y: Any,
        settings: Settings,
        rng_key: Any,
        weights: Any,
        missing: str,
        kwargs: dict[str, Any],
    ) -> Self:
        check_switches(
            progress=settings.progress, shuffle=settings.shuffle, warm_start=self.warm_start
        )
        check_choice(missing, "missing", ("raise", "mask"))
        check_positive(settings.num_samples, "num_samples")
        for name in ("epochs", "batch_size", "num_steps", "num_chains"):
            check_positive(getattr(settings, name), name)
        engine = as_engine(self.inference, self.kernel)
        self._check_known("fit_on_batch" if settings.whole else "fit", kwargs)
        state = self._fitted.fit.state if self.warm_start and self.is_fitted() else None
        known = None if state is None else self._fitted.known
        problem, arguments = self._problem(X, y, weights, missing, kwargs, known)
        fit = engine.fit(self._derived_key(rng_key, Use.FIT), problem, settings, state=state)
        fitted = fitted_on(problem, arguments, fit)
        self._fitted = replace(fitted, seen=support_seen(problem, arguments))
        show((*problem.notes, *fit.notes))
        return self

    def _check_settings(self, called: Mapping[str, Any]) -> None:
        check_settings(as_engine(self.inference, self.kernel), called)

    def _problem(
        self,
        X: Any,
        y: Any,
        weights: Any,
        missing: str,
        kwargs: Mapping[str, Any],
        known: Known | None = None,
    ) -> tuple[Problem, Arguments]:
        """The kernel with its data, checked and inspected."""
        given = {self.param_input: X, self.param_output: y, **kwargs}
        own = not isinstance(self.inference, str)  # an object may know where to start
        problem, arguments = problem_of(
            self.kernel, self._names, given, weights, missing, known, has_own_start=own
        )
        check_labels(problem.spec, self._schema({}, None))
        return problem, arguments

    def _schema(
        self, draws: Mapping[str, Any], labels: np.ndarray | None, num_draws: int = 0
    ) -> Schema:
        named: dict[str, Any] = {"coords": self.coords, "dims": self.dims}
        for option, given in named.items():
            if given is not None and not isinstance(given, Mapping):
                msg = f"{option}= is a dict of names, as in ArviZ, not {shown(given)}."
                raise InputError(msg, code="labels-unknown")
        chains, per_chain = draw_count(draws) if draws else (1, num_draws)
        return Schema(chains, per_chain, labels, self.coords or {}, self.dims or {})

    def _news(self, notes: Sequence[Note]) -> tuple[Note, ...]:
        """Notes without those that are said once of a fit, and have been."""
        fitted = getattr(self, "_fitted", None)
        told: tuple[Any, frozenset[str]] = getattr(self, "_told", (None, frozenset()))
        known = told[1] if fitted is not None and told[0] is fitted else frozenset()
        new = {note.code for note in notes} & SAID_ONCE
        if new:
            self._told = fitted, known | new
        return tuple(n for n in notes if n.code not in known)

    def _fit_groups(
        self, fit: Fit, fitted: Fitted, attrs: Mapping[str, Any]
    ) -> dict[str, xr.Dataset]:
        """What every tree carries of a fit: its draws, and what the sampler says of each."""
        schema = self._schema(fit.draws, fitted.labels, self.num_samples or 1000)
        own = {**attrs, "group": "posterior"}
        groups = {"posterior": draws_dataset(fit.draws, schema, fitted.spec, own)}
        if fit.stats:
            own = {**attrs, "group": "sample_stats"}
            groups["sample_stats"] = draws_dataset(fit.stats, schema, None, own)
        return groups

    @property
    def _names(self) -> tuple[str, str]:
        return self.param_input, self.param_output

    def _attrs(self, group: str) -> dict[str, Any]:
        return attributes_of(self.kernel, getattr(self, "_fitted", None), group)

    def _setting(self, name: str, value: Any) -> Any:
        return getattr(self, name) if value is None else value

    def _derived_key(self, rng_key: Any, tag: int, *numbers: int) -> jax.Array:
        """A key of one use; an explicit key replaces model key, tag and numbers."""
        if rng_key is not None:
            return as_key(rng_key)
        return derived_key(as_key(self.rng_key), tag, *numbers)

    def _trained(self) -> Fitted:
        fitted: Fitted | None = getattr(self, "_fitted", None)
        if fitted is None:
            msg = "This model has no posterior. Call fit, or set_posterior_sample, first."
            raise NotFittedError(msg, code="not-fitted")
        return fitted

    def _fitted_state(self) -> Fitted:
        fitted = self._trained()
        if not (fitted.fit.draws or fitted.fit.attrs):
            msg = "This model was trained by steps and holds no draws yet. Call sample first."
            raise NotFittedError(msg, code="no-draws")
        return fitted

    def _variational_engine(self) -> VariationalEngine:
        engine = as_engine(self.inference, self.kernel)
        if not isinstance(engine, VariationalEngine):
            msg = f"Engine '{engine.name}' has no vi_result. Use inference='svi' or an SVI object."
            raise _NoResultError(msg, code="vi-result")
        return engine

    def _stepping_engine(self) -> SteppingEngine:
        engine = as_engine(self.inference, self.kernel)
        if not isinstance(engine, SteppingEngine):
            msg = f"Engine '{engine.name}' cannot train by steps. Use inference='svi', or call fit."
            raise InputError(msg, code="no-steps")
        return engine


def _no_kernel(X: Any, y: Any = None) -> None:
    """Stand in for a kernel where only the parameters are looked at."""
