"""No request leaves this machine: buckets, clusters and processes, in a network that is watched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.apart import COMMAND, OWN

ROOT = Path(__file__).resolve().parents[2]
ASKED = {
    "a bucket": "tests/store/test_objects.py::TestObjectsOnAServer",
    "a bucket by its address": "tests/store/test_objects.py::test_an_address_finds_its_credentials"
    "_in_the_environment",
    "a cluster": "tests/execution/test_cluster.py::test_workers_write_their_tiles_where_they_see"
    "_the_store",
    "processes": "tests/execution/test_processes.py",
}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A command in a network of its own; skipped where the system gives none."""
    told = {"check": False, "capture_output": True, "text": True, "cwd": ROOT}
    try:
        ended = subprocess.run([*COMMAND, *command], timeout=500, **told)  # type: ignore[call-overload]  # options of text
    except FileNotFoundError:
        pytest.skip("there is no `unshare` here")
    lines = ended.stdout.splitlines()
    if not lines or not lines[-1].startswith("["):
        pytest.skip(f"the system gives no network of its own: {ended.stderr[-200:]}")
    found: subprocess.CompletedProcess[str] = ended
    return found


def gone(ended) -> list[str]:
    """Where packets went."""
    found: list[str] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_request_that_leaves_is_seen():
    asks = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.7', 9))"
    assert gone(run(sys.executable, "-c", asks)) == [OWN, "203.0.113.7"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("tests", ASKED.values(), ids=ASKED)
def test_no_request_leaves(tests):
    quiet = ("-q", "-p", "no:cacheprovider", "-m", "not gpu")
    ended = run(sys.executable, "-m", "pytest", *quiet, tests)
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert gone(ended) == [OWN]
