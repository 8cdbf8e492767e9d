"""The jobs in the database: claim, heartbeat, finish, expire. See `triage/jobs.py` for the states.

Every change of a leased job names its token; a worker whose lease was given away changes nothing (LostLeaseError).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from secrets import token_hex
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, case, func, literal_column, select, tuple_, update
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.sql.elements import ColumnElement

from triage import policy as rules
from triage.errors import LostLeaseError, Reason
from triage.jobs import Job, JobState, RetryRule, retry_after
from triage.policy import Policy
from triage.records.history import History
from triage.records.store import JOBS_CHANNEL, Store, has_open_job
from triage.records.tables import IS_LEASED, IS_OPEN, IS_QUEUED, instances, jobs, studies
from triage.study import Analysis, EventKind, Finding, Priority

# What a clock may be put back before anything is done about it; workers may have longer leases than a sweep knows.
STEP_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a look at one instance came to."""

    job: Job
    finding: Finding
    priority: Priority


class Queue:
    """Verbs on jobs, first come first served. Every method is one transaction. ``policy`` may be replaced any time."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._history = History(store)
        self.policy = policy
        self._claims: dict[tuple[int, float], ReturningUpdate[Any]] = {}

    def claim(self, worker: str, lease_seconds: float, most: int = 1) -> list[Job]:
        """Lease the oldest jobs that are due, in their order. The attempt is counted here.

        One that may have ended its last worker comes alone: what was claimed beside it would lose an attempt with it.
        """
        kind = (most, lease_seconds)
        if kind not in self._claims:
            self._claims[kind] = self._claim(most, lease_seconds)
        statement = self._claims[kind]
        with self._store.at_once() as connection:
            rows = connection.execute(statement, {"worker": worker, "token": token_hex(16)}).mappings().all()
        return [_job(row) for row in sorted(rows, key=lambda row: (row["available_at"], row["job_id"]))]

    def _claim(self, most: int, lease_seconds: float) -> ReturningUpdate[Any]:
        """One statement. SQLite gives back columns of the changed table alone, hence the small queries at the end."""
        now = self._store.now()
        due = (
            select(jobs.c.job_id, jobs.c.available_at, jobs.c.reason)
            .where(IS_QUEUED & (jobs.c.available_at <= now))
            .order_by(jobs.c.available_at, jobs.c.job_id)
            .limit(most)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        is_suspect = case((due.c.reason == Reason.INTERNAL_ERROR, 1), else_=0)
        oldest_first = (due.c.available_at, due.c.job_id)
        suspects = func.sum(is_suspect).over(order_by=oldest_first).label("suspects")
        place = func.row_number().over(order_by=oldest_first).label("place")
        taken = select(due.c.job_id, suspects, place).subquery("taken")
        chosen = select(taken.c.job_id).where((taken.c.place == 1) | (taken.c.suspects == 0))
        of_job = instances.c.instance_id == literal_column("jobs.instance_id")  # else its table is left out on SQLite
        study_instance_uid = select(instances.c.study_instance_uid).where(of_job).scalar_subquery()
        sha256 = select(instances.c.sha256).where(of_job).scalar_subquery()
        return (
            update(jobs)
            .where(jobs.c.job_id.in_(chosen))
            .values(
                state=JobState.LEASED,
                attempts=jobs.c.attempts + 1,
                worker=bindparam("worker"),
                token=bindparam("token"),
                lease_until=self._store.after(lease_seconds),
            )
            .returning(
                jobs,
                study_instance_uid.label("study_instance_uid"),
                sha256.label("sha256"),
                now.label("claimed_at"),
            )
        )

    def heartbeat(self, job: Job, lease_seconds: float) -> None:
        """Extend the lease. Raise LostLeaseError if it is no longer this worker's."""
        with self._store.at_once() as connection:
            extended = update(jobs).where(_held(job)).values(lease_until=self._store.after(lease_seconds))
            if connection.execute(extended).rowcount == 0:
                raise LostLeaseError("the lease was given to another worker")

    def finish(self, results: Sequence[Result]) -> list[Priority | None]:
        """Record results together; the new priority of each one's study, None where the lease is lost."""
        return self._end(JobState.DONE, results)

    def fail(self, job: Job, reason: Reason, rule: RetryRule) -> Priority | None:
        """Queue the job again, or bury it and record the reason: then return the study's priority."""
        delay = retry_after(reason, job.attempts, rule)
        if delay is None:
            shown = rules.not_analysed(reason, self.policy)
            (ended,) = self._end(JobState.BURIED, [Result(job=job, finding=Finding(reason=reason), priority=shown)])
            if ended is None:
                raise LostLeaseError("the lease was given to another worker")
            return ended
        with self._store.at_once() as connection:
            again = update(jobs).where(_held(job)).values(**self._queued(delay), reason=reason)
            if connection.execute(again).rowcount == 0:
                raise LostLeaseError("the lease was given to another worker")
        return None

    def defer(self, job: Job, reason: Reason, delay_seconds: float) -> None:
        """Put the job back because of something that is not its fault: the attempt does not count.

        A pending study says why it was not analysed, as after a time-out; the answer that comes later still counts.
        """
        shown = rules.not_analysed(reason, self.policy)
        with self._store.writing() as connection:
            self._store.lock_study(connection, job.study_instance_uid)
            again = update(jobs).where(_held(job))
            values = {**self._queued(delay_seconds), "attempts": jobs.c.attempts - 1, "reason": reason}
            if connection.execute(again.values(values)).rowcount == 0:
                raise LostLeaseError("the lease was given to another worker")
            self._show(connection, shown, studies.c.study_instance_uid == job.study_instance_uid)

    def hand_back(self, job: Job) -> None:
        """Put back what its worker will not finish, as if it had never been claimed; nothing if the lease is lost."""
        values = {**self._queued(0), "attempts": jobs.c.attempts - 1}
        with self._store.writing() as connection:
            connection.execute(update(jobs).where(_held(job)).values(values))
            if self._store.backend == "postgresql":
                connection.exec_driver_sql(f"NOTIFY {JOBS_CHANNEL}")

    def _show(self, connection: Connection, shown: Priority, which: ColumnElement[bool]) -> int:
        """Of pending studies alone: nothing that has been found is hidden."""
        pending = update(studies).where((studies.c.analysis == Analysis.PENDING) & which)
        values = {"analysis": shown.analysis, "reason": shown.reason, "words": shown.words}
        return connection.execute(pending.values(**values, analysed_at=self._store.now())).rowcount

    def _queued(self, delay: float) -> dict[str, object]:
        return {
            "state": JobState.QUEUED,
            "available_at": self._store.after(delay),
            "worker": None,
            "token": None,
            "lease_until": None,
        }

    def _end(self, state: JobState, results: Sequence[Result]) -> list[Priority | None]:
        with self._store.writing() as connection:
            flagged = self._store.lock_studies(connection, {result.job.study_instance_uid for result in results})
            ended = self._ended(connection, state, results)
            counted = [result for result in results if _lease(result.job) in ended]
            if not counted:
                return [None] * len(results)
            self._store.write_findings(
                connection, [(result.job.instance_id, result.finding, result.priority) for result in counted]
            )
            studies_of = {result.job.study_instance_uid for result in counted}
            ranks = {uid: self._history.rank(connection, uid) for uid in self._rising(counted, flagged)}
            settled = self._store.settle(connection, studies_of, self.policy)
            for result in counted:
                self._note(connection, result, ranks.get(result.job.study_instance_uid))
        return [settled[r.job.study_instance_uid] if _lease(r.job) in ended else None for r in results]

    def _rising(self, results: Sequence[Result], flagged: Collection[str]) -> set[str]:
        """Studies that these results raise."""
        raised = {result.job.study_instance_uid for result in results if result.priority.flagged}
        return raised.difference(flagged)

    def _note(self, connection: Connection, result: Result, rank: int | None) -> None:
        """``rank``: before, of a study that was raised; 0 if it has been read."""
        finding, priority = result.finding, result.priority
        uid = result.job.study_instance_uid
        analysed = priority.analysis is Analysis.ANALYSED
        network = f"network {finding.weights_sha256[:12]}, " if finding.weights_sha256 else ""
        self._history.note(
            connection,
            uid,
            EventKind.ANALYSED if analysed else EventKind.NOT_ANALYSED,
            words=f"{priority.words}; {network}policy {priority.policy_version}",
            ranks=(rank, self._history.rank(connection, uid)) if rank else None,
        )

    def _ended(self, connection: Connection, state: JobState, results: Sequence[Result]) -> set[tuple[int, str]]:
        """Those leases that were still held. One statement for each reason: mostly there is none."""
        ended: set[tuple[int, str]] = set()
        for reason in {result.finding.reason for result in results}:
            alike = [result.job for result in results if result.finding.reason == reason]
            numbers, pairs = [job.job_id for job in alike], [_lease(job) for job in alike]
            values = {"numbers": numbers, "pairs": pairs, "ended": state, "why": reason}
            ended.update((row[0], row[1]) for row in connection.execute(self._ending, values))
        return ended

    @cached_property
    def _ending(self) -> ReturningUpdate[Any]:
        """By number, which has an index; and then by number and token."""
        held = tuple_(jobs.c.job_id, jobs.c.token).in_(bindparam("pairs", expanding=True)) & IS_LEASED
        values: dict[str, Any] = {"state": bindparam("ended"), "reason": bindparam("why"), "lease_until": None}
        return (
            update(jobs)
            .where(jobs.c.job_id.in_(bindparam("numbers", expanding=True)) & held)
            .values({**values, "finished_at": self._store.now()})
            .returning(jobs.c.job_id, jobs.c.token)
        )

    def look_again(self, study_instance_uid: str, who: str, only: Collection[int] | None = None) -> int:
        """Queue the study's films of its current reading once more, as if they had just come; how many.

        What was found stays, and can only be added to. ``only``: instance_ids. Raise StudyNotFoundError.
        """
        with self._store.writing() as connection:
            study = self._store.lock_study(connection, study_instance_uid)
            films = select(instances.c.instance_id).where(
                instances.c.study_instance_uid == study_instance_uid,
                instances.c.episode == study["episode"],
                instances.c.pixels_deleted_at.is_(None),
            )
            again = update(jobs).where(jobs.c.instance_id.in_(films) & ~IS_OPEN)
            again = again if only is None else again.where(jobs.c.instance_id.in_(only))
            anew = {"attempts": 0, "reason": None, "finished_at": None, "created_at": self._store.now()}
            count = connection.execute(again.values({**self._queued(0), **anew})).rowcount
            if count:
                words = f"{count} film{'' if count == 1 else 's'} to be looked at again"
                self._history.note(connection, study_instance_uid, EventKind.REQUEUED, who=who, words=words)
                if self._store.backend == "postgresql":
                    connection.exec_driver_sql(f"NOTIFY {JOBS_CHANNEL}")
        return count

    # -- sweeps ------------------------------------------------------------------------------------------------

    def expire(self, rule: RetryRule, worker: str | None = None) -> tuple[int, int]:
        """Take back leases that ran out, or all of ``worker``, which is known to be dead: (queued again, buried)."""
        lapsed = (jobs.c.worker == worker) if worker else (jobs.c.lease_until <= self._store.now())
        with self._store.reading() as connection:
            rows = self._leases(connection, IS_LEASED & lapsed)
        again = buried = 0
        for row in rows:
            job = Job(**{name: row[name] for name in _JOB_COLUMNS}, queued_seconds=0.0)
            try:
                given_up = self.fail(job, Reason.INTERNAL_ERROR, rule) is not None
            except LostLeaseError:
                continue  # finished in the meantime
            buried += given_up
            again += not given_up
        return again, buried

    def mend_times(self, lease_seconds: float, delay_seconds: float) -> int:
        """How many waited for a time that cannot have been meant: the clock was put back since.

        Nothing is put back for longer than ``delay_seconds``: it is due now. No lease lasts longer than
        ``lease_seconds``, and nobody has begun to wait in the future. Small steps pass by themselves.
        """
        now, after = self._store.now(), self._store.after
        lease_ends, too_late = after(lease_seconds), after(lease_seconds + STEP_SECONDS)
        changes: tuple[tuple[ColumnElement[bool], dict[str, Any]], ...] = (
            (IS_QUEUED & (jobs.c.available_at > after(delay_seconds + STEP_SECONDS)), {"available_at": now}),
            (IS_LEASED & (jobs.c.lease_until > too_late), {"lease_until": lease_ends}),
            (IS_OPEN & (jobs.c.created_at > after(STEP_SECONDS)), {"created_at": now}),
        )
        with self._store.writing() as connection:
            return sum(connection.execute(update(jobs).where(which).values(to)).rowcount for which, to in changes)

    def _leases(self, connection: Connection, which: ColumnElement[bool]) -> list[RowMapping]:
        query = select(jobs, instances.c.study_instance_uid, instances.c.sha256).join(
            instances, instances.c.instance_id == jobs.c.instance_id
        )
        return list(connection.execute(query.where(which)).mappings())

    def time_out_pending(self, limit_seconds: float) -> int:
        """Studies pending longer than the limit are shown as not analysed (timeout).

        Their jobs stay: an answer that comes late still counts.
        """
        late = (
            select(instances.c.study_instance_uid)
            .join(jobs, jobs.c.instance_id == instances.c.instance_id)
            .where(IS_OPEN & (jobs.c.created_at <= self._store.after(-limit_seconds)))
        )
        with self._store.writing() as connection:
            shown = rules.not_analysed(Reason.TIMEOUT, self.policy)
            return self._show(connection, shown, studies.c.study_instance_uid.in_(late))

    def depth(self) -> dict[str, int]:
        """Number of jobs in each open state."""
        query = select(jobs.c.state, func.count()).where(IS_OPEN).group_by(jobs.c.state)
        with self._store.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    # -- retention ---------------------------------------------------------------------------------------------

    def expired_files(self, retention_days: float, limit: int = 500) -> list[tuple[int, str, str, bool]]:
        """Instances whose file has been kept long enough and awaits no analysis: (id, study, sha256, quarantined)."""
        old = instances.c.received_at <= self._store.after(-retention_days * 86400)
        told = [instances.c[name] for name in ("instance_id", "study_instance_uid", "sha256", "quarantined")]
        query = select(*told).where(old & instances.c.pixels_deleted_at.is_(None) & ~has_open_job())
        with self._store.reading() as connection:
            return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query.limit(limit))]

    def forget_file(self, instance_id: int) -> None:
        """Note that the file is gone; the row and its findings stay."""
        gone = update(instances).where(instances.c.instance_id == instance_id)
        with self._store.writing() as connection:
            connection.execute(gone.values(pixels_deleted_at=self._store.now()))


_JOB_COLUMNS = ("job_id", "instance_id", "study_instance_uid", "sha256", "attempts", "token")


def _lease(job: Job) -> tuple[int, str]:
    return job.job_id, job.token


def _held(job: Job) -> ColumnElement[bool]:
    return (jobs.c.job_id == job.job_id) & (jobs.c.token == job.token) & IS_LEASED


def _job(row: RowMapping) -> Job:
    return Job(
        **{name: row[name] for name in _JOB_COLUMNS},
        queued_seconds=(row["claimed_at"] - row["created_at"]).total_seconds(),
        last_reason=row["reason"] and Reason(row["reason"]),
    )
