"""Migrating an empty database arrives at exactly the tables and the view of the code."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from triage.errors import TriageError
from triage.records import schema
from triage.records.store import open_engine
from triage.records.tables import metadata
from triage.worklist import CLOCKS, reading_worklist

# The view's text for each newest revision that a release has had, as `view_digest` has it.
_FIRST = "ce9d35baa0c05b85196c4771e6a886d817384cad5f1335112b812f65ccc9fdcb"
VIEWS = {
    **{f"{number:04}": _FIRST for number in range(1, 11)},
    "0011": "a205b169ca67cc79d6ec2603b90797866c0f080dc4f93dee2bbf4ec9a10937c1",
    "0012": "a205b169ca67cc79d6ec2603b90797866c0f080dc4f93dee2bbf4ec9a10937c1",
}


def view_digest() -> str:
    """Of the view's text for every database."""
    texts = (reading_worklist(clock) for _, clock in sorted(CLOCKS.items()))
    return sha256("\n".join(texts).encode()).hexdigest()


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


def test_the_view_changes_only_with_a_new_revision() -> None:
    head = ScriptDirectory(str(schema.MIGRATIONS)).get_current_head()
    assert VIEWS.get(str(head)) == view_digest(), (
        f"revision {head} does not have this text of reading_worklist. A database is given the view anew only when a "
        "revision is run: one that is already there would keep the old view. If the text has changed, add a revision "
        f"to migrations/versions, empty if no table changes. Then add the newest one to VIEWS with {view_digest()}, "
        "and leave those before it as they are."
    )


@pytest.mark.fault(89)
def test_upgrading_twice_changes_nothing(engine: Engine) -> None:
    schema.upgrade(engine)
    with engine.connect() as connection:
        current, known = schema.versions(connection)
    assert current == known[0]


@pytest.mark.fault(89, 120)
def test_a_newer_database_is_refused_with_both_versions_named(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(TriageError, match=rf"schema 9999.*knows up to {schema.known_schemas()[0]}"):
        schema.upgrade(engine)
