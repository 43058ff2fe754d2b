"""Thirteen tiny kernels of different kinds, with rows, outcomes and draws that no fit has made.

All take a treatment `t` of 0 and 1, one value per row, so that the same effects can be asked of
each. Numbers come from NumPy's generator with fixed seeds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from aimz import ImpactModel

__all__ = ["CHAINS", "DRAWS", "KEY", "KINDS", "ROWS", "Kind", "kind_of"]

ROWS = 24
CHAINS, DRAWS = 2, 6
KEY = 14

type Arrays = dict[str, Any]
type Make = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Kind:
    """A kernel with its arguments beyond X and t, its outcomes, and shapes of its latents.

    `sites` are those of a prediction; `needs` makes draws of latents that are not any number.
    """

    kernel: Callable[..., Any]
    outcome: Make
    latents: Mapping[str, tuple[int, ...]]
    title: str = ""
    sites: tuple[str, ...] = ("y",)
    more: Mapping[str, Make] = field(default_factory=dict)
    other_outcomes: Mapping[str, Make] = field(default_factory=dict)
    mediator: str | None = None
    needs: Mapping[str, Make] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its title, or the name of its kernel."""
        return self.title or str(getattr(self.kernel, "__name__", ""))

    @property
    def inputs(self) -> Arrays:
        """Arguments of a prediction by name, the primary one among them."""
        rng = np.random.default_rng(1)
        X = rng.normal(size=(ROWS, 2)).astype(np.float32)
        t = (rng.uniform(size=ROWS) < 0.5).astype(np.float32)
        return {"X": X, "t": t, **{name: make(rng) for name, make in self.more.items()}}

    @property
    def outcomes(self) -> Arrays:
        """The observed outcome `y`, and others by name."""
        rng = np.random.default_rng(2)
        made = {name: make(rng) for name, make in self.other_outcomes.items()}
        return {"y": self.outcome(rng), **made}

    @property
    def draws(self) -> Arrays:
        """Draws of the latents, (chain and draw, ...)."""
        rng = np.random.default_rng(3)
        count = CHAINS * DRAWS
        some: Arrays = {
            name: rng.uniform(0.2, 1.2, (count, *shape)).astype(np.float32)
            for name, shape in self.latents.items()
        }
        return some | {name: make(rng) for name, make in self.needs.items()}

    def model(self) -> ImpactModel:
        """A model with these draws."""
        model = ImpactModel(self.kernel, rng_key=KEY)
        return model.set_posterior_sample(self.draws, num_chains=CHAINS)


def _normal(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0.5, 1.0, ROWS).astype(np.float32)


def _binary(rng: np.random.Generator) -> np.ndarray:
    return (rng.uniform(size=ROWS) < 0.6).astype(np.int32)


def _counts(rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(1.5, ROWS).astype(np.int32)


def _positive(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.3, 2.0, ROWS).astype(np.float32)


def _groups(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 4, ROWS).astype(np.int32)


def _classes(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 3, ROWS).astype(np.int32)


def _slope(name: str = "b") -> Any:
    return numpyro.sample(name, dist.Normal(0.0, 1.0))


def _weights(*shape: int) -> Any:
    return numpyro.sample("w", dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))


def linear(X, t, y=None):
    mu = numpyro.deterministic("mu", X @ _weights(2) + _slope() * t * (1.0 + 0.5 * X[:, 0]))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


class Regression:
    """A kernel that is an object and holds arrays, with one scale above all coefficients."""

    def __init__(self, center: Any) -> None:
        self.center = np.asarray(center, np.float32)

    def __call__(self, X, t, y=None):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        with numpyro.plate("feature", 2):
            coef = numpyro.sample("coef", dist.Normal(0.0, scale))
        level, sigma = _slope("level"), numpyro.sample("sigma", dist.HalfNormal(1.0))
        mu = level + (X - self.center) @ coef + _slope() * t
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.StudentT(5.0, mu, sigma), obs=y)


def weighted_logistic(X, t, count, y=None):
    """Each row is a cell of `count` people."""
    logits = numpyro.deterministic("logits", X @ _weights(2) + _slope() * t)
    with numpyro.plate("cells", X.shape[0]), numpyro.handlers.scale(scale=count):
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def poisson(X, t, exposure, y=None):
    rate = exposure * jnp.exp(0.5 * X @ _weights(2) + 0.3 * _slope() * t)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def hierarchical(X, t, group, y=None):
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("groups", 4):
        a = numpyro.sample("a", dist.Normal(0.0, spread))
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    mu = numpyro.deterministic("mu", a[group] + slope[group] * t + X @ _weights(2))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Gamma(2.0, 2.0 * jnp.exp(-0.3 * mu)), obs=y)


def row_latents(X, t, y=None):
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    b = _slope()
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.3 * X[:, 0] + b * t, spread))
        numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(0.5 * z), 2.0), obs=y)


