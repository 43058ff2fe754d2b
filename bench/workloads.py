"""What is measured, as one table, and how: each workload runs in a process of its own.

`benchmark.py` starts this file with the interpreter of either environment; it needs nothing but
NumPy, JAX, NumPyro and the `aimz` that is there, by calls that both packages of that name have. A
plan comes as JSON in the first argument, the measures leave as JSON on the last line. Rows and
posterior draws exist before a call is timed; the first call compiles, the others do not.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from measure import KERNELS, bytes_under, covariates, peak_memory, posterior, reset_peak

type Sizes = dict[str, Any]
type Work = Callable[[], Any]

BOTH = ("published", "here")
WITH_NUMPYRO = (*BOTH, "numpyro")


@dataclass(frozen=True)
class Workload:
    """One row of the table: what runs, on what, by whom, and what is wanted.

    `measure` is "cold" (the first call), "warm" (the later ones) or "process" (all of a process,
    imports included). A goal is either how many times faster than `rival` the value is, or the most
    seconds that it takes.
    """

    name: str
    what: str
    kind: str
    sizes: Sizes
    entrants: tuple[str, ...] = BOTH
    measure: str = "warm"
    calls: int = 3
    quick: Sizes = field(default_factory=dict)
    rival: str = "published"
    faster: float | None = None
    most: float | None = None
    rounds: int = 5  # at most
    of: str = ""  # the workload whose processes measure this, too
    figure: str = ""  # instead of the table


_SMALL: Sizes = {"rows": [100], "draws": 1000}
_MIXED: Sizes = {"rows": np.random.default_rng(0).integers(1, 101, 60).tolist(), "draws": 1000}
_NET: Sizes = {"outcome": "neural", "rows": 10_000, "draws": 1000, "store": "disk"}
_LARGE: Sizes = {"rows": 200_000, "draws": 1000}
_FEW: Sizes = {"rows": 5_000, "draws": 100}
_FIT: Sizes = {"rows": 500_000, "columns": 20, "batch": 4096, "epochs": 3}
_STEPS: Sizes = {"rows": 20_000, "columns": 5, "batch": 64, "epochs": 3}
_ROWS: Sizes = {"outcome": "linear", "rows": 500_000, "draws": 1000, "store": "disk"}
_COLD: dict[str, Any] = {"measure": "cold", "calls": 1}
_PROCESS: dict[str, Any] = {"measure": "process", "calls": 1}

WORKLOADS = (
    Workload(
        "small",
        "request of 100 rows x 1,000 draws, the same size again",
        "requests",
        _SMALL,
        WITH_NUMPYRO,
        calls=60,
        most=0.003,
    ),
    Workload(
        "first",
        "the first such request of a process",
        "requests",
        _SMALL,
        WITH_NUMPYRO,
        faster=1.0,
        of="small",
        **_COLD,
    ),
    Workload(
        "mixed",
        "60 requests of 1 to 100 rows, mixed: all of them",
        "requests",
        _MIXED,
        faster=20.0,
        quick={"rows": [3, 17, 50]},
        **_COLD,
    ),
    Workload(
        "neural",
        "neural net 100-128-128-128-1, 10,000 rows x 1,000 draws, to disk",
        "predict",
        _NET,
        calls=2,
        faster=1.25,
        quick={"rows": 1000, "draws": 100},
    ),
    Workload(
        "difference",
        "`estimate_effect` of two dicts, 200,000 rows, and its mean",
        "difference",
        _LARGE,
        calls=2,
        faster=6.0,
        quick=_FEW,
    ),
    Workload(
        "average",
        "the average effect of the same: by `effect` here",
        "average",
        _LARGE,
        calls=2,
        quick=_FEW,
    ),
    Workload(
        "fit",
        "minibatch `fit`, 500,000 x 20, batch 4,096, 3 epochs, the second one",
        "fit",
        _FIT,
        calls=2,
        faster=2.0,
        quick={"rows": 20_000},
    ),
    Workload(
        "steps",
        "minibatch `fit`, 20,000 x 5, batch 64, 3 epochs, the second one",
        "fit",
        _STEPS,
        calls=2,
        quick={"rows": 2_000},
    ),
    Workload(
        "densities",
        "`log_likelihood`, 200,000 rows x 1,000 draws, to disk",
        "densities",
        _LARGE,
        calls=2,
        faster=5.0,
        quick=_FEW,
    ),
    Workload(
        "left out",
        "leave-one-out, 8,000 rows x 1,000 draws; for ArviZ the matrix is in memory",
        "left out",
        {"rows": 8_000, "draws": 1000},
        ("arviz", "here"),
        rival="arviz",
        faster=8.0,
        quick={"rows": 500, "draws": 200},
    ),
    Workload(
        "linear",
        "`predict`, linear, 500,000 rows x 1,000 draws, to disk",
        "predict",
        _ROWS,
        calls=2,
        quick=_FEW,
    ),
    Workload(
        "logistic",
        "`predict`, logistic, 500,000 rows x 1,000 draws, to disk",
        "predict",
        {**_ROWS, "outcome": "logistic"},
        calls=2,
        quick=_FEW,
    ),
    Workload(
        "memory",
        "`predict`, linear, 100,000 rows x 1,000 draws, in memory",
        "predict",
        {**_ROWS, "rows": 100_000, "store": "memory"},
        WITH_NUMPYRO,
        quick=_FEW,
    ),
    Workload(
        "served",
        "first request of 10 rows to a model that MLflow has loaded",
        "served",
        {"rows": 10, "draws": 1000},
        ("here",),
        most=0.3,
        **_COLD,
    ),
    Workload(
        "morning",
        "a morning: import, two fits, a prediction and an effect of 100 rows",
        "morning",
        {"rows": 100},
        WITH_NUMPYRO,
        most=14.0,
        **_PROCESS,
    ),
    Workload(
        "import",
        "`import aimz`, beside `import numpyro`",
        "import",
        {},
        WITH_NUMPYRO,
        rival="numpyro",
        faster=1 / 1.3,
        **_PROCESS,
    ),
    Workload(
        "sites",
        "the first fit of 120 scalar sites, 300 steps of a full-rank guide",
        "sites",
        {"sites": 120, "steps": 300},
        ("here", "numpyro"),
        rival="numpyro",
        quick={"sites": 10, "steps": 50},
        **_COLD,
    ),
    Workload(
        "cache",
        "the first request of a process, JAX's persistent compilation cache filled",
        "requests",
        {**_SMALL, "cache": True},
        ("here",),
        **_COLD,
    ),
    Workload(
        "cached sites",
        "the first fit of 120 scalar sites, the same cache filled",
        "sites",
        {"sites": 120, "steps": 300, "cache": True},
        ("here",),
        quick={"sites": 10, "steps": 50},
        rounds=2,
        **_COLD,
    ),
    *(
        Workload(
            f"latency {rows}",
            f"a request of {rows:,} rows",
            "requests",
            {"rows": [rows], "draws": 1000},
            WITH_NUMPYRO,
            calls=6,
            quick={"draws": 100},
            rounds=2,
            figure="latency",
        )
        for rows in (1, 10, 1_000, 10_000)
    ),
    *(
        Workload(
            f"growth {rows}",
            f"`predict`, logistic, {rows:,} rows x 100 draws, to disk",
            "predict",
            {"outcome": "logistic", "rows": rows, "draws": 100, "store": "disk"},
            BOTH if rows <= 10**6 else ("here",),
            quick={"rows": rows // 100},
            rounds=2,
            figure="growth",
            **_COLD,
        )
        for rows in (10**4, 10**5, 10**6, 10**7)
    ),
)


# ------------------------------------------------------------------ models that both packages take

WIDTHS = (100, 128, 128, 128, 1)


def neural(X: Any, y: Any = None) -> None:
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as dist

    hidden = X
    for layer, (before, after) in enumerate(pairwise(WIDTHS)):
        law = dist.Normal(0.0, 1.0).expand([before, after]).to_event(2)
        hidden = hidden @ numpyro.sample(f"w{layer}", law)
        hidden = jnp.tanh(hidden) if after > 1 else hidden
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(hidden[:, 0], 1.0), obs=y)


def treated(X: Any, t: Any, y: Any = None) -> None:
    import numpyro
    from numpyro import distributions as dist

    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b + effect * t, 1.0), obs=y)


def regression(X: Any, y: Any = None) -> None:
    import numpyro
    from numpyro import distributions as dist

    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, sigma), obs=y)


def model(kernel: Any, draws: dict[str, Any] | None = None) -> Any:
    """A model of either package, with given draws or without."""
    import jax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import Adam

    from aimz import ImpactModel

    engine = SVI(kernel, AutoNormal(kernel), Adam(1e-2), Trace_ELBO())
    im = ImpactModel(kernel, rng_key=jax.random.key(0), inference=engine)
    if draws is not None:
        im.set_posterior_sample(draws)
    return im


def draws_of(outcome: str, draws: int) -> dict[str, Any]:
    """Posterior draws, the same in every process."""
    rng = np.random.default_rng(1)
    if outcome == "neural":
        shapes = enumerate(pairwise(WIDTHS))
        return {
            f"w{layer}": rng.normal(0.0, before**-0.5, (draws, before, after)).astype(np.float32)
            for layer, (before, after) in shapes
        }
    if outcome == "treated":
        values = {"b": rng.normal(0.0, 0.2, (draws, 10)), "effect": rng.normal(0.5, 0.1, draws)}
        return {name: value.astype(np.float32) for name, value in values.items()}
    return posterior(outcome, draws)


def values_of(tree: Any) -> np.ndarray:
    """Draws as NumPy: what JAX returns may not have been computed yet."""
    return np.asarray(tree["posterior_predictive"]["y"])


def rows_of(count: int, columns: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((count, columns), dtype=np.float32)


# ------------------------------------------------------------------ kinds of work


def requests(library: str, sizes: Sizes, directory: Path) -> Work:
    draws = draws_of("logistic", sizes["draws"])
    inputs = [covariates(rows) for rows in sizes["rows"]]
    if library == "numpyro":
        one = with_numpyro("logistic", draws)
        return lambda: [one(X) for X in inputs]
    im = model(KERNELS["logistic"], draws)
    return lambda: [values_of(im.predict_on_batch(X)) for X in inputs]


def with_numpyro(outcome: str, draws: dict[str, Any]) -> Callable[[Any], Any]:
    """`Predictive` under `jax.jit`, as NumPy."""
    import jax
    from numpyro.infer import Predictive

    predictive = Predictive(KERNELS[outcome], draws, return_sites=["y"], parallel=True)
    compiled = jax.jit(lambda key, X: predictive(key, X)["y"])
    return lambda X: np.asarray(compiled(jax.random.key(0), X))


def predict(library: str, sizes: Sizes, directory: Path) -> Work:
    outcome, draws = sizes["outcome"], draws_of(sizes["outcome"], sizes["draws"])
    X = rows_of(sizes["rows"], WIDTHS[0]) if outcome == "neural" else covariates(sizes["rows"])
    if library == "numpyro":
        one = with_numpyro(outcome, draws)
        return lambda: one(X)
    im = model(neural if outcome == "neural" else KERNELS[outcome], draws)
    if sizes["store"] == "disk":
        return lambda: im.predict(X, output_dir=str(directory), progress=False)
    return lambda: values_of(im.predict(X, store="memory", progress=False))


def _arms(sizes: Sizes) -> tuple[Any, np.ndarray, np.ndarray]:
    X, t = rows_of(sizes["rows"], 10), np.zeros(sizes["rows"], np.float32)
    return model(treated, draws_of("treated", sizes["draws"])), X, t


def difference(library: str, sizes: Sizes, directory: Path) -> Work:
    im, X, t = _arms(sizes)
    without, treated_all = ({"X": X, "t": t + arm, "progress": False} for arm in (0, 1))
    arms = {"args_baseline": without, "args_intervention": treated_all}
    return lambda: float(im.estimate_effect(**arms)["posterior_predictive"]["y"].mean())


def average(library: str, sizes: Sizes, directory: Path) -> Work:
    if library == "published":
        return difference(library, sizes, directory)
    im, X, t = _arms(sizes)
    return lambda: float(im.effect(X, {"t": 0.0}, {"t": 1.0}, t=t, progress=False).draws.mean())


def fit(library: str, sizes: Sizes, directory: Path) -> Work:
    X = rows_of(sizes["rows"], sizes["columns"])
    y = X.sum(axis=1) + np.random.default_rng(3).standard_normal(len(X), dtype=np.float32)
    im = model(regression)
    options = {"batch_size": sizes["batch"], "epochs": sizes["epochs"], "progress": False}
    return lambda: im.fit(X, y, **options)


def _outcomes(sizes: Sizes) -> tuple[Any, np.ndarray, np.ndarray]:
    draws, X = draws_of("linear", sizes["draws"]), covariates(sizes["rows"])
    y = draws["a"].mean() + X @ draws["b"].mean(0)
    y = y + np.random.default_rng(3).standard_normal(len(X), dtype=np.float32)
    return model(KERNELS["linear"], draws), X, y


def densities(library: str, sizes: Sizes, directory: Path) -> Work:
    im, X, y = _outcomes(sizes)
    return lambda: im.log_likelihood(X, y, output_dir=str(directory), progress=False)


def left_out(library: str, sizes: Sizes, directory: Path) -> Work:
    im, X, y = _outcomes(sizes)
    if library == "here":
        return lambda: im.loo(X, y, progress=False)
    import arviz

    tree = im.log_likelihood(X, y, store="memory", progress=False)
    return lambda: arviz.loo(tree)


def served(library: str, sizes: Sizes, directory: Path) -> Work:
    import mlflow

    path, X = str(directory / "model"), covariates(sizes["rows"])
    save = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import workloads; "
    save += f"workloads.save({path!r}, {sizes!r})"
    # Elsewhere, as what this process has compiled would be ready for the first request.
    subprocess.run([sys.executable, "-c", save], check=True, capture_output=True)  # noqa: S603
    loaded = mlflow.pyfunc.load_model(path)
    return lambda: loaded.predict(X)


def save(path: str, sizes: Sizes) -> None:
    """Save a model as MLflow serves it, with an example of its requests."""
    import mlflow

    import aimz.mlflow as flavor

    X = covariates(sizes["rows"])
    im = model(KERNELS["linear"], draws_of("linear", sizes["draws"]))
    means = values_of(im.predict_on_batch(X)).mean(axis=(0, 1))
    signature = mlflow.models.infer_signature(X, means)
    flavor.save_model(im, path, signature=signature, input_example=X)


def morning(library: str, sizes: Sizes, directory: Path) -> Work:
    def call() -> None:
        X = rows_of(sizes["rows"], 3)
        t = (X[:, 0] > 0).astype(np.float32)
        y = X.sum(axis=1) + t
        if library == "numpyro":
            _morning_of_numpyro(X, t, y)
            return
        im, steps = model(treated), {"num_steps": 1000, "progress": False}
        im.fit_on_batch(X, y, t=t, **steps)
        plain = model(regression)
        plain.fit_on_batch(X, y, **steps)
        im.predict(X, t=t, progress=False)
        if library == "here":
            im.effect(X, {"t": 0.0}, {"t": 1.0}, t=t, progress=False).summary()
            return
        arms = [im.predict(X, t=np.full_like(t, arm), progress=False) for arm in (0.0, 1.0)]
        im.estimate_effect(output_baseline=arms[0], output_intervention=arms[1])

    return call


def _morning_of_numpyro(X: Any, t: Any, y: Any) -> None:
    import jax
    from numpyro.infer import SVI, Predictive, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import Adam

    for kernel, arguments in ((treated, {"t": t}), (regression, {})):
        guide = AutoNormal(kernel)
        svi = SVI(kernel, guide, Adam(1e-2), Trace_ELBO())
        run = svi.run(jax.random.key(0), 1000, X, y=y, progress_bar=False, **arguments)
        draws = guide.sample_posterior(jax.random.key(1), run.params, sample_shape=(1000,))
        predictive = Predictive(kernel, draws, return_sites=["y"], parallel=True)
        for arm in (t, 0 * t, 0 * t + 1) if arguments else ():
            np.asarray(predictive(jax.random.key(2), X, t=arm)["y"])


def sites(library: str, sizes: Sizes, directory: Path) -> Work:
    import many_sites

    work = many_sites.by_aimz if library == "here" else many_sites.by_numpyro
    return lambda: work(sizes["sites"], sizes["steps"])


def imported(library: str, sizes: Sizes, directory: Path) -> Work:
    return lambda: None


KINDS: dict[str, Callable[[str, Sizes, Path], Work]] = {
    "requests": requests,
    "predict": predict,
    "difference": difference,
    "average": average,
    "fit": fit,
    "densities": densities,
    "left out": left_out,
    "served": served,
    "morning": morning,
    "sites": sites,
    "import": imported,
}


# ------------------------------------------------------------------ measuring


def resident() -> int:
    """Bytes of the resident set now."""
    with Path("/proc/self/statm").open() as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def busy() -> float:
    """Seconds that all processors of the machine have worked."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    working = [int(ticks) for n, ticks in enumerate(fields[:8]) if n not in (3, 4)]
    return sum(working) / os.sysconf("SC_CLK_TCK")


