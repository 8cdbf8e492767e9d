"""The forwarder as the settings have it."""

from __future__ import annotations

import socket

from daemon.auditing.forwarder import Forwarder, Turn
from daemon.auditing.syslog import Repository
from daemon.auditing.xml import Reporter
from daemon.notation import split_repository
from daemon.settings import Settings
from daemon.tls import Credentials, calling
from triage.records.audit import Audit


def audit_tls(settings: Settings) -> Credentials | None:
    """None unless the repository speaks TLS. Raise TriageError."""
    return calling(settings, "audit") if settings.audit_repository.startswith("syslog-tls:") else None


def build_forwarder(settings: Settings, audit: Audit, turn: Turn, tls: Credentials | None) -> Forwarder:
    kind, host, port = split_repository(settings.audit_repository)
    return Forwarder(
        audit=audit,
        repository=Repository(kind=kind, host=host, port=port, tls=tls),
        us=Reporter(source=settings.audit_source, ae_title=settings.dicom_ae_title, host=socket.gethostname()),
        turn=turn,
        waiting_max=settings.audit_waiting_max,
    )
