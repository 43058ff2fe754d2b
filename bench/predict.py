"""Time `predict_on_batch` against `numpyro.infer.Predictive` on the same draws, in one process.

Both draw the outcome of 4,000 rows under 1,000 posterior draws and bring it to the host as a numpy
array. Runs alternate, after one of each that compiles; the ratio of medians is what counts, since
the seconds depend on the machine. Run it with `make bench`.
"""

import statistics
import time

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import Predictive

from aimz import ImpactModel

ROWS, DRAWS, COLUMNS, RUNS = 4_000, 1_000, 8, 9


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, sigma), obs=y)


def seconds(call):
    begin = time.perf_counter()
    result = call()
    assert result.shape == (DRAWS, ROWS)
    return time.perf_counter() - begin, result


def main():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    draws = {
        "b": rng.normal(size=(DRAWS, COLUMNS)).astype(np.float32),
        "sigma": rng.uniform(0.5, 1.5, DRAWS).astype(np.float32),
    }
    im = ImpactModel(kernel).set_posterior_sample(draws)
    default = Predictive(kernel, draws, return_sites=["y"])
    parallel = Predictive(kernel, draws, return_sites=["y"], parallel=True)
    compiled = jax.jit(lambda key, X: parallel(key, X)["y"])
    key = jax.random.key(0)

    calls = {
        "aimz": lambda: im.predict_on_batch(X, return_datatree=False)["y"],
        "Predictive": lambda: np.asarray(default(key, X)["y"]),
        "Predictive, parallel": lambda: np.asarray(parallel(key, X)["y"]),
        "Predictive, jitted": lambda: np.asarray(compiled(key, X)),
    }
    for name, call in calls.items():
        first, result = seconds(call)
        print(
            f"{name:<24} first call {first:5.2f} s  mean {result.mean():7.4f} sd {result.std():.4f}"
        )
    times = {name: [] for name in calls}
    for _ in range(RUNS):
        for name, call in calls.items():
            times[name].append(seconds(call)[0])
    ours = statistics.median(times["aimz"])
    device = jax.devices()[0].device_kind
    print(f"\n{ROWS:,} rows x {DRAWS:,} draws, median of {RUNS} runs on {device}")
    for name, values in times.items():
        median = statistics.median(values)
        rate = ROWS * DRAWS / median / 1e6
        print(
            f"{name:<24} {median:6.3f} s  ({min(values):.3f} to {max(values):.3f})  "
            f"{rate:6.1f} million/s  {median / ours:5.2f} x aimz"
        )


if __name__ == "__main__":
    main()
