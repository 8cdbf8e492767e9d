"""What must happen although nobody asks: leases expire, waiting has a limit, files are not kept for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from daemon.arrival import Arrivals, ContradictionError, UnidentifiableError
from daemon.kept import KeptFile, StoredFile, verify
from daemon.spool import Spool
from daemon.telemetry import describe, log
from daemon.turn import OnlyTurn, PostgresTurn
from triage.errors import NotAnalysed
from triage.jobs import RetryRule
from triage.records.intake import known_hashes
from triage.records.postgresql import is_away
from triage.records.queue import Queue
from triage.records.store import Store

# A file may be on disk a moment before its row is committed; after this it is an orphan.
_ORPHAN_SECONDS = 600.0
_LOOK_SECONDS = 1.0
_HOUR_SECONDS = 3600.0
_DAY_SECONDS = 86400.0


@dataclass(frozen=True, kw_only=True)
class Sweeps:
    """Each sweep is safe to run at any time, twice, or never to the end."""

    store: Store
    queue: Queue
    spool: Spool
    arrivals: Arrivals
    ring: Callable[[], None]
    rule: RetryRule
    lease_seconds: float
    pending_seconds: float
    retention_days: float
    free_mib_min: int

    def expire_leases(self) -> None:
        """Jobs of workers that went silent are queued again, or buried after their last attempt."""
        if mended := self.queue.mend_times(self.lease_seconds, self.rule.longest_seconds):
            log().warning("clock_put_back", count=mended)
            self.ring()
        queued, buried = self.queue.expire(self.rule)
        if queued or buried:
            log().warning("leases_expired", queued=queued, buried=buried)
            self.ring()

    def time_out_pending(self) -> None:
        """No study shows "pending" for longer than the limit."""
        count = self.queue.time_out_pending(self.pending_seconds)
        if count:
            log().warning("pending_timed_out", count=count)

    def delete_expired_files(self) -> None:
        """Pixel files past their retention; never of an instance that awaits its analysis."""
        count = 0
        while batch := self.queue.expired_files(self.retention_days):
            for instance_id, sha256, quarantined in batch:
                self.spool.kept.delete(sha256)  # first: if it fails, the next turn tries again
                if quarantined:  # set aside after its row was written, unless a crash came between
                    self.spool.kept.delete(sha256, quarantined=True)
                self.queue.forget_file(instance_id)
            count += len(batch)
        # What could not even be listed has no row that would end its keeping.
        for file in self.spool.kept.files(self.retention_days * _DAY_SECONDS, quarantined=True):
            self.spool.kept.delete(file.sha256, quarantined=True)
            count += 1
        if count:
            log().info("files_deleted", count=count)

    def adopt_orphans(self) -> None:
        """Files that were stored whole but whose row was never committed are listed after all.

        Their sender was not told that they had been stored and may send them again: that is then the same instance.
        """
        found = {file.sha256: file for file in self.spool.kept.files(older_than_seconds=_ORPHAN_SECONDS)}
        orphans = found.keys() - known_hashes(self.store, list(found))
        adopted = sum(self._adopt(found[sha256]) for sha256 in orphans)
        if adopted:
            log().warning("orphans_adopted", count=adopted)
            self.ring()

    def _adopt(self, orphan: KeptFile) -> bool:
        """Whether it could be read, and is what its name says."""
        try:
            with self.spool.kept.reading(orphan.sha256) as path:
                verify(path, orphan.sha256)
                stored = StoredFile(path=path, sha256=orphan.sha256, size_bytes=orphan.size_bytes)
                with suppress(ContradictionError, UnidentifiableError):
                    self.arrivals.admit(stored)
        except NotAnalysed as outcome:
            log().warning("orphan_unreadable", reason=outcome.reason)
            return False
        return True

    def watch_disk(self) -> None:
        """A word before the receiver starts to refuse."""
        free_mib = self.spool.free_mib()
        if free_mib < self.free_mib_min * 2:
            log().warning("disk_low", free_mib=free_mib)


def run(
    sweeps: Sweeps,
    turn: OnlyTurn | PostgresTurn,
    sweep_seconds: float,
    stop: threading.Event,
    grace_seconds: float = 0.0,
) -> None:
    """Run the sweeps, one at a time, while it is our turn, until asked to stop.

    A sweep that fails is tried again at its next turn. Leases are left alone for ``grace_seconds`` at first: whoever
    held them may have been cut off from the database as we were, and extends them as soon as it is back.
    """
    while turn.wait(stop):
        scheduler = _scheduler(sweeps, sweep_seconds, grace_seconds)
        scheduler.start()
        while not stop.wait(_LOOK_SECONDS) and turn.is_ours():
            continue
        scheduler.shutdown(wait=True)
    turn.give_up()


def _scheduler(sweeps: Sweeps, sweep_seconds: float, grace_seconds: float) -> BackgroundScheduler:
    """Each sweep once at its start, then at its interval."""
    scheduler = BackgroundScheduler(
        timezone="UTC",
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
    now = datetime.now(UTC)
    for sweep, seconds, wait in (
        (sweeps.expire_leases, sweep_seconds, grace_seconds),
        (sweeps.time_out_pending, sweep_seconds, 0.0),
        (sweeps.watch_disk, 60.0, 0.0),
        (sweeps.delete_expired_files, _HOUR_SECONDS, 0.0),
        (sweeps.adopt_orphans, _ORPHAN_SECONDS, 0.0),
    ):
        first = now + timedelta(seconds=wait)
        scheduler.add_job(_guarded(sweep), "interval", seconds=seconds, next_run_time=first)
    return scheduler


def _guarded(sweep: Callable[[], None]) -> Callable[[], None]:
    def guarded() -> None:
        try:
            sweep()
        except Exception as error:  # noqa: BLE001 - the next turn tries again
            if is_away(error):
                return  # whoever keeps the turn says so, once
            log().error("sweep_failed", count=1, outcome=sweep.__name__, **describe(error))

    return guarded
