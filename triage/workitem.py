"""The workitem of a reading as a Unified Procedure Step: its states, who may change them, and what is answered.

PS3.4 annex CC. A study that waits is SCHEDULED, one that is read IN PROGRESS under the lock of who claimed it, one that
has been read COMPLETED. Where a reader gives a study back, its workitem is CANCELED and a new one waits in its place:
the standard knows no way back to SCHEDULED.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any
from uuid import uuid4

from triage.study import EventKind, Status


class StepState(StrEnum):
    """Procedure Step State (0074,1000)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


STATES = {Status.UNREAD: StepState.SCHEDULED, Status.READING: StepState.IN_PROGRESS, Status.READ: StepState.COMPLETED}
FINAL = (StepState.COMPLETED, StepState.CANCELED)
# What an event says of the workitem that it happened to; of others the state is told as it is.
STATES_AFTER = {
    EventKind.STARTED: StepState.IN_PROGRESS,
    EventKind.RELEASED: StepState.CANCELED,
    EventKind.READ: StepState.COMPLETED,
}
# Procedure Step Progress Information Sequence in the DICOM JSON model (PS3.18 F.2.2).
PROGRESS_INFORMATION = "00741002"


class Verdict(IntEnum):
    """What is answered to who wants a workitem changed: statuses of PS3.4 tables CC.2.1-2, CC.2.2-2, CC.2.6-2."""

    DONE = 0x0000
    ALREADY_CANCELED = 0xB304
    ALREADY_COMPLETED = 0xB306
    ENDED = 0xC300
    WRONG_TRANSACTION = 0xC301
    ALREADY_IN_PROGRESS = 0xC302
    NEVER_SCHEDULED_AGAIN = 0xC303
    NOT_FINISHED = 0xC304
    NOT_HELD = 0xC307
    NOT_IN_PROGRESS = 0xC310
    COMPLETED_BEFORE_CANCEL = 0xC311
    UNHEARD = 0xC312
    KEEPS_ON = 0xC313

    @property
    def is_refusal(self) -> bool:
        return self >= Verdict.ENDED


@dataclass(frozen=True, kw_only=True)
class Workitem:
    """One reading of one study. ``study``: the columns of its row, and those of its worklist entry while it is open.

    ``progress``: what its performer has said of it, a data set in the DICOM JSON model; "" if nothing.
    """

    workitem_uid: str
    study_instance_uid: str = field(repr=False)
    state: StepState
    reader: str = field(default="", repr=False)
    transaction_uid: str = field(default="", repr=False)
    changed_at: datetime | None = None
    progress: str = field(default="", repr=False)
    study: Mapping[str, Any] = field(repr=False)


def verdict(state: StepState, asked: str, *, is_owner: bool) -> Verdict:
    """Of a Change State (PS3.4 table CC.1.1-2). ``is_owner``: the Transaction UID is the right one.

    To claim a workitem that nobody has, any is.
    """
    if asked == StepState.SCHEDULED:
        return Verdict.NEVER_SCHEDULED_AGAIN
    if not is_owner:
        return Verdict.WRONG_TRANSACTION
    return _VERDICTS[StepState(asked)][state]


_VERDICTS: dict[StepState, dict[StepState, Verdict]] = {
    StepState.IN_PROGRESS: {
        StepState.SCHEDULED: Verdict.DONE,
        StepState.IN_PROGRESS: Verdict.ALREADY_IN_PROGRESS,
        StepState.COMPLETED: Verdict.ENDED,
        StepState.CANCELED: Verdict.ENDED,
    },
    StepState.COMPLETED: {
        StepState.SCHEDULED: Verdict.NOT_IN_PROGRESS,
        StepState.IN_PROGRESS: Verdict.DONE,
        StepState.COMPLETED: Verdict.ALREADY_COMPLETED,
        StepState.CANCELED: Verdict.ENDED,
    },
    StepState.CANCELED: {
        StepState.SCHEDULED: Verdict.NOT_IN_PROGRESS,
        StepState.IN_PROGRESS: Verdict.DONE,
        StepState.COMPLETED: Verdict.ENDED,
        StepState.CANCELED: Verdict.ALREADY_CANCELED,
    },
}


def cancel_verdict(state: StepState) -> Verdict:
    """Of a request to cancel, by who is not the performer (PS3.4 CC.2.2): a study that waits has to be read.

    Whether one that is read goes on being read is for its performer to say, who is told of the request.
    """
    return _CANCEL_VERDICTS[state]


_CANCEL_VERDICTS = {
    StepState.SCHEDULED: Verdict.KEEPS_ON,
    StepState.IN_PROGRESS: Verdict.DONE,
    StepState.COMPLETED: Verdict.COMPLETED_BEFORE_CANCEL,
    StepState.CANCELED: Verdict.ALREADY_CANCELED,
}


def new_workitem_uid() -> str:
    """For the reading that begins where another was given back (PS3.5 B.2)."""
    return f"2.25.{uuid4().int}"
