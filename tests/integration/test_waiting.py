"""A clock stood ahead and was put back: nobody changes place, and nobody waits since a time still to come."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select, update

from making import POLICY, received
from triage.records.intake import Intake
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import studies
from triage.records.waiting import Waiting

DAY_SECONDS = 86400


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


def came(store: Store, number: int, ahead_seconds: float = 0) -> None:
    """While the clock stood so far ahead."""
    Intake(store, POLICY).receive(received(number))
    if ahead_seconds:
        then = {name: store.after(ahead_seconds) for name in ("received_at", "waiting_since")}
        limit_seconds = POLICY.waiting_limit_minutes * 60
        mine = update(studies).where(studies.c.study_instance_uid == f"1.2.{number}")
        with store.writing() as connection:
            connection.execute(mine.values(then | {"overdue_at": store.after(ahead_seconds + limit_seconds)}))


def order(store: Store) -> list[str]:
    return [entry.study_instance_uid for entry in Reading(store).worklist()]


def mended(store: Store) -> int:
    return Waiting(store).mend()


def test_who_came_while_the_clock_was_a_day_ahead_and_who_came_after_wait_since_now_in_their_order(
    store: Store,
) -> None:
    waiting = Waiting(store)
    came(store, 3)
    assert not waiting.is_ahead()
    came(store, 2, DAY_SECONDS)
    came(store, 4)  # after all who are there, so a day ahead too
    came(store, 1)
    assert waiting.is_ahead()
    assert waiting.mend() == 3
    assert not waiting.is_ahead()
    assert order(store) == ["1.2.3", "1.2.2", "1.2.4", "1.2.1"]
    assert all(0 <= entry.waiting_seconds < 600 for entry in Reading(store).worklist())
    late = store.read_clock() - timedelta(minutes=10)
    came(store, 5)
    Intake(store, POLICY).receive(replace(received(6), arrived_at=late))
    assert order(store) == ["1.2.6", "1.2.3", "1.2.2", "1.2.4", "1.2.1", "1.2.5"]


def test_the_limit_begins_where_the_waiting_does_and_becomes_no_longer(store: Store) -> None:
    came(store, 1, DAY_SECONDS)
    came(store, 2)
    with store.writing() as connection:
        soon = update(studies).where(studies.c.study_instance_uid == "1.2.2").values(overdue_at=store.after(60))
        connection.execute(soon)
    mended(store)
    with store.reading() as connection:
        query = select(studies).order_by(studies.c.study_instance_uid)
        first, second = connection.execute(query).mappings()
    limit = timedelta(minutes=POLICY.waiting_limit_minutes)
    assert first["overdue_at"] - first["waiting_since"] == limit
    assert first["received_at"] <= first["waiting_since"] <= store.read_clock()
    assert second["overdue_at"] < store.read_clock() + timedelta(seconds=61)


def test_the_gaps_between_them_stay_but_nobody_is_pulled_before_one_who_stood_before_him(store: Store) -> None:
    for number, seconds in ((1, -60), (2, DAY_SECONDS - 3600), (3, DAY_SECONDS - 30), (4, DAY_SECONDS)):
        came(store, number, seconds)
    mended(store)
    assert order(store) == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    with store.reading() as connection:
        since = list(connection.execute(select(studies.c.waiting_since).order_by(studies.c.waiting_since)).scalars())
    assert since[1] - since[0] == timedelta(milliseconds=1)
    assert timedelta(seconds=29) < since[3] - since[2] < timedelta(seconds=31)


def test_small_steps_and_studies_that_were_read_are_left_alone(store: Store) -> None:
    came(store, 1, 300)
    came(store, 2, DAY_SECONDS)
    Reading(store).close("1.2.2")
    assert not Waiting(store).is_ahead()


def test_who_came_while_the_database_was_away_is_overdue_a_limit_after_he_came(store: Store) -> None:
    then = store.read_clock() - timedelta(minutes=POLICY.waiting_limit_minutes + 1)
    Intake(store, POLICY).receive(replace(received(1), arrived_at=then))
    (entry,) = Reading(store).worklist()
    assert "waited over the limit" in entry.why
