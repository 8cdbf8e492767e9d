"""What must happen although nobody asks: leases expire, waiting has a limit, files are not kept for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from daemon import metrics
from daemon.adoption import Adoption
from daemon.arrival import Arrivals
from daemon.gauges import Gauges
from daemon.spool import Spool
from daemon.telemetry import describe, log
from daemon.turn import OnlyTurn, PostgresTurn
from triage.jobs import RetryRule
from triage.records.overdue import Overdue
from triage.records.postgresql import is_away
from triage.records.processes import Processes
from triage.records.queue import Queue
from triage.records.store import Store
from triage.records.waiting import Waiting
from triage.user import Access

# A file may be on disk a moment before its row is committed; after this it is an orphan.
_ORPHAN_SECONDS = 600.0
_LOOK_SECONDS = 1.0
_HOUR_SECONDS = 3600.0
_DAY_SECONDS = 86400.0
# A list that is ahead of the clock for longer is what is wrong of the two.
_AHEAD_SECONDS = 600.0


class Lasting:
    """For how long something has been so, by a clock that nobody sets."""

    def __init__(self) -> None:
        self._since: float | None = None

    def seconds(self, *, is_so: bool) -> float:
        """0 where it is not, or has just begun."""
        now = time.monotonic()
        self._since = (now if self._since is None else self._since) if is_so else None
        return 0.0 if self._since is None else now - self._since


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
    gauges: Gauges
    note: Callable[[Access], None] = lambda _access: None
    ahead: Lasting = field(default_factory=Lasting)

    def show_state(self) -> None:
        """For those who watch."""
        self.gauges.show()

    def forget_processes(self) -> None:
        """That ended without a word."""
        Processes(self.store).forget()

    def expire_leases(self) -> None:
        """Jobs of workers that went silent are queued again, or buried after their last attempt."""
        if mended := self.queue.mend_times(self.lease_seconds, self.rule.longest_seconds):
            log().warning("clock_put_back", count=mended)
            self.ring()
        queued, buried = self.queue.expire(self.rule)
        if queued or buried:
            log().warning("leases_expired", queued=queued, buried=buried)
            metrics.LEASES_EXPIRED.labels("queued").inc(queued)
            metrics.LEASES_EXPIRED.labels("buried").inc(buried)
            self.ring()

    def mend_waiting(self) -> None:
        """Studies that wait since a time still to come; but a clock that is behind for a moment changes nothing."""
        waiting = Waiting(self.store)
        if self.ahead.seconds(is_so=waiting.is_ahead()) > _AHEAD_SECONDS:
            log().warning("waiting_put_back", count=waiting.mend())

    def note_overdue(self) -> None:
        """They are higher on the list from the moment on; here their history and whoever watches are told."""
        if count := Overdue(self.store).note():
            log().info("studies_overdue", count=count)

    def time_out_pending(self) -> None:
        """No study shows "pending" for longer than the limit."""
        count = self.queue.time_out_pending(self.pending_seconds)
        if count:
            log().warning("pending_timed_out", count=count)
            metrics.TIMED_OUT.inc(count)

    def delete_expired_files(self) -> None:
        """Pixel files past their retention; never of an instance that awaits its analysis."""
        count = 0
        while batch := self.queue.expired_files(self.retention_days):
            studies: set[str] = set()
            try:
                for instance_id, study, sha256, quarantined in batch:
                    self.spool.kept.delete(sha256)  # first: if it fails, the next turn tries again
                    studies.add(study)
                    if quarantined:  # set aside after its row was written, unless a crash came between
                        self.spool.kept.delete(sha256, quarantined=True)
                    self.queue.forget_file(instance_id)
            finally:
                self._note_deleted(studies)
            count += len(batch)
        # What could not even be listed has no row that would end its keeping.
        for file in self.spool.kept.files(self.retention_days * _DAY_SECONDS, quarantined=True):
            self.spool.kept.delete(file.sha256, quarantined=True)
            count += 1
        if count:
            log().info("files_deleted", count=count)

    def _note_deleted(self, studies: Collection[str]) -> None:
        for uid in studies:
            self.note(Access(at=datetime.now(UTC), who="retention", verb="delete", study_instance_uid=uid))

    def adopt_orphans(self) -> None:
        """Files that were stored whole but whose row was never committed are listed after all.

        Their sender was not told that they had been stored and may send them again: that is then the same instance.
        """
        adoption = Adoption(store=self.store, kept=self.spool.kept, arrivals=self.arrivals)
        adopted = sum(adoption.adopt_all(adoption.orphans(older_than_seconds=_ORPHAN_SECONDS)))
        if adopted:
            log().warning("orphans_adopted", count=adopted)
            self.ring()

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
    *,
    grace_seconds: float = 0.0,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Run the sweeps while it is our turn, until asked to stop: one at a time, and beside it one of those over files.

    A sweep that fails is tried again at its next turn. Leases are left alone for ``grace_seconds`` at first: whoever
    held them may have been cut off from the database as we were, and extends them as soon as it is back.
    """
    while turn.wait(stop, beat):
        metrics.SWEEPING.set(1)
        scheduler = _scheduler(sweeps, sweep_seconds, grace_seconds)
        scheduler.start()
        lead = _lead()
        while not stop.wait(_LOOK_SECONDS) and turn.is_ours():
            beat()
            lead = _followed(scheduler, lead)
        scheduler.shutdown(wait=True)
        sweeps.gauges.hide()
        metrics.SWEEPING.set(0)
    turn.give_up()


