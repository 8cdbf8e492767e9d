"""Connections to PostgreSQL: named, few, and never waited for without end."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, text

from stopping import Server, own_server
from triage.records import schema
from triage.records.postgresql import Site
from triage.records.store import DatabaseError, OperationError, open_engine

SITE = Site(process="test", seconds=1.0, most=2)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    engine = open_engine(server.url, SITE)
    yield engine
    engine.dispose()


def shown(engine: Engine, name: str) -> str:
    with engine.connect() as connection:
        return str(connection.execute(text(f"SHOW {name}")).scalar_one())


def test_a_connection_says_whose_it_is_and_when_either_end_gives_up(engine: Engine) -> None:
    names = ("application_name", "statement_timeout", "idle_in_transaction_session_timeout", "tcp_keepalives_idle")
    assert [shown(engine, name) for name in names] == ["triage test", "1s", "1s", "10"]
    assert shown(engine, "tcp_user_timeout") == "19000"  # shown as the kernel has it


def test_what_the_url_says_wins(server: Server) -> None:
    engine = open_engine(f"{server.url}?application_name=other", SITE)
    assert shown(engine, "application_name") == "other"
    engine.dispose()


@pytest.mark.fault(93)
def test_a_process_opens_no_more_connections_than_it_may(engine: Engine) -> None:
    with engine.connect(), engine.connect(), pytest.raises(DatabaseError):
        engine.connect()


@pytest.mark.fault(87)
def test_a_server_that_is_frozen_is_not_waited_for_without_end_and_serves_when_it_thaws(
    server: Server, engine: Engine
) -> None:
    assert shown(engine, "application_name")
    started = time.monotonic()
    with server.frozen(), engine.connect() as connection, pytest.raises(OperationError):
        connection.execute(text("SELECT 1"))
    assert time.monotonic() - started < 20  # not for ever
    assert shown(engine, "application_name") == "triage test"


@pytest.mark.fault(87)
def test_nobody_waits_for_a_frozen_server_to_take_a_connection(server: Server, engine: Engine) -> None:
    with server.frozen(), pytest.raises(OperationError):
        engine.connect()


def test_a_connection_that_has_waited_is_tried_before_it_is_used(
    server: Server, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(engine, "application_name")
    server.stop("immediate")
    server.start()
    monkeypatch.setattr("triage.records.postgresql._FRESH_SECONDS", -1.0)
    assert shown(engine, "application_name") == "triage test"


def test_a_busy_connection_is_not_asked_first(engine: Engine) -> None:
    assert shown(engine, "application_name")
    asked: list[str] = []
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
    real = driver.execute
    driver.execute = lambda *given: asked.append(given[0]) or real(*given)
    assert shown(engine, "application_name")
    assert asked == []


def test_a_migration_takes_as_long_as_it_needs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index on millions of rows; the limit is back afterwards."""

    def slow(connection: Connection) -> None:
        connection.execute(text("SELECT pg_sleep(4)"))

    monkeypatch.setattr(schema, "create_view", slow)
    schema.upgrade(engine)
    with engine.connect() as connection, pytest.raises(OperationError):
        connection.execute(text("SELECT pg_sleep(4)"))
