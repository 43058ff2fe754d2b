"""An S3 server on loopback, and a door before it that fails when it is told to."""

import contextlib
import http.client
import os
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
def s3_server() -> Iterator[str]:
    """A server with one bucket; gives its address."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        connection = http.client.HTTPConnection(host, port, timeout=30)
        signed = {"Authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/x"}
        connection.request("PUT", f"/{BUCKET}", headers=signed)
        connection.getresponse().read()
        connection.close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


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
                if what == "lost":
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                connection.close()

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
