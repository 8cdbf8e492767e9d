"""Workers that hang, networks that are far behind, and what a thousand looks leave in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import chests
import psutil
import pytest
from running import Daemon, wait_for
from sending import send
from sqlalchemy import Engine, text

from benchmarks.rows import fill
from daemon.absence import Absence
from daemon.leases import Leases, Times
from faults.odd import odd_worker
from making import CARD, POLICY, finding, received
from triage.jobs import Job
from triage.policy import judge
from triage.records.intake import Intake
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.store import Store, open_engine

OPEN = "SELECT 1 FROM jobs WHERE state IN ('queued', 'leased')"
JOB = Job(job_id=1, instance_id=1, study_instance_uid="1.2", sha256="a" * 64, attempts=1, token="t", queued_seconds=0.0)
BACKLOG = 10_000


def started(make_daemon: Callable[..., Daemon], **settings: object) -> Daemon:
    """Receiver and scheduler, without a worker."""
    daemon = make_daemon(**settings)
    for command in ("receive", "schedule"):
        daemon.start(command)
    daemon.wait_until_up(web=False)
    return daemon


@pytest.mark.fault(98)
@pytest.mark.timeout(600)
def test_a_worker_whose_network_never_answers_ends_and_its_film_is_analysed_by_the_next(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    film, sign = chests.chest(tmp_path / "films", side=256), tmp_path / "sign"
    daemon = started(make_daemon, lease_seconds=2, job_seconds=25, decode_seconds=20, pending_seconds=1)
    with odd_worker(daemon, "hangs", sign) as process:
        sign.touch()
        assert send(daemon, film.dataset) == [0]
        wait_for(lambda: daemon.rows("SELECT reason FROM studies") == [("timeout",)])
        assert process.wait(120) == 1
    assert daemon.lines("process_hangs")
    daemon.start("work", "--name", "worker-1")
    wait_for(lambda: daemon.rows("SELECT analysis FROM studies") == [("analysed",)], 120)
    assert daemon.rows("SELECT attempts FROM jobs") == [(2,)]


@pytest.mark.fault(100)
@pytest.mark.timeout(600)
def test_a_worker_whose_gpu_is_lost_ends_and_no_film_is_buried_for_it(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    film, sign = chests.chest(tmp_path / "films", side=256), tmp_path / "sign"
    daemon = started(make_daemon)
    with odd_worker(daemon, "lost", sign) as process:
        sign.touch()
        assert send(daemon, film.dataset) == [0]
        assert process.wait(120) == 1
    assert daemon.lines("network_lost")
    assert daemon.rows("SELECT analysis FROM studies") == [("pending",)]
    daemon.start("work", "--name", "worker-1")
    wait_for(lambda: daemon.rows("SELECT analysis FROM studies") == [("analysed",)], 120)
    assert daemon.rows("SELECT attempts FROM jobs") == [(2,)]


@pytest.mark.fault(98)
@pytest.mark.timeout(600)
def test_who_waits_for_the_database_does_not_hang() -> None:
    absence, hangs = Absence(), Mock()
    with Leases(Mock(), Times(lease_seconds=0.15, job_seconds=0.1), absence, hangs) as leases:
        absence.noticed(Mock(__traceback__=None))
        leases.hold(JOB)
        time.sleep(1.0)
        assert not hangs.called
        absence.over()
        wait_for(lambda: hangs.called)
        leases.let_go(JOB)


@pytest.mark.fault(98)
@pytest.mark.timeout(600)
def test_who_is_done_in_time_does_not_hang() -> None:
    hangs = Mock()
    with Leases(Mock(), Times(lease_seconds=0.3, job_seconds=60), Absence(), hangs) as leases:
        for _ in range(10):
            leases.hold(JOB)
            time.sleep(0.1)
            leases.let_go(JOB)
        assert not hangs.called


@pytest.mark.fault(108)
def test_behind_a_backlog_of_ten_thousand_all_are_listed_by_arrival_and_a_flag_is_seen_at_once(engine: Engine) -> None:
    store = Store(engine)
    with engine.begin() as connection:
        fill(connection, 1, BACKLOG, read=False)
        plain = f"UPDATE studies SET flagged = {'0' if store.backend == 'sqlite' else 'false'}, clinical_priority = 2, "
        connection.execute(text(plain + "tier = NULL, p_pneumonia = NULL, overdue_at = '2099-01-01 00:00:00'"))
    Intake(store, POLICY).receive(received(1))
    queue, reading = Queue(store, POLICY), Reading(store)
    assert queue.depth() == {"queued": BACKLOG + 1}
    by_arrival = [*(f"1.2.826.0.1.3680043.10.1.{n}" for n in range(1, BACKLOG + 1)), "1.2.1"]
    assert [entry.study_instance_uid for entry in reading.worklist()] == by_arrival
    taken = queue.claim("test", 60, 16)
    assert [job.study_instance_uid for job in taken] == by_arrival[:16]  # first come, first looked at
    found = finding(0.95)
    queue.finish([Result(job=taken[15], finding=found, priority=judge(found, card=CARD, policy=POLICY))])
    after = [entry.study_instance_uid for entry in reading.worklist()]
    assert after == [by_arrival[15], *by_arrival[:15], *by_arrival[16:]]


@pytest.mark.fault(110)
@pytest.mark.timeout(600)
def test_a_worker_is_as_large_after_hundreds_of_films_as_after_the_first_ones(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    films = [chests.chest(tmp_path / "films", side=512) for _ in range(32)]
    daemon = make_daemon(decoders=2, decode_films=1000)
    for command in ("receive", "work"):
        daemon.start(command)
    daemon.wait_until_up(web=False)
    daemon.wait_for_log("model_loaded")
    for film in films:
        assert send(daemon, film.dataset) == [0]
    worker = daemon.child("work")
    sizes = []
    for _ in range(12):
        wait_for(lambda: not daemon.rows(OPEN), 240)
        sizes.append(sum(size(process) for process in (worker, *worker.children(recursive=True))))
        again(daemon)
    wait_for(lambda: not daemon.rows(OPEN), 240)
    # The first round fills the libraries' own stores. Then they hold a batch more or less, as it happens: a leak lifts
    # both the least that is held and the most.
    early, late = sizes[1:6], sizes[6:]
    grown = min(min(late) - min(early), max(late) - max(early))
    assert grown < 16 * 2**20, f"{grown / 2**20 / 6 / len(films):.3f} MiB a film: {[it >> 20 for it in sizes]}"


def size(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def again(daemon: Daemon) -> None:
    """All films once more, as if they had just come."""
    engine = open_engine(f"sqlite:///{daemon.data_dir / 'triage.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET state = 'queued', attempts = 0, finished_at = NULL"))
    engine.dispose()
