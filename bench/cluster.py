"""An average effect of rows in Parquet: local threads against a Dask cluster of this machine.

    python bench/cluster.py --rows 4000000 --draws 200 --workers 2

Prints one line of JSON: seconds of processor time of every process, the largest memory of each,
bytes through the scheduler, and whether the answers are the same bits. Each side is called once
before on the first rows, so that what is measured is compiled: the kernel is one of a module, which
workers import. With --by-value it travels, and each worker traces it once a call. Nothing but
loopback is used.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import distributed
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyarrow as pa
import pyarrow.parquet as pq
from distributed.comm.tcp import TCP

import aimz

library: Any = distributed  # whose classes have no types

GROUP_ROWS = 2**18
COLUMNS = ("age", "income", "treated")


def linear(X: Any, t: Any, y: Any = None) -> None:
    """A linear kernel with a treatment."""
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ w + b * t, 1.0), obs=y)


def net(X: Any, t: Any, y: Any = None) -> None:
    """A network of one hidden layer, which costs a row some hundred times more."""
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 64]).to_event(2))
    v = numpyro.sample("v", dist.Normal(0.0, 1.0).expand([64]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        mean = jnp.tanh(X @ w + b * t[:, None]) @ v
        numpyro.sample("y", dist.Bernoulli(logits=mean), obs=y)


KERNELS = {
    "linear": (linear, {"b": (), "w": (2,)}),
    "net": (net, {"b": (), "w": (2, 64), "v": (64,)}),
}


def write_rows(path: Path, rows: int) -> None:
    """Rows of three columns, a group at a time."""
    schema = pa.schema([(name, pa.float32()) for name in COLUMNS])
    with pq.ParquetWriter(path, schema) as writer:
        for number, first in enumerate(range(0, rows, GROUP_ROWS)):
            count = min(GROUP_ROWS, rows - first)
            rng = np.random.default_rng(number)
            values = rng.normal(size=(3, count)).astype(np.float32)
            values[2] = values[2] > 0
            writer.write_table(pa.table(dict(zip(COLUMNS, values, strict=True)), schema=schema))


def usage() -> tuple[float, float]:
    """Seconds of processor time of this process, and the most memory that it has held, in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    (most,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return time.process_time(), int(most) / 1e3


class Traffic:
    """Bytes that this process, which holds client and scheduler, has written and read."""

    def __init__(self) -> None:
        self.bytes = 0
        write: Any = TCP.write

        async def counted(comm: TCP, *args: Any, **options: Any) -> Any:
            written = await write(comm, *args, **options)
            self.bytes += int(written)
            return written

        setattr(TCP, "write", counted)  # noqa: B010  # a method of theirs


def ask(im: aimz.ImpactModel, path: Path) -> np.ndarray:
    """The average effect, as draws."""
    effect = im.effect(str(path), {"t": 0}, {"t": 1}, t="treated", progress=False, rng_key=1)
    return effect.draws.to_numpy()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kernel", choices=KERNELS, default="linear")
    parser.add_argument("--by-value", action="store_true")
    parser.add_argument("--skip-local", action="store_true")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    asked = parser.parse_args()
    path = Path(asked.folder) / f"rows-{asked.rows}.parquet"
    few = min(200_000, asked.rows // 2)
    first = Path(asked.folder) / f"rows-{few}.parquet"
    for place, rows in ((path, asked.rows), (first, few)):
        if not place.exists():
            write_rows(place, rows)
    rng = np.random.default_rng(0)
    kernel, sites = KERNELS[asked.kernel]
    if not asked.by_value:  # as this file is a module too, from its own folder
        kernel = getattr(importlib.import_module(Path(__file__).stem), kernel.__name__)
    draws = {n: rng.normal(size=(asked.draws, *shape)) for n, shape in sites.items()}
    im = aimz.ImpactModel(kernel)
    im.set_posterior_sample({name: value.astype(np.float32) for name, value in draws.items()})
    found: dict[str, Any] = {**vars(asked)}
    del found["folder"]
    local = None
    if not asked.skip_local:
        ask(im, first)
        cpu, wall = time.process_time(), time.perf_counter()
        local = ask(im, path)
        found["local_cpu_s"] = time.process_time() - cpu
        found["local_wall_s"] = time.perf_counter() - wall
        found["local_peak_mb"] = usage()[1]
    traffic = Traffic()
    with (
        library.LocalCluster(
            n_workers=asked.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
        ) as cluster,
        library.Client(cluster) as client,
    ):
        ask(im, first)
        empty = time.process_time(), time.perf_counter()
        for number in range(200):
            client.submit(abs, number, pure=False).result()
        found["empty_task_cpu_s"] = (time.process_time() - empty[0]) / 200
        found["empty_task_wall_s"] = (time.perf_counter() - empty[1]) / 200
        before, cpu, wall = client.run(usage), time.process_time(), time.perf_counter()
        through = traffic.bytes
        there = ask(im, path)
        after = client.run(usage)
        found["cluster_wall_s"] = time.perf_counter() - wall
        found["asking_cpu_s"] = time.process_time() - cpu
        found["worker_cpu_s"] = [after[name][0] - before[name][0] for name in after]
        found["worker_peak_mb"] = [after[name][1] for name in after]
        found["asking_peak_mb"] = usage()[1]
        found["sent_bytes"] = traffic.bytes - through
    found["sent_bytes_a_million_rows"] = found["sent_bytes"] / asked.rows * 1e6
    found["cluster_cpu_s"] = found["asking_cpu_s"] + sum(found["worker_cpu_s"])
    if local is not None:
        found["ratio"] = found["cluster_cpu_s"] / found["local_cpu_s"]
        found["same_bits"] = bool(np.array_equal(local, there))
    print(json.dumps(found))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
