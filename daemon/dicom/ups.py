"""Unified Procedure Step service, SCP (PS3.4 annex CC): the reading worklist found, claimed, watched and ended.

Offered are UPS Pull, Watch and Query; not Push: workitems are made by films that arrive, and by nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from daemon.dicom.command import C_FIND_RQ, N_ACTION_RQ, N_GET_RQ, N_SET_RQ
from daemon.dicom.exchange import OUT_OF_RESOURCES, PENDING, PENDING_KEYS_IGNORED, SUCCESS, Handlers, Question, Reply
from daemon.dicom.finding import Finding, Found
from daemon.dicom.workitem import CHARACTER_SET, PROGRESS, PROGRESS_CHARACTERS_MAX, progress, put
from daemon.telemetry import Pseudonym, log
from triage.records.subscriptions import ALL_WORKITEMS, FILTERED_WORKITEMS, Subscriptions
from triage.records.workitems import Workitems
from triage.workitem import StepState, Verdict

UPS_WATCH = "1.2.840.10008.5.1.4.34.6.2"
UPS_PULL = "1.2.840.10008.5.1.4.34.6.3"
UPS_QUERY = "1.2.840.10008.5.1.4.34.6.5"
# What every response has, asked for or not (PS3.4 CC.2.8.1.3).
_ALWAYS = frozenset({"SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID"})

# Action Type IDs, PS3.4 table CC.2-1.
CHANGE_STATE, REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 1, 2, 3, 4, 5
# PS3.7 annex C; PS3.4 tables CC.2.3-3 and CC.2.6-2.
INVALID_ATTRIBUTE_VALUE = 0x0106
INVALID_ARGUMENT = 0x0115
NO_SUCH_ACTION = 0x0123
RESOURCE_LIMITATION = 0x0213
OPTIONAL_NOT_SUPPORTED = 0x0001
LOCK_NOT_GRANTED = 0xB301
NOT_APPROPRIATE = 0xC315

WORDS = {
    Verdict.ENDED: "the workitem may no longer be updated",
    Verdict.WRONG_TRANSACTION: "not the Transaction UID of who performs it",
    Verdict.ALREADY_IN_PROGRESS: "it is IN PROGRESS already",
    Verdict.NEVER_SCHEDULED_AGAIN: "it becomes SCHEDULED by films alone",
    Verdict.NOT_FINISHED: "new images have come: say progress with N-SET, then complete",
    Verdict.NOT_HELD: "no such workitem is held",
    Verdict.NOT_IN_PROGRESS: "it is not IN PROGRESS",
    Verdict.COMPLETED_BEFORE_CANCEL: "it is COMPLETED already",
    Verdict.UNHEARD: "nobody has subscribed to it: its performer cannot be told",
    Verdict.KEEPS_ON: "the study has to be read: it is not cancelled",
}


@dataclass(frozen=True, kw_only=True)
class Ups:
    """Answers questions about workitems."""

    workitems: Workitems
    subscriptions: Subscriptions
    finding: Finding
    pseudonym: Pseudonym

    def handlers(self) -> Handlers:
        return {
            (UPS_QUERY, C_FIND_RQ): self.find,
            (UPS_PULL, C_FIND_RQ): self.find,
            (UPS_PULL, N_GET_RQ): self.get,
            (UPS_PULL, N_SET_RQ): self.set,
            (UPS_PULL, N_ACTION_RQ): self.act,
            (UPS_WATCH, C_FIND_RQ): self.find,
            (UPS_WATCH, N_GET_RQ): self.get,
            (UPS_WATCH, N_ACTION_RQ): self.watch,
        }

    def find(self, question: Question) -> Iterator[Reply]:
        """At most so many, the first of the worklist; then A700, so that nobody takes them for all."""
        keys = question.data_set
        found = self.finding.find(keys)
        status = PENDING_KEYS_IGNORED if found.ignored else PENDING
        wanted = _ALWAYS.union(map(keyword_for_tag, keys.keys()))
        for workitem in found.items:
            yield Reply(status=status, data_set=self.finding.data_set(workitem, found, wanted))
        if found.is_cut:
            yield Reply(status=OUT_OF_RESOURCES, comment="more match: ask for less")
        else:
            yield Reply(status=SUCCESS)

    def get(self, question: Question) -> Iterator[Reply]:
        workitem = self.workitems.get(question.sop_instance_uid)
        if workitem is None:
            yield _refusal(Verdict.NOT_HELD)
            return
        made = self.finding.data_set(workitem, Found.of_one(workitem, self.workitems))
        if question.attributes:
            wanted = Dataset()
            for tag in {*question.attributes} & {*made.keys()}:
                wanted[tag] = made[tag]
            put(wanted, "SpecificCharacterSet", CHARACTER_SET)
            made = wanted
        yield Reply(status=SUCCESS, data_set=made)

    def set(self, question: Question) -> Iterator[Reply]:
        """Only what performers may say is taken; that anything else was left is said in the status."""
        asked = question.data_set
        try:
            said = progress(asked)
        except ValueError:
            yield Reply(status=INVALID_ATTRIBUTE_VALUE, comment="a value of the progress is none")
            return
        if len(said) > PROGRESS_CHARACTERS_MAX:
            yield Reply(status=RESOURCE_LIMITATION, comment="too much is said of the progress")
            return
        found = self.workitems.update(question.sop_instance_uid, _uid(asked, "TransactionUID"), said)
        known = {"TransactionUID", "SpecificCharacterSet", *PROGRESS}
        left = any(element.keyword not in known for element in asked)
        yield Reply(status=OPTIONAL_NOT_SUPPORTED) if found is Verdict.DONE and left else _refusal(found)

    def act(self, question: Question) -> Iterator[Reply]:
        if question.action != CHANGE_STATE:
            yield Reply(status=NO_SUCH_ACTION)
            return
        asked = str(question.data_set.get("ProcedureStepState", "")).strip()
        if asked not in list(StepState):
            yield Reply(status=INVALID_ARGUMENT, comment="no such Procedure Step State")
            return
        transaction_uid, who = _uid(question.data_set, "TransactionUID"), question.calling_ae
        found = self.workitems.change(question.sop_instance_uid, asked, transaction_uid, who)
        uid = self.pseudonym(question.sop_instance_uid)
        log().info("workitem_change", workitem=uid, asked=asked, calling_ae=who, status=f"{found:04X}")
        yield _refusal(found)

    def watch(self, question: Question) -> Iterator[Reply]:
        action, uid = question.action, question.sop_instance_uid
        if action == REQUEST_CANCEL:
            reason = str(question.data_set.get("ReasonForCancellation", "") or "").strip()
            yield _refusal(self.workitems.ask_to_cancel(uid, question.calling_ae, reason))
        elif action in {SUBSCRIBE, UNSUBSCRIBE, SUSPEND}:
            yield self._subscription(action, uid, question.data_set)
        else:
            yield Reply(status=NO_SUCH_ACTION)

    def _subscription(self, action: int, uid: str, asked: Dataset) -> Reply:
        """A deletion lock is never granted: a workitem that has ended stays as long as its study does."""
        ae_title = str(asked.get("ReceivingAE", "")).strip()
        if not ae_title or len(ae_title) > 16:  # noqa: PLR2004 - VR AE
            return Reply(status=INVALID_ARGUMENT, comment="no Receiving AE")
        if uid == FILTERED_WORKITEMS:
            return Reply(status=NOT_APPROPRIATE, comment="no filtered subscriptions: subscribe to all")
        if uid != ALL_WORKITEMS and (action == SUSPEND or self.workitems.get(uid) is None):
            return _refusal(Verdict.NOT_HELD)
        verbs = {SUBSCRIBE: self.subscriptions.subscribe, UNSUBSCRIBE: self.subscriptions.unsubscribe}
        if action == SUSPEND:
            self.subscriptions.suspend(ae_title)
        else:
            verbs[action](ae_title, uid)
        wants_lock = action == SUBSCRIBE and str(asked.get("DeletionLock", "")).strip() == "TRUE"
        return Reply(status=LOCK_NOT_GRANTED if wants_lock else SUCCESS)


def _refusal(found: Verdict) -> Reply:
    """Or what else it comes to."""
    return Reply(status=int(found), comment=WORDS.get(found, ""))


def _uid(asked: Dataset, keyword: str) -> str:
    return str(asked.get(keyword, "") or "").strip(" \0")
