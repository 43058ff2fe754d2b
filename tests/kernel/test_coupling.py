"""The verdict on rows: none that interact may be called separable."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, PerformanceWarning
from aimz.kernel import Inputs, inspect
from tests.support.outcomes import OUTCOMES
from tests.support.row_kernels import KERNELS, NUM_LITERAL
from tests.support.selection import some_fast


def spec_of(kernel, arrays, rows=NUM_LITERAL, **static):
    always = tuple(name for name in ("X", "y") if name in arrays)
    return inspect(kernel, Inputs(arrays, static, rows, always), "y")


def by_name(name):
    return next(record for record in KERNELS if record.name == name)


@pytest.mark.parametrize("record", some_fast(KERNELS, 4))
def test_verdict(record):
    arrays = record.make_inputs(NUM_LITERAL, 0)

    spec = spec_of(record.kernel, arrays)

    assert spec.coupled == record.is_called_coupled(), spec.reason
    assert bool(spec.reason) == spec.coupled
    assert len(spec.reason) < 240


@pytest.mark.parametrize("record", some_fast([r for r in KERNELS if r.is_called_coupled()], 4))
def test_verdict_without_the_outcome(record):
    arrays = record.make_inputs(NUM_LITERAL, 0)
    del arrays["y"]

    spec = spec_of(record.kernel, arrays)

    assert spec.coupled == record.is_called_coupled(with_outcome=False), spec.reason


def test_table_is_long_enough_and_explains_its_false_alarms():
    assert len(KERNELS) >= 35
    assert len({record.name for record in KERNELS}) == len(KERNELS)
    assert not any(record.coupled and record.false_alarm for record in KERNELS)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("table_as_long_as_rows", {"table"}),
        ("time_table", {"calendar"}),
        ("neighbour_of_a_table", {"dose"}),
        ("group_table", set()),
    ],
)
def test_arguments_are_rows_by_what_the_kernel_does_with_them(name, whole):
    record = by_name(name)
    arrays = record.make_inputs(NUM_LITERAL, 0)

    spec = spec_of(record.kernel, arrays)

    assert set(arrays) - spec.row_inputs == whole


@pytest.mark.parametrize(
    "name",
    ["linear", "subsampled_plate", "subsample_statement", "population_plate", "literal_plate"],
)
def test_row_plates_follow_the_rows_whatever_size_is_written(name):
    record = by_name(name)

    spec = spec_of(record.kernel, record.make_inputs(NUM_LITERAL, 0))

    assert spec.row_plates == {"rows"}


def test_group_plate_that_happens_to_have_as_many_groups_as_rows_stays():
    record = by_name("groups_as_many_as_rows")

    spec = spec_of(record.kernel, record.make_inputs(NUM_LITERAL, 0))

    assert spec.row_plates == {"rows"}
    assert spec["a"].rows == "none"


@pytest.mark.parametrize(
    ("name", "site", "axis"), [("rows_inside", "z", 1), ("rows_outside", "z", 0)]
)
def test_row_axis_is_where_the_row_plate_is(name, site, axis):
    record = by_name(name)

    spec = spec_of(record.kernel, record.make_inputs(NUM_LITERAL, 0))

    assert (spec[site].rows, spec[site].row_axis) == ("leading", axis)
    assert spec[site].dims[axis] == "rows"


def test_verdict_on_one_row():
    arrays = by_name("linear").make_inputs(1, 0)
    assert not spec_of(by_name("linear").kernel, arrays, rows=1).coupled


def test_square_argument_does_not_follow_the_rows_along_its_second_axis():
    def kernel(X, pairs, y=None):
        numpyro.sample("y", dist.Normal(X + pairs.sum(1), 1.0), obs=y)

    arrays = {"X": np.zeros(9, np.float32), "pairs": np.ones((9, 9), np.float32)}
    spec = spec_of(kernel, arrays, rows=9)

    assert not spec.coupled
    assert spec.row_inputs == {"X", "pairs"}


def test_branch_on_the_number_of_rows_is_seen():
    def kernel(X, y=None):
        mu = X if X.shape[0] > 1 else 2 * X
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    assert spec_of(kernel, {"X": np.ones(9, np.float32)}, rows=9).coupled


@pytest.mark.parametrize("name", some_fast(list(OUTCOMES), 12))
def test_outcome_of_every_family_keeps_rows_apart(name):
    def kernel(X, y=None):
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", OUTCOMES[name](X), obs=y)

    spec = spec_of(kernel, {"X": np.linspace(0.3, 2.9, 9, dtype=np.float32)}, rows=9)

    assert not spec.coupled, spec.reason
    assert spec["y"].row_axis == 0


def test_a_kernel_that_asks_how_many_rows_there_are_sees_them_all():
    def kernel(X, y=None):
        n = X.shape[0]
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("obs", n):
            mean = b * X[:, 0] + (100.0 if n > 8 else 0.0) + n // 10
            numpyro.sample("y", dist.Normal(mean, 0.001), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(2)})
    with pytest.warns(PerformanceWarning, match="another number among few rows than among all"):
        got = im.predict_on_batch(np.zeros((20, 1)), return_datatree=False)["y"]
    np.testing.assert_allclose(got, 102.0, atol=0.01)
