"""Receiving goes on while the database is away: noted in the ledger, told Success, entered in order when it is back.

    up --the database does not answer, twice--> down --its first entry goes in--> catching up --all are in--> up

While it is down or catching up, whatever arrives is noted: nobody waits for a database that is away, and nothing
overtakes what came before. Entering twice changes nothing, so a crash at any moment costs nothing but the repetition.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from daemon.arrival import Arrivals, ContradictionError, UnidentifiableError
from daemon.kept import Kept, StoredFile
from daemon.ledger import Entry, Ledger
from daemon.telemetry import describe, log
from triage.errors import NotAnalysed, Reason
from triage.records.intake import Intake, Receipt
from triage.records.postgresql import is_away
from triage.records.store import DatabaseError
from triage.study import ReceivedInstance

_PAUSE_SECONDS = 1.0
_JOIN_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How long, and for how many instances, Success is said on the ledger alone."""

    instances: int
    seconds: float


class OutageTooLongError(Exception):
    """The database has been away for longer, or for more instances, than the site allows."""


class Outage:
    """Stands between arrivals and the database. Called from many threads; `start` before, `stop` after."""

    def __init__(self, intake: Intake, kept: Kept, ledger: Ledger, bounds: Bounds) -> None:
        self._intake, self._kept, self._ledger, self._bounds = intake, kept, ledger, bounds
        self._changed = threading.Condition()
        self._since: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_entering, name="outage", daemon=True)

    def start(self) -> None:
        """What was left in the ledgers of the dead is entered first."""
        inherited = self._ledger.inherit()
        if inherited:
            log().warning("ledger_inherited", count=inherited)
            self._since = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():  # else it waits for the database, and the next process reads the ledger
            self._ledger.close()

    def receive(self, received: ReceivedInstance) -> Receipt:
        """Into the database, else into the ledger. Raise OutageTooLongError, or DatabaseError if it refuses."""
        if self._since is None:
            error = self._tried_twice(received)
            if isinstance(error, Receipt):
                return error
            self._begin(error)
        with self._changed:
            if self._since is not None:
                self._note(received)
                return Receipt(deferred=True)
        return self._intake.receive(received)  # it came back meanwhile

    def _tried_twice(self, received: ReceivedInstance) -> Receipt | DatabaseError:
        """A deadlock or a connection that broke is no outage."""
        try:
            return self._intake.receive(received)
        except DatabaseError as error:
            if not is_away(error):
                raise
            log().warning("database_tried_again", **describe(error))
        try:
            return self._intake.receive(received)
        except DatabaseError as error:
            if not is_away(error):
                raise
            return error

    def _begin(self, error: DatabaseError) -> None:
        with self._changed:
            if self._since is None:
                self._since = time.monotonic()
                log().error("outage_began", **describe(error))
                self._changed.notify_all()

    def _note(self, received: ReceivedInstance) -> None:
        seconds = time.monotonic() - (self._since or 0.0)
        if self._ledger.count >= self._bounds.instances or seconds > self._bounds.seconds:
            raise OutageTooLongError
        self._ledger.note(received.sha256, received.size_bytes, received.calling_ae)
        if received.quarantined:
            raise ContradictionError  # its bytes stay where they are until its study can be listed

    # -- when it is back -------------------------------------------------------------------------------------------

    def _keep_entering(self) -> None:
        while not self._stopped.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._since is not None or self._stopped.is_set())
            try:
                self._enter_all()
            except Exception as error:  # noqa: BLE001 - whatever it is, the entries are still there
                if not is_away(error):
                    log().error("ledger_failed", **describe(error))
                self._stopped.wait(_PAUSE_SECONDS)

    def _enter_all(self) -> None:
        done, ahead = 0, self._intake.now().timestamp() - time.time()
        while not self._stopped.is_set():
            entries = self._ledger.entries()
            for entry in entries[done:]:
                if self._stopped.is_set():
                    return
                self._enter(entry, ahead)
            done = len(entries)
            with self._changed:
                if self._ledger.forget(done):
                    seconds, self._since = time.monotonic() - (self._since or 0.0), None
                    log().warning("outage_over", count=done, seconds=seconds)
                    return

    def _enter(self, entry: Entry, ahead: float) -> None:
        """``ahead``: the database's clock of ours, in seconds.

        Raise DatabaseError while it is away. What it refuses stays on disk: the scheduler looks for orphans.
        """
        arrived_at = datetime.fromtimestamp(min(entry.noted_at, time.time()) + ahead, UTC)
        late = Arrivals(kept=self._kept, intake=_Late(self._intake, arrived_at))
        try:
            with self._kept.reading(entry.sha256) as path:
                late.admit(StoredFile(path=path, sha256=entry.sha256, size_bytes=entry.size_bytes), entry.calling_ae)
        except NotAnalysed as outcome:
            if outcome.reason is Reason.PIXELS_UNREADABLE:
                raise
            log().error("ledger_entry_refused", reason=outcome.reason)
        except (ContradictionError, UnidentifiableError):
            return
        except (DatabaseError, OSError) as error:
            if is_away(error):
                raise
            log().error("ledger_entry_refused", **describe(error))


class _Late:
    """Enters an instance with the time when it came."""

    def __init__(self, intake: Intake, arrived_at: datetime) -> None:
        self._intake, self._arrived_at = intake, arrived_at

    def receive(self, received: ReceivedInstance) -> Receipt:
        return self._intake.receive(replace(received, arrived_at=self._arrived_at))
