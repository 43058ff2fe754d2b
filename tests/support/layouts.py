"""Eight kernels, the layouts of one prediction, and a program that computes some of them.

A layout is how the same answer is asked for: by which method, from which container, read and cut
how, over how many devices, into what. The number of CPU devices is fixed once JAX has started, so
`python -m tests.support.layouts TABLE FILE` computes the layouts for the devices that it is started
with and saves every array.
"""

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import xarray as xr

from aimz import ImpactModel
from aimz.errors import AimzWarning
from aimz.utils.data import ArrayDataset, ArrayLoader

__all__ = [
    "CASES",
    "COUPLED",
    "KEY",
    "REFERENCE",
    "ROWS",
    "TABLES",
    "Case",
    "Layout",
    "answer",
    "as_container",
    "case_of",
    "inputs_of",
    "model_of",
    "predict",
    "predict_as",
]

#: Rows of the inputs: two whole tiles and a part of one.
ROWS = 2_100
CHAINS, DRAWS = 2, 10
KEY = 7

type Arrays = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A kernel, the shapes of one draw of its posterior, and what a prediction says and returns."""

    name: str
    kernel: Callable[..., Any]
    latents: Mapping[str, tuple[int, ...]]
    width: tuple[int, ...] = (3,)
    groups: bool = False
    sites: tuple[str, ...] | None = None
    codes: tuple[str, ...] = ()
    rows: int = ROWS
    draws: int = CHAINS * DRAWS


def weights(*shape):
    return numpyro.sample("b", dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))


def linear(X, y=None):
    mu = numpyro.deterministic("mu", X @ weights(3))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def logistic(X, y=None):
    logits = numpyro.deterministic("logits", X @ weights(3))
    numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def poisson(X, y=None):
    rate = numpyro.deterministic("rate", jnp.exp(0.5 * X @ weights(3)))
    numpyro.sample("y", dist.Poisson(rate), obs=y)


def multi_output(X, y=None):
    mu = X @ weights(3, 2)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y)


def local_latent(X, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("rows", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.1 * X, scale))
        numpyro.sample("y", dist.Bernoulli(logits=z), obs=y)


def group_indexed(X, group, y=None):
    with numpyro.plate("groups", 4):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    mu = numpyro.deterministic("mu", a[group] + X @ weights(3))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def network(X, y=None):
    inner = numpyro.sample("inner", dist.Normal(0.0, 1.0).expand([3, 8]).to_event(2))
    outer = numpyro.sample("outer", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
    mu = numpyro.deterministic("mu", jnp.tanh(X @ inner) @ outer)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 0.5), obs=y)


def centred(X, y=None):
    numpyro.sample("y", dist.Normal((X - X.mean(0)) @ weights(3), 1.0), obs=y)


def centred_logistic(X, y=None):
    numpyro.sample("y", dist.Bernoulli(logits=(X - X.mean(0)) @ weights(3)), obs=y)


def centred_counts(X, y=None):
    numpyro.sample("y", dist.Poisson(jnp.exp(0.5 * (X - X.mean(0)) @ weights(3))), obs=y)


CASES = (
    Case("linear", linear, {"b": (3,), "sigma": ()}),
    Case("logistic", logistic, {"b": (3,)}),
    Case("poisson", poisson, {"b": (3,)}),
    Case("multi_output", multi_output, {"b": (3, 2)}),
    Case("local_latent", local_latent, {"scale": (), "z": (ROWS,)}, width=(), sites=("z", "y")),
    Case("group_indexed", group_indexed, {"a": (4,), "b": (3,)}, groups=True),
    Case(
        "global_from_prior",
        linear,
        {"b": (3,)},
        sites=("sigma", "mu", "y"),
        codes=("site-from-prior",),
    ),
    Case("network", network, {"inner": (3, 8), "outer": (8,)}),
)
#: Rows interact; so many draws that they make two tiles.
COUPLED = (
    Case("centred", centred, {"b": (3,)}, codes=("rows-coupled",), draws=302),
    Case("centred_logistic", centred_logistic, {"b": (3,)}, codes=("rows-coupled",), draws=302),
)
COUPLED_COUNTS = replace(COUPLED[0], name="centred_counts", kernel=centred_counts, rows=150)


@dataclass(frozen=True, order=True)
class Layout:
    """One way of asking for an answer that never depends on it."""

    devices: int = 1
    batch_size: int | None = None
    shard_axis: str = "obs"
    delivery: str = "predict/memory"
    container: str = "array"

    @property
    def name(self) -> str:
        """All its levels."""
        return "-".join(str(getattr(self, field.name)) for field in fields(self))


REFERENCE = Layout()
LEVELS: dict[str, tuple[Any, ...]] = {
    "devices": (1, 2, 4),
    "batch_size": (None, 7, ROWS // 2, ROWS),
    "shard_axis": ("obs", "draw"),
    "delivery": ("predict/memory", "predict/persistent", "predict_on_batch/memory"),
    "container": ("array", "loader", "dask"),
}
PRODUCT = tuple(itertools.starmap(Layout, itertools.product(*LEVELS.values())))


def covering_pairs(layouts: Sequence[Layout]) -> tuple[Layout, ...]:
    """A few layouts in which any two factors meet at every pair of their levels."""

    def pairs(layout: Layout) -> set[tuple[Any, ...]]:
        levels = [(field.name, getattr(layout, field.name)) for field in fields(layout)]
        return set(itertools.combinations(levels, 2))

    missing = set().union(*map(pairs, layouts))
    chosen = []
    while missing:
        best = max(layouts, key=lambda layout: len(pairs(layout) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return tuple(chosen)


PAIRS = tuple(dict.fromkeys((REFERENCE, *covering_pairs(PRODUCT))))
COUPLED_LAYOUTS = tuple(
    Layout(devices, None, "draw", delivery, container)
    for devices in (1, 2)
    for delivery in ("predict/memory", "predict/persistent")
    for container in ("array", "loader", "dask")
)
# A program is compiled for each device: four of them take long, so one kernel uses four.
ON_FOUR_DEVICES = tuple(layout for layout in PAIRS if layout.devices == 4)
ON_FEW_DEVICES = tuple(layout for layout in PAIRS if layout.devices < 4)
AT_LENGTH = ("linear", "local_latent")
IN_SHORT = (*AT_LENGTH, "centred")
_EVERY_PAIR = [
    *((case, ON_FEW_DEVICES) for case in CASES),
    *((case, (REFERENCE, *COUPLED_LAYOUTS)) for case in COUPLED),
]
#: What the program computes: cases, each with its layouts.
TABLES: dict[str, list[tuple[Case, tuple[Layout, ...]]]] = {
    "pairs": [entry for entry in _EVERY_PAIR if entry[0].name in IN_SHORT],
    "pairs of the others": [
        (CASES[0], (REFERENCE, *ON_FOUR_DEVICES)),
        *(entry for entry in _EVERY_PAIR if entry[0].name not in IN_SHORT),
    ],
    "product": [
        *((c, PRODUCT if c.name in AT_LENGTH else (REFERENCE, *ON_FOUR_DEVICES)) for c in CASES),
        (COUPLED_COUNTS, (REFERENCE, *COUPLED_LAYOUTS)),
    ],
}


def case_of(name: str) -> Case:
    """The case of a name."""
    return next(case for case in (*CASES, *COUPLED, COUPLED_COUNTS) if case.name == name)


def inputs_of(case: Case) -> Arrays:
    """Row arguments of a case."""
    rng, rows = np.random.default_rng(1), case.rows
    arrays = {"X": rng.normal(size=(rows, *case.width)).astype(np.float32)}
    if case.groups:
        arrays["group"] = rng.integers(0, 4, rows).astype(np.int32)
    return arrays


def model_of(case: Case) -> ImpactModel:
    """A model with draws that no fit has made."""
    rng = np.random.default_rng(2)
    draws = {
        name: rng.uniform(0.2, 1.2, (case.draws, *shape)).astype(np.float32)
        for name, shape in case.latents.items()
    }
    return ImpactModel(case.kernel).set_posterior_sample(draws, num_chains=CHAINS)


def as_container(kind: str, arrays: Arrays, batch_size: int | None) -> dict[str, Any]:
    """Row arguments in a container, as arguments of a call."""
    if kind == "loader":
        return {"X": ArrayLoader(ArrayDataset(**arrays), 0, batch_size=batch_size or 400)}
    if kind == "dask":
        return {n: da.from_array(v, chunks=(600, *v.shape[1:])) for n, v in arrays.items()}
    return dict(arrays)


def answer(tree: xr.DataTree) -> Arrays:
    """The drawn arrays of a result."""
    groups = ("posterior_predictive", "predictions")
    group = next(tree[name] for name in groups if name in tree.children)
    return {str(name): variable.values for name, variable in group.data_vars.items()}


def predict(model: ImpactModel, case: Case, given: Mapping[str, Any], **options: Any) -> Arrays:
    """What a model predicts in memory for some inputs, unless the options say otherwise."""
    settings = {"rng_key": KEY, "return_sites": case.sites, "store": "memory", "progress": False}
    return answer(model.predict(**{**settings, **given, **options}))


def predict_as(layout: Layout, case: Case, model: ImpactModel, arrays: Arrays) -> Arrays:
    """What a layout gives, and the codes of the warnings on the way."""
    method, store = layout.delivery.split("/")
    given = as_container(layout.container, arrays, layout.batch_size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AimzWarning)
        tree = getattr(model, method)(
            **given,
            rng_key=KEY,
            return_sites=case.sites,
            store=store,
            batch_size=layout.batch_size,
            shard_axis=layout.shard_axis,
            progress=False,
        )
        values = answer(tree)
    return {**values, "warnings": np.asarray([getattr(w.message, "code", "?") for w in caught])}


def compute(table: str, devices: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of the layouts of a table that ask for this number of devices."""
    for case, layouts in TABLES[table]:
        model, arrays = model_of(case), inputs_of(case)
        for layout in dict.fromkeys(layouts):
            if layout.devices == devices:
                for name, value in predict_as(layout, case, model, arrays).items():
                    yield f"{case.name}|{layout.name}|{name}", value


def main(table: str, path: Path) -> None:
    """Compute a table for the devices of this process and save it."""
    warnings.simplefilter("error")
    with dask.config.set(scheduler="synchronous"):
        arrays = dict(compute(table, jax.local_device_count()))
    np.savez(path, **arrays)  # type: ignore[arg-type]  # the stub takes the names for options


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
