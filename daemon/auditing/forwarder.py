"""Tells the repository what the table of accesses has waiting for it, in the order of entry, one process for the site.

The table is the buffer: it outlives restarts, and neither receiving nor reading ever waits for the repository. While it
is away the pause between two tries doubles, up to a minute, and of what waits the oldest is given up beyond a limit.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import token_hex
from typing import Protocol

from daemon import metrics
from daemon.auditing.syslog import Line, Repository, entry
from daemon.auditing.xml import Reporter, messages
from daemon.telemetry import describe, log
from triage.records.audit import Audit
from triage.records.store import DatabaseError
from triage.user import Access, Outcome, Subject

_AT_ONCE = 100
_LOOK_SECONDS = 1.0
_PAUSE_SECONDS_MAX = 60.0


class Turn(Protocol):
    """Whose it is to tell: see `daemon.turn`."""

    def wait(self, stop: threading.Event) -> bool: ...
    def is_ours(self) -> bool: ...
    def give_up(self) -> None: ...


@dataclass(kw_only=True)
class Forwarder:
    """Runs in a thread of its own, from ``start`` to ``stop``. ``waiting_max``: accesses."""

    audit: Audit
    repository: Repository
    us: Reporter
    turn: Turn
    waiting_max: int
    _line: Line | None = None
    _failures: int = 0
    _ending: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="audit-forwarder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(_PAUSE_SECONDS_MAX / 4)

    def _run(self) -> None:
        while not self._ending.is_set():
            with self._whatever_happens():
                self._take_turn()
        with self._whatever_happens():
            self.turn.give_up()

    @contextmanager
    def _whatever_happens(self) -> Iterator[None]:
        """The thread goes on, with a new turn."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a thread that ended would tell nobody anything, without a word
            log().error("audit_not_told", **describe(error))
            with suppress(Exception):
                self._hang_up()
            with suppress(Exception):
                self.turn.give_up()
            self._ending.wait(_PAUSE_SECONDS_MAX)

    def _take_turn(self) -> None:
        if self.turn.wait(self._ending):
            pause = 0.0
            while not self._ending.wait(pause) and self.turn.is_ours():
                pause = self._step()
            self._hang_up()

    def _step(self) -> float:
        """Seconds until the next."""
        try:
            return 0.0 if self.tell() else _LOOK_SECONDS
        except DatabaseError as error:
            log().error("audit_not_read", **describe(error))
            return _LOOK_SECONDS
        except OSError as error:
            return self._is_away(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest of the process goes on
            log().error("audit_not_told", **describe(error))
            self._keep_bounds()
            return _PAUSE_SECONDS_MAX

    def tell(self) -> bool:
        """Some that wait; whether more may. Raise OSError if the repository is away, DatabaseError."""
        waiting = self.audit.waiting(_AT_ONCE)
        if not waiting:
            return False
        written = [self._written(access, subject) for access, subject in waiting]
        entries = [each for entries in written if entries is not None for each in entries]
        self._line = self._line or self.repository.connect()
        self._line.send(entries)
        self.audit.told([access.access_id for access, _ in waiting if access.access_id is not None])
        self._own_up(written.count(None))
        if self._failures:
            log().warning("audit_repository_back", count=self._failures)
        self._failures = 0
        metrics.AUDIT_REPOSITORY_UP.set(1)
        return len(waiting) == _AT_ONCE

    def _written(self, access: Access, subject: Subject | None) -> list[bytes] | None:
        """None if it cannot be: it would not be possible next time either, and all others wait behind it."""
        try:
            return [entry(each, access.at.astimezone(UTC), self.us.host) for each in messages(access, subject, self.us)]
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it
            log().error("audit_not_told", **describe(error), access_id=access.access_id)
            return None

    def _is_away(self, error: OSError) -> float:
        self._hang_up()
        metrics.AUDIT_REPOSITORY_UP.set(0)
        pause = min(_LOOK_SECONDS * 2.0 ** min(self._failures, 16), _PAUSE_SECONDS_MAX)
        if not self._failures:
            where = {"host": self.repository.host, "port": self.repository.port}
            log().error("audit_repository_unavailable", **where, **describe(error), retry_seconds=pause)
        self._failures += 1
        self._keep_bounds()
        return pause

    def _keep_bounds(self) -> None:
        try:
            self._own_up(self.audit.give_up_beyond(self.waiting_max))
        except DatabaseError as error:
            log().error("audit_not_read", **describe(error))

    def _own_up(self, count: int) -> None:
        """That so many will not be told, which is told."""
        if count:
            log().error("audit_given_up", count=count)
            metrics.AUDIT_GIVEN_UP.inc(count)
            us = f"triage on {self.us.host}"
            given_up = Access(at=datetime.now(UTC), who=us, verb="audit_given_up", outcome=Outcome.FAILED)
            self.audit.enter({token_hex(16): given_up})

    def _hang_up(self) -> None:
        metrics.AUDIT_REPOSITORY_UP.set(math.nan)  # until we know, or whoever has the turn then does
        if self._line is not None:
            self._line.close()
            self._line = None
