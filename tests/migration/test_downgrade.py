"""A database goes back to the schema of any earlier release, with its studies, and up again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, inspect, text
from test_upgrade import INSTANCE, JOB, STUDY, at_revision

from making import received
from triage.errors import TriageError
from triage.policy import Policy
from triage.records import schema
from triage.records.copying import check_copy
from triage.records.history import History
from triage.records.intake import Intake
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.store import Store, open_engine
from triage.records.subscriptions import ALL_WORKITEMS, Subscriptions
from triage.records.users import Users
from triage.study import EventKind
from triage.user import Role

REVISIONS = sorted(path.name[:4] for path in (schema.MIGRATIONS / "versions").glob("*.py"))
EARLIER = REVISIONS[:-1]


@pytest.fixture
def held(engine: Engine) -> Engine:
    """Of this version, with a row in most tables."""
    store = Store(engine)
    intake, reading = Intake(store, Policy()), Reading(store)
    for number in range(1, 4):
        intake.receive(received(number))
    reading.start_reading("1.2.1", "Dr Adler")
    reading.close("1.2.1")
    Users(store).add("Dr Adler", Role.ADMIN, "correct horse battery")
    assert Queue(store, Policy()).claim("worker", 60.0)
    return engine


def condition(index: Any) -> str:
    """Of a partial index."""
    return " ".join(str(value) for key, value in index.get("dialect_options", {}).items() if key.endswith("_where"))


def tables(connection: Connection) -> dict[str, object]:
    """What the database holds them to be: columns, keys and indexes."""
    seen = inspect(connection)
    return {
        name: (
            sorted((c["name"], str(c["type"]), c["nullable"], str(c["default"])) for c in seen.get_columns(name)),
            seen.get_pk_constraint(name),
            sorted(seen.get_foreign_keys(name), key=str),
            sorted(seen.get_unique_constraints(name), key=str),
            sorted((str(i["name"]), str(i["column_names"]), i["unique"], condition(i)) for i in seen.get_indexes(name)),
        )
        for name in seen.get_table_names()
    }


def schema_of(url: str, revision: str) -> dict[str, object]:
    engine = at_revision(url, revision)
    with engine.connect() as connection:
        found = tables(connection)
    engine.dispose()
    return found


@pytest.fixture
def another_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """A second database of the same kind."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'another.db'}"
        return
    engine = open_engine(database_url)
    name = f"{engine.url.database}_2"
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        yield engine.url.set(database=name).render_as_string(hide_password=False)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.mark.parametrize("revision", EARLIER)
def test_back_to_each_earlier_schema_with_data_and_up_again(held: Engine, another_url: str, revision: str) -> None:
    with held.connect() as connection:
        newest = tables(connection)
    change = schema.downgrade(held, revision)
    assert (change.before, change.after) == (REVISIONS[-1], revision)
    with held.connect() as connection:
        assert tables(connection) == schema_of(another_url, revision)
        assert connection.execute(text("SELECT count(*) FROM studies")).scalar() == 3
        assert connection.execute(text("SELECT count(*) FROM jobs JOIN instances USING (instance_id)")).scalar() == 3
        ranks = connection.execute(text("SELECT study_instance_uid FROM reading_worklist ORDER BY rank"))
        assert ranks.scalars().all() == ["1.2.2", "1.2.3"]
    schema.upgrade(held)
    with held.connect() as connection:
        assert tables(connection) == newest
    Intake(Store(held), Policy()).receive(received(9))
    assert [entry.study_instance_uid for entry in Reading(Store(held)).worklist()] == ["1.2.2", "1.2.3", "1.2.9"]


def test_what_the_version_before_does_not_know_is_gone_before_it_comes_back(held: Engine) -> None:
    store = Store(held)
    with store.writing() as connection:
        for kind in (EventKind.OVERDUE, EventKind.PROGRESSED, EventKind.STARTED):
            History(store).note(connection, "1.2.2", kind)
    schema.downgrade(held, "0011")
    assert [event.kind for event in History(store).of_study("1.2.2")] == [EventKind.RECEIVED, EventKind.STARTED]


