"""A kernel that another process can import, and a process that predicts with a saved model.

`python -m tests.support.saved_kernel HOW PATH OUT DEVICES` loads the model at PATH and writes its
draws to OUT; HOW is pickle, cloudpickle, joblib or archive.
"""

import sys
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import jax
import jax.numpy as jnp
import joblib
import numpy as np
import numpyro
import numpyro.distributions as dist

from aimz import ImpactModel

__all__ = ["kernel", "local", "read", "rows"]


def kernel(X, t=None, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b + (0.0 if t is None else t), sigma), obs=y)


def local(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(a, 1.0))
        numpyro.sample("y", dist.Poisson(jnp.exp(z)), obs=y)


def rows(count: int = 2500) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)


def read(how: str, path: str, kernel: Any = kernel) -> ImpactModel:
    if how == "archive":
        return ImpactModel.load(path, kernel)
    if how == "joblib":
        model: ImpactModel = joblib.load(path)
        return model
    with open(path, "rb") as file:  # noqa: PTH123  # as users do
        loaded: ImpactModel = cloudpickle.load(file)
        return loaded


if __name__ == "__main__":
    how, path, out, devices = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    tree: Any = read(how, path).predict(rows(), progress=False)
    assert jax.local_device_count() == int(devices)
    np.save(out, tree.posterior_predictive["y"].values)
