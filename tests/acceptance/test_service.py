"""What a service manager asks of a daemon: to say that it is up, to read anew, to end in time."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import chests
import pytest
from running import Daemon, wait_for
from sending import send

READERS = 4  # receiver, worker, scheduler, web


def test_systemd_is_told_when_all_are_up_that_they_live_and_that_they_stop(
    make_daemon: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon = make_daemon()
        daemon.start("serve")
        told = []
        while "READY=1" not in told:
            told.append(systemd.recv(4096).decode())
        assert daemon.echo()
        assert daemon.live()
        while told[-1] != "STATUS=4 of 4 processes up":
            told.append(systemd.recv(4096).decode())
        while told[-1] != "WATCHDOG=1":
            told.append(systemd.recv(4096).decode())
        daemon.processes["serve"].terminate()
        while told[-1] != "STOPPING=1":
            told.append(systemd.recv(4096).decode())
        assert daemon.processes["serve"].wait(60) == 0


class Site:
    """Whose policy is in a file."""

    def __init__(self, make_daemon: Callable[..., Daemon], folder: Path) -> None:
        self.file = folder / "triage.toml"
        self.say("first", 240)
        self.daemon = make_daemon(config_file=self.file).serve()
        self.daemon.wait_for_log("ready")

    def say(self, version: str, limit: int) -> None:
        self.file.write_text(f'[policy]\nversion = "{version}"\nwaiting_limit_minutes = {limit}\n', encoding="utf-8")

    def reload(self, outcome: str, times: int) -> None:
        """Until all processes have said so."""
        self.daemon.processes["serve"].send_signal(signal.SIGHUP)
        wait_for(lambda: len(self.daemon.lines(outcome)) >= times, 60)

    def of_new_film(self, folder: Path) -> tuple[str, int]:
        """Version and limit with which it is listed and judged."""
        film = chests.chest(folder)
        assert send(self.daemon, film.dataset) == [0]
        assert self.daemon.settled(film.study)["analysis"] == "analysed"
        query = "SELECT policy_version, waiting_limit_minutes FROM studies WHERE study_instance_uid = :uid"
        ((version, limit),) = self.daemon.rows(query, uid=film.study)
        return str(version), int(limit)


def test_the_policy_is_read_anew_without_a_restart_and_a_bad_one_is_refused(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    site = Site(make_daemon, tmp_path)
    films = tmp_path / "films"
    assert site.of_new_film(films) == ("first", 240)
    site.say("second", 60)
    site.reload("policy_adopted", READERS)
    assert site.of_new_film(films) == ("second", 60)
    shown = site.daemon.get("/api/worklist").json()
    assert (shown["policy_version"], shown["waiting_limit_minutes"]) == ("second", 60)
    site.say("third", 0)
    site.reload("policy_refused", READERS)
    site.say("second", 120)  # other content under a version that has made priorities
    site.reload("policy_refused", 2 * READERS)
    problems = " ".join(line["problem"] for line in site.daemon.lines("policy_refused"))
    assert "waiting_limit_minutes" in problems
    assert "give it a new version" in problems
    assert site.of_new_film(films) == ("second", 60)
    assert not site.daemon.lines("child_died")
    assert ("second",) in site.daemon.rows("SELECT version FROM policies")


def test_what_hangs_when_it_is_asked_to_stop_is_handed_back_at_once(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(decoders=1, decode_seconds=100, job_seconds=300, lease_seconds=300).serve()
    daemon.wait_for_log("model_loaded")
    worker = daemon.child("work")
    # A nursery, and its child that has said it lives: else the worker waits for that, and takes no job.
    wait_for(lambda: len(worker.children(recursive=True)) > 1, 30)
    time.sleep(2)
    sandbox = worker.children(recursive=True)
    for process in sandbox:
        process.send_signal(signal.SIGSTOP)
    daemon.orphans += sandbox
    films = [chests.chest(tmp_path) for _ in range(2)]
    assert send(daemon, *(film.dataset for film in films)) == [0, 0]
    wait_for(lambda: daemon.rows("SELECT 1 FROM jobs WHERE state = 'leased'"), 30)
    assert daemon.terminate(60) == {"serve": 0}
    assert daemon.rows("SELECT state, attempts, worker FROM jobs") == [("queued", 0, None)] * 2
    assert daemon.lines("jobs_handed_back")
    daemon.serve()
    assert {daemon.settled(film.study)["analysis"] for film in films} == {"analysed"}
