"""What is asked for once and goes on, as changes that are told: for as long as whoever asked may hear it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.concurrency import run_in_threadpool

from daemon.telemetry import describe, log

_ASK_SECONDS = 30.0


async def run_while(may: Callable[[], bool], running: Awaitable[None]) -> bool:
    """Whether it ended by itself; else it has been cancelled, since ``may`` is no longer true. Raise what it raises.

    ``may`` is asked in another thread, twice a minute. Where it cannot be told, nothing changes.
    """
    task = asyncio.ensure_future(running)
    try:
        while not (await asyncio.wait([task], timeout=_ASK_SECONDS))[0]:
            if not await run_in_threadpool(_or_unknown, may) and not task.done():
                return False
        await task
        return True
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


def _or_unknown(may: Callable[[], bool]) -> bool:
    try:
        return may()
    except Exception as error:  # noqa: BLE001 - the database or the identity provider is away, or worse
        log().warning("right_unknown", **describe(error))
    return True
