"""How near `CausalRegressor` comes to the truth, on simulated surfaces, and how near its peers do.

    python bench/truth.py aimz --rows 500 1000 --seeds 1       # with aimz installed
    python bench/truth.py peers --rows 500 1000 --seeds 1      # with econml, causalml, stochtree

Each prints a line per data set as JSON; `python bench/truth.py table FILE...` makes the table. The
surfaces are ten, from lines to thresholds, with effects from none to strong, with 10 to 60 columns,
some of them categories, and rows treated for their expected outcome.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Surface(NamedTuple):
    """A way that outcomes come about; prognosis and effect are of columns, (row, column)."""

    name: str
    columns: int
    categories: int
    selection: float
    prognosis: Callable[[np.ndarray], Any]
    effect: Callable[[np.ndarray], Any]


SURFACES = (
    Surface("line, constant", 10, 0, 0.0, lambda X: X[:, :3].sum(1), lambda X: 1.0 + 0 * X[:, 0]),
    Surface(
        "line, constant, selected",
        10,
        0,
        1.0,
        lambda X: X[:, :3].sum(1),
        lambda X: 1.0 + 0 * X[:, 0],
    ),
    Surface("line, line", 10, 2, 1.0, lambda X: X[:, :3].sum(1), lambda X: 1 + 0.5 * X[:, 0]),
    Surface(
        "no effect", 20, 2, 1.0, lambda X: np.sin(2 * X[:, 0]) + X[:, 1], lambda X: 0 * X[:, 0]
    ),
    Surface(
        *("curve, constant", 20, 2, 1.0),
        lambda X: 1.5 * np.sin(1.5 * X[:, 0]) + X[:, 1] ** 2 - 1,
        lambda X: 1.0 + 0 * X[:, 0],
    ),
    Surface(
        *("curve, line", 20, 4, 1.0),
        lambda X: np.exp(0.5 * X[:, 0]) + X[:, 1] * X[:, 2],
        lambda X: 1 + 0.7 * X[:, 1],
    ),
    Surface(
        *("curve, curve", 30, 4, 1.0),
        lambda X: np.abs(X[:, 0]) + X[:, 1],
        lambda X: 1 + np.sin(2 * X[:, 2]),
    ),
    Surface(
        *("step, step", 30, 0, 0.5),
        lambda X: 2.0 * (X[:, 0] > 0.5) + X[:, 1],
        lambda X: 0.5 + 1.5 * (X[:, 1] > 0),
    ),
    Surface(
        *("products", 10, 2, 0.5),
        lambda X: X[:, 0] * X[:, 1] + X[:, 2],
        lambda X: 1 + X[:, 0] * X[:, 1],
    ),
    Surface(
        *("sixty columns", 60, 6, 1.0),
        lambda X: X[:, :5].sum(1) + 0.5 * X[:, 5] ** 2,
        lambda X: 0.5 + 0.5 * X[:, 0],
    ),
)


class DataSet(NamedTuple):
    """Rows with what was done and what came of it, and the truth."""

    surface: str
    seed: int
    X: np.ndarray
    T: np.ndarray
    Y: np.ndarray
    effects: np.ndarray


def data_set(surface: Surface, rows: int, seed: int) -> DataSet:
    """Rows of a surface; its last columns are the codes of categories, as zeros and ones."""
    rng = np.random.default_rng((seed, rows, SURFACES.index(surface)))
    X = rng.normal(size=(rows, surface.columns))
    if surface.categories:
        codes = rng.integers(0, surface.categories, rows)
        X[:, -surface.categories :] = codes[:, None] == np.arange(surface.categories)
    expected = np.asarray(surface.prognosis(X)) + (X[:, -1] if surface.categories else 0.0)
    expected = (expected - expected.mean()) / expected.std()
    effects = np.broadcast_to(surface.effect(X), (rows,)).astype(float)
    chance = 1 / (1 + np.exp(-surface.selection * expected))
    T = (rng.random(rows) < chance).astype(int)
    # Of a unit of outcome, the prognosis is one and the noise a half.
    Y = 10.0 + 2.0 * (expected + effects * T + 0.5 * rng.normal(size=rows))
    return DataSet(surface.name, seed, X, T, Y, 2.0 * effects)


Answer = tuple[np.ndarray, float, float]


def by_aimz(data: DataSet) -> dict[str, Callable[[], Answer]]:
    """Effects by row, and the ends of the interval of their mean, by default settings."""
    from aimz.sklearn import CausalRegressor

    def fit() -> Answer:
        model = CausalRegressor().fit(data.Y, data.T, X=data.X)
        draws = model.effect_draws(data.X)
        low, high = np.quantile(draws.mean(1), [0.05, 0.95])
        return draws.mean(0), float(low), float(high)

    return {"aimz": fit}


def by_peers(data: DataSet) -> dict[str, Callable[[], Answer]]:
    """The same by a causal forest, an X-learner, and Bayesian causal forests, all by defaults."""

    def forest() -> Answer:
        from econml.dml import CausalForestDML  # type: ignore[import-not-found]

        model = CausalForestDML(discrete_treatment=True, random_state=0, n_jobs=1)
        model.fit(data.Y, data.T, X=data.X)
        low, high = model.ate_interval(data.X, alpha=0.1)
        return np.ravel(model.effect(data.X)), float(low), float(high)

    def learner() -> Answer:
        from causalml.inference.meta import BaseXRegressor  # type: ignore[import-not-found]
        from sklearn.ensemble import GradientBoostingRegressor

        model = BaseXRegressor(GradientBoostingRegressor(random_state=0), ate_alpha=0.1)
        mean, low, high = model.estimate_ate(data.X, data.T, data.Y)
        del mean
        return np.ravel(model.predict(data.X)), float(low[0]), float(high[0])

    def trees() -> Answer:
        from stochtree import BCFModel  # type: ignore[import-not-found]

        model = BCFModel()
        settings = {"random_seed": 0, "num_threads": 1}
        model.sample(
            X_train=data.X,
            Z_train=data.T.astype(float),
            y_train=data.Y,
            num_gfr=10,
            num_mcmc=500,
            general_params=settings,
        )
        draws = np.asarray(model.tau_hat_train).reshape(len(data.Y), -1)
        low, high = np.quantile(draws.mean(0), [0.05, 0.95])
        return draws.mean(1), float(low), float(high)

    return {"forest": forest, "x-learner": learner, "bcf": trees}


def results(who: Callable[..., Any], rows: list[int], seeds: range) -> Iterator[dict[str, Any]]:
    """One record per estimator and data set."""
    for seed in seeds:
        for number, surface in enumerate(SURFACES):
            data = data_set(surface, rows[(number + seed) % len(rows)], seed)
            for name, fit in who(data).items():
                start, cpu = time.perf_counter(), time.process_time()
                effects, low, high = fit()
                unit = data.Y.std()
                truth = data.effects.mean()
                yield {
                    "by": name,
                    "surface": surface.name,
                    "rows": len(data.Y),
                    "seed": seed,
                    "pehe": float(np.sqrt(np.mean((effects - data.effects) ** 2)) / unit),
                    "error": float((effects.mean() - truth) / unit),
                    "covers": bool(low <= truth <= high),
                    "width": float((high - low) / unit),
                    "seconds": time.perf_counter() - start,
                    "cpu": time.process_time() - cpu,
                }


def table(files: list[str]) -> str:
    """PEHE by surface and estimator, and shares of intervals that cover, where all answered."""
    found = [json.loads(line) for name in files for line in Path(name).read_text().splitlines()]
    names = list(dict.fromkeys(one["by"] for one in found))
    done = {name: {_key(one) for one in found if one["by"] == name} for name in names}
    shared = set.intersection(*done.values())
    found = [one for one in found if _key(one) in shared]
    lines = ["| surface | data sets | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]

    def of(name: str, key: str, surface: str | None = None) -> float:
        chosen = [o for o in found if o["by"] == name and surface in (None, o["surface"])]
        return float(np.mean([o[key] for o in chosen])) if chosen else float("nan")

    for surface in SURFACES:
        cells = [f"{of(name, 'pehe', surface.name):.2f}" for name in names]
        count = sum(key[0] == surface.name for key in shared)
        lines.append(f"| {surface.name} | {count} | " + " | ".join(cells) + " |")
    for key in ("pehe", "covers", "width", "seconds", "cpu"):
        cells = [f"{of(name, key):.2f}" for name in names]
        lines.append(f"| mean of {key} | {len(shared)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _key(one: dict[str, Any]) -> tuple[str, int, int]:
    return one["surface"], one["rows"], one["seed"]


def main() -> None:
    """Run one side, or make the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["aimz", "peers", "table"])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 1000, 2000, 5000])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    asked = parser.parse_args()
    if asked.what == "table":
        sys.stdout.write(table(asked.files) + "\n")
        return
    seeds = range(asked.first, asked.first + asked.seeds)
    for one in results(by_aimz if asked.what == "aimz" else by_peers, asked.rows, seeds):
        sys.stdout.write(json.dumps(one) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
