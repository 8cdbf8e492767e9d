"""Sockets that survive a hostile or merely broken network: caps on connections, a cap and a deadline for each PDU.

Overrides private names of pynetdicom 3.0.4; a test holds the version and those names.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import socketserver
import ssl
import sys
import threading
import time
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from ipaddress import IPv6Address, ip_address
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from pynetdicom.transport import AssociationSocket, ThreadedAssociationServer

from daemon.tls import tls_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.association import Association
    from pynetdicom.transport import RequestHandler

# Address, port and a serial number, since a port may come back before its former connection is quite gone.
Endpoint: TypeAlias = tuple[str, int, int]
Request: TypeAlias = Any  # socketserver types its hooks for datagrams too; ours are stream sockets

# How long a thread sleeps at a time with nothing to do; and while an answer to the peer is due.
QUIET_SECONDS = 0.1
BUSY_SECONDS = 0.001
# A request with 128 contexts of 20 syntaxes is about 70 kB.
ASSOCIATE_BYTES_MAX = 256 * 1024
# Connections over the cap that are still answered with a proper rejection, so that honest peers try again.
TURNED_AWAY_MAX = 16
TURNED_AWAY_PER_ADDRESS_MAX = 4
# A-ABORT by the service provider, invalid PDU parameter value (PS3.8 9.3.8).
A_ABORT_INVALID_PARAMETER = bytes.fromhex("07 00 00000004 00 00 02 06")
# The same, reason not specified.
A_ABORT = bytes.fromhex("07 00 00000004 00 00 02 00")
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, kw_only=True)
class ListenerLimits:
    """What one peer may cost. ``pdu_bytes_max`` is of the variable field; we ask peers for 131,072."""

    pdu_seconds: float = 30.0
    idle_seconds: float = 300.0
    acse_seconds: float = 10.0
    dimse_seconds: float = 900.0
    pdu_bytes_max: int = 1024 * 1024
    instance_bytes_max: int = 512 * 1024 * 1024
    connections_max: int = 64
    connections_per_address_max: int = 32
    backlog: int = 128


class Outcome(StrEnum):
    """How a connection came to its end. ``CLOSED``: by the peer or the network, without a word. ``INSECURE``: no TLS
    could be agreed on.
    """

    RELEASED = "released"
    ABORTED = "aborted"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    INSECURE = "insecure"


@dataclass(kw_only=True)
class Journal:
    """What one connection did so far; the first cause of its end is the one that counts."""

    began: float = field(default_factory=time.monotonic)
    bytes_received: int = 0
    outcome: Outcome | None = None

    def note(self, outcome: Outcome) -> None:
        self.outcome = self.outcome or outcome


class Admission(Enum):
    """Turned away: over the cap, to be rejected as "local limit exceeded"."""

    SERVED = 1
    TURNED_AWAY = 2


class Slots:
    """Who is connected: no more than so many at once, and so many from one address."""

    def __init__(self, limits: ListenerLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._taken: dict[Endpoint, Admission] = {}

    def take(self, peer: Endpoint) -> Admission | None:
        """None if not even a rejection can be afforded."""
        limits = self._limits
        with self._lock:
            if self._has_room(Admission.SERVED, peer[0], limits.connections_max, limits.connections_per_address_max):
                self._taken[peer] = Admission.SERVED
            elif self._has_room(Admission.TURNED_AWAY, peer[0], TURNED_AWAY_MAX, TURNED_AWAY_PER_ADDRESS_MAX):
                self._taken[peer] = Admission.TURNED_AWAY
            return self._taken.get(peer)

    def _has_room(self, admission: Admission, host: str, total_max: int, address_max: int) -> bool:
        hosts = [taken_host for (taken_host, _, _), each in self._taken.items() if each is admission]
        return len(hosts) < total_max and hosts.count(host) < address_max

    def leave(self, peer: Endpoint) -> None:
        with self._lock:
            self._taken.pop(peer, None)

    def admission(self, peer: Endpoint) -> Admission:
        with self._lock:
            return self._taken.get(peer, Admission.TURNED_AWAY)

    def __len__(self) -> int:
        with self._lock:
            return len(self._taken)


class GuardedSocket(AssociationSocket):
    """For the negotiation: one deadline for a whole PDU, a cap on its length, ``poll`` for ``select`` (which ends at
    descriptor 1023).
    """

    def __init__(self, assoc: Association, client: socket.socket, limits: ListenerLimits, journal: Journal) -> None:
        super().__init__(assoc, client_socket=client)
        self._limits = limits
        self._journal = journal
        self._deadline = 0.0
        self._answer_due = False
        self._poll = select.poll()
        self._poll.register(client, select.POLLIN)

    def begin_pdu(self) -> None:
        self._deadline = time.monotonic() + min(self._limits.pdu_seconds, self._limits.acse_seconds)

    @property
    def ready(self) -> bool:
        """Wait a little for bytes: short while an answer is due, since the same thread sends it."""
        sock = self.socket
        if sock is None or sock.fileno() < 0:
            time.sleep(BUSY_SECONDS)
            return False
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        return bool(self._poll.poll((BUSY_SECONDS if self._answer_due else QUIET_SECONDS) * 1000))

    def recv(self, nr_bytes: int) -> bytearray:
        """Return fewer bytes only at the end of the stream. Raise OSError past the deadline or the cap."""
        if nr_bytes > ASSOCIATE_BYTES_MAX:
            self._journal.note(Outcome.ABORTED)
            self.send(A_ABORT_INVALID_PARAMETER)
            raise OSError(errno.EMSGSIZE, "PDU longer than the limit")
        self._answer_due = True
        received = bytearray(nr_bytes)
        filled = self._fill(memoryview(received))
        return received if filled == nr_bytes else received[:filled]

    def _fill(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer):
            got = self._read(buffer[filled:])
            if not got:
                self._journal.note(Outcome.CLOSED)
                break
            filled += got
        return filled

    def _read(self, buffer: memoryview) -> int:
        sock = self.socket
        remaining = self._deadline - time.monotonic()
        if sock is None or remaining <= 0:
            self._journal.note(Outcome.TIMEOUT)
            raise TimeoutError
        sock.settimeout(remaining)
        try:
            got = sock.recv_into(buffer)
        except TimeoutError:
            self._journal.note(Outcome.TIMEOUT)
            raise
        self._journal.bytes_received += got
        acknowledge_now(sock)
        return got

    def send(self, bytestream: bytes) -> None:
        try:
            if self.socket is not None:
                self.socket.settimeout(self._limits.pdu_seconds)
                self.socket.sendall(bytestream)
            self._answer_due = False
        except (OSError, ValueError):
            self.event_queue.put("Evt17")

    def cut(self) -> None:
        """End the stream from any thread; the thread that reads it closes the descriptor."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def _shutdown_socket(self) -> None:
        # The stock method skips close() when shutdown() fails, and leaks the descriptor of a peer that reset.
        self.cut()
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.close()


