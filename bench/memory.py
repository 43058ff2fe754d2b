"""Peak memory and disk use of predictions much larger than memory would have to be.

Three predictions go to Zarr on disk, each in a process of its own: 2,000,000 rows of a
memory-mapped file under 200 draws, and 10,000,000 rows streamed from a Zarr array under 20 draws,
which must both stay below 1.5 GB of resident memory; and a Bernoulli outcome, for its bytes per
draw. The covariates are written in pieces before the measurement begins, and results are read back
and checked after it.

    python bench/memory.py --quick
    python bench/memory.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import COLUMNS, Plan, read_back, timed, with_aimz

PIECE = 100_000
QUICK = 50  # how many times fewer rows --quick has
GIGABYTE = 10**9


@dataclass(frozen=True)
class Job:
    """A prediction: its outcome, its size, where its rows lie, and the most memory it may take."""

    outcome: str
    rows: int
    draws: int
    source: str
    limit: float | None = None


JOBS = {
    "2 million rows": Job("linear", 2_000_000, 200, "memmap", limit=1.5 * GIGABYTE),
    "10 million rows": Job("linear", 10_000_000, 20, "zarr", limit=1.5 * GIGABYTE),
    "Bernoulli": Job("logistic", 200_000, 200, "memmap"),
}


def pieces(rows: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of standard normal covariates, a piece at a time."""
    rng = np.random.default_rng(2)
    for first in range(0, rows, PIECE):
        size = min(PIECE, rows - first)
        yield slice(first, first + size), rng.standard_normal((size, COLUMNS), dtype=np.float32)


def source(kind: str, rows: int, path: Path) -> Any:
    """Covariates on disk, opened for reading."""
    if kind == "zarr":
        import zarr

        array = zarr.create_array(path, shape=(rows, COLUMNS), chunks=(PIECE, COLUMNS), dtype="f4")
        for where, piece in pieces(rows):
            array[where] = piece
        return zarr.open_array(path, mode="r")
    mapped = np.memmap(path, dtype=np.float32, mode="w+", shape=(rows, COLUMNS))
    for where, piece in pieces(rows):
        mapped[where] = piece
    mapped.flush()
    del mapped
    return np.memmap(path, dtype=np.float32, mode="r", shape=(rows, COLUMNS))


def measure(job: Job, directory: Path) -> dict[str, float]:
    """Predict once; seconds, peak memory and bytes on disk."""
    results = directory / "results"
    results.mkdir()
    X = source(job.source, job.rows, directory / "X")
    plan = Plan("aimz", job.outcome, "disk", job.rows, job.draws, str(results))
    measures, result = timed(with_aimz(plan, X), results)
    read_back(plan, X, result)
    return measures


def measured(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one job in a process of its own."""
    command = [sys.executable, __file__, "--job", name, *(["--quick"] if options.quick else [])]
    if options.scratch:
        command += ["--scratch", options.scratch]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: PLW1510, S603
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-4000:]}")
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def row(name: str, job: Job, values: dict[str, float]) -> str:
    """A line of the table."""
    cells = [
        name,
        job.source,
        f"{job.rows:,} x {job.draws:,}",
        f"{values['seconds']:.1f}",
        f"{job.rows / values['seconds']:,.0f}",
        f"{values['peak'] / 1e6:,.0f}",
        f"{job.limit / 1e6:,.0f}" if job.limit else "",
        f"{values['disk'] / 1e6:,.1f}",
        f"{values['disk'] / job.rows / job.draws:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


HEADER = """\
| prediction | rows in | rows x draws | s | rows/s | peak MB | limit MB | disk MB | bytes per draw |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def sized(job: Job, options: argparse.Namespace) -> Job:
    """The job, or a smaller one."""
    rows = job.rows // QUICK if options.quick else job.rows
    return Job(job.outcome, rows, job.draws, job.source, job.limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the rows")
    parser.add_argument("--scratch", help="where files are written; default the temp directory")
    parser.add_argument("--job", choices=JOBS, help="measure this one in this process, as JSON")
    options = parser.parse_args()
    if options.job:
        with tempfile.TemporaryDirectory(dir=options.scratch, prefix="aimz-bench-") as directory:
            values = measure(sized(JOBS[options.job], options), Path(directory))
        print(json.dumps(values))
        return
    print(HEADER)
    over = []
    for name, whole in JOBS.items():
        job = sized(whole, options)
        values = measured(name, options)
        print(row(name, job, values), flush=True)
        if job.limit and values["peak"] >= job.limit:
            over.append(name)
    if over:
        raise SystemExit(f"Over the limit of memory: {', '.join(over)}")


if __name__ == "__main__":
    main()
