"""A database looked at as it stands: nothing is made, changed or waited for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection, inspect, select, text

from triage.records.schema import versions
from triage.records.store import SQLITE, Store

_BYTES = {"sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """``schema``: None for a database that is empty. ``ahead_seconds``: its clock of ours.

    ``known``: schemas of this version, newest first. ``connections``: (in use, allowed), of PostgreSQL.
    """

    backend: str
    version: tuple[int, ...]
    schema: str | None
    known: list[str]
    ahead_seconds: float
    answer_seconds: float
    connections: tuple[int, int] | None = None

    @property
    def is_current(self) -> bool:
        return self.schema == self.known[0]

    @property
    def is_newer(self) -> bool:
        return self.schema is not None and self.schema not in self.known


@dataclass(frozen=True, kw_only=True)
class Table:
    """How many rows, and what columns and indexes there are; nothing that stands in them."""

    rows: int
    columns: list[str] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)


def inspect_database(store: Store) -> Inspection:
    """Raise DatabaseError."""
    with store.reading() as connection:
        began = time.monotonic()
        now: datetime = connection.execute(select(store.now())).scalar_one()
        took = time.monotonic() - began
        schema, known = versions(connection)
        return Inspection(
            backend=store.backend,
            version=_version(connection),
            schema=schema,
            known=known,
            ahead_seconds=(now - datetime.now(UTC)).total_seconds() + took / 2,
            answer_seconds=took,
            connections=_connections(connection),
        )


def _version(connection: Connection) -> tuple[int, ...]:
    if connection.dialect.name == "sqlite":
        return tuple(SQLITE.sqlite_version_info)
    number = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    return number // 10000, number % 10000


def _connections(connection: Connection) -> tuple[int, int] | None:
    if connection.dialect.name == "sqlite":
        return None
    used, most = connection.execute(
        text("SELECT (SELECT count(*) FROM pg_stat_activity), current_setting('max_connections')::int")
    ).one()
    return used, most


def tables(store: Store) -> dict[str, Table]:
    """Raise DatabaseError."""
    with store.reading() as connection:
        seen = inspect(connection)
        return {
            name: Table(
                rows=int(connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one()),
                columns=[f"{column['name']} {column['type']}" for column in seen.get_columns(name)],
                indexes=sorted(str(index["name"]) for index in seen.get_indexes(name)),
            )
            for name in sorted(seen.get_table_names())
        }


def size_bytes(store: Store) -> int:
    """On its disk. Raise DatabaseError."""
    query = _BYTES.get(store.backend, "SELECT pg_database_size(current_database())")
    with store.reading() as connection:
        return int(connection.execute(text(query)).scalar_one())


def others(store: Store) -> list[str]:
    """Processes of ours that are connected to this PostgreSQL, from whichever host; on SQLite nobody knows."""
    if store.backend == "sqlite":
        return []
    query = (
        "SELECT DISTINCT substr(application_name, 8) || coalesce(' at ' || host(client_addr), '') "
        "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'triage %' "
        "AND pid <> pg_backend_pid() ORDER BY 1"
    )
    with store.reading() as connection:
        return list(connection.execute(text(query)).scalars())
