"""Whose turn it is to sweep: of several schedulers on several hosts exactly one, until it dies.

On PostgreSQL the turn is a lock that ends with the connection that holds it, so nobody has to notice a death. Beside
SQLite there is one machine and one scheduler.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg

from daemon.telemetry import describe, log
from triage.records.postgresql import Patient
from triage.records.store import Store

# Any number will do, as long as no other application of the site uses it: "sweep" in ASCII.
_LOCK = 0x7377656570
# The same for who tells the audit repository: "audit".
AUDIT = 0x6175646974
_PAUSE_SECONDS = 1.0


class OnlyTurn:
    """Always ours."""

    def wait(self, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> bool:
        beat()
        return not stop.is_set()

    def is_ours(self) -> bool:
        return True

    def give_up(self) -> None:
        return


class PostgresTurn:
    """A connection of its own, which does nothing but hold the lock. For one thread."""

    def __init__(self, store: Store, lock: int = _LOCK) -> None:
        self._store = store
        self._lock = lock
        self._connection: Patient | None = None
        self._told: str | None = None

    def wait(self, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> bool:
        """Return when it is ours (True) or when asked to stop. ``beat`` is called each time it is asked for."""
        while not stop.is_set():
            beat()
            if self._try():
                self._tell("sweeping" if self._lock == _LOCK else "telling_audit_repository")
                return True
            stop.wait(_PAUSE_SECONDS)
        return False

    def _try(self) -> bool:
        try:
            if self._connection is None:
                self._connection = self._store.own_connection()
            query = f"SELECT pg_try_advisory_lock({self._lock})"
            (ours,) = self._connection.execute(query).fetchone() or (False,)
        except psycopg.OperationalError as error:
            self.give_up()
            self._tell("database_unavailable", **describe(error))
            return False
        if not ours:
            self._tell("waiting_to_sweep" if self._lock == _LOCK else "waiting_to_tell_audit_repository")
        return bool(ours)

    def is_ours(self) -> bool:
        """Whether the connection that holds it is alive."""
        if self._connection is None:
            return False
        try:
            self._connection.execute("SELECT 1")
        except psycopg.OperationalError as error:
            self.give_up()
            self._tell("database_unavailable", **describe(error))
            return False
        return True

    def _tell(self, what: str, **fields: str) -> None:
        """Once, however often it is looked at."""
        if what != self._told:
            self._told = what
            (log().error if fields else log().info)(what, **fields)

    def give_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def turn(store: Store, lock: int = _LOCK) -> OnlyTurn | PostgresTurn:
    """The kind that goes with the database."""
    return OnlyTurn() if store.backend == "sqlite" else PostgresTurn(store, lock)
