"""What those who watch are told of worklist, jobs and processes, on both databases."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from daemon import metrics
from daemon.gauges import Gauges
from daemon.settings import DEFAULT_WEIGHTS
from making import CARD, POLICY, finding, received
from triage.card import Scores, write_card
from triage.errors import Reason
from triage.policy import judge
from triage.records.intake import Intake
from triage.records.processes import Processes
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.state import oldest_due_seconds, read_state, recent_scores
from triage.records.store import Store
from triage.records.tables import jobs, processes, studies
from triage.study import Finding


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store, POLICY)


def conclude(queue: Queue, *found: Finding) -> None:
    taken = queue.claim("test", 60, len(found))
    queue.finish(
        [
            Result(job=job, finding=each, priority=judge(each, card=CARD, policy=POLICY))
            for job, each in zip(taken, found, strict=True)
        ]
    )


def test_an_empty_database_has_nothing_to_tell(store: Store) -> None:
    state = read_state(store)
    assert (state.readings, state.jobs) == ({"unread": 0, "reading": 0}, {"queued": 0, "leased": 0})
    assert (state.pending, state.pending_seconds, state.due_seconds, state.received_at) == (0, 0.0, 0.0, None)


def test_studies_and_jobs_are_counted_as_they_stand(store: Store, queue: Queue) -> None:
    for number in range(1, 7):
        Intake(store, POLICY).receive(received(number))
    conclude(queue, finding(0.95), finding(0.1), Finding(reason=Reason.AGE_UNKNOWN))
    queue.claim("test", 60)
    Reading(store).start_reading("1.2.1", "A")
    Reading(store).close("1.2.2")
    with store.writing() as connection:
        connection.execute(update(jobs).values(available_at=store.after(-40), created_at=store.after(-90)))
        connection.execute(
            update(studies).where(studies.c.study_instance_uid == "1.2.6").values(overdue_at=store.after(-1))
        )
    state = read_state(store)
    assert state.readings == {"unread": 4, "reading": 1}
    assert (state.pending, state.flagged, state.overdue) == (3, 1, 1)
    assert state.not_analysed == {"age_unknown": 1}
    assert state.jobs == {"queued": 2, "leased": 1}
    assert state.pending_seconds == pytest.approx(90, abs=20)
    assert state.due_seconds == pytest.approx(40, abs=20)
    assert oldest_due_seconds(store) == pytest.approx(40, abs=20)
    assert state.received_at
    assert (state.now - state.received_at).total_seconds() == pytest.approx(0, abs=20)


def test_the_last_scores_are_of_this_network(store: Store, queue: Queue) -> None:
    for number in range(1, 5):
        Intake(store, POLICY).receive(received(number))
    conclude(queue, finding(0.9), finding(0.2), finding(0.3, weights_sha256="b" * 64), finding(0.4))
    assert recent_scores(store, CARD.sha256, 2) == pytest.approx([0.4, 0.2])


def test_processes_live_while_they_say_so(store: Store) -> None:
    known = Processes(store)
    known.beat("a/worker-1", "worker")
    known.beat("a/worker-1", "worker", without_network=True)
    known.beat("b/worker-1", "worker")
    known.beat("b/web", "web")
    known.beat("c/scheduler", "scheduler")
    known.leave("c/scheduler")
    with store.writing() as connection:
        connection.execute(update(processes).where(processes.c.kind == "web").values(beat_at=store.after(-60)))
    alive = known.alive(12)
    assert (alive.kinds, alive.workers, alive.without_network) == ({"worker": 2}, 2, 1)
    assert not alive.are_blind
    known.beat("b/worker-1", "worker", without_network=True)
    assert known.alive(12).are_blind
    with store.writing() as connection:
        connection.execute(update(processes).where(processes.c.kind == "web").values(beat_at=store.after(-90_000)))
    known.forget()
    assert known.alive(1e9).kinds == {"worker": 2}


def test_a_job_that_is_handed_back_can_be_claimed_at_once_with_all_its_attempts(store: Store, queue: Queue) -> None:
    Intake(store, POLICY).receive(received(1))
    (job,) = queue.claim("leaves", 600)
    queue.hand_back(job)
    (again,) = queue.claim("stays", 600)
    assert again.attempts == 1
    queue.hand_back(job)  # too late: it is another's
    assert queue.depth() == {"leased": 1}


@pytest.mark.fault(106)
def test_drift_is_told_of_a_hundred_films_and_not_before(store: Store, queue: Queue, tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    write_card(replace(CARD, scores=Scores(edges=(0.5,), pneumonia=(0, 50), normal=(50, 0))), card)
    gauges = Gauges(store=store, queue=queue, weights_card=card)
    for number in range(1, 101):
        Intake(store, POLICY).receive(received(number))
    conclude(queue, *[finding(0.9)] * 99)
    gauges.show()
    assert metrics.DRIFT_FILMS._value.get() == 99
    assert math.isnan(metrics.DRIFT._value.get())
    conclude(queue, finding(0.9))
    gauges.show()
    assert metrics.DRIFT._value.get() > 0.25  # nine in ten have pneumonia at the most, here all
    assert metrics.DRIFT_PREVALENCE._value.get() == pytest.approx(0.9)
    gauges.hide()
    assert list(metrics.state.collect()) == []


def test_a_card_without_a_histogram_says_nothing_of_drift(store: Store, queue: Queue) -> None:
    assert DEFAULT_WEIGHTS.exists()
    Gauges(store=store, queue=queue, weights_card=DEFAULT_WEIGHTS.with_name("none.json")).show()
    assert metrics.state.is_known
    metrics.state.is_known = False
