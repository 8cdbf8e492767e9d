"""Of several schedulers exactly one sweeps; another takes over when it dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from daemon.turn import OnlyTurn, PostgresTurn, turn
from stopping import own_server
from triage.records import schema
from triage.records.store import Store, open_engine

SECONDS = 60.0


def until(ask: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def scheduler(name: str, url: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings = {"DATA_DIR": home / "data", "DATABASE_URL": url, "SWEEP_SECONDS": 1, "LOG_FORMAT": "json"}
    plain = {key: value for key, value in os.environ.items() if not key.startswith("TRIAGE_")}
    environment = plain | {f"TRIAGE_{key}": str(value) for key, value in settings.items()}
    with (home / name).open("wb") as log:
        command = [sys.executable, "-m", "daemon.cli", "schedule"]
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def told(home: Path, name: str) -> list[str]:
    """But that its start could not be entered in the audit yet: that depends on when the database went."""
    lines = (home / name).read_text(encoding="utf-8").splitlines()
    events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    return [event for event in events if event != "accesses_not_entered"]


def test_of_two_schedulers_one_sweeps_and_the_other_takes_over_when_it_is_killed(
    postgresql_url: str, tmp_path: Path
) -> None:
    engine = open_engine(postgresql_url)
    schema.upgrade(engine)
    engine.dispose()
    with ExitStack() as stack:
        started = {name: stack.enter_context(scheduler(name, postgresql_url, tmp_path)) for name in ("one", "two")}
        both = ["sweeping", "waiting_to_sweep"]
        until(lambda: sorted(event for name in started for event in told(tmp_path, name)) == both)
        (first,) = [name for name in started if told(tmp_path, name) == ["sweeping"]]
        (second,) = started.keys() - {first}
        time.sleep(2.5)
        assert told(tmp_path, second) == ["waiting_to_sweep"]
        started[first].kill()
        until(lambda: told(tmp_path, second) == ["waiting_to_sweep", "sweeping"])


def test_a_scheduler_that_loses_the_database_sweeps_again_when_it_is_back_and_says_so_once(tmp_path: Path) -> None:
    with own_server() as server, scheduler("one", server.url, tmp_path) as process:
        until(lambda: told(tmp_path, "one") == ["sweeping"])
        server.stop("immediate")
        until(lambda: told(tmp_path, "one") == ["sweeping", "database_unavailable"])
        time.sleep(3)
        server.start()
        until(lambda: told(tmp_path, "one") == ["sweeping", "database_unavailable", "sweeping"])
        assert process.poll() is None


def test_whoever_is_cut_off_no_longer_thinks_it_is_its_turn(postgresql_url: str) -> None:
    engine = open_engine(postgresql_url)
    mine = PostgresTurn(Store(engine))
    assert mine.wait(threading.Event())
    assert mine.is_ours()
    cut = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
    with engine.begin() as connection:
        connection.execute(text(cut))
    assert not mine.is_ours()
    mine.give_up()
    engine.dispose()


@pytest.mark.parametrize("asked", [True, False])
def test_beside_sqlite_it_is_always_ours(sqlite_url: str, asked: bool) -> None:  # noqa: FBT001 - a parameter
    engine = open_engine(sqlite_url)
    stop = threading.Event()
    if asked:
        stop.set()
    found = turn(Store(engine))
    assert isinstance(found, OnlyTurn)
    assert found.wait(stop) is not asked
    engine.dispose()
