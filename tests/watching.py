"""A subscriber of workitems: a pynetdicom peer that hears State Reports."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from ports import free_port

EVENT = "1.2.840.10008.5.1.4.34.6.4"
BOTH = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


class Watcher:
    """What a subscriber has been told: workitem and state, in order; which it was asked to cancel, by whom, why; and
    how far which were, in percent.
    """

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.asked: list[tuple[str, str, str]] = []
        self.progress: list[tuple[str, str]] = []
        self.status = 0
        self.port = free_port()

    @contextmanager
    def listening(self, tls: ssl.SSLContext | None = None) -> Iterator[None]:
        ae = AE("WATCHER")
        ae.add_supported_context(EVENT, BOTH, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._hear)]
        server: Any = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers, ssl_context=tls)
        try:
            yield
        finally:
            server.shutdown()

    def _hear(self, event: Any) -> tuple[int, None]:
        if not self.status:
            information = event.event_information
            if event.request.EventTypeID == 2:
                uid, who = str(event.request.AffectedSOPInstanceUID), str(information.RequestingAE)
                self.asked.append((uid, who, str(information.ReasonForCancellation)))
                return self.status, None
            if event.request.EventTypeID == 3:
                (item,) = information.ProcedureStepProgressInformationSequence
                self.progress.append(
                    (str(event.request.AffectedSOPInstanceUID), f"{float(item.ProcedureStepProgress):g}")
                )
                return self.status, None
            self.told.append((str(event.request.AffectedSOPInstanceUID), str(information.ProcedureStepState)))
        return self.status, None
