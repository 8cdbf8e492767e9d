"""Bytes arrive: on disk and fsynced, kept where films are kept, in the database and committed, only then Success.

No pixel is decoded here, and nothing the analysis does can change an answer. A failure status means "lost for ever" at
many senders, so whatever can be kept and listed is: an unusual object is stored and shown as "not analysed".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from daemon import metrics
from daemon.arrival import Arrivals, ContradictionError, Head, UnidentifiableError
from daemon.bell import Ringer
from daemon.dicom.association import AssociationSummary, StoreRequest
from daemon.dicom.negotiation import CALLED_AE_UNKNOWN, CALLING_AE_UNKNOWN, LOCAL_LIMIT_EXCEEDED
from daemon.kept import StoredFile
from daemon.outage import OutageTooLongError
from daemon.spool import Draft, Spool, part10_header
from daemon.telemetry import Pseudonym, describe, log
from triage.records.intake import Receipt
from triage.records.store import DatabaseError
from triage.study import Header, ReceivedInstance

SUCCESS = 0x0000
# Of a data set, kept until its header has been read: films have a few kilobytes before their pixels.
HEAD_BYTES = 64 * 1024

# What the sender is told, PS3.4 table B.2-1 and PS3.7 annex C. Only about storing, never about the analysis.
STATUS_OF: tuple[tuple[type[Exception], int, str], ...] = (
    (ContradictionError, 0xA900, "data set does not match SOP class"),
    (UnidentifiableError, 0xC000, "cannot understand"),
    (OSError, 0xA700, "out of resources: disk or pixel store"),
    (DatabaseError, 0xA700, "out of resources: database"),
    (OutageTooLongError, 0xA700, "out of resources: database away for too long"),
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
    """What happens to C-STORE requests. Called from many threads at once. ``on_stored`` may not raise."""

    spool: Spool
    arrivals: Arrivals
    ringer: Ringer
    pseudonym: Pseudonym
    on_stored: Callable[[StoreRequest, Header], None] = lambda _request, _header: None

    def begin(self, request: StoreRequest) -> InstanceDeposit:
        """Never raises."""
        return InstanceDeposit(self, request)

    def refused(self, request: StoreRequest, error: Exception) -> int:
        """The status to answer, from `STATUS_OF`."""
        status = next(status for kind, status, _ in STATUS_OF if isinstance(error, kind))
        request.transfers.failed += 1
        log().error("instance_refused", status=f"{status:04X}", calling_ae=request.calling_ae, **describe(error))
        return status

    def admit(self, stored: StoredFile, head: Head, request: StoreRequest, began: float) -> int:
        try:
            received, receipt = self.arrivals.admit(stored, request.calling_ae, head)
        finally:
            self.spool.let_go(stored)
        if receipt.queued:
            self.ringer.ring()
        self._log(received, receipt, time.monotonic() - began)
        self.on_stored(request, received.header)
        return SUCCESS

    def _log(self, received: ReceivedInstance, receipt: Receipt, seconds: float) -> None:
        metrics.DEFERRED.inc(receipt.deferred)
        metrics.RECEIVE_SECONDS.observe(seconds)
        log().info(
            "instance_received",
            study=self.pseudonym(received.header.study_instance_uid),
            instance=self.pseudonym(received.header.sop_instance_uid),
            duplicate=receipt.duplicate,
            conflict=receipt.conflict,
            reopened=receipt.reopened,
            deferred=receipt.deferred,
            reason=received.not_analysed,
            seconds=seconds,
        )


class InstanceDeposit:
    """One instance on its way to the disk. Never raises: what went wrong is the status in the end."""

    def __init__(self, receiver: Receiver, request: StoreRequest) -> None:
        self._receiver = receiver
        self._request = request
        self._began = time.monotonic()
        self._first_bytes = bytearray()
        self._draft: Draft | None = None
        self._error: Exception | None = None
        uids = (request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax_uid)
        with self._noting_errors():
            self._draft = Draft(receiver.spool, part10_header(*uids))

    def write(self, part: memoryview) -> None:
        with self._noting_errors():
            if self._draft is not None:
                self._first_bytes += part[: HEAD_BYTES - len(self._first_bytes)]
                self._draft.write(part)

    def finish(self) -> int:
        status = 0
        with self._noting_errors():
            status = self._admitted()
        return status if self._error is None else self._receiver.refused(self._request, self._error)

    def _admitted(self) -> int:
        if self._error is not None or self._draft is None:
            return 0
        if not self._first_bytes:
            raise UnidentifiableError
        stored, self._draft = self._draft.keep(), None
        request = self._request
        command = Header(
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            study_instance_uid="",
            transfer_syntax_uid=request.transfer_syntax_uid,
        )
        head = Head(command=command, first_bytes=self._first_bytes)
        return self._receiver.admit(stored, head, request, self._began)

    def discard(self) -> None:
        if self._draft is not None:
            self._draft.discard()
            self._draft = None

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the table's last row is for everything
            self._error = self._error or error
            self.discard()


def log_association(summary: AssociationSummary) -> None:
    """The canonical line of an association."""
    metrics.ASSOCIATIONS.labels(summary.outcome.value).inc()
    metrics.RECEIVED_BYTES.inc(summary.bytes_received)
    log().info(
        "association",
        calling_ae=summary.calling_ae,
        called_ae=summary.called_ae,
        address=summary.address,
        outcome=summary.outcome,
        rejection=WHY_REJECTED.get(summary.rejection) if summary.rejection else None,
        problem=summary.problem or None,
        stored=summary.stored,
        failed=summary.failed,
        statuses=" ".join(f"{status:04X}:{count}" for status, count in sorted(summary.statuses.items())),
        echoes=summary.echoes,
        questions=" ".join(f"{status:04X}:{count}" for status, count in sorted(summary.questions.items())),
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
