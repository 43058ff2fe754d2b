"""What integrating out a state saves a sampler. Run it with `python bench/series.py [steps]`.

A local level is written three times: as `aimz.kernels.kalman`, which integrates the level out; as a
scan that samples the level in each step; and as a sum of standard normal steps, without a scan.
`gradient` are CPU milliseconds of one gradient of the log density, `gradients` how many a chain of
NUTS takes, and `ess` the effective draws of the level's step: CPU seconds for each hundred of them
are what a fit costs.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.contrib.control_flow import scan
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import initialize_model

from aimz.kernels import kalman

NOISE, DRAWS, TIMES = 0.5, 500, 200


def integrated(y: Any) -> None:
    step = numpyro.sample("step", dist.HalfNormal(1.0))
    series: dict[str, Any] = {"transition": [[1.0]], "noise": [step], "observe": [1.0]}
    kalman("y", jnp.zeros(len(y)), **series, scale=NOISE, spread=3.0, obs=y)


def scanned(y: Any) -> None:
    step = numpyro.sample("step", dist.HalfNormal(1.0))

    def move(level: Any, value: Any) -> tuple[Any, None]:
        level = numpyro.sample("level", dist.Normal(level, step))
        numpyro.sample("y", dist.Normal(level, NOISE), obs=value)
        return level, None

    first = numpyro.sample("first", dist.Normal(0.0, 3.0))
    numpyro.sample("y0", dist.Normal(first, NOISE), obs=y[0])
    scan(move, first, y[1:])


def summed(y: Any) -> None:
    step = numpyro.sample("step", dist.HalfNormal(1.0))
    first = numpyro.sample("first", dist.Normal(0.0, 3.0))
    moves = numpyro.sample("moves", dist.Normal(0.0, 1.0).expand([len(y) - 1]).to_event(1))
    level = first + step * jnp.concatenate([jnp.zeros(1), jnp.cumsum(moves)])
    numpyro.sample("y", dist.Normal(level, NOISE).to_event(1), obs=y)


def gradient(kernel: Callable[..., None], y: jax.Array) -> float:
    """CPU milliseconds of one gradient, compiled, in a loop of its own as a sampler's is."""
    start = initialize_model(jax.random.key(0), kernel, model_args=(y,))
    potential, point = start.potential_fn, start.param_info.z

    @jax.jit
    def many(at: Any) -> Any:
        def once(_: int, now: Any) -> Any:
            slope = jax.grad(potential)(now)
            return jax.tree.map(lambda value, own: value - 1e-6 * own, now, slope)

        return jax.lax.fori_loop(0, TIMES, once, at)

    jax.block_until_ready(many(point))
    before = time.process_time()
    jax.block_until_ready(many(point))
    return 1e3 * (time.process_time() - before) / TIMES


def measured(kernel: Callable[..., None], y: jax.Array) -> dict[str, float]:
    """What a gradient costs, how many a chain takes, and how much it says of the step."""
    chain = MCMC(NUTS(kernel), num_warmup=DRAWS, num_samples=DRAWS, progress_bar=False)
    chain.warmup(jax.random.key(1), y, extra_fields=("num_steps",), collect_warmup=True)
    taken = int(np.sum(chain.get_extra_fields()["num_steps"]))
    chain.run(jax.random.key(2), y, extra_fields=("num_steps", "diverging"))
    fields = chain.get_extra_fields()
    drawn = np.asarray(chain.get_samples(group_by_chain=True)["step"])
    ess = float(az.ess(drawn))
    price, taken = gradient(kernel, y), taken + int(np.sum(fields["num_steps"]))
    found = {"gradient": price, "gradients": taken, "ess": ess, "step": float(drawn.mean())}
    found["diverging"] = int(np.sum(fields["diverging"]))
    return found | {"seconds per 100": price * taken / ess / 10}


def main(steps: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    level = np.cumsum(0.3 * rng.normal(size=steps))
    y = jnp.asarray(level + NOISE * rng.normal(size=steps), jnp.float32)
    kernels = {kernel.__name__: measured(kernel, y) for kernel in (integrated, scanned, summed)}
    table = pd.DataFrame(kernels).T
    print(table.round(3).to_string())
    return table


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
