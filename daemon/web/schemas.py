"""What the interface takes and gives, as OpenAPI describes it.

An entry is generated from `triage.study.WorklistEntry`: a field without a meaning here is an error at once. Codes are
described by their lists but not checked on the way out: a code that is unknown here must not hide the worklist.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Optional, get_args, get_type_hints

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from triage.errors import Reason
from triage.study import Analysis, ClinicalPriority, Etiology, Explanation, Status, Tier, WorklistEntry

BODY_BYTES_MAX = 16 * 1024
# Of a workitem's progress 64 KiB are kept; what is sent may be laid out with more room, and hold more than is ours.
WORKITEM_BYTES_MAX = 128 * 1024
READER_MAX = 64
PROBLEM_TYPE = "application/problem+json"

Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$", description="Study Instance UID")]
Kind = Annotated[Explanation, Query(description="What is drawn.")]
Name = Annotated[str, Field(min_length=1, max_length=READER_MAX, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


class ReaderName(BaseModel):
    """Who reads."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reader": "Dr Adler"}]})

    reader: Name = Field(
        description=f"1 to {READER_MAX} characters. Shown beside the study; the same name is the same reader."
    )


class MaybeReaderName(BaseModel):
    """Who asks, if it is to be checked."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reader": "Dr Adler"}]})

    reader: Name | None = Field(
        None,
        description="Left out, it is the token's owner; where nobody has tokens, it is not asked who holds the study.",
    )


class Problem(BaseModel):
    """Why a request failed: problem details (RFC 9457). Of the request at most the name of a query key is repeated."""

    type: str = Field(description='Always "about:blank": the status says what kind of problem it is.')
    title: str = Field(description="The phrase of the status.")
    status: int = Field(description="The status of the answer.")
    detail: str = Field("", description="One or two sentences for people. Absent where the title says it all.")


class Liveness(BaseModel):
    """The server answers."""

    live: bool = Field(description="Always true.")


class Readiness(BaseModel):
    """Whether films are received, analysed and shown."""

    model_config = ConfigDict(extra="allow")

    ready: bool = Field(description="Whether nothing is missing. False comes with status 503.")
    missing: list[str] = Field(description="What is missing, one sentence each.")
    oldest_job_seconds: float | None = Field(
        None, description="Seconds the first job that is due has waited for a worker; null if not known."
    )
    jobs: dict[str, int] | None = Field(
        None,
        description="Number of jobs by state, queued or leased; a state without jobs is left out. Null if not known.",
    )


# -- studies and the worklist --------------------------------------------------------------------------------------

_MEANINGS = {
    "rank": "Place on the whole worklist; 1 is read next. 0 in the view of those that were read.",
    "study_instance_uid": "(0020,000D).",
    "accession_number": '(0008,0050), as received; "" where absent.',
    "patient_id": '(0010,0020), as received; "" where absent.',
    "patient_name": '(0010,0010), as received, components apart by "^", groups by "="; "" where absent.',
    "patient_birth_date": '(0010,0030), as received: YYYYMMDD; "" where absent.',
    "patient_sex": '(0010,0040), as received: mostly M, F or O; "" where absent.',
    "age_years": "Years of age at the study, from Patient's Age or birth date; null if neither can be read.",
    "modality": '(0008,0060), as received; "" where absent.',
    "study_date": '(0008,0020), as received: YYYYMMDD; "" where absent.',
    "study_description": '(0008,1030), as received; "" where absent.',
    "received_at": "When the study's first object was stored. UTC.",
    "waiting_since": "The same, or when a late image reopened the study after it was read. UTC.",
    "waiting_seconds": "Seconds since waiting_since; of those that were read, until then.",
    "clinical_priority": "Of the order; the analysis never changes it.",
    "status": "Where the reading stands.",
    "reader": "Who reads or has read it; null if nobody or not said.",
    "analysis": "Where the analysis stands. Pending and not_analysed are never to be shown as normal.",
    "reason": "Why there is no analysis; null unless not_analysed.",
    "flagged": "The analysis raises this study.",
    "overdue": "It has waited longer than the limit.",
    "tier": "How likely pneumonia is: what to show to readers. Null unless analysed.",
    "etiology": "Of flagged studies: show it muted, with a caveat, or not at all. Else null.",
    "p_pneumonia": "Highest calibrated probability of the study's films; null unless analysed. Show the tier instead.",
    "identity_conflict": "An identifier is missing or contradicts another object.",
    "why": "One sentence: why it stands here.",
    # Of one study only.
    "overdue_at": "When it becomes, or became, overdue. UTC.",
    "waiting_limit_minutes": "The limit, in minutes, that overdue_at was reckoned with.",
    "episode": "Which reading this is: a late image opens the next one.",
    "status_at": "When the status was changed; null if it never was. UTC.",
    "changed_while_reading": "New images came since the reading was started: start it again before it can be read.",
    "words": "What the analysis has to say.",
    "policy_version": "The policy that made this priority.",
    "analysed_at": "When the analysis ended, with or without a finding; null while pending. UTC.",
}
_OF_OPEN_STUDIES = ("rank", "waiting_seconds", "overdue", "why")
_OF_STUDIES: dict[str, Any] = {
    "overdue_at": datetime,
    "waiting_limit_minutes": int,
    "episode": int,
    "status_at": datetime | None,
    "changed_while_reading": bool,
    "words": str,
    "policy_version": str,
    "analysed_at": datetime | None,
}


def _one_of(codes: Iterable[str]) -> dict[str, Any]:
    return {"type": "string", "enum": [str(code) for code in codes]}


_SHAPES: dict[str, dict[str, Any]] = {
    "clinical_priority": _one_of(priority.name for priority in ClinicalPriority),
    "status": _one_of(Status),
    "analysis": _one_of(Analysis),
    "reason": {**_one_of(Reason), "x-enum-descriptions": {reason.value: reason.words for reason in Reason}},
    "tier": _one_of(Tier),
    "etiology": _one_of(Etiology),
    "p_pneumonia": {"type": "number", "minimum": 0, "maximum": 1},
}


def _field(name: str, hint: Any, shape: dict[str, Any] | None, end: str = "") -> Any:  # noqa: ANN401 - types of all kinds
    """Type and field, as `create_model` wants them. ``end`` is added to the meaning."""
    is_nullable = type(None) in get_args(hint)
    plain = next(part for part in get_args(hint) if part is not type(None)) if is_nullable else hint
    shaped = Annotated[plain, WithJsonSchema(shape)] if shape else plain
    return (Optional[shaped] if is_nullable else shaped, Field(description=_MEANINGS[name] + end))  # noqa: UP045 - made at run time


def _entry_fields() -> dict[str, Any]:
    hints = get_type_hints(WorklistEntry)
    return {name: _field(name, hint, _SHAPES.get(name)) for name, hint in hints.items()}


def _study_fields() -> dict[str, Any]:
    hints = {**get_type_hints(WorklistEntry), **_OF_STUDIES}
    hints |= {name: hints[name] | None for name in _OF_OPEN_STUDIES}
    ends = dict.fromkeys(_OF_OPEN_STUDIES, " Null once the study was read.")
    return {name: _field(name, hint, _SHAPES.get(name), ends.get(name, "")) for name, hint in hints.items()}


ENTRY_EXAMPLE = {
    "rank": 1,
    "study_instance_uid": "1.2.826.0.1.3680043.10.1",
    "accession_number": "A1001",
    "patient_id": "P1001",
    "patient_name": "Doe^Jane",
    "patient_birth_date": "20220115",
    "patient_sex": "F",
    "age_years": 3.5,
    "modality": "CR",
    "study_date": "20250720",
    "study_description": "Chest AP",
    "received_at": "2025-07-20T08:00:00.250000Z",
    "waiting_since": "2025-07-20T08:00:00.250000Z",
    "waiting_seconds": 754,
    "clinical_priority": "ROUTINE",
    "status": "unread",
    "reader": None,
    "analysis": "analysed",
    "reason": None,
    "flagged": True,
    "overdue": False,
    "tier": "likely",
    "etiology": "bacterial",
    "p_pneumonia": 0.97,
    "identity_conflict": False,
    "why": "Routine order; flagged: pneumonia likely; then by arrival",
}
WORKLIST_EXAMPLE = {
    "generated_at": "2025-07-20T08:12:34.500000Z",
    "policy_version": "st-elsewhere-3",
    "waiting_limit_minutes": 240,
    "version": "12-3",
    "count": 1,
    "total": 1,
    "entries": [ENTRY_EXAMPLE],
    "next_cursor": None,
}

Entry: type[BaseModel] = create_model(
    "WorklistEntry",
    __doc__="A study as the view reading_worklist has it; or one that was read.",
    **_entry_fields(),
)
Study: type[BaseModel] = create_model("Study", __doc__="A study, read or not.", **_study_fields())
Worklist: type[BaseModel] = create_model(
    "Worklist",
    __doc__="The reading worklist, or a page of it.",
    generated_at=(datetime, Field(description="When this was read. UTC.")),
    policy_version=(str, Field(description="The policy in force.")),
    waiting_limit_minutes=(int, Field(description="Minutes after which a study becomes overdue.")),
    version=(str, Field(description="As /api/changes tells it: while it stays, nothing has happened to any study.")),
    count=(int, Field(description="Number of entries here; smaller than the worklist if a limit was given.")),
    total=(
        int | None,
        Field(
            description="Number of open studies that match, on all pages together. Null in the view of those that "
            "were read: counting them would take the longer the more there are."
        ),
    ),
    entries=(list[Entry], Field(description="In the order asked for.")),  # type: ignore[valid-type] # made at run time
    next_cursor=(str | None, Field(description="Ask for the next page with it; null on the last.")),
)


# -- failures ------------------------------------------------------------------------------------------------------


_FAILURES = {
    400: "The query has a key that is not described here; `detail` names it and the nearest that is. "
    "Or the Host header names no host of this server (as text), or the body is not UTF-8.",
    401: "No token, or one that opens nothing; or the session has ended.",
    403: "The role is too low, or `reader` is somebody else. Or a page of another site asks for the change.",
    404: "No study is held under this Study Instance UID, or not what is asked for of it; `detail` says which.",
    409: "The study does not allow the change; `detail` says why. Nothing was changed.",
    411: "The body comes without Content-Length (chunked).",
    413: f"The body is larger than {BODY_BYTES_MAX} bytes.",
    422: "A parameter or the body is not valid, or the body did not come as application/json. "
    "Or a cursor that is none, or whose place has moved: begin with the first page.",
    500: "An error that nobody expected; the log says where.",
    503: "The database does not answer, or others are served first: try again after Retry-After. Or too many "
    "connections at once (as text).",
}
# The libraries before us answer these in their own words.
_ALSO_AS_TEXT = (400, 503)
_RETRY_AFTER = {"Retry-After": {"description": "Seconds; not with text.", "schema": {"type": "integer"}}}


_TEXT: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
_Answers = dict[int | str, dict[str, Any]]
BUSY: _Answers = {503: {"description": "Too many connections at once.", "content": _TEXT}}
NOT_READY: _Answers = {
    503: {
        "model": Readiness,
        "description": "Something is missing. Or too many connections (as text).",
        "content": _TEXT,
    }
}


def failures(*statuses: int) -> _Answers:
    """What an operation says of these statuses."""
    return {status: _failure(status) for status in statuses}


def _failure(status: int) -> dict[str, Any]:
    content: dict[str, Any] = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    if status in _ALSO_AS_TEXT:
        content |= _TEXT
    headers = {"headers": _RETRY_AFTER} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return {"description": _FAILURES[status], "content": content, **headers}
