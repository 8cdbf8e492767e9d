"""Clocks that step, change the hour or disagree: order and leases are the database's, and it keeps its order."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import chests
import pytest
from running import Daemon, wait_for
from sending import send

from absent import missing
from faults.odd import odd_worker

HOUR_SECONDS = 3600
# Europe/Berlin has the hour from two to three twice.
BEFORE_THE_CHANGE = datetime(2026, 10, 25, 0, 59, 50, tzinfo=UTC)
AFTER_THE_CHANGE = datetime(2026, 10, 25, 1, 0, 10, tzinfo=UTC)
COMMANDS = ("receive", "schedule", "web")


class Clock:
    """Of every process that is started once it is worn: `libfaketime`, which leaves the monotonic clock alone."""

    def __init__(self, file: Path, environment: pytest.MonkeyPatch) -> None:
        self._file, self._environment = file, environment

    def wear(self, seconds: float = 0) -> None:
        """In Berlin, so far from the real time."""
        self.set(seconds)
        fake = {"TIMESTAMP_FILE": str(self._file), "NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        named = {f"FAKETIME_{name}": value for name, value in fake.items()}
        for name, value in {"LD_PRELOAD": library(), "TZ": "Europe/Berlin", **named}.items():
            self._environment.setenv(name, value)

    def set(self, seconds: float) -> None:
        """So far from the real time."""
        self._file.write_text(f"{seconds:+.0f}\n", encoding="ascii")

    def show(self, moment: datetime) -> None:
        self.set(moment.timestamp() - time.time())


def library() -> str:
    found = find_spec("libfaketime")
    path = Path(found.origin or "").parent / "vendor/libfaketime/src/libfaketime.so.1" if found else Path()
    if not path.is_file() or sys.platform != "linux":
        missing("libfaketime (pip install libfaketime)")
    return str(path)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(tmp_path / "clock", monkeypatch)


def adult(folder: Path) -> chests.Film:
    """Goes the whole way, and is not flagged: its place is its arrival."""
    return chests.chest(folder, side=160, PatientAge="040Y", StudyDate="20260101", StudyTime="235959")


def started(daemon: Daemon, *commands: str) -> Daemon:
    for command in commands:
        daemon.start(command)
    daemon.wait_until_up()
    return daemon


def sent(daemon: Daemon, folder: Path) -> str:
    film = adult(folder)
    assert send(daemon, film.dataset) == [0]
    return film.study


@pytest.mark.fault(111)
def test_steps_of_an_hour_leave_the_order_as_it_was_and_no_job_behind(
    make_daemon: Callable[..., Daemon], clock: Clock, tmp_path: Path
) -> None:
    clock.wear()
    daemon = started(make_daemon(lease_seconds=5, pending_seconds=100_000), *COMMANDS)
    came = []
    for seconds in (0, -HOUR_SECONDS, HOUR_SECONDS, 0):
        clock.set(seconds)
        came += [sent(daemon, tmp_path) for _ in range(2)]
    assert [entry["study_instance_uid"] for entry in daemon.worklist()] == came
    daemon.start("work", "--name", "worker-1")
    wait_for(lambda: {entry["analysis"] for entry in daemon.worklist()} == {"not_analysed"}, 120)
    assert {entry["reason"] for entry in daemon.worklist()} == {"age_out_of_range"}
    assert [entry["study_instance_uid"] for entry in daemon.worklist()] == came
    assert daemon.rows("SELECT count(*), max(attempts) FROM jobs") == [(len(came), 1)]


@pytest.mark.fault(111)
@pytest.mark.parametrize(("seconds", "attempts"), [(HOUR_SECONDS, 2), (-HOUR_SECONDS, 1)])
def test_a_step_while_a_film_is_looked_at_ends_its_lease_at_the_most_and_its_result_counts_once(
    make_daemon: Callable[..., Daemon], clock: Clock, tmp_path: Path, seconds: int, attempts: int
) -> None:
    clock.wear()
    daemon = started(make_daemon(lease_seconds=60, pending_seconds=100_000), *COMMANDS)
    sign = tmp_path / "hangs"
    with odd_worker(daemon, "hangs", sign):
        sign.touch()
        study = sent(daemon, tmp_path)
        wait_for(lambda: daemon.rows("SELECT state FROM jobs") == [("leased",)])
        clock.set(seconds)
        daemon.wait_for_log("leases_expired" if seconds > 0 else "clock_put_back")
        sign.unlink()
        assert daemon.settled(study, 120)["reason"] == "age_out_of_range"
        wait_for(lambda: len(daemon.lines("lease_lost")) == attempts - 1)
        daemon.settled(sent(daemon, tmp_path), 120)
    assert daemon.rows("SELECT attempts FROM jobs ORDER BY job_id") == [(attempts,), (1,)]
    concluded = "SELECT count(*) FROM events WHERE kind IN ('analysed', 'not_analysed')"
    assert daemon.rows(concluded) == [(2,)]


@pytest.mark.fault(112)
def test_the_hour_that_comes_twice_turns_no_order_round(
    make_daemon: Callable[..., Daemon], clock: Clock, tmp_path: Path
) -> None:
    clock.wear()
    clock.show(BEFORE_THE_CHANGE)
    daemon = started(make_daemon(), *COMMANDS, "work")
    came = [sent(daemon, tmp_path)]
    clock.show(AFTER_THE_CHANGE)
    came.append(sent(daemon, tmp_path))
    first, second = (daemon.settled(study, 120) for study in came)
    assert [entry["study_instance_uid"] for entry in daemon.worklist()] == came
    between = datetime.fromisoformat(second["waiting_since"]) - datetime.fromisoformat(first["waiting_since"])
    assert 0 < between.total_seconds() < HOUR_SECONDS / 2
    assert first["waiting_since"].startswith("2026-10-25T0")


@pytest.mark.fault(113)
@pytest.mark.parametrize("seconds", [-300, 300])
def test_a_worker_whose_clock_is_five_minutes_off_keeps_its_leases_and_says_the_databases_time(
    make_daemon: Callable[..., Daemon], clock: Clock, postgresql_url: str, tmp_path: Path, seconds: int
) -> None:
    daemon = started(make_daemon(database_url=postgresql_url, lease_seconds=60), *COMMANDS)
    clock.wear(seconds)
    daemon.start("work", "--name", "worker-1")
    for _ in range(3):
        daemon.settled(sent(daemon, tmp_path), 120)
    assert daemon.rows("SELECT max(attempts) FROM jobs") == [(1,)]
    assert not daemon.lines("leases_expired")
    took = "SELECT max(extract(epoch FROM analysed_at - received_at)), bool_and(analysed_at > received_at) FROM studies"
    ((longest, in_order),) = daemon.rows(took)
    assert in_order
    assert longest < 200
    (ranked, *_) = daemon.lines("study_ranked")
    told = datetime.fromisoformat(ranked["timestamp"]).timestamp() - time.time()
    assert abs(told - seconds) < 120, "the worker's clock was not off"