def share_of_others(worked: float, seconds: float) -> float:
    """The share of all processors that others had; clocks tick, so that it is cut to 0 to 1."""
    return min(1.0, max(0.0, worked / (seconds * (os.cpu_count() or 1))))


#: Seconds. Requests that take less follow one another, as a service answers them: nothing is tidied
#: up between them, which would empty the processor's caches.
SHORT = 0.05


class Meter:
    """Measures of calls: seconds, memory, disk, compilations, and what others took meanwhile."""

    def __init__(self, directory: Path) -> None:
        import jax

        self.directory, self.compilations, self.calls = directory, 0, list[dict[str, float]]()
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.compilations += event.endswith("backend_compile_duration")

    def measure(self, call: Work) -> None:
        if not self.calls or self.calls[-1]["seconds"] > SHORT:
            gc.collect()
            os.sync()  # what an earlier call wrote is not this one's to wait for
        reset_peak()
        before, on_disk, compiled = resident(), bytes_under(self.directory), self.compilations
        all_busy, mine, begin = busy(), time.process_time(), time.perf_counter()
        result = call()
        seconds, mine = time.perf_counter() - begin, time.process_time() - mine
        others = share_of_others(busy() - all_busy - mine, seconds)
        self.calls.append(
            {
                "seconds": seconds,
                "cpu": mine,
                "memory": (peak_memory() - before) / 1e6,
                "disk": (bytes_under(self.directory) - on_disk) / 1e6,
                "compilations": self.compilations - compiled,
                "others": others,
            }
        )
        del result


