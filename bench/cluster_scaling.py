"""How an average effect would scale on a cluster: simulated from measured times, and drawn.

A call is simulated task by task. The process that asks sends one task after another, and
has no more of them under way than it sends ahead; a worker computes one at a time. `TIMES` has what
`bench/cluster.py` has measured, with the scheduler in the asking process. Nothing is run.

    python bench/cluster_scaling.py --figure docs/cluster_scaling.png
"""

from __future__ import annotations

import argparse
import heapq
import json
from pathlib import Path
from typing import NamedTuple

TASK_ROWS = 256 * 1024
AHEAD = 4  # tasks under way for each thread of a worker
WORKERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Times(NamedTuple):
    """Seconds of one task.

    Parameters
    ----------
    ask : float
        Of the asking process and the scheduler: sending, adding.
    compute : float
        Of a worker.
    latency : float
        Between sending and starting, and between the end and the answer.
    """

    ask: float
    compute: float
    latency: float


def seconds_of(times: Times, tasks: int, workers: int, *, ahead: int = AHEAD) -> float:
    """Seconds that a call takes.

    >>> seconds_of(Times(0.0, 2.0, 0.0), tasks=10, workers=5)
    4.0
    >>> seconds_of(Times(1.0, 2.0, 0.0), tasks=10, workers=5)
    12.0
    """
    free = [0.0] * workers
    under_way: list[float] = []
    asked = last = 0.0
    for _ in range(tasks):
        if len(under_way) == ahead * workers:
            asked = max(asked, heapq.heappop(under_way))
        asked += times.ask
        done = max(heapq.heappop(free), asked + times.latency) + times.compute
        heapq.heappush(free, done)
        heapq.heappush(under_way, done + times.latency)
        last = max(last, done + times.latency)
    return last


# Processor time of a task of 262,144 rows x 200 draws on two busy cores, two workers of one thread,
# rows of three columns in Parquet that the workers read: `--rows 20000000`, and, where the asking
# process still read them, `--kernel net --rows 491520` for what the network computes. What is asked
# of the asking process is the same for all; a latency is half of what an empty task took there and
# back.
ASK, LATENCY = 0.044, 0.014
TIMES = {
    "linear kernel (1.5 µs a row)": Times(ASK, 0.402, LATENCY),
    "network (33 µs a row)": Times(ASK, 8.68, LATENCY),
    "assumed: twenty times the network": Times(ASK, 173.6, LATENCY),
}


def main() -> None:
    """Simulate, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10**9)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    tasks = -(-asked.rows // TASK_ROWS)
    found = {
        name: {workers: seconds_of(times, tasks, workers) for workers in WORKERS}
        for name, times in TIMES.items()
    }
    print(json.dumps(found))
    if asked.figure is None:
        return
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (name, seconds), marker in zip(found.items(), "osD^", strict=False):
        axes.loglog(list(seconds), list(seconds.values()), marker=marker, label=name)
    axes.set_xlabel("workers of one thread")
    axes.set_ylabel(f"seconds for {asked.rows:.0e} rows x 200 draws")
    axes.set_title("Average effect on a simulated cluster, from measured times")
    axes.legend(frameon=False)
    axes.grid(which="major", alpha=0.3)
    canvas.savefig(asked.figure, dpi=110, metadata={"Software": ""})


if __name__ == "__main__":
    main()
