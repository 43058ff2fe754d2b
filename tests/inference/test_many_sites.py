"""Kernels of many latent sites: like ones are evaluated at once, and the numbers are NumPyro's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer.util import potential_energy

from aimz import ImpactModel
from aimz.inference import density
from aimz.inference.density import MANY_SITES, energy_of
from aimz.inference.normal import set_up_guide
from aimz.prediction import problem_of

EACH = 3
X = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
Y = np.cos(3 * X[:, 0])


class Own(dist.Distribution):  # type: ignore[misc]  # NumPyro's classes are untyped
    """A user's own: NumPyro does not see its power, and two of them look the same to it."""

    support = constraints.positive

    def __init__(self, power: float) -> None:
        self.power = power
        super().__init__((), ())

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        return dist.Exponential().sample(key, sample_shape)

    def log_prob(self, value: Any) -> Any:
        return -(value**self.power)


# Each makes the n-th of a number of like sites, from two latents before them.
LAWS: dict[str, Callable[[int, Any, Any], Any]] = {
    "all the same": lambda n, m, s: dist.Normal(0.0, 1.5),
    "by number": lambda n, m, s: dist.Normal(n, 1.0 + n),
    "of latents": lambda n, m, s: dist.Normal(m, s),
    "of latents by number": lambda n, m, s: dist.Normal(n * m, s + n),
    "another family in the middle": lambda n, m, s: dist.Cauchy() if n == 1 else dist.Normal(),
    "positive": lambda n, m, s: dist.Exponential(1.0 + n),
    "half": lambda n, m, s: dist.HalfNormal(1.0 + n),
    "an interval": lambda n, m, s: dist.Uniform(-1.0 - n, 1.0),
    "an interval for each": lambda n, m, s: dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=n + 2.0),
    "one end": lambda n, m, s: dist.TruncatedNormal(0.0, 1.0, low=-1.0) if n else dist.Normal(),
    "transformed": lambda n, m, s: dist.LogNormal(n, 1.0),
    "unit": lambda n, m, s: dist.Beta(1.0 + n, 2.0),
    "a simplex": lambda n, m, s: dist.Dirichlet(jnp.ones(3) + n),
    "vectors": lambda n, m, s: dist.Normal(jnp.arange(3.0), n + 1.0).to_event(1),
    "a joint vector": lambda n, m, s: dist.MultivariateNormal(jnp.zeros(2), (n + 1) * jnp.eye(2)),
    "a matrix": lambda n, m, s: dist.LKJCholesky(3, 1.0 + n),
    "expanded": lambda n, m, s: dist.Normal(0.0, n + 1.0).expand((2,)).to_event(1),
    "masked": lambda n, m, s: dist.Normal(0.0, n + 1.0).mask(n > 0),
    "a user's own": lambda n, m, s: Own(1.0 + n),
    "flat": lambda n, m, s: dist.ImproperUniform(constraints.real, (), ()),
}


def kernel_of(law: Callable[[int, Any, Any], Any], around: Any = None, last: Any = None) -> Any:
    def kernel(X, y=None):
        m = numpyro.sample("m", dist.Normal(0.0, 2.0))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        with around() if around else handlers.block(hide_fn=lambda _: False):
            values = [numpyro.sample(f"z{n}", law(n, m, s)) for n in range(EACH)]
        mean = sum(jnp.sum(value * X[0, 0]) for value in values)
        numpyro.factor("prior", -(m**2))
        if last is not None:
            mean = mean + last()
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Normal(mean, s), obs=y)

    return kernel


def compared(kernel: Any, monkeypatch: Any) -> list[int]:
    """Hold value and slope to NumPyro's own; returns the sizes of the groups that were joined."""
    monkeypatch.setattr(density, "MANY_SITES", 0)
    joined: list[int] = []
    own = density._density_of

    def counted(laws: list[Any], latents: Any) -> Any:
        joined.append(len(laws))
        return own(laws, latents)

    monkeypatch.setattr(density, "_density_of", counted)
    problem, _ = problem_of(kernel, ("X", "y"), {"X": X, "y": Y}, None, "raise", has_own_start=True)
    arrays, key = problem.inputs.arrays, jax.random.key(0)
    guide = set_up_guide(problem, len(X), key, arrays)
    model = handlers.seed(problem.kernel, key)
    energy = energy_of(problem, model, dict(arrays), guide)
    values = np.random.default_rng(0).normal(size=guide.latent_dim).astype(np.float32)
    got = jax.jit(jax.value_and_grad(energy))(values)

    def plain(vector: Any) -> Any:
        return potential_energy(model, (), dict(arrays), guide.unpack(vector))

    want = jax.jit(jax.value_and_grad(plain))(values)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), got, want)
    return sorted(joined)


# Whose arrays are not all of them, or which stand for what has no sampler.
ALONE = ("a user's own", "flat")
APART = ("another family in the middle", "one end")
QUICK = ("by number", "of latents", "an interval for each", "a user's own")
CASES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name) for name in LAWS
]


@pytest.mark.parametrize("name", CASES)
def test_the_density_of_like_sites_is_the_sum_of_theirs(name, monkeypatch):
    joined = compared(kernel_of(LAWS[name]), monkeypatch)
    together = 1 if name in ALONE else EACH - 1 if name in APART else EACH
    assert max(joined) >= together
    assert name not in ALONE or joined == [1, 1]


AROUND: dict[str, Any] = {
    "a scale": lambda: handlers.scale(scale=3.0),
    "a mask": lambda: handlers.mask(mask=np.array(False)),
    "a plate": lambda: numpyro.plate("few", 2),
    "a plate that is a part": lambda: numpyro.plate("part", 8, subsample_size=2),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_stands_around_like_sites_counts(around, monkeypatch):
    compared(kernel_of(LAWS["by number"], around), monkeypatch)


def test_a_kernel_with_steps_is_left_to_numpyro(monkeypatch):
    def steps() -> Any:
        def step(level: Any, _: Any) -> Any:
            level = level + numpyro.sample("step", dist.Normal())
            return level, level

        return scan(step, 0.0, None, length=3)[0]

    assert compared(kernel_of(LAWS["by number"], last=steps), monkeypatch) == []


SITES = MANY_SITES + 4


def regression(X, y=None):
    b = jnp.stack([numpyro.sample(f"b{n}", dist.Normal(n / 10, 1.0)) for n in range(SITES)])
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


WEIGHTS = {"alike": None, "weighted": np.repeat([0.5, 2.0], 20).astype(np.float32)}


@pytest.mark.slow
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_a_fit_of_many_sites_is_its_closed_form(weights):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, SITES)).astype(np.float32)
    y = (X @ rng.normal(size=SITES) + rng.normal(size=40)).astype(np.float32)
    im = ImpactModel(regression, inference="svi", rng_key=0, num_samples=2000)
    im.fit(X, y, sample_weight=weights, progress=False)
    w = np.ones(40) if weights is None else weights
    covariance = np.linalg.inv(X.T @ (w[:, None] * X) + np.eye(SITES))
    mean = covariance @ (X.T @ (w * y) + np.arange(SITES) / 10)
    draws = np.stack([np.asarray(im.posterior[f"b{n}"]).ravel() for n in range(SITES)])
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((draws.mean(axis=1) - mean) / sd, 0.0, atol=0.15)
    np.testing.assert_allclose(draws.std(axis=1) / sd, 1.0, atol=0.1)
    spread = np.corrcoef(draws) - covariance / np.outer(sd, sd)
    assert np.abs(spread).max() < 0.1
