"""The database: engine, clock, and how a study's priority is settled. Intake, reading and queue hold the verbs.

SQLite has one writer at a time (BEGIN IMMEDIATE), WAL and synchronous FULL: a commit survives a power cut.
On PostgreSQL a study's row is locked before anything of it is changed, so that no two transactions can deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from datetime import datetime
from functools import cached_property
from threading import Lock
from time import monotonic, sleep
from typing import Any

from sqlalchemy import (
    URL,
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    Update,
    bindparam,
    case,
    create_engine,
    event,
    exists,
    literal_column,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from triage import policy as rules
from triage.errors import Reason, SettingsError, StudyNotFoundError, TriageError
from triage.policy import Policy
from triage.records.letters import teach_folding
from triage.records.postgresql import Patient, Site, own_connection, postgresql_engine
from triage.records.tables import IS_OPEN, UtcDateTime, findings, instances, jobs, studies
from triage.study import (
    Analysis,
    Etiology,
    Finding,
    Priority,
    Tier,
)
from triage.worklist import CLOCKS, arrival

try:
    import pysqlite3.dbapi2 as sqlite_driver
except ImportError:  # no wheel for this machine
    import sqlite3 as sqlite_driver

# For those who copy a database beside SQLAlchemy.
SQLITE: Any = sqlite_driver
# What callers catch when the database does not do as asked; they need not know the library.
DatabaseError = SQLAlchemyError
# The part of them that may pass by itself: no connection, no room, no lock in time.
OperationError = OperationalError
JOBS_CHANNEL = "triage_jobs"
# The interpreter's own SQLite may have the WAL-reset bug (3.7.0 to 3.51.2); pysqlite3's wheel brings a newer one.
SQLITE_MIN = (3, 51, 3)
LOCK_SECONDS = 10.0


def open_engine(database_url: str, site: Site | None = None) -> Engine:
    """Raise sqlalchemy.exc.ArgumentError for a URL that is none, TriageError for SQLite where it is too old.

    Nothing is connected yet. ``site`` is for PostgreSQL.
    """
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(database_url)
    return postgresql_engine(url, site or Site())


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
    engine = create_engine(database_url, module=sqlite_driver, connect_args={"timeout": LOCK_SECONDS})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver has no types
        connection.isolation_level = None  # the driver's own BEGIN comes too late for the lock
        teach_folding(connection)
        _write_ahead(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "handle_error")
    def _open_anew(context: ExceptionContext) -> None:
        """What was opened while nothing could be written stays without writing for ever."""
        context.is_disconnect = "readonly database" in str(context.original_exception)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        mode = "DEFERRED" if connection.get_execution_options().get("reads_only") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _write_ahead(connection: Any) -> None:  # noqa: ANN401 - the driver has no types
    """For this one lock SQLite does not wait: of processes that start on a new file all but one would be refused."""
    give_up_at = monotonic() + LOCK_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite_driver.OperationalError as error:
            if "locked" not in str(error) or monotonic() > give_up_at:
                raise
            sleep(0.01)
        else:
            return


class Store:
    """Verbs on studies and instances. Every method is one transaction and may be repeated after a failure."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reading = engine.execution_options(reads_only=True)
        self._at_once = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.clock = CLOCKS[engine.dialect.name]
        # Who finds SQLite's one lock taken sleeps for milliseconds before another look; threads can do better.
        self._turn = Lock() if engine.dialect.name == "sqlite" else None

    @property
    def backend(self) -> str:
        """Either sqlite or postgresql."""
        return self.engine.dialect.name

    def own_connection(self) -> Patient:
        """PostgreSQL alone: a connection beside the pool, autocommitting. Raise psycopg.OperationalError."""
        return own_connection(self.engine)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Commit at the end unless the block raises."""
        with self._in_turn(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Whoever waits behind one that waits for the lock gives up when it does: a sender does not wait for a sum."""
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=LOCK_SECONDS):
            raise OperationalError("BEGIN", None, sqlite_driver.OperationalError("database is locked"))
        try:
            yield
        finally:
            self._turn.release()

    def reading(self) -> AbstractContextManager[Connection]:
        """Never takes SQLite's write lock."""
        return self._reading.begin()

    def at_once(self) -> AbstractContextManager[Connection]:
        """For a single statement: a transaction of its own, on PostgreSQL without two more questions around it."""
        if self.backend == "sqlite":
            return self.writing()
        return self._at_once.begin()

    def now(self) -> ColumnElement[datetime]:
        """The database's clock, UTC."""
        return literal_column(self.clock.now, UtcDateTime)

    def read_clock(self) -> datetime:
        """What `now` is."""
        with self.reading() as connection:
            return connection.execute(select(self.now())).scalar_one()

    def after(self, seconds: float) -> ColumnElement[datetime]:
        """``seconds`` from now; negative: ago."""
        return literal_column(self.clock.after.format(seconds=seconds), UtcDateTime)

    @cached_property
    def arrival(self) -> ColumnElement[datetime]:
        """Since when a study waits that comes now."""
        return literal_column(arrival(self.clock), UtcDateTime)

    def lock_study(self, connection: Connection, study_instance_uid: str) -> RowMapping:
        """Raise StudyNotFoundError if it is not held."""
        query = select(studies).where(studies.c.study_instance_uid == study_instance_uid).with_for_update()
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise StudyNotFoundError("no study is held under this Study Instance UID")
        return row

    def lock_studies(self, connection: Connection, study_instance_uids: Collection[str]) -> set[str]:
        """Those of them that are flagged.

        Always in the same order: two transactions that want the same studies cannot wait for each other.
        """
        locked = connection.execute(_LOCK_STUDIES, {"uids": list(study_instance_uids)})
        return {uid for uid, flagged in locked if flagged}

    def meet(self, connection: Connection, accession_number: str, *, alone: bool) -> None:
        """Orders (``alone``) and studies under one accession number take turns, before they lock or look at anything.

        Else PostgreSQL would let each commit without having seen the other. On SQLite all who write take turns.
        """
        if accession_number and self.backend == "postgresql":
            connection.execute(_MEET_ALONE if alone else _MEET, {"number": accession_number})

    def insert_if_absent(self, table: Any) -> Any:  # noqa: ANN401 - two dialects' classes with no shared base
        dialect = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table).on_conflict_do_nothing()

    def write_findings(self, connection: Connection, found: Sequence[tuple[int, Finding, Priority]]) -> None:
        """(instance_id, finding, priority); one row an instance and weights, of two the later unless it lowers."""
        rows = [
            {
                "instance_id": instance_id,
                "weights_sha256": finding.weights_sha256,
                "p_normal": finding.p_normal,
                "p_bacterial": finding.p_bacterial,
                "p_viral": finding.p_viral,
                **study_columns(priority),
            }
            for instance_id, finding, priority in found
        ]
        connection.execute(self._adding_finding, _plain(rows))

    @cached_property
    def _adding_finding(self) -> Any:  # noqa: ANN401 - two dialects' classes with no shared base
        """Made once: to put it together each time would take longer than to run it."""
        dialect = postgresql if self.backend == "postgresql" else sqlite
        row: dict[str, Any] = {column.name: bindparam(column.name) for column in findings.columns}
        adding = dialect.insert(findings).values(row | {"found_at": self.now()})
        again = {column.name: column for column in adding.excluded if column.name not in findings.primary_key}
        raised = findings.c.flagged & ~adding.excluded.flagged  # another look takes no flag back
        return adding.on_conflict_do_update(index_elements=list(findings.primary_key), set_=again, where=~raised)

    def settle(
        self, connection: Connection, study_instance_uids: Collection[str], policy: Policy
    ) -> dict[str, Priority]:
        """Recompute studies' priorities from the findings of their current reading. Their rows must be locked."""
        looks: dict[str, dict[int, list[Priority]]] = {uid: {} for uid in study_instance_uids}
        open_jobs = dict.fromkeys(study_instance_uids, 0)
        for row in connection.execute(_OF_CURRENT_READING, {"uids": list(study_instance_uids)}).mappings():
            if row["analysis"] is not None:
                looks[row["study_instance_uid"]].setdefault(row["instance_id"], []).append(_priority(row))
            open_jobs[row["study_instance_uid"]] += row["is_open"]
        found = {uid: [rules.of_object(own) for own in looks[uid].values()] for uid in study_instance_uids}
        settled = {uid: rules.combine(found[uid], open_jobs[uid], policy) for uid in sorted(study_instance_uids)}
        for is_pending, change in self._settling.items():
            rows = [
                {"uid": uid, **study_columns(priority)}
                for uid, priority in settled.items()
                if (priority.analysis is Analysis.PENDING) is is_pending
            ]
            if rows:
                connection.execute(change, _plain(rows))
        return settled

    @cached_property
    def _settling(self) -> dict[bool, Update]:
        """By whether the study is pending still."""
        values: dict[str, Any] = {field.name: bindparam(field.name) for field in fields(Priority)}
        change = update(studies).where(studies.c.study_instance_uid == bindparam("uid"))
        return {True: change.values(**values, analysed_at=None), False: change.values(**values, analysed_at=self.now())}


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Any]:
    """One row is an ordinary statement: for the driver many are another kind of thing, with its own costs."""
    return rows if len(rows) > 1 else rows[0]


