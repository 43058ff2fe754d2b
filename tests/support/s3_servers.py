"""S3 servers on loopback, and a door before it that fails when it is told to."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import obstore
from obstore.store import MemoryStore, S3Store

__all__ = ["KEY", "SECRET", "Door", "all_keys", "s3_server", "storage_at"]

KEY, SECRET = "AKIDLOOPBACK", "a-secret-that-nobody-prints"  # they open nothing
BUCKET = "results"


@contextlib.contextmanager
def s3_server(kind: str = "moto") -> Iterator[str]:
    """A server with one bucket; gives its address."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    with _SERVERS[kind]() as place:
        connection = http.client.HTTPConnection(place, timeout=30)
        signed = {"Authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/x"}
        connection.request("PUT", f"/{BUCKET}", headers=signed)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        connection.close()
        yield f"http://{place}"


@contextlib.contextmanager
def _moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield ":".join(map(str, server.get_host_and_port()))
    finally:
        server.stop()


@contextlib.contextmanager
def _localbucket() -> Iterator[str]:
    """Buckets are folders, which another process serves."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "localbucket", root, "--port", str(port)]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        try:
            _wait_for(port)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    msg = f"nobody listens at port {port}"
    raise TimeoutError(msg)


_SERVERS = {"moto": _moto, "localbucket": _localbucket}


def storage_at(address: str, prefix: str = "", retries: int = 4) -> S3Store:
    """The bucket of a server, below a prefix."""
    return S3Store(
        BUCKET,
        prefix=prefix or None,
        endpoint=address,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True, "timeout": "20s"},
        disable_bulk_delete=True,  # localbucket knows none
        retry_config={
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=60),
            "backoff": {
                "init_backoff": timedelta(milliseconds=5),
                "max_backoff": timedelta(milliseconds=50),
                "base": 2,
            },
        },
    )


def all_keys(storage: S3Store | MemoryStore) -> list[str]:
    """Every object of a store."""
    return [about["path"] for page in obstore.list(storage) for about in page]


class Door:
    """A proxy before a server on loopback. `fault(number, method, path)` says what goes wrong.

    It returns None, a status, "reset" (no answer), "lost" (done, and then no answer), or seconds.
    """

    def __init__(self, address: str, fault) -> None:
        host = address.removeprefix("http://")
        self.numbers, self.faults, lock = 0, 0, threading.Lock()
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    door.numbers += 1
                    what = fault(door.numbers, self.command, self.path)
                    door.faults += what is not None
                if what == "reset":
                    self.close_connection = True
                    return
                if isinstance(what, int):
                    self.send_response(what)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if isinstance(what, float):
                    time.sleep(what)
                connection = http.client.HTTPConnection(host, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if what == "lost":
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
