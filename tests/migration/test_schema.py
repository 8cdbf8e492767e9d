"""Migrating an empty database arrives at exactly the tables and the view of the code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, inspect, text

from triage.errors import TriageError
from triage.records import schema
from triage.records.store import open_engine
from triage.records.tables import metadata


def view_text(connection: Connection) -> str:
    return inspect(connection).get_view_definition("reading_worklist") or ""


@pytest.fixture
def by_hand(database_url: str) -> Iterator[Engine]:
    """Made from the metadata, without migrations."""
    engine = open_engine(database_url)
    with engine.begin() as connection:
        schema.create_all(connection)
    yield engine
    engine.dispose()


def test_migrations_arrive_at_the_metadata(engine: Engine) -> None:
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    assert differences == []


def test_a_difference_would_be_noticed(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE policies ADD COLUMN surplus INTEGER"))
        assert compare_metadata(MigrationContext.configure(connection), metadata)


def test_the_view_can_be_made_from_the_metadata_alone(by_hand: Engine) -> None:
    with by_hand.connect() as connection:
        assert "studies" in view_text(connection)
        assert connection.execute(text("SELECT * FROM reading_worklist")).all() == []


def test_upgrading_twice_changes_nothing(engine: Engine) -> None:
    schema.upgrade(engine)
    with engine.connect() as connection:
        current, known = schema.versions(connection)
    assert current == known[0]


def test_a_newer_database_is_refused_with_both_versions_named(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(TriageError, match=r"schema 9999.*knows up to 0001"):
        schema.upgrade(engine)
