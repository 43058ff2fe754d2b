"""A minibatch fit is right or refuses: batch densities, averaged, are the whole data's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.util import log_density

from aimz.inference import Problem, Settings
from aimz.inference.binding import RowScale, kernel_for, take_rows, why_whole
from aimz.inference.training import plan_fit
from aimz.kernel import Inputs, inspect
from tests.kernels import KERNELS, NUM_LITERAL
from tests.selection import some_fast

BATCH = 5
# Kernels whose density is random (a subsample of their own, initial parameters), or which scale it
# themselves, so that batches stand for another population than these rows.
OTHERS = {
    "flax_params",
    "scaled",
    "scaled_to_population",
    "subsample_statement",
    "subsampled_plate",
}
ENTRIES = [entry for entry in KERNELS if entry.name not in OTHERS]


def problem_of(entry):
    arrays = {name: jnp.asarray(v) for name, v in entry.make_inputs(NUM_LITERAL, 0).items()}
    inputs = Inputs(arrays, {}, NUM_LITERAL, ("X", "y"))
    return Problem(entry.kernel, inputs, inspect(entry.kernel, inputs, "y"))


@pytest.mark.parametrize("entry", some_fast(ENTRIES, 24))
def test_batch_densities_average_to_that_of_the_whole_data(entry):
    problem = problem_of(entry)
    if why_whole(problem):
        plan = plan_fit(problem, Settings(batch_size=BATCH))
        assert plan.batch == NUM_LITERAL
        assert [note.code for note in plan.notes] == ["fit-whole"]
        return
    arrays = problem.inputs.arrays
    given = {name: value for name, value in arrays.items() if name != "y"}
    draws = Predictive(entry.kernel, num_samples=1)(jax.random.key(0), **given)
    latents = {name: draws[name][0] for name in problem.spec.latents}

    def density(kernel, arrays):
        seeded = handlers.seed(kernel, 0)
        return float(log_density(seeded, (), arrays, latents)[0])

    kernel = kernel_for(problem, BATCH)
    factor = NUM_LITERAL / BATCH
    parts = []
    for rows in np.arange(NUM_LITERAL).reshape(-1, BATCH):
        with RowScale(problem, factor):
            parts.append(density(kernel, take_rows(problem, arrays, rows)))
    assert np.mean(parts) == pytest.approx(density(entry.kernel, arrays), rel=2e-4, abs=2e-3)
