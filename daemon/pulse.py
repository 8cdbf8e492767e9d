"""A process shows that it lives, and that it gets on: to who supervises it, to the database, and so to the page.

Each working loop beats, here in memory. While all have beaten within their time, one thread tells the supervisor (or
systemd) every second and another the database every three. A loop that hangs, or a process that stands still, falls
silent: the supervisor kills and starts it again, the page and the metrics say that it is missing. One whom nobody
would kill, a pod's, ends itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from daemon.environment import Supervised
from daemon.exposition import Writer
from daemon.lifecycle import ALIVE, UP, end_hanging
from daemon.metrics import DATABASE_UP
from daemon.notice import Notice
from daemon.telemetry import log
from triage.records.processes import Processes
from triage.records.store import DatabaseError

_EVERY_SECONDS = 1.0
_ROW_EVERY_SECONDS = 3.0
# Who has said nothing to the database for so long is taken for dead.
SILENT_SECONDS = 12.0
# Who has hung for so long, over and above what its loop may take, does not come back.
_LOST_SECONDS = 30.0


@dataclass(kw_only=True)
class Loop:
    """Work that must not stand still for ``seconds``. Called, it says that it has just got on."""

    name: str
    seconds: float
    at: float = field(default_factory=time.monotonic)
    has_begun: bool = False

    def __call__(self) -> None:
        self.at, self.has_begun = time.monotonic(), True

    def hangs(self) -> bool:
        return time.monotonic() - self.at > self.seconds


class Pulse:
    """Of this process, ``name`` being its own among all hosts. From ``start`` to ``stop``."""

    def __init__(self, processes: Processes, name: str, kind: str, child: Supervised | None) -> None:
        self.processes, self.name, self.kind, self._child = processes, name, kind, child
        # Whether this worker could not load the network; None for who needs none.
        self.without_network = False
        self._loops: list[Loop] = []
        self._notice = Notice()
        self._writer = Writer(child.folder, child.name) if child and child.folder else None
        self._told: str | None = None
        self._hung_at = 0.0
        self._is_up = False
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for name, run in (("pulse", self._keep_beating), ("pulse-row", self._keep_writing))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        if self._writer:
            self._writer.start()

    def stop(self) -> None:
        """In good order: what it leaves behind does not look like a death."""
        self._notice("STOPPING=1")
        self._stop.set()
        self._threads[1].join(_EVERY_SECONDS)
        if self._writer:
            self._writer.stop()
        with suppress(DatabaseError):
            self.processes.leave(self.name)

    def loop(self, name: str, seconds: float) -> Callable[[], None]:
        """What a working loop calls each time round, which never takes longer than so many seconds."""
        loop = Loop(name=name, seconds=seconds)
        self._loops.append(loop)
        return loop

    def hanging(self) -> str | None:
        """The name of a loop that hangs."""
        return next((loop.name for loop in tuple(self._loops) if loop.hangs()), None)

    def _keep_beating(self) -> None:
        while True:
            hanging = self.hanging()
            if hanging is None:
                self._beat()
            else:
                self._bear(hanging, time.monotonic())
            self._told = hanging
            if self._stop.wait(_EVERY_SECONDS):
                return

    def _bear(self, hanging: str, now: float) -> None:
        """Time is counted from when it is seen: whoever was suspended meanwhile has a chance to go on."""
        if self._told is None:
            self._hung_at = now
        if hanging != self._told:
            log().error("loop_hangs", where=hanging)
        is_watched = self._child is not None or self._notice.is_wanted
        if not is_watched and now - self._hung_at > _LOST_SECONDS:
            end_hanging()

    def _beat(self) -> None:
        loops = tuple(self._loops)
        is_up = bool(loops) and all(loop.has_begun for loop in loops)
        self._notice("WATCHDOG=1", *(["READY=1"] if is_up and not self._is_up else ()))
        self._is_up = is_up
        if self._child:
            with suppress(OSError):  # a full pipe: the supervisor has enough to read
                os.write(self._child.beats, UP if is_up else ALIVE)

    def _keep_writing(self) -> None:
        while True:
            if self.hanging() is None:
                self._write_row()
            if self._stop.wait(_ROW_EVERY_SECONDS):
                return

    def _write_row(self) -> None:
        try:
            self.processes.beat(self.name, self.kind, without_network=self.without_network)
            DATABASE_UP.set(1)
        except DatabaseError:
            DATABASE_UP.set(0)  # those who need it say more