def keep_compiled(directory: str) -> None:
    """Have JAX keep what it compiles, as the page says."""
    import jax

    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def main() -> None:
    plan = json.loads(sys.argv[1])
    begin, mine, all_busy = time.perf_counter(), time.process_time(), busy()
    library = plan["library"]
    import numpyro

    if library != "numpyro":
        import aimz
    directory = Path(plan["directory"])
    if plan["sizes"].get("cache"):
        keep_compiled(os.environ["BENCH_CACHE"])
    if plan["kind"] == "import":
        meter = None
    else:
        meter = Meter(directory)
        call = KINDS[plan["kind"]](library, plan["sizes"], directory)
        for _ in range(plan["calls"]):
            meter.measure(call)
    seconds, mine = time.perf_counter() - begin, time.process_time() - mine
    others = share_of_others(busy() - all_busy - mine, seconds)
    names = ["numpyro", "jax", *(["aimz"] if library != "numpyro" else [])]
    print(
        json.dumps(
            {
                "calls": meter.calls if meter else [],
                "process": {"seconds": seconds, "cpu": mine, "others": others},
                "versions": {name: importlib.metadata.version(name) for name in names},
                "file": "" if library == "numpyro" else str(aimz.__file__),
                "numpyro": str(numpyro.__version__),
            }
        )
    )


if __name__ == "__main__":
    main()
