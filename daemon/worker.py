"""The sentence: claim, read, look, judge, record.

Films are decoded in child processes, several side by side; the network runs here, on all that are ready. Whatever
happens, a study keeps its place: an outcome is a finding or a reason, and a fault is another attempt, of one film.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from daemon import metrics
from daemon.absence import Absence
from daemon.bell import PostgresBell, SocketBell
from daemon.decoder import Decoder, Look
from daemon.film import decoded, findings
from daemon.kept import Kept
from daemon.leases import Leases, Times
from daemon.lifecycle import EXIT_AGAIN
from daemon.line import Line, Looked
from daemon.tally import count_look
from daemon.telemetry import Pseudonym, describe, log
from triage.errors import CardMismatchError, LostLeaseError, NotAnalysed, Reason, StudyNotFoundError
from triage.jobs import PASSING, WAITING, Job, RetryRule
from triage.policy import judge
from triage.records.queue import Queue, Result
from triage.records.store import DatabaseError
from triage.study import Finding, Priority
from triage.vision.classifier import Classifier
from triage.vision.golden import refuse_wrong

# A worker looks for itself this often: for retries that have become due, and should a ring have been lost.
LOOK_SECONDS = 1.0
_DATABASE_PAUSE_SECONDS = 1.0
# Without a network: how long a film waits for the next look, and a worker before the network is loaded again.
NETWORK_PAUSE_SECONDS = 30.0
# What is in hand when the worker is asked to stop may take so long; `triage serve` kills after 20 s.
FAREWELL_SECONDS = 10.0
# How long a film waits that cannot be read from where it is kept.
READING_PAUSE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Worker:
    """``classifier`` is None while the network cannot be loaded: films then wait, marked as not analysed.

    As many films are decoded at a time as there are ``decoders``; up to ``batch_max`` go through the network together.
    ``hangs``: see `daemon.leases`.
    """

    name: str
    queue: Queue
    kept: Kept
    decoders: Sequence[Decoder]
    classifier: Classifier | None
    batch_max: int
    rule: RetryRule
    times: Times
    pseudonym: Pseudonym
    absence: Absence
    hangs: Callable[[], None] = lambda: None
    ring: Callable[[], None] = lambda: None

    def run(self, stop: threading.Event, bell: SocketBell | PostgresBell, seconds: float = float("inf")) -> None:
        """Work until asked to stop, or for so long; the jobs in hand are finished first."""
        end = time.monotonic() + seconds
        with self.line(stop) as line:
            while not stop.is_set() and time.monotonic() < end:
                self.absence.beat()
                try:
                    busy = self.take(line)
                except DatabaseError as error:
                    self.absence.noticed(error)
                    stop.wait(_DATABASE_PAUSE_SECONDS)
                    continue
                self.absence.over()
                if not busy:
                    bell.wait(LOOK_SECONDS)

    @contextmanager
    def line(self, stop: threading.Event | None = None) -> Iterator[Line | None]:
        """What `take` puts jobs on, if there is a network; leaving it waits until they are done.

        Once ``stop`` is set they have some seconds for it: what is not done then is handed back, and the process ends.
        """
        if self.classifier is None:
            yield None
            return
        look = partial(self._look, self.classifier)
        with Leases(self.queue, self.times, self.absence, self.hangs) as leases, self._farewell(stop, leases):
            conclude = partial(self._conclude, self.classifier, leases)
            with Line(self.decoders, leases, look=look, conclude=conclude, most=self.batch_max) as line:
                yield line

    @contextmanager
    def _farewell(self, stop: threading.Event | None, leases: Leases) -> Iterator[None]:
        """Left once no job is in hand. A thread sees to it that this does not take for ever."""
        done = threading.Event()
        if stop is not None:
            threading.Thread(target=self._see_off, args=(stop, done, leases), name="farewell", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _see_off(self, stop: threading.Event, done: threading.Event, leases: Leases) -> None:
        while not stop.wait(LOOK_SECONDS):
            if done.is_set():
                return
        if not done.wait(FAREWELL_SECONDS):
            self._leave(leases, 0)

    def _leave(self, leases: Leases, exit_code: int) -> None:
        """What hangs cannot be told to end, so the process ends around it. The decoders' children end with it."""
        try:
            count = leases.hand_back()
            log().warning("jobs_handed_back", count=count)
            self.ring()
        except DatabaseError as error:
            log().error("jobs_not_handed_back", **describe(error))  # their leases run out
        os._exit(exit_code)

    def take(self, line: Line | None) -> bool:
        """Start as many jobs as decoders are free; False if there is none. Raise DatabaseError."""
        most = line.wait_free() if line else 1
        taken = self.queue.claim(self.name, self.times.lease_seconds, most)
        for job in taken:
            if line is None:
                self._defer(job)
            else:
                line.start(job)
        return bool(taken)

    def _defer(self, job: Job) -> None:
        try:
            self.queue.defer(job, Reason.MODEL_UNAVAILABLE, NETWORK_PAUSE_SECONDS)
        except (StudyNotFoundError, LostLeaseError):  # purged, or given away, since it was claimed
            self._log_lost(job)
            return
        log().warning("job_deferred", study=self.pseudonym(job.study_instance_uid), reason=Reason.MODEL_UNAVAILABLE)

    def _look(self, classifier: Classifier, job: Job, decoder: Decoder) -> Look:
        try:
            with self.kept.reading(job.sha256) as path:
                return decoded(path, job.sha256, decoder, classifier.card, self.queue.policy)
        except NotAnalysed as outcome:
            return Look(reason=outcome.reason)
        except Exception as error:  # noqa: BLE001 - one bad film costs one film, never the worker
            log().error("analysis_failed", study=self.pseudonym(job.study_instance_uid), **describe(error))
            return Look(reason=Reason.INTERNAL_ERROR)

    def _conclude(self, classifier: Classifier, leases: Leases, batch: list[Looked]) -> None:
        """One pass for all of them, and one transaction; what is to be tried again goes back by itself."""
        self.absence.beat()
        pairs = list(zip(batch, self._findings(classifier, batch), strict=True))
        for looked, finding in pairs:
            if finding.reason in PASSING | WAITING:
                self._put_back(looked, finding, len(batch))
        others = [pair for pair in pairs if pair[1].reason not in PASSING | WAITING]
        self._record(classifier, others, len(batch))
        if any(finding.reason is Reason.INTERNAL_ERROR and looked.look.pixels is not None for looked, finding in pairs):
            self._leave_if_lost(classifier, leases)

    def _leave_if_lost(self, classifier: Classifier, leases: Leases) -> None:
        """A GPU that has failed once answers this process nothing more. The next one sees whether it has come back."""
        try:
            refuse_wrong(classifier)
        except CardMismatchError as error:
            log().error("network_lost", problem=str(error))
            self._leave(leases, EXIT_AGAIN)

    def _put_back(self, looked: Looked, finding: Finding, batch: int) -> None:
        reason = finding.reason or Reason.INTERNAL_ERROR
        try:
            if reason in WAITING:
                self.absence.outlast(lambda: self.queue.defer(looked.job, reason, READING_PAUSE_SECONDS))
                priority = None
            else:
                priority = self.absence.outlast(lambda: self.queue.fail(looked.job, reason, self.rule))
            self._log(looked, finding, priority, batch)
        except (StudyNotFoundError, LostLeaseError):
            self._log_lost(looked.job)
        except Exception as error:  # noqa: BLE001 - its lease runs out, and it is tried again; the others go on
            metrics.JOBS.labels("record_failed").inc()
            log().error("record_failed", **describe(error))

    def _record(self, classifier: Classifier, pairs: list[tuple[Looked, Finding]], batch: int) -> None:
        """Together; where that fails each by itself, so that none takes others along."""
        if not pairs:
            return
        results = [
            Result(
                job=looked.job, finding=finding, priority=judge(finding, card=classifier.card, policy=self.queue.policy)
            )
            for looked, finding in pairs
        ]
        try:
            priorities = self.absence.outlast(lambda: self.queue.finish(results))
        except Exception as error:  # noqa: BLE001 - its lease runs out, and it is tried again; the others go on
            if len(pairs) > 1:
                for pair in pairs:
                    self._record(classifier, [pair], batch)
            else:
                metrics.JOBS.labels("record_failed").inc()
                log().error("record_failed", **describe(error))
            return
        for (looked, finding), priority in zip(pairs, priorities, strict=True):
            if priority is None:
                self._log_lost(looked.job)
            else:
                self._log(looked, finding, priority, batch)

    def _log_lost(self, job: Job) -> None:
        metrics.JOBS.labels("lease_lost").inc()
        log().warning("lease_lost", study=self.pseudonym(job.study_instance_uid), attempts=job.attempts)

    def _findings(self, classifier: Classifier, batch: list[Looked]) -> list[Finding]:
        """Where a pass fails as a whole each film goes alone: a fault of one, or too little memory for all."""
        try:
            return _through_network([each.look for each in batch], classifier)
        except Exception as error:  # noqa: BLE001 - whatever torch raises
            if len(batch) > 1:
                return [finding for each in batch for finding in self._findings(classifier, [each])]
            log().error("analysis_failed", study=self.pseudonym(batch[0].job.study_instance_uid), **describe(error))
            reason = Reason.RESOURCE_EXHAUSTED if isinstance(error, MemoryError) else Reason.INTERNAL_ERROR
            return [Finding(weights_sha256=classifier.card.sha256, reason=reason)]

    def _log(self, looked: Looked, finding: Finding, priority: Priority | None, batch: int) -> None:
        """The canonical line of a look at a study, and its numbers."""
        job, seconds = looked.job, time.monotonic() - looked.started
        count_look(looked, finding, priority, job.queued_seconds + seconds)
        log().info(
            "study_ranked" if priority else "job_put_back",
            study=self.pseudonym(job.study_instance_uid),
            outcome=priority.analysis if priority else None,
            reason=finding.reason,
            flagged=priority.flagged if priority else None,
            tier=priority.tier if priority else None,
            attempts=job.attempts,
            queued_seconds=job.queued_seconds,
            decode_seconds=looked.look.seconds,
            batch=batch,
            seconds=seconds,
            total_seconds=job.queued_seconds + seconds,
            weights=finding.weights_sha256[:12],
            policy=self.queue.policy.version,
        )


def _through_network(looks: Sequence[Look], classifier: Classifier) -> list[Finding]:
    films = sum(look.pixels is not None for look in looks)
    if not films:
        return findings(looks, classifier)
    metrics.BATCH.observe(films)
    with metrics.NETWORK_SECONDS.time():
        return findings(looks, classifier)
