"""The JSON interface to the worklist and its studies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request

from daemon.web.bodies import ClosingBody, OpinionBody, Opinions, PriorityBody, Requeued, StudyEvents
from daemon.web.filters import Filters
from daemon.web.schemas import MaybeReaderName, ReaderName, Study, Uid, Worklist, failures
from daemon.web.who import who
from triage.errors import ConflictError
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.study import ClinicalPriority, Status

_MaybeReader = Annotated[MaybeReaderName | None, Body()]
_Closing = Annotated[ClosingBody | None, Body()]


class Api:
    """``ring`` wakes the workers when a job was queued."""

    def __init__(self, reading: Reading, queue: Queue, ring: Callable[[], None]) -> None:
        self._reading = reading
        self._queue = queue
        self._ring = ring

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api", responses=failures(400, 500))
        study = "/studies/{uid}"
        shown: dict[str, Any] = {"response_model": Worklist, "response_description": "In the order asked for."}
        router.add_api_route("/worklist", self.worklist, **shown, responses=failures(422, 503))
        one: dict[str, Any] = {
            "response_model": Study,
            "response_description": "Some fields are null once it was read.",
        }
        router.add_api_route(study, self.study, **one, responses=failures(404, 422, 503))
        said: dict[str, Any] = {"response_description": "From the first to the last."}
        router.add_api_route(f"{study}/events", self.events, **said, responses=failures(404, 422, 503))
        summed: dict[str, Any] = {"response_description": "Counts, and the share of those that agree."}
        router.add_api_route("/opinions", self.opinions, **summed, responses=failures(503))
        self._add_changes(router, study)
        return router

    def _add_changes(self, router: APIRouter, study: str) -> None:
        failing = failures(403, 404, 409, 411, 413, 422, 503)
        changes: dict[str, Any] = {"status_code": 204, "response_description": "Changed, or so already."}
        posts: dict[str, Callable[..., None]] = {
            "start": self.start,
            "read": self.read,
            "release": self.release,
            "reopen": self.reopen,
        }
        puts: dict[str, Callable[..., None]] = {"clinical-priority": self.prioritise, "opinion": self.opine}
        for verb, change in posts.items():
            router.add_api_route(f"{study}/{verb}", change, methods=["POST"], responses=failing, **changes)
        for noun, change in puts.items():
            router.add_api_route(f"{study}/{noun}", change, methods=["PUT"], responses=failing, **changes)
        without_conflict = failures(403, 404, 411, 413, 422, 503)
        queued: dict[str, Any] = {"status_code": 202, "response_description": "Queued."}
        router.add_api_route(
            f"{study}/reanalyse", self.reanalyse, methods=["POST"], responses=without_conflict, **queued
        )

    # -- what is shown ---------------------------------------------------------------------------------------------

    def worklist(self, filters: Annotated[Filters, Query()]) -> dict[str, Any]:
        """The reading worklist in its order. Show the entries as they come; `why` says why each stands there.

        Without parameters it is all of it. While pages are asked for, studies go on moving: `version` tells whether
        any has.
        """
        version = self._reading.history.version()
        page = self._reading.listing.page(filters.asked())
        return {
            "generated_at": datetime.now(UTC),
            "policy_version": self._queue.policy.version,
            "waiting_limit_minutes": self._queue.policy.waiting_limit_minutes,
            "version": version,
            "count": len(page.entries),
            "total": page.total,
            "entries": [asdict(entry) for entry in page.entries],
            "next_cursor": page.cursor,
        }

    def study(self, uid: Uid) -> dict[str, Any]:
        """One study, read or not. While it is open, with its place on the worklist."""
        study = self._reading.study(uid)
        if study["status"] != Status.READ:
            place = self._reading.listing.entry(uid)
            if place:
                return {**study, **asdict(place)}
            study = self._reading.study(uid)  # it was read just now
        return {"rank": None, "waiting_seconds": None, "overdue": None, "why": None, **study}

    def events(self, uid: Uid) -> StudyEvents:
        """What has happened to the study, with the places that it moved between; at most the last 1,000 of a kind."""
        self._reading.study(uid)
        events = self._reading.history.of_study(uid)
        return StudyEvents.model_validate({"events": [asdict(event) for event in events]})

    def opinions(self) -> Opinions:
        """What readers think of the flags of this site, as far as they have said."""
        return Opinions.of(self._reading.opinions())

    # -- what is changed -------------------------------------------------------------------------------------------

    def start(self, request: Request, uid: Uid, body: ReaderName) -> None:
        """The reader takes the study; it stays on the worklist.

        Again by the same reader: says that images which came in the meantime are seen. 409 if another reader holds it,
        or it has been read.
        """
        self._reading.start_reading(uid, who(request, body.reader))

    def read(self, request: Request, uid: Uid, body: _Closing = None) -> None:
        """The study has been read and leaves the worklist. Again: nothing changes.

        409 if new images have arrived since the reading was started (start it again, then it can be read), or another
        reader holds it. With `anyway`, or from nobody known, who started the study is noted as its reader; in the audit
        stands who said so.
        """
        try:
            self._reading.close(uid, _who(request, body))
        except ConflictError:
            if not (body and body.anyway):
                raise
            self._reading.close(uid)  # refuses again where there are new images

    def release(self, request: Request, uid: Uid, body: _Closing = None) -> None:
        """Nobody reads the study any more; it goes back to its place.

        409 if it has been read, or another reader holds it; with `anyway`, also then, and the history says who did it.
        """
        self._reading.release(uid, _who(request, body), insists=bool(body and body.anyway))

    def reopen(self, request: Request, uid: Uid, body: _Closing = None) -> None:
        """It has not been read after all: it goes back to its place, as if it had waited all the time.

        409 if it is on the worklist.
        """
        self._reading.reopen(uid, _who(request, body) or "")

    def prioritise(self, request: Request, uid: Uid, body: PriorityBody) -> None:
        """How urgent people say that the order is: the first term of its place. 409 if it has been read."""
        priority = ClinicalPriority[body.clinical_priority]
        self._reading.prioritise(uid, priority, who(request, body.reader), "the interface")

    def opine(self, request: Request, uid: Uid, body: OpinionBody) -> None:
        """What a reader thinks of the analysis; it changes no place. 409 if the study was not analysed."""
        self._reading.opine(uid, who(request, body.reader), body.opinion)

    def reanalyse(self, request: Request, uid: Uid, body: _MaybeReader = None) -> Requeued:
        """The study's films are looked at again. What was found stays, and can only be added to."""
        count = self._queue.look_again(uid, who(request, body.reader if body else None))
        self._ring()
        return Requeued(films=count)


def _who(request: Request, body: MaybeReaderName | None) -> str | None:
    """None where nobody is named: then it is not asked who holds the study."""
    return who(request, body.reader if body else None) or None
