"""Which SQLite is used, and that none is where only an unsafe one is to be had."""

from __future__ import annotations

import runpy
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy.exc import OperationalError

from triage.errors import TriageError
from triage.records import schema, store

DRIVERS = ("pysqlite3", "pysqlite3.dbapi2")


@pytest.mark.fault(92)
def test_the_one_in_use_is_new_enough() -> None:
    assert store.sqlite_driver.sqlite_version_info >= store.SQLITE_MIN


def test_without_its_package_the_interpreters_own_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DRIVERS:
        monkeypatch.setitem(sys.modules, name, None)
    assert runpy.run_path(str(store.__file__))["sqlite_driver"] is sqlite3


@pytest.mark.fault(92)
def test_an_old_one_is_refused_and_postgresql_named(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "sqlite_driver", sqlite3)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    with pytest.raises(TriageError, match="set database_url to a PostgreSQL"):
        store.open_engine(sqlite_url)
    store.open_engine("postgresql://triage@db/triage").dispose()


def test_the_interpreters_own_serves_if_it_is_new_enough(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "sqlite_driver", sqlite3)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", store.SQLITE_MIN)
    engine = store.open_engine(sqlite_url)
    schema.upgrade(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM reading_worklist").scalar() == 0
    engine.dispose()


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    at_once = Barrier(8)

    def journal_mode(url: str) -> object:
        engine = store.open_engine(url)
        at_once.wait()
        with engine.connect() as connection:
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        engine.dispose()
        return mode

    with ThreadPoolExecutor(8) as opening:
        for turn in range(40):
            assert set(opening.map(journal_mode, [f"sqlite:///{tmp_path}/{turn}.db"] * 8)) == {"wal"}


@pytest.mark.fault(85)
def test_a_file_that_stays_locked_is_given_up(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.2)
    owner = store.sqlite_driver.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    owner.execute("BEGIN EXCLUSIVE")
    engine = store.open_engine(sqlite_url)
    with pytest.raises(OperationalError, match="database is locked"), engine.connect():
        pass
    owner.close()
    engine.dispose()
