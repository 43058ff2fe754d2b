"""Processes that JAX knows to be several: each computes on its own devices, with the same bits."""

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import hashlib, sys
import jax
import numpy as np
address, number = sys.argv[1], int(sys.argv[2])
jax.config.update("jax_num_cpu_devices", 2)
if address:
    jax.distributed.initialize(address, num_processes=2, process_id=number)
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
from tests.support.kernels import kind_of
from tests.support.store_worker import make_model, make_rows

def told(values):
    print(hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest())

drawn = make_model().predict(make_rows(), store="memory", progress=False)
told(drawn["posterior_predictive"]["y"].values)
kind = kind_of("linear")
model, off, on = kind.model(), {"t": 0.0}, {"t": 1.0}
told(model.effect(**kind.inputs, baseline=off, intervention=on, progress=False).draws.values)
y = np.zeros(len(kind.inputs["X"]), np.float32)
density = model.log_likelihood(**kind.inputs, y=y, store="memory", progress=False)
told(density["log_likelihood"]["y"].values)
if address:
    jax.distributed.shutdown()
"""


def started(address: str, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, address, str(number)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_of_jax_each_have_the_bits_of_one():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    alone = started("", 0).communicate()[0].split()
    assert len(set(alone)) == 3
    assert all(len(word) == len(hashlib.sha256().hexdigest()) for word in alone)
    pair = [started(address, number) for number in range(2)]
    assert [process.communicate(timeout=200)[0].split() for process in pair] == [alone, alone]
    assert [process.returncode for process in pair] == [0, 0]
