"""What peers do over DICOM, as accesses for the audit.

One for each study of an association, for each question and for each action; of questions and looks that are repeated,
and of peers that are turned away, one in some minutes.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from daemon.dicom.association import AssociationSummary, StoreRequest
from daemon.dicom.command import C_FIND_RQ, N_ACTION_RQ, N_GET_RQ
from daemon.dicom.exchange import CANCELLED, PENDING_STATUSES, SUCCESS, Handler, Handlers, Question, Reply
from daemon.dicom.guard import Outcome as End
from daemon.dicom.transfers import Transfers
from daemon.dicom.ups import UPS_WATCH
from daemon.receiver import WHY_REJECTED
from daemon.trail import Trail
from triage.study import Header
from triage.user import Access, Outcome

# A longer identifier is not told: a part of one could not be read.
_QUERY_BYTES_MAX = 8 * 1024
_CLASSES_MAX = 50
# PS3.7 annex C, PS3.4 table CC.2-2: done, though not quite as asked.
_DONE_TOO = {0x0001, 0x0107, 0x0116, CANCELLED, 0xA700}
_WARNINGS = range(0xB000, 0xC000)
# PS3.4 annex CC: refused, because of the state that the workitem is in.
_REFUSALS = range(0xC300, 0xC400)


@dataclass(frozen=True)
class Noting:
    """Notes on a trail. No method raises, or waits for anything but a line in a file.

    ``tells_queries``: what was asked is noted, too. It names patients, and nobody but an audit repository reads it.
    """

    trail: Trail
    tells_queries: bool

    # -- what is sent to us ----------------------------------------------------------------------------------------

    def stored(self, request: StoreRequest, header: Header) -> None:
        request.transfers.add(header.study_instance_uid, header.sop_class_uid)
        if request.transfers.is_due:
            self._note_transfers(request.transfers, request.calling_ae, request.called_ae, request.address)

    def ended(self, summary: AssociationSummary) -> None:
        """The transfers that are not noted yet, or that the peer was turned away."""
        if summary.outcome is End.INSECURE:
            self._note_stranger("connect", summary, f"TLS: {summary.problem}")
        elif summary.rejection is not None:
            self._note_stranger("associate", summary, WHY_REJECTED.get(summary.rejection, "rejected"))
        else:
            self._note_transfers(summary.transfers, summary.calling_ae, summary.called_ae, summary.address)

    def _note_transfers(self, transfers: Transfers, calling_ae: str, called_ae: str, address: str) -> None:
        studies, failed = transfers.take()
        told: dict[str, Any] = {"calling": calling_ae, "called": called_ae}
        for uid, classes in studies.items():
            counts = dict(classes.most_common(_CLASSES_MAX))
            self.trail.note(_access("store", calling_ae, address, told | {"classes": counts}, uid=uid))
        if failed:
            problem = f"{failed} instances could not be stored"
            self.trail.note(_access("store", calling_ae, address, told | {"problem": problem}, outcome=Outcome.FAILED))

    def _note_stranger(self, verb: str, summary: AssociationSummary, problem: str) -> None:
        """Once in some minutes for each address, whatever it calls itself: nobody fills the disk with lines."""
        told = {"calling": summary.calling_ae, "called": summary.called_ae, "problem": problem}
        access = _access(verb, summary.calling_ae, summary.address, told, outcome=Outcome.REFUSED)
        self.trail.note_once(access, (verb, problem, summary.address))

    # -- what is asked of us ---------------------------------------------------------------------------------------

    def handlers(self, handlers: Handlers) -> Handlers:
        """The same, each noted."""
        return {key: self._noting(handler) for key, handler in handlers.items()}

    def _noting(self, handler: Handler) -> Handler:
        def answered(question: Question) -> Iterator[Reply]:
            status: int | None = None
            try:
                for reply in handler(question):
                    status = CANCELLED if reply.status in PENDING_STATUSES else reply.status
                    yield reply
            finally:
                self._note_question(question, status)

        return answered

    def _note_question(self, question: Question, status: int | None) -> None:
        """``status``: None where the handler raised."""
        told: dict[str, Any] = {"calling": question.calling_ae, "called": question.called_ae}
        who, address, outcome = question.calling_ae, question.address, _outcome(status)
        if question.kind == C_FIND_RQ:
            asked = question.encoded or b""
            told |= {"class": question.abstract_syntax, "syntax": question.transfer_syntax}
            if self.tells_queries and len(asked) <= _QUERY_BYTES_MAX:
                told |= {"query": b64encode(asked).decode()}
            same = ("find", who, address, question.abstract_syntax, outcome, sha256(asked).hexdigest())
            self.trail.note_once(_access("find", who, address, told, outcome=outcome), same)
            return
        is_subscription = question.kind == N_ACTION_RQ and question.abstract_syntax == UPS_WATCH
        verb = "subscribe" if is_subscription else "look" if question.kind == N_GET_RQ else "workitem"
        access = _access(verb, who, address, told, uid=question.sop_instance_uid, outcome=outcome)
        (self.trail.note_once if verb == "look" else self.trail.note)(access)


def _outcome(status: int | None) -> Outcome:
    if status is None:
        return Outcome.FAILED
    if status == SUCCESS or status in _DONE_TOO or status in _WARNINGS:
        return Outcome.SUCCESS
    return Outcome.REFUSED if status in _REFUSALS else Outcome.FAILED


def _access(
    verb: str,
    calling_ae: str,
    address: str,
    told: dict[str, Any],
    *,
    uid: str = "",
    outcome: Outcome = Outcome.SUCCESS,
) -> Access:
    return Access(
        at=datetime.now(UTC),
        who=f"{calling_ae} over DICOM" if calling_ae else "",
        verb=verb,
        study_instance_uid=uid,
        outcome=outcome,
        address=address,
        details=json.dumps(told),
    )
