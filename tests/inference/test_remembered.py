"""What is kept of a kernel between fits, and each thing that makes it be found out anew."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam

from aimz import ImpactModel
from aimz.inference.binding import raw_sites, row_factors, version_of
from aimz.inference.hierarchy import in_standard_units
from aimz.inference.remembered import program_of, remembered
from aimz.inference.svi.task import Task
from aimz.prediction import problem_of
from aimz.programs import clear_programs
from aimz.programs.tracing import program_stats

SCALE = 1.0
TABLE = np.array([1.0, 2.0])
ROWS = 12


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    clear_programs()


def kernel(X, y=None, power=1, size=None):
    b = numpyro.sample("b", dist.Normal(0.0, SCALE))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0] ** power + TABLE.sum(), 1.0), obs=y)


def problem(rows=ROWS, weights=None, missing="raise", kernel=kernel, **options) -> Any:
    X = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    y = X[:, 0].copy()
    if missing == "mask":
        y[0] = np.nan
    made, _ = problem_of(kernel, ("X", "y"), {"X": X, "y": y, **options}, weights, missing)
    return made


def made_again(first: Any, second: Any, *beside: Any) -> bool:
    """Whether the second call finds out anew what the first one had found."""
    made: list[int] = []
    for one, others in ((first, ()), (first, ()), (second, beside)):
        remembered(one, "it", lambda: made.append(1), *others)
    return len(made) > 1


def test_what_follows_from_the_same_is_found_out_once():
    assert not made_again(problem(), problem())
    assert not made_again(problem(size=2), problem(size=2))


def signed(problem: Any, **changes: Any) -> Any:
    return replace(problem, inputs=replace(problem.inputs, **changes))


def doubled(problem: Any) -> Any:
    arrays = {n: np.asarray(v, np.int32) for n, v in problem.inputs.arrays.items()}
    return signed(problem, arrays=arrays)


def other(X, y=None, power=1, size=None):
    kernel(X, y, power, size)


CHANGES = {
    "rows": lambda: problem(rows=ROWS + 1),
    "kernel": lambda: problem(kernel=other),
    "weights": lambda: problem(weights=np.ones(ROWS)),
    "missing": lambda: problem(missing="mask"),
    "dtype": lambda: doubled(problem()),
    "static": lambda: problem(power=2),
    "static kind": lambda: problem(power=True),
    "static sign": lambda: signed(problem(), static={"power": -0.0, "size": None}),
    "always": lambda: signed(problem(), always_rows=("X",)),
    "spec": lambda: replace(problem(), spec=replace(problem().spec, row_plates=frozenset())),
    "coordinates": lambda: in_standard_units(problem(), frozenset({"b"})),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_it_follows_from_is_part_of_its_name(change):
    first = problem()
    if change is CHANGES["static sign"]:
        first = signed(first, static={"power": 0.0, "size": None})
    assert made_again(first, change())


def test_what_is_closed_over_is_part_of_its_name():
    assert made_again(problem(), problem(), 0.5)


def test_shapes_of_arguments_are_part_of_a_program():
    def twice(x):
        return 2 * x

    run = partial(program_of, problem(), twice, version="it")
    assert run(jnp.ones(2))(jnp.ones(2)).shape == (2,)
    assert run(jnp.ones(3))(jnp.ones(3)).shape == (3,)
    assert run(jnp.ones(2, np.int32))(jnp.ones(2, np.int32)).dtype == np.int32


def test_precision_is_part_of_a_program():
    def half(x):
        return x / 2

    with jax.enable_x64(True):
        wide = program_of(problem(), half, 1.0, version="it")(1.0)
    assert wide.dtype == np.float64
    assert program_of(problem(), half, 1.0, version="it")(1.0).dtype == np.float32


@pytest.mark.parametrize("name", ["SCALE", "TABLE"])
def test_what_the_kernel_reads_is_part_of_its_name(name, monkeypatch):
    table = np.array([1.0, 2.0])
    monkeypatch.setitem(globals(), "TABLE", table)
    first = problem()
    made: list[int] = []
    for _ in range(2):
        remembered(first, "it", lambda: made.append(1))
    if name == "SCALE":
        monkeypatch.setitem(globals(), name, 2.0)
    else:
        table[0] = 5.0
    remembered(first, "it", lambda: made.append(1))
    assert len(made) == 2


def test_what_changes_while_it_is_found_out_is_not_kept(monkeypatch):
    first = problem()

    def meanwhile():
        monkeypatch.setitem(globals(), "SCALE", 2.0)
        return SCALE

    assert remembered(first, "it", meanwhile) == 2.0
    monkeypatch.setitem(globals(), "SCALE", 1.0)
    assert remembered(first, "it", lambda: 1.0) == 1.0


RATES = [0.01]


def guide(X, y=None):
    loc = numpyro.param("loc", SCALE)
    numpyro.sample("b", dist.Normal(loc, 1.0))


def own_svi(guide: Any = None) -> SVI:
    """What a user passes: a guide, an optimiser that reads a list, and a loss."""
    return SVI(kernel, guide or AutoNormal(kernel), Adam(lambda step: RATES[0]), Trace_ELBO())


def traces_of(task: Any) -> int:
    """How many traces it takes to get a program of a task."""
    before = program_stats()["traced"]
    task.program(lambda x: x, 1.0, beside=())
    return program_stats()["traced"] - before


USERS_CHANGES: dict[str, Any] = {
    "guide": lambda svi, _: setattr(svi, "guide", AutoNormal(kernel)),
    "start of the guide": lambda svi, _: setattr(svi.guide, "_init_scale", 0.5),
    "loss": lambda svi, _: setattr(svi.loss, "num_particles", 3),
    "optimiser": lambda svi, _: setattr(svi, "optim", Adam(0.1)),
    "options": lambda svi, _: svi.static_kwargs.update(power=2),
    "what the optimiser reads": lambda _, patch: patch.setattr(f"{__name__}.RATES", [0.1]),
}


@pytest.mark.parametrize("change", USERS_CHANGES.values(), ids=USERS_CHANGES)
def test_programs_of_a_users_objects_are_kept_until_one_of_them_changes(change, monkeypatch):
    users = own_svi()
    task = Task(problem(), users)
    assert task.version  # which is a trace of its own
    assert [traces_of(task) for _ in range(3)] == [1, 0, 0]
    change(users, monkeypatch)
    assert traces_of(task) == 1


def test_what_a_users_guide_reads_is_part_of_its_name(monkeypatch):
    users = own_svi(guide)
    assert Task(problem(), users).version == Task(problem(), users).version
    assert [traces_of(Task(problem(), users)) for _ in range(2)][1] == 0
    before = Task(problem(), users).version
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert Task(problem(), users).version != before


def test_programs_of_two_users_objects_are_apart():
    one, other = Task(problem(), own_svi()), Task(problem(), own_svi())
    assert one.version == other.version
    assert (traces_of(one), traces_of(other), traces_of(one)) == (1, 1, 0)


def test_kernels_that_scale_by_rows_keep_their_scales_apart():
    def scaled(X, y=None):
        with numpyro.plate("row", X.shape[0]), numpyro.handlers.scale(scale=60.0 / X.shape[0]):
            numpyro.sample("y", dist.Normal(X[:, 0], 1.0), obs=y)

    whole = problem(kernel=scaled)
    assert [row_factors(whole, rows) for rows in (4, 6, 4)] == [{"y": 1.0}] * 3
    plain = problem()
    assert [row_factors(plain, rows) for rows in (4, 6, 4)] == [{"y": 3.0}, {"y": 2.0}, {"y": 3.0}]


def test_a_kernel_is_traced_once_for_what_its_messages_say():
    calls = []

    def counted(X, y=None):
        calls.append(1)  # so that it has no version
        numpyro.sample("y", dist.Normal(X[:, 0], 1.0), obs=y)

    whole, one = problem(), problem(kernel=counted)
    assert raw_sites(whole) is raw_sites(whole)
    assert version_of(whole) is version_of(whole)
    before = len(calls)
    raw_sites(one)
    raw_sites(one)
    assert len(calls) == before + 2


OBJECTS = {
    "an SVI object": lambda: own_svi(),
    "an SVI object with a function as guide": lambda: own_svi(guide),
    "an MCMC object": lambda: MCMC(NUTS(kernel), num_warmup=20, num_samples=20, progress_bar=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["svi", "nuts", "auto", *OBJECTS])
@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
def test_a_warm_fit_traces_and_compiles_nothing(inference):
    inference = OBJECTS.get(inference, lambda: inference)()
    X = np.linspace(-1, 1, ROWS, dtype=np.float32)[:, None]

    def fitted(key: int) -> Any:
        im = ImpactModel(kernel, inference=inference, rng_key=key, num_samples=20)
        return im.fit(X, X[:, 0], num_steps=None, progress=False, batch_size=None)

    fitted(0)
    fitted(1)  # libraries that the first one has brought in
    before = program_stats()
    fitted(2)
    after = program_stats()
    assert (after["traced"] - before["traced"], after["made"] - before["made"]) == (0, 0)


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
def test_a_users_objects_that_change_between_fits_are_followed():
    X = np.linspace(-1, 1, ROWS, dtype=np.float32)[:, None]

    def means(im: ImpactModel) -> list[float]:
        found = []
        for rate in (1e-6, 0.1, 1e-6):
            RATES[0] = rate
            im.fit(X, 5 * X[:, 0], num_steps=60, num_samples=40, progress=False, rng_key=1)
            found.append(float(im.posterior["b"].mean()))
        return found

    afresh = means(ImpactModel(kernel, inference=own_svi(), rng_key=0))
    assert afresh[0] == afresh[2] != afresh[1]
