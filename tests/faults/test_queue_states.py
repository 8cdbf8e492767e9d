"""The queue, whatever happens in whatever order: at least once, fenced, bounded, and never a step down."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, delete, select, text

from making import CARD, POLICY, finding, received
from triage.errors import LostLeaseError, Reason
from triage.jobs import PASSING, Job, JobState, RetryRule
from triage.policy import judge
from triage.records.intake import Intake
from triage.records.queue import STEP_SECONDS, Queue, Result
from triage.records.store import Store
from triage.records.tables import events, findings, instances, jobs, studies
from triage.study import Analysis, Finding
from triage.worklist import CLOCKS as REAL

RULE = RetryRule(attempts_max=3, delay_seconds=4)
LEASE_SECONDS = 10
WAIT_SECONDS = 5
HOUR_SECONDS = 3600
# No job is put back for longer.
LONGEST_SECONDS = RULE.longest_seconds
# Short in `make test`; `make faults` has 200.
EXAMPLES = int(os.environ.get("ROUNDS", "10"))
START = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
FLAGGED = 0.95
# The database's clock, in a table: steps of it are what some of the rules are about.
CLOCKS = {
    "sqlite": replace(
        REAL["sqlite"],
        now="(SELECT strftime('%Y-%m-%d %H:%M:%f', at) || '000' FROM clock)",
        after="(SELECT strftime('%Y-%m-%d %H:%M:%f', at, '{seconds:+.3f} seconds') || '000' FROM clock)",
    ),
    "postgresql": replace(
        REAL["postgresql"],
        now="(SELECT at FROM clock)",
        after="(SELECT at + make_interval(secs => {seconds:.3f}) FROM clock)",
    ),
}


@dataclass
class Known:
    """What the machine knows of one job; times in seconds from `START`."""

    study: int
    state: JobState = JobState.QUEUED
    due: float = 0.0
    attempts: int = 0
    reason: Reason | None = None
    token: str = ""
    worker: str = ""
    lease_until: float = 0.0
    found: list[float] = field(default_factory=list)

    @property
    def is_suspect(self) -> bool:
        return self.reason is Reason.INTERNAL_ERROR


class Jobs(RuleBasedStateMachine):
    """Plays workers, sweeps, readers and a clock against a database."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store, self.queue, self.intake = store, Queue(store, POLICY), Intake(store, POLICY)
        self.known: dict[int, Known] = {}
        self.handles: list[Job] = []
        self.now = 0.0
        self.flagged: set[int] = set()

    @initialize()
    def begin(self) -> None:
        with self.store.writing() as connection:
            for table in (findings, jobs, instances, events, studies):
                connection.execute(delete(table))
        self._set_clock()

    # -- time --------------------------------------------------------------------------------------------------

    def _set_clock(self) -> None:
        at = datetime.fromtimestamp(START.timestamp() + self.now, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        with self.store.writing() as connection:
            connection.execute(text(f"UPDATE clock SET at = '{at}'"))

    @rule(seconds=st.integers(0, 30))
    def time_goes_on(self, seconds: int) -> None:
        self.now += seconds
        self._set_clock()

    @rule(step=st.sampled_from([HOUR_SECONDS, -HOUR_SECONDS]))
    def the_clock_steps(self, step: int) -> None:
        self.now += step
        self._set_clock()

    @rule()
    def what_a_step_left_in_the_future_is_brought_back(self) -> None:
        self.queue.mend_times(LEASE_SECONDS, LONGEST_SECONDS)
        for known in self.known.values():
            if known.state is JobState.QUEUED and known.due > self.now + LONGEST_SECONDS + STEP_SECONDS:
                known.due = self.now
            if known.lease_until > self.now + LEASE_SECONDS + STEP_SECONDS:
                known.lease_until = self.now + LEASE_SECONDS

    # -- films come --------------------------------------------------------------------------------------------

    @rule(study=st.integers(0, 6), again=st.booleans())
    def a_film_comes(self, *, study: int, again: bool) -> None:
        number = len(self.known)
        receipt = self.intake.receive(received(number, study=study))
        assert receipt.queued
        job_id = self._row(number)["job_id"]
        self.known[job_id] = Known(study=study, due=self.now)
        if again:
            assert self.intake.receive(received(number, study=study)).duplicate

    def _row(self, number: int) -> dict[str, Any]:
        query = select(jobs).join(instances, instances.c.instance_id == jobs.c.instance_id)
        with self.store.reading() as connection:
            found = connection.execute(query.where(instances.c.sop_instance_uid == f"1.2.3.{number}")).mappings().one()
        return dict(found)

    # -- workers work ------------------------------------------------------------------------------------------

    @rule(worker=st.sampled_from(["a", "b"]), most=st.integers(1, 3))
    def a_worker_claims(self, worker: str, most: int) -> None:
        queued = [(known.due, job_id) for job_id, known in self.known.items() if known.state is JobState.QUEUED]
        due = sorted(pair for pair in queued if pair[0] <= self.now)[:most]
        expected = [
            job_id
            for place, (_, job_id) in enumerate(due)
            if place == 0 or not any(self.known[other].is_suspect for _, other in due[: place + 1])
        ]
        claimed = self.queue.claim(worker, LEASE_SECONDS, most)
        assert [job.job_id for job in claimed] == expected
        for job in claimed:
            known = self.known[job.job_id]
            known.attempts += 1
            assert job.attempts == known.attempts <= RULE.attempts_max
            known.state, known.token, known.worker = JobState.LEASED, job.token, worker
            known.lease_until = self.now + LEASE_SECONDS
        self.handles += claimed

    def _holds(self, job: Job) -> bool:
        known = self.known[job.job_id]
        return known.state is JobState.LEASED and known.token == job.token

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def a_heart_beats(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.handles))
        if self._holds(job):
            self.queue.heartbeat(job, LEASE_SECONDS)
            self.known[job.job_id].lease_until = self.now + LEASE_SECONDS
        else:
            with pytest.raises(LostLeaseError):
                self.queue.heartbeat(job, LEASE_SECONDS)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def results_are_recorded_in_time_or_late(self, data: st.DataObject) -> None:
        """Together, in whatever company: those of a lost lease change nothing."""
        some = data.draw(st.lists(st.sampled_from(self.handles), min_size=1, max_size=3, unique_by=id))
        made = [data.draw(st.sampled_from([FLAGGED, 0.01])) for _ in some]
        held = [self._holds(job) for job in some]
        results = [_result(job, finding(p)) for job, p in zip(some, made, strict=True)]
        ended = self.queue.finish(results)
        assert [priority is not None for priority in ended] == held
        for job, p, counts in zip(some, made, held, strict=True):
            if counts:
                self.known[job.job_id].state = JobState.DONE
                self.known[job.job_id].reason = None
                self.known[job.job_id].found.append(p)

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), reason=st.sampled_from([Reason.DECODE_CRASH, Reason.INTERNAL_ERROR, Reason.DECODE_ERROR]))
    def a_look_fails(self, data: st.DataObject, reason: Reason) -> None:
        job = data.draw(st.sampled_from(self.handles))
        if self._holds(job):
            self.queue.fail(job, reason, RULE)
            self._has_failed(self.known[job.job_id], reason)
        else:
            with pytest.raises(LostLeaseError):
                self.queue.fail(job, reason, RULE)

    def _has_failed(self, known: Known, reason: Reason) -> None:
        known.reason = reason
        if reason not in PASSING or known.attempts >= RULE.attempts_max:
            known.state = JobState.BURIED
        else:
            known.state = JobState.QUEUED
            known.due = self.now + RULE.delay_seconds * 2 ** (known.attempts - 1)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def the_network_is_missing(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.handles))
        if not self._holds(job):
            with pytest.raises(LostLeaseError):
                self.queue.defer(job, Reason.MODEL_UNAVAILABLE, WAIT_SECONDS)
            return
        self.queue.defer(job, Reason.MODEL_UNAVAILABLE, WAIT_SECONDS)
        known = self.known[job.job_id]
        known.state, known.reason = JobState.QUEUED, Reason.MODEL_UNAVAILABLE
        known.attempts, known.due = known.attempts - 1, self.now + WAIT_SECONDS

    # -- sweeps and readers ------------------------------------------------------------------------------------

    @rule()
    def leases_expire(self) -> None:
        lapsed = [each for each in self._leased() if each.lease_until <= self.now]
        self._take_back(lapsed, self.queue.expire(RULE))

    @rule(worker=st.sampled_from(["a", "b"]))
    def a_worker_crashes(self, worker: str) -> None:
        """Its successor takes back what it held; its own threads may still come late."""
        lapsed = [each for each in self._leased() if each.worker == worker]
        self._take_back(lapsed, self.queue.expire(RULE, worker=worker))

    def _leased(self) -> list[Known]:
        return [known for known in self.known.values() if known.state is JobState.LEASED]

    def _take_back(self, lapsed: list[Known], told: tuple[int, int]) -> None:
        for known in lapsed:
            self._has_failed(known, Reason.INTERNAL_ERROR)
        buried = sum(known.state is JobState.BURIED for known in lapsed)
        assert told == (len(lapsed) - buried, buried)

    @rule()
    def waiting_has_a_limit(self) -> None:
        self.queue.time_out_pending(60)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def somebody_wants_another_look(self, data: st.DataObject) -> None:
        study = data.draw(st.sampled_from(sorted({known.study for known in self.known.values()})))
        ended = [
            known
            for known in self.known.values()
            if known.study == study and known.state in (JobState.DONE, JobState.BURIED)
        ]
        assert self.queue.look_again(f"1.2.{study}", "reader") == len(ended)
        for known in ended:
            known.state, known.attempts, known.reason, known.due = JobState.QUEUED, 0, None, self.now

    # -- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def the_jobs_are_as_they_should_be(self) -> None:
        with self.store.reading() as connection:
            rows = connection.execute(select(jobs)).mappings().all()
        stand = {row["job_id"]: (row["state"], row["attempts"], row["reason"]) for row in rows}
        assert stand == {job_id: (each.state, each.attempts, each.reason) for job_id, each in self.known.items()}

    @invariant()
    def studies_stand_in_the_order_in_which_they_came(self) -> None:
        """Whatever the clock has said since."""
        came = list(dict.fromkeys(known.study for known in self.known.values()))
        with self.store.reading() as connection:
            stand = connection.execute(select(studies.c.study_instance_uid).order_by(studies.c.waiting_since))
            assert [int(uid.split(".")[-1]) for uid in stand.scalars()] == came

    @invariant()
    def what_counted_once_counts_for_good(self) -> None:
        """A study is flagged exactly if a result that was in time said so, then or ever before."""
        self.flagged |= {known.study for known in self.known.values() if FLAGGED in known.found}
        with self.store.reading() as connection:
            rows = connection.execute(select(studies)).mappings().all()
        assert {int(row["study_instance_uid"].split(".")[-1]) for row in rows if row["flagged"]} == self.flagged
        for row in rows:
            if self._is_over(int(row["study_instance_uid"].split(".")[-1])):
                assert row["analysis"] != Analysis.PENDING

    def _is_over(self, study: int) -> bool:
        states = {known.state for known in self.known.values() if known.study == study}
        return states <= {JobState.DONE, JobState.BURIED}

    def teardown(self) -> None:
        """Given time, every job comes to its end."""
        for _ in range(20 * max(1, len(self.known))):
            if all(self._is_over(known.study) for known in self.known.values()):
                return
            self.what_a_step_left_in_the_future_is_brought_back()
            self.leases_expire()
            self.time_goes_on(30)
            for job in self.queue.claim("last", LEASE_SECONDS, 3):
                self.queue.finish([_result(job, finding(0.01))])
                self.known[job.job_id].state = JobState.DONE
        raise AssertionError("a job never came to its end")


