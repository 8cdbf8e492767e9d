"""A transaction stalls after it got its number: whoever follows events passes nothing over, however long that is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, Engine, make_url, text

from making import POLICY, received
from triage.records.history import History
from triage.records.intake import Intake
from triage.records.reading import Reading
from triage.records.schema import upgrade
from triage.records.store import Store, open_engine
from triage.records.subscriptions import ALL_WORKITEMS, Subscriptions
from triage.study import EventKind, workitem_uid
from triage.workitem import StepState

ONE, TWO, THREE = (workitem_uid(f"1.2.{number}", 0) for number in (1, 2, 3))


@pytest.fixture
def store(postgresql_url: str) -> Iterator[Store]:
    engine = open_engine(postgresql_url)
    upgrade(engine)
    store = Store(engine)
    for number in (1, 2, 3):
        Intake(store, POLICY).receive(received(number))
    yield store
    engine.dispose()


@contextmanager
def stalled(engine: Engine) -> Iterator[Connection]:
    """It has its number, and is committed at the end."""
    store = Store(engine)
    with engine.begin() as connection:
        store.lock_study(connection, "1.2.1")
        History(store).note(connection, "1.2.1", EventKind.CANCEL_ASKED, who="late")
        yield connection


def told(subscriptions: Subscriptions) -> set[tuple[str, StepState]]:
    """All that is due now, as if it had arrived."""
    found = set()
    while (batch := subscriptions.due("WATCHER")) is not None:
        found |= {(notice.workitem_uid, notice.state) for notice in batch.notices}
        subscriptions.told("WATCHER", batch)
    return found


def test_what_comes_after_a_stalled_event_waits_for_it_and_nothing_is_passed_over(store: Store) -> None:
    subscriptions, reading = Subscriptions(store), Reading(store)
    reading.start_reading("1.2.1", "ann")
    subscriptions.subscribe("WATCHER", ALL_WORKITEMS)
    assert told(subscriptions) == {(ONE, "IN PROGRESS"), (TWO, "SCHEDULED"), (THREE, "SCHEDULED")}
    with stalled(store.engine):
        reading.start_reading("1.2.2", "ann")
        Intake(store, POLICY).receive(received(9))
        for _ in range(3):
            assert told(subscriptions) == set()
    batch = subscriptions.due("WATCHER")
    assert batch is not None
    assert [(notice.workitem_uid, bool(notice.asked_by)) for notice in batch.notices] == [
        (ONE, True),
        (TWO, False),
        (workitem_uid("1.2.9", 0), False),
    ]


def test_events_go_on_being_told_while_there_is_always_somebody_who_writes(store: Store) -> None:
    """Those are waited for who may have a smaller number; not those who came later."""
    subscriptions, reading = Subscriptions(store), Reading(store)
    subscriptions.subscribe("WATCHER", TWO)
    assert told(subscriptions) == {(TWO, "SCHEDULED")}
    with stalled(store.engine):
        reading.start_reading("1.2.2", "ann")
        assert told(subscriptions) == set()
        later = store.engine.connect()
        transaction = later.begin()
        Store(store.engine).lock_study(later, "1.2.3")
        History(store).note(later, "1.2.3", EventKind.OPENED)
    assert (TWO, "IN PROGRESS") in told(subscriptions)
    transaction.rollback()
    later.close()


def test_who_subscribes_during_a_stall_is_told_what_was_stalled(store: Store) -> None:
    subscriptions, reading = Subscriptions(store), Reading(store)
    reading.start_reading("1.2.1", "ann")
    with stalled(store.engine):
        reading.start_reading("1.2.2", "ann")
        subscriptions.subscribe("WATCHER", ONE)
    batch = subscriptions.due("WATCHER")
    assert batch is not None
    assert (ONE, "late") in {(notice.workitem_uid, notice.asked_by) for notice in batch.notices}


def test_viewers_hear_of_an_event_that_was_committed_after_a_later_one(store: Store) -> None:
    history = History(store)
    with stalled(store.engine):
        Reading(store).start_reading("1.2.2", "ann")
        before = history.version()
        assert history.version() == before
    assert history.version() != before


def test_each_statement_sees_what_was_committed_before_it_whatever_the_sites_default(postgresql_url: str) -> None:
    """Else the last number would be of before those are asked for who write."""
    url = make_url(postgresql_url)
    admin = open_engine(postgresql_url)
    with admin.begin() as connection:
        name = url.database
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation TO 'repeatable read'"))
    admin.dispose()
    engine = open_engine(postgresql_url)
    with Store(engine).at_once() as connection:
        assert connection.execute(text("SHOW default_transaction_isolation")).scalar() == "repeatable read"
    with engine.connect() as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar() == "read committed"
    engine.dispose()
