"""Tells browsers that something has happened, the moment it does: server-sent events.

One look at the database every half second serves all viewers, and none is taken while nobody watches. What happened is
not told, only that the list is worth fetching again: no event holds a word of a patient.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from daemon.telemetry import describe, log
from daemon.web.schemas import failures
from triage.errors import BusyError
from triage.records.history import History
from triage.records.store import DatabaseError

VIEWERS_MAX = 1500
_LOOK_SECONDS = 0.5
_AGAIN_SECONDS = 5.0
# No viewer is told more often than that: a burst of films is one change.
_PAUSE_SECONDS = 0.5

LastEventId = Annotated[str | None, Header(max_length=64, description="The id of the last event that was heard.")]


class Changes:
    """Everything here but ``close`` runs in the server's event loop."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._version: str | None = None  # None while nobody watches
        self._news = asyncio.Event()  # set, and another put in its place, whenever there are
        self._viewers = 0
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    def router(self) -> APIRouter:
        router = APIRouter(responses=failures(400, 500))
        stream: dict[str, Any] = {
            "response_class": EventSourceResponse,
            "response_description": "Events `changed`, with the worklist's `version` as id and in data.",
            "dependencies": [Depends(self._admit)],
        }
        router.add_api_route("/api/changes", self.changes, **stream, responses=failures(422, 503))
        return router

    async def changes(self, last_event_id: LastEventId = None) -> AsyncIterator[ServerSentEvent]:
        """Server-sent events: one at once, then one whenever something has happened to a study, half a second
        apart or more.

        Fetch the worklist anew at each; also now and then without one, for waiting times run on. With Last-Event-ID
        the first comes when there is news since. A comment every 15 s keeps the connection alive.
        """
        self._viewers += 1
        try:
            self._look()
            seen = last_event_id
            while not self._is_closed:
                news = self._news
                if self._version in (None, seen):
                    await news.wait()
                else:
                    seen = self._version
                    yield ServerSentEvent(event="changed", id=seen, data={"version": seen})
                    await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            self._viewers -= 1

    def close(self) -> None:
        """Let every stream end; from any thread."""
        self._is_closed = True
        if self._looking is not None:
            self._looking.get_loop().call_soon_threadsafe(self._tell)

    async def _admit(self) -> None:
        if self._viewers >= VIEWERS_MAX:
            raise BusyError("too many viewers are told of changes already")

    def _look(self) -> None:
        if self._looking is None or self._looking.done():
            self._version = None  # what was last seen is old by now
            self._looking = asyncio.create_task(self._look_on())

    async def _look_on(self) -> None:
        """Until the last viewer has gone."""
        while self._viewers and not self._is_closed:
            try:
                version = await asyncio.to_thread(self._history.version)
            except DatabaseError as error:
                log().warning("changes_unknown", **describe(error))
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            if version != self._version:
                self._version = version
                self._tell()
            await asyncio.sleep(_LOOK_SECONDS)

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
