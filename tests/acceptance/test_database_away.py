"""PostgreSQL freezes, crashes and comes back under a sender: what was acknowledged is listed, once, and analysed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import chests
import pytest
from running import Daemon, wait_for

from stopping import own_server

PROGRAM = Path(__file__).with_name("ledger_sender.py")
COMMANDS = {"receive": (), "work": ("--name", "worker-1"), "schedule": ()}
STUDIES = 60
OPEN = "SELECT 1 FROM jobs WHERE state IN ('queued', 'leased')"


@pytest.mark.fault(86)
@pytest.mark.timeout(400)
def test_an_outage_loses_and_doubles_nothing_and_is_told_once(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    made = [chests.chest(tmp_path / "films", side=160, PatientID=f"INV-{number}") for number in range(STUDIES)]
    with own_server() as server:
        daemon = make_daemon(database_url=server.url, database_seconds=2, lease_seconds=10)
        for name, options in COMMANDS.items():
            daemon.start(name, *options)
        daemon.wait_until_up(web=False)
        promised = tmp_path / "promised"
        command = [sys.executable, PROGRAM, promised, str(daemon.dicom_port), "0.2", *(film.path for film in made)]
        sender = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            wait_for(lambda: count(promised) >= 5 and daemon.lines("study_ranked"))
            with server.frozen():
                before = count(promised)
                wait_for(lambda: count(promised) >= before + 10)
            wait_for(lambda: daemon.lines("outage_over"))
            server.stop("immediate")
            before = count(promised)
            wait_for(lambda: count(promised) >= before + 10)
            server.start()
            assert sender.wait(120) == 0
        finally:
            sender.kill()
            sender.wait()
        wait_for(lambda: len(daemon.lines("outage_over")) == 2)
        wait_for(lambda: not daemon.rows(OPEN), 120, pause=0.5)
        assert {row[0] for row in daemon.rows("SELECT sop_instance_uid FROM instances")} == {film.sop for film in made}
        for table in ("instances", "jobs", "findings", "studies"):
            assert daemon.rows(f"SELECT count(*) FROM {table}") == [(STUDIES,)]
        assert daemon.rows("SELECT count(*) FROM studies WHERE analysis = 'pending'") == [(0,)]
        assert_told_once(daemon)


def count(promised: Path) -> int:
    return len(promised.read_text().split()) if promised.exists() else 0


def assert_told_once(daemon: Daemon) -> None:
    """By each process for each of the two outages."""
    assert daemon.lines("instance_refused") == []
    assert len(daemon.lines("outage_began")) == 2
    told = [line["process"] for line in daemon.lines("database_unavailable")]
    assert 1 <= told.count("worker-1") <= 2
    assert told.count("scheduler") == 2
    assert len(daemon.lines("database_back")) == told.count("worker-1")
    assert daemon.lines("record_failed") == []