def test_an_event_that_only_a_later_version_knows_stops_nobody(held: Engine) -> None:
    store = Store(held)
    subscriptions = Subscriptions(store)
    subscriptions.subscribe("WATCHER", ALL_WORKITEMS)
    with held.begin() as connection:
        row = "('1.2.2', '2026-01-05 08:00:00', 'dreamt_of', '', '')"
        connection.execute(text(f"INSERT INTO events (study_instance_uid, at, kind, who, words) VALUES {row}"))
    assert next(event.kind for event in History(store).of_study("1.2.2")) is EventKind.OTHER
    assert subscriptions.due("WATCHER") is not None


@pytest.mark.parametrize("revision", EARLIER)
def test_from_each_earlier_schema_with_data_to_this_one(database_url: str, revision: str) -> None:
    engine = at_revision(database_url, revision)
    first = revision == "0001"
    study = STUDY if first else STUDY.replace("identity_conflict)", "identity_conflict, workitem_uid)", 1)
    study = study if first else study.rstrip(")") + ", :workitem)"
    with engine.begin() as connection:
        for number in range(1, 4):
            values = {"uid": f"1.2.{number}", "number": number}
            connection.execute(text(study), {"uid": values["uid"]} | ({} if first else {"workitem": f"2.25.{number}"}))
            connection.execute(text(INSTANCE), values)
            connection.execute(text(JOB), {"number": number})
    change = schema.upgrade(engine)
    assert change
    assert (change.before, change.after) == (revision, REVISIONS[-1])
    assert [entry.study_instance_uid for entry in Reading(Store(engine)).worklist()] == ["1.2.1", "1.2.2", "1.2.3"]
    assert len(Queue(Store(engine), Policy()).claim("worker", 60.0, most=9)) == 3
    engine.dispose()


@pytest.mark.parametrize("revision", [REVISIONS[-1], "9999", "0000"])
def test_where_there_is_no_way_back_it_is_refused(engine: Engine, revision: str) -> None:
    with pytest.raises(TriageError, match=rf"there is a way back to {REVISIONS[-2]}"):
        schema.downgrade(engine, revision)
    with engine.connect() as connection:
        assert schema.versions(connection)[0] == REVISIONS[-1]


def test_of_a_newer_database_this_version_knows_no_way_back(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(TriageError, match="way back to none"):
        schema.downgrade(engine, "0001")


def test_before_its_schema_changes_a_sqlite_database_is_copied(sqlite_url: str, tmp_path: Path) -> None:
    engine = at_revision(sqlite_url, "0005")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO policies VALUES ('kept', '{}', '2026-01-05 08:00:00')"))
    change = schema.upgrade(engine)
    assert change
    assert change.copy == tmp_path / "triage.db.schema-0005"
    assert check_copy(change.copy) == "0005"
    assert change.copy.stat().st_mode & 0o777 == 0o600
    engine.dispose()
    before = open_engine(f"sqlite:///{change.copy}")
    with before.connect() as connection:
        assert connection.execute(text("SELECT version FROM policies")).scalars().all() == ["kept"]
    before.dispose()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_new_database_needs_no_copy(sqlite_url: str, tmp_path: Path) -> None:
    engine = open_engine(sqlite_url)
    change = schema.upgrade(engine)
    assert change
    assert (change.before, change.copy) == (None, None)
    assert not list(tmp_path.glob("*.schema-*"))
    engine.dispose()


def test_what_cannot_be_copied_is_not_changed(sqlite_url: str, tmp_path: Path) -> None:
    engine = at_revision(sqlite_url, "0005")
    (tmp_path / "triage.db.schema-0005").mkdir()
    (tmp_path / "triage.db.schema-0005" / "in-the-way").touch()
    with pytest.raises(TriageError, match="could not be copied"):
        schema.upgrade(engine)
    with engine.connect() as connection:
        assert schema.versions(connection)[0] == "0005"
    engine.dispose()
