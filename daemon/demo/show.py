"""`triage demo`: the daemon in a fresh folder, a sender of invented studies beside it, and a screen that watches both.

Reads the worklist as any viewer does, over HTTP; knows nothing of the daemon's insides.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from daemon import lifecycle
from daemon.demo.screen import ALL, board, figures
from daemon.demo.stage import HOST, Player, daemon_running, free_ports, sender_running
from daemon.demo.tally import Sent
from daemon.settings import Settings
from triage.errors import TriageError

SYNTHETIC_STUDIES, FOLDER_STUDIES = 24, 40
PAUSE_SECONDS = 0.3
SPARE_ROWS = 5  # of the screen, for headings and the line below
START_SECONDS = 180.0
READY_SECONDS = 60.0  # then the morning starts all the same: a daemon without a network still keeps the order
QUIET_SECONDS = 90.0  # without any change on the worklist, waiting for the rest is given up


def run_demo(films: Path | None, stay: bool, count: int | None, settings: Settings) -> int:  # noqa: FBT001 - a flag of typer's
    """Exit code: 0 if every study is on the worklist and none is pending. Raise TriageError if it cannot start."""
    if films is not None and not films.is_dir():
        raise TriageError(f"--films {films}: not a folder")
    stop = lifecycle.stop_on_signals()
    console = Console()
    ports = free_ports(settings)
    studies = count or (FOLDER_STUDIES if films else SYNTHETIC_STUDIES)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triage-demo-")))
        daemon = stack.enter_context(daemon_running(settings, ports, home))
        sender = sender_running(settings, ports, home, films=films, count=studies, pause_seconds=PAUSE_SECONDS)
        pacs = stack.enter_context(sender)
        show = Demonstration(console, stop, f"http://{HOST}:{ports.http}", daemon, pacs)
        console.print(f"Starting the daemon (DICOM port {ports.dicom}, {show.address}/) and preparing films.")
        console.print("Patients are invented; DICOM files of a folder go out as they are.")
        whole = show.ready() and show.morning()
        if stay and not stop.is_set():
            console.print(f"The worklist stays at {show.address}/ until Ctrl-C.")
            console.print(f"For the command line: export TRIAGE_DATA_DIR={home / 'data'}", soft_wrap=True)
            stop.wait()
    return 0 if whole else 1


@dataclass
class Demonstration:
    """One morning, watched."""

    console: Console
    stop: threading.Event
    address: str
    daemon: Player
    pacs: Player
    sent: list[Sent] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)

    def ready(self) -> bool:
        """Wait for daemon and films; False if asked to stop. Raise TriageError if either ends before its time."""
        started = time.monotonic()
        while not self.stop.wait(0.1):
            self._check()
            waited = time.monotonic() - started
            if self.pacs.lines and self.get("/api/worklist" if waited > READY_SECONDS else "/api/health/ready"):
                return True
            if waited > START_SECONDS:
                raise TriageError(f"no answer from the daemon in {START_SECONDS:.0f} s\n{self.daemon.last_words()}")
        return False

    def _check(self) -> None:
        if self.pacs.lines and not self.pacs.lines[0]["prepared"]:
            raise TriageError("no film of the folder could be read")
        self.daemon.check()
        self.pacs.check()

    def get(self, path: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        """None while there is no answer, or none that is good."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=5) as answer:  # noqa: S310 - our own address
                return json.load(answer)
        except (OSError, ValueError):
            return None

    def morning(self) -> bool:
        """Watch until every study has its final place; then the figures. True if none is missing or pending."""
        self.pacs.go()
        with Live(console=self.console, refresh_per_second=8, vertical_overflow="crop") as live:
            while not self.stop.wait(0.1):
                self._check()
                over = self.pacs.ended()  # asked before looking: what it said last must be seen
                self.look()
                live.update(self._board(rows=self.console.height - SPARE_ROWS))
                if over and (self.settled() or self._quiet()):
                    break
            live.update(self._board())
        self.console.line()
        self.console.print(figures(self.sent, self.entries, self.analysed_at()))
        return self.settled() and len(self.entries) == len(self.sent)

    def _board(self, rows: int = ALL) -> RenderableType:
        return board(self.sent, self.entries, columns=self.console.width, rows=rows)

    def look(self) -> None:
        self.sent = self.pacs.sent()
        answer = self.get("/api/worklist")
        if answer is not None:
            self.entries = answer["entries"]

    def settled(self) -> bool:
        """Whether every stored study is listed and none is pending."""
        stored = sum(study.stored for study in self.sent)
        return len(self.entries) >= stored and not any(entry["analysis"] == "pending" for entry in self.entries)

    def _quiet(self) -> bool:
        """Whether the sender has been silent for long: the daemon itself gives up on a study only after minutes."""
        return bool(self.sent) and time.time() - self.sent[-1].answered_at > QUIET_SECONDS

    def analysed_at(self) -> Mapping[str, datetime]:
        answers = {study.study: self.get(f"/api/studies/{study.study}") for study in self.sent}
        times = {study: answer.get("analysed_at") for study, answer in answers.items() if answer}
        return {study: datetime.fromisoformat(when) for study, when in times.items() if when}
