"""Our ports: free, ours, or somebody else's."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from daemon.dicom.echo import echo
from daemon.operating.running import here
from daemon.operating.verdict import Area, Verdict, fail, ok, warn
from daemon.presence import Alive
from daemon.settings import Settings, Wing
from daemon.tls import Files

_SECONDS = 5.0
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - what is asked in their place


def look_at_ports(settings: Settings, alive: Sequence[Alive]) -> Iterator[Verdict]:
    """Of all that the settings name. ``alive``: processes of this machine."""
    running = here(alive)
    dicom = (settings.dicom_host, settings.dicom_port)
    yield _look("dicom_port", dicom, lambda: _is_receiver(settings), runs="receiver" in running)
    web = (settings.http_host, settings.http_port)
    yield _look("http_port", web, lambda: _is_web(settings), runs="web" in running)
    if settings.metrics_port:
        metrics = (settings.metrics_host, settings.metrics_port)
        yield _look("metrics_port", metrics, lambda: bool(running) and _connects(metrics), runs=bool(running))
    if settings.hl7_port:
        orders = (settings.hl7_host, settings.hl7_port)
        yield _look("hl7_port", orders, lambda: "orders" in running and _connects(orders), runs="orders" in running)


def _look(name: str, address: tuple[str, int], is_ours: Callable[[], bool], *, runs: bool) -> Verdict:
    host, port = address
    words = f"{name} {port} at {host}"
    if not port:
        return ok(Area.PORTS, f"{words}: any free one")
    problem = _problem(address)
    if problem is None:
        free = f"{words} is free"
        fix = "restart it, and look at its log"
        return fail(Area.PORTS, f"{free}, although its process runs", fix) if runs else ok(Area.PORTS, free)
    if problem == errno.EADDRINUSE:
        return _taken(name, port, words, is_ours(), runs)
    fixes = {
        errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE, or set a higher one",
        errno.EADDRNOTAVAIL: "this machine has no such address: set one that it has",
    }
    return fail(Area.PORTS, f"{words} cannot be had: {os.strerror(problem)}", fixes.get(problem, "set another one"))


def _taken(name: str, port: int, words: str, is_ours: bool, runs: bool) -> Verdict:  # noqa: FBT001
    if is_ours and runs:
        return ok(Area.PORTS, f"{words} is answered by triage")
    if is_ours:
        fix = f"find it with `ss -ltnp 'sport = :{port}'`; is TRIAGE_DATA_DIR set?"
        return warn(Area.PORTS, f"{words} is answered by a triage of which this data folder knows nothing", fix)
    if runs:
        return warn(Area.PORTS, f"{words} is taken and does not answer as it should", "look at its process's log")
    fix = f"find it with `ss -ltnp 'sport = :{port}'`, or set another {name}"
    return fail(Area.PORTS, f"{words} is taken by another program", fix)


def _problem(address: tuple[str, int]) -> int | None:
    """Why nobody could listen there now."""
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        socket.create_server(address, family=family).close()
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    except OSError as error:
        return error.errno or errno.EIO
    return None


def _reached(address: tuple[str, int]) -> tuple[str, int]:
    return _WILDCARDS.get(address[0], address[0]), address[1]


def _is_receiver(settings: Settings) -> bool:
    """One that rejects us answers all the same: the list of peers holds for us, too."""
    address = _reached((settings.dicom_host, settings.dicom_port))
    return echo(settings.dicom_ae_title, address, settings.dicom_ae_title, _SECONDS, _tls(settings, "dicom")).answered


def _tls(settings: Settings, wing: Wing) -> ssl.SSLContext | None:
    files = Files.of(settings, wing)
    return files.asking_ourselves() if files.certificate else None


def _is_web(settings: Settings) -> bool:
    host, port = _reached((settings.http_host, settings.http_port))
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    if tls := _tls(settings, "http"):
        connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=tls)
    with closing(connection):
        try:
            connection.request("GET", "/api/health/live", headers={"Host": "localhost"})
            answer = connection.getresponse().read(256)
        except (OSError, http.client.HTTPException):
            return False
        return b'"live":true' in answer.replace(b" ", b"")


def _connects(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(_reached(address), _SECONDS).close()
    except OSError:
        return False
    return True
