"""The sentence: claim, read, look, judge, record.

Films are decoded in child processes, several side by side; the network runs here, on all that are ready. Whatever
happens, a study keeps its place: an outcome is a finding or a reason, and a fault is another attempt, of one film.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from daemon.bell import PostgresBell, SocketBell
from daemon.decoder import Decoder, Look
from daemon.film import decoded, findings
from daemon.kept import Kept
from daemon.leases import Leases, Times
from daemon.line import Line, Looked
from daemon.telemetry import Pseudonym, describe, log
from triage.errors import LostLeaseError, NotAnalysed, Reason
from triage.jobs import PASSING, WAITING, Job, RetryRule
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
# How long a film waits that cannot be read from where it is kept.
READING_PAUSE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Worker:
    """``classifier`` is None while the network cannot be loaded: films then wait, marked as not analysed.

    As many films are decoded at a time as there are ``decoders``; up to ``batch_max`` go through the network together.
    """

    name: str
    queue: Queue
    kept: Kept
    decoders: Sequence[Decoder]
    classifier: Classifier | None
    batch_max: int
    policy: Policy
    rule: RetryRule
    times: Times
    pseudonym: Pseudonym

    def run(self, stop: threading.Event, bell: SocketBell | PostgresBell, seconds: float = float("inf")) -> None:
        """Work until asked to stop, or for so long; the jobs in hand are finished first."""
        end = time.monotonic() + seconds
        with self.line() as line:
            while not stop.is_set() and time.monotonic() < end:
                try:
                    busy = self.take_one(line)
                except DatabaseError as error:
                    log().error("database_unavailable", **describe(error))
                    stop.wait(_DATABASE_PAUSE_SECONDS)
                    continue
                if not busy:
                    bell.wait(LOOK_SECONDS)

    @contextmanager
    def line(self) -> Iterator[Line | None]:
        """What `take_one` puts jobs on, if there is a network; leaving it waits until they are done."""
        if self.classifier is None:
            yield None
            return
        look, conclude = partial(self._look, self.classifier), partial(self._conclude, self.classifier)
        with (
            Leases(self.queue, self.times) as leases,
            Line(self.decoders, leases, look=look, conclude=conclude, most=self.batch_max) as line,
        ):
            yield line

    def take_one(self, line: Line | None) -> bool:
        """Start the next job and return True; False if there is none. Raise DatabaseError."""
        job = self.queue.claim(self.name, self.times.lease_seconds)
        if job is None:
            return False
        if line is None:
            self._defer(job)
        else:
            line.start(job)
        return True

    def _defer(self, job: Job) -> None:
        self.queue.defer(job, Reason.MODEL_UNAVAILABLE, NETWORK_PAUSE_SECONDS)
        log().warning("job_deferred", study=self.pseudonym(job.study_instance_uid), reason=Reason.MODEL_UNAVAILABLE)

    def _look(self, classifier: Classifier, job: Job, decoder: Decoder) -> Look:
        try:
            with self.kept.reading(job.sha256) as path:
                return decoded(path, job.sha256, decoder, classifier.card, self.policy)
        except NotAnalysed as outcome:
            return Look(reason=outcome.reason)
        except Exception as error:  # noqa: BLE001 - one bad film costs one film, never the worker
            log().error("analysis_failed", study=self.pseudonym(job.study_instance_uid), **describe(error))
            return Look(reason=Reason.INTERNAL_ERROR)

    def _conclude(self, classifier: Classifier, batch: list[Looked]) -> None:
        """One pass for all of them; then each is recorded by itself."""
        for looked, finding in zip(batch, self._findings(classifier, batch), strict=True):
            try:
                priority = self._record(looked.job, finding, classifier)
                self._log(looked, finding, priority, len(batch))
            except LostLeaseError:
                study = self.pseudonym(looked.job.study_instance_uid)
                log().warning("lease_lost", study=study, attempts=looked.job.attempts)
            except Exception as error:  # noqa: BLE001 - its lease runs out, and it is tried again; the others go on
                log().error("record_failed", **describe(error))

    def _findings(self, classifier: Classifier, batch: list[Looked]) -> list[Finding]:
        """Where a pass fails as a whole each film goes alone: a fault of one, or too little memory for all."""
        try:
            return findings([each.look for each in batch], classifier)
        except Exception as error:  # noqa: BLE001 - whatever torch raises
            if len(batch) > 1:
                return [finding for each in batch for finding in self._findings(classifier, [each])]
            log().error("analysis_failed", study=self.pseudonym(batch[0].job.study_instance_uid), **describe(error))
            reason = Reason.RESOURCE_EXHAUSTED if isinstance(error, MemoryError) else Reason.INTERNAL_ERROR
            return [Finding(weights_sha256=classifier.card.sha256, reason=reason)]

    def _record(self, job: Job, finding: Finding, classifier: Classifier) -> Priority | None:
        """The study's new priority; None if the job will be tried again."""
        if finding.reason in PASSING:
            return self.queue.fail(job, finding.reason, self.rule)
        if finding.reason in WAITING:
            self.queue.defer(job, finding.reason, READING_PAUSE_SECONDS)
            return None
        return self.queue.finish(job, finding, judge(finding, card=classifier.card, policy=self.policy))

    def _log(self, looked: Looked, finding: Finding, priority: Priority | None, batch: int) -> None:
        """The canonical line of a look at a study."""
        job, seconds = looked.job, time.monotonic() - looked.started
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
            policy=self.policy.version,
        )
