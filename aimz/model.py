"""ImpactModel: a thin shell. It checks, delegates to pure layers, and shows what they note.

State is the constructor's parameters as given and one frozen `Fitted` record.
"""

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from jax.scipy.special import logsumexp
from sklearn.base import BaseEstimator
from tqdm.auto import tqdm

from aimz.archive import read_archive, write_archive
from aimz.data import (
    Arguments,
    check_names,
    check_positive,
    draw_count,
)
from aimz.errors import (
    AimzWarning,
    InputError,
    NotFittedError,
    OutputWarning,
)
from aimz.inference import AbsentEngine, Fit, Note, Problem, Settings, as_engine
from aimz.inputs import (
    check_fitted_rows,
    fitted_on,
    gather,
    origin_of,
    problem_of,
    row_numbers,
)
from aimz.kernel import KernelSpec, read_signature
from aimz.persist import Scratch
from aimz.prediction import (
    Result,
    account_of,
    attributes_of,
    carry_out,
    described,
    difference,
    kernel_name,
    more_draws,
    prepare,
)
from aimz.programs import TRACE_LOCK
from aimz.randomness import as_key, derived_key
from aimz.requests import Delivery, Fitted, Request
from aimz.results import (
    Schema,
    as_draws,
    draw_labels,
    draws_dataset,
    flat_arrays,
    import_dask,
    row_totals,
    tree_of,
)
from aimz.sampling import log_likelihood_block, predict_block
from aimz.scenario import observed_sites, sites_to_return

__all__ = ["ImpactModel", "KernelSpec"]

# Models that have temporary results.
_MODELS: "weakref.WeakSet[ImpactModel]" = weakref.WeakSet()

# Tags keep the keys of different uses of the model's key apart.
_FIT, _STEP, _SAMPLE, _PREDICT, _PRIOR = range(5)


