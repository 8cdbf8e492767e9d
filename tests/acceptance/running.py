"""The daemon as a real process: started, watched from outside, killed."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from pynetdicom import AE
from pynetdicom.association import Association
from sqlalchemy import text

from triage.records.store import open_engine

T = TypeVar("T")
VERIFICATION = "1.2.840.10008.1.1"
SERVE_SECONDS = 60.0
QUICK = {
    "dicom_host": "127.0.0.1",
    "http_host": "127.0.0.1",
    "disk_free_mib_min": 64,
    "torch_threads": 1,
    "retry_seconds": 0.2,
    "sweep_seconds": 1,
    "log_format": "json",
}


def free_port() -> int:
    """On all addresses; none of those that the kernel gives to whoever connects, who would have it before its use."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with suppress(OSError), socket.create_server(("", port)):
            return port


def has_ended(process: psutil.Process) -> bool:
    """Also if nobody has asked for its exit code yet: a zombie whose last thread has let go of its sockets."""
    try:
        return not process.is_running() or (process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
    except psutil.NoSuchProcess:
        return True


def wait_for(ask: Callable[[], T], seconds: float = 60.0, pause: float = 0.05) -> T:
    """The first true answer. Raise TimeoutError, naming the question."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = ask()
        if answer:
            return answer
        time.sleep(pause)
    raise TimeoutError(f"{getattr(ask, '__name__', ask)} stayed false for {seconds} s")


@contextmanager
def associated(
    port: int, contexts: Iterable[tuple[str, str]], seconds: float = 60, address: str = "127.0.0.1"
) -> Iterator[Association]:
    """An association with these (abstract, transfer) syntaxes; established or not."""
    ae = AE("PACS")
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = seconds
    for pair in contexts:
        ae.add_requested_context(*pair)
    association = ae.associate(address, port, ae_title="TRIAGE")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        if association.is_alive():
            association.join(10)


@dataclass
class Daemon:
    """One data folder and the commands that run on it. Settings by name in lower case, over `QUICK`.

    ``inside``: the command that runs a command on the machine whose ``address`` it is, where that is not this one.
    """

    home: Path
    settings: dict[str, object] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    orphans: list[psutil.Process] = field(default_factory=list)
    address: str = "127.0.0.1"
    inside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.dicom_port = int(str(self.settings.get("dicom_port") or free_port()))
        self.http_port = int(str(self.settings.get("http_port") or free_port()))
        self.data_dir = Path(str(self.settings.get("data_dir") or self.home / "data"))
        self.scratch = self.home / "scratch"
        self.scratch.mkdir(exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """TRIAGE_* of the caller stays out, but for the card: the shipped one unless somebody names another."""
        plain = {k: v for k, v in os.environ.items() if not k.startswith("TRIAGE_") or k == "TRIAGE_WEIGHTS_CARD"}
        places = {"data_dir": self.data_dir, "dicom_port": self.dicom_port, "http_port": self.http_port}
        settings = {**QUICK, **places, **self.settings}
        named = {f"TRIAGE_{name.upper()}": str(value) for name, value in settings.items()}
        return {**plain, "TMPDIR": str(self.scratch), "OMP_NUM_THREADS": "1", **named}

    # -- processes -------------------------------------------------------------------------------------------------

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Run one command of the command line; its output is added to a file named like it."""
        if command[0] in self.processes:
            self.processes[command[0]].wait(30)
        with self.log_path(command[0]).open("ab") as log:
            process = subprocess.Popen(
                [*self.inside, sys.executable, "-m", "daemon.cli", *command],
                env=self.environment,
                cwd=self.scratch,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes[command[0]] = process
        return process

    def serve(self) -> Daemon:
        """Start everything; return when it takes films in and shows them."""
        self.start("serve")
        self.wait_until_up()
        return self

    def wait_until_up(self, *, web: bool = True) -> None:
        wait_for(lambda: self.ended() or (self.echo() and (not web or self.live())), SERVE_SECONDS, pause=0.1)
        assert not self.ended(), self.log()

    def ended(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.poll() is not None]

    def live(self) -> bool:
        with suppress(httpx.TransportError):
            return self.get("/api/health/live").is_success
        return False

    def echo(self) -> bool:
        """Whether the receiver answers C-ECHO."""
        try:
            socket.create_connection((self.address, self.dicom_port), 1).close()
        except OSError:
            return False
        contexts = [(VERIFICATION, "1.2.840.10008.1.2")]
        with associated(self.dicom_port, contexts, seconds=5, address=self.address) as association:
            return association.is_established and association.send_c_echo().get("Status") == 0

    def child(self, command: str) -> psutil.Process:
        """The running process of one command ("receive", "work", ...), wherever it was started from."""
        return wait_for(lambda: self.find(command), 30)

    def find(self, command: str) -> psutil.Process | None:
        for process in self.family():
            with suppress(psutil.Error):
                line = process.cmdline()
                if process.status() != psutil.STATUS_ZOMBIE and [part for part in line[1:5] if part != "-P"][:3] == [
                    "-m",
                    "daemon.cli",
                    command,
                ]:
                    return process
        return None

    def family(self) -> list[psutil.Process]:
        found = []
        for started in self.processes.values():
            with suppress(psutil.Error):
                process = psutil.Process(started.pid)
                found += [process, *process.children(recursive=True)]
        return found

    def kill(self, command: str) -> int:
        """kill -9, now. The process id that it had."""
        process = self.child(command)
        self.orphans += process.children(recursive=True)
        process.kill()
        with suppress(psutil.Error):
            wait_for(lambda: has_ended(process), 10)
        return process.pid

    def terminate(self, seconds: float = 30.0) -> dict[str, int]:
        """SIGTERM to what we started; exit codes by command. Raise subprocess.TimeoutExpired."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        codes = {name: p.wait(max(0.1, deadline - time.monotonic())) for name, p in self.processes.items()}
        self.processes.clear()
        return codes

    def stop(self) -> None:
        """However it stands, nothing of it is left afterwards."""
        family = self.family()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
        for each in family + self.orphans:
            with suppress(psutil.Error):
                each.kill()
        for process in self.processes.values():
            process.wait(10)
        self.processes.clear()

    def run(self, *command: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself."""
        return subprocess.run(
            [sys.executable, "-m", "daemon.cli", *command],
            env=self.environment,
            cwd=self.scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    # -- what it says ----------------------------------------------------------------------------------------------

    def log_path(self, command: str) -> Path:
        return self.home / f"{command}.log"

    def log(self) -> str:
        """Everything all processes have written to stdout and stderr so far."""
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(self.home.glob("*.log")))

    def lines(self, event: str) -> list[dict[str, Any]]:
        """JSON log lines of one event, oldest first."""
        found = []
        for line in self.log().splitlines():
            with suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict) and fields.get("event") == event:
                    found.append(fields)
        return found

    def wait_for_log(self, event: str, seconds: float = 60.0) -> dict[str, Any]:
        """The first line of an event, once there is one."""
        return wait_for(lambda: self.lines(event), seconds)[0]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://{self.address}:{self.http_port}{path}", timeout=20)

    def worklist(self) -> list[dict[str, Any]]:
        """As the API tells it."""
        answer = self.get("/api/worklist")
        answer.raise_for_status()
        entries: list[dict[str, Any]] = answer.json()["entries"]
        return entries

    def entry(self, study_instance_uid: str) -> dict[str, Any]:
        """The one row of a study; raise AssertionError if there is none, or are two."""
        found = [entry for entry in self.worklist() if entry["study_instance_uid"] == study_instance_uid]
        assert len(found) == 1, f"{len(found)} rows of one study"
        return found[0]

    def settled(self, study_instance_uid: str, seconds: float = 60.0) -> dict[str, Any]:
        """The row of a study once it is no longer pending."""

        def outcome() -> dict[str, Any] | None:
            entry = self.entry(study_instance_uid)
            return None if entry["analysis"] == "pending" else entry

        return wait_for(outcome, seconds)

    def rows(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        """Of the database itself."""
        url = self.settings.get("database_url") or f"sqlite:///{self.data_dir / 'triage.db'}"
        engine = open_engine(str(url))
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(text(query), values)]
        finally:
            engine.dispose()

    def change(self, statement: str) -> None:
        """In the database itself, behind the daemon's back."""
        url = self.settings.get("database_url") or f"sqlite:///{self.data_dir / 'triage.db'}"
        engine = open_engine(str(url))
        try:
            with engine.begin() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()

    def files(self, room: str) -> list[Path]:
        """But the locks of those who write there."""
        found = (self.data_dir / room).rglob("*")
        return sorted(path for path in found if path.is_file() and path.suffix != ".lock")


@contextmanager
def running(home: Path, **settings: object) -> Iterator[Daemon]:
    """A daemon of which nothing is left afterwards; not started yet."""
    daemon = Daemon(home, settings)
    try:
        yield daemon
    finally:
        daemon.stop()
