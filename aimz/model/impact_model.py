"""ImpactModel: a thin shell. It checks, delegates to pure layers, and shows what they note.

Its parameters, its fit and its files are `aimz.model.estimator`'s.
"""

import inspect
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from aimz.choices import check_switches
from aimz.data import as_array, check_positive, lined_up, materialised, row_labels
from aimz.effects import Effect, about, changes_of, effect_of, question_of, scenarios_of
from aimz.errors import InputError
from aimz.inference import Fit
from aimz.kernel import read_signature
from aimz.model.estimator import Estimator
from aimz.model.notes import show
from aimz.options import progress_bar
from aimz.prediction import (
    Delivery,
    Fitted,
    Given,
    Request,
    Result,
    Use,
    carry_out,
    check_fitted_rows,
    check_new_groups,
    concerns,
    difference,
    gather,
    leads,
    observed_sites,
    origin_of,
    prepare,
    row_numbers,
    row_scores,
    rows_that_count,
    sites_to_return,
    without_rows,
)
from aimz.results import (
    check_labels,
    constant_dataset,
    draw_count,
    flat_arrays,
    row_dimension,
    tree_of,
)
from aimz.sampling import expectation_block, log_likelihood_block, predict_block, score_block
from aimz.store import Scratch, Sink, import_dask

__all__ = ["ImpactModel"]


# Models that have temporary results.
_MODELS: "weakref.WeakSet[ImpactModel]" = weakref.WeakSet()


