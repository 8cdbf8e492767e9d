"""Leases: counted, fenced, expiring; nothing is done twice and nothing is left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select, update

from making import CARD, POLICY, finding, received
from triage.errors import LostLeaseError, Reason
from triage.jobs import Job, RetryRule
from triage.policy import judge
from triage.records.intake import Intake
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import findings, instances, jobs
from triage.study import Finding

RULE = RetryRule(attempts_max=2, delay_seconds=0.001)


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store, POLICY)


def claim(queue: Queue, worker: str = "test", seconds: float = 60) -> Job:
    (job,) = queue.claim(worker, seconds)
    return job


def lapse(store: Store) -> None:
    with store.writing() as connection:
        connection.execute(update(jobs).values(lease_until=store.after(-1)))


def finish(queue: Queue, job: Job, p_pneumonia: float = 0.95) -> None:
    (priority,) = queue.finish([result(job, finding(p_pneumonia))])
    if priority is None:
        raise LostLeaseError


def result(job: Job, found: Finding) -> Result:
    return Result(job=job, finding=found, priority=judge(found, card=CARD, policy=POLICY))


@pytest.mark.fault(108)
def test_jobs_are_claimed_in_the_order_they_came_and_once(store: Store, queue: Queue) -> None:
    for number in (1, 2):
        Intake(store, POLICY).receive(received(number))
    assert [claim(queue).study_instance_uid for _ in range(2)] == ["1.2.1", "1.2.2"]
    assert queue.claim("test", 60) == []


def test_many_workers_never_get_the_same_job(store: Store, queue: Queue) -> None:
    for number in range(40):
        Intake(store, POLICY).receive(received(number))

    def drain(worker: int) -> list[int]:
        mine = []
        while some := queue.claim(str(worker), 60, most=1 + worker % 3):
            mine += [job.job_id for job in some]
        return mine

    with ThreadPoolExecutor(8) as pool:
        claimed = [job_id for mine in pool.map(drain, range(8)) for job_id in mine]
    assert len(claimed) == len(set(claimed)) == 40


def test_several_are_claimed_at_once_in_their_order_and_no_more_than_asked_for(store: Store, queue: Queue) -> None:
    for number in range(5):
        Intake(store, POLICY).receive(received(number))
    assert [job.study_instance_uid for job in queue.claim("test", 60, most=3)] == ["1.2.0", "1.2.1", "1.2.2"]
    assert [job.study_instance_uid for job in queue.claim("test", 60, most=3)] == ["1.2.3", "1.2.4"]
    assert queue.claim("test", 60, most=3) == []


@pytest.mark.fault(97)
@pytest.mark.parametrize(
    ("suspects", "taken"), [([0], [1, 3, 1]), ([2], [2, 1, 2]), ([1, 2], [1, 1, 1, 2]), ([4], [3, 1, 1])]
)
def test_what_may_have_ended_a_worker_is_claimed_alone(
    store: Store, queue: Queue, suspects: list[int], taken: list[int]
) -> None:
    for number in range(5):
        Intake(store, POLICY).receive(received(number))
    with store.writing() as connection:
        numbers = select(jobs.c.job_id).order_by(jobs.c.job_id)
        job_ids = connection.execute(numbers).scalars().all()
        those = jobs.c.job_id.in_([job_ids[number] for number in suspects])
        connection.execute(update(jobs).where(those).values(reason=Reason.INTERNAL_ERROR))
    found = []
    while some := queue.claim("test", 60, most=3):
        found.append(some)
    assert [len(some) for some in found] == taken
    assert all(len(some) == 1 for some in found if any(job.is_suspect for job in some))


def test_results_are_recorded_together_and_one_that_lost_its_lease_stops_no_other(store: Store, queue: Queue) -> None:
    for number in range(4):
        Intake(store, POLICY).receive(received(number, study=number // 2))
    held = queue.claim("test", 60, most=4)
    with store.writing() as connection:
        connection.execute(update(jobs).where(jobs.c.job_id == held[1].job_id).values(token="another"))
    failed = Finding(reason=Reason.BAD_PIXELS)
    made = [finding(0.95), finding(0.95), finding(0.01), failed]
    ended = queue.finish([result(job, found) for job, found in zip(held, made, strict=True)])
    assert [priority and priority.flagged for priority in ended] == [True, None, False, False]
    assert queue.depth() == {"leased": 1}
    with store.reading() as connection:
        assert connection.execute(select(func.count()).select_from(findings)).scalar_one() == 3
        assert connection.execute(select(jobs.c.reason).order_by(jobs.c.job_id)).scalars().all()[3] == "bad_pixels"


@pytest.mark.fault(99)
def test_a_late_result_beside_the_one_that_counts_changes_nothing(store: Store, queue: Queue) -> None:
    """Of the same job, in the same transaction."""
    Intake(store, POLICY).receive(received(1))
    late = claim(queue)
    lapse(store)
    queue.expire(RetryRule(attempts_max=5, delay_seconds=0.001))
    ended = queue.finish([result(late, finding(0.95)), result(claim_when_due(queue), finding(0.01))])
    assert [priority and priority.flagged for priority in ended] == [None, False]
    assert not Reading(store).worklist()[0].flagged


@pytest.mark.fault(113)
def test_no_clock_but_the_databases_enters_it(store: Store, queue: Queue, engine: Engine) -> None:
    """Hosts need not agree on the time: no statement of receiving, claiming, finishing or sweeping carries one."""
    given: list[object] = []

    def note(_: object, __: object, ___: str, parameters: Any, *____: object) -> None:
        rows = parameters if isinstance(parameters, list) else [parameters]
        given.extend(value for row in rows for value in (row.values() if hasattr(row, "values") else row))

    event.listen(engine, "before_cursor_execute", note)
    for number in (1, 2, 3):
        Intake(store, POLICY).receive(received(number))
    one, two, three = queue.claim("test", 60, most=3)
    queue.heartbeat(one, 60)
    finish(queue, one)
    queue.fail(two, Reason.DECODE_CRASH, RULE)
    queue.defer(three, Reason.MODEL_UNAVAILABLE, 1)
    queue.expire(RULE)
    queue.time_out_pending(1)
    Reading(store).start_reading("1.2.1", "reader")
    Reading(store).close("1.2.1")
    Intake(store, POLICY).receive(received(4, study=1))
    event.remove(engine, "before_cursor_execute", note)
    assert len(given) > 100
    year = str(datetime.now(UTC).year)
    assert [value for value in given if isinstance(value, datetime) or str(value).startswith(year)] == []


@pytest.mark.fault(95)
def test_the_attempt_is_counted_before_the_work_starts(store: Store, queue: Queue) -> None:
    Intake(store, POLICY).receive(received(1))
    assert claim(queue).attempts == 1
    with store.reading() as connection:
        assert connection.execute(select(jobs.c.attempts)).scalar_one() == 1


@pytest.mark.fault(99)
def test_a_result_after_the_lease_went_to_another_is_refused(store: Store, queue: Queue) -> None:
    Intake(store, POLICY).receive(received(1))
    slow = claim(queue)
    lapse(store)
    assert queue.expire(RetryRule(attempts_max=5, delay_seconds=0.001)) == (1, 0)
    claim_when_due(queue)
    with pytest.raises(LostLeaseError):
        finish(queue, slow, 0.01)
    with pytest.raises(LostLeaseError):
        queue.heartbeat(slow, 60)
    with pytest.raises(LostLeaseError):
        queue.fail(slow, Reason.DECODE_CRASH, RULE)
    assert Reading(store).worklist()[0].analysis == "pending"


def test_a_heartbeat_keeps_the_lease(store: Store, queue: Queue) -> None:
    Intake(store, POLICY).receive(received(1))
    job = claim(queue, seconds=0.001)
    queue.heartbeat(job, 60)
    assert queue.expire(RULE) == (0, 0)


@pytest.mark.fault(97)
def test_a_job_that_kills_its_workers_is_buried_and_the_study_says_why(store: Store, queue: Queue) -> None:
    Intake(store, POLICY).receive(received(1))
    for _ in range(RULE.attempts_max):
        claim_when_due(queue)
        lapse(store)
        queue.expire(RULE)
    (entry,) = Reading(store).worklist()
    assert (entry.analysis, entry.reason, entry.flagged) == ("not_analysed", "internal_error", False)
    assert queue.claim("test", 60) == []


def claim_when_due(queue: Queue) -> Job:
    for _ in range(1000):
        if some := queue.claim("test", 60):
            return some[0]
    raise AssertionError("the job never became due")


@pytest.mark.fault(95)
def test_the_leases_of_a_dead_worker_are_taken_back_by_name(store: Store, queue: Queue) -> None:
    for number in (1, 2):
        Intake(store, POLICY).receive(received(number))
    claim(queue, "dead")
    claim(queue, "alive")
    assert queue.expire(RULE, worker="dead") == (1, 0)
    assert queue.depth() == {"leased": 1, "queued": 1}


def test_a_passing_failure_waits_longer_each_time_and_a_final_one_ends_at_once(store: Store, queue: Queue) -> None:
    Intake(store, POLICY).receive(received(1))
    assert queue.fail(claim(queue), Reason.DECODE_CRASH, RetryRule(attempts_max=2, delay_seconds=60)) is None
    assert queue.claim("test", 60) == []  # not due yet
    Intake(store, POLICY).receive(received(2))
    ended = queue.fail(claim(queue), Reason.DECODE_ERROR, RULE)
    assert ended is not None
    assert ended.reason is Reason.DECODE_ERROR


def test_a_study_pending_too_long_says_timeout_and_a_late_answer_still_counts(store: Store, queue: Queue) -> None:
    Intake(store, POLICY).receive(received(1))
    job = claim(queue)
    assert queue.time_out_pending(60) == 0
    assert queue.time_out_pending(-1) == 1
    assert Reading(store).worklist()[0].reason == "timeout"
    finish(queue, job)
    assert Reading(store).worklist()[0].flagged


def test_the_same_result_twice_is_one_row(store: Store, queue: Queue) -> None:
    Intake(store, POLICY).receive(received(1))
    job = claim(queue)
    finish(queue, job)
    with store.writing() as connection:
        found = (job.instance_id, finding(0.9), judge(finding(0.9), card=CARD, policy=POLICY))
        store.write_findings(connection, [found])
        assert connection.execute(select(func.count()).select_from(findings)).scalar_one() == 1


@pytest.mark.fault(116)
def test_a_later_lower_result_never_lowers_the_study(store: Store, queue: Queue) -> None:
    for number in (1, 2, 3):
        Intake(store, POLICY).receive(received(number, study=9))
    finish(queue, claim(queue), 0.95)
    finish(queue, claim(queue), 0.01)
    failed = Finding(reason=Reason.BAD_PIXELS)
    queue.finish([result(claim(queue), failed)])
    (entry,) = Reading(store).worklist()
    assert (entry.flagged, entry.p_pneumonia) == (True, 0.95)


@pytest.mark.fault(122)
def test_only_files_that_await_nothing_expire(store: Store, queue: Queue) -> None:
    for number in (1, 2):
        Intake(store, POLICY).receive(received(number))
    finish(queue, claim(queue))
    with store.writing() as connection:
        connection.execute(update(instances).values(received_at=store.after(-86400)))
    assert queue.expired_files(2) == []
    ((instance_id, _, sha256, quarantined),) = queue.expired_files(0.5)
    assert (sha256, quarantined) == (received(1).sha256, False)
    queue.forget_file(instance_id)
    assert queue.expired_files(0.5) == []
