"""A prediction in a process of its own, slow enough to be killed, and the calls that it makes.

`python -m tests.support.store_worker SETTINGS` says `ready`, waits for a line, predicts into the
directory of its settings, says `tile N` after each tile and `rename` before the store gets its
name, and ends with `done PATH`.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import numpyro
import numpyro.distributions as dist

from aimz import ImpactModel
from aimz.store import ZarrSink, zarr_sink

__all__ = ["DRAWS", "ROWS", "TILES", "batches", "linear", "make_model", "make_rows"]

TILES, DRAWS = 6, 4
ROWS = (TILES - 1) * 1024 + 100


def linear(X, t=0.0, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("person", X.shape[0]):
        mu = numpyro.deterministic("mu", b * X[:, 0] + t)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def make_model(shift: float = 0.0) -> ImpactModel:
    draws = np.linspace(-1, 1, DRAWS, dtype=np.float32) + np.float32(shift)
    return ImpactModel(linear).set_posterior_sample({"b": draws}, num_chains=2)


def make_rows(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)


def batches(X: np.ndarray, size: int = 700) -> Iterator[dict[str, np.ndarray]]:
    """The rows as a stream of which neither the length nor the content is known."""
    for first in range(0, len(X), size):
        yield {"X": X[first : first + size]}


def _say(text: str, lock: threading.Lock = threading.Lock()) -> None:  # noqa: B008  # one for all
    with lock:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class _Slowly(dict[tuple[str, str], np.ndarray]):
    """Values of a tile that take their time, so that a tile can be caught half written."""

    def __init__(self, values, seconds: float) -> None:
        super().__init__(values)
        self.seconds = seconds

    def items(self):
        for item in super().items():
            time.sleep(self.seconds)
            yield item


def _slow_down(seconds: float, before_rename: float) -> None:
    write, rename = ZarrSink.write, Path.rename

    def slow_write(sink, tile, values):
        write(sink, tile, _Slowly(values, seconds))
        _say(f"tile {tile.number}")

    def slow_rename(path, target):
        _say("rename")
        time.sleep(before_rename)
        return rename(path, target)

    ZarrSink.write = slow_write  # type: ignore[method-assign]
    Path.rename = slow_rename  # type: ignore[method-assign]


def main() -> None:
    settings = json.loads(sys.argv[1])
    zarr_sink.RECORD_SECONDS = settings.get("record_seconds", 0.0)
    X, model = make_rows(), make_model()
    model.predict_on_batch(X)  # compiles
    _slow_down(settings.get("seconds", 0.0), settings.get("before_rename", 0.0))
    _say("ready")
    sys.stdin.readline()
    rows = batches(X) if settings.get("loader") else X
    tree = model.predict(rows, output_dir=settings["output_dir"], progress=False)
    _say(f"done {tree.attrs['artifact_path']}")


if __name__ == "__main__":
    main()
