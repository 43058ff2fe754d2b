"""How much memory a tile takes: programs that need much work on a few draws at a time."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, InputError
from aimz.execution import call, parts
from aimz.programs import Bound, clear_programs
from aimz.programs.tracing import num_compiled
from tests.support.kernels import kind_of

ROWS, WIDTH, DRAWS = 60, 512, 600  # 75 MB of hidden values
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 3)).astype(np.float32)
WEIGHTS = {
    "into": RNG.normal(size=(DRAWS, 3, WIDTH)).astype(np.float32),
    "out": (RNG.normal(size=(DRAWS, WIDTH)) / WIDTH).astype(np.float32),
}


def net(X, y=None):
    into = numpyro.sample("into", dist.Normal().expand([3, WIDTH]).to_event(2))
    out = numpyro.sample("out", dist.Normal().expand([WIDTH]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        mu = numpyro.deterministic("mu", jnp.tanh(X @ into) @ out)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.fixture
def programs(monkeypatch) -> list[tuple[Bound, object]]:
    """Programs that are run, and their blocks."""
    ran: list[tuple[Bound, object]] = []
    real = Bound.__call__

    def noted(self, *inputs):
        ran.append((self, inputs))
        return real(self, *inputs)

    monkeypatch.setattr(Bound, "__call__", noted)
    return ran


def test_a_neural_net_needs_as_much_as_a_part_of_its_draws(programs):
    im, before = ImpactModel(net).set_posterior_sample(WEIGHTS), num_compiled()
    found = im.predict_on_batch(X, return_datatree=False)
    ((program, inputs),) = programs
    results = 3 * 4 * 64 * DRAWS  # of two sites, and one as it is put together
    assert program.temp_bytes(*inputs) < parts.CPU_PART_BYTES + results
    hidden = np.tanh(np.einsum("rk,dkw->drw", X.astype(float), WEIGHTS["into"].astype(float)))
    right = np.einsum("drw,dw->dr", hidden, WEIGHTS["out"].astype(float))
    np.testing.assert_allclose(found["mu"].reshape(DRAWS, ROWS), right, atol=2e-6)
    made = num_compiled()
    im.predict_on_batch(X + 1)
    assert (made - before, num_compiled() - made) == (2, 0)


def test_an_ordinary_kernel_is_not_asked_what_it_needs(monkeypatch):
    monkeypatch.setattr(Bound, "temp_bytes", None)
    kind = kind_of("linear")
    kind.model().predict(**kind.inputs, store="memory", progress=False)


IN_MEMORY: dict[str, Any] = {"store": "memory", "progress": False}


def predicted(im, inputs, _):
    return im.predict(**inputs, rng_key=1, **IN_MEMORY)["posterior_predictive"].to_dataset()


def densities(im, inputs, outcomes):
    return im.log_likelihood(**inputs, **outcomes, **IN_MEMORY)["log_likelihood"].to_dataset()


def averages(im, inputs, _):
    outcomes = {"baseline": {"t": 0.0}, "intervention": {"t": 1.0}, "progress": False}
    return im.effect(**inputs, **outcomes, rng_key=1, estimand="ate").to_datatree()["posterior"]


@pytest.fixture(params=[2, pytest.param(6, marks=pytest.mark.slow)])
def in_parts(request, monkeypatch):
    """Let every program work on so many draws at a time."""
    real, used = parts.in_parts, []

    def cut(program, _):
        used.append(program)
        return real(program, request.param)

    def begin():
        for name, value in {"CPU_BYTES": -1, "CPU_PART_BYTES": 1, "in_parts": cut}.items():
            monkeypatch.setattr(parts, name, value)
        monkeypatch.setattr(call, "WIDE_BYTES", -1)
        clear_programs()  # which were made without
        return used

    return begin


slow = pytest.mark.slow
ALL = ("linear", "weighted_logistic", "row_latents", "several", "multivariate", "ordered")
CASES = [
    ("weighted_logistic", predicted, 0),
    ("linear", averages, 2**18),
    *(
        pytest.param(name, method, paired, marks=slow)
        for name in (*ALL, "autoregression", "hierarchical", "mediated")
        for method in (predicted, densities, averages)
        for paired in (0, 2**18)
    ),
]


@pytest.mark.filterwarnings("ignore::aimz.OutputWarning", "ignore::aimz.PerformanceWarning")
@pytest.mark.parametrize(("name", "ask", "paired"), CASES)
def test_answers_do_not_depend_on_how_many_draws_are_computed_at_once(
    name, ask, paired, in_parts, monkeypatch
):
    monkeypatch.setattr(call, "PAIRED_VALUES", paired)
    kind = kind_of(name)
    given = kind.model(), kind.inputs, kind.outcomes
    whole = ask(*given)
    used = in_parts()
    parted = ask(*given)
    assert used
    for site, values in parted.data_vars.items():
        if values.dtype.kind == "f":  # to a few units in the last place, as in tiles of other sizes
            close: Any = {"rtol": 1e-12} if ask is densities else {"rtol": 4e-6, "atol": 1e-6}
            np.testing.assert_allclose(values, whole[site], **close)
        else:
            np.testing.assert_array_equal(values, whole[site])


def test_a_fault_is_named_alike_in_parts(in_parts):
    draws = np.linspace(1.0, -1.0, 12)

    def kernel(X, y=None):
        sd = numpyro.sample("sd", dist.Normal())
        with numpyro.plate("row", len(X)):
            numpyro.sample("y", dist.Normal(0.0, sd + X[:, 0]), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"sd": draws})
    rows = np.array([[2.0], [0.1], [0.0]])

    def said():
        with pytest.raises(InputError, match="row 1") as caught:
            im.predict(rows, **IN_MEMORY)
        return str(caught.value)

    whole = said()
    assert in_parts() == []
    assert said() == whole
