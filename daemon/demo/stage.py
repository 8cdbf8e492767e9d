"""The processes of a demonstration: a fresh daemon and the sender of an invented morning, ended with it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.demo.tally import Sent
from daemon.environment import environment_without_settings
from daemon.settings import PREFIX, Settings
from triage.errors import TriageError

HOST = "127.0.0.1"
KEPT_SETTINGS = ("dicom_ae_title", "weights_card", "device", "torch_threads", "workers", "log_level")
END_SECONDS = 25.0
LAST_LINES = 15
# Children end when this process is gone, however it went; in a session of their own, Ctrl-C reaches only this one.
BOUND = """import sys
from daemon.lifecycle import die_with_parent
die_with_parent()
from daemon.{} import main
sys.exit(main())"""


@dataclass(frozen=True, kw_only=True)
class Ports:
    dicom: int
    http: int


def free_ports(settings: Settings) -> Ports:
    """Those of the settings, 0 being any. Raise TriageError, naming the setting, where one is in use."""
    return Ports(
        dicom=_free_port(settings.dicom_port, "DICOM_PORT"),
        http=_free_port(settings.http_port, "HTTP_PORT"),
    )


def _free_port(port: int, name: str) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise TriageError(f"port {port}: {error.strerror}; set {PREFIX}{name} to another") from error
        return int(probe.getsockname()[1])


@dataclass
class Player:
    """A child process; what it writes goes to a log, or line by line into ``lines``."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    def check(self) -> None:
        """Raise TriageError, with its last words, if it ended with a failure."""
        if self.process.poll():
            raise TriageError(f"the {self.name} of the demonstration ended\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])

    def ended(self) -> bool:
        return self.process.poll() is not None

    def go(self) -> None:
        """Say the word that the sender waits for."""
        if self.process.stdin:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def sent(self) -> list[Sent]:
        """What the sender told so far, in the order of arrival; its first line only counts the films."""
        return [_sent(line, number) for number, line in enumerate(self.lines[1:], 1)]


def _sent(line: dict[str, Any], number: int) -> Sent:
    return Sent(
        number=number,
        study=line["study"],
        shows=line["shows"],
        truth=line["truth"],
        stored=line["status"] == 0,
        answered_at=line["answered_at"],
    )


@contextmanager
def daemon_running(settings: Settings, ports: Ports, home: Path) -> Iterator[Player]:
    """`triage serve` on SQLite in ``home``: nothing of the environment's TRIAGE_* but ``KEPT_SETTINGS``."""
    values = {name: getattr(settings, name) for name in KEPT_SETTINGS} | {
        "data_dir": home / "data",
        "dicom_host": HOST,
        "dicom_port": ports.dicom,
        "http_host": HOST,
        "http_port": ports.http,
        "log_format": "console",
        "disk_free_mib_min": 256,
    }
    environment = {PREFIX + name.upper(): str(value) for name, value in values.items()}
    with _playing("daemon", ["cli", "serve"], home, environment) as daemon:
        yield daemon


@contextmanager
def sender_running(
    settings: Settings, ports: Ports, home: Path, *, films: Path | None, count: int, pause_seconds: float
) -> Iterator[Player]:
    """The sender, preparing its films; it waits for `Player.go`."""
    outbox = home / "outbox"
    outbox.mkdir()
    arguments = ["demo.sender", "--port", str(ports.dicom), "--called-ae", settings.dicom_ae_title]
    arguments += ["--outbox", str(outbox), "--count", str(count), "--pause-seconds", str(pause_seconds)]
    arguments += ["--films", str(films.resolve())] if films else []
    with _playing("sender", arguments, home, {}) as sender:
        threading.Thread(target=_listen, args=(sender,), daemon=True).start()
        yield sender


def _listen(player: Player) -> None:
    for line in player.process.stdout or ():
        player.lines.append(json.loads(line))


@contextmanager
def _playing(name: str, arguments: Sequence[str], home: Path, settings: dict[str, str]) -> Iterator[Player]:
    module, *rest = arguments
    log = home / f"{name}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            [sys.executable, "-P", "-c", BOUND.format(module), *rest],
            env={**environment_without_settings(), **settings, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if name == "sender" else errors,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    try:
        yield Player(name=name, process=process, log=log)
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
