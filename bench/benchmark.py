"""Run the table of `workloads.py` here and with the published package of the same name, and tell.

One command does all: it makes an environment with the published package below `.bench/`, lets the
libraries take turns, round by round, and writes every measurement, and the page and pictures that
follow from them. It goes on where it stopped: what was measured of the same code stays.

    make bench                                  # five rounds: 40 minutes of two quiet processors
    make bench-quick                            # does it run? few rows, one round, no page
    python bench/benchmark.py --minutes 12      # as many rounds as fit
    python bench/benchmark.py --page            # the page again, from what was measured
"""

import argparse
import compileall
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from performance_page import write_page
from workloads import WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SCRATCH = ROOT / ".bench"
MEASURED = ROOT / "docs" / "performance.json"
QUICK = SCRATCH / "quick.json"
LONGEST = 900  # seconds of one process

type Run = dict[str, Any]


def environment() -> str:
    """The interpreter of an environment with the published package, made where there is none."""
    root = SCRATCH / f"published-{sys.version_info.major}.{sys.version_info.minor}"
    python = root / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (root / ".ready").exists():
        print(f"Making an environment in {root.relative_to(ROOT)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(root)], check=True)  # noqa: S603
        install = [str(python), "-m", "pip", "install", "--quiet", "aimz"]
        subprocess.run(install, check=True, cwd=root)  # noqa: S603
        (root / ".ready").touch()
    return str(python)


def code_of(library: str, python: str) -> str:
    """What a measurement follows from: our code and the table, or the version that is installed."""
    digest = hashlib.sha256((HERE / "workloads.py").read_bytes())
    if library == "published":
        command = "import importlib.metadata as m; print(m.version('aimz'), m.version('jax'))"
        found = subprocess.run(  # noqa: S603
            [python, "-c", command], capture_output=True, check=True, cwd=SCRATCH
        )
        digest.update(found.stdout)
    elif library == "here":
        for path in sorted((ROOT / "aimz").rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def turns(runs: int, only: Sequence[str]) -> Iterator[tuple[int, Workload, str]]:
    """Round by round, each workload by each library in turn, the other way round in odd rounds."""
    for turn in range(runs):
        for workload in WORKLOADS:
            is_asked = not only or workload.name in only
            if is_asked and not workload.of and turn < workload.rounds:
                order = workload.entrants[:: -1 if turn % 2 else 1]
                yield from ((turn, workload, library) for library in order)


def measured(workload: Workload, library: str, python: str, *, quick: bool) -> Run:
    """One process of one library; a failure is a measurement too."""
    sizes = {**workload.sizes, **(workload.quick if quick else {})}
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    variables["BENCH_CACHE"] = str(SCRATCH / "cache")
    variables["PYTHONWARNINGS"] = "ignore"
    if library in ("here", "arviz"):
        variables["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory(prefix="aimz-bench-") as directory:
        calls = min(workload.calls, 2) if quick else workload.calls
        plan: dict[str, Any] = {"kind": workload.kind, "sizes": sizes, "calls": calls}
        plan |= {"library": library, "directory": directory}
        command = [python, str(HERE / "workloads.py"), json.dumps(plan)]
        begin = time.perf_counter()
        try:
            done = subprocess.run(  # noqa: S603
                command,
                capture_output=True,
                text=True,
                cwd=directory,
                env=variables,
                timeout=LONGEST,
                check=True,
            )
            run: Run = json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            return {"error": f"took over {LONGEST} s"}
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or "").strip().splitlines() or [f"ended by {error.returncode}"]
            return {"error": lines[-1][:200]}
        run["process"]["seconds"] = time.perf_counter() - begin  # with NumPy's import, too
    file = run.pop("file")
    ours = bool(file) and Path(file).is_relative_to(ROOT / "aimz")
    if library != "numpyro":
        assert ours == (library != "published"), f"{library} is not what {python} imports"
    return run


def machine() -> dict[str, Any]:
    """What it ran on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        model = line.split(":", 1)[1].strip() if line.startswith("model name") else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"processor": model, "processors": os.cpu_count(), "memory": round(memory)}


def kept(path: Path, codes: dict[str, str], *, fresh: bool) -> list[Run]:
    """What was measured before of the same code."""
    if fresh or not path.exists():
        return []
    runs: list[Run] = json.loads(path.read_text())["runs"]
    return [run for run in runs if run["code"] == codes[run["library"]]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows, one round, no page")
    parser.add_argument("--runs", type=int, help="rounds (5)")
    parser.add_argument("--minutes", type=float, help="begin no process after so long")
    parser.add_argument("--only", nargs="+", default=(), choices=[w.name for w in WORKLOADS])
    parser.add_argument("--fresh", action="store_true", help="forget what was measured")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.page:
        write_page(MEASURED)
        return
    begin = time.monotonic()
    path = QUICK if options.quick else MEASURED
    SCRATCH.mkdir(exist_ok=True)
    compileall.compile_dir(ROOT / "aimz", quiet=1)  # as pip has done with all other packages
    pythons = {**dict.fromkeys(("here", "arviz", "numpyro"), sys.executable)}
    pythons["published"] = environment()
    codes = {library: code_of(library, python) for library, python in pythons.items()}
    codes["arviz"] = codes["here"]
    runs = kept(path, codes, fresh=options.fresh)
    for turn, workload, library in turns(options.runs or (1 if options.quick else 5), options.only):
        if options.minutes and time.monotonic() - begin > 60 * options.minutes:
            break
        place = {"workload": workload.name, "library": library, "turn": turn}
        if any(place.items() <= run.items() for run in runs):
            continue
        if "cache" in workload.sizes:  # which the first process fills
            measured(workload, library, pythons[library], quick=options.quick)
        run = measured(workload, library, pythons[library], quick=options.quick)
        runs.append({**place, "code": codes[library], **run})
        path.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=0) + "\n")
        calls = run.get("calls") or [run.get("process", run)]
        print(turn + 1, workload.name, library, calls[0], calls[-1], file=sys.stderr)
    if not options.quick:
        write_page(path)


if __name__ == "__main__":
    main()
