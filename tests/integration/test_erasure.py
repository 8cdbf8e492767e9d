"""A study that is erased leaves nothing behind, and nothing of anybody else goes with it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text

from daemon.complaint import DatabaseUnavailableError
from daemon.house import House
from daemon.kept import KeptFile
from daemon.operating.erasing import compact, erase, refuse_waited_for
from daemon.settings import Settings
from making import CARD, finding, received
from stores import BUCKET, KEYS, Fault, bad_store, s3_server
from triage.errors import ConflictError, StudyNotFoundError
from triage.order import Order, Word
from triage.policy import Policy, judge
from triage.records.audit import Audit
from triage.records.erasure import Erasure
from triage.records.intake import Intake
from triage.records.orders import Message, Orders
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.store import OperationError, Store, open_engine
from triage.records.subscriptions import ALL_WORKITEMS, Subscriptions
from triage.records.tables import events, instances, metadata, subscribers
from triage.study import ClinicalPriority, Opinion, workitem_uid
from triage.user import Access

CANARY = "Kanarienvogel"
POLICY = Policy()


@pytest.fixture
def store(engine: Engine) -> Store:
    """Two studies of one patient, one of another, each with all that can hang on it."""
    store = Store(engine)
    intake, reading, queue, orders = Intake(store, POLICY), Reading(store), Queue(store, POLICY), Orders(store)
    for number, patient in ((1, CANARY), (2, CANARY), (3, "OTHER")):
        names = {"patient_id": patient, "patient_name": f"{patient}^Kind", "accession_number": f"{patient}-{number}"}
        intake.receive(received(number, **names))
        order = Order(accession_number=names["accession_number"], clinical_priority=ClinicalPriority.STAT)
        orders.take(Message(sha256=str(number) * 64), [order], Word(who="RIS", source="HL7"))
        content = f"MSH|^~\\&|RIS\rPID|||{patient}^^^X||{patient}^Kind\rOBR|1||{patient}-{number}\r".encode()
        orders.refuse(Message(sha256=f"f{number}".ljust(64, "0")), "AE", "PID", content)
    for job in queue.claim("worker", 60.0, most=3):
        found = finding(0.99)
        queue.finish([Result(job=job, finding=found, priority=judge(found, card=CARD, policy=POLICY))])
    for number in (1, 2, 3):
        reading.start_reading(f"1.2.{number}", "Dr Adler")
        reading.opine(f"1.2.{number}", "Dr Adler", Opinion.AGREE)
    reading.close("1.2.1")
    reading.close("1.2.2")
    return store


def everything(store: Store) -> str:
    """Every value of every row."""
    with store.reading() as connection:
        rows = [connection.execute(select(table)).all() for table in metadata.sorted_tables]
    return repr(rows)


def test_what_is_held_of_a_patient_is_told_with_what_is_still_needed(store: Store) -> None:
    erasure = Erasure(store)
    held = erasure.of_patient(CANARY)
    assert [(each.study_instance_uid, each.is_waited_for, each.instances) for each in held] == [
        ("1.2.1", False, 1),
        ("1.2.2", False, 1),
    ]
    refuse_waited_for(held, force=False)
    (being_read,) = erasure.of_study("1.2.3")
    with pytest.raises(ConflictError, match="1 of 1 studies have not been read"):
        refuse_waited_for([being_read], force=False)
    refuse_waited_for([being_read], force=True)
    assert erasure.of_study("1.2.99") == erasure.of_patient("nobody") == []


@pytest.mark.fault(123)
def test_nothing_of_an_erased_patient_is_left_and_nobody_else_goes(store: Store) -> None:
    erasure = Erasure(store)
    assert everything(store).count(CANARY) > 8
    erasure.erase("1.2.1")
    erasure.erase("1.2.2")
    with pytest.raises(StudyNotFoundError):
        erasure.erase("1.2.2")
    assert CANARY not in everything(store)
    assert "OTHER-3" in everything(store)
    assert [entry.study_instance_uid for entry in Reading(store).worklist()] == ["1.2.3"]
    with store.reading() as connection:
        for table in ("orders", "opinions", "instances", "findings", "jobs", "studies"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 1, table
        assert connection.execute(text("SELECT count(*) FROM hl7_messages WHERE content IS NOT NULL")).scalar() == 1


def test_orders_and_messages_without_a_study_go_by_patient(store: Store) -> None:
    erasure, orders = Erasure(store), Orders(store)
    for number in ("LATE-1", "LATE-2"):
        order = Order(accession_number=number, patient_id="LATE", clinical_priority=ClinicalPriority.STAT)
        orders.take(Message(sha256=number.ljust(64, "0")), [order], Word(who="RIS", source="HL7"))
    orders.refuse(Message(sha256="a" * 64), "AE", "PID", b"MSH|^~\\&|RIS\rPID|||LATE^^^X\r")
    orders.refuse(Message(sha256="b" * 64), "AE", "PID", b"MSH|^~\\&|RIS\rPID|||LATER^^^X\r")
    would = erasure.erase_loose("LATE", dry_run=True)
    assert (would.orders, would.messages) == (2, 1)
    assert erasure.erase_loose("LATE") == would
    assert erasure.erase_loose("LATE").orders == 0
    with store.reading() as connection:
        kept = connection.execute(text("SELECT count(*) FROM hl7_messages WHERE content IS NOT NULL")).scalar()
    assert kept == 4


def test_what_peers_asked_for_goes_with_a_patient_unless_a_repository_is_to_be_told(store: Store) -> None:
    at, asked = datetime(2026, 1, 5, tzinfo=UTC), '{"query": "TEFURQ=="}'
    for forwards in (False, True):
        access = Access(at=at, who="PACS over DICOM", verb="find", details=asked)
        Audit(store, forwards=forwards).enter({f"line {forwards}": access})
    Erasure(store).erase_loose("LATE", dry_run=True)
    assert everything(store).count(asked) == 2
    Erasure(store).erase_loose("LATE")
    assert everything(store).count(asked) == 1
    assert [access.details for access, _ in Audit(store).waiting(9)] == [asked]


def test_what_was_erased_stands_nowhere_in_the_file_of_sqlite(store: Store, tmp_path: Path) -> None:
    if store.backend != "sqlite":
        pytest.skip("PostgreSQL overwrites with its own vacuum")
    files = lambda: b"".join(path.read_bytes() for path in tmp_path.glob("triage.db*"))  # noqa: E731
    assert CANARY.encode() in files()
    for number in (1, 2):
        Erasure(store).erase(f"1.2.{number}")
    Erasure(store).compact()
    assert CANARY.encode() not in files()
    assert b"OTHER" in files()


@pytest.fixture
def impatient(store: Store) -> Store:
    if store.backend != "sqlite":
        pytest.skip("PostgreSQL overwrites with its own vacuum")
    with store.engine.connect() as connection:  # the one connection of the pool
        connection.exec_driver_sql("PRAGMA busy_timeout=100")
    return store


def test_it_is_not_said_to_be_compact_while_a_reader_keeps_the_log(impatient: Store, tmp_path: Path) -> None:
    other = open_engine(f"sqlite:///{tmp_path / 'triage.db'}")
    with Store(other).reading() as reader:
        reader.execute(text("SELECT count(*) FROM studies")).scalar()
        Erasure(impatient).erase("1.2.1")
        with pytest.raises(OperationError, match="locked"):
            Erasure(impatient).compact()
    Erasure(impatient).compact()
    other.dispose()
    assert not (tmp_path / "triage.db-wal").stat().st_size


def test_a_writer_in_the_way_of_compacting_is_an_error_of_the_database(impatient: Store, tmp_path: Path) -> None:
    other = open_engine(f"sqlite:///{tmp_path / 'triage.db'}")
    with Store(other).writing(), pytest.raises(OperationError, match="locked"):
        Erasure(impatient).compact()
    other.dispose()


def test_subscribers_miss_nothing_though_numbers_are_given_again(store: Store) -> None:
    with store.writing() as connection:
        last = {name: connection.execute(select(func.max(column))).scalar_one() for name, column in KEYS_OF.items()}
        connection.execute(subscribers.insert().values(ae_title="VIEWER", **last))
    Erasure(store).erase("1.2.3")
    with store.reading() as connection:
        place = connection.execute(select(subscribers.c.event_id, subscribers.c.instance_id)).one()
        now = [connection.execute(select(func.max(column))).scalar_one() for column in KEYS_OF.values()]
    assert list(place) == now
    assert list(place) != list(last.values())


KEYS_OF = {"event_id": events.c.event_id, "instance_id": instances.c.instance_id}


# -- with its films ------------------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(Settings(data_dir=tmp_path / "data"), POLICY)


def keep(house: House, number: int, content: bytes) -> None:
    stored = house.spool.write(b"", content)
    house.spool.let_go(stored)
    made = received(number)
    Intake(house.store, POLICY).receive(
        type(made)(header=made.header, sha256=stored.sha256, size_bytes=stored.size_bytes)
    )


def kept(house: House) -> list[KeptFile]:
    return list(house.spool.kept.files(0))


def test_films_go_with_their_study_and_whoever_is_interrupted_begins_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(house, 1, b"one")
    keep(house, 2, b"two")
    erase_rows = Erasure.erase
    monkeypatch.setattr(Erasure, "erase", broken)
    with pytest.raises(KeyboardInterrupt):
        erase(house, "1.2.1")
    assert len(kept(house)) == 1
    assert [access.outcome for access in house.audit.list(9, same={"verb": "purge"})] == ["failed"]
    assert len(Erasure(house.store).of_study("1.2.1")) == 1, "a row without a file can be erased again"
    monkeypatch.setattr(Erasure, "erase", erase_rows)
    assert erase(house, "1.2.1") == 1
    assert Erasure(house.store).of_study("1.2.1") == []
    assert len(kept(house)) == 1


def test_whoever_purges_is_told_in_a_line_that_traces_are_left(house: House) -> None:
    keep(house, 1, b"one")
    with house.store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=100")
    other, told = open_engine(house.settings.url), r"traces may still lie .*database is locked"
    with Store(other).writing(), pytest.raises(DatabaseUnavailableError, match=told):
        compact(house, always=True)
    other.dispose()
    assert compact(house, always=True)


def broken(*_: object) -> list[str]:
    raise KeyboardInterrupt


def test_films_go_from_a_bucket_too_and_a_bucket_that_fails_leaves_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with s3_server() as url, bad_store(url) as bad:
        where = {"pixel_store": f"s3://{BUCKET}/b", "pixel_store_endpoint": bad.url, "pixel_store_seconds": 4}
        house = House(Settings(data_dir=tmp_path / "data", **where), POLICY)
        keep(house, 1, b"one")
        bad.faults = [Fault("DELETE", bad.fails), Fault("POST", bad.fails)]
        with pytest.raises(OSError, match="DELETE"):
            erase(house, "1.2.1")
        assert len(Erasure(house.store).of_study("1.2.1")) == 1
        bad.faults = []
        assert erase(house, "1.2.1") == 1
        assert kept(house) == []
        house.store.engine.dispose()


# -- while a subscriber is being told --------------------------------------------------------------------------------


def until_told(subscriptions: Subscriptions) -> None:
    while (batch := subscriptions.due("VIEWER")) is not None:
        subscriptions.told("VIEWER", batch)


def test_a_subscriber_that_is_being_told_misses_nothing_though_numbers_are_given_again(store: Store) -> None:
    """Whether they had been given again before it was told, or are only then."""
    subscriptions, reading = Subscriptions(store), Reading(store)
    subscriptions.subscribe("VIEWER", ALL_WORKITEMS)
    reading.release("1.2.3")
    for is_given_before in (True, False):
        until_told(subscriptions)
        study = 4 if is_given_before else 5
        Intake(store, POLICY).receive(received(study))
        reading.start_reading(f"1.2.{study}", "Dr Adler")
        batch = subscriptions.due("VIEWER")
        assert batch is not None
        Erasure(store).erase(f"1.2.{study}")
        if is_given_before:
            reading.start_reading("1.2.3", "Dr Adler")
            subscriptions.told("VIEWER", batch)
        else:
            subscriptions.told("VIEWER", batch)
            reading.close("1.2.3", "Dr Adler")
        again = subscriptions.due("VIEWER")
        assert again is not None
        assert reading.study("1.2.3")["workitem_uid"] in {notice.workitem_uid for notice in again.notices}


def test_a_study_that_is_erased_between_two_questions_is_told_of_no_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.backend == "sqlite":
        pytest.skip("there all questions of a transaction see the same")
    subscriptions = Subscriptions(store)
    subscriptions.subscribe("VIEWER", ALL_WORKITEMS)
    until_told(subscriptions)
    for number in (4, 5):
        Intake(store, POLICY).receive(received(number))
        Reading(store).start_reading(f"1.2.{number}", "Dr Adler")
    between = Subscriptions._between

    def erased_after(*arguments: Any) -> Any:
        found = between(*arguments)
        if arguments[2] is instances.c.instance_id:
            Erasure(store).erase("1.2.4")
        return found

    monkeypatch.setattr(Subscriptions, "_between", erased_after)
    batch = subscriptions.due("VIEWER")
    assert batch is not None
    assert {notice.workitem_uid for notice in batch.notices} == {workitem_uid("1.2.5", 0)}