def _scheduler(sweeps: Sweeps, sweep_seconds: float, grace_seconds: float) -> BackgroundScheduler:
    """Each sweep once at its start, then at its interval."""
    scheduler = BackgroundScheduler(
        timezone="UTC",
        # Thousands of films in a bucket take hours: meanwhile leases have to expire.
        executors={"default": ThreadPoolExecutor(1), "files": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
    now = datetime.now(UTC)
    for sweep, seconds, wait in (
        (sweeps.expire_leases, sweep_seconds, grace_seconds),
        (sweeps.note_overdue, sweep_seconds, 0.0),
        (sweeps.time_out_pending, sweep_seconds, 0.0),
        (sweeps.show_state, sweep_seconds, 0.0),
        (sweeps.mend_waiting, 60.0, 0.0),
        (sweeps.watch_disk, 60.0, 0.0),
        (sweeps.forget_processes, _HOUR_SECONDS, 0.0),
        (sweeps.delete_expired_files, _HOUR_SECONDS, 0.0),
        (sweeps.adopt_orphans, _ORPHAN_SECONDS, 0.0),
    ):
        first = now + timedelta(seconds=wait)
        executor = "files" if sweep in (sweeps.delete_expired_files, sweeps.adopt_orphans) else "default"
        scheduler.add_job(_guarded(sweep), "interval", seconds=seconds, next_run_time=first, executor=executor)
    return scheduler


def _lead() -> float:
    """Of the wall clock over the one that nobody sets, in seconds."""
    return time.time() - time.monotonic()


def _followed(scheduler: BackgroundScheduler, lead: float) -> float:
    """The lead now. APScheduler goes by the wall clock: put back an hour, no sweep would come for that hour."""
    now = _lead()
    if now < lead - _LOOK_SECONDS:
        for job in scheduler.get_jobs():
            job.modify(next_run_time=job.next_run_time - timedelta(seconds=lead - now))
    return now


def _guarded(sweep: Callable[[], None]) -> Callable[[], None]:
    def guarded() -> None:
        try:
            sweep()
        except Exception as error:  # noqa: BLE001 - the next turn tries again
            if is_away(error):
                return  # whoever keeps the turn says so, once
            metrics.SWEEP_FAILURES.labels(sweep.__name__).inc()
            log().error("sweep_failed", count=1, outcome=sweep.__name__, **describe(error))

    return guarded
