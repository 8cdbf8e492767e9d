"""Bytes arrive: on disk and fsynced, kept where films are kept, in the database and committed, only then Success.

No pixel is decoded here, and nothing the analysis does can change an answer. A failure status means "lost for ever" at
many senders, so whatever can be kept and listed is: an unusual object is stored and shown as "not analysed".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from daemon.arrival import Arrivals, ContradictionError, UnidentifiableError
from daemon.bell import Ringer
from daemon.dicom.association import AssociationSummary, StoreRequest
from daemon.dicom.negotiation import CALLED_AE_UNKNOWN, CALLING_AE_UNKNOWN, LOCAL_LIMIT_EXCEEDED
from daemon.spool import Spool, part10_header
from daemon.telemetry import Pseudonym, describe, log
from triage.records.intake import Receipt
from triage.records.store import DatabaseError
from triage.study import ReceivedInstance

SUCCESS = 0x0000

# What the sender is told, PS3.4 table B.2-1 and PS3.7 annex C. Only about storing, never about the analysis.
STATUS_OF: tuple[tuple[type[Exception], int, str], ...] = (
    (ContradictionError, 0xA900, "data set does not match SOP class"),
    (UnidentifiableError, 0xC000, "cannot understand"),
    (OSError, 0xA700, "out of resources: disk or pixel store"),
    (DatabaseError, 0xA700, "out of resources: database"),
    (MemoryError, 0xA700, "out of resources: memory"),
    (Exception, 0xA700, "out of resources: unforeseen"),
)

# For the log: result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21).
WHY_REJECTED = {
    CALLING_AE_UNKNOWN: "calling AE title or address is not listed",
    CALLED_AE_UNKNOWN: "called AE title is not ours",
    LOCAL_LIMIT_EXCEEDED: "too many connections, or too little disk",
}


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """What happens to one C-STORE request. Called from many threads at once."""

    spool: Spool
    arrivals: Arrivals
    ringer: Ringer
    pseudonym: Pseudonym

    def store(self, request: StoreRequest) -> int:
        """The status to answer, from `STATUS_OF`; never raises."""
        started = time.monotonic()
        try:
            received, receipt = self._keep(request)
        except Exception as error:  # noqa: BLE001 - the table's last row is for everything
            status = next(status for kind, status, _ in STATUS_OF if isinstance(error, kind))
            log().error("instance_refused", status=f"{status:04X}", calling_ae=request.calling_ae, **describe(error))
            return status
        self._log(received, receipt, time.monotonic() - started)
        return SUCCESS

    def _keep(self, request: StoreRequest) -> tuple[ReceivedInstance, Receipt]:
        if not len(request.data_set):
            raise UnidentifiableError
        part10 = part10_header(request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax_uid)
        stored = self.spool.write(part10, request.data_set)
        try:
            received, receipt = self.arrivals.admit(stored, request.calling_ae)
        finally:
            self.spool.let_go(stored)
        if receipt.queued:
            self.ringer.ring()
        return received, receipt

    def _log(self, received: ReceivedInstance, receipt: Receipt, seconds: float) -> None:
        log().info(
            "instance_received",
            study=self.pseudonym(received.header.study_instance_uid),
            instance=self.pseudonym(received.header.sop_instance_uid),
            duplicate=receipt.duplicate,
            conflict=receipt.conflict,
            reopened=receipt.reopened,
            reason=received.not_analysed,
            seconds=seconds,
        )


def log_association(summary: AssociationSummary) -> None:
    """The canonical line of an association."""
    log().info(
        "association",
        calling_ae=summary.calling_ae,
        called_ae=summary.called_ae,
        address=summary.address,
        outcome=summary.outcome,
        rejection=WHY_REJECTED.get(summary.rejection) if summary.rejection else None,
        stored=summary.stored,
        failed=summary.failed,
        statuses=" ".join(f"{status:04X}:{count}" for status, count in sorted(summary.statuses.items())),
        echoes=summary.echoes,
        bytes_received=summary.bytes_received,
        seconds=summary.seconds,
    )


class Watermark:
    """Whether to refuse associations because the disk fills up; looks at most once a second."""

    def __init__(self, spool: Spool, free_mib_min: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._spool = spool
        self._free_mib_min = free_mib_min
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._refusing = False

    def __call__(self) -> bool:
        with self._lock:
            if self._clock() - self._looked >= 1.0:
                self._looked = self._clock()
                self._look()
            return self._refusing

    def _look(self) -> None:
        free_mib = self._spool.free_mib()
        refusing = free_mib < self._free_mib_min
        if refusing != self._refusing:
            log().warning("disk_full" if refusing else "disk_recovered", free_mib=free_mib)
        self._refusing = refusing