def several(X, t, visits=None, y=None):
    """Two outcomes: a class, and a count that is often 0."""
    gate = numpyro.sample("gate", dist.Beta(1.0, 3.0))
    logits = X @ _weights(2, 3) + t[:, None] * jnp.array([0.0, 0.5, 1.0])
    rate = jnp.exp(0.3 * X[:, 1] + 0.5 * _slope() * t)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=logits), obs=y)
        numpyro.sample("visits", dist.ZeroInflatedPoisson(gate, rate), obs=visits)


def multivariate(X, t, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    tied = jnp.array([[0.8, 0.0], [0.4, 0.6]])
    mean = X @ _weights(2, 2) + t[:, None] * (b + 0.5 * X)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.MultivariateNormal(mean, scale_tril=tied), obs=y)


def ordered(X, t, y=None):
    prior = dist.TransformedDistribution(
        dist.Normal(0.0, 1.0).expand([2]).to_event(1), dist.transforms.OrderedTransform()
    )
    cuts = numpyro.sample("cuts", prior)
    mu = X @ _weights(2) + _slope() * t
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.OrderedLogistic(mu, cuts), obs=y)


def mediated(X, t, m=None, y=None):
    a, b, c = (_slope(name) for name in "abc")
    with numpyro.plate("obs", X.shape[0]):
        m = numpyro.sample("m", dist.Normal(0.3 * X[:, 0] + a * t, 0.5), obs=m)
        numpyro.sample("y", dist.Bernoulli(logits=b * t + c * m), obs=y)


def carry_over(X, t, y=None):
    """Rows in time, each with what is left of the treatments before it."""
    mu = numpyro.deterministic("mu", X @ _weights(2) + 0.2 * _slope() * jnp.cumsum(t))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 0.5), obs=y)


def autoregression(X, t, y=None):
    persistence = numpyro.sample("persistence", dist.Uniform(0.0, 1.5))
    b, sigma = _slope(), numpyro.sample("sigma", dist.HalfNormal(1.0))

    def step(last, seen):
        dose, outcome = seen
        now = numpyro.sample("y", dist.Normal(persistence * last + b * dose, sigma), obs=outcome)
        return now, None

    scan(step, jnp.zeros(()), (t, y), length=X.shape[0])


def truncated(X, t, y=None):
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    mu = 0.3 * X @ _weights(2) + _slope() * t
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.TruncatedNormal(mu, sigma, low=0.0, high=3.0), obs=y)


KINDS: tuple[Kind, ...] = (
    Kind(linear, _normal, {"w": (2,), "b": (), "sigma": ()}, sites=("mu", "y")),
    Kind(
        Regression([0.1, -0.2]),
        _normal,
        {"scale": (), "coef": (2,), "level": (), "b": (), "sigma": ()},
        title="regression",
    ),
    Kind(
        weighted_logistic,
        _binary,
        {"w": (2,), "b": ()},
        sites=("logits", "y"),
        more={"count": lambda rng: rng.integers(1, 9, ROWS).astype(np.float32)},
    ),
    Kind(poisson, _counts, {"w": (2,), "b": ()}, more={"exposure": _positive}),
    Kind(
        hierarchical,
        _positive,
        {"spread": (), "a": (4,), "slope": (4,), "w": (2,)},
        sites=("mu", "y"),
        more={"group": _groups},
    ),
    Kind(row_latents, _counts, {"spread": (), "b": (), "z": (ROWS,)}, sites=("z", "y")),
    Kind(
        several,
        _classes,
        {"w": (2, 3), "b": ()},
        sites=("y", "visits"),
        other_outcomes={"visits": _counts},
        needs={"gate": lambda rng: rng.uniform(0.1, 0.5, CHAINS * DRAWS).astype(np.float32)},
    ),
    Kind(
        multivariate,
        lambda rng: rng.normal(size=(ROWS, 2)).astype(np.float32),
        {"b": (2,), "w": (2, 2)},
    ),
    Kind(
        ordered,
        _classes,
        {"w": (2,), "b": ()},
        needs={
            "cuts": lambda rng: np.sort(rng.normal(size=(CHAINS * DRAWS, 2))).astype(np.float32)
        },
    ),
    Kind(
        mediated,
        _binary,
        {"a": (), "b": (), "c": ()},
        sites=("m", "y"),
        other_outcomes={"m": _normal},
        mediator="m",
    ),
    Kind(carry_over, _normal, {"w": (2,), "b": ()}, sites=("mu", "y")),
    Kind(autoregression, _normal, {"persistence": (), "b": (), "sigma": ()}),
    Kind(truncated, _positive, {"w": (2,), "b": (), "sigma": ()}),
)


def kind_of(name: str) -> Kind:
    """The kind of a name."""
    return next(kind for kind in KINDS if kind.name == name)
