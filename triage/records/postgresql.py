"""Connections to PostgreSQL: few, named, and given up on when the other end no longer answers.

Three kinds of silence, each with its own remedy. A host that is gone is noticed by keepalives and unacknowledged
bytes, from either end, within half a minute. A statement that takes too long is ended by the server. A server that is
frozen (its disk hangs, its host is suspended) acknowledges bytes and ends nothing: there we stop waiting.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

T = TypeVar("T")

_CONNECT_SECONDS = 3
# Silence of 10 s is asked about three times, 3 s apart: a host that is gone is noticed after 19 s. By the server also
# while an answer is on its way there: then nothing is asked, and retries alone would hold our locks for 15 minutes.
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 3, "keepalives_count": 3}
_GONE_MILLISECONDS = 19_000
# After so long in the pool a connection is tried before it is used: the server may have been restarted.
_FRESH_SECONDS = 2.0
# The server's own limit comes first: its connection can still be used.
_LATER_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Site:
    """``seconds`` is how long PostgreSQL may take to answer; ``most`` the connections of one process."""

    process: str = "triage"
    seconds: float = 30.0
    most: int = 10


def is_away(error: BaseException) -> bool:
    """Whether PostgreSQL cannot do it now but may later: no connection, no answer, no room, a deadlock."""
    if isinstance(error, DBAPIError):
        return isinstance(error.orig, psycopg.OperationalError | psycopg.InterfaceError)
    return isinstance(error, PoolTimeoutError | psycopg.OperationalError)  # of the pool; of a connection of one's own


class Patient(psycopg.Connection[Any]):
    """Waits for an answer only so long; then it is closed, since nobody knows what became of the question."""

    patience: float | None = None

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Raise psycopg.OperationalError."""
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError:
            if timeout is None and self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise


def named(url: URL, site: Site) -> URL:
    """With what libpq is to know of this site, unless the URL says otherwise."""
    milliseconds = int(site.seconds * 1000)
    server = {
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "tcp_user_timeout": _GONE_MILLISECONDS,
        **{f"tcp_{name}": value for name, value in _KEEPALIVE.items()},
    }
    libpq = {
        "application_name": f"triage {site.process}",
        "connect_timeout": _CONNECT_SECONDS,
        "keepalives": 1,
        "tcp_user_timeout": milliseconds,
        "options": " ".join(f"-c {name}={value}" for name, value in server.items()),
        **_KEEPALIVE,
    }
    missing = {name: str(value) for name, value in libpq.items() if name not in url.query}
    return url.set(drivername="postgresql+psycopg").update_query_dict(missing)


def postgresql_engine(url: URL, site: Site) -> Engine:
    """Nothing is connected yet."""
    engine = create_engine(
        named(url, site),
        isolation_level="READ COMMITTED",  # whatever the site's default: see `triage.records.settled`
        pool_size=site.most,
        max_overflow=0,
        pool_timeout=site.seconds,
        pool_use_lifo=True,  # what is not needed ages at the other end
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_: object, __: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> Patient:
        connection = Patient.connect(*arguments, **named)
        connection.patience = site.seconds + _LATER_SECONDS
        return connection

    @event.listens_for(engine, "checkin")
    def _note(_: object, record: Any) -> None:  # noqa: ANN401 - the library's own class
        record.info["left"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _try(connection: Patient, record: Any, _: object) -> None:  # noqa: ANN401 - the library's own class
        """A round trip for each transaction would be a tenth of a claim; within seconds the server is still there."""
        if time.monotonic() - record.info.get("left", time.monotonic()) > _FRESH_SECONDS:
            _ask(connection)

    return engine


def _ask(connection: Patient) -> None:
    try:
        connection.autocommit = True  # one question, not three
        connection.execute("")
        connection.autocommit = False
    except psycopg.OperationalError as error:
        raise DisconnectionError from error  # the pool makes a new one


def own_connection(engine: Engine) -> Patient:
    """Beside the pool, autocommitting, for what lasts: listening, a lock. Raise psycopg.OperationalError."""
    connection = Patient.connect(**engine.dialect.create_connect_args(engine.url)[1], autocommit=True)
    connection.patience = _CONNECT_SECONDS
    return connection


@contextmanager
def unhurried(connection: Connection) -> Iterator[None]:
    """For a transaction that may take as long as it needs: an index on millions of rows."""
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    driver = connection.connection.driver_connection
    if not isinstance(driver, Patient):
        raise TypeError(driver)
    patience, driver.patience = driver.patience, None
    try:
        yield
    finally:
        driver.patience = patience
