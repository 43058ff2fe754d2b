"""Simulation-based calibration: does a posterior hold the parameters that made the data?

Parameters are drawn from the prior and data from the kernel, the data are fitted, and the rank of
each parameter among its posterior draws is noted. Over many fits the ranks of a right posterior are
uniform (Talts, Betancourt, Simpson, Vehtari and Gelman, 2018, arXiv:1804.06788). Chains are thinned
to draws that are nearly independent, as the method needs.

    python -m tests.calibration            # `make calibrate`: three kernels, 240 fits each
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from scipy.stats import chisquare

from aimz import AimzWarning, ImpactModel

__all__ = ["CASES", "Case", "p_values", "ranks"]

ROWS, THIN, RANKS, BINS = 12, 5, 59, 12


def regression(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + b * X[:, 0], sigma), obs=y)


def counts(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.5, 0.5))
    b = numpyro.sample("b", dist.Normal(0.0, 0.5))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Poisson(jnp.exp(a + b * X[:, 0])), obs=y)


def choice(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


@dataclass(frozen=True)
class Case:
    """A kernel, and its parameters with a number each."""

    name: str
    kernel: Callable[..., None]
    parameters: tuple[str, ...]


CASES = (
    Case("linear regression", regression, ("a", "b", "sigma")),
    Case("Poisson regression", counts, ("a", "b")),
    Case("logistic regression", choice, ("b",)),
)


def ranks(case: Case, fits: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rank of each true parameter among RANKS posterior draws, (fit,), by parameter."""
    X = np.random.default_rng(seed).normal(size=(ROWS, 2)).astype(np.float32)
    sampler = MCMC(
        NUTS(case.kernel, target_accept_prob=0.9),
        num_warmup=400,
        num_samples=RANKS * THIN,
        progress_bar=False,
    )
    prior: Any = ImpactModel(case.kernel, rng_key=seed).sample_prior_predictive_on_batch(
        X, num_samples=fits, return_sites=[*case.parameters, "y"], return_datatree=False
    )
    found: dict[str, list[float]] = {}
    for number in range(fits):
        im = ImpactModel(case.kernel, number, sampler, num_samples=RANKS * THIN)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AimzWarning)
            im.fit(X, prior["y"][number].astype(np.float32), progress=False)
        for name in case.parameters:
            draws = im.posterior_tree.posterior[name].values[0, ::THIN]
            truth = prior[name][number]
            for part in np.ndindex(truth.shape):
                rank = np.sum(draws[:, *part] < truth[part])
                found.setdefault(f"{name}{list(part) or ''}", []).append(int(rank))
    return {name: np.array(values) for name, values in found.items()}


def p_values(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Probability of ranks at least so uneven if they are uniform, by a chi-squared test."""
    edges = np.linspace(0, RANKS + 1, BINS + 1)
    return {
        name: float(chisquare(np.histogram(values, edges)[0]).pvalue)
        for name, values in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fits", type=int, default=240)
    fits = parser.parse_args().fits
    worst = 1.0
    print("| kernel | parameter | fits | p of uniform ranks |\n| --- | --- | ---: | ---: |")
    for case in CASES:
        for name, p in p_values(ranks(case, fits)).items():
            print(f"| {case.name} | {name} | {fits} | {p:.3f} |", flush=True)
            worst = min(worst, p)
    if worst <= 0.01:
        raise SystemExit(f"the ranks of one parameter are not uniform: p = {worst:.4f}")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
