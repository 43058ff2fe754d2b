"""Pictures of a fit by ArviZ, given what they show and refused where they would mislead."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from aimz.criticism import left_out_weights
from aimz.errors import InputError
from aimz.libraries import xr
from aimz.model import ImpactModel
from aimz.plots import check_matplotlib

if TYPE_CHECKING:
    from arviz_plots import PlotCollection  # type: ignore[attr-defined]  # is lazy

__all__ = [
    "judged",
    "plot_energy",
    "plot_forest",
    "plot_khat",
    "plot_loo_pit",
    "plot_pair",
    "plot_ppc",
    "plot_rank",
    "plot_ranks",
    "plot_trace",
    "refusal",
]

# Engines whose draws come one by one from a distribution: chains of them agree whatever it is.
_INDEPENDENT = ("svi", "laplace", "dadvi", "pathfinder", "exact")
_UNORDERED = (*_INDEPENDENT, "smc", "nested")  # draws of these follow each other by chance


def plot_trace(im: ImpactModel, **options: Any) -> PlotCollection:
    """Draw the draws of chains in their order; ``arviz_plots.plot_trace``.

    Parameters
    ----------
    im : ImpactModel
        A model fitted by chains, or with draws of chains (`set_posterior_sample`).
    **options
        ArviZ's own, such as `var_names`, `backend`, `figure_kwargs`.

    Returns
    -------
    arviz_plots.PlotCollection
        The picture: `savefig(path)` writes it, `viz` holds its parts.

    Raises
    ------
    InputError
        `no-picture`: draws without an order, as a guide's; `plots-missing`.

    Examples
    --------
    >>> draws = np.random.default_rng(0).normal(size=200)
    >>> im = ImpactModel(kernel).set_posterior_sample({"b": draws}, num_chains=2)
    >>> picture = plot_trace(im, var_names="b", backend="none")
    """
    if _engine_of(im) in _UNORDERED or im.diagnostics_.get("walkers", 1) > 1:
        why = "has draws that are in no order"
        raise refusal("a trace", im, why, "Draw plot_forest, or fit with inference='nuts'")
    return _of_posterior("plot_trace", im, options)


def plot_rank(im: ImpactModel, **options: Any) -> PlotCollection:
    """Draw whether chains agree, by ranks of their draws; ``arviz_plots.plot_rank``.

    Ranks among the draws of all chains; the lines lie about zero where chains agree.

    Parameters
    ----------
    im : ImpactModel
        A model with at least two chains, or runs of SMC.
    **options
        ArviZ's own, such as `var_names`, `backend`, `figure_kwargs`.

    Returns
    -------
    arviz_plots.PlotCollection
        The picture: `savefig(path)` writes it, `viz` holds its parts.

    Raises
    ------
    InputError
        `no-picture`: one chain, or draws that agree whatever they are, as a guide's;
        `plots-missing`.

    Examples
    --------
    >>> draws = np.random.default_rng(0).normal(size=200)
    >>> im = ImpactModel(kernel).set_posterior_sample({"b": draws}, num_chains=2)
    >>> picture = plot_rank(im, backend="none")
    """
    if _engine_of(im) in _INDEPENDENT:
        why = "has draws that agree whatever they are of"
        raise refusal("ranks of chains", im, why, "Read diagnostics_, or fit with inference='nuts'")
    if im.posterior_tree["posterior"].sizes["chain"] < 2:
        raise refusal("ranks of chains", im, "has one chain", "Fit with several: num_chains=4")
    return _of_posterior("plot_rank", im, options)


def plot_forest(im: ImpactModel, **options: Any) -> PlotCollection:
    """Draw intervals of the latents; ``arviz_plots.plot_forest``.

    Parameters
    ----------
    im : ImpactModel
        A fitted model.
    **options
        ArviZ's own, such as `var_names`, `combined`, `ci_probs`, `backend`.

    Returns
    -------
    arviz_plots.PlotCollection
        The picture: `savefig(path)` writes it, `viz` holds its parts.

    Raises
    ------
    InputError
        `plots-missing`.

    Examples
    --------
    >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.arange(100.0)})
    >>> picture = plot_forest(im, combined=True, backend="none")
    """
    return _of_posterior("plot_forest", im, options)


def plot_pair(im: ImpactModel, **options: Any) -> PlotCollection:
    """Draw latents two by two, where dependence and funnels show; ``arviz_plots.plot_pair``.

    Parameters
    ----------
    im : ImpactModel
        A fitted model.
    **options
        ArviZ's own, such as `var_names`, `coords`, `backend`; ``visuals={"divergence": True}``
        marks divergent transitions.

    Returns
    -------
    arviz_plots.PlotMatrix
        The picture: `savefig(path)` writes it, `viz` holds its parts.

    Raises
    ------
    InputError
        `plots-missing`.

    Examples
    --------
    >>> def kernel(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
    ...     numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)
    >>> draws = np.random.default_rng(0).normal(size=(100, 2))
    >>> im = ImpactModel(kernel).set_posterior_sample({"b": draws})
    >>> picture = plot_pair(im, backend="none")
    """
    return _of_posterior("plot_pair", im, options)


def plot_energy(im: ImpactModel, **options: Any) -> PlotCollection:
    """Draw how the energy of Hamiltonian chains moves; ``arviz_plots.plot_energy``.

    Parameters
    ----------
    im : ImpactModel
        A model fitted by NUTS or HMC.
    **options
        ArviZ's own, such as `show_bfmi`, `backend`.

    Returns
    -------
    arviz_plots.PlotCollection
        The picture: `savefig(path)` writes it, `viz` holds its parts.

    Raises
    ------
    InputError
        `no-picture`: the fit has no energy, as a guide's; `plots-missing`.

    Examples
    --------
    >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.arange(100.0)})
    >>> plot_energy(im)
    Traceback (most recent call last):
    aimz.errors.InputError: There is no picture of the energy: ...
    """
    tree = im.posterior_tree
    if "sample_stats" not in tree or "energy" not in tree["sample_stats"]:
        raise refusal("the energy", im, "has none", "Fit with inference='nuts'")
    return judged(_by_arviz("plot_energy", tree, options), im)


def plot_ppc(
    im: ImpactModel,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    site: str | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> PlotCollection:
    """Draw outcomes and draws of the posterior predictive; ``arviz_plots.plot_ppc_dist``.

    Parameters
    ----------
    im : ImpactModel
        A fitted model.
    X, y : array-like
        Rows and their outcomes, as in `ImpactModel.to_datatree`, in memory.
    site : str, optional
        An observed site; default all.
    options : mapping, optional
        ArviZ's own, such as `kind`, `num_samples`, `backend`.
    **kwargs
        The kernel's other arguments, and options of `to_datatree`.

    Returns
    -------
    arviz_plots.PlotCollection
        The picture: `savefig(path)` writes it, `viz` holds its parts.

    Raises
    ------
    InputError
        `site-unknown`, `plots-missing`, `no-picture`: some outcomes are missing, and rows have no
        labels that tell which; and as in `ImpactModel.to_datatree`.

    Examples
    --------
    >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.full(100, 2.0)})
    >>> picture = plot_ppc(im, X, X[:, 0] + 2.0, options={"backend": "none"}, t=np.ones(50))
    """
    tree = _predicted(im, X, y, site, kwargs)
    return judged(_by_arviz("plot_ppc_dist", tree, {**(options or {})}), im)


def plot_loo_pit(
    im: ImpactModel,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    site: str | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> PlotCollection:
    """Draw where each outcome lies in its distribution without it; ``arviz_plots.plot_ecdf_pit``.

    The line lies about zero where the predictive distributions are calibrated. What
    `ImpactModel.loo` refuses is refused, and what it warns of is said.

    Parameters
    ----------
    im : ImpactModel
        A fitted model.
    X, y : array-like
        The rows of the fit and their outcomes, as in `ImpactModel.loo`.
    site : str, optional
        The observed site, where there are several.
    options : mapping, optional
        ArviZ's own, such as `coverage`, `backend`.
    **kwargs
        The kernel's other arguments, and options of `to_datatree`.

    Returns
    -------
    arviz_plots.PlotCollection
        The picture: `savefig(path)` writes it, `viz` holds its parts.

    Raises
    ------
    InputError
        `plots-missing`, and as in `ImpactModel.loo`.

    Examples
    --------
    >>> draws = np.random.default_rng(0).normal(2.0, 0.2, size=400)
    >>> im = ImpactModel(kernel).set_posterior_sample({"b": draws})
    >>> picture = plot_loo_pit(im, X, y, options={"backend": "none"}, t=t)
    """
    im.loo(X, y, site=site, progress=False, **_without(kwargs, "rng_key", "num_prior_samples"))
    chosen: dict[str, Any] = {"method": "pot_c", **(options or {})}
    places = _places(_predicted(im, X, y, site, kwargs), chosen["method"])
    tree = xr.DataTree.from_dict({"/loo_pit": places})
    of = "ETI %" if chosen.get("coverage") else "LOO-PIT"
    chosen["visuals"] = {"xlabel": {"text": of}, **chosen.get("visuals", {})}
    chosen = {"group": "loo_pit", "sample_dims": list(places.dims), **chosen}
    return judged(_by_arviz("plot_ecdf_pit", tree, chosen), im)


def plot_khat(
    im: ImpactModel,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    site: str | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> PlotCollection:
    """Draw how far each row moves the posterior when left out; ``arviz_plots.plot_khat``.

    Rows above the line, at `good_k`, are those whose density without them is not to be trusted.

    Parameters
    ----------
    im : ImpactModel
        A fitted model.
    X, y : array-like
        The rows of the fit and their outcomes, as in `ImpactModel.loo`.
    site : str, optional
        The observed site, where there are several.
    options : mapping, optional
        ArviZ's own, such as `threshold`, which names the rows above it, and `backend`.
    **kwargs
        The kernel's other arguments, and options of `loo`.

    Returns
    -------
    arviz_plots.PlotCollection
        The picture: `savefig(path)` writes it, `viz` holds its parts.

    Raises
    ------
    InputError
        `plots-missing`, and as in `ImpactModel.loo`.

    Examples
    --------
    >>> draws = np.random.default_rng(0).normal(2.0, 0.2, size=400)
    >>> im = ImpactModel(kernel).set_posterior_sample({"b": draws})
    >>> picture = plot_khat(im, X, y, options={"backend": "none"}, t=t)
    """
    record = im.loo(X, y, site=site, progress=False, **kwargs)
    chosen = {**(options or {})}
    lines: dict[str, Any] = {"hlines": {}, **chosen.pop("visuals", {})}
    chosen = {"hline_values": [record.good_k], "visuals": lines, **chosen}
    return judged(_by_arviz("plot_khat", record, chosen), im)


def plot_ranks(ranks: xr.DataTree, **options: Any) -> PlotCollection:
    """Draw the ranks of simulation-based calibration; ``arviz_plots.plot_ecdf_pit``.

    The line lies about zero where posteriors are right; the title counts bad fits among them.

    Parameters
    ----------
    ranks : DataTree
        What `sbc` returned.
    **options
        ArviZ's own, such as `var_names`, `coverage`, `backend`.

    Returns
    -------
    arviz_plots.PlotCollection
        The picture: `savefig(path)` writes it, `viz` holds its parts.

    Raises
    ------
    InputError
        `no-picture`: the tree holds no ranks; `plots-missing`.

    Examples
    --------
    >>> import xarray as xr
    >>> even = xr.Dataset({"b": (("chain", "draw"), (np.arange(50.0) + 0.5)[None] / 50)})
    >>> picture = plot_ranks(xr.DataTree.from_dict({"/prior_sbc": even}), backend="none")
    """
    if "prior_sbc" not in getattr(ranks, "children", ()):
        msg = (
            "There is no picture of ranks: this is no tree with a group prior_sbc. "
            "Pass what aimz.diagnostics.sbc(kernel, X) returned."
        )
        raise InputError(msg, code="no-picture")
    picture = _by_arviz("plot_ecdf_pit", ranks, options)
    told = ranks["prior_sbc"].attrs
    bad = told.get("bad_fits", 0)
    title = f"{bad} of {told.get('repeats', '?')} fits say that they are bad"
    return _titled(picture, title) if bad else picture


# ------------------------------------------------------------------ doors
def _of_posterior(name: str, im: ImpactModel, options: dict[str, Any]) -> PlotCollection:
    """ArviZ's picture of the posterior."""
    return judged(_by_arviz(name, im.posterior_tree, options), im)


