"""The jobs in the database: claim, heartbeat, finish, expire. See `triage/jobs.py` for the states.

Every change of a leased job names its token; a worker whose lease was given away changes nothing (LostLeaseError).
"""

from __future__ import annotations

from secrets import token_hex

from sqlalchemy import Connection, RowMapping, func, select, update
from sqlalchemy.sql.elements import ColumnElement

from triage import policy as rules
from triage.errors import LostLeaseError, Reason
from triage.jobs import Job, JobState, RetryRule, retry_after
from triage.policy import Policy
from triage.records.store import OPEN_JOBS, Store, has_open_job
from triage.records.tables import instances, jobs, studies
from triage.study import Analysis, Finding, Priority


class Queue:
    """Verbs on jobs, first come first served. Every method is one transaction."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    def claim(self, worker: str, lease_seconds: float) -> Job | None:
        """Lease the oldest job that is due; None if there is none. The attempt is counted here."""
        now = self._store.now()
        due = (
            select(jobs.c.job_id)
            .where((jobs.c.state == JobState.QUEUED) & (jobs.c.available_at <= now))
            .order_by(jobs.c.available_at, jobs.c.job_id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        token = token_hex(16)
        claim = (
            update(jobs)
            .where(jobs.c.job_id == due)
            .values(
                state=JobState.LEASED,
                attempts=jobs.c.attempts + 1,
                worker=worker,
                token=token,
                lease_until=self._store.after(lease_seconds),
            )
            .returning(jobs.c.job_id)
        )
        with self._store.writing() as connection:
            job_id = connection.execute(claim).scalar_one_or_none()
            return None if job_id is None else self._job(connection, job_id)

    def _job(self, connection: Connection, job_id: int) -> Job:
        row = connection.execute(
            select(jobs, instances.c.study_instance_uid, instances.c.sha256, self._store.now().label("claimed_at"))
            .join(instances, instances.c.instance_id == jobs.c.instance_id)
            .where(jobs.c.job_id == job_id)
        ).mappings()
        job = row.one()
        return Job(
            job_id=job["job_id"],
            instance_id=job["instance_id"],
            study_instance_uid=job["study_instance_uid"],
            sha256=job["sha256"],
            attempts=job["attempts"],
            token=job["token"],
            queued_seconds=(job["claimed_at"] - job["created_at"]).total_seconds(),
            last_reason=job["reason"] and Reason(job["reason"]),
        )

    def heartbeat(self, job: Job, lease_seconds: float) -> None:
        """Extend the lease. Raise LostLeaseError if it is no longer this worker's."""
        with self._store.writing() as connection:
            extended = update(jobs).where(_held(job)).values(lease_until=self._store.after(lease_seconds))
            if connection.execute(extended).rowcount == 0:
                raise LostLeaseError("the lease was given to another worker")

    def finish(self, job: Job, finding: Finding, priority: Priority) -> Priority:
        """Record the result and return the study's new priority. Raise LostLeaseError if the lease is lost."""
        return self._end(job, JobState.DONE, finding, priority)

    def fail(self, job: Job, reason: Reason, rule: RetryRule) -> Priority | None:
        """Queue the job again, or bury it and record the reason: then return the study's priority."""
        delay = retry_after(reason, job.attempts, rule)
        if delay is None:
            return self._end(job, JobState.BURIED, Finding(reason=reason), rules.not_analysed(reason, self._policy))
        with self._store.writing() as connection:
            again = update(jobs).where(_held(job)).values(**self._queued(delay), reason=reason)
            if connection.execute(again).rowcount == 0:
                raise LostLeaseError("the lease was given to another worker")
        return None

    def defer(self, job: Job, reason: Reason, delay_seconds: float) -> None:
        """Put the job back because of something that is not its fault: the attempt does not count.

        A pending study says why it was not analysed, as after a time-out; the answer that comes later still counts.
        """
        shown = rules.not_analysed(reason, self._policy)
        with self._store.writing() as connection:
            self._store.lock_study(connection, job.study_instance_uid)
            again = update(jobs).where(_held(job))
            values = {**self._queued(delay_seconds), "attempts": jobs.c.attempts - 1, "reason": reason}
            if connection.execute(again.values(values)).rowcount == 0:
                raise LostLeaseError("the lease was given to another worker")
            self._show(connection, shown, studies.c.study_instance_uid == job.study_instance_uid)

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

    def _end(self, job: Job, state: JobState, finding: Finding, priority: Priority) -> Priority:
        with self._store.writing() as connection:
            self._store.lock_study(connection, job.study_instance_uid)
            ended = update(jobs).where(_held(job))
            values = {"state": state, "reason": finding.reason, "finished_at": self._store.now(), "lease_until": None}
            if connection.execute(ended.values(values)).rowcount == 0:
                raise LostLeaseError("the lease was given to another worker")
            self._store.write_finding(connection, job.instance_id, finding, priority)
            return self._store.settle(connection, job.study_instance_uid, self._policy)

    # -- sweeps ------------------------------------------------------------------------------------------------

    def expire(self, rule: RetryRule, worker: str | None = None) -> tuple[int, int]:
        """Take back leases that ran out, or all of ``worker``, which is known to be dead: (queued again, buried)."""
        lapsed = (jobs.c.worker == worker) if worker else (jobs.c.lease_until <= self._store.now())
        with self._store.reading() as connection:
            rows = self._leases(connection, (jobs.c.state == JobState.LEASED) & lapsed)
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
            .where(jobs.c.state.in_(OPEN_JOBS) & (jobs.c.created_at <= self._store.after(-limit_seconds)))
        )
        with self._store.writing() as connection:
            shown = rules.not_analysed(Reason.TIMEOUT, self._policy)
            return self._show(connection, shown, studies.c.study_instance_uid.in_(late))

    def depth(self) -> dict[str, int]:
        """Number of jobs in each open state."""
        query = select(jobs.c.state, func.count()).where(jobs.c.state.in_(OPEN_JOBS)).group_by(jobs.c.state)
        with self._store.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def oldest_due_seconds(self) -> float:
        """How long the first job that is due has waited for a worker; 0 if there is none."""
        due = (jobs.c.state == JobState.QUEUED) & (jobs.c.available_at <= self._store.now())
        query = select(func.min(jobs.c.available_at), self._store.now()).where(due)
        with self._store.reading() as connection:
            oldest, now = connection.execute(query).one()
        return 0.0 if oldest is None else float((now - oldest).total_seconds())

    # -- retention ---------------------------------------------------------------------------------------------

    def expired_files(self, retention_days: float, limit: int = 500) -> list[tuple[int, str, bool]]:
        """Instances whose file has been kept long enough and awaits no analysis: (id, sha256, quarantined)."""
        old = instances.c.received_at <= self._store.after(-retention_days * 86400)
        query = select(instances.c.instance_id, instances.c.sha256, instances.c.quarantined).where(
            old & instances.c.pixels_deleted_at.is_(None) & ~has_open_job()
        )
        with self._store.reading() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query.limit(limit))]

    def forget_file(self, instance_id: int) -> None:
        """Note that the file is gone; the row and its findings stay."""
        gone = update(instances).where(instances.c.instance_id == instance_id)
        with self._store.writing() as connection:
            connection.execute(gone.values(pixels_deleted_at=self._store.now()))


_JOB_COLUMNS = ("job_id", "instance_id", "study_instance_uid", "sha256", "attempts", "token")


def _held(job: Job) -> ColumnElement[bool]:
    return (jobs.c.job_id == job.job_id) & (jobs.c.token == job.token) & (jobs.c.state == JobState.LEASED)
