"""MLflow's own servers for tests: subprocesses on loopback, waited for, and always shut down.

`python -m tests.support.mlflow_servers URI OUT DEVICES` loads the model at URI in a process with so
many devices and writes its draws to OUT.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from tests.support.saved_kernel import rows

__all__ = ["Server", "running", "scoring", "served_here", "tracking"]

ROOT = Path(__file__).resolve().parents[2]
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "JAX_PLATFORMS": "cpu",
}


@dataclass(frozen=True)
class Server:
    """A server that answers at `url`, and what it has printed so far."""

    url: str
    log: Path

    def requests(self, pattern: str = "") -> int:
        """Requests in its access log whose line has the pattern."""
        lines = self.log.read_text(errors="replace").splitlines()
        asked = [line for line in lines if re.search(r'"(GET|POST|PUT|PATCH|DELETE) /', line)]
        return len([line for line in asked if re.search(pattern, line)])


def tracking(directory: Path) -> contextlib.AbstractContextManager[Server]:
    """A tracking server with a sqlite store; artifacts travel over HTTP."""
    own = ["server", "--backend-store-uri", f"sqlite:///{directory}/runs.db", "--workers", "1"]
    own += ["--artifacts-destination", str(directory / "artifacts")]
    return running(own, directory, "/health")


def scoring(model: Path, directory: Path) -> contextlib.AbstractContextManager[Server]:
    """`mlflow models serve` of a model."""
    own = ["models", "serve", "-m", str(model), "--env-manager", "local", "--workers", "1"]
    return running(own, directory, "/ping")


@contextlib.contextmanager
def served_here(model: Path, directory: Path) -> Iterator[Server]:
    """MLflow's application for the same, over HTTP too, by a thread of this process."""
    import mlflow.pyfunc
    import uvicorn
    from mlflow.pyfunc import scoring_server

    with mock.patch.dict(os.environ):  # it says there that it serves
        application = scoring_server.init(mlflow.pyfunc.load_model(str(model)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        free.listen()  # who asks before it is ready waits
        log = directory / "server.log"
        log.touch()
        server = uvicorn.Server(uvicorn.Config(application, ws="none", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]})
        thread.start()
        try:
            yield Server(f"http://127.0.0.1:{free.getsockname()[1]}", log)
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def running(arguments: list[str], directory: Path, health: str) -> Iterator[Server]:
    """`mlflow` with these arguments, until the block is left."""
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    server = Server(f"http://127.0.0.1:{port}", directory / "server.log")
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=directory,
            env={**os.environ, **QUIET, "PATH": path, "HOME": str(directory)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its workers end with it
        )
        try:
            _wait(process, server, health)
            yield server
        finally:
            _end(process)


def _wait(process: "subprocess.Popen[bytes]", server: Server, health: str) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(server.url + health, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"The server did not come up:\n{server.log.read_text()[-3000:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            continue
    process.wait()


if __name__ == "__main__":
    uri, out, devices = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    import aimz.mlflow

    assert "mlflow" not in sys.modules, "MLflow is imported before it is used."
    tree: Any = aimz.mlflow.load_model(uri).predict(rows(), progress=False)
    assert jax.local_device_count() == int(devices)
    np.save(out, tree.posterior_predictive["y"].values)