def _by_arviz(name: str, shown: object, options: dict[str, Any]) -> PlotCollection:
    """ArviZ's picture; by Matplotlib unless its settings, or these options, say otherwise."""
    base = importlib.import_module("arviz_base")
    if options.get("backend", base.rcParams["plot.backend"]) in ("matplotlib", "auto"):
        check_matplotlib()
    held: Any = getattr(importlib.import_module("arviz_plots"), name)(shown, **options)
    if held.backend == "matplotlib":  # whose labels else lie outside the picture
        held.viz["figure"].item().set_layout_engine("constrained")
    picture: PlotCollection = held
    return picture


def judged(picture: PlotCollection, im: ImpactModel) -> PlotCollection:
    """The picture, which says so where its fit is bad."""
    verdict = str(im.diagnostics_.get("verdict", ""))
    return _titled(picture, f"The fit is {verdict}") if verdict.startswith("bad") else picture


def _titled(picture: PlotCollection, title: str) -> PlotCollection:
    """The picture under a title."""
    held: Any = picture  # whose methods have no types
    held.add_title(title)
    return picture


def _predicted(
    im: ImpactModel, X: ArrayLike, y: ArrayLike | None, site: str | None, kwargs: dict[str, Any]
) -> xr.DataTree:
    """What ArviZ compares: the outcomes that count, and draws and densities of these alone."""
    tree = im.to_datatree(X, y, **kwargs)
    seen = tree["observed_data"].to_dataset()
    sites = [str(name) for name in seen.data_vars]
    if site is not None and site not in sites:
        msg = f"There is no observed site {site!r:.60} to draw. Take one of: {sites!s:.120}."
        raise InputError(msg, code="site-unknown")
    names = sites if site is None else [site]
    seen = seen[names]
    drawn = tree["posterior_predictive"].to_dataset()[names]
    for dim in (dim for dim in seen.dims if drawn.sizes[dim] != seen.sizes[dim]):
        if dim in seen.indexes and dim in drawn.indexes and drawn.indexes[dim].is_unique:
            drawn = drawn.sel({dim: seen[dim]})
    is_whole = all(seen[name].notnull().all() for name in names)
    if not is_whole or any(drawn.sizes[dim] != size for dim, size in seen.sizes.items()):
        msg = (
            "There is no picture of outcomes of which some are missing. Pass the rows that have "
            "them, as X[rows] and y[rows], or label all rows."
        )
        raise InputError(msg, code="no-picture")
    groups = {"posterior": tree["posterior"].to_dataset(), "observed_data": seen}
    groups |= {"posterior_predictive": drawn}
    groups |= {"log_likelihood": tree["log_likelihood"].to_dataset()[names]}
    return xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})


