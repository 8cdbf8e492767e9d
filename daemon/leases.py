"""The leases of the jobs in hand: kept alive while the work goes on, but no longer than a job may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from daemon.absence import Absence
from triage.errors import LostLeaseError
from triage.jobs import Job
from triage.records.queue import Queue
from triage.records.store import DatabaseError

# The database is away: leases run on, so they are extended as soon as it is back.
_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long a worker may take, in seconds."""

    lease_seconds: float
    job_seconds: float


class Leases:
    """A thread extends each of them, until the job's time is up: a worker that hangs loses it.

    ``hangs`` is called when a lease has run out so and the job is still in hand: the thread that has it will not come
    back. While the database is away everybody waits, and that is no hanging. The loop that claims jobs does not tell:
    beside a network that hangs it goes on until as many films as a pass takes lie decoded, with few it never stops.
    """

    def __init__(self, queue: Queue, times: Times, absence: Absence, hangs: Callable[[], None] = lambda: None) -> None:
        self._queue, self._times, self._absence, self._hangs = queue, times, absence, hangs
        self._last_away = float("-inf")
        self._deadlines: dict[Job, float] = {}
        self._changed = threading.Condition()
        self._done = threading.Event()
        self._beat = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._beat.join()

    def hold(self, job: Job) -> None:
        with self._changed:
            self._deadlines[job] = time.monotonic() + self._times.job_seconds

    def let_go(self, job: Job) -> None:
        """The job has ended, or whoever wants it may have it."""
        with self._changed:
            self._deadlines.pop(job, None)
            self._changed.notify_all()

    def hand_back(self) -> int:
        """All that are in hand, for others to claim at once; how many. Raise DatabaseError."""
        with self._changed:
            held = list(self._deadlines)
            self._deadlines.clear()
        for job in held:
            self._queue.hand_back(job)
        return len(held)

    def wait_for(self, count: int) -> None:
        """Return when no more than so many jobs are in hand."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._deadlines) <= count)

    def _keep_beating(self) -> None:
        pause = self._times.lease_seconds / 3
        while not self._done.wait(pause):
            with self._changed:
                now = time.monotonic()
                alive = [job for job, deadline in self._deadlines.items() if now < deadline]
                first = min(self._deadlines.values(), default=now)
            if self._absence.is_noticed:
                self._last_away = now
            if now - max(first, self._last_away) > self._times.lease_seconds:
                self._hangs()
            try:
                for job in alive:
                    self._extend(job)
            except DatabaseError as error:
                self._absence.noticed(error)
                pause = min(_AGAIN_SECONDS, pause)
            else:
                pause = self._times.lease_seconds / 3

    def _extend(self, job: Job) -> None:
        """A lease that is lost stays lost: the job's result will be refused."""
        with suppress(LostLeaseError):
            self._queue.heartbeat(job, self._times.lease_seconds)
