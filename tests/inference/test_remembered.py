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
from numpyro.infer import SVI, Trace_ELBO
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


def test_a_users_own_guide_is_traced_at_each_fit():
    users = SVI(kernel, AutoNormal(kernel), Adam(0.01), Trace_ELBO())

    def programs(given: Any) -> int:
        task = Task(problem(), given)
        assert task.version  # which is a trace of its own
        before = program_stats()["traced"]
        for _ in range(2):
            task.program(lambda x: x, 1.0, beside=())
        return program_stats()["traced"] - before

    assert (programs(None), programs(users)) == (1, 2)


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


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["svi", "nuts", "auto"])
@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
def test_a_warm_fit_traces_and_compiles_nothing(inference):
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
