"""A worker wakes the moment a job is queued, on either database."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from sqlalchemy import Engine, text

from daemon.bell import PostgresBell, Ringer, bell
from making import POLICY, received
from triage.records.intake import Intake
from triage.records.store import Store, open_engine


def test_a_waiting_worker_wakes_at_once(engine: Engine, tmp_path: Path) -> None:
    listening = bell(Store(engine), tmp_path)
    listening.wait(0.0)  # PostgreSQL's first wait starts to listen
    ringer = Ringer(Store(engine), tmp_path)

    def receive() -> None:
        Intake(Store(engine), POLICY).receive(received(1))
        ringer.ring()

    started = time.monotonic()
    sender = threading.Timer(0.2, receive)
    sender.start()
    rung = listening.wait(30.0)
    sender.join()  # its connection goes back before the engine is disposed of
    assert rung
    assert time.monotonic() - started < 10.0
    listening.close()
    ringer.close()


def test_a_ring_before_the_wait_is_not_lost(engine: Engine, tmp_path: Path) -> None:
    listening = bell(Store(engine), tmp_path)
    listening.wait(0.0)
    ringer = Ringer(Store(engine), tmp_path)
    Intake(Store(engine), POLICY).receive(received(1))
    ringer.ring()
    assert listening.wait(5.0)
    listening.close()
    ringer.close()


def test_nobody_rings_for_a_duplicate(engine: Engine, tmp_path: Path) -> None:
    Intake(Store(engine), POLICY).receive(received(1))
    listening = bell(Store(engine), tmp_path)
    listening.wait(0.0)
    Intake(Store(engine), POLICY).receive(received(1))
    assert not listening.wait(0.3)
    listening.close()


def test_many_rings_never_block_and_the_bell_of_a_dead_worker_is_taken_down(sqlite_url: str, tmp_path: Path) -> None:
    engine = open_engine(sqlite_url)
    deep = tmp_path / ("d" * 100)  # longer than a socket's path may be
    (deep / "bells").mkdir(parents=True)
    listening = bell(Store(engine), deep)
    (deep / "bells" / "999999").touch()
    ringer = Ringer(Store(engine), deep)
    for _ in range(2000):
        ringer.ring()
    assert not (deep / "bells" / "999999").exists()
    assert listening.wait(0.0)
    listening.close()
    ringer.close()
    assert list((deep / "bells").iterdir()) == []


def test_a_storm_of_rings_costs_a_worker_a_few_looks(postgresql_url: str) -> None:
    engine = open_engine(postgresql_url)
    listening = PostgresBell(Store(engine))
    listening.wait(0.0)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for _ in range(5000):
            connection.execute(text("NOTIFY triage_jobs"))
    looks = 0
    while listening.wait(0.5):
        looks += 1
    assert 1 <= looks < 50
    listening.close()
    engine.dispose()


def test_a_worker_listens_again_after_its_connection_was_cut(postgresql_url: str) -> None:
    engine = open_engine(postgresql_url)
    listening = PostgresBell(Store(engine))
    listening.wait(0.0)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    with engine.begin() as connection:
        connection.execute(text(cut))
    listening.wait(0.1)
    assert listening.wait(0.1)  # the new connection: rings may have been missed, so look
    with engine.begin() as connection:
        connection.execute(text("NOTIFY triage_jobs"))
    assert listening.wait(5.0)
    listening.close()
    engine.dispose()
