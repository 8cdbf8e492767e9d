"""The HTTP server itself: its port, its limits, its end."""

from __future__ import annotations

import logging
import resource
import socket
import ssl
import threading
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from daemon.telemetry import log
from triage.errors import TriageError

# Most of them are viewers who wait for changes, which costs next to nothing; `daemon/web/stream.py` has fewer places,
# so that they leave room for questions.
_CONNECTIONS_MAX = 2048
_FILES_MAX = 2 * _CONNECTIONS_MAX
_GRACE_SECONDS = 5
# A viewer that is gone without a word keeps its place for so long, a stream says something every 15 s. So does one that
# lives and reads nothing: a download may be paused.
_UNREAD_SECONDS = 300
# Subscribers of workitems are told things and say nothing.
_WORD_BYTES_MAX = 1024


class _Server(uvicorn.Server):
    """``beat`` is called by its loop, ten times a second."""

    def __init__(self, config: uvicorn.Config, beat: Callable[[], None]) -> None:
        super().__init__(config)
        self._beat = beat

    async def on_tick(self, counter: int) -> bool:
        self._beat()
        return await super().on_tick(counter)


def serve(
    app: FastAPI,
    host: str,
    port: int,
    stop: threading.Event,
    *,
    beat: Callable[[], None] = lambda: None,
    tls: Callable[[], ssl.SSLContext] | None = None,
) -> None:
    """Serve until ``stop`` is set, then let running requests end. Raise TriageError if the port cannot be had.

    ``app.state.changes`` is closed then: streams would never end by themselves.
    """
    _allow_connections()
    listening = _listen(host, port)
    _silence()
    server = _Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="wsproto",
            ws_max_size=_WORD_BYTES_MAX,
            lifespan="off",
            log_config=None,
            access_log=False,  # addresses hold Study Instance UIDs
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS_MAX,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            ssl_context_factory=(lambda *_: _turning(tls)) if tls else None,
        ),
        beat,
    )
    # In a thread of its own it leaves the signals to the process.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="web", daemon=True)
    thread.start()
    log().info("web_listening", host=host, port=listening.getsockname()[1], tls=tls is not None)
    while thread.is_alive() and not stop.wait(0.2):
        pass
    app.state.changes.close()
    server.should_exit = True
    thread.join(2 * _GRACE_SECONDS)
    if not stop.is_set():
        raise TriageError("the web server ended by itself")


def _turning(tls: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """The server keeps one context: at each handshake it hands over to the one that is current."""

    def take_current(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = tls()

    kept = tls()
    kept.sni_callback = take_current
    return kept


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise TriageError(f"the web server cannot listen on {host} port {port}: {error.strerror}") from error
    # Connections inherit it. asyncio sets it only on sockets that name TCP as their protocol; without it the body of an
    # answer waits until its head has been acknowledged, 40 ms later.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _UNREAD_SECONDS)
    return listening


def _allow_connections() -> None:
    """Each is an open file, of which many systems grant 1,024 until one asks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES_MAX if hard == resource.RLIM_INFINITY else min(_FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _silence() -> None:
    """Its lines could hold addresses; what matters, we log ourselves."""
    logger = logging.getLogger("uvicorn")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
