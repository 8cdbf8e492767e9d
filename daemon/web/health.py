"""Whether the daemon lives, and what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from daemon.telemetry import describe, log
from daemon.web.schemas import BUSY, NOT_READY, Liveness, Readiness, failures
from triage.records.queue import Queue
from triage.records.store import DatabaseError

Ready = Callable[[], dict[str, Any]]
_DATABASE_MISSING = "The database does not answer."


class Health:
    """``ready`` may raise: then the state is said to be unknown."""

    def __init__(self, queue: Queue, ready: Ready) -> None:
        self._queue = queue
        self._ready = ready

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/health", responses=failures(400, 500))
        router.add_api_route("/live", self.live, response_description="It does.", responses=BUSY)
        ready: dict[str, Any] = {"response_model": Readiness, "response_description": "Nothing is missing."}
        router.add_api_route("/ready", self.ready, **ready, responses=NOT_READY)
        return router

    def live(self) -> Liveness:
        """Whether the server answers; nothing else is asked."""
        return Liveness(live=True)

    def ready(self, response: Response) -> dict[str, Any]:
        """Whether films are received, analysed and shown, what is missing if not, and the jobs that wait."""
        state = self.state()
        try:
            state["jobs"] = self._queue.depth()
        except DatabaseError:
            state |= {"ready": False, "missing": state["missing"] or [_DATABASE_MISSING]}
        if not state["ready"]:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return state

    def state(self) -> dict[str, Any]:
        """{"ready": bool, "missing": [sentence, ...]} at least. Never raises."""
        try:
            state = self._ready()
            return {**state, "ready": bool(state["ready"]), "missing": list(state["missing"])}
        except DatabaseError as error:
            log().error("database_unavailable", **describe(error))
            return {"ready": False, "missing": [_DATABASE_MISSING]}
        except Exception as error:  # noqa: BLE001 - whatever ails the daemon, the worklist is still shown
            log().error("readiness_unknown", **describe(error))
            return {"ready": False, "missing": ["The state of the daemon is not known."]}
