"""One prediction, measured in a process of its own; `predict.py` starts it, once per measurement.

The plan comes as JSON in the first argument, the measures leave as JSON on the last line of the
output. The file needs nothing but the installed `aimz` and what that depends on, so that any
environment's interpreter can run it. The call is made `calls` times: the first compiles, the others
do not. Time and peak memory belong to the call alone: the rows and the posterior draws exist before
it, and results are read back after it.
"""

import gc
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS, SLABS, SLAB_ROWS = 10, 8, 1_000


@dataclass(frozen=True)
class Plan:
    """What to measure: `library` is aimz or numpyro, `store` disk or memory."""

    library: str
    outcome: str
    store: str
    rows: int
    draws: int
    directory: str
    batch_size: int | None = None
    devices: int | None = None
    calls: int = 2


# ------------------------------------------------------------------ the model


def linear(X: Any, y: Any = None) -> None:
    import numpyro
    from numpyro import distributions as dist

    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([COLUMNS]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X @ b, sigma), obs=y)


def logistic(X: Any, y: Any = None) -> None:
    import numpyro
    from numpyro import distributions as dist

    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([COLUMNS]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=a + X @ b), obs=y)


KERNELS: dict[str, Callable[..., None]] = {"linear": linear, "logistic": logistic}


def posterior(outcome: str, draws: int) -> dict[str, np.ndarray]:
    """Draws of the latent sites, the same ones in every process."""
    rng = np.random.default_rng(1)
    values = {
        "a": rng.normal(0.3, 0.1, draws),
        "b": rng.normal(np.linspace(-0.4, 0.4, COLUMNS), 0.1, (draws, COLUMNS)),
    }
    if outcome == "linear":
        values["sigma"] = rng.uniform(0.5, 1.5, draws)
    return {name: value.astype(np.float32) for name, value in values.items()}


def covariates(rows: int) -> np.ndarray:
    """Rows of standard normal covariates."""
    return np.random.default_rng(2).standard_normal((rows, COLUMNS), dtype=np.float32)


# ------------------------------------------------------------------ the call


def with_aimz(plan: Plan, X: Any) -> Callable[[], Any]:
    """`predict` of the environment's aimz, by calls that every version of it has."""
    import jax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import Adam

    from aimz import ImpactModel

    kernel = KERNELS[plan.outcome]
    engine = SVI(kernel, AutoNormal(kernel), Adam(1e-2), Trace_ELBO())
    im = ImpactModel(kernel, rng_key=jax.random.key(0), inference=engine)
    im.set_posterior_sample(posterior(plan.outcome, plan.draws))
    settings: dict[str, Any] = {"store": "memory"}
    if plan.store == "disk":
        settings = {"store": "persistent", "output_dir": plan.directory}
    if plan.batch_size is not None:
        settings["batch_size"] = plan.batch_size

    def call() -> Any:
        tree: Any = im.predict(X, progress=False, **settings)
        return tree["posterior_predictive"]["y"][0]

    return call


def with_numpyro(plan: Plan, X: np.ndarray) -> Callable[[], Any]:
    """`numpyro.infer.Predictive`, jitted over the whole batch, as a numpy array."""
    import jax
    from numpyro.infer import Predictive

    draws = posterior(plan.outcome, plan.draws)
    predictive = Predictive(KERNELS[plan.outcome], draws, return_sites=["y"], parallel=True)
    compiled = jax.jit(lambda key, X: predictive(key, X)["y"])
    return lambda: np.asarray(compiled(jax.random.key(0), X))


# ------------------------------------------------------------------ what is measured


def peak_memory() -> int:
    """Bytes of the largest resident set since the process or `reset_peak` began."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> None:
    """Forget the largest resident set so far, where the system can."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def bytes_under(directory: Path) -> int:
    """Bytes in the files under a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def timed(call: Callable[[], Any], directory: Path) -> tuple[dict[str, float], Any]:
    """Seconds of clock and processors, peak memory and disk bytes of one call, and its result."""
    gc.collect()
    os.sync()  # what an earlier call wrote is not this one's to wait for
    reset_peak()
    held = bytes_under(directory)
    begin, busy = time.perf_counter(), time.process_time()
    result = call()
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    return {
        "seconds": seconds,
        "cpu": busy,
        "peak": peak_memory(),
        "disk": bytes_under(directory) - held,
    }, result


def slabs(rows: int) -> Iterator[slice]:
    """Slices of rows, evenly spaced from the first row to the last."""
    size = min(rows, SLAB_ROWS)
    for first in np.linspace(0, rows - size, SLABS).astype(int):
        yield slice(int(first), int(first) + size)


def residuals(plan: Plan, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Outcomes (draw, row) less each draw's mean of each row, in its standard deviations."""
    draws = {k: v.astype(np.float64) for k, v in posterior(plan.outcome, plan.draws).items()}
    eta = draws["a"][:, None] + draws["b"] @ X.T
    if plan.outcome == "linear":
        return np.asarray((y - eta) / draws["sigma"][:, None])
    mean = 1 / (1 + np.exp(-eta))
    return np.asarray((y - mean) / np.sqrt(mean * (1 - mean)))


def read_back(plan: Plan, X: Any, result: Any) -> dict[str, float]:
    """Mean and standard deviation of the residuals, which a right result has at 0 and 1."""
    assert result.shape == (plan.draws, plan.rows), result.shape
    parts = [residuals(plan, X[rows], np.asarray(result[:, rows])) for rows in slabs(plan.rows)]
    values = np.concatenate([part.ravel() for part in parts])
    mean, sd = float(values.mean()), float(values.std())
    tolerance = 10 / np.sqrt(values.size)
    assert abs(mean) < tolerance, (mean, tolerance)
    assert abs(sd - 1) < tolerance, (sd, tolerance)
    return {"mean": mean, "sd": sd}


def measure(plan: Plan) -> dict[str, Any]:
    """Make the calls of a plan and measure each."""
    begin = time.perf_counter()
    import jax
    import numpyro  # noqa: F401  # its import is timed

    if plan.library == "aimz":
        import aimz  # noqa: F401  # its import is timed
    imported = time.perf_counter() - begin
    if plan.devices is not None:
        jax.config.update("jax_num_cpu_devices", plan.devices)
    directory, X = Path(plan.directory), covariates(plan.rows)
    call = (with_aimz if plan.library == "aimz" else with_numpyro)(plan, X)
    calls, checks = [], {}
    for _ in range(plan.calls):
        measures, result = timed(call, directory)
        calls.append(measures)
        checks = read_back(plan, X, result)
        # What it wrote stays: ext4 makes files slowly for minutes after others were deleted.
        del result
    names = dict.fromkeys([plan.library, "numpyro", "jax"])
    return {
        "plan": asdict(plan),
        "import": imported,
        "calls": calls,
        "check": checks,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {n: importlib.metadata.version(n) for n in names},
        "file": str(sys.modules["aimz"].__file__) if plan.library == "aimz" else "",
    }


if __name__ == "__main__":
    print(json.dumps(measure(Plan(**json.loads(sys.argv[1])))))