def _of_current_reading() -> Select[Any]:
    """A row for each finding, with no finding in it where there is none, and whether the instance's job is open."""
    is_open = case((IS_OPEN, 1), else_=0).label("is_open")
    columns = [findings.c[field.name] for field in fields(Priority)]
    return (
        select(instances.c.study_instance_uid, instances.c.instance_id, is_open, *columns)
        .join(studies, studies.c.study_instance_uid == instances.c.study_instance_uid)
        .outerjoin(findings, findings.c.instance_id == instances.c.instance_id)
        .outerjoin(jobs, jobs.c.instance_id == instances.c.instance_id)
        .where(instances.c.study_instance_uid.in_(_UIDS) & (instances.c.episode == studies.c.episode))
    )


# The first key may be any, as long as no other application of the site uses it: "ordr" in ASCII.
_MEET = text("SELECT pg_advisory_xact_lock_shared(1869767794, hashtext(:number))")
_MEET_ALONE = text("SELECT pg_advisory_xact_lock(1869767794, hashtext(:number))")
_UIDS: BindParameter[Any] = bindparam("uids", expanding=True)
_UID = studies.c.study_instance_uid
_LOCK_STUDIES = select(_UID, studies.c.flagged).where(_UID.in_(_UIDS)).order_by(_UID).with_for_update()
_OF_CURRENT_READING = _of_current_reading()


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
    return exists().where((jobs.c.instance_id == instances.c.instance_id) & IS_OPEN)
