"""Recovery: right posteriors pass, simulators that share their noise do not."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import InputError
from aimz.inference import NUTS
from aimz.sequential import recovery

ROWS, TRIALS = 6, 10
X = np.zeros((ROWS, 1))


def group(X, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("subject", X.shape[0]):
        level = numpyro.sample("level", dist.Normal(mu, 0.3))
        law = dist.Normal(level[:, None], 1.0).expand([X.shape[0], TRIALS]).to_event(1)
        numpyro.sample("y", law, obs=y)


def shared(key, parameters):
    """The mistake: one key for all members."""
    noise = jax.random.normal(key, (1, TRIALS))
    return np.asarray(parameters["level"])[:, None] + np.asarray(noise)


def test_the_design_is_told_from_the_outcome():
    for design in ({}, {"X": X, "y": 0}):
        with pytest.raises(InputError) as error:
            recovery(group, design, ["mu"])
        assert error.value.code == "recovery"


@pytest.mark.slow
def test_a_right_posterior_passes_and_shared_noise_fails():
    engine = NUTS(chains=2, warmup=300)
    right = recovery(group, {"X": X}, ["mu", "level"], n=60, engine=engine)
    assert right.failed == ()
    assert right.table["r"].to_numpy()[0] > 0.9
    assert set(right.verdicts) == {"good"}
    assert right.truths["level"].shape == (60, ROWS)
    assert len(right.plot().axes) == 4
    wrong = recovery(group, {"X": X}, ["mu", "level"], n=60, engine=engine, simulator=shared)
    assert "mu" in wrong.failed
    low, high = (found.table["coverage"].to_numpy()[0] for found in (wrong, right))
    assert low < 0.75 < high
