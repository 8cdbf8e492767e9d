"""The guarded DICOM listener: each C-STORE's bytes are handed on as they come, each connection ends in one summary.

With ``guard``, ``reactor``, ``negotiation`` and ``silence`` this is all that reaches into pynetdicom, which negotiates;
what follows on an established association is ours, in ``service``.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pynetdicom import AE
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.transport import RequestHandler

from daemon.dicom.exchange import Exchange, Handlers
from daemon.dicom.guard import (
    QUIET_SECONDS,
    Admission,
    Endpoint,
    GuardedServer,
    GuardedSocket,
    Journal,
    ListenerLimits,
    Outcome,
    Request,
)
from daemon.dicom.inlet import EndedError, Inlet
from daemon.dicom.negotiation import LOCAL_LIMIT_EXCEEDED, Peer, Rejection, Rules, contexts_for
from daemon.dicom.reactor import GuardedDUL
from daemon.dicom.service import SUCCESS, Deposit, Service, StoreRequest
from daemon.dicom.silence import silence_libraries
from daemon.dicom.summary import AssociationSummary
from daemon.dicom.transfers import Transfers

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from pynetdicom.presentation import PresentationContext

    from daemon.dicom.command import Command

__all__ = ["AssociationSummary", "Deposit", "Listener", "ListenerLimits", "Outcome", "Peer", "StoreRequest"]

# DCMTK's own maximum; the largest that common senders fill.
PDU_BYTES_OFFERED = 131_072
# Statuses that say "stored, but" (PS3.7 annex C).
WARNINGS = range(0xB000, 0xC000)

QUIET_ENOUGH_TO_STOP_SECONDS = 1.0
# What an aborted connection is given before its socket is cut, and a cut one before it is left behind.
LAST_WORDS_SECONDS = 2.0
_serial = count(1)


class GuardedACSE(ACSE):
    """Decides before the stock negotiation does. An exception here ends the connection: it fails closed."""

    assoc: GuardedAssociation

    def negotiate_association(self) -> None:
        rejection = self.assoc.rejected_as = self.assoc.rejection()
        if rejection is not None:
            self.send_reject(*rejection)
            self.assoc.kill()  # returns once it is sent
            return
        request: Any = self.assoc.requestor.primitive
        self.assoc.acceptor.supported_contexts = self.assoc.contexts_for(request)
        super().negotiate_association()


class GuardedAssociation(Association):
    """One connection, from its acceptance to its summary."""

    acse: GuardedACSE
    dul: GuardedDUL

    def __init__(self, listener: Listener, server: GuardedServer, client: Request, peer: Endpoint) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self.name = f"dicom-association-{next(_serial)}"
        self._server = server
        self._listener = listener
        self._peer = peer
        self._journal = Journal()
        self._client = client
        self._inlet: Inlet | None = None
        self._service: Service | None = None
        self._is_dismissed = False
        self._transfers = Transfers()
        self.rejected_as: Rejection | None = None
        self.acse = GuardedACSE(self)
        self.dul = GuardedDUL(self, listener.limits, self._journal)
        self.set_socket(GuardedSocket(self, client, listener.limits, self._journal))

    @property
    def calling_ae(self) -> str:
        request: Any = self.requestor.primitive
        return "" if request is None else str(request.calling_ae_title).strip()

    @property
    def called_ae(self) -> str:
        request: Any = self.requestor.primitive
        return "" if request is None else str(request.called_ae_title).strip()

    def rejection(self) -> Rejection | None:
        return self._listener.rejection(self.calling_ae, self.called_ae, self._peer)

    def contexts_for(self, request: Any) -> list[PresentationContext]:  # noqa: ANN401 - pynetdicom's primitive
        return contexts_for(request.presentation_context_definition_list, self._listener.answered)

    def run_reactor(self) -> None:
        self._listener.remember(self)
        try:
            super().run_reactor()
        except Exception:  # noqa: BLE001 - costs this connection only, and must not print what it holds
            self._journal.note(Outcome.ABORTED)
        finally:
            if self._inlet is not None:
                self._inlet.close()
            self.cut()
            if self.dul.is_alive():
                self.dul.join(LAST_WORDS_SECONDS)
            self.dul.socket._shutdown_socket()  # noqa: SLF001 - our override
            self._listener.forget(self, self._peer, self.summary())

    def kill(self) -> None:
        """The stock method waits for the upper layer to end, which may have taken a request just as its time ran out:
        nobody is left to answer it, and the slot would be the peer's for as long as it likes.
        """
        if self.requestor.primitive is None:
            self._journal.note(Outcome.TIMEOUT)
            self.dul.socket.cut()
        super().kill()

    def _run_reactor(self) -> None:
        """pynetdicom has accepted. Its upper layer sends the acceptance and ends; the socket is this thread's now."""
        self.dul.join()
        if not self.dul.has_established:
            return
        limits = self._listener.limits
        inlet = self._inlet = Inlet(self._client, limits, self._journal, lambda: self._is_dismissed)
        service = self._service = Service(
            inlet=inlet,
            send=self._send,
            contexts={
                number: (str(context.abstract_syntax), str(context.transfer_syntax[0]))
                for number, context in self._accepted_cx.items()
            },
            begin_store=self._begin_store,
            exchange=Exchange(
                handlers=self._listener.handlers,
                calling_ae=self.calling_ae,
                called_ae=self.called_ae,
                address=self._peer[0],
            ),
            instance_bytes_max=limits.instance_bytes_max,
            pdu_bytes_max=int(self.requestor.maximum_length or 0),
        )
        with contextlib.suppress(EndedError):
            try:
                service.serve()
            except EndedError as end:
                self._journal.note(end.outcome)
                self._send(end.last_words)
                if end.outcome is Outcome.CLOSED:
                    return
            else:
                self._journal.note(Outcome.RELEASED)
            self._close_after_the_peer(inlet)

    def _close_after_the_peer(self, inlet: Inlet) -> None:
        """Closing first would take from the peer what it has not read yet (PS3.8 9.2, Sta13)."""
        self._is_dismissed = False
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)
        inlet.drain(LAST_WORDS_SECONDS / 2)

    def _begin_store(self, command: Command, transfer_syntax_uid: str) -> Deposit:
        return self._listener.on_store(
            StoreRequest(
                calling_ae=self.calling_ae,
                called_ae=self.called_ae,
                address=self._peer[0],
                sop_class_uid=command.sop_class_uid,
                sop_instance_uid=command.sop_instance_uid,
                transfer_syntax_uid=transfer_syntax_uid,
                transfers=self._transfers,
            )
        )

    def _send(self, pdu: bytes) -> None:
        try:
            self._client.settimeout(self._listener.limits.pdu_seconds)
            self._client.sendall(pdu)
            self._client.settimeout(QUIET_SECONDS)
        except (OSError, ValueError):
            raise EndedError(Outcome.CLOSED) from None

    def dismiss(self) -> None:
        """From any thread, without waiting: A-ABORT if there is an association, the end if none was asked for."""
        if self.is_established:
            self._is_dismissed = True
        elif self.requestor.primitive is None:
            self.cut()

    def dismiss_if_quiet(self) -> None:
        """Quiet: nothing in hand and nothing heard for a moment, so no work is lost."""
        if self._inlet is not None and self._inlet.silent_seconds > QUIET_ENOUGH_TO_STOP_SECONDS:
            self.dismiss()

    def cut(self) -> None:
        self.dul.kill_dul()
        self.dul.socket.cut()

    def summary(self) -> AssociationSummary:
        statuses = Counter() if self._service is None else self._service.statuses
        stored = sum(times for status, times in statuses.items() if status == SUCCESS or status in WARNINGS)
        return AssociationSummary(
            calling_ae=self.calling_ae,
            called_ae=self.called_ae,
            address=self._peer[0],
            outcome=self._journal.outcome or Outcome.CLOSED,
            stored=stored,
            failed=statuses.total() - stored,
            echoes=0 if self._service is None else self._service.echoes,
            statuses=dict(statuses),
            questions={} if self._service is None else dict(self._service.questions),
            bytes_received=self._journal.bytes_received,
            seconds=time.monotonic() - self._journal.began,
            rejection=self.rejected_as,
            transfers=self._transfers,
        )


