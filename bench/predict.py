"""Time posterior prediction here against the published package of the same name, turn by turn.

Linear and logistic regression on 10 covariates, under 1,000 given posterior draws: 500,000 rows to
Zarr on disk, and 100,000 rows to memory. Every measurement is a process of its own (`measure.py`),
and the libraries take turns. The table has medians over the runs: seconds of the first call, which
compiles, and of the second; the processor's seconds of the second; the largest resident set; and
the bytes on disk. What was written is read back and checked, outside the time. In memory,
`numpyro.infer.Predictive` under `jax.jit` takes its turn too.

    python bench/predict.py --quick         # does it run?
    python bench/predict.py                 # the claim
    python bench/predict.py --devices 2     # and this library on two CPU devices

The published package lives in an environment of its own, made on first use with this interpreter,
or named by `--peer-python`. For a fair peak of memory install nothing else beside this library
either: pandas, for one, imports pyarrow where it finds it, which is 33 MB.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORKLOADS = ("linear-disk", "logistic-disk", "linear-memory", "logistic-memory")
MEMORY_SHARE = 5  # rows to disk for each row to memory

# Rows a batch of the published package, to disk. For 500,000 rows 4,096 and 8,192 took as much
# processor time as its own choice of 25,000 or less, and 4,096 the least memory. In memory no size
# was faster than its own choice, which is left to it.
PEER_BATCH_SIZE = 4_096

Run = dict[str, Any]


@dataclass(frozen=True)
class Entrant:
    """What takes turns: a name for the table, an interpreter, and settings of the plan.

    The batch size is for disk.
    """

    name: str
    python: str
    library: str = "aimz"
    batch_size: int | None = None
    devices: int | None = None
    stores: tuple[str, ...] = ("disk", "memory")


# ------------------------------------------------------------------ the peer's environment


def peer_python() -> str:
    """The interpreter of an environment with the published package, made where there is none."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    root = Path(tempfile.gettempdir()) / f"aimz-published-{version}"
    python = root / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = root / ".ready"
    if not ready.exists():
        print(f"Making {root} with the published package", file=sys.stderr)
        run([sys.executable, "-m", "venv", "--clear", str(root)])
        run([str(python), "-m", "pip", "install", "--quiet", "aimz"], cwd=root)
        ready.touch()
    return str(python)


def run(command: Sequence[str], cwd: Path | None = None) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)  # noqa: PLW1510, S603
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return done.stdout


# ------------------------------------------------------------------ measuring


def entrants(options: argparse.Namespace) -> Iterator[Entrant]:
    """Who takes turns, this library after the published one."""
    if not options.skip_peer:
        peer = options.peer_python or peer_python()
        yield Entrant("published", peer, batch_size=options.peer_batch_size)
    yield Entrant("here", sys.executable)
    if options.devices > 1:
        name = f"here, {options.devices} devices"
        yield Entrant(name, sys.executable, devices=options.devices)
    yield Entrant("Predictive, jitted", sys.executable, library="numpyro", stores=("memory",))


def measured(entrant: Entrant, workload: str, options: argparse.Namespace) -> Run:
    """Run one measurement in a process of its own, and remove what it wrote."""
    outcome, store = workload.split("-")
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="aimz-bench-") as directory:
        plan = {
            "library": entrant.library,
            "outcome": outcome,
            "store": store,
            "rows": options.rows if store == "disk" else options.rows // MEMORY_SHARE,
            "draws": options.draws,
            "directory": directory,
            "batch_size": entrant.batch_size if store == "disk" else None,
            "devices": entrant.devices,
        }
        check_room(directory, plan["rows"] * plan["draws"] * 4)
        output = run([entrant.python, "-I", str(HERE / "measure.py"), json.dumps(plan)])
    result: Run = json.loads(output.splitlines()[-1])
    published = entrant.name == "published"
    ours = Path(result["file"]).is_relative_to(HERE.parent / "aimz")
    assert not (published and ours), f"{entrant.python} has this library, not the published one"
    return {"entrant": entrant.name, "workload": workload, **result}


