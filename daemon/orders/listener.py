"""Listens for senders of orders: only listed addresses, only so many, a thread for each."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from daemon.orders.framing import EndedError, Frame, Frames, Limits, Outcome
from daemon.telemetry import describe, log
from daemon.tls import tls_problem

_HANDSHAKE_SECONDS = 5.0
# A peer that is gone without a word is noticed within two minutes, also while an answer is on its way to it; a
# connection may be silent for long and live.
_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 60,
    socket.TCP_KEEPINTVL: 20,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 120_000,
}


class Listener:
    """From ``start`` to ``stop``. ``answer`` runs in the connections' threads; None closes without an answer.
    ``beat`` is called by the loop that accepts.

    Programs on this machine may always send. ``tls``: what a connection that comes now is to be encrypted with.
    ``on_refused``: told of the address of who was turned away, and why.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        networks: Sequence[IPv4Network | IPv6Network],
        limits: Limits,
        answer: Callable[[Frame, str], bytes | None],
        beat: Callable[[], None] = lambda: None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        on_refused: Callable[[str, str], None] = lambda _address, _problem: None,
    ) -> None:
        self.beat = beat
        self.limits = limits
        self.answer = answer
        self.tls = tls
        self.on_refused = on_refused
        self._where = (host, port)
        self._networks = networks
        self._lock = threading.Lock()
        self._connected: Counter[str] = Counter()
        self._stopping = False

    def start(self) -> None:
        """Raise OSError if the address cannot be bound."""
        self._server = _Server(self, self._where)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="orders-accept", daemon=True).start()

    @property
    def port(self) -> int:
        """The one bound, once started."""
        return int(self._server.server_address[1])

    def is_stopping(self) -> bool:
        return self._stopping

    def admit(self, address: str) -> bool:
        """Whether it is served; then ``leave`` must follow."""
        plain = _plain(address)
        with self._lock:
            if not (plain.is_loopback or any(plain in network for network in self._networks)):
                problem = "not in hl7_peers"
            elif self._connected.total() >= self.limits.connections_max:
                problem = "too many connections"
            elif self._connected[address] >= self.limits.connections_per_address_max:
                problem = "too many connections from this address"
            else:
                self._connected[address] += 1
                return True
        log().warning("order_sender_refused", address=address, problem=problem)
        self.on_refused(address, problem)
        return False

    def leave(self, address: str) -> None:
        with self._lock:
            self._connected[address] -= 1

    def stop(self, grace_seconds: float) -> None:
        """Accept no more; what is being received is answered within the grace."""
        self._stopping = True
        self._server.shutdown()
        self._server.server_close()
        deadline = time.monotonic() + grace_seconds
        while self._connected.total() and time.monotonic() < deadline:
            time.sleep(0.02)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, listener: Listener, where: tuple[str, int]) -> None:
        found = socket.getaddrinfo(*where, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        self.listener = listener
        super().__init__(where, _Connection)

    def service_actions(self) -> None:
        """Each time round of the accepting loop."""
        self.listener.beat()

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401, ARG002 - as typed there
        return self.listener.admit(client_address[0])

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as typed there
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self.listener.leave(client_address[0])
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as typed there
        """Costs this connection only; the text of what was raised may hold what the peer sent."""


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        listener, address, began = self.server.listener, self.client_address[0], time.monotonic()
        count, outcome, problem = 0, Outcome.UNANSWERED, None
        try:
            _keep_alive(self.request)
            if listener.tls:
                self.request = _handshake(self.request, listener.tls())
            frames = Frames(self.request, listener.limits, listener.is_stopping)
            while answer := listener.answer(frames.next(), address):
                frames.send(answer)
                count += 1
        except EndedError as end:
            outcome = end.outcome
        except ssl.SSLError as error:
            outcome, problem = Outcome.INSECURE, tls_problem(error)
            listener.on_refused(address, problem)
        except Exception as error:  # noqa: BLE001 - costs this connection only, and must not print what it holds
            log().error("order_connection_failed", address=address, **describe(error))
        finally:
            listener.leave(address)
        seconds = time.monotonic() - began
        how = {"outcome": outcome.value, "problem": problem, "count": count, "seconds": seconds}
        log().info("order_connection", address=address, **how)

    def finish(self) -> None:
        self.request.close()  # the socket that the server would close has gone into the encrypted one


def _handshake(client: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Raise OSError; then the connection is closed."""
    client.settimeout(_HANDSHAKE_SECONDS)
    secure = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
    try:
        secure.do_handshake()
    except BaseException:
        secure.close()
        raise
    return secure


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _plain(address: str) -> IPv4Address | IPv6Address:
    """IPv4 as such, also where it comes in over an IPv6 socket."""
    found = ip_address(address.partition("%")[0])
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found