def _result(job: Job, found: Finding) -> Result:
    return Result(job=job, finding=found, priority=judge(found, card=CARD, policy=POLICY))


@pytest.fixture
def clocked(engine: Engine) -> Store:
    """Whose clock can be put."""
    store = Store(engine)
    store.clock = CLOCKS[store.backend]
    kind = "text" if store.backend == "sqlite" else "timestamptz"
    with store.writing() as connection:
        connection.execute(text(f"CREATE TABLE clock (at {kind})"))
        connection.execute(text("INSERT INTO clock VALUES ('2026-10-25 00:30:00')"))
    return store


@pytest.mark.fault(111)
def test_after_the_clock_was_put_back_who_comes_later_stands_later_and_who_came_before_is_looked_at(
    clocked: Store,
) -> None:
    played = Jobs(clocked)
    played.begin()
    played.a_film_comes(study=1, again=False)
    played.the_clock_steps(step=-HOUR_SECONDS)
    played.a_film_comes(study=0, again=False)
    played.studies_stand_in_the_order_in_which_they_came()
    played.what_a_step_left_in_the_future_is_brought_back()
    played.a_worker_claims(worker="a", most=2)
    assert len(played.handles) == 2


@pytest.mark.fault(95, 97, 99, 111)
@pytest.mark.timeout(1200)
def test_whatever_happens_every_film_is_looked_at_and_no_late_result_counts(clocked: Store) -> None:
    run_state_machine_as_test(
        lambda: Jobs(clocked),
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
