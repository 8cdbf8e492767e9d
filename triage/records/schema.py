"""Bring a database to the schema of this version, or refuse with both versions named; and back to an earlier one.

Before either a SQLite database is copied, beside itself: ``triage.db.schema-0005``. What a PostgreSQL held before is in
the site's own dump.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from triage.errors import TriageError
from triage.records import account_tables as _account_tables  # noqa: F401 - puts its tables into the metadata
from triage.records.copying import copy_database
from triage.records.postgresql import unhurried
from triage.records.tables import metadata
from triage.worklist import CLOCKS, reading_worklist

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
# Any number will do, as long as no other application of the site uses it: "triage" in ASCII, shortened.
_ADVISORY_LOCK = 0x74726961


def create_view(connection: Connection) -> None:
    """Create ``reading_worklist`` as this version defines it."""
    select = reading_worklist(CLOCKS[connection.dialect.name])
    connection.exec_driver_sql(f"CREATE VIEW reading_worklist AS {select}")


def create_all(connection: Connection) -> None:
    """The schema straight from the metadata: what `upgrade` must arrive at."""
    metadata.create_all(connection)
    create_view(connection)


@dataclass(frozen=True, kw_only=True)
class Change:
    """The schema was another one before. ``copy``: of the SQLite database as it was."""

    before: str | None
    after: str
    copy: Path | None = None


def upgrade(engine: Engine) -> Change | None:
    """Run what is missing in one transaction; two processes take turns. None if nothing was.

    Raise TriageError if the database is newer, or cannot be copied before.
    """
    with engine.execution_options(reads_only=True).begin() as connection:
        if _is_current(connection):
            return None  # the usual case takes no lock
    with _changing(engine) as connection:
        before, known = versions(connection)
        if _is_current(connection):
            return None
        copy = _copied(engine, before)
        with _without_view(connection) as config:
            command.upgrade(config, "head")
        return Change(before=before, after=known[0], copy=copy)


def downgrade(engine: Engine, revision: str) -> Change:
    """Back to an earlier schema, for an earlier version of triage. Raise TriageError if there is no way there.

    Whatever the later schema alone could hold is lost.
    """
    with _changing(engine) as connection:
        before, known = versions(connection)
        if before not in known or revision not in known[known.index(before) + 1 :]:
            earlier = known[known.index(before) + 1 :] if before in known else []
            raise TriageError(f"from schema {before} there is a way back to {', '.join(earlier) or 'none'} only")
        copy = _copied(engine, before)
        with _without_view(connection) as config:
            command.downgrade(config, revision)
        return Change(before=before, after=revision, copy=copy)


@contextmanager
def _changing(engine: Engine) -> Iterator[Connection]:
    """One at a time, in one transaction."""
    with engine.connect() as connection, _rebuilding(connection), connection.begin(), ExitStack() as stack:
        if connection.dialect.name == "postgresql":
            stack.enter_context(unhurried(connection))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        yield connection


@contextmanager
def _without_view(connection: Connection) -> Iterator[Config]:
    """The view is code, not data: dropped before the tables change, made anew after, for the same readers.

    The view of this version serves earlier schemas, too: it names no column that the first one did not have.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    readers = _readers(connection)
    connection.execute(text("DROP VIEW IF EXISTS reading_worklist"))
    yield config
    create_view(connection)
    for reader in readers:
        connection.exec_driver_sql(f"GRANT SELECT ON reading_worklist TO {reader}")
    if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise TriageError("the schema was not changed: rows would point at what is not there")


def _copied(engine: Engine, revision: str | None) -> Path | None:
    """While we hold the lock nobody writes: the copy is what the change begins with."""
    if engine.dialect.name != "sqlite" or revision is None:
        return None
    file = Path(str(engine.url.database))
    copy = file.with_name(f"{file.name}.schema-{revision}")
    copy_database(file, copy)
    return copy


def is_sound(engine: Engine) -> bool:
    """Whether SQLite's file holds together: it is read whole. PostgreSQL looks after its own."""
    if engine.dialect.name != "sqlite":
        return True
    with engine.execution_options(reads_only=True).begin() as connection:
        return bool(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() == "ok")


@contextmanager
def _rebuilding(connection: Connection) -> Iterator[None]:
    """On SQLite a table is changed by a copy that takes its place, which other tables' keys must let happen.

    Its switch does nothing inside of a transaction (https://www.sqlite.org/lang_altertable.html, section 7).
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    driver = connection.connection.driver_connection
    if driver is None:
        raise TriageError("the database's connection was lost")
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


def _readers(connection: Connection) -> list[str]:
    """Who may read the view and does not own it, quoted."""
    if connection.dialect.name != "postgresql":
        return []
    granted = (
        "SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END "
        "FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a "
        "WHERE c.oid = to_regclass('reading_worklist') AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner"
    )
    return list(connection.execute(text(granted)).scalars())


def _is_current(connection: Connection) -> bool:
    current, known = versions(connection)
    if current is not None and current not in known:
        raise TriageError(f"the database has schema {current}, this version knows up to {known[0]}: upgrade triage")
    return current == known[0]


def known_schemas() -> list[str]:
    """Of this version, the newest first."""
    return [revision.revision for revision in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]


def versions(connection: Connection) -> tuple[str | None, list[str]]:
    """(schema of the database or None if empty, schemas this version knows, newest first)."""
    return MigrationContext.configure(connection).get_current_revision(), known_schemas()
