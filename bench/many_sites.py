"""What a first fit of many scalar sites costs, beside NumPyro's own of the same steps.

A kernel that writes each coefficient as a site of its own is nearly all compilation. Ours finds the
mode, learns a full-rank normal, draws and looks at the guide's shape; NumPyro's learns an
`AutoMultivariateNormal` and draws. Each is a process of its own, in turn; machines differ, and are
busy: what counts is the ratio of seconds of the processor in one run of this program.

    python bench/many_sites.py
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

ROWS, DRAWS = 200, 1000


def data(sites: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, sites)).astype(np.float32)
    return X, (X @ rng.normal(size=sites) + rng.normal(size=ROWS)).astype(np.float32)


def kernel_of(sites: int) -> Callable[..., Any]:
    """A regression with a site for each coefficient."""
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as dist

    def kernel(X: Any, y: Any = None) -> None:
        b = jnp.stack([numpyro.sample(f"b{n}", dist.Normal(0.0, 1.0)) for n in range(sites)])
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)

    return kernel


def by_aimz(sites: int, steps: int) -> None:
    from aimz import ImpactModel

    X, y = data(sites)
    im = ImpactModel(kernel_of(sites), inference="svi", num_samples=DRAWS)
    im.fit_on_batch(X, y, num_steps=steps, progress=False)


def by_numpyro(sites: int, steps: int) -> None:
    import jax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal
    from numpyro.optim import Adam

    X, y = data(sites)
    kernel = kernel_of(sites)
    guide = AutoMultivariateNormal(kernel)
    svi = SVI(kernel, guide, Adam(0.01), Trace_ELBO())
    result = svi.run(jax.random.key(0), steps, X, y, progress_bar=False)
    draws = guide.sample_posterior(jax.random.key(1), result.params, sample_shape=(DRAWS,))
    jax.block_until_ready(draws)


def seconds(library: str, sites: int, steps: int) -> float:
    """Seconds of the processor that a new process takes for the fit, imports apart."""
    command = [sys.executable, __file__, "--sites", str(sites), "--steps", str(steps)]
    done = subprocess.run(  # noqa: S603  # this file, a name and numbers
        [*command, "--only", library], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def once(library: str, sites: int, steps: int) -> None:
    import aimz  # noqa: F401  # both begin with the same imports

    begun = time.process_time()
    {"aimz": by_aimz, "numpyro": by_numpyro}[library](sites, steps)
    print(time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sites", type=int, default=120, help="scalar sites (120)")
    parser.add_argument("--steps", type=int, default=300, help="steps of the fit (300)")
    parser.add_argument("--runs", type=int, default=1, help="processes for each (1)")
    parser.add_argument("--only", choices=("aimz", "numpyro"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        once(asked.only, asked.sites, asked.steps)
        return
    pairs = [
        tuple(seconds(library, asked.sites, asked.steps) for library in ("numpyro", "aimz"))
        for _ in range(asked.runs)
    ]
    theirs, ours = (median(values) for values in zip(*pairs, strict=True))
    ratio = median(own / other for other, own in pairs)
    print(f"{asked.sites} sites: NumPyro {theirs:.1f} s, aimz {ours:.1f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
