"""The audit for those who look after the site: who has looked at which study."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, BeforeValidator, Field

from daemon.web.schemas import failures
from triage.records.audit import Audit
from triage.user import Outcome

_MOST = 1000

Who = Annotated[str | None, Query(max_length=64, description="Only of this user, exactly.")]
Study = Annotated[str | None, Query(pattern=r"^[0-9.]{1,64}$", description="Only to this Study Instance UID.")]
Ended = Annotated[Outcome | None, Query(description="Only those that ended so.")]
# Not a number of seconds, and not a time of nowhere in particular.
_IS_TIME = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$"


def _stated(value: object) -> object:
    """Raise ValueError."""
    if isinstance(value, str) and not re.fullmatch(_IS_TIME, value):
        raise ValueError("not a time")
    return value


Since = Annotated[datetime | None, BeforeValidator(_stated), Query(description="Not before this. RFC 3339.")]
Cursor = Annotated[int | None, Query(ge=1, description="`next` of the answer before.")]
Most = Annotated[int, Query(ge=1, le=_MOST, description="How many.")]


class AccessShown(BaseModel):
    """One access."""

    access_id: int = Field(description="Grows with each that is entered.")
    at: datetime = Field(description="When, by the clock of the machine that answered. UTC.")
    who: str = Field(
        description='The user, or "AE over DICOM"; where nobody signs in, who the reader says. "": not known.'
    )
    verb: str = Field(description="What was asked for: list, look, explain, start, read, release, audit, sign_in, ...")
    study_instance_uid: str = Field(description='Of a workitem its own UID; "" if it was of no single study.')
    outcome: Outcome = Field(description="Refused: the one who asked may not, or the study does not allow it.")
    address: str = Field(description='From where; "" if not over the network.')


class Accesses(BaseModel):
    """A page of the audit."""

    count: int = Field(description="Number of entries here.")
    next: int | None = Field(description="`before` of the next page; null on the last.")
    entries: list[AccessShown] = Field(description="The newest first.")


class Auditing:
    """GET /api/audit."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api", responses=failures(400, 500))
        shown: dict[str, Any] = {"response_model": Accesses, "response_description": "The newest first."}
        router.add_api_route("/audit", self.list, **shown, responses=failures(401, 403, 422, 503))
        return router

    def list(
        self,
        *,
        who: Who = None,
        study: Study = None,
        outcome: Ended = None,
        since: Since = None,
        before: Cursor = None,
        limit: Most = 100,
    ) -> dict[str, Any]:
        """Who has done what to which study, as far as it has been entered: about a second after it happened."""
        same = {"who": who, "study_instance_uid": study, "outcome": outcome}
        found = self._audit.list(limit, before, same=same, since=since)
        is_more = len(found) == limit
        return {"count": len(found), "next": found[-1].access_id if is_more else None, "entries": found}
