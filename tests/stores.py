"""Pixel stores for the tests: a real S3 server as a process of its own, and one in front of it that misbehaves."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any

from absent import missing

BUCKET = "films"
KEYS = {"AWS_ACCESS_KEY_ID": "invented", "AWS_SECRET_ACCESS_KEY": "invented", "AWS_REGION": "us-east-1"}
_SERVER_SECONDS = 60.0


@contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[str]:
    """Its URL, with an empty bucket in it."""
    if find_spec("moto") is None or find_spec("flask") is None:
        missing("an S3 server (pip install moto[s3] flask flask-cors)")
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _make_bucket(host, port)
        yield f"http://{host}:{port}"
    finally:
        process.kill()
        process.wait()


def _make_bucket(host: str, port: int) -> None:
    """With what stands for a signature, which this server does not check."""
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=invented/20260101/us-east-1/s3/aws4_request"}
    deadline = time.monotonic() + _SERVER_SECONDS
    while True:
        connection = http.client.HTTPConnection(host, port, timeout=10)
        try:
            connection.request("PUT", f"/{BUCKET}", headers=signed)
            assert connection.getresponse().status == 200
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()


@dataclass
class Fault:
    """What goes wrong with requests of one method, the next ``times``."""

    method: str
    does: Callable[[Any, Passage], None]
    times: float = float("inf")


@dataclass
class Passage:
    """A request on its way to the real server, and the answer on its way back."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    to: str

    def forward(self, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.to, timeout=30)
        sent = self.body if body is None else body
        headers = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
        headers["Content-Length"] = str(len(sent))
        connection.request(self.method, self.path, sent, headers)
        answer = connection.getresponse()
        received = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return received


@dataclass
class Bad:
    """An S3 store that does whatever ``faults`` say."""

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    def fault(self, method: str, path: str) -> Fault | None:
        self.seen.append((method, path))
        for each in self.faults:
            if each.method == method and each.times > 0:
                each.times -= 1
                return each
        return None

    # -- what can go wrong -----------------------------------------------------------------------------------------

    def fails(self, handler: Any, passage: Passage) -> None:
        del passage
        handler.answer(500, {}, b"<Error><Code>InternalError</Code></Error>")

    def refuses(self, handler: Any, passage: Passage) -> None:
        del passage
        handler.answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>")

    def stalls(self, handler: Any, passage: Passage) -> None:
        del passage
        self.gone.wait()
        handler.close_connection = True

    def cuts_what_it_keeps(self, handler: Any, passage: Passage) -> None:
        """And says it is well."""
        handler.answer(*passage.forward(passage.body[: len(passage.body) // 2]))

    def keeps_and_says_nothing(self, handler: Any, passage: Passage) -> None:
        """The object is there; the connection goes before the answer does."""
        passage.forward()
        handler.close_connection = True

    def cuts_its_answer(self, handler: Any, passage: Passage) -> None:
        """Announces all, sends half, hangs up."""
        status, headers, body = passage.forward()
        handler.answer(status, headers, body[: len(body) // 2], length=len(body))
        handler.close_connection = True

    def alters_its_answer(self, handler: Any, passage: Passage) -> None:
        status, headers, body = passage.forward()
        handler.answer(status, headers, body[:-1] + bytes([body[-1] ^ 1]))

    def shortens_its_answer(self, handler: Any, passage: Passage) -> None:
        """And announces no more than it sends."""
        status, headers, body = passage.forward()
        handler.answer(status, headers, body[: len(body) // 2])


@contextmanager
def bad_store(real: str, host: str = "127.0.0.1") -> Iterator[Bad]:
    """Before ``real``, a URL."""
    bad = Bad()
    to = real.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nowhere."""

        def answer(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                    self.send_header(name, value)
            kept = headers.get("Content-Length", headers.get("content-length", "0"))
            shown = kept if self.command == "HEAD" else str(len(body) if length is None else length)
            self.send_header("Content-Length", shown)
            self.end_headers()
            self.wfile.write(body)

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            passage = Passage(self.command, self.path, dict(self.headers.items()), body, to)
            fault = bad.fault(self.command, self.path)
            with suppress(OSError):
                if fault:
                    fault.does(self, passage)
                else:
                    self.answer(*passage.forward())

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = pass_on  # noqa: N815 - the library's names

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    bad.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield bad
    finally:
        bad.gone.set()
        server.shutdown()
        thread.join()
        server.server_close()
