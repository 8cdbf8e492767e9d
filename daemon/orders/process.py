"""The process of orders: the listener, the enquirer, and the hourly forgetting of what is old."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from daemon.absence import Absence
from daemon.dicom.enquiry import ModalityWorklist
from daemon.notation import sender_network, split_application
from daemon.orders.desk import Desk
from daemon.orders.enquirer import PAUSE_SECONDS_MAX, STUDIES_A_TURN, Enquirer
from daemon.orders.framing import Limits
from daemon.orders.listener import Listener
from daemon.pulse import Pulse
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
_ACCEPTING_SECONDS = 60.0


def run(  # noqa: PLR0917 - what one process is made of
    settings: Settings, store: Store, pseudonym: Pseudonym, stop: threading.Event, pulse: Pulse, trail: Trail
) -> None:
    """Until asked to stop. Raise TriageError if the port cannot be had, or nothing is to be done."""
    if not settings.hl7_port and not settings.mwl_peer:
        raise TriageError("set hl7_port to take orders, or mwl_peer to ask for them")
    absence = Absence(stop)
    secure = serving(settings, "hl7")
    called = calling(settings, "dicom_calling")
    watch([secure, called], stop)
    listener = None
    if settings.hl7_port:
        listener = _listen(settings, store, absence, pulse.loop("accepting", _ACCEPTING_SECONDS), secure, trail)
    asking = threading.Thread(target=lambda: _ask(settings, store, pseudonym, stop, pulse, called), name="enquirer")
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


def _ask(  # noqa: PLR0917 - as above
    settings: Settings,
    store: Store,
    pseudonym: Pseudonym,
    stop: threading.Event,
    pulse: Pulse,
    called: Credentials | None,
) -> None:
    """One turn asks for many studies, and a provider that is away is left in peace for minutes."""
    most = (
        max(PAUSE_SECONDS_MAX, settings.mwl_pause_seconds) + STUDIES_A_TURN * settings.mwl_seconds + _ACCEPTING_SECONDS
    )
    absence = Absence(stop, pulse.loop("asking", most))
    _enquirer(settings, store, pseudonym, absence, called).run(stop)


def _listen(  # noqa: PLR0917 - as above
    settings: Settings,
    store: Store,
    absence: Absence,
    beat: Callable[[], None],
    tls: Credentials | None,
    trail: Trail,
) -> Listener:
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
        beat=beat,
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
    name, (host, port) = split_application(settings.mwl_peer or "NONE@localhost:104", "mwl_peer")
    worklist = ModalityWorklist(
        ae_title=settings.dicom_ae_title,
        peer_ae_title=name,
        host=host,
        port=port,
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