class GuardedServer(ThreadedAssociationServer):
    """Accepts, counts and hands over; whatever may block happens in the connection's own thread."""

    daemon_threads = True
    block_on_close = False
    beat: Callable[[], None]

    def __init__(  # noqa: PLR0917 - as pynetdicom's
        self,
        ae: ApplicationEntity,
        address: tuple[str, int],
        tls: Callable[[], ssl.SSLContext] | None,
        limits: ListenerLimits,
        request_handler: Callable[..., RequestHandler],
        on_refused: Callable[[Endpoint, Outcome, str], None],
        *,
        shares_port: bool = False,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.limits = limits
        self.beat = beat
        self._shares_port = shares_port
        self._tls = tls
        self.request_queue_size = limits.backlog
        self.slots = Slots(limits)
        self._on_refused = on_refused
        self._serial = count(1)
        self._handshakes: set[ssl.SSLSocket] = set()
        super().__init__(ae, address, ae.ae_title, [], None, request_handler=request_handler)

    def service_actions(self) -> None:
        """Each time round of the accepting loop."""
        super().service_actions()
        self.beat()

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            cast("socket.socket", self.socket).setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if self._shares_port:
            cast("socket.socket", self.socket).setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            client, address = cast("socket.socket", self.socket).accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                time.sleep(QUIET_SECONDS)  # the connection stays in the backlog
            raise
        return client, (plain_address(address[0]), address[1], next(self._serial))

    def verify_request(self, request: Request, client_address: Request) -> bool:
        with contextlib.suppress(OSError):
            set_options(request, self.limits)
        admitted = self.slots.take(client_address) is not None
        if not admitted:
            self._on_refused(client_address, Outcome.REJECTED, "")
        return admitted

    def finish_request(self, request: Request, client_address: Request) -> None:
        if self._tls is not None:
            request = self._handshake(request, self._tls())
        super().finish_request(request, client_address)

    def _handshake(self, client: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        client.settimeout(self.limits.acse_seconds)
        secure = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        self._handshakes.add(secure)
        try:
            secure.do_handshake()
        except BaseException:
            secure.close()
            raise
        finally:
            self._handshakes.discard(secure)
        return secure

    def handle_error(self, request: Request, client_address: Request) -> None:  # noqa: ARG002 - signature of socketserver
        """No association came of it. The stock method prints a traceback."""
        self.slots.leave(client_address)
        error = sys.exception()
        if isinstance(error, ssl.SSLError):
            self._on_refused(client_address, Outcome.INSECURE, tls_problem(error))
        else:
            outcome = Outcome.TIMEOUT if isinstance(error, TimeoutError) else Outcome.CLOSED
            self._on_refused(client_address, outcome, "")

    def shutdown(self) -> None:
        # The stock method also looks for itself in a list that only AE.start_server fills.
        socketserver.BaseServer.shutdown(self)
        self.server_close()
        for secure in tuple(self._handshakes):
            with contextlib.suppress(OSError):
                secure.shutdown(socket.SHUT_RDWR)


def plain_address(host: str) -> str:
    """An IPv4 peer of a dual-stack socket under its IPv4 address; no scope id."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def set_options(client: socket.socket, limits: ListenerLimits) -> None:
    """A peer whose power failed is noticed: by keepalive while idle, by the user timeout while we send."""
    tcp = socket.IPPROTO_TCP
    client.setsockopt(tcp, socket.TCP_NODELAY, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    client.setsockopt(tcp, socket.TCP_KEEPIDLE, 30)
    client.setsockopt(tcp, socket.TCP_KEEPINTVL, 10)
    client.setsockopt(tcp, socket.TCP_KEEPCNT, 3)
    client.setsockopt(tcp, socket.TCP_USER_TIMEOUT, int(limits.pdu_seconds * 1000))


def acknowledge_now(client: socket.socket) -> None:
    """Or a sender with Nagle's algorithm on waits 44 ms for each instance. The kernel forgets it: after each read."""
    with contextlib.suppress(OSError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
