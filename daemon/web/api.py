"""The JSON interface to the worklist and its studies."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body

from daemon.web.schemas import Limit, MaybeReaderName, ReaderName, Study, Uid, Worklist, failures
from triage.policy import Policy
from triage.records.reading import Reading
from triage.study import Status


class Api:
    """The JSON interface."""

    def __init__(self, reading: Reading, policy: Policy) -> None:
        self._reading = reading
        self._policy = policy

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api", responses=failures(400, 500))
        study = "/studies/{uid}"
        shown: dict[str, Any] = {"response_model": Worklist, "response_description": "First to be read first."}
        router.add_api_route("/worklist", self.worklist, **shown, responses=failures(422, 503))
        one: dict[str, Any] = {
            "response_model": Study,
            "response_description": "Some fields are null once it was read.",
        }
        router.add_api_route(study, self.study, **one, responses=failures(404, 422, 503))
        failing = failures(403, 404, 409, 411, 413, 422, 503)
        changes: dict[str, Any] = {
            "status_code": 204,
            "methods": ["POST"],
            "responses": failing,
            "response_description": "Changed, or so already.",
        }
        router.add_api_route(f"{study}/start", self.start, **changes)
        router.add_api_route(f"{study}/read", self.read, **changes)
        router.add_api_route(f"{study}/release", self.release, **changes)
        return router

    def worklist(self, limit: Limit = None) -> dict[str, Any]:
        """The reading worklist in its order. Show the entries as they come; `why` says why each stands there."""
        entries = self._reading.worklist(limit)
        return {
            "generated_at": datetime.now(UTC),
            "policy_version": self._policy.version,
            "waiting_limit_minutes": self._policy.waiting_limit_minutes,
            "count": len(entries),
            "entries": [asdict(entry) for entry in entries],
        }

    def study(self, uid: Uid) -> dict[str, Any]:
        """One study, read or not. While it is open, with its place on the worklist."""
        study = self._reading.study(uid)
        if study["status"] != Status.READ:
            place = next((entry for entry in self._reading.worklist() if entry.study_instance_uid == uid), None)
            if place:
                return {**study, **asdict(place)}
            study = self._reading.study(uid)  # it was read just now
        return {"rank": None, "waiting_seconds": None, "overdue": None, "why": None, **study}

    def start(self, uid: Uid, body: ReaderName) -> None:
        """The reader takes the study; it stays on the worklist.

        Again by the same reader: says that images which came in the meantime are seen. 409 if another reader holds it,
        or it has been read.
        """
        self._reading.start_reading(uid, body.reader)

    def read(self, uid: Uid, body: Annotated[MaybeReaderName | None, Body()] = None) -> None:
        """The study has been read and leaves the worklist. Again: nothing changes.

        409 if new images have arrived since the reading was started (start it again, then it can be read), or `reader`
        is given and another reader holds it. Without `reader`, who started the study is noted as its reader.
        """
        self._reading.close(uid, _name(body))

    def release(self, uid: Uid, body: Annotated[MaybeReaderName | None, Body()] = None) -> None:
        """Nobody reads the study any more; it goes back to its place.

        409 if it has been read, or `reader` is given and another reader holds it.
        """
        self._reading.release(uid, _name(body))


def _name(body: MaybeReaderName | None) -> str | None:
    return body.reader if body else None
