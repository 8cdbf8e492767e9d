"""The process of orders: the listener, the enquirer, and the hourly forgetting of what is old."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

from daemon.absence import Absence
from daemon.dicom.enquiry import ModalityWorklist
from daemon.notation import sender_network
from daemon.orders.desk import Desk
from daemon.orders.enquirer import Enquirer
from daemon.orders.framing import Limits
from daemon.orders.listener import Listener
from daemon.settings import Settings
from daemon.telemetry import Pseudonym, log
from daemon.tls import Credentials, calling, serving, watch
from daemon.trail import Trail
from triage.errors import TriageError
from triage.records.enquiries import Enquiries
from triage.records.orders import Orders
from triage.records.store import DatabaseError, Store
from triage.user import Access, Outcome

_HOUR_SECONDS = 3600.0
_GRACE_SECONDS = 10.0


def run(settings: Settings, store: Store, pseudonym: Pseudonym, stop: threading.Event, trail: Trail) -> None:
    """Until asked to stop. Raise TriageError if the port cannot be had, or nothing is to be done."""
    if not settings.hl7_port and not settings.mwl_peer:
        raise TriageError("set hl7_port to take orders, or mwl_peer to ask for them")
    absence = Absence(stop)
    secure = serving(settings, "hl7")
    called = calling(settings, "dicom") if settings.dicom_tls_calling else None
    watch([secure, called], stop)
    listener = _listen(settings, store, absence, secure, trail) if settings.hl7_port else None
    enquirer = _enquirer(settings, store, pseudonym, absence, called)
    asking = threading.Thread(target=enquirer.run, args=(stop,), name="enquirer")
    if settings.mwl_peer:
        asking.start()
    wait = 0.0
    while not stop.wait(wait):
        _tidy(store, settings.orders_days, absence)
        wait = _HOUR_SECONDS
    if listener:
        listener.stop(_GRACE_SECONDS)
    if settings.mwl_peer:
        asking.join(_GRACE_SECONDS)


def _listen(settings: Settings, store: Store, absence: Absence, tls: Credentials | None, trail: Trail) -> Listener:
    desk = Desk(orders=Orders(store), absence=absence, accession_fields=settings.hl7_accession_fields)
    limits = Limits(
        message_bytes_max=settings.hl7_message_kib_max * 1024,
        message_seconds=settings.hl7_message_seconds,
        idle_seconds=settings.hl7_idle_seconds,
        connections_max=settings.hl7_connections_max,
        connections_per_address_max=max(1, settings.hl7_connections_max // 2),
    )
    listener = Listener(
        host=settings.hl7_host,
        port=settings.hl7_port,
        networks=[sender_network(peer) for peer in settings.hl7_peers],
        limits=limits,
        answer=desk.answer,
        tls=tls,
        on_refused=lambda address, problem: _note(trail, address, problem),
    )
    try:
        listener.start()
    except OSError as error:
        raise TriageError(f"cannot listen on {settings.hl7_host}:{settings.hl7_port}: {error.strerror}") from error
    log().info("taking_orders", host=settings.hl7_host, port=listener.port, tls=tls is not None)
    return listener


def _note(trail: Trail, address: str, problem: str) -> None:
    """Once in some minutes for each address."""
    told = json.dumps({"problem": f"HL7: {problem}"})
    access = Access(
        at=datetime.now(UTC), who="", verb="connect", outcome=Outcome.REFUSED, address=address, details=told
    )
    trail.note_once(access, ("connect", problem, address))


def _enquirer(
    settings: Settings, store: Store, pseudonym: Pseudonym, absence: Absence, tls: Credentials | None
) -> Enquirer:
    name, _, where = (settings.mwl_peer or "NONE@localhost:104").rpartition("@")
    host, _, port = where.rpartition(":")
    worklist = ModalityWorklist(
        ae_title=settings.dicom_ae_title,
        peer_ae_title=name,
        host=host.strip("[]"),
        port=int(port),
        seconds=settings.mwl_seconds,
        tls=tls,
    )
    return Enquirer(
        enquiries=Enquiries(store),
        worklist=worklist,
        pseudonym=pseudonym,
        absence=absence,
        seconds=settings.mwl_pause_seconds,
    )


def _tidy(store: Store, days: float, absence: Absence) -> None:
    try:
        count = Orders(store).tidy(days)
    except DatabaseError as error:
        absence.noticed(error)
        return
    if count:
        log().info("orders_forgotten", count=count)
