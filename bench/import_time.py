"""What `import aimz` costs beside `import numpyro`, which it cannot do without.

Both are imported in turn, each in a process of its own. Machines differ, and are busy: what counts
is the ratio of seconds of the processor in one run of this program.

    python bench/import_time.py
"""

import argparse
import os
import subprocess
import sys
import tempfile
from statistics import median

CODE = "import time; b = time.process_time(); import {}; print(time.process_time() - b)"

BYTECODE = tempfile.TemporaryDirectory()


def seconds(module: str) -> float:
    """Seconds of the processor that a new process takes to import a module."""
    command = [sys.executable, "-c", CODE.format(module)]
    # As for a user: bytecode was written at the first import, whatever this shell says of it.
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": BYTECODE.name}
    done = subprocess.run(  # noqa: S603  # an interpreter and two names
        command, capture_output=True, text=True, check=True, env=os.environ | bytecode
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="processes for each (7)")
    runs = parser.parse_args().runs
    seconds("aimz")  # files are read, and bytecode is written, once
    pairs = [(seconds("numpyro"), seconds("aimz")) for _ in range(runs)]
    theirs, ours = (median(values) for values in zip(*pairs, strict=True))
    ratio = median(own / other for other, own in pairs)
    print(f"import numpyro {theirs:.2f} s, import aimz {ours:.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
