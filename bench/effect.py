"""Time an average effect here against the published package of the same name, turn by turn.

Two scenarios of a logistic regression on 10 covariates and a treatment, under given draws, then
the average effect and its interval. The published package predicts both and subtracts them, by
its `estimate_effect`; here it is one call of `effect`, once for means of outcomes, which is what
`effect` compares by default, and once for outcomes, as the published package does. Every
measurement is a process of its own, and the libraries take turns.
The table has medians over the runs: seconds of the first call, which compiles, and of the second,
the largest resident set beyond that before the calls, and the estimate.

    python bench/effect.py --quick                               # does it run?
    python bench/effect.py                                       # the claim
    python bench/effect.py --skip-peer --rows 10000000 --draws 200 --groups 10   # the scale

The published package lives in an environment of its own, made on first use with this interpreter,
or named by `--peer-python`.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
COLUMNS = 10

type Answer = tuple[float, float, float]


def kernel(X: Any, t: Any, y: Any = None) -> None:
    import numpyro
    from numpyro import distributions as dist

    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([COLUMNS]).to_event(1))
    effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=X @ b + effect * t), obs=y)


def fitted(draws: int) -> Any:
    """A model of either library, by calls that both have."""
    import jax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import Adam

    from aimz import ImpactModel

    rng = np.random.default_rng(1)
    values = {
        "b": rng.normal(0.0, 0.2, (draws, COLUMNS)).astype(np.float32),
        "effect": rng.normal(0.5, 0.1, draws).astype(np.float32),
    }
    engine = SVI(kernel, AutoNormal(kernel), Adam(1e-2), Trace_ELBO())
    im: Any = ImpactModel(kernel, rng_key=jax.random.key(0), inference=engine)
    im.set_posterior_sample(values)
    return im


def by_published(X: Any, t: Any, draws: int, _: int, __: str) -> Callable[[], Answer]:
    im = fitted(draws)

    def call() -> Answer:
        arms = [im.predict(X, t=np.full_like(t, arm), progress=False) for arm in (0.0, 1.0)]
        tree = im.estimate_effect(output_baseline=arms[0], output_intervention=arms[1])
        rows = tree["posterior_predictive"]["y"]
        effect = rows.mean(rows.dims[-1]).to_numpy().ravel()
        for arm in arms:
            arm.close()
        low, high = np.quantile(effect, [0.055, 0.945])
        return float(effect.mean()), float(low), float(high)

    return call


def by_aimz(X: Any, t: Any, draws: int, groups: int, target: str) -> Callable[[], Answer]:
    im = fitted(draws)
    by_group = {"estimand": "cate", "by": np.arange(len(X)) % groups if groups else None}
    natural: dict[str, Any] = {"t": t, "target": target, "progress": False}

    def call() -> Answer:
        effect = im.effect(X, {"t": 0.0}, {"t": 1.0}, **natural)
        if groups:
            im.effect(X, {"t": 0.0}, {"t": 1.0}, **natural, **by_group)
        table = effect.summary(ci_prob=0.89, ci_kind="eti")
        mean, low, high = table[["mean", "eti89_lb", "eti89_ub"]].iloc[0]
        return float(mean), float(low), float(high)

    return call


def measure(subject: str, rows: int, draws: int, groups: int) -> None:
    """Two calls, each timed; prints JSON."""
    sys.path.insert(0, str(HERE))
    from measure import peak_memory, reset_peak

    rng = np.random.default_rng(2)
    X = rng.standard_normal((rows, COLUMNS), dtype=np.float32)
    t = (X[:, 0] + 2.0 * rng.standard_normal(rows) > 0).astype(np.float32)
    library, _, target = subject.partition(" ")
    call = {"published": by_published, "here": by_aimz}[library](X, t, draws, groups, target)
    reset_peak()
    before = peak_memory()
    seconds = []
    answer: Answer | None = None
    for _ in range(2):
        begin = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - begin)
    more = (peak_memory() - before) / 1e6
    print(json.dumps({"seconds": seconds, "more": more, "answer": answer}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows, one run")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--draws", type=int, default=1_000)
    parser.add_argument("--groups", type=int, default=0, help="also the effect by group, here")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer-python", help="interpreter that has the published package")
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.draws, options.runs = 5_000, 100, 1
    if options.one:
        measure(options.one, options.rows, options.draws, options.groups)
        return
    from predict import line, peer_python, run

    pythons = {} if options.skip_peer else {"published": options.peer_python or peer_python()}
    pythons |= dict.fromkeys(("here expectation", "here prediction"), sys.executable)
    found: dict[str, list[Any]] = {name: [] for name in pythons}
    for _ in range(options.runs):
        for name, python in pythons.items():
            sizes = [f"--{n}={getattr(options, n)}" for n in ("rows", "draws", "groups")]
            with tempfile.TemporaryDirectory() as elsewhere:
                output = run(
                    [python, str(HERE / "effect.py"), "--one", name, *sizes], Path(elsewhere)
                )
            found[name].append(json.loads(output.splitlines()[-1]))
            print(name, found[name][-1], file=sys.stderr)
    print(line("library", "cold s", "warm s", "more MB", "effect", "89% interval", "values/s"))
    print(line(*["---"] * 7))
    for name, runs in found.items():
        cold, warm = (statistics.median(r["seconds"][n] for r in runs) for n in (0, 1))
        more = statistics.median(r["more"] for r in runs)
        mean, low, high = runs[0]["answer"]
        passes = 2 if options.groups else 1
        rate = 2 * passes * options.rows * options.draws / warm
        cells = (f"{cold:.2f}", f"{warm:.2f}", f"{more:,.0f}", f"{mean:.5f}")
        print(line(name, *cells, f"{low:.5f} to {high:.5f}", f"{rate / 1e6:,.0f} M"))


if __name__ == "__main__":
    main()
