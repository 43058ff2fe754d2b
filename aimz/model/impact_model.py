"""ImpactModel: a facade. Each method checks, delegates to the rooms of this wing, and wraps.

State is the constructor's parameters, one frozen `Fitted` record, and a directory for temporary
results. Examples share the names that the docstring of the class begins with.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from aimz import errors
from aimz.choices import check_switches, progress_bar
from aimz.data import values_of
from aimz.effects import Effect, changes_of, question_of
from aimz.errors import Note
from aimz.inference import Fit, Settings, check_settings
from aimz.kernel import read_signature
from aimz.kernels import kernel_named
from aimz.libraries import xr
from aimz.model import again, asking, criticising, fitting, predicting, saving
from aimz.model.copying import Portable
from aimz.model.described import Described
from aimz.model.fitting import Data
from aimz.model.metadata_routing import Routed
from aimz.model.notes import SAID_ONCE, notes_on_key, show
from aimz.model.over_time import OverTime
from aimz.model.predicting import Planned
from aimz.model.setup import Inference, Kernel, KeyLike, PathLike, RowsLike, Setup, check_parameters
from aimz.model.summarising import predict_summary
from aimz.prediction import Delivery, Fitted, Request, carry_out, of_rows_that_count
from aimz.programs import one_look
from aimz.results import as_draws, draw_labels, flat_draws
from aimz.sampling import expectation_block, predict_block
from aimz.store import PlaceLike, Scratch, Sink, import_dask, tree_of

if TYPE_CHECKING:
    from arviz_stats import ELPDDataLOO

__all__ = ["ImpactModel"]


# Models that have temporary results.
_MODELS: weakref.WeakSet[ImpactModel] = weakref.WeakSet()
_IN_MEMORY: dict[str, Any] = {"store": "memory", "progress": False}


class ImpactModel(Described, OverTime, Routed, Portable):
    """A NumPyro model as an estimator: fit, predict, and ask what if.

    Parameters
    ----------
    kernel : callable or str
        NumPyro model function. It takes `param_input` and `param_output=None`, and everything else
        it needs by name. Or the name of a ready-made one (`aimz.kernels`), whose settings follow as
        further keywords; a fit brings its priors to the units of the data.
    rng_key : int or jax.Array, default 0
        Seed of everything random.
    inference : str, NUTS, numpyro.infer.SVI, numpyro.infer.MCMC or engine, default "auto"
        What turns kernel and data into draws: `"auto"` (a normal guide, or chains where no normal
        guide can be right), `"svi"`, `"nuts"`, or an object.
    param_input, param_output : str
        Names of the kernel's arguments for the rows and for the outcome.
    num_samples, batch_size, epochs, num_steps : int, optional
        Fit settings; the same argument of a fit method overrides them.
    warm_start : bool, default False
        Continue from the last fit instead of starting afresh.
    on_bad_fit : {"warn", "raise", "ignore"}, default "warn"
        What a fit does whose numbers may be wrong: warn, raise the same as an error and leave the
        model as it was, or say nothing. Effects of such a fit say so in any case.
    coords, dims : mapping, optional
        Labels of dimensions, as in ArviZ.

    Examples
    --------
    The examples of all methods have these names: a kernel in which the treatment `t` moves the
    outcome by `b`, and data.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel
    >>> def kernel(X, t, y=None):
    ...     b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(X[:, 0] + b * t, 1.0), obs=y)
    >>> X, t = np.linspace(-1.0, 1.0, 50)[:, None], np.arange(50) % 2
    >>> y = X[:, 0] + 2.0 * t

    A model is fitted, and asked:

    >>> im = ImpactModel(kernel).fit(X, y, t=t, progress=False)
    >>> tree = im.predict(X, t=t, store="memory", progress=False)
    >>> dict(tree.posterior_predictive["y"].sizes)
    {'chain': 1, 'draw': 1000, 'obs': 50}
    """

    predict_summary = predict_summary
    _fitted: Fitted | None = None
    _temporary: Scratch | None = None
    _told: tuple[Fitted | None, frozenset[str]] = (None, frozenset())  # codes, of which fit

    def __init__(
        self,
        kernel: Kernel | str,
        rng_key: KeyLike = 0,
        inference: Inference = "auto",
        *,
        param_input: str = "X",
        param_output: str = "y",
        num_samples: int | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        num_steps: int | None = None,
        warm_start: bool = False,
        on_bad_fit: str = "warn",
        coords: Mapping[str, Sequence[Any]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
        **unknown: Any,
    ) -> None:
        if isinstance(kernel, str):
            kernel, unknown = kernel_named(kernel, unknown), {}
        check_parameters(unknown, type(self))
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
        self.on_bad_fit = on_bad_fit
        self.coords = coords
        self.dims = dims
        read_signature(kernel, param_input, param_output)
        show(notes_on_key(rng_key))

    # ---------------------------------------------------------------- fitting

    def fit(
        self,
        X: RowsLike,
        y: ArrayLike | None = None,
        *,
        num_samples: int | None = None,
        rng_key: KeyLike | None = None,
        progress: bool = True,
        batch_size: int | None = None,
        epochs: int | None = None,
        num_steps: int | None = None,
        num_shards: int | None = None,
        num_chains: int | None = None,
        num_warmup: int | None = None,
        shuffle: bool = True,
        sample_weight: ArrayLike | None = None,
        missing: str = "raise",
        on_bad_fit: str | None = None,
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
        num_shards : int, optional
            Equal parts of each batch, whose gradients the devices of this process compute side by
            side. The fit follows from this number, and not from that of the devices.
        num_chains, num_warmup : int, optional
            Chains and their warm-up transitions, for `inference="nuts"` and its like.
        shuffle : bool
            Visit the rows in a new random order at each pass.
        sample_weight : array-like, shape (rows,), optional
            Multiplies each row's log density.
        missing : {"raise", "mask"}
            What to do with outcomes that are NaN: refuse them, or leave them out of the likelihood.
            Of a vector the elements that are there count, where its family has marginals.
        on_bad_fit : {"warn", "raise", "ignore"}, optional
            What to do where the numbers may be wrong; default as the model says.
        **kwargs
            The kernel's other arguments.

        Returns
        -------
        ImpactModel
            The model itself.

        Warns
        -----
        FitWarning
            The numbers may be wrong; `diagnostics_["verdict"]` says why.

        Examples
        --------
        >>> im = ImpactModel(kernel).fit(X, y, t=t, progress=False)
        >>> round(float(im.posterior["b"].mean()), 1)
        2.0
        """
        steps: dict[str, Any] = {"num_steps": num_steps, "epochs": epochs}
        chains: dict[str, Any] = {"num_chains": num_chains, "num_warmup": num_warmup}
        check_settings(self._setup.engine, steps | chains | {"num_shards": num_shards})
        called = {"num_samples": num_samples, "batch_size": batch_size, **steps}
        called = {name: self._setting(name, value) for name, value in called.items()}
        how: dict[str, Any] = {"shuffle": shuffle, "progress": progress, "num_shards": num_shards}
        settings = Settings(**how, **called, **chains)
        data = Data(self._setup.arguments(self.fit, kwargs, X, y), sample_weight, missing)
        return self._fit(data, settings, rng_key, on_bad_fit)

    def fit_on_batch(
        self,
        X: RowsLike,
        y: ArrayLike | None = None,
        *,
        num_steps: int | None = None,
        num_chains: int | None = None,
        num_warmup: int | None = None,
        num_samples: int | None = None,
        rng_key: KeyLike | None = None,
        progress: bool = True,
        sample_weight: ArrayLike | None = None,
        missing: str = "raise",
        on_bad_fit: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Fit the whole data as one batch, by any engine.

        Parameters
        ----------
        num_steps : int, optional
            Exactly so many steps of SVI; default the model's `num_steps`, or else 10,000.
        X, y, num_chains, num_warmup, num_samples, rng_key, progress, sample_weight, missing and
        on_bad_fit
            As in `fit`.
        **kwargs
            The kernel's other arguments.

        Returns
        -------
        Self
            The model itself.

        Examples
        --------
        >>> im = ImpactModel(kernel).fit_on_batch(X, y, t=t, num_steps=500, progress=False)
        >>> im.diagnostics_["steps"]
        500
        """
        chains: dict[str, Any] = {"num_chains": num_chains, "num_warmup": num_warmup}
        check_settings(self._setup.engine, chains)
        settings = Settings(
            num_samples=self._setting("num_samples", num_samples),
            num_steps=self._setting("num_steps", num_steps),
            progress=progress,
            whole=True,
            **chains,
        )
        data = Data(self._setup.arguments(self.fit_on_batch, kwargs, X, y), sample_weight, missing)
        return self._fit(data, settings, rng_key, on_bad_fit)

    def train_on_batch(
        self,
        X: RowsLike,
        y: ArrayLike | None,
        *,
        rng_key: KeyLike | None = None,
        missing: str = "raise",
        **kwargs: Any,
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
        missing, **kwargs
            As in `fit`.

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
        >>> im = ImpactModel(kernel)
        >>> losses = [im.train_on_batch(X, y, t=t)[1] for _ in range(30)]
        >>> round(losses[-1])  # minus the log evidence
        50
        >>> dict(im.sample(num_samples=10).posterior["b"].sizes)
        {'chain': 1, 'draw': 10}
        """
        data = Data(self._setup.arguments(self.train_on_batch, kwargs, X, y), missing=missing)
        self._fitted, loss = fitting.step(self._setup, data, rng_key, self._fitted)
        return self._fitted.fit.state, loss

    def partial_fit(self, X: RowsLike, y: ArrayLike | None, **kwargs: Any) -> Self:
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
        rng_key: KeyLike | None = None,
        return_sites: Sequence[str] | str | None = None,
        return_datatree: bool = True,
        **kwargs: Any,
    ) -> xr.DataTree | dict[str, np.ndarray]:
        """Draw more from the fitted posterior; a chain continues and never repeats itself.

        Parameters
        ----------
        num_samples : int, optional
            Draws per chain; default the model's `num_samples`.
        rng_key : int or Array, optional
            Replaces the key that the fitted state would use next.
        return_sites : str or sequence of str, optional
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
            the fit has seen; `not-positive`, `option-unknown`, `site-unknown`: of the options.

        Examples
        --------
        >>> im = ImpactModel(kernel).fit(X, y, t=t, progress=False)
        >>> more = im.sample(num_samples=200, return_datatree=False)
        >>> more["b"].shape, bool(np.isin(more["b"], im.posterior["b"]).any())
        ((200,), False)
        """
        sites = fitting.checked(num_samples, return_sites, return_datatree=return_datatree)
        before, count = self._trained(), self._setting("num_samples", num_samples) or 1000
        data = fitting.data_of(self._setup, self.sample, kwargs) if kwargs else None
        drawn, self._fitted = fitting.more(self._setup, before, data, rng_key, count, sites)
        tree = predicting.posterior_tree(self._setup, drawn, self._fitted)
        return tree if return_datatree else flat_draws(drawn.draws)

    def reweighted(self, *, num_samples: int | None = None, rng_key: KeyLike | None = None) -> Self:
        """A model with draws of the posterior itself, where those of a guide can be made such.

        Four times as many draws of the guide are weighed by the posterior's density against the
        guide's, the weights are smoothed, and draws are taken again by them (Vehtari, Simpson,
        Gelman, Yao & Gabry, 2024, "Pareto smoothed importance sampling").

        Parameters
        ----------
        num_samples : int, optional
            Draws; default as the model says, or 1,000.
        rng_key : int or Array, optional
            Replaces the key that the fitted state would use next.

        Returns
        -------
        Self
            Another model, with the rows of this fit; `diagnostics_` has the Pareto-k of its weights
            and the number of draws that they are worth.

        Raises
        ------
        InputError
            `no-weights`: the draws have no density of their own, as those of chains, or no weights
            make them draws of the posterior: Pareto-k is too high, or the guide sees one mode of
            several; `no-data`: the fit, or its data, are not here.

        Examples
        --------
        >>> im = ImpactModel(kernel, inference="svi").fit(X, y, t=t, progress=False)
        >>> better = im.reweighted(num_samples=500)
        >>> round(float(better.posterior["b"].mean()), 1), better.diagnostics_["verdict"]
        (2.0, 'good')
        """
        before, other = self._trained(with_draws=True), type(self)(**self.get_params())
        count = self._setting("num_samples", num_samples) or 1000
        other._fitted = fitting.reweighted(  # noqa: SLF001  # of its own class
            self._setup, before, rng_key, count
        )
        return other

    # -------------------------------------------------------------- posterior

    def set_posterior_sample(
        self,
        posterior_sample: Mapping[str, ArrayLike] | xr.DataTree | xr.Dataset,
        *,
        num_chains: int = 1,
    ) -> Self:
        """Use posterior draws made elsewhere.

        After a fit they are taken for draws of the fitted rows, whose columns, labels and values
        stay known; draws of other data belong to a new model. What the fit said of its quality is
        not said of them.

        Parameters
        ----------
        posterior_sample : mapping of arrays (draw, ...), DataTree or Dataset
            Draws by site; a tree or dataset has dimensions `chain` and `draw`. With several
            chains the arrays of a mapping hold the chains one after another. What has labels of its
            draws is put in one order by them.
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
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)}, num_chains=2)
        >>> dict(im.posterior_tree.posterior["b"].sizes)
        {'chain': 2, 'draw': 5}
        """
        made = Fit(draws=as_draws(posterior_sample, num_chains))
        before = self._fitted or Fitted(made)
        self._fitted = before.with_draws(made, draw_labels(posterior_sample))
        return self

    @property
    def posterior(self) -> dict[str, np.ndarray]:
        """Posterior draws by site, (draw, ...), those of all chains after one another; read-only.

        Examples
        --------
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)}, num_chains=2)
        >>> im.posterior["b"].shape
        (10,)
        """
        return flat_draws(self._trained(with_draws=True).fit.draws)

    @property
    def posterior_tree(self) -> xr.DataTree:
        """Posterior draws with labels, and what the sampler says of each, as ArviZ has them.

        Groups `posterior` and, of chains, `sample_stats`; the dimensions `chain` and `draw` lead.

        Examples
        --------
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)}, num_chains=2)
        >>> dict(im.posterior_tree.posterior["b"].sizes)
        {'chain': 2, 'draw': 5}
        """
        fitted = self._trained(with_draws=True)
        return predicting.posterior_tree(self._setup, fitted.fit, fitted)

    @property
    def kernel_(self) -> Kernel:
        """The kernel that answers: a ready-made one is in the units of the data of the fit.

        Examples
        --------
        >>> ImpactModel(kernel).kernel_ is kernel
        True
        """
        return self._setup.kernel

    @property
    def inference_(self) -> Any:
        """NumPyro's own object with the result of the last fit; the one that was passed has none.

        Chains: an `MCMC` with `get_samples`, `get_extra_fields` and `print_summary`, in which sites
        that are not latent are missing. A guide: an `SVI` whose `guide` has seen the data, for the
        state and the parameters in `vi_result`.
        """
        return fitting.numpyro_object(fitting.showing(self._setup), self._trained(with_draws=True))

    @property
    def vi_result(self) -> Any:
        """NumPyro's `SVIRunResult` of the last SVI fit; set it to use one run elsewhere."""
        return fitting.vi_result(fitting.variational(self._setup), self._trained())

    @vi_result.setter
    def vi_result(self, result: Any) -> None:
        self._fitted = fitting.from_run(self._setup, result)

    # ------------------------------------------------------------- predicting

    def predict(
        self,
        X: RowsLike,
        *,
        intervention: Mapping[str, Any] | None = None,
        condition: Mapping[str, Any] | None = None,
        rng_key: KeyLike | None = None,
        in_sample: bool = True,
        new_groups: str = "refuse",
        return_sites: Sequence[str] | str | None = None,
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str | Sink = "persistent",
        output_dir: PlaceLike | None = None,
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
            Observed values of sites, used while drawing the others. Where rows interact they may be
            those of the first rows, or of the first steps of a scan: a history.
        rng_key : int or Array, optional
            Replaces the key derived from the model's key and the rows.
        in_sample : bool
            True puts the result in `posterior_predictive` and reuses latents that belong to the
            fitted rows; False puts it in `predictions` and draws those latents anew. Where rows
            interact and begin with the fitted ones, both go on from these.
        new_groups : {"refuse", "prior"}
            What to do with groups that the fit did not see: codes after those of its plates. They
            are an error, or their latents are drawn given the posterior of all else, while the
            groups of the fit keep theirs.
        return_sites : str or sequence of str, optional
            Sites to return; default the output and the deterministic sites.
        shard_axis : {"obs", "draw"}
            Accepted for its name: tiles go to all devices either way.
        batch_size : int, optional
            Rows to read at a time from an `X` that is not in memory. It never changes a result.
        store : {"persistent", "memory"} or sink
            A Zarr store on disk, read when it is used; arrays in memory; or a sink of your own, see
            `aimz.testing.SinkContract`.
        output_dir : path, URL, obstore store or session of Icechunk, optional
            Directory, or bucket with a prefix (`s3://bucket/prefix`, also `gs://` and `az://`), in
            which the call writes a store `<UTC-timestamp>_predict`; the same call again goes on
            with one that was interrupted. A session gets all of it in the end or nothing, and its
            commit is yours. Default a temporary directory that lasts as long as the result.
        progress : bool
            Show a progress bar that counts rows.
        **kwargs
            The kernel's other arguments. Outcomes, if they are passed too, change nothing and come
            back as `observed_data`.

        Returns
        -------
        DataTree
            Groups `posterior`, of chains `sample_stats`, and `posterior_predictive` (or
            `predictions`), leading dimensions `chain` and `draw`. The attribute `artifact_path`
            names the store. `arviz.loo` needs the tree of `log_likelihood` or `to_datatree`.

        Raises
        ------
        NotFittedError
            `not-fitted`, `no-draws`.
        InputError
            An argument that the kernel, the fit or the posterior contradicts; docs/errors.md lists
            the codes.

        Warns
        -----
        OutputWarning
            A result that may not mean what it seems to, such as `site-from-prior`.
        PerformanceWarning
            `rows-coupled`: rows interact, so they are predicted together.

        Examples
        --------
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.full(100, 2.0)})
        >>> tree = im.predict(X, t=t, store="memory", progress=False)
        >>> dict(tree.posterior_predictive["y"].sizes)
        {'chain': 1, 'draw': 100, 'obs': 50}
        >>> what_if = im.predict(X, t=t, intervention={"b": 3.0}, store="memory", progress=False)
        >>> difference = what_if.posterior_predictive["y"] - tree.posterior_predictive["y"]
        >>> difference.values[0, 0, :4].round(3)  # the noise is the same
        array([0., 1., 0., 1.], dtype=float32)
        """
        to = Delivery(shard_axis, batch_size, store, output_dir, progress)
        check_switches(in_sample=in_sample)
        setup = self._setup
        request = setup.request(
            self._trained(with_draws=True),
            program=predict_block,
            method="predict",
            group="posterior_predictive" if in_sample else "predictions",
            return_sites=return_sites,
            to=to,
            rng_key=rng_key,
            in_sample=in_sample,
            new_groups=new_groups,
            intervention=intervention,
            condition=condition,
        )
        return self._streamed(request, setup.arguments(self.predict, kwargs, X))

    def predict_on_batch(
        self, X: RowsLike, *, return_datatree: bool = True, **kwargs: Any
    ) -> xr.DataTree | dict[str, np.ndarray]:
        """Draw from the posterior predictive distribution, in memory and without a progress bar.

        Parameters
        ----------
        X, **kwargs
            As in `predict`.
        return_datatree : bool
            A DataTree as of `predict`, or a dict of arrays (draw, ...) by site, in which the draws
            of all chains follow one another.

        Returns
        -------
        DataTree or dict of ndarray
            The draws.

        Examples
        --------
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.full(100, 2.0)})
        >>> im.predict_on_batch(X, t=t, return_datatree=False)["y"].shape
        (100, 50)
        """
        tree = self.predict(X, **{**_IN_MEMORY, **kwargs})
        return predicting.in_form(tree, return_datatree=return_datatree)

    def sample_posterior_predictive(self, X: RowsLike, **kwargs: Any) -> xr.DataTree:
        """Alias of `predict`."""
        return self.predict(X, **kwargs)

    def sample_posterior_predictive_on_batch(
        self, X: RowsLike, **kwargs: Any
    ) -> xr.DataTree | dict[str, np.ndarray]:
        """Alias of `predict_on_batch`."""
        return self.predict_on_batch(X, **kwargs)

    def sample_prior_predictive(
        self,
        X: RowsLike,
        *,
        num_samples: int = 1000,
        intervention: Mapping[str, Any] | None = None,
        rng_key: KeyLike | None = None,
        return_sites: Sequence[str] | str | None = None,
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str | Sink = "persistent",
        output_dir: PlaceLike | None = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> xr.DataTree:
        """Draw from the prior predictive distribution, before or after a fit.

        Parameters
        ----------
        num_samples : int
            Number of draws.
        X, intervention, rng_key, return_sites, shard_axis, batch_size, store, output_dir, progress
            As in `predict`.
        **kwargs
            As in `predict`.

        Returns
        -------
        DataTree
            Group `prior_predictive`, dimensions `chain` (one), `draw` and those of the sites.

        Examples
        --------
        >>> tree = ImpactModel(kernel).sample_prior_predictive_on_batch(X, t=t)
        >>> dict(tree.prior_predictive["y"].sizes)
        {'chain': 1, 'draw': 1000, 'obs': 50}
        """
        request = predicting.prior_request(
            self._setup,
            self._fitted,
            num_samples,
            return_sites=return_sites,
            to=Delivery(shard_axis, batch_size, store, output_dir, progress),
            rng_key=rng_key,
            intervention=intervention,
        )
        return self._streamed(
            request, self._setup.arguments(self.sample_prior_predictive, kwargs, X)
        )

    def sample_prior_predictive_on_batch(
        self, X: RowsLike, *, return_datatree: bool = True, **kwargs: Any
    ) -> xr.DataTree | dict[str, np.ndarray]:
        """`sample_prior_predictive` in memory; see `predict_on_batch`."""
        tree = self.sample_prior_predictive(X, **{**_IN_MEMORY, **kwargs})
        return predicting.in_form(tree, return_datatree=return_datatree)

    def log_likelihood(
        self,
        X: RowsLike,
        y: ArrayLike | None = None,
        *,
        missing: str = "raise",
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str | Sink = "persistent",
        output_dir: PlaceLike | None = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> xr.DataTree:
        """Log density of each observed value under each posterior draw.

        Rows that do not count, because their outcomes are missing or the kernel masks them, are not
        in the result; elements of other rows that do not are NaN. A store on disk has all rows.

        Parameters
        ----------
        X, y : array-like
            Rows and their outcomes; a loader that names the outcomes needs no `y`.
        missing : {"raise", "mask"}
            As in `fit`.
        shard_axis, batch_size, store, output_dir, progress, **kwargs
            As in `predict`.

        Returns
        -------
        DataTree
            Groups `posterior`, `log_likelihood` (in nats) and `observed_data`; feeds `arviz.loo`.
            The attribute `rows_left_out` of a group counts the rows that do not count.

        Raises
        ------
        InputError
            `outcome-missing`, and as in `predict`.

        Examples
        --------
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.full(100, 2.0)})
        >>> tree = im.log_likelihood(X, y, t=t, store="memory", progress=False)
        >>> round(float(tree.log_likelihood["y"][0, 0, 0]), 4)  # log density of N(0, 1) at 0
        -0.9189
        """
        to = Delivery(shard_axis, batch_size, store, output_dir, progress)
        request = predicting.density_request(
            self._setup, self._trained(with_draws=True), "log_likelihood", missing, to
        )
        return self._streamed(request, self._setup.arguments(self.log_likelihood, kwargs, X, y))

    def score(
        self,
        X: RowsLike,
        y: ArrayLike | None,
        *,
        sample_weight: ArrayLike | None = None,
        missing: str = "raise",
        **kwargs: Any,
    ) -> float:
        """Mean log predictive density per row: what `cross_val_score` makes large.

        Rows that the kernel masks do not count, and a row counts what the kernel scales it by.

        Parameters
        ----------
        X, y : array-like
            Rows and their outcomes.
        sample_weight : array-like, shape (rows,), optional
            Weight of each row in the mean.
        missing : {"raise", "mask"}
            As in `fit`.
        **kwargs
            The kernel's other arguments.

        Returns
        -------
        float
            Mean over the rows that count of the log of a row's density averaged over the draws, in
            nats: of its outcome, and of what else the kernel observes of it.

        Examples
        --------
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.full(100, 2.0)})
        >>> round(im.score(X, y, t=t), 4)
        -0.9189
        """
        data = Data(self._setup.arguments(self.score, kwargs, X, y), missing=missing)
        fitted = self._trained(with_draws=True)
        call = criticising.prepared_for(self._setup, fitted, "score", data)
        self._say(call.prepared.notes)
        labelled = {self.param_output: y, "sample_weight": sample_weight}
        score, notes = criticising.score_of(self._setup, call, X, labelled)
        self._say(notes)
        return score

    def loo(
        self,
        X: RowsLike,
        y: ArrayLike | None = None,
        *,
        site: str | None = None,
        pointwise: bool = True,
        missing: str = "raise",
        inputs: Mapping[str, Any] | None = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> ELPDDataLOO:
        """Log predictive density of each fitted row when it is left out of the posterior.

        No row is fitted again: draws are weighted by Pareto-smoothed importance sampling (Vehtari
        et al., 2024), in one pass that keeps no matrix of densities. `arviz.compare` takes it.

        Parameters
        ----------
        X, y : array-like
            The rows of the fit and their outcomes, as in `log_likelihood`.
        site : str, optional
            The observed site whose values are left out, where there are several.
        pointwise : bool
            Keep `elpd_i` and `pareto_k` of each value, with the labels of the rows.
        missing : {"raise", "mask"}
            As in `log_likelihood`: values that do not count are not left out.
        inputs : mapping, optional
            Arguments of the kernel whose names are options here.
        progress, **kwargs
            As in `predict`.

        Returns
        -------
        arviz.ELPDDataLOO
            The sum `elpd` in nats, its standard error `se`, the effective number of parameters `p`,
            and Pareto k, to be trusted up to `good_k`.

        Raises
        ------
        InputError
            `site-unknown`, `rows-joint`, `draws-few`, `nothing-observed`, `option-ambiguous`, and
            as in `log_likelihood`.

        Warns
        -----
        OutputWarning
            `pareto-k`, `loo-other-rows`, `loo-given-others`, `loo-weighted`.

        See Also
        --------
        score : Density of rows that the fit has not seen.

        Examples
        --------
        >>> draws = np.random.default_rng(0).normal(2.0, 0.2, size=400)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": draws})
        >>> loo = im.loo(X, y, t=t, progress=False)
        >>> round(loo.elpd, 1), loo.elpd_i.sizes
        (-46..., Frozen({'obs': 50}))
        """
        named = asking.arguments_of(self._setup, type(self).loo, {**locals()}, kwargs)
        check_switches(pointwise=pointwise)
        data = Data(self._setup.arguments(self.loo, named, X, y), missing=missing)
        fitted = self._trained(with_draws=True)
        call = criticising.prepared_for(self._setup, fitted, "loo", data, progress=progress)
        self._say(call.prepared.notes)
        record, notes = criticising.left_out(self._setup, call, site)
        self._say(notes)
        return record if pointwise else criticising.summed(record)

    def to_datatree(
        self,
        X: RowsLike,
        y: ArrayLike | None = None,
        *,
        num_prior_samples: int = 0,
        missing: str = "raise",
        rng_key: KeyLike | None = None,
        **kwargs: Any,
    ) -> xr.DataTree:
        """Everything that ArviZ reads of a fitted model on some rows, in memory.

        Parameters
        ----------
        X, y : array-like
            Rows and their outcomes, as in `log_likelihood`.
        num_prior_samples : int
            Draws of the prior; none by default.
        missing : {"raise", "mask"}
            As in `log_likelihood`, whose group and `observed_data` then have fewer rows.
        rng_key : int or Array, optional
            As in `predict`.
        **kwargs
            The kernel's other arguments.

        Returns
        -------
        DataTree
            Groups `posterior`, `sample_stats` (of chains), `posterior_predictive`,
            `log_likelihood`, `observed_data` and `constant_data`; with draws of the prior also
            `prior` and `prior_predictive`.

        Raises
        ------
        InputError
            As in `log_likelihood`.

        See Also
        --------
        log_likelihood : Densities alone, on disk where they are many.

        Examples
        --------
        >>> import arviz as az
        >>> draws = np.random.default_rng(0).normal(2.0, 0.2, size=400)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": draws}, num_chains=4)
        >>> tree = im.to_datatree(X, X[:, 0] + 2.0, t=np.ones(50))
        >>> sorted(tree.children)[-3:]
        ['observed_data', 'posterior', 'posterior_predictive']
        >>> round(float(az.loo(tree).elpd))
        -47
        """
        setup, fitted = self._setup, self._trained(with_draws=True)
        setup.arguments(self.to_datatree, kwargs, X, y)  # an option of others is refused by name
        density = self.log_likelihood(X, y, missing=missing, **_IN_MEMORY, **kwargs)
        request = predicting.request_in_memory(setup, fitted, rng_key)
        rows = (X, y) if isinstance(y, str) else (X,)  # a column of a file
        call = predicting.planned(setup, request, setup.arguments(self.predict, kwargs, *rows))
        drawn, inputs = self._streamed(call), call.inputs
        groups = {str(name): group.to_dataset() for name, group in {**drawn, **density}.items()}
        attrs = {str(name): value for name, value in density.attrs.items()}
        groups |= predicting.constants_of(setup, inputs, attrs)
        if np.ndim(num_prior_samples) or num_prior_samples:
            own: dict[str, Any] = {"num_samples": num_prior_samples, "rng_key": rng_key}
            own["return_sites"] = predicting.prior_sites(inputs.spec)
            prior = self.sample_prior_predictive(X, **own, **_IN_MEMORY, **kwargs)
            groups |= predicting.groups_of_the_prior(prior, inputs.spec)
        return tree_of(groups, attrs)

    # ---------------------------------------------------------------- effects

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
            Intervention minus baseline, in the group that both share; of angles the turn. Above
            256 MiB its arrays are Dask-backed where Dask is installed, so that averages are taken
            in parts: `.load()` it for ArviZ.

        Warns
        -----
        OutputWarning
            `unpaired`: the two were drawn with different keys, or are of different models;
            `rows-statistic`, `latents-kept`, `no-effect`: what the scenarios differ in;
            `categories-subtracted`: outcomes whose codes have no order.

        Examples
        --------
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.full(100, 2.0)})
        >>> effect = im.estimate_effect(
        ...     args_baseline={"X": X, "t": 0.0},
        ...     args_intervention={"X": X, "t": 1.0},
        ...     on_batch=True,
        ... )
        >>> round(float(effect.posterior_predictive["y"].mean()), 3)
        2.0
        """
        pairs = ((output_baseline, args_baseline), (output_intervention, args_intervention))
        scenarios = asking.trees_or_arguments(self._setup, pairs, _IN_MEMORY, on_batch)
        call = asking.subtracted(self._setup, self._trained, self.predict, scenarios, self._scratch)
        if call is not None:
            return self._streamed(call)
        trees = [self.predict(**one) if isinstance(one, dict) else one for one in scenarios]
        return asking.difference_of(trees, self._scratch(), show)

    def effect(
        self,
        X: RowsLike,
        baseline: Mapping[str, Any] | None = None,
        intervention: Mapping[str, Any] | None = None,
        *,
        scenarios: Mapping[Any, Mapping[str, Any]] | None = None,
        estimand: str | Callable[..., Any] = "ate",
        treatment: ArrayLike | None = None,
        mediator: str | None = None,
        by: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        comparison: str | Callable[..., Any] = "difference",
        target: str | None = None,
        population: str = "sample",
        rung: str = "intervention",
        row_summary: bool | Mapping[str, Any] = False,
        site: str | None = None,
        y: ArrayLike | None = None,
        inputs: Mapping[str, Any] | None = None,
        in_sample: bool = True,
        new_groups: str = "refuse",
        rng_key: KeyLike | None = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> Effect:
        """Compare scenarios, in one pass over the rows.

        A scenario is a mapping of names to values: an argument of the kernel (then it is replaced),
        a site (then it is set, as by an intervention), or the primary input. A value is a scalar,
        one value per row, or a callable of the natural value. An empty scenario is what is natural;
        `"condition"` in one is a mapping of sites to values that were observed there.

        Parameters
        ----------
        X : array-like, shape (rows, ...), or loader
            The rows to ask about. What is read by the piece, as in `predict`, has no callables of
            arguments, no counterfactuals and no mediation.
        baseline, intervention : mapping, optional
            The two scenarios.
        scenarios : mapping of mappings, optional
            Named scenarios in their place; each is compared with the first.
        estimand : str or callable
            Average effect on all rows ("ate"), on the treated ("att"), on the untreated ("atc"), by
            group ("cate"), or the effect on each row ("ite"); with a mediator the natural direct,
            the natural indirect and the total effect ("nde", "nie", "total"); of counterfactuals of
            0 and 1 the probabilities "benefit", "necessity" and "sufficiency". A callable takes a
            dict of each scenario's averages, (group, draw, ...), and returns an array like them.
        treatment : str or array of bool, optional
            What says who was treated: an argument, a column of `X`, or one value per row. Default
            the one thing that the scenarios set.
        mediator : str, optional
            Site on the path, for `"nde"`, `"nie"` and `"total"`: the direct effect keeps the value
            that it has under the baseline, the indirect one changes nothing else (Pearl, 2001,
            "Direct and indirect effects").
        by : str or array-like, shape (rows,), optional
            Groups for `"cate"`: labels, or the name of an argument or column.
        weights : array-like, shape (rows,), optional
            Weight of each row in averages.
        comparison : {"difference", "ratio", "lift", "odds_ratio"} or callable
            How two averages are compared: a ratio is that of totals. A callable takes the averages
            of the scenario and of the baseline, (group, draw, ...).
        target : {"expectation", "prediction"}, optional
            The mean of the outcome's distribution, or the outcome with its noise. Default the
            former, and for counterfactuals the latter.
        rung : {"intervention", "counterfactual"}
            What would happen to rows like these; or what would have happened to these very rows,
            whose noise is recovered from what was observed (`y`, and observed sites on the path)
            and replayed in each scenario (Pearl, 2009, "Causality", 7.1).
        row_summary : bool or mapping, optional
            Also summarise the effect on each row over the draws, without keeping these: mean, sd,
            `quantiles` (default 0.055 and 0.945) and the probability of exceeding a `threshold`
            (default no effect).
        population : {"sample", "superpopulation", "finite"}
            These rows; the population that they are a sample of, by a Bayesian bootstrap; or these
            rows with the observed outcome in the arm that was observed (needs `y`).
        site : str, optional
            Site of rows to compare, or a deterministic one; default the output.
        y : array-like, shape (rows, ...), optional
            Observed outcomes, for `population="finite"` and `rung="counterfactual"`.
        inputs : mapping, optional
            Arguments of the kernel whose names are options here.
        in_sample, new_groups, rng_key, progress
            As in `predict`.
        **kwargs
            The kernel's other arguments, with their natural values.

        Returns
        -------
        Effect
            Draws of the effect; prints as a table that names what was compared of whom.

        Raises
        ------
        InputError
            `scenario-incomplete`, `scenario-unknown`, `option-unknown`, `option-ambiguous`,
            `treatment-unknown`, `no-mean`, `ratio-undefined`, `rung-mismatch`, `family-unknown`,
            `rows-lazy`, `statistic-cancels`, and as in `predict`.

        Warns
        -----
        OutputWarning
            `outside-support`, `noise-lost`, `no-effect`, and as in `predict`.

        Examples
        --------
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.linspace(1.0, 3.0, 101)})
        >>> effect = im.effect(X, {"t": 0}, {"t": 1}, t=t, progress=False)
        >>> effect.summary()[["mean", "P(effect > 0)"]].round(2).values.tolist()
        [[2.0, 1.0]]
        """
        given, setup = {**locals()}, self._setup
        arguments = asking.arguments_of(setup, type(self).effect, given, kwargs)
        y = kwargs.get(self.param_output) if y is None or isinstance(y, str) else y
        options = values_of({"treatment": treatment, "by": by, "weights": weights, "y": y})
        rows = (X, given["y"]) if isinstance(given["y"], str) else (X,)  # a column of a file
        natural = values_of(setup.arguments(self.effect, arguments, *rows))
        changes = changes_of(baseline, intervention, scenarios)
        site = self.param_output if site is None else site
        question = question_of(
            site, estimand, comparison, target, population, mediator, rung, row_summary
        )
        request = setup.request(
            self._trained(with_draws=True),
            program=expectation_block if question.target == "expectation" else predict_block,
            method="effect",
            group="effect",
            return_sites=site,
            to=Delivery(store="memory", progress=progress),
            rng_key=rng_key,
            in_sample=in_sample,
            new_groups=new_groups,
        )
        with one_look():
            asked, notes = asking.asked(setup, request, question, natural, changes, options)
            self._say(notes)
            behind = partial(again.behind_of, setup, asked, type(self), given)
            effect, notes = asking.answered(setup, asked, behind)
        self._say(notes)
        return effect

    # ------------------------------------------------------------- accounting

    # ------------------------------------------------------------------ files

    def save(self, path: PathLike) -> None:
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
        >>> import tempfile
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)})
        >>> path = tempfile.mkdtemp() + "/model"
        >>> im.save(path)
        >>> again = ImpactModel.load(path)
        >>> bool((im.predict_on_batch(X, t=t)["posterior_predictive"]["y"]
        ...       == again.predict_on_batch(X, t=t)["posterior_predictive"]["y"]).all())
        True
        """
        settings = {**self.get_params(), "kernel": self.kernel_}
        show(saving.write_model(path, settings, self._trained()))

    @classmethod
    def load(
        cls, path: PathLike, kernel: Kernel | None = None, *, inference: Inference | None = None
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
        InputError
            `kernel-differs`: a ready-made kernel in other units than those of the fit.

        Warns
        -----
        OutputWarning
            `precision-differs`: the model was saved where JAX computes in another precision.
        """
        names = cls._get_param_names()
        settings, fitted, notes = saving.read_model(path, kernel, inference, names)
        model = cls(**settings)
        model._fitted = fitted
        show(notes)
        return model

    @property
    def temp_dir(self) -> Path | None:
        """Directory of this model's temporary results; None before the first."""
        return None if self._temporary is None else self._temporary.path

    def cleanup(self) -> None:
        """Delete this model's temporary results; those still in use raise when they are read."""
        if self._temporary is not None:
            self._temporary.remove()
            self._temporary = None

    @staticmethod
    def cleanup_models() -> None:
        """Delete the temporary results of all models of this process."""
        for model in list(_MODELS):
            model.cleanup()

    # ------------------------------------------------- protocols of other tools

    def __sklearn_is_fitted__(self) -> bool:
        return self.is_fitted()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_told", None)
        state.pop("_temporary", None)  # a copy elsewhere does not own these files
        state["_fitted"], notes = saving.portable(state.get("_fitted"))
        show(notes)
        return state

    # ---------------------------------------------------------------- private

    @property
    def _setup(self) -> Setup:
        roles, labels = (self.param_input, self.param_output), (self.coords, self.dims)
        settled = None if self._fitted is None else self._fitted.kernel
        kernel = self.kernel if settled is None else settled
        return Setup(kernel, roles, self.inference, self.rng_key, self.num_samples, *labels)

    def _setting(self, name: str, value: Any) -> Any:
        """A setting of a fit: as a method was called, or else the model's own."""
        return getattr(self, name) if value is None else value

    def _fit(
        self, data: Data, settings: Settings, rng_key: KeyLike | None, on_bad_fit: str | None
    ) -> Self:
        check_switches(warm_start=self.warm_start)
        before = self._fitted if self.warm_start else None
        gate = self._setting("on_bad_fit", on_bad_fit)
        setup = self._setup if before else replace(self._setup, kernel=self.kernel)
        fitted, notes = fitting.fit(setup, data, settings, rng_key, before, gate)
        refused = fitting.refusal(notes, gate)
        if refused is None or refused.code == "interrupted":  # what Ctrl-C left is not thrown away
            self._fitted = fitted
        if refused is not None:
            raise refused
        show(notes)
        return self

    def _trained(self, *, with_draws: bool = False) -> Fitted:
        if self._fitted is None:
            msg = "This model has no posterior. Call fit, or set_posterior_sample, first."
            raise errors.NotFittedError(msg, code="not-fitted")
        if with_draws and not (self._fitted.fit.draws or self._fitted.fit.attrs):
            msg = "This model was trained by steps and holds no draws yet. Call sample first."
            raise errors.NotFittedError(msg, code="no-draws")
        return self._fitted

    def _streamed(self, way: Request | Planned, arguments: Any = None) -> xr.DataTree:
        """The one road of every streamed result."""
        import_dask(wait=False)
        with one_look():
            setup = self._setup
            call = way if isinstance(way, Planned) else predicting.planned(setup, way, arguments)
            self._say(call.prepared.notes)
            request, result = call.request, predicting.labelled(setup, call)
            bars: Any = {"desc": request.method, "unit": "row", "shown": request.to.progress}
            with progress_bar(call.inputs.rows, **bars) as bar:
                tree, notes = carry_out(call.prepared, result, request, self._scratch, bar.update)
        self._say(notes)
        return of_rows_that_count(call.prepared.call, tree) if request.conditions else tree

    def _say(self, notes: Sequence[Note]) -> None:
        """Show notes, without those that are said once of a fit, and have been."""
        if not notes:
            return
        fitted, told = self._told
        told = told if fitted is not None and fitted is self._fitted else frozenset()
        self._told = self._fitted, told | ({note.code for note in notes} & SAID_ONCE)
        show([note for note in notes if note.code not in told])

    def _scratch(self) -> Scratch:
        """The model's own temporary directory."""
        if self._temporary is None or not self._temporary.path.exists():  # somebody cleaned up
            self._temporary = Scratch()
            _MODELS.add(self)
        return self._temporary