class ImpactModel(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no stubs
    """A NumPyro model as an estimator: fit, predict, and ask what if.

    Parameters
    ----------
    kernel : callable
        NumPyro model function. It takes `param_input` and `param_output=None`, and everything else
        it needs by name.
    rng_key : int or jax.Array, default 0
        Seed of everything random.
    inference : str, numpyro.infer.SVI, numpyro.infer.MCMC or engine, default "svi"
        What turns kernel and data into draws: `"svi"`, `"nuts"`, or an object.
    param_input, param_output : str
        Names of the kernel's arguments for the rows and for the outcome.
    num_samples, batch_size, epochs, num_steps : int, optional
        Fit settings; the same argument of a fit method overrides them.
    warm_start : bool, default False
        Continue from the last fit instead of starting afresh.
    coords, dims : mapping, optional
        Labels of dimensions, as in ArviZ.

    Examples
    --------
    >>> import jax, numpyro, numpyro.distributions as dist
    >>> def kernel(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
    >>> X = jax.random.normal(jax.random.key(0), (100, 1))
    >>> im = ImpactModel(kernel).fit(X, 2.0 * X[:, 0], progress=False)
    >>> tree = im.predict(X, store="memory", progress=False)
    >>> dict(tree.posterior_predictive["y"].sizes)
    {'chain': 1, 'draw': 1000, 'obs': 100}
    """

    def __init__(
        self,
        kernel: Callable[..., Any],
        rng_key: Any = 0,
        inference: Any = "svi",
        *,
        param_input: str = "X",
        param_output: str = "y",
        num_samples: int = 1000,
        batch_size: int | None = None,
        epochs: int | None = None,
        num_steps: int | None = None,
        warm_start: bool = False,
        coords: Mapping[str, Sequence[Any]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
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
            warnings.warn(text, DeprecationWarning, stacklevel=2)

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
        shuffle: bool = True,
        sample_weight: Any = None,
        missing: str = "raise",
        **kwargs: Any,
    ) -> "ImpactModel":
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
        shuffle : bool
            Visit the rows in a new random order at each pass.
        sample_weight : array-like, shape (rows,), optional
            Multiplies each row's log density.
        missing : {"raise", "mask"}
            What to do with outcomes that are NaN: refuse them, or leave them out of the likelihood.
        **kwargs
            The kernel's other arguments.

        Returns
        -------
        ImpactModel
            The model itself.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> def kernel(X, y=None):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> im = ImpactModel(kernel).fit(np.zeros((50, 1)), np.full(50, 3.0), progress=False)
        >>> round(float(im.posterior["mean"].mean()), 1)
        3.0
        """
        settings = Settings(
            num_samples=self._setting("num_samples", num_samples),
            epochs=self._setting("epochs", epochs),
            batch_size=self._setting("batch_size", batch_size),
            num_steps=self.num_steps,
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
        num_samples: int | None = None,
        rng_key: Any = None,
        progress: bool = True,
        sample_weight: Any = None,
        missing: str = "raise",
        **kwargs: Any,
    ) -> "ImpactModel":
        """Fit the whole data as one batch, for exactly `num_steps` steps (default 10,000) of SVI.

        The other parameters are those of `fit`.
        """
        steps = self._setting("num_steps", num_steps)
        settings = Settings(
            num_samples=self._setting("num_samples", num_samples),
            num_steps=10_000 if steps is None else steps,
            progress=progress,
            whole=True,
        )
        return self._fit(X, y, settings, rng_key, sample_weight, missing, kwargs)

    def train_on_batch(
        self, X: Any, y: Any, *, rng_key: Any = None, **kwargs: Any
    ) -> tuple[Any, float]:
        """Take one SVI step on a batch and keep the state; returns the state and the loss."""
        engine = self._stepping_engine()
        problem, arguments = self._problem(X, y, None, "raise", kwargs)
        last: Fitted | None = getattr(self, "_fitted", None)
        before = last if last is not None and last.fit.state is not None else None
        steps = before.steps if before else 0
        key = self._derived_key(rng_key, _STEP, steps)
        state, loss = engine.step(key, problem, before.fit.state if before else None)
        fit = replace(before.fit, state=state) if before else Fit(draws={}, state=state)
        self._fitted = fitted_on(problem, arguments, replace(fit, draws={}), steps + 1)
        return state, float(loss)

    def partial_fit(self, X: Any, y: Any, **kwargs: Any) -> "ImpactModel":
        """Take one SVI step on a batch, as `train_on_batch`, and return the model."""
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
            A DataTree with a `posterior` group, or a dict of arrays (chain, draw, ...).
        **kwargs
            Data of the kernel, needed after the model was loaded from a file.
        """
        fitted = self._trained()
        problem = fitted.problem
        if fitted.fit.state is None or (problem is None and not kwargs):
            msg = "There is no fit to continue, or no data. Fit first, or pass the fit's arguments."
            raise InputError(msg, code="no-data")
        if kwargs:
            outcome = kwargs.pop(self.param_output)
            problem, _ = self._problem(kwargs.pop(self.param_input), outcome, None, "raise", kwargs)
        key = self._derived_key(rng_key, _SAMPLE, fitted.steps)
        count = self._setting("num_samples", num_samples)
        engine = as_engine(self.inference, self.kernel)
        fit = more_draws(engine, key, problem, fitted.fit, count)
        draws = fit.draws
        kept = fit if not fitted.fit.draws else replace(fitted.fit, state=fit.state)
        self._fitted = replace(fitted, steps=fitted.steps + 1, fit=kept)
        if return_sites is not None:
            check_names(dict.fromkeys(return_sites), tuple(draws), what="site")
            draws = {name: draws[name] for name in return_sites}
        if not return_datatree:
            return dict(draws)
        schema = self._schema(draws, fitted.labels)
        attrs = self._attrs("posterior")
        return tree_of({"posterior": draws_dataset(draws, schema, fitted.spec, attrs)}, attrs)

    def set_posterior_sample(
        self, draws: Mapping[str, Any] | xr.DataTree | xr.Dataset, *, num_chains: int = 1
    ) -> "ImpactModel":
        """Use posterior draws made elsewhere.

        Parameters
        ----------
        draws : mapping of arrays (draw, ...), DataTree or Dataset
            Draws by site; a tree or dataset has dimensions `chain` and `draw`. With several
            chains the arrays of a mapping hold the chains one after another.
        num_chains : int
            Chains in the arrays of a mapping.
        """
        fit = Fit(draws=as_draws(draws, num_chains))
        self._fitted = Fitted(fit, draw_labels=draw_labels(draws))
        return self

    # ------------------------------------------------------------- predicting

    def predict(
        self,
        X: Any,
        *,
        intervention: Mapping[str, Any] | None = None,
        condition: Mapping[str, Any] | None = None,
        rng_key: Any = None,
        in_sample: bool = True,
        return_sites: Sequence[str] | str | None = None,
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str = "persistent",
        output_dir: Any = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> xr.DataTree:
        """Draw from the posterior predictive distribution.

        Parameters
        ----------
        X : array-like, shape (rows, ...), or loader
            The primary input. A memory map, a dask, zarr or xarray array that is not in memory, or
            an iterable of dicts of named arrays is read by the piece.
        intervention : mapping, optional
            Sites to set: a value, one value per row, or a callable of the natural value.
        condition : mapping, optional
            Observed values of sites, used while drawing the others.
        rng_key : int or Array, optional
            Replaces the key derived from the model's key and the rows.
        in_sample : bool
            True puts the result in `posterior_predictive` and reuses latents that belong to the
            fitted rows; False puts it in `predictions` and draws those latents anew.
        return_sites : str or sequence of str, optional
            Sites to return; default the output and the deterministic sites.
        shard_axis : {"obs", "draw"}
            Accepted for its name: tiles go to all devices either way.
        batch_size : int, optional
            Rows to read at a time from an `X` that is not in memory. It never changes a result.
        store : {"persistent", "memory"}
            A Zarr store on disk, read when it is used; or arrays in memory.
        output_dir : path or file URL, optional
            Directory in which the call writes a store `<UTC-timestamp>_predict`; the same call
            again goes on with one that was interrupted. Default a temporary directory that lasts
            as long as the result.
        progress : bool
            Show a progress bar that counts rows.
        **kwargs
            The kernel's other arguments. Outcomes, if they are passed too, change nothing and come
            back as `observed_data`.

        Returns
        -------
        DataTree
            Groups `posterior` and `posterior_predictive` (or `predictions`), leading dimensions
            `chain` and `draw`. The attribute `artifact_path` names the store.
        """
        to = Delivery(shard_axis, batch_size, store, output_dir, progress)
        fit = self._fitted_state().fit
        chains, draws = self._draws_of(fit)
        request = self._request(
            program=predict_block,
            method="predict",
            group="posterior_predictive" if in_sample else "predictions",
            tag=_PREDICT,
            fit=fit,
            chains=chains,
            draws=draws,
            to=to,
            sites=lambda spec: sites_to_return(spec, return_sites),
            rng_key=rng_key,
            in_sample=in_sample,
            intervention=intervention,
            condition=condition,
        )
        return self._stream(request, {self.param_input: X, **kwargs})

    def predict_on_batch(
        self, X: Any, *, return_datatree: bool = True, **kwargs: Any
    ) -> xr.DataTree | dict[str, np.ndarray]:
        """`predict` in memory; with `return_datatree=False`, arrays (draw, ...) by site."""
        tree = self.predict(X, **{"store": "memory", "progress": False, **kwargs})
        return tree if return_datatree else flat_arrays(tree)

    def sample_posterior_predictive(self, X: Any, **kwargs: Any) -> xr.DataTree:
        """Alias of `predict`."""
        return self.predict(X, **kwargs)

    def sample_posterior_predictive_on_batch(
        self, X: Any, **kwargs: Any
    ) -> xr.DataTree | dict[str, np.ndarray]:
        """Alias of `predict_on_batch`."""
        return self.predict_on_batch(X, **kwargs)

    def sample_prior_predictive(
        self,
        X: Any,
        *,
        num_samples: int = 1000,
        rng_key: Any = None,
        return_sites: Sequence[str] | str | None = None,
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str = "persistent",
        output_dir: Any = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> xr.DataTree:
        """Draw from the prior predictive distribution, before or after a fit.

        Parameters
        ----------
        X : array-like, shape (rows, ...)
            The primary input.
        num_samples : int
            Number of draws.
        rng_key, return_sites, shard_axis, batch_size, store, output_dir, progress, **kwargs
            As in `predict`.
        """
        to = Delivery(shard_axis, batch_size, store, output_dir, progress)
        check_positive(num_samples, "num_samples")
        request = self._request(
            program=predict_block,
            method="sample_prior_predictive",
            group="prior_predictive",
            tag=_PRIOR,
            fit=Fit(draws={}, params=self._fitted.fit.params if self.is_fitted() else {}),
            chains=1,
            draws=num_samples,
            to=to,
            sites=lambda spec: sites_to_return(spec, return_sites),
            rng_key=rng_key,
        )
        return self._stream(request, {self.param_input: X, **kwargs})

    def sample_prior_predictive_on_batch(
        self, X: Any, *, return_datatree: bool = True, **kwargs: Any
    ) -> xr.DataTree | dict[str, np.ndarray]:
        """`sample_prior_predictive` in memory; see `predict_on_batch`."""
        options = {"store": "memory", "progress": False}
        tree = self.sample_prior_predictive(X, **{**options, **kwargs})
        return tree if return_datatree else flat_arrays(tree)

    def log_likelihood(
        self,
        X: Any,
        y: Any = None,
        *,
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str = "persistent",
        output_dir: Any = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> xr.DataTree:
        """Log density of each observed value under each posterior draw.

        Parameters
        ----------
        X, y : array-like
            Rows and their outcomes; a loader that names the outcomes needs no `y`.
        shard_axis, batch_size, store, output_dir, progress, **kwargs
            As in `predict`.

        Returns
        -------
        DataTree
            Groups `posterior`, `log_likelihood` and `observed_data`; feeds `arviz.loo`.
        """
        to = Delivery(shard_axis, batch_size, store, output_dir, progress)
        fit = self._fitted_state().fit
        chains, draws = self._draws_of(fit)
        request = self._request(
            program=log_likelihood_block,
            method="log_likelihood",
            group="log_likelihood",
            tag=_PREDICT,
            fit=fit,
            chains=chains,
            draws=draws,
            to=to,
            sites=lambda spec: observed_sites(spec, fit.draws),
        )
        return self._stream(request, {self.param_input: X, self.param_output: y, **kwargs})

    def estimate_effect(
        self,
        output_baseline: xr.DataTree | None = None,
        output_intervention: xr.DataTree | None = None,
        args_baseline: Mapping[str, Any] | None = None,
        args_intervention: Mapping[str, Any] | None = None,
        *,
        on_batch: bool = False,
    ) -> xr.DataTree:
        """Difference of two predictions, draw by draw and row by row.

        Parameters
        ----------
        output_baseline, output_intervention : DataTree, optional
            Results of `predict` on the same rows.
        args_baseline, args_intervention : mapping, optional
            Arguments of `predict` to compute them instead; the two share one key.
        on_batch : bool
            Use `predict_on_batch`.

        Returns
        -------
        DataTree
            Intervention minus baseline, in the group that both share.

        Warns
        -----
        OutputWarning
            `unpaired`: the two were drawn with different keys.
        """
        pairs = ((output_baseline, args_baseline), (output_intervention, args_intervention))
        if any((tree is None) == (arguments is None) for tree, arguments in pairs):
            msg = (
                "Each scenario needs either an output or its arguments. Pass output_baseline or "
                "args_baseline, and output_intervention or args_intervention."
            )
            raise InputError(msg, code="scenario-incomplete")
        options: dict[str, Any] = {"store": "memory", "progress": False} if on_batch else {}
        given = [arguments for arguments in (args_baseline, args_intervention) if arguments]
        if len(given) == 2 and not all("rng_key" in arguments for arguments in given):
            if self.param_input not in given[0]:
                msg = f"args_baseline lacks '{self.param_input}'. Pass all arguments of predict."
                raise InputError(msg, code="argument-missing")
            options["rng_key"] = self._shared_key(given[0][self.param_input])
        baseline, intervention = (
            tree if tree is not None else self.predict(**{**options, **dict(arguments or {})})
            for tree, arguments in pairs
        )
        if baseline.attrs.get("words") != intervention.attrs.get("words"):
            text = (
                "The two predictions are unpaired: they were drawn with different keys or rows. "
                "Pass the same rng_key= to both, so that noise cancels draw by draw."
            )
            warnings.warn(OutputWarning(text, code="unpaired"), stacklevel=2)
        return difference(baseline, intervention, self._scratch())

    def score(self, X: Any, y: Any, **kwargs: Any) -> float:
        """Mean log predictive density per row: higher is better."""
        tree = self.log_likelihood(X, y, store="memory", progress=False, **kwargs)
        density = tree.log_likelihood[self.param_output]
        rows = row_totals(density)
        return float(np.sum(logsumexp(rows, axis=0) - np.log(len(rows))) / rows.shape[1])

    # ------------------------------------------------------------- accounting

    @property
    def posterior(self) -> xr.Dataset:
        """Posterior draws, (chain, draw, ...)."""
        fitted = self._fitted_state()
        schema = self._schema(fitted.fit.draws, fitted.labels, self.num_samples)
        return draws_dataset(fitted.fit.draws, schema, fitted.spec, self._attrs("posterior"))

    @property
    def vi_result(self) -> Any:
        """NumPyro's `SVIRunResult` of the last SVI fit; set it to use one run elsewhere."""
        engine: Any = as_engine(self.inference, self.kernel)
        if not hasattr(engine, "vi_result"):
            msg = f"Engine '{engine.name}' has no vi_result. Use inference='svi' or an SVI object."
            raise InputError(msg, code="vi-result")
        return engine.vi_result(self._trained().fit)

    @vi_result.setter
    def vi_result(self, result: Any) -> None:
        engine: Any = as_engine(self.inference, self.kernel)
        key = self._derived_key(None, _FIT)
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
    def temp_dir(self) -> Path | None:
        """Directory of this model's temporary results; None before the first."""
        scratch: Scratch | None = getattr(self, "_temporary", None)
        return scratch.path if scratch is not None else None

    def cleanup(self) -> None:
        """Delete this model's temporary results; those still in use raise when they are read."""
        scratch: Scratch | None = getattr(self, "_temporary", None)
        if scratch is not None:
            scratch.remove()
            del self._temporary

    @staticmethod
    def cleanup_models() -> None:
        """Delete the temporary results of all models of this process."""
        for model in list(_MODELS):
            model.cleanup()

    def is_fitted(self) -> bool:
        """Whether the model holds a posterior."""
        return getattr(self, "_fitted", None) is not None

    def describe(self) -> dict[str, Any]:
        """Account of kernel, sites, fit and health in plain Python values."""
        account: dict[str, Any] = {
            "kernel": kernel_name(self.kernel),
            "inference": described(self.inference),
            "fitted": self.is_fitted(),
        }
        if not self.is_fitted():
            return account
        return account | account_of(self._fitted)

    def save(self, path: Any) -> None:
        """Save the fitted model as arrays and JSON; see `load`.

        Parameters
        ----------
        path : path
            A directory that does not exist yet.

        Raises
        ------
        InputError
            `path-taken`; `not-plain`: a setting that is neither JSON nor an array.

        Examples
        --------
        >>> import tempfile, numpy as np, numpyro, numpyro.distributions as dist
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal())
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)})
        >>> path = tempfile.mkdtemp() + "/model"
        >>> im.save(path)
        >>> again = ImpactModel.load(path, kernel)
        >>> X = np.ones((3, 1))
        >>> bool((im.predict_on_batch(X)["posterior_predictive"]["y"]
        ...       == again.predict_on_batch(X)["posterior_predictive"]["y"]).all())
        True
        """
        settings = self.get_params()
        settings["kernel"] = kernel_name(self.kernel)
        if not isinstance(self.inference, str):
            settings["inference"] = {"object": described(self.inference)}
        write_archive(path, settings, self._trained())

    @classmethod
    def load(cls, path: Any, kernel: Callable[..., Any], *, inference: Any = None) -> "ImpactModel":
        """Load a model that `save` wrote. Nothing in the files is executed.

        Parameters
        ----------
        path : path
            The directory.
        kernel : callable
            The kernel: it is code, and not in the files.
        inference : SVI, MCMC, engine or str, optional
            Replaces the saved one; needed to fit again where that was an object.

        Raises
        ------
        StoreError
            `store-missing`, `store-foreign`, `store-version`, `store-damaged`.
        """
        settings, fitted = read_archive(path)
        saved = settings.pop("inference")
        if inference is None:
            inference = AbsentEngine(saved["object"]) if isinstance(saved, dict) else saved
        model = cls(**{**settings, "kernel": kernel, "inference": inference})
        model._fitted = fitted
        return model

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Constructor parameters; an inference object is one parameter, not many."""
        del deep  # NumPyro's SVI has a get_params of its own, which is not scikit-learn's
        params: dict[str, Any] = super().get_params(deep=False)
        return params

    def __sklearn_is_fitted__(self) -> bool:
        return self.is_fitted()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_temporary", None)  # a copy elsewhere does not own these files
        if state.get("_fitted") is not None:
            state["_fitted"] = replace(state["_fitted"], problem=None)
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> "ImpactModel":
        # Fits work on private copies and the fitted record is frozen: both may be shared.
        del memo
        copied = type(self)(**self.get_params())
        if self.is_fitted():
            copied._fitted = self._fitted  # noqa: SLF001  # its own class
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
    ) -> "ImpactModel":
        check_positive(settings.num_samples, "num_samples")
        for name in ("epochs", "batch_size", "num_steps"):
            check_positive(getattr(settings, name), name)
        engine = as_engine(self.inference, self.kernel)
        problem, arguments = self._problem(X, y, weights, missing, kwargs)
        state = self._fitted.fit.state if self.warm_start and self.is_fitted() else None
        fit = engine.fit(self._derived_key(rng_key, _FIT), problem, settings, state=state)
        self._fitted = fitted_on(problem, arguments, fit)
        _show(fit.notes)
        return self

    def _problem(
        self, X: Any, y: Any, weights: Any, missing: str, kwargs: Mapping[str, Any]
    ) -> tuple[Problem, Arguments]:
        """The kernel with its data, checked and inspected."""
        given = {self.param_input: X, self.param_output: y, **kwargs}
        return problem_of(self.kernel, self._names, given, weights, missing)

    def _request(self, **options: Any) -> Request:
        fitted = getattr(self, "_fitted", None) or Fitted(Fit(draws={}))
        return Request(self.kernel, self._names, fitted, **options)

    def _stream(self, request: Request, given: Mapping[str, Any]) -> xr.DataTree:
        """The one road of every streamed result."""
        import_dask()
        fitted = request.fitted
        inputs = gather(request, given)
        key = self._derived_key(request.rng_key, request.tag, *inputs.key_numbers)
        prepared = prepare(request, inputs, origin_of(fitted, inputs, self._names), key)
        _show(prepared.notes)
        attrs = self._attrs(request.group)
        attrs["words"] = list(prepared.words)
        attrs["rung"] = "intervention" if request.intervention else "association"
        attrs["redrawn"] = list(prepared.redrawn)
        schema = self._schema(request.fit.draws, inputs.arguments.labels, request.draws)
        groups = {}
        if request.fit.draws:
            own = replace(schema, labels=fitted.labels)
            groups["posterior"] = draws_dataset(request.fit.draws, own, fitted.spec, attrs)
        result = Result(schema, groups, attrs, lambda: check_fitted_rows(fitted, prepared.call))
        with tqdm(total=inputs.rows, unit="row", disable=not request.to.progress) as bar:
            tree, notes = carry_out(prepared, result, request, self._scratch(), bar.update)
        _show(notes)
        return tree

    def _scratch(self) -> Scratch:
        """The model's own temporary directory."""
        scratch: Scratch | None = getattr(self, "_temporary", None)
        if scratch is None or not scratch.path.exists():  # somebody may have cleaned up
            scratch = self._temporary = Scratch()
            _MODELS.add(self)
        return scratch

    def _schema(
        self, draws: Mapping[str, Any], labels: np.ndarray | None, num_draws: int = 0
    ) -> Schema:
        chains, per_chain = draw_count(draws) if draws else (1, num_draws)
        return Schema(chains, per_chain, labels, self.coords or {}, self.dims or {})

    def _draws_of(self, fit: Fit) -> tuple[int, int]:
        """Chains and draws; a kernel with no latent site has as many as were asked for."""
        return draw_count(fit.draws) if fit.draws else (1, self.num_samples)

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

    def _shared_key(self, X: Any) -> jax.Array:
        """The key that the scenarios of one effect share, whatever they change."""
        return self._derived_key(None, _PREDICT, *row_numbers(X, self.param_input))

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

    def _stepping_engine(self) -> Any:
        engine = as_engine(self.inference, self.kernel)
        if not hasattr(engine, "step"):
            msg = f"Engine '{engine.name}' cannot train by steps. Use inference='svi', or call fit."
            raise InputError(msg, code="no-steps")
        return engine


def _show(notes: Sequence[Note]) -> None:
    """Show notes as warnings, at the line of the user's call."""
    with TRACE_LOCK:  # tracing changes the filters, which are one for all threads
        for note in notes:
            warnings.warn(_as_warning(note), stacklevel=4)


def _as_warning(note: Note) -> Warning:
    if issubclass(note.category, AimzWarning):
        return note.category(note.message, code=note.code)
    return note.category(note.message)
