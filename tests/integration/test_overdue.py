"""A study that has waited for too long rises by the clock alone: its history says so, once, and from where to where."""

from __future__ import annotations

import pytest
from plans import plans
from sqlalchemy import Engine, update

from making import CARD, POLICY, finding, received
from triage.policy import judge
from triage.records.intake import Intake
from triage.records.overdue import Overdue
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import studies
from triage.study import Event, EventKind


@pytest.fixture
def store(engine: Engine) -> Store:
    """Five studies: the last is flagged, the others stand in the order of their arrival."""
    store = Store(engine)
    intake, queue = Intake(store, POLICY), Queue(store, POLICY)
    for number, p_pneumonia in ((1, 0.02), (2, 0.02), (3, 0.02), (4, 0.02), (5, 0.97)):
        intake.receive(received(number))
        (job,) = queue.claim("test", 60)
        found = finding(p_pneumonia)
        queue.finish([Result(job=job, finding=found, priority=judge(found, card=CARD, policy=POLICY))])
    return store


def let_wait(store: Store, *numbers: int) -> None:
    """Their limit has just passed."""
    mine = update(studies).where(studies.c.study_instance_uid.in_([f"1.2.{number}" for number in numbers]))
    with store.writing() as connection:
        connection.execute(mine.values(overdue_at=store.after(-1)))


def told(store: Store, number: int) -> list[Event]:
    return [event for event in Reading(store).history.of_study(f"1.2.{number}") if event.kind is EventKind.OVERDUE]


def test_its_history_tells_once_that_it_waited_too_long_and_from_where_it_rose(store: Store) -> None:
    overdue = Overdue(store)
    assert overdue.note() == 0
    let_wait(store, 4)
    before = Reading(store).history.version()
    assert overdue.note() == 1
    assert Reading(store).history.version() != before  # whoever watches fetches the list again
    (event,) = told(store, 4)
    assert (event.rank_from, event.rank_to) == (5, 1)
    assert event.words == f"waited over the limit of {POLICY.waiting_limit_minutes} min"
    assert [entry.study_instance_uid for entry in Reading(store).worklist(1)] == ["1.2.4"]
    assert overdue.note() == 0
    assert len(told(store, 4)) == 1


def test_a_flagged_study_waits_no_less_and_moves_nowhere(store: Store) -> None:
    let_wait(store, 5)
    assert Overdue(store).note() == 1
    assert [(event.rank_from, event.rank_to) for event in told(store, 5)] == [(None, None)]


def test_of_many_some_are_told_of_at_a_time_and_in_the_end_all(store: Store) -> None:
    let_wait(store, 1, 2, 3)
    overdue = Overdue(store)
    assert [overdue.note(most=2) for _ in range(3)] == [2, 1, 0]
    assert all(len(told(store, number)) == 1 for number in (1, 2, 3))


def test_what_was_read_has_waited_long_enough_and_waits_anew_when_it_is_opened_again(store: Store) -> None:
    reading, overdue = Reading(store), Overdue(store)
    let_wait(store, 1)
    assert overdue.note() == 1
    reading.close("1.2.1", "ann")
    let_wait(store, 1)
    assert overdue.note() == 0
    Intake(store, POLICY).receive(received(11, 1))
    assert overdue.note() == 0
    let_wait(store, 1)
    assert overdue.note() == 1
    assert len(told(store, 1)) == 2


def test_nothing_is_looked_through_that_grows_with_what_was_read(store: Store, engine: Engine) -> None:
    let_wait(store, 1)
    for plan in plans(engine, Overdue(store).note, as_if_large=True):
        assert "Seq Scan" not in plan
        assert "SCAN studies" not in plan.replace("SCAN studies USING", "")
        assert "SCAN events" not in plan
        assert "Hash" not in plan
