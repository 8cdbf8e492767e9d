"""The order of the reading worklist and its promises, on the view itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, insert, select, text, update

from making import CARD, POLICY, finding, received
from triage.errors import Reason
from triage.policy import Policy, judge
from triage.records.intake import Intake
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.store import Store, open_engine, study_columns
from triage.records.tables import metadata, studies
from triage.study import Analysis, Priority
from triage.worklist import Clock, reading_worklist

LIMIT_MINUTES = 30
READING_MINUTES = 10


def analyse(store: Store, p_pneumonia: float, policy: Policy = POLICY) -> None:
    """Give the oldest job this result."""
    queue = Queue(store, policy)
    (job,) = queue.claim("test", 60)
    found = finding(p_pneumonia)
    queue.finish([Result(job=job, finding=found, priority=judge(found, card=CARD, policy=policy))])


def order(engine: Engine) -> list[str]:
    return [entry.study_instance_uid for entry in Reading(Store(engine)).worklist()]


def test_a_study_is_listed_from_the_moment_it_is_received(engine: Engine) -> None:
    Intake(Store(engine), POLICY).receive(received(1))
    (entry,) = Reading(Store(engine)).worklist()
    assert (entry.rank, entry.analysis, entry.flagged) == (1, "pending", False)
    assert entry.why == "Routine order; not yet analysed; then by arrival"
    assert entry.received_at.tzinfo is not None
    assert 0 <= entry.waiting_seconds < 60


def test_a_flagged_study_is_read_before_those_that_came_earlier(engine: Engine) -> None:
    store = Store(engine)
    for number in (1, 2, 3):
        Intake(store, POLICY).receive(received(number))
    for probability in (0.1, 0.2, 0.95):
        analyse(store, probability)
    assert order(engine) == ["1.2.3", "1.2.1", "1.2.2"]
    first = Reading(store).worklist()[0]
    assert (first.tier, first.why) == ("likely", "Routine order; flagged: pneumonia likely; then by arrival")


def test_the_analysis_never_lifts_a_routine_study_over_a_stat_one(engine: Engine) -> None:
    store = Store(engine)
    Intake(store, POLICY).receive(received(1))
    analyse(store, 0.99)
    Intake(store, POLICY).receive(received(2, clinical_priority=0))
    assert order(engine) == ["1.2.2", "1.2.1"]


def test_an_overdue_study_joins_the_flagged_by_arrival_and_does_not_jump_over_them(engine: Engine) -> None:
    store = Store(engine)
    for number in (1, 2, 3):
        Intake(store, POLICY).receive(received(number))
    for probability in (0.9, 0.1, 0.9):
        analyse(store, probability)
    with store.writing() as connection:
        overdue = studies.c.study_instance_uid == "1.2.2"
        connection.execute(update(studies).where(overdue).values(overdue_at=store.after(-1)))
    assert order(engine) == ["1.2.1", "1.2.2", "1.2.3"]
    assert "waited over the limit of 240 min" in Reading(store).worklist()[1].why


@pytest.mark.fault(116)
def test_a_read_study_leaves_and_a_late_image_brings_it_back(engine: Engine) -> None:
    store = Store(engine)
    Intake(store, POLICY).receive(received(1, study=7))
    analyse(store, 0.95)
    Reading(store).close("1.2.7")
    assert order(engine) == []
    receipt = Intake(store, POLICY).receive(received(2, study=7))
    assert receipt.reopened
    (entry,) = Reading(store).worklist()
    assert (entry.status, entry.analysis, entry.flagged) == ("unread", "pending", False)


@pytest.mark.fault(50)
def test_a_report_about_a_read_study_does_not_bring_it_back(engine: Engine) -> None:
    store = Store(engine)
    Intake(store, POLICY).receive(received(1, study=7))
    Reading(store).close("1.2.7")
    basic_text_sr = "1.2.840.10008.5.1.4.1.1.88.11"
    report = received(2, study=7, sop_class_uid=basic_text_sr, not_analysed=Reason.UNSUPPORTED_SOP_CLASS)
    assert not Intake(store, POLICY).receive(report).reopened
    assert order(engine) == []


@pytest.mark.parametrize("name", ["Pneu^'; DROP TABLE studies; --", "李^小明=x", "%s %(a)s {0}", "A" * 500])
def test_names_are_kept_as_they_are(engine: Engine, name: str) -> None:
    Intake(Store(engine), POLICY).receive(received(1, patient_name=name))
    assert Reading(Store(engine)).worklist()[0].patient_name == name[:256]


# -- the promise, study by study -----------------------------------------------------------------------------------

CLOCK = Clock(
    now="(SELECT at FROM clock)",
    after="",
    seconds_since="CAST((julianday((SELECT at FROM clock)) - julianday({column})) * 86400 AS INTEGER)",
    later="",
)
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Arrival:
    """A study of the trace: minutes after the one before, and whether it will be flagged, after how many minutes."""

    gap: int
    flagged: bool
    after: int


@pytest.fixture(scope="module")
def simulated() -> Iterator[Engine]:
    """The view over a clock that the test sets."""
    engine = open_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(text("CREATE TABLE clock (at TEXT)"))
        connection.execute(text("INSERT INTO clock VALUES ('')"))
        connection.exec_driver_sql(f"CREATE VIEW reading_worklist AS {reading_worklist(CLOCK)}")
    yield engine
    engine.dispose()


def row(number: int, at: datetime) -> dict[str, Any]:
    waiting = Priority(analysis=Analysis.PENDING, words="not yet analysed", policy_version="test")
    return {
        "study_instance_uid": f"1.2.{number:04}",
        "workitem_uid": f"2.25.{number}",
        "received_at": at,
        "waiting_since": at,
        "overdue_at": at + timedelta(minutes=LIMIT_MINUTES),
        "waiting_limit_minutes": LIMIT_MINUTES,
        "clinical_priority": 2,
        "episode": 0,
        "status": "unread",
        "changed_while_reading": False,
        "identity_conflict": False,
        **study_columns(waiting),
    }


def read_all(connection: Connection, trace: list[Arrival]) -> dict[int, float]:
    """Minutes each study waited for one reader who always takes the first of the view."""
    connection.execute(studies.delete())
    arrivals = [sum(a.gap for a in trace[: n + 1]) for n in range(len(trace))]
    waits: dict[int, float] = {}
    minute = 0
    while len(waits) < len(trace):
        minute = max(minute, min(arrivals[n] for n in range(len(trace)) if n not in waits))
        show(connection, trace, arrivals, minute)
        first = text("SELECT study_instance_uid FROM reading_worklist ORDER BY rank LIMIT 1")
        uid = connection.execute(first).scalar()
        assert uid is not None
        number = int(uid.rsplit(".", 1)[1])
        waits[number] = minute - arrivals[number]
        read = studies.c.study_instance_uid == uid
        connection.execute(update(studies).where(read).values(status="read"))
        minute += READING_MINUTES
    return waits


def show(connection: Connection, trace: list[Arrival], arrivals: list[int], minute: int) -> None:
    """What is known at this minute: who has arrived, and which analyses have come in."""
    now = START + timedelta(minutes=minute)
    connection.execute(text("UPDATE clock SET at = :at"), {"at": now.strftime("%Y-%m-%d %H:%M:%S.%f")})
    known = set(connection.execute(select(studies.c.study_instance_uid)).scalars())
    for number, arrival in enumerate(trace):
        here = arrivals[number] <= minute
        if here and f"1.2.{number:04}" not in known:
            connection.execute(insert(studies).values(row(number, START + timedelta(minutes=arrivals[number]))))
        if here and arrival.flagged and arrivals[number] + arrival.after <= minute:
            which = studies.c.study_instance_uid == f"1.2.{number:04}"
            connection.execute(update(studies).where(which).values(flagged=True, analysis="analysed"))


def first_come_first_served(trace: list[Arrival]) -> list[float]:
    free = clock = 0
    waits = []
    for arrival in trace:
        clock += arrival.gap
        waits.append(float(max(free, clock) - clock))
        free = max(free, clock) + READING_MINUTES
    return waits


# A reading takes 10 minutes: gaps around that make queues in which an unflagged study could starve.
arrivals_of_a_morning = st.lists(
    st.builds(Arrival, gap=st.integers(0, 14), flagged=st.booleans(), after=st.just(0)), min_size=5, max_size=30
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trace=arrivals_of_a_morning)
def test_no_flagged_study_waits_longer_than_first_come_and_no_other_past_its_bound(
    simulated: Engine, trace: list[Arrival]
) -> None:
    with simulated.begin() as connection:
        waits = read_all(connection, trace)
    for number, fair in enumerate(first_come_first_served(trace)):
        bound = fair if trace[number].flagged else fair + LIMIT_MINUTES + READING_MINUTES
        assert waits[number] <= bound


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    trace=st.lists(
        st.builds(Arrival, gap=st.integers(0, 25), flagged=st.booleans(), after=st.integers(0, 40)), max_size=20
    ).filter(bool)
)
def test_a_late_analysis_breaks_no_bound_of_the_others(simulated: Engine, trace: list[Arrival]) -> None:
    with simulated.begin() as connection:
        waits = read_all(connection, trace)
    for number, fair in enumerate(first_come_first_served(trace)):
        assert waits[number] <= fair + LIMIT_MINUTES + READING_MINUTES


@pytest.mark.fault(108)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trace=arrivals_of_a_morning)
def test_without_any_analysis_the_order_is_first_come_first_served(simulated: Engine, trace: list[Arrival]) -> None:
    blind = [Arrival(gap=a.gap, flagged=False, after=0) for a in trace]
    with simulated.begin() as connection:
        waits = read_all(connection, blind)
    assert [waits[n] for n in range(len(blind))] == first_come_first_served(blind)
