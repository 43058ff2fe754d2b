"""Random small kernels on random inputs, cut in random ways, against one dense tile and NumPy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aimz import ImpactModel
from aimz.execution import plan
from aimz.utils.data import ArrayDataset, ArrayLoader

GROUPS, DRAWS = 3, 7

FAMILIES: dict[str, Callable[[Any], Any]] = {
    "normal": lambda mu: dist.Normal(mu, 0.5),
    "student": lambda mu: dist.StudentT(4.0, mu, 1.0),
    "gamma": lambda mu: dist.Gamma(2.0, jnp.exp(-mu / 4)),
    "bernoulli": lambda mu: dist.Bernoulli(logits=mu),
    "poisson": lambda mu: dist.Poisson(jnp.exp(mu / 4)),
    "categorical": lambda mu: dist.Categorical(logits=jnp.stack([mu, -mu, 0 * mu], -1)),
    "two outcomes": lambda mu: dist.Normal(jnp.stack([mu, -mu], -1), 1.0).to_event(1),
}


@dataclass(frozen=True)
class Template:
    """A kernel put together from parts; each part adds to the mean of a row."""

    family: str
    columns: int
    has_groups: bool
    has_latents: bool
    link: str

    def kernel(self) -> Callable[..., None]:
        links: dict[str, Callable[[Any], Any]] = {"plain": lambda mu: mu, "tanh": jnp.tanh}

        def predictor(X, g):
            b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([self.columns]).to_event(1))
            mu = X @ b
            if self.has_groups:
                with numpyro.plate("group", GROUPS):
                    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
                mu = mu + a[g]
            return mu

        def kernel(X, g=None, y=None):
            mu = predictor(X, g)
            with numpyro.plate("obs", X.shape[0]):
                if self.has_latents:
                    mu = mu + numpyro.sample("z", dist.Normal(0.0, 1.0))
                mu = numpyro.deterministic("mu", links[self.link](mu))
                numpyro.sample("y", FAMILIES[self.family](mu), obs=y)

        return kernel

    def draws(self, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        draws = {"b": rng.normal(size=(DRAWS, self.columns)).astype(np.float32)}
        if self.has_groups:
            draws["a"] = rng.normal(size=(DRAWS, GROUPS)).astype(np.float32)
        if self.has_latents:
            draws["z"] = rng.normal(size=(DRAWS, rows)).astype(np.float32)
        return draws

    def mean(self, draws: dict[str, np.ndarray], X: np.ndarray, g: np.ndarray) -> np.ndarray:
        """What `mu` is, (draw, row), by NumPy."""
        mu = draws["b"].astype(float) @ X.T.astype(float)
        if self.has_groups:
            mu = mu + draws["a"][:, g]
        if self.has_latents:
            mu = mu + draws["z"]
        return np.asarray(np.tanh(mu) if self.link == "tanh" else mu)


TEMPLATES = st.builds(
    Template,
    family=st.sampled_from(sorted(FAMILIES)),
    columns=st.integers(1, 3),
    has_groups=st.booleans(),
    has_latents=st.booleans(),
    link=st.sampled_from(["plain", "tanh"]),
)


@dataclass(frozen=True)
class Layout:
    """How the same call is made and cut."""

    tile: int
    container: str
    store: str
    batch_size: int | None

    def predict(self, model: ImpactModel, X: np.ndarray, g: np.ndarray | None) -> Any:
        options: Any = {"store": self.store, "progress": False, "rng_key": 1}
        arguments: dict[str, Any] = {} if g is None else {"g": g}
        if self.container == "loader":
            data = ArrayDataset(X=X, **arguments)
            loader = ArrayLoader(data, jax.random.key(0), batch_size=self.batch_size or 5)
            return model.predict(loader, **options)
        if self.container == "frame":
            names = [f"x{number}" for number in range(X.shape[1])]
            return model.predict(pd.DataFrame(X, columns=names), **options, **arguments)
        if self.container == "dask":
            import dask.array as da

            return model.predict(da.from_array(X, chunks=(9, -1)), **options, **arguments)
        return model.predict(X, batch_size=self.batch_size, **options, **arguments)


LAYOUTS = st.builds(
    Layout,
    tile=st.sampled_from([16, 32, 64]),
    container=st.sampled_from(["array", "frame", "loader", "dask"]),
    store=st.sampled_from(["memory", "persistent"]),
    batch_size=st.sampled_from([None, 1, 7, 50]),
)


def check(template: Template, layout: Layout, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, template.columns)).astype(np.float32)
    g = rng.integers(0, GROUPS, rows)
    draws = template.draws(rows, rng)
    codes = g if template.has_groups else None
    model = ImpactModel(template.kernel()).set_posterior_sample(draws)
    dense = Layout(1024, "array", "memory", None).predict(model, X, codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "MAX_ROWS", layout.tile)
        cut = layout.predict(model, X, codes)
    for name in ("mu", "y"):
        np.testing.assert_allclose(
            cut.posterior_predictive[name].values,
            dense.posterior_predictive[name].values,
            rtol=2e-5,
            atol=2e-5,
            err_msg=name,
        )
    np.testing.assert_allclose(
        cut.posterior_predictive["mu"].values[0],
        template.mean(draws, X, g),
        rtol=1e-4,
        atol=1e-4,
    )


FEW = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@FEW
@given(TEMPLATES, LAYOUTS, st.integers(1, 150), st.integers(0, 1000))
@pytest.mark.slow
def test_draws_are_those_of_one_dense_tile(template, layout, rows, seed):
    check(template, layout, rows, seed)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # every example compiles two programs
@settings(FEW, max_examples=150, derandomize=False, phases=list(Phase))
@given(TEMPLATES, LAYOUTS, st.integers(1, 150), st.integers(0, 1000))
def test_draws_are_those_of_one_dense_tile_for_many_kernels(template, layout, rows, seed):
    check(template, layout, rows, seed)