def check_room(directory: str, size: int) -> None:
    """Ask for room for two results, so that the disk does not fill up."""
    free = shutil.disk_usage(directory).free
    if free < 2 * size:
        raise SystemExit(f"{directory} has {free / 1e9:.1f} GB free and needs {2 * size / 1e9:.1f}")


# ------------------------------------------------------------------ the table

MEASURES: dict[str, Callable[[Run], float]] = {
    "cold s": lambda run: float(run["calls"][0]["seconds"]),
    "warm s": lambda run: float(run["calls"][1]["seconds"]),
    "warm CPU s": lambda run: float(run["calls"][1]["cpu"]),
    "peak MB": lambda run: float(max(call["peak"] for call in run["calls"]) / 1e6),
    "disk MB": lambda run: float(run["calls"][1]["disk"] / 1e6),
}


def medians(runs: list[Run]) -> dict[str, float]:
    """The median of every measure."""
    return {name: statistics.median(map(of, runs)) for name, of in MEASURES.items()}


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(runs: list[Run]) -> Iterator[str]:
    """Medians by workload and entrant, and what each entrant's are to this library's."""
    yield line("workload", "library", *MEASURES)
    yield line("---", "---", *["---:"] * len(MEASURES))
    for workload in dict.fromkeys(run["workload"] for run in runs):
        names = dict.fromkeys(run["entrant"] for run in runs if run["workload"] == workload)
        found = {
            name: medians([r for r in runs if (r["workload"], r["entrant"]) == (workload, name)])
            for name in names
        }
        for name, values in found.items():
            yield line(workload, name, *(f"{value:,.2f}" for value in values.values()))
        for name in [name for name in found if name != "here"]:
            yield line(workload, f"{name} / here", *ratios(found[name], found["here"]))


def ratios(values: dict[str, float], ours: dict[str, float]) -> list[str]:
    """What each value is to ours, where there is one."""
    return [f"**{values[name] / own:.2f}**" if own else "" for name, own in ours.items()]


def versions(runs: list[Run]) -> Iterator[str]:
    """One line an entrant: what was installed, and on what it ran."""
    for name, run in {run["entrant"]: run for run in runs}.items():
        installed = ", ".join(f"{package} {v}" for package, v in run["versions"].items())
        yield f"- {name}: {installed}, on {run['devices']}"


# ------------------------------------------------------------------ the command


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows, two runs")
    parser.add_argument("--rows", type=int, help="rows to disk (500,000); a fifth to memory")
    parser.add_argument("--draws", type=int, help="posterior draws (1,000)")
    parser.add_argument("--runs", type=int, help="processes per library and workload (5)")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--devices", type=int, default=1, help="also run here on so many CPUs")
    parser.add_argument("--peer-python", help="interpreter that has the published package")
    parser.add_argument("--peer-batch-size", type=int, default=PEER_BATCH_SIZE, help="to disk")
    parser.add_argument("--skip-peer", action="store_true", help="leave the published package out")
    parser.add_argument("--scratch", help="where results are written; default the temp directory")
    parser.add_argument("--json", type=Path, help="also write every measurement to this file")
    options = parser.parse_args(arguments)
    rows, draws, runs = (20_000, 200, 2) if options.quick else (500_000, 1_000, 5)
    options.rows, options.draws = options.rows or rows, options.draws or draws
    options.runs = options.runs or runs
    return options


def main() -> None:
    options = parse()
    turns = list(entrants(options))
    runs: list[Run] = []
    for workload in options.workloads:
        for turn in range(options.runs):
            for entrant in [e for e in turns if workload.split("-")[1] in e.stores]:
                runs.append(measured(entrant, workload, options))
                values = ", ".join(f"{k} {v:,.2f}" for k, v in medians(runs[-1:]).items())
                print(f"{workload} {turn + 1} {entrant.name}: {values}", file=sys.stderr)
                if options.json:
                    options.json.write_text(json.dumps(runs, indent=1))
    rows = f"{options.rows:,} rows to disk and {options.rows // MEMORY_SHARE:,} to memory"
    print(f"{rows}, {options.draws:,} draws, medians of {options.runs} processes\n")
    print("\n".join([*table(runs), "", *versions(runs)]))


if __name__ == "__main__":
    main()
