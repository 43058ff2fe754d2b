"""A kernel's log density term by term: the sum is minus NumPyro's potential energy."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import initialize_model, potential_energy

from aimz import KernelValidationError
from aimz.inference.terms import Terms
from aimz.prediction import problem_of

ROWS = 6
X = np.linspace(-1.0, 1.0, ROWS)[:, None].astype(np.float32)
Y = np.array([0.3, -0.2, 0.8, 0.1, 1.4, 0.9], np.float32)


def regression(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("rows", ROWS):
        numpyro.sample("y", dist.Normal(b * X[:, 0], s), obs=y)


def moving_support(X, y=None):
    top = numpyro.sample("top", dist.LogNormal(0.0, 1.0))
    u = numpyro.sample("u", dist.Uniform(-1.0, top))
    with numpyro.plate("rows", ROWS):
        numpyro.sample("y", dist.Normal(u, 1.0), obs=y)


def groups(X, y=None):
    m = numpyro.sample("m", dist.StudentT(4.0))
    with numpyro.plate("group", 3):
        a = numpyro.sample("a", dist.Normal(m, 0.5))
    with numpyro.plate("rows", ROWS):
        numpyro.sample("y", dist.Normal(a[jnp.arange(ROWS) % 3], 1.0), obs=y)


def simplex(X, y=None):
    with numpyro.plate("group", 2):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("rows", ROWS):
        numpyro.sample("y", dist.Normal(p[0, 1] - p[1, 2], 1.0), obs=y)


def correlated(X, y=None):
    root = numpyro.sample("root", dist.LKJCholesky(3, 2.0))
    v = numpyro.sample("v", dist.MultivariateNormal(jnp.zeros(3), scale_tril=root))
    with numpyro.plate("rows", ROWS):
        numpyro.sample("y", dist.Normal(v.sum() * X[:, 0], 1.0), obs=y)


def cut_points(X, y=None):
    c = numpyro.sample(
        "c",
        dist.TransformedDistribution(
            dist.Normal(jnp.zeros(3), 1.0).to_event(1), dist.transforms.OrderedTransform()
        ),
    )
    with numpyro.plate("rows", ROWS):
        numpyro.sample("y", dist.Normal(c[1], 1.0), obs=y)


def masked(X, y=None):
    b = numpyro.sample("b", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", ROWS), handlers.mask(mask=jnp.arange(ROWS) < 4):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def scaled(X, y=None):
    b = numpyro.sample("b", dist.Beta(2.0, 3.0))
    with numpyro.plate("rows", ROWS), handlers.scale(scale=2.5):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def with_factor(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.factor("tie", -2.0 * (b[0] - b[1]) ** 2)
    with numpyro.plate("rows", ROWS):
        numpyro.sample("y", dist.Normal(b[0], 1.0), obs=y)


def observed_parent(X, y=None):
    rate = numpyro.sample("rate", dist.Exponential(1.0))
    with numpyro.plate("rows", ROWS):
        c = numpyro.sample("c", dist.Exponential(rate), obs=1.5 + X[:, 0])
        numpyro.sample("y", dist.Normal(c * rate, 1.0), obs=y)


def two_plates(X, y=None):
    with numpyro.plate("rows", ROWS), numpyro.plate("both", 2):
        a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("rows", ROWS):
        numpyro.sample("y", dist.Normal(a.sum(axis=0), 1.0), obs=y)


KERNELS = (
    *(regression, moving_support, groups, simplex, correlated, cut_points),
    *(masked, scaled, with_factor, observed_parent, two_plates),
)


def terms_of(kernel):
    return Terms(problem_of(kernel, ("X", "y"), {"X": X, "y": Y}, None, "raise")[0], {})


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_terms_sum_to_the_potential_energy(kernel):
    terms = terms_of(kernel)
    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(value, float) for name, value in (("X", X), ("y", Y))}

        @jax.jit
        def started(key):
            return initialize_model(key, kernel, model_kwargs=arrays).param_info.z

        latents = jax.tree.map(lambda leaf: leaf + 0.3, started(jax.random.key(1)))
        energy = jax.jit(lambda at: potential_energy(kernel, (), arrays, at))(latents)
        found = jax.jit(lambda at: terms(at, arrays, None))(latents)
    total = sum(float(np.asarray(term).sum()) for term in found.values())
    assert total == pytest.approx(-float(energy), abs=1e-5)


@pytest.mark.parametrize(
    ("kernel", "readers"),
    [
        (moving_support, {"top": {"top", "u", "y"}, "u": {"u", "y"}}),  # u moves with its support
        (groups, {"m": {"m", "a"}, "a": {"a", "y"}}),
        (with_factor, {"b": {"b", "tie", "y"}}),
        (observed_parent, {"rate": {"rate", "c", "y"}}),
    ],
    ids=["moving_support", "groups", "with_factor", "observed_parent"],
)
def test_full_conditionals_are_of_the_markov_blanket(kernel, readers):
    terms = terms_of(kernel)
    arrays = {"X": X, "y": Y}
    latents = terms.start(jax.random.key(0), arrays, None)
    found = terms.readers(latents, arrays, None)
    assert {name: set(sites) for name, sites in found.items()} == readers


def test_latents_in_scan_and_subsamples_are_refused():
    def scanned(X, y=None):
        def step(level, y):
            level = numpyro.sample("level", dist.Normal(level, 1.0))
            numpyro.sample("y", dist.Normal(level, 1.0), obs=y)
            return level, None

        scan(step, 0.0, y, length=X.shape[0])

    with pytest.raises(KernelValidationError, match="'level' is inside scan"):
        terms_of(scanned).check("smc")
