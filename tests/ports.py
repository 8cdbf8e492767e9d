"""Ports and web servers of our own, for the tests."""

from __future__ import annotations

import http.client
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus

from fastapi import FastAPI

from daemon.web.serving import serve

_START_SECONDS = 30.0


def free_port() -> int:
    """On all addresses; none of those that the kernel gives to whoever connects, who would have it before its use."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with suppress(OSError), socket.create_server(("", port)):
            return port


@contextmanager
def served(app: FastAPI, port: int) -> Iterator[str]:
    """Its URL, once it answers; it must end when it is told to."""
    stop = threading.Event()
    server = threading.Thread(target=serve, args=(app, "127.0.0.1", port, stop))
    server.start()
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_live(url)
        yield url
    finally:
        stop.set()
        server.join(20)
    assert not server.is_alive()


def wait_until_live(url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    host, _, port = url.removeprefix("http://").partition(":")
    while True:
        connection = http.client.HTTPConnection(host, int(port), timeout=_START_SECONDS)
        try:
            connection.request("GET", "/api/health/live")
            assert connection.getresponse().status == HTTPStatus.OK
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return
        finally:
            connection.close()
