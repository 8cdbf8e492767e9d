"""The database is away: told once when it is noticed and once when it is back, however many ask in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from daemon.telemetry import describe, log
from triage.records.postgresql import is_away
from triage.records.store import DatabaseError

T = TypeVar("T")
_PAUSE_SECONDS = 1.0


class Absence:
    """For the threads of one process; ``stop`` ends their waiting, ``beat`` is called meanwhile."""

    def __init__(self, stop: threading.Event | None = None, beat: Callable[[], None] = lambda: None) -> None:
        self._stop = stop or threading.Event()
        self.beat = beat
        self._lock = threading.Lock()
        self._since: float | None = None

    def noticed(self, error: DatabaseError) -> None:
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()
                log().error("database_unavailable", **describe(error))

    @property
    def is_noticed(self) -> bool:
        return self._since is not None

    def over(self) -> None:
        """Whoever has had an answer says so."""
        if self._since is None:
            return
        with self._lock:
            if self._since is not None:
                log().warning("database_back", seconds=time.monotonic() - self._since)
            self._since = None

    def outlast(self, act: Callable[[], T]) -> T:
        """Do it as soon as the database is there. Raise DatabaseError if it is, and refuses, or when asked to stop."""
        while True:
            try:
                done = act()
            except DatabaseError as error:
                if not is_away(error) or self._stop.is_set():
                    raise
                self.noticed(error)
                self.beat()
                self._stop.wait(_PAUSE_SECONDS)
            else:
                self.over()
                return done