def _places(tree: xr.DataTree, method: str) -> xr.Dataset:
    """Where each outcome lies among its draws without it, of all sites, by ArviZ's weights."""
    stats: Any = importlib.import_module("arviz_stats")
    posterior = tree["posterior"].to_dataset()
    count = posterior.sizes["chain"] * posterior.sizes["draw"]
    efficiency = 1.0
    if posterior.sizes["chain"] > 1:
        ess = stats.ess(posterior, method="mean")
        efficiency = np.concatenate([np.ravel(ess[name]) for name in ess.data_vars]).mean() / count
    weights, k = xr.Dataset(), xr.Dataset()
    for name, densities in tree["log_likelihood"].to_dataset().data_vars.items():
        weights[name], k[name] = xr.apply_ufunc(
            lambda density: _left_out(density, efficiency),
            densities,
            input_core_dims=[["chain", "draw"]],
            output_core_dims=[["chain", "draw"], []],
        )
    smooth = method in ("pot_c", "piet_c")  # tests of what is continuous, as ArviZ has it
    places: xr.Dataset = stats.loo_pit(tree, log_weights=weights, pareto_k=k, pareto_pit=smooth)
    return places


def _left_out(density: np.ndarray, efficiency: float) -> tuple[np.ndarray, np.ndarray]:
    """Log weights of the draws (..., chain, draw) without each outcome, and Pareto k."""
    flat = density.reshape(-1, density.shape[-2] * density.shape[-1])
    weights, k = left_out_weights(flat, efficiency)
    return weights.reshape(density.shape), k.reshape(density.shape[:-2])


def _without(arguments: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in names}


def _engine_of(im: ImpactModel) -> str:
    return str(im.diagnostics_.get("engine", ""))


def refusal(of: str, im: ImpactModel, why: str, advice: str) -> InputError:
    """What is said of a picture that a fit cannot give."""
    engine = _engine_of(im)
    by = f"a fit by '{engine:.30}'" if engine else "a posterior that was set"
    return InputError(f"There is no picture of {of}: {by} {why}. {advice}.", code="no-picture")
