"""Channels to subscribers (PS3.18 8.10, 11.13): a WebSocket over which State Reports go as they come.

What has been told is noted a moment after it was sent, if the channel is open still: who was cut off is told again,
rather twice than never. The standard has no answer that a subscriber could give.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool

from daemon.dicom.workitem import UPS_PUSH, event_information, event_type
from daemon.telemetry import describe, log
from daemon.web.shield import is_foreign
from triage.records.store import DatabaseError
from triage.records.subscriptions import Batch, Notice, Subscriptions

CHANNELS_MAX = 64
_LOOK_SECONDS = 0.5
_ARRIVAL_SECONDS = 0.05
# Another channel or process tells the same subscriber nothing meanwhile.
_TURN_SECONDS = 30.0
_POLICY_VIOLATION, _TRY_AGAIN = 1008, 1013


@dataclass(kw_only=True)
class Channels:
    """All that are open in this process."""

    subscriptions: Subscriptions
    open: int = 0
    _messages: count[int] = field(default_factory=lambda: count(1))

    async def serve(self, websocket: WebSocket, ae_title: str) -> None:
        if is_foreign(websocket.headers) or self.open >= CHANNELS_MAX:
            await websocket.close(_TRY_AGAIN if self.open >= CHANNELS_MAX else _POLICY_VIOLATION)
            return
        self.open += 1
        try:
            await websocket.accept()
            await self._tell(websocket, ae_title)
        finally:
            self.open -= 1

    async def _tell(self, websocket: WebSocket, ae_title: str) -> None:
        """Until the subscriber has gone; whatever it says is passed over."""
        ended = asyncio.create_task(_heard_out(websocket))
        try:
            while not ended.done():
                if not await self._tell_batch(websocket, ae_title, ended):
                    await asyncio.wait([ended], timeout=_LOOK_SECONDS)
        except (WebSocketDisconnect, RuntimeError):
            return  # it went while it was told something
        finally:
            ended.cancel()

    async def _tell_batch(self, websocket: WebSocket, ae_title: str, ended: asyncio.Task[None]) -> bool:
        """Whether there may be more at once."""
        try:
            batch = await run_in_threadpool(self._due, ae_title)
        except DatabaseError as error:
            log().error("database_unavailable", **describe(error))
            return False
        if batch is None:
            return False
        try:
            if not ended.done():
                for notice in batch.notices:
                    await websocket.send_text(json.dumps(self._message(notice)))
                await asyncio.wait([ended], timeout=_ARRIVAL_SECONDS)
            if not ended.done():
                await run_in_threadpool(self.subscriptions.told, ae_title, batch)
        finally:
            await asyncio.shield(run_in_threadpool(self.subscriptions.end_turn, ae_title))
        return not batch.is_last

    def _due(self, ae_title: str) -> Batch | None:
        if self.subscriptions.due(ae_title) is None or not self.subscriptions.take_turn(ae_title, _TURN_SECONDS):
            return None
        return self.subscriptions.due(ae_title)

    def _message(self, notice: Notice) -> dict[str, Any]:
        """The event's command set and information in one (PS3.18 8.10.5)."""
        return {
            "00000002": {"vr": "UI", "Value": [UPS_PUSH]},
            "00000110": {"vr": "US", "Value": [next(self._messages) % 65536]},
            "00001000": {"vr": "UI", "Value": [notice.workitem_uid]},
            "00001002": {"vr": "US", "Value": [event_type(notice)]},
            **event_information(notice).to_json_dict(),
        }


async def _heard_out(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
