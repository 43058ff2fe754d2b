"""Time small warm calls here against NumPyro's own `Predictive` under `jax.jit`, turn by turn.

Logistic regression on 5 covariates under 1,000 given posterior draws. First 100 rows again and
again; then requests of 1 to 100 rows, mixed, as a service gets them, where plain NumPyro compiles
for each new number of rows. Both take turns in one process. The table has the median and the least
milliseconds of a call, their ratio, and what was traced and compiled here.

    python bench/small_calls.py
    python bench/small_calls.py --requests 20
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro.infer import Predictive

import aimz
from aimz.programs.tracing import program_stats

COLUMNS, DRAWS = 5, 1_000


def kernel(X: Any, y: Any = None) -> None:
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([COLUMNS]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=a + X @ b), obs=y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=100, help="warm calls of 100 rows")
    parser.add_argument("--requests", type=int, default=60, help="requests of 1 to 100 rows")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    draws = {
        "a": rng.normal(size=DRAWS).astype(np.float32),
        "b": rng.normal(size=(DRAWS, COLUMNS)).astype(np.float32),
    }
    model = aimz.ImpactModel(kernel).set_posterior_sample(draws)
    predictive = jax.jit(Predictive(kernel, draws))
    key = jax.random.key(0)
    entrants: dict[str, Callable[[np.ndarray], Any]] = {
        "aimz": model.predict_on_batch,
        "NumPyro, jitted": lambda X: np.asarray(predictive(key, X)["y"]),
    }
    same = [rng.normal(size=(100, COLUMNS)).astype(np.float32) for _ in range(options.calls)]
    for call in entrants.values():  # the first compiles, the second knows
        call(same[0])
        call(same[1])
    report("100 rows, warm", entrants, same)
    sizes = rng.integers(1, 101, size=options.requests)
    mixed = [rng.normal(size=(size, COLUMNS)).astype(np.float32) for size in sizes]
    report(f"{options.requests} requests of 1 to 100 rows", entrants, mixed)


def report(
    title: str, entrants: dict[str, Callable[[np.ndarray], Any]], inputs: Sequence[np.ndarray]
) -> None:
    """Let all take turns on the same inputs, and print a row for each."""
    taken: dict[str, list[float]] = {name: [] for name in entrants}
    before = program_stats()
    for X in inputs:
        for name, call in entrants.items():
            start = time.perf_counter()
            call(X)
            taken[name].append(1000 * (time.perf_counter() - start))
    after = program_stats()
    print(f"\n{title}: {after['traced'] - before['traced']} programs traced here, ", end="")
    print(f"{after['made'] - before['made']} of them new")
    print(f"{'':18}{'median ms':>12}{'least ms':>12}{'ratio':>8}")
    least = min(taken[list(taken)[-1]])
    for name, times in taken.items():
        ratio = min(times) / least
        print(f"{name:18}{statistics.median(times):12.2f}{min(times):12.2f}{ratio:8.1f}")


if __name__ == "__main__":
    main()
