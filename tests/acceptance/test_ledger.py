"""What was acknowledged is listed, once, whoever dies when: kill -9 at random moments under load."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import chests
import httpx
import psutil
import pytest
from pydicom.uid import generate_uid
from running import Daemon, wait_for

from daemon.settings import DEFAULT_WEIGHTS
from triage.card import read_card

SENDERS, STUDIES = 4, 100
PROGRAM = Path(__file__).with_name("ledger_sender.py")
COMMANDS = {"receive": (), "work": ("--name", "worker-1"), "schedule": (), "web": ()}
# Every finding flags, so that a flag that is lost would be seen.
POLICY = (
    '[policy]\nversion = "all-flagged"\nthreshold = 1e-12\n'
    f'threshold_weights = "{read_card(DEFAULT_WEIGHTS).sha256[:12]}"\n'
)


def films(folder: Path) -> list[chests.Film]:
    """Two small instances a study: a film, and another film or a leg, which gets no finding."""
    made = []
    for number in range(STUDIES):
        study = generate_uid()
        other = "CHEST" if number % 2 else "LEG"
        pair = [
            chests.chest(folder, side=160, StudyInstanceUID=study, PatientID=f"INV-{number}", BodyPartExamined=part)
            for part in ("CHEST", other)
        ]
        made += pair if number % 3 else reversed(pair)
    return made


@contextmanager
def senders(daemon: Daemon, made: list[chests.Film], home: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The two instances of a study come from different senders."""
    started = []
    for number in range(SENDERS):
        files = [film.path for film in made[number::SENDERS]]
        command = [sys.executable, PROGRAM, home / f"ledger-{number}", f"127.0.0.1:{daemon.dicom_port}", "0.25", *files]
        started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


@dataclass
class Watch:
    """Looks at the worklist all the time and remembers every flag that went out."""

    daemon: Daemon
    flagged: set[str] = field(default_factory=set)
    lowered: set[str] = field(default_factory=set)
    vanished: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    looks: int = 0

    def look(self) -> None:
        with suppress(httpx.TransportError, httpx.HTTPStatusError):
            entries = {entry["study_instance_uid"]: entry for entry in self.daemon.worklist()}
            self.vanished |= self.seen - entries.keys()
            self.seen |= entries.keys()
            self.lowered |= {uid for uid in self.flagged & entries.keys() if not entries[uid]["flagged"]}
            self.flagged |= {uid for uid, entry in entries.items() if entry["flagged"]}
            self.looks += 1

    @contextmanager
    def looking(self) -> Iterator[None]:
        done = threading.Event()

        def keep_looking() -> None:
            while not done.wait(0.1):
                self.look()

        thread = threading.Thread(target=keep_looking)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def kill_at_random(daemon: Daemon, busy: Callable[[], bool], seed: int, seconds: float = 75.0) -> dict[str, int]:
    """While ``busy``: about once a second somebody dies and is started again at once. Deaths by name."""
    dice = random.Random(seed)
    deaths = dict.fromkeys(COMMANDS, 0)
    deadline = time.monotonic() + seconds
    while busy() and time.monotonic() < deadline:
        time.sleep(dice.uniform(0.3, 1.7))
        name = dice.choices(["receive", "work", "schedule"], weights=[5, 3, 1])[0]
        if name == "work" and not _has_worked(daemon):
            continue  # it would never get past loading the network
        daemon.kill(name)
        daemon.start(name, *COMMANDS[name])
        deaths[name] += 1
        if name == "receive":
            with suppress(TimeoutError):
                wait_for(daemon.echo, 20, pause=0.1)
    return deaths


def _has_worked(daemon: Daemon) -> bool:
    """Whether the worker of now holds its decoder, so that it is looking at films."""
    with suppress(psutil.Error):
        return bool(psutil.Process(daemon.processes["work"].pid).children())
    return False


@pytest.mark.timeout(400)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(
    make_daemon: Callable[..., Daemon], tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    (tmp_path / "site.toml").write_text(POLICY, encoding="utf-8")
    url = request.getfixturevalue(f"{database}_url")
    daemon = make_daemon(database_url=url, config_file=tmp_path / "site.toml", attempts_max=20, lease_seconds=5)
    made = films(tmp_path / "films")
    for name, options in COMMANDS.items():
        daemon.start(name, *options)
    daemon.wait_until_up()
    watch = Watch(daemon)
    with senders(daemon, made, tmp_path) as sending, watch.looking():
        deaths = kill_at_random(daemon, lambda: any(each.poll() is None for each in sending), seed=20260105)
        wait_for(lambda: all(each.poll() is not None for each in sending), 60)
        daemon.kill("receive")
        daemon.start("receive")
        wait_for(lambda: not daemon.rows("SELECT 1 FROM jobs WHERE state IN ('queued', 'leased')"), 120, pause=0.5)
    daemon.wait_until_up()
    acknowledged = [line for path in tmp_path.glob("ledger-*") for line in path.read_text().split()]
    assert len(acknowledged) == len(made)
    assert min(deaths["receive"], deaths["work"]) >= 2, deaths
    assert_nothing_lost(daemon, acknowledged, made)
    assert_nothing_twice(daemon)
    assert_all_answered(daemon, watch)
    assert_files_and_rows_agree(daemon)


def assert_nothing_lost(daemon: Daemon, acknowledged: list[str], made: list[chests.Film]) -> None:
    held = dict(daemon.rows("SELECT sop_instance_uid, study_instance_uid FROM instances"))
    assert set(acknowledged) <= held.keys()
    assert held == {film.sop: film.study for film in made}
    assert {entry["study_instance_uid"] for entry in daemon.worklist()} == set(held.values())


def assert_nothing_twice(daemon: Daemon) -> None:
    for table, key in (("instances", "sop_instance_uid"), ("jobs", "instance_id"), ("findings", "instance_id")):
        (counted,) = daemon.rows(f"SELECT count(*), count(DISTINCT {key}) FROM {table}")
        assert counted == (2 * STUDIES, 2 * STUDIES), table


def assert_all_answered(daemon: Daemon, watch: Watch) -> None:
    outcomes = {entry["analysis"] for entry in daemon.worklist()}
    reasons = set(daemon.rows("SELECT DISTINCT reason FROM findings"))
    assert outcomes <= {"analysed", "not_analysed"}
    assert reasons <= {(None,), ("not_chest_frontal",), ("internal_error",)}
    flagged = {entry["study_instance_uid"] for entry in daemon.worklist() if entry["flagged"]}
    assert len(flagged) >= 0.9 * STUDIES, "the deaths cost more than the films they interrupted"
    assert watch.looks > 20
    assert watch.flagged <= flagged
    assert not watch.lowered
    assert not watch.vanished


def assert_files_and_rows_agree(daemon: Daemon) -> None:
    assert not daemon.files("incoming")
    assert not daemon.files("quarantine")
    on_disk = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in daemon.files("instances")}
    assert all(name == content for name, content in on_disk.items())
    assert on_disk.keys() == {sha256 for (sha256,) in daemon.rows("SELECT sha256 FROM instances")}