class ConnectionHandler(RequestHandler):
    """Turns a connection into an association, which has a thread of its own."""

    server: ListenerServer

    def handle(self) -> None:
        association = GuardedAssociation(self.server.listener, self.server, self.request, self.client_address)
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        association.requestor.address_info = self.remote
        association.start()


class ListenerServer(GuardedServer):
    """The server as its connections see it."""

    listener: Listener


class Listener:
    """Listens from ``start`` to ``stop``. The callbacks run in the connections' threads and must be thread-safe.

    ``on_store`` says where a data set goes; if anything there raises, the sender is told A700 and the association lives
    on. ``refuse`` true means "not now" (low disk, say): peers are told to try again later. ``shares_port``: with other
    processes that say so too; the kernel deals connections out (SO_REUSEPORT). ``handlers`` answer questions.
    ``beat`` is called by the loop that accepts.
    ``tls``: what a connection that comes now is to be encrypted with.
    """

    def __init__(  # noqa: PLR0913 - each is named where it is given
        self,
        *,
        ae_title: str,
        host: str,
        port: int,
        limits: ListenerLimits,
        peers: Iterable[Peer],
        tls: Callable[[], ssl.SSLContext] | None,
        on_store: Callable[[StoreRequest], Deposit],
        on_association_end: Callable[[AssociationSummary], None],
        refuse: Callable[[], bool],
        strict_loopback: bool = False,
        shares_port: bool = False,
        handlers: Handlers = MappingProxyType({}),
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.limits = limits
        self.on_store = on_store
        self.handlers = handlers
        self.answered = frozenset(uid for uid, _ in handlers)
        self._rules = Rules(ae_title=ae_title, peers=tuple(peers), strict_loopback=strict_loopback)
        self._address = (host, port)
        self._shares_port = shares_port
        self._beat = beat
        self._tls = tls
        self._on_association_end = on_association_end
        self._refuse = refuse
        self._associations: set[GuardedAssociation] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def start(self) -> None:
        """Raise OSError if the address cannot be bound, ValueError if the AE title is not one."""
        silence_libraries()
        self._server = ListenerServer(
            self._make_ae(),
            self._address,
            self._tls,
            self.limits,
            ConnectionHandler,
            self._on_refused,
            shares_port=self._shares_port,
            beat=self._beat,
        )
        self._server.listener = self
        self._accepting = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="dicom-accept", daemon=True
        )
        self._accepting.start()

    def _make_ae(self) -> AE:
        ae = AE(self._rules.ae_title)
        ae.maximum_pdu_size = PDU_BYTES_OFFERED
        ae.acse_timeout = self.limits.acse_seconds
        ae.network_timeout = self.limits.idle_seconds
        ae.maximum_associations = 1_000_000  # Slots counts; pynetdicom would walk all threads for each association
        return ae

    @property
    def port(self) -> int:
        """The one bound, once started."""
        return int(self._server.server_address[1])

    def rejection(self, calling_ae: str, called_ae: str, peer: Endpoint) -> Rejection | None:
        unwelcome = self._rules.rejection(calling_ae, called_ae, peer[0])
        return unwelcome or (LOCAL_LIMIT_EXCEEDED if self._is_full(peer) else None)

    def _is_full(self, peer: Endpoint) -> bool:
        if self._stopping or self._server.slots.admission(peer) is Admission.TURNED_AWAY:
            return True
        try:
            return self._refuse()
        except Exception:  # noqa: BLE001 - a watermark that cannot be read is taken as reached
            return True

    def remember(self, association: GuardedAssociation) -> None:
        with self._lock:
            self._associations.add(association)
        if self._stopping:
            association.cut()

    def forget(self, association: GuardedAssociation, peer: Endpoint, summary: AssociationSummary) -> None:
        with self._lock:
            self._associations.discard(association)
        self._report(summary)
        self._server.slots.leave(peer)

    def _on_refused(self, peer: Endpoint, outcome: Outcome, problem: str) -> None:
        self._report(AssociationSummary(address=peer[0], outcome=outcome, problem=problem))

    def _report(self, summary: AssociationSummary) -> None:
        with contextlib.suppress(Exception):  # a log line that fails must not cost a slot
            self._on_association_end(summary)

    def stop(self, grace_seconds: float) -> bool:
        """Accept no more; let what is under way end within the grace; abort the rest. True if no connection is left."""
        self._stopping = True
        self._server.shutdown()
        self._accepting.join()
        deadline = time.monotonic() + grace_seconds
        while self._wait_until(deadline, seconds=0.05):
            self._for_each(GuardedAssociation.dismiss_if_quiet)
        self._for_each(GuardedAssociation.dismiss)
        self._wait_until(time.monotonic() + LAST_WORDS_SECONDS)
        self._for_each(GuardedAssociation.cut)
        return not self._wait_until(time.monotonic() + LAST_WORDS_SECONDS)

    def _for_each(self, act: Callable[[GuardedAssociation], object]) -> None:
        with self._lock:
            associations = tuple(self._associations)
        for association in associations:
            act(association)

    def _wait_until(self, deadline: float, seconds: float = float("inf")) -> bool:
        """Whether there are connections left, after so many seconds or at the deadline."""
        end = min(deadline, time.monotonic() + seconds)
        while len(self._server.slots) and time.monotonic() < end:
            time.sleep(0.01)
        return len(self._server.slots) > 0 and time.monotonic() < deadline
