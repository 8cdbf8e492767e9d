"""The sentence: claim, read, look, judge, record.

One job at a time. The film is decoded in a child process; the network runs here. Whatever happens, the study keeps its
place: an outcome is a finding or a reason, and a fault is another attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from daemon.bell import PostgresBell, SocketBell
from daemon.decoder import Decoder, Look
from daemon.film import look_at
from daemon.spool import Spool
from daemon.telemetry import Pseudonym, describe, log
from triage.errors import LostLeaseError, Reason
from triage.jobs import PASSING, Job, RetryRule
from triage.policy import Policy, judge
from triage.records.queue import Queue
from triage.records.store import DatabaseError
from triage.study import Finding, Priority
from triage.vision.classifier import Classifier

# A worker looks for itself this often: for retries that have become due, and should a ring have been lost.
LOOK_SECONDS = 1.0
_DATABASE_PAUSE_SECONDS = 1.0
# Without a network: how long a film waits for the next look, and a worker before the network is loaded again.
NETWORK_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long a worker may take, in seconds."""

    lease_seconds: float
    job_seconds: float


@dataclass(frozen=True, kw_only=True)
class Worker:
    """``classifier`` is None while the network cannot be loaded: films then wait, marked as not analysed."""

    name: str
    queue: Queue
    spool: Spool
    decoder: Decoder
    classifier: Classifier | None
    policy: Policy
    rule: RetryRule
    times: Times
    pseudonym: Pseudonym

    def run(self, stop: threading.Event, bell: SocketBell | PostgresBell, seconds: float = float("inf")) -> None:
        """Work until asked to stop, or for so long; the job in hand is finished first."""
        end = time.monotonic() + seconds
        while not stop.is_set() and time.monotonic() < end:
            try:
                busy = self.work_once()
            except DatabaseError as error:
                log().error("database_unavailable", **describe(error))
                stop.wait(_DATABASE_PAUSE_SECONDS)
                continue
            if not busy:
                bell.wait(LOOK_SECONDS)

    def work_once(self) -> bool:
        """Whether there was a job."""
        job = self.queue.claim(self.name, self.times.lease_seconds)
        if job is None:
            return False
        started = time.monotonic()
        with suppress(LostLeaseError), self._beating(job):
            if self.classifier is None:
                self._defer(job)
                return True
            finding, look = self._look(job, self.classifier)
            priority = self._record(job, finding, self.classifier)
            self._log(job, finding, look, priority, time.monotonic() - started)
            return True
        log().warning("lease_lost", study=self.pseudonym(job.study_instance_uid), attempts=job.attempts)
        return True

    def _defer(self, job: Job) -> None:
        self.queue.defer(job, Reason.MODEL_UNAVAILABLE, NETWORK_PAUSE_SECONDS)
        log().warning("job_deferred", study=self.pseudonym(job.study_instance_uid), reason=Reason.MODEL_UNAVAILABLE)

    def _look(self, job: Job, classifier: Classifier) -> tuple[Finding, Look | None]:
        try:
            return look_at(self.spool.path(job.sha256), job.sha256, self.decoder, classifier, self.policy)
        except Exception as error:  # noqa: BLE001 - one bad film costs one film, never the worker
            log().error("analysis_failed", study=self.pseudonym(job.study_instance_uid), **describe(error))
            return Finding(weights_sha256=classifier.card.sha256, reason=Reason.INTERNAL_ERROR), None

    def _record(self, job: Job, finding: Finding, classifier: Classifier) -> Priority | None:
        """The study's new priority; None if the job will be tried again."""
        if finding.reason in PASSING:
            return self.queue.fail(job, finding.reason, self.rule)
        return self.queue.finish(job, finding, judge(finding, card=classifier.card, policy=self.policy))

    @contextmanager
    def _beating(self, job: Job) -> Iterator[None]:
        """Extend the lease while the job makes progress, but not past its time: a worker that hangs loses it."""
        done = threading.Event()
        beat = threading.Thread(target=self._beat, args=(job, done), name="heartbeat", daemon=True)
        beat.start()
        try:
            yield
        finally:
            done.set()
            beat.join()

    def _beat(self, job: Job, done: threading.Event) -> None:
        deadline = time.monotonic() + self.times.job_seconds
        while not done.wait(self.times.lease_seconds / 3) and time.monotonic() < deadline:
            try:
                self.queue.heartbeat(job, self.times.lease_seconds)
            except LostLeaseError:
                return
            except DatabaseError as error:
                log().warning("heartbeat_missed", **describe(error))

    def _log(self, job: Job, finding: Finding, look: Look | None, priority: Priority | None, seconds: float) -> None:
        """The canonical line of a look at a study."""
        log().info(
            "study_ranked" if priority else "job_put_back",
            study=self.pseudonym(job.study_instance_uid),
            outcome=priority.analysis if priority else None,
            reason=finding.reason,
            flagged=priority.flagged if priority else None,
            tier=priority.tier if priority else None,
            attempts=job.attempts,
            queued_seconds=job.queued_seconds,
            decode_seconds=look.seconds if look else None,
            seconds=seconds,
            total_seconds=job.queued_seconds + seconds,
            weights=finding.weights_sha256[:12],
            policy=self.policy.version,
        )
