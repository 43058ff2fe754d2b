"""The number of devices changes no bits: a fit takes its steps on one, or in shards on any."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import hashlib, sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np, numpyro, numpyro.distributions as dist
from aimz import ImpactModel

assert len(jax.local_devices()) == int(sys.argv[1])
rng = np.random.default_rng(0)
X = rng.normal(size=(600, 3)).astype(np.float32)
y = (X @ np.array([1.0, -1.0, 0.5]) + rng.normal(size=600)).astype(np.float32)

def kernel(X, y=None):
    w = numpyro.sample("w", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.StudentT(4.0, X @ w, 1.0), obs=y)

def told(im):
    for values in (im.posterior["w"], im._fitted.fit.trace["loss"]):
        print(hashlib.sha256(np.asarray(values).tobytes()).hexdigest())

made = dict(rng_key=0, num_samples=20, inference="svi")
quiet = dict(progress=False, on_bad_fit="ignore")
told(ImpactModel(kernel, **made).fit(X, y, batch_size=100, epochs=3, **quiet))
told(ImpactModel(kernel, **made).fit_on_batch(X, y, num_steps=50, **quiet))
for how in ({"batch_size": 100, "epochs": 3}, {"num_steps": 50}):
    told(ImpactModel(kernel, **made).fit(X, y, num_shards=4, **how, **quiet))
"""


@pytest.mark.slow
def test_a_fit_has_the_same_bits_on_two_devices_and_on_four():
    told = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(devices)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            # NumPyro adds up the terms of a loss in the order of a set.
            env={**os.environ, "PYTHONHASHSEED": "0"},
        ).stdout.split()
        for devices in (1, 2, 4)
    ]
    assert len(told[0]) == 8
    assert len(set(told[0])) >= 6  # few draws may be the same bits with and without shards
    assert told[0] == told[1] == told[2]
