"""Simulation-based calibration: whether posteriors hold the parameters that made the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aimz.choices import progress_bar
from aimz.data import check_positive
from aimz.errors import InputError
from aimz.libraries import xr
from aimz.model import ImpactModel, Inference

__all__ = ["sbc"]


# Draws that a truth is ranked among: few, so that those of chains are nearly independent.
_RANKED = 100


def sbc(
    kernel: Callable[..., Any],
    X: ArrayLike,
    *,
    engine: Inference = "auto",
    repeats: int = 100,
    num_samples: int = 1000,
    rng_key: int = 0,
    param_input: str = "X",
    param_output: str = "y",
    progress: bool = True,
    **kwargs: Any,
) -> xr.DataTree:
    """Fit data drawn from the kernel's prior, and rank the truths among their posterior draws.

    Where posteriors are right the ranks are uniform (Talts, Betancourt, Simpson, Vehtari & Gelman,
    2018, "Validating Bayesian inference algorithms with simulation-based calibration"). Ranks that
    crowd at both ends are of posteriors that are too narrow, those in the middle of too wide ones,
    those at one end of posteriors that are off. The first fit compiles the programs of all.

    Parameters
    ----------
    kernel : callable
        The kernel, with proper priors.
    X : array-like, shape (rows, ...)
        The rows that outcomes are drawn for.
    engine : str, SVI, MCMC or engine
        What is checked, as `inference` of `ImpactModel`.
    repeats : int
        Sets of data. A few hundred tell a bias of a third of an sd.
    num_samples : int
        Draws of each fit; a hundred of them, evenly spaced, are ranked among.
    rng_key : int
        Seed of the truths, the data and the fits.
    param_input, param_output : str
        Names of the kernel's arguments for the rows and for the outcome.
    progress : bool
        Show a progress bar.
    **kwargs
        The kernel's other arguments.

    Returns
    -------
    DataTree
        Group `prior_sbc`: for each latent the ranks as numbers between 0 and 1, (chain, draw, ...),
        a draw for each set of data. Draw it with `plot_ranks`. Its
        attributes count the fits that said of themselves that they are bad (`bad_fits`).

    Raises
    ------
    InputError
        `sbc`: the kernel observes another outcome, which would have to be drawn too.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz.diagnostics import sbc
    >>> def kernel(X, y=None):
    ...     mean = numpyro.sample("mean", dist.Normal())
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> ranks = sbc(kernel, np.zeros((5, 1)), engine="svi", repeats=3, progress=False)
    >>> dict(ranks["prior_sbc"]["mean"].sizes)
    {'chain': 1, 'draw': 3}
    """
    check_positive(repeats, "repeats")
    options: dict[str, Any] = {"param_input": param_input, "param_output": param_output}
    im = ImpactModel(kernel, rng_key, engine, num_samples=num_samples, **options)
    y = _drawn(im, X, 1, param_output, kwargs)[param_output].values[0, 0]
    spec = im.fit(X, y, progress=False, on_bad_fit="ignore", **kwargs).kernel_spec
    others = [one.name for one in spec.sites if one.kind == "observed" and one.name != param_output]
    if others:
        msg = (
            f"The kernel also observes '{others[0]}', which is not drawn anew for each fit. "
            f"Make it one outcome with '{param_output}', or leave it out."
        )
        raise InputError(msg, code="sbc")
    sites = [*spec.latents, param_output]
    truths = _drawn(im, X, repeats, sites, kwargs)
    rng = np.random.default_rng(rng_key)
    ranks: dict[str, list[Any]] = {}
    bad = 0
    with progress_bar(repeats, desc="sbc", unit="fit", shown=progress) as bar:
        for repeat in range(repeats):
            y = truths[param_output].isel(chain=0, draw=repeat).values
            seed = int(rng.integers(2**31))
            im.fit(X, y, rng_key=seed, progress=False, on_bad_fit="ignore", **kwargs)
            bad += str(im.diagnostics_.get("verdict", "")).startswith("bad")
            for name, rank in _ranked(rng, truths, im.posterior, repeat).items():
                ranks.setdefault(name, []).append(rank)
            bar.update(1)
    dims = {name: ("chain", "draw", *truths[name].dims[2:]) for name in ranks}
    group = xr.Dataset({name: (dims[name], np.stack(each)[None]) for name, each in ranks.items()})
    attrs = {"engine": str(im.diagnostics_.get("engine", "")), "repeats": repeats, "bad_fits": bad}
    return xr.DataTree.from_dict({"/prior_sbc": group.assign_attrs(attrs)})


def _drawn(
    im: ImpactModel,
    X: ArrayLike,
    count: int,
    sites: str | Sequence[str],
    arguments: Mapping[str, Any],
) -> xr.Dataset:
    """Draws of sites from the prior."""
    tree: Any = im.sample_prior_predictive_on_batch(
        X, num_samples=count, return_sites=sites, **arguments
    )
    drawn: xr.Dataset = tree["prior_predictive"].to_dataset()
    return drawn


def _ranked(
    rng: np.random.Generator,
    truths: xr.Dataset,
    posterior: Mapping[str, np.ndarray],
    repeat: int,
) -> dict[str, np.ndarray]:
    """Ranks between 0 and 1, by site: uniform, where draws and truth are of one distribution.

    Ranks are spread evenly over their interval, and over those of equal draws.
    """
    found = {}
    for name, draws in posterior.items():
        truth = truths[name].isel(chain=0, draw=repeat).values
        taken = draws[:: max(1, len(draws) // _RANKED)]
        below, equal = (taken < truth).sum(axis=0), (taken == truth).sum(axis=0)
        found[name] = (below + rng.random(truth.shape) * (equal + 1)) / (len(taken) + 1)
    return found
