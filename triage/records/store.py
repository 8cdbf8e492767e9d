"""The database: engine, clock, and how a study's priority is settled. Intake, reading and queue hold the verbs.

SQLite has one writer at a time (BEGIN IMMEDIATE), WAL and synchronous FULL: a commit survives a power cut.
On PostgreSQL a study's row is locked before anything of it is changed, so that no two transactions can deadlock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from datetime import datetime
from threading import Lock
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    create_engine,
    event,
    exists,
    func,
    insert,
    literal_column,
    make_url,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from triage import policy as rules
from triage.errors import Reason, SettingsError, StudyNotFoundError, TriageError
from triage.jobs import JobState
from triage.policy import Policy
from triage.records.tables import UtcDateTime, findings, instances, jobs, studies
from triage.study import (
    Analysis,
    Etiology,
    Finding,
    Priority,
    Tier,
)
from triage.worklist import CLOCKS

try:
    import pysqlite3.dbapi2 as sqlite_driver
except ImportError:  # no wheel for this machine
    import sqlite3 as sqlite_driver

# What callers catch when the database does not do as asked; they need not know the library.
DatabaseError = SQLAlchemyError
# The part of them that may pass by itself: no connection, no room, no lock in time.
OperationError = OperationalError
JOBS_CHANNEL = "triage_jobs"
# The interpreter's own SQLite may have the WAL-reset bug (3.7.0 to 3.51.2); pysqlite3's wheel brings a newer one.
SQLITE_MIN = (3, 51, 3)
OPEN_JOBS = (JobState.QUEUED, JobState.LEASED)


def open_engine(database_url: str) -> Engine:
    """Raise sqlalchemy.exc.ArgumentError for a URL that is none, TriageError for SQLite where it is too old.

    Nothing is connected yet.
    """
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(database_url)
    options = "-c statement_timeout=30000 -c idle_in_transaction_session_timeout=30000"
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        connect_args={"options": options, "connect_timeout": 5, "tcp_user_timeout": 10000},
    )


def shown_url(database_url: str) -> str:
    """Without its passwords, for people and logs. Raise SettingsError for a URL that is none of ours."""
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):  # the text of either may hold the URL
        url = None
    if url is None or not _can_be_shared(url):
        raise SettingsError("database_url: not of the form sqlite:///FILE or postgresql://USER@HOST/NAME")
    hidden = {name: "***" for name in url.query if "password" in name.lower()}
    return url.update_query_dict(hidden).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def _can_be_shared(url: URL) -> bool:
    """Not in memory: each process would keep its own, and what one received no other would know of."""
    if url.get_backend_name() == "sqlite":
        return (url.database or ":memory:") != ":memory:"
    return url.get_backend_name() in {"postgresql", "postgres"}


def _sqlite_engine(database_url: str) -> Engine:
    if sqlite_driver.sqlite_version_info < SQLITE_MIN:
        raise TriageError(
            f"SQLite {sqlite_driver.sqlite_version} can damage a database that several processes write, and pysqlite3, "
            "which brings a newer one, is not installed: set database_url to a PostgreSQL"
        )
    engine = create_engine(database_url, module=sqlite_driver, connect_args={"timeout": 10.0})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver has no types
        connection.isolation_level = None  # the driver's own BEGIN comes too late for the lock
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        mode = "DEFERRED" if connection.get_execution_options().get("reads_only") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


class Store:
    """Verbs on studies and instances. Every method is one transaction and may be repeated after a failure."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reading = engine.execution_options(reads_only=True)
        self.clock = CLOCKS[engine.dialect.name]
        # Who finds SQLite's one lock taken sleeps for milliseconds before another look; threads can do better.
        self._turn = Lock() if engine.dialect.name == "sqlite" else nullcontext()

    @property
    def backend(self) -> str:
        """Either sqlite or postgresql."""
        return self.engine.dialect.name

    @property
    def libpq_url(self) -> str:
        """With its password, for a PostgreSQL connection of one's own."""
        return self.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Commit at the end unless the block raises."""
        with self._turn, self.engine.begin() as connection:
            yield connection

    def reading(self) -> AbstractContextManager[Connection]:
        """Never takes SQLite's write lock."""
        return self._reading.begin()

    def now(self) -> ColumnElement[datetime]:
        """The database's clock, UTC."""
        return literal_column(self.clock.now, UtcDateTime)

    def after(self, seconds: float) -> ColumnElement[datetime]:
        """``seconds`` from now; negative: ago."""
        return literal_column(self.clock.after.format(seconds=seconds), UtcDateTime)

    def lock_study(self, connection: Connection, study_instance_uid: str) -> RowMapping:
        """Raise StudyNotFoundError if it is not held."""
        query = select(studies).where(studies.c.study_instance_uid == study_instance_uid).with_for_update()
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise StudyNotFoundError("no study is held under this Study Instance UID")
        return row

    def insert_if_absent(self, table: Any) -> Any:  # noqa: ANN401 - two dialects' classes with no shared base
        dialect = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table).on_conflict_do_nothing()

    def write_finding(self, connection: Connection, instance_id: int, finding: Finding, priority: Priority) -> None:
        """One row an instance and weights: the same result again replaces itself."""
        key = (findings.c.instance_id == instance_id) & (findings.c.weights_sha256 == finding.weights_sha256)
        connection.execute(findings.delete().where(key))
        row = {
            "instance_id": instance_id,
            "weights_sha256": finding.weights_sha256,
            "p_normal": finding.p_normal,
            "p_bacterial": finding.p_bacterial,
            "p_viral": finding.p_viral,
            "found_at": self.now(),
            **study_columns(priority),
        }
        connection.execute(insert(findings).values(row))

    def settle(self, connection: Connection, study_instance_uid: str, policy: Policy) -> Priority:
        """Recompute the study's priority from the findings of the current reading. The study's row must be locked."""
        current = (
            (instances.c.study_instance_uid == study_instance_uid)
            & (studies.c.study_instance_uid == study_instance_uid)
            & (instances.c.episode == studies.c.episode)
        )
        of_findings = findings.c.instance_id == instances.c.instance_id
        found = connection.execute(select(findings).where(current & of_findings)).mappings().all()
        is_open = (jobs.c.instance_id == instances.c.instance_id) & jobs.c.state.in_(OPEN_JOBS)
        open_jobs = connection.execute(select(func.count(jobs.c.job_id)).where(current & is_open)).scalar_one()
        priority = rules.combine([_priority(row) for row in found], open_jobs, policy)
        analysed_at = None if priority.analysis is Analysis.PENDING else self.now()
        connection.execute(
            update(studies)
            .where(studies.c.study_instance_uid == study_instance_uid)
            .values(analysed_at=analysed_at, **study_columns(priority))
        )
        return priority


def study_columns(priority: Priority) -> dict[str, Any]:
    """The columns that studies and findings share."""
    return {field.name: getattr(priority, field.name) for field in fields(Priority)}


def _priority(row: RowMapping) -> Priority:
    return Priority(
        analysis=Analysis(row["analysis"]),
        flagged=row["flagged"],
        tier=Tier(row["tier"]) if row["tier"] else None,
        etiology=Etiology(row["etiology"]) if row["etiology"] else None,
        p_pneumonia=row["p_pneumonia"],
        reason=Reason(row["reason"]) if row["reason"] else None,
        words=row["words"],
        policy_version=row["policy_version"],
    )


def has_open_job() -> ColumnElement[bool]:
    """Whether the instance of the enclosing query still waits for its analysis."""
    return exists().where((jobs.c.instance_id == instances.c.instance_id) & jobs.c.state.in_(OPEN_JOBS))
