"""The picture of a kernel, and the full conditional of each latent site."""

import importlib.machinery
import importlib.util
import shutil
import sys
from types import ModuleType

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from aimz import ImpactModel, InputError, KernelValidationError
from aimz.inference.terms import Terms
from aimz.model.account import _full_conditional
from aimz.prediction import problem_of
from tests.support.engines import ByHand

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32)[:, None]
Y = np.sin(np.arange(6, dtype=np.float32))


def schools(X, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.LogNormal(5.0, 1.0))
    with numpyro.plate("schools", X.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def through_a_site(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    s = numpyro.sample("s", dist.HalfNormal())
    u = numpyro.sample("u", dist.Normal(0.0, s))
    numpyro.factor("soft", -((b - u) ** 2))
    with numpyro.plate("rows", X.shape[0]):
        mean = numpyro.deterministic("mean", b * X[:, 0])
        numpyro.sample("y", dist.Normal(mean, s), obs=y)


def with_label(X, y=None):
    w = numpyro.sample("w", dist.Beta(2.0, 2.0))
    numpyro.sample("alone", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(w))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


DRAWS = {
    schools: {"mu": np.zeros(3), "tau": np.ones(3), "theta": np.zeros((3, 6))},
    through_a_site: {"b": np.zeros(3), "s": np.ones(3), "u": np.ones(3)},
    with_label: {"w": np.full(3, 0.5), "alone": np.zeros(3), "z": np.zeros((3, 6), int)},
}


@pytest.mark.parametrize("kernel", DRAWS, ids=lambda kernel: kernel.__name__)
def test_a_full_conditional_has_the_terms_that_read_the_site(kernel):
    """As provenance through the densities themselves says."""
    problem = problem_of(kernel, ("X", "y"), {"X": X, "y": Y}, None, "raise")[0]
    latents = {name: value[0] for name, value in DRAWS[kernel].items()}
    readers = Terms(problem, {}).readers(latents, problem.inputs.arrays, None)
    spec = problem.spec
    for name in spec.latents:
        found = _full_conditional(spec, spec[name])
        assert set(found["terms"]) == set(readers[name]), name
        others = {other for other in readers if set(readers[other]) & set(readers[name])} - {name}
        assert {other for other in found["given"] if other in spec.latents} == others, name


@pytest.fixture(scope="module")
def model():
    engine = ByHand(b=np.zeros(3), s=np.ones(3), u=np.ones(3))
    return ImpactModel(through_a_site, inference=engine).fit(X, Y, progress=False)


@pytest.mark.usefixtures("_graphviz")
def test_a_notebook_shows_the_picture_of_a_fit(model, monkeypatch):
    shown = model._repr_mimebundle_()["text/html"]
    assert "'b -> mean'" in shown
    assert "<?xml" not in shown
    assert "<svg>" not in ImpactModel(schools)._repr_mimebundle_()["text/html"]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "<svg>" not in model._repr_mimebundle_()["text/html"]


def test_describe_lists_them(model):
    sites = model.describe()["sites"]
    found = {name: site["full_conditional"] for name, site in sites.items() if name in "bsu"}
    assert found["b"] == {"terms": ["b", "soft", "y"], "given": ["s", "soft", "u", "y"]}
    assert found["u"] == {"terms": ["soft", "u"], "given": ["b", "s", "soft"]}
    assert "full_conditional" not in sites["y"]


def test_a_picture_needs_graphviz_and_data(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = ImpactModel(schools)
    with pytest.raises(InputError, match="Fit first") as caught:
        model.graph()
    assert caught.value.code == "no-data"
    with pytest.raises(InputError, match="pip install graphviz") as caught:
        model.graph(X, Y)
    assert caught.value.code == "graphviz-missing"


class _Drawn:
    """What a renderer was told, in place of Graphviz."""

    def __init__(self, *args, **kwargs):
        self.said: list[str] = []
        self.graph_attr: dict[str, str] = {}

    def node(self, name, **kwargs):
        self.said.append(name)

    def edge(self, one, other, **kwargs):
        self.said.append(f"{one} -> {other}")

    def subgraph(self, part):
        self.said += part.said

    def attr(self, **kwargs):
        pass

    def pipe(self, **kwargs):
        return f"<?xml?><svg>{self.said}</svg>"


@pytest.fixture
def _graphviz(monkeypatch):
    stand_in = ModuleType("graphviz")
    stand_in.Digraph = _Drawn
    stand_in.__spec__ = importlib.machinery.ModuleSpec("graphviz", None)
    monkeypatch.setitem(sys.modules, "graphviz", stand_in)
    monkeypatch.setattr(shutil, "which", lambda name: name)


@pytest.mark.usefixtures("_graphviz")
def test_a_picture_has_sites_and_what_follows_from_what():
    said = ImpactModel(schools).graph(X, Y).said
    assert {"mu", "tau", "theta", "y"} <= set(said)
    assert {"mu -> theta", "tau -> theta", "theta -> y"} <= set(said)
    assert "mu -> y" not in said

    def steady(X, y=None):
        def step(carry, row):
            z = numpyro.sample("z", dist.Normal(carry, 1.0))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=row)
            return z, None

        scan(step, 0.0, y, length=X.shape[0])

    with pytest.raises(KernelValidationError, match="inside scan") as caught:
        ImpactModel(steady).graph(X, Y)
    assert caught.value.code == "graph"