class ImpactModel(Estimator):
    """A NumPyro model as an estimator: fit, predict, and ask what if.

    Parameters
    ----------
    kernel : callable
        NumPyro model function. It takes `param_input` and `param_output=None`, and everything else
        it needs by name.
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

    # ------------------------------------------------------------- predicting

    def predict(
        self,
        X: Any,
        *,
        intervention: Mapping[str, Any] | None = None,
        condition: Mapping[str, Any] | None = None,
        rng_key: Any = None,
        in_sample: bool = True,
        new_groups: str = "refuse",
        return_sites: Sequence[str] | str | None = None,
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str | Sink = "persistent",
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
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(100)})
        >>> X = np.ones((5, 1))
        >>> tree = im.predict(X, store="memory", progress=False)
        >>> dict(tree.posterior_predictive["y"].sizes)
        {'chain': 1, 'draw': 100, 'obs': 5}
        >>> what_if = im.predict(X, intervention={"b": 3.0}, store="memory", progress=False)
        >>> difference = what_if.posterior_predictive["y"] - tree.posterior_predictive["y"]
        >>> round(float(difference.mean()), 3)  # the noise is the same
        2.0
        """
        to = Delivery(shard_axis, batch_size, store, output_dir, progress)
        check_switches(in_sample=in_sample)
        fit = self._fitted_state().fit
        chains, draws = self._draws_of(fit)
        request = self._request(
            program=predict_block,
            method="predict",
            group="posterior_predictive" if in_sample else "predictions",
            use=Use.PREDICT,
            fit=fit,
            chains=chains,
            draws=draws,
            to=to,
            sites=lambda spec: sites_to_return(spec, return_sites),
            rng_key=rng_key,
            in_sample=in_sample,
            new_groups=check_new_groups(new_groups),
            intervention=intervention,
            condition=condition,
        )
        return self._stream(request, {self.param_input: X, **kwargs})

    def predict_on_batch(
        self, X: Any, *, return_datatree: bool = True, **kwargs: Any
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
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(100)})
        >>> X = np.ones((5, 1))
        >>> im.predict_on_batch(X, return_datatree=False)["y"].shape
        (100, 5)
        """
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
        intervention: Mapping[str, Any] | None = None,
        rng_key: Any = None,
        return_sites: Sequence[str] | str | None = None,
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str | Sink = "persistent",
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
        intervention, rng_key, return_sites, shard_axis, batch_size, store
            As in `predict`.
        output_dir, progress, **kwargs
            As in `predict`.

        Returns
        -------
        DataTree
            Group `prior_predictive`, dimensions `chain` (one), `draw` and those of the sites.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> tree = ImpactModel(kernel).sample_prior_predictive_on_batch(np.ones((5, 1)))
        >>> dict(tree.prior_predictive["y"].sizes)
        {'chain': 1, 'draw': 1000, 'obs': 5}
        """
        to = Delivery(shard_axis, batch_size, store, output_dir, progress)
        check_positive(num_samples, "num_samples")
        request = self._request(
            program=predict_block,
            method="sample_prior_predictive",
            group="prior_predictive",
            use=Use.PRIOR,
            fit=Fit(draws={}, params=self._fitted.fit.params if self.is_fitted() else {}),
            chains=1,
            draws=num_samples,
            to=to,
            sites=lambda spec: sites_to_return(spec, return_sites),
            rng_key=rng_key,
            intervention=intervention,
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
        missing: str = "raise",
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str | Sink = "persistent",
        output_dir: Any = None,
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
            What to do with outcomes that are NaN: refuse them, or leave them out.
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
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(100)})
        >>> X = np.ones((5, 1))
        >>> tree = im.log_likelihood(X, np.ones(5), store="memory", progress=False)
        >>> round(float(tree.log_likelihood["y"][0, 0, 0]), 4)  # log density of N(1, 1) at 1
        -0.9189
        """
        to = Delivery(shard_axis, batch_size, store, output_dir, progress)
        fit = self._fitted_state().fit
        chains, draws = self._draws_of(fit)
        request = self._request(
            program=log_likelihood_block,
            method="log_likelihood",
            group="log_likelihood",
            use=Use.PREDICT,
            fit=fit,
            chains=chains,
            draws=draws,
            to=to,
            sites=lambda spec: observed_sites(spec, fit.draws),
            missing=missing,
        )
        return self._stream(request, {self.param_input: X, self.param_output: y, **kwargs})

    def to_datatree(
        self,
        X: Any,
        y: Any = None,
        *,
        num_prior_samples: int = 0,
        missing: str = "raise",
        rng_key: Any = None,
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
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> draws = np.random.default_rng(0).normal(1.0, 0.1, size=400)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": draws}, num_chains=4)
        >>> tree = im.to_datatree(np.ones((5, 1)), np.zeros(5))
        >>> sorted(tree.children)[-3:]
        ['observed_data', 'posterior', 'posterior_predictive']
        >>> round(float(az.loo(tree).elpd), 1)
        -7.1
        """
        options: dict[str, Any] = {"missing": missing, "store": "memory", "progress": False}
        density = self.log_likelihood(X, y, **options, **kwargs)
        drawn = self.predict(X, rng_key=rng_key, store="memory", progress=False, **kwargs)
        groups = {str(name): group.to_dataset() for name, group in {**drawn, **density}.items()}
        inputs = self._in_memory({self.param_input: X, **kwargs})
        attrs = {str(name): value for name, value in density.attrs.items()}
        if inputs.stream is None:
            groups["constant_data"] = constant_dataset(
                inputs.arguments.arrays,
                inputs.arguments.columns,
                inputs.spec,
                self._schema({}, inputs.arguments.labels),
                attrs,
            )
        if num_prior_samples:
            own = [site for site in inputs.spec.sites if site.kind not in ("param", "factor")]
            settings = {"num_samples": num_prior_samples, "rng_key": rng_key, **kwargs}
            sites = [site.name for site in own]
            memory: Any = {"store": "memory", "progress": False}
            tree = self.sample_prior_predictive(X, return_sites=sites, **memory, **settings)
            prior = tree["prior_predictive"].to_dataset()
            seen = {site.name for site in own if site.kind == "observed"} | {inputs.spec.output}
            outcomes = [n for n, value in prior.items() if value.attrs["site"] in seen]
            groups["prior"] = prior.drop_vars(outcomes).assign_attrs(group="prior")
            groups["prior_predictive"] = prior[outcomes]
        return tree_of(groups, attrs)

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
            Intervention minus baseline, in the group that both share; of angles the turn.

        Warns
        -----
        OutputWarning
            `unpaired`: the two were drawn with different keys, or are of different models;
            `rows-statistic`, `latents-kept`, `no-effect`: what the scenarios differ in;
            `categories-subtracted`: outcomes whose codes have no order.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> def kernel(X, t, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * t + X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.full(100, 2.0)})
        >>> X = np.ones((5, 1))
        >>> effect = im.estimate_effect(
        ...     args_baseline={"X": X, "t": 0.0},
        ...     args_intervention={"X": X, "t": 1.0},
        ...     on_batch=True,
        ... )
        >>> round(float(effect.posterior_predictive["y"].mean()), 3)
        2.0
        """
        pairs = ((output_baseline, args_baseline), (output_intervention, args_intervention))
        _check_pairs(pairs)
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
        show(concerns(baseline, intervention))
        return difference(baseline, intervention, self._scratch())

    def effect(
        self,
        X: Any,
        baseline: Mapping[str, Any] | None = None,
        intervention: Mapping[str, Any] | None = None,
        *,
        scenarios: Mapping[Any, Mapping[str, Any]] | None = None,
        estimand: Any = "ate",
        treatment: Any = None,
        mediator: str | None = None,
        by: Any = None,
        weights: Any = None,
        comparison: Any = "difference",
        target: str | None = None,
        population: str = "sample",
        rung: str = "intervention",
        row_summary: Any = False,
        site: str | None = None,
        y: Any = None,
        inputs: Mapping[str, Any] | None = None,
        in_sample: bool = True,
        new_groups: str = "refuse",
        rng_key: Any = None,
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
        in_sample, new_groups
            As in `predict`.
        rng_key : int or Array, optional
            Replaces the key derived from the model's key and the rows.
        progress : bool
            Show a progress bar that counts rows.
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
            `rows-lazy`, and as in `predict`.

        Warns
        -----
        OutputWarning
            `outside-support`, `noise-lost`, `no-effect`, and as in `predict`.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> def kernel(X, t, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * t + X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.linspace(1.0, 3.0, 101)})
        >>> effect = im.effect(np.ones((5, 1)), {"t": 0}, {"t": 1}, t=np.zeros(5), progress=False)
        >>> effect.summary()[["mean", "P(effect > 0)"]].round(2).values.tolist()
        [[2.0, 1.0]]
        """
        self._check_ambiguous({**locals()}, kwargs)
        y = kwargs.get(self.param_output) if y is None else y
        given = materialised({"treatment": treatment, "by": by, "weights": weights, "y": y})
        natural = materialised({self.param_input: X, **kwargs, **(inputs or {})})
        self._check_known("effect", natural)
        changes = changes_of(baseline, intervention, scenarios)
        asked = self.param_output if site is None else site
        question = question_of(
            asked, estimand, comparison, target, population, mediator, rung, row_summary
        )
        fit = self._fitted_state().fit
        chains, draws = self._draws_of(fit)
        request = self._request(
            program=expectation_block if question.target == "expectation" else predict_block,
            method="effect",
            group="effect",
            use=Use.PREDICT,
            fit=fit,
            chains=chains,
            draws=draws,
            to=Delivery(store="memory", progress=progress),
            sites=lambda spec: sites_to_return(spec, asked),
            rng_key=rng_key,
            in_sample=in_sample,
            new_groups=check_new_groups(new_groups),
        )

        def key_of(own: Given) -> jax.Array:
            return self._derived_key(rng_key, request.use, *own.key_numbers)

        ready = scenarios_of(request, question, natural, changes, key_of)
        rows, ready = about(question, ready, given)
        noted = tuple(dict.fromkeys(n for p in ready.prepared.values() for n in p.notes))
        show(self._news(noted))
        schema = self._schema(fit.draws, ready.natural.arguments.labels, draws)
        check_labels(ready.natural.spec, schema)
        with progress_bar(ready.natural.rows, desc="effect", unit="row", shown=progress) as bar:
            effect, notes = effect_of(
                question, rows, ready, schema, fit.attrs, request.fitted.seen, bar.update
            )
        show(self._news(notes))
        return effect

    def score(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
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
            What to do with outcomes that are NaN: refuse them, or leave them out of the mean.
        **kwargs
            The kernel's other arguments.

        Returns
        -------
        float
            Mean over the rows that count of the log of a row's density averaged over the draws, in
            nats: of its outcome, and of what else the kernel observes of it.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(100)})
        >>> X = np.ones((5, 1))
        >>> round(im.score(X, np.ones(5)), 4)
        -0.9189
        """
        fit = self._fitted_state().fit
        chains, draws = self._draws_of(fit)
        request = self._request(
            program=score_block,
            method="score",
            group="log_likelihood",
            use=Use.PREDICT,
            fit=fit,
            chains=chains,
            draws=draws,
            to=Delivery(store="memory", progress=False),
            sites=lambda spec: observed_sites(spec, fit.draws),
            missing=missing,
        )
        self._check_known("score", kwargs)
        inputs = gather(request, {self.param_input: X, self.param_output: y, **kwargs})
        key = self._derived_key(None, request.use, *inputs.key_numbers)
        prepared = prepare(request, inputs, origin_of(request, inputs), key)
        show(self._news(prepared.notes))
        scores = row_scores(prepared, lambda _: None)
        show(self._news(scores.notes))
        check_fitted_rows(request.fitted, prepared.call)
        if sample_weight is None:
            return scores.mean()
        rows = scores.densities.shape
        given = {self.param_output: y, "sample_weight": sample_weight}
        lined = lined_up(given, row_labels(X), rows[0], self.param_input)
        weights = np.asarray(as_array(lined["sample_weight"], "sample_weight"), np.float64)
        if weights.shape != rows or not weights.sum() > 0 or weights.min() < 0:
            msg = (
                f"sample_weight of shape {weights.shape} is not one weight >= 0, some above, for "
                f"each of {rows[0]} rows. Pass one per row."
            )
            raise InputError(msg, code="rows-mismatch")
        return scores.mean(weights)

    # ------------------------------------------------------------- accounting

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

    # ---------------------------------------------------------------- private

    def _request(self, **options: Any) -> Request:
        fitted = getattr(self, "_fitted", None) or Fitted(Fit(draws={}))
        return Request(self.kernel, self._names, fitted, **options)

    def _stream(self, request: Request, given: Mapping[str, Any]) -> xr.DataTree:
        """The one road of every streamed result."""
        import_dask()
        fitted = request.fitted
        self._check_known(request.method, given)
        inputs = gather(request, given)
        key = self._derived_key(request.rng_key, request.use, *inputs.key_numbers)
        prepared = prepare(request, inputs, origin_of(request, inputs), key)
        show(self._news(prepared.notes))
        attrs = self._attrs(request.group)
        attrs["words"] = " ".join(map(str, prepared.words))
        attrs["rung"] = "intervention" if request.intervention else "association"
        attrs["redrawn"] = list(prepared.redrawn)
        if request.use is Use.PREDICT:
            attrs["arguments"] = leads(inputs, prepared, fitted)
        attrs["row_dim"] = row_dimension(prepared.call.task.results)
        schema = self._schema(request.fit.draws, inputs.arguments.labels, request.draws)
        check_labels(inputs.spec, schema)
        groups = self._fit_groups(request.fit, fitted, attrs) if request.fit.draws else {}
        result = Result(schema, groups, attrs, lambda: check_fitted_rows(fitted, prepared.call))
        options: Any = {"desc": request.method, "unit": "row", "shown": request.to.progress}
        with progress_bar(inputs.rows, **options) as bar:
            tree, notes = carry_out(prepared, result, request, self._scratch(), bar.update)
        show(self._news(notes))
        if not request.conditions:
            return tree
        row_dim, densities = attrs["row_dim"], tree[request.group].to_dataset()
        counts = rows_that_count(prepared.call, densities, row_dim)
        if counts is None:
            return tree
        return without_rows(tree, counts, row_dim, (request.group, "observed_data"))

    def _in_memory(self, given: Mapping[str, Any]) -> Given:
        """The inputs of a prediction as the kernel sees them."""
        fit = self._fitted_state().fit
        chains, draws = self._draws_of(fit)
        request = self._request(
            program=predict_block,
            method="predict",
            group="posterior_predictive",
            use=Use.PREDICT,
            fit=fit,
            chains=chains,
            draws=draws,
            to=Delivery(store="memory"),
            sites=lambda spec: sites_to_return(spec, None),
        )
        return gather(request, given)

    def _check_ambiguous(self, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Refuse an option of `effect` that may be meant for an argument of the kernel."""
        inputs = options["inputs"]
        if inputs is not None and not isinstance(inputs, Mapping):
            msg = "inputs= is a dict of the kernel's arguments by name. Pass inputs={'name': ...}."
            raise InputError(msg, code="option-unknown")
        signature = read_signature(self.kernel, *self._names)
        own = inspect.signature(type(self).effect).parameters
        clear = {*(inputs or {}), *self._names, "X"}
        for name in sorted(own.keys() & set(signature.names) - clear):
            is_missing = name in signature.required and name not in arguments
            if is_missing or (name != "inputs" and options[name] is not own[name].default):
                msg = (
                    f"'{name}' is an option of effect and an argument of the kernel. Pass the "
                    f"kernel's as inputs={{'{name}': ...}}."
                )
                raise InputError(msg, code="option-ambiguous")

    def _scratch(self) -> Scratch:
        """The model's own temporary directory."""
        scratch: Scratch | None = getattr(self, "_temporary", None)
        if scratch is None or not scratch.path.exists():  # somebody may have cleaned up
            scratch = self._temporary = Scratch()
            _MODELS.add(self)
        return scratch

    def _draws_of(self, fit: Fit) -> tuple[int, int]:
        """Chains and draws; a kernel with no latent site has as many as were asked for."""
        return draw_count(fit.draws) if fit.draws else (1, self.num_samples or 1000)

    def _shared_key(self, X: Any) -> jax.Array:
        """The key that the scenarios of one effect share, whatever they change."""
        return self._derived_key(None, Use.PREDICT, *row_numbers(X, self.param_input))


def _check_pairs(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Refuse scenarios that are neither an output nor its arguments, or both."""
    if any((tree is None) == (arguments is None) for tree, arguments in pairs):
        msg = (
            "Each scenario needs either an output or its arguments. Pass output_baseline or "
            "args_baseline, and output_intervention or args_intervention."
        )
        raise InputError(msg, code="scenario-incomplete")
    for pair in pairs:
        for given, kind in zip(pair, (xr.DataTree, Mapping), strict=True):
            if given is not None and not isinstance(given, kind):
                msg = (
                    "An output is a DataTree, as predict gives it, and arguments are a dict of "
                    f"those of predict: one is {type(given).__name__}."
                )
                raise InputError(msg, code="scenario-incomplete")
