"""Accesses on their way into the database: noted at once in a file, entered together by one thread.

    data_dir/trail/<random>.lines     its process holds a lock on it for as long as it writes there

A look at a study waits for no database: its line is in the file when the answer leaves, so that killing the process
loses none; a power cut may take those of the last second. What a dead process left is entered by whoever comes next. If
the file cannot be written, lines wait in memory; those that find no room there are counted in the log, never dropped
in silence. Times are of this machine's clock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from daemon import metrics
from daemon.telemetry import describe, log
from triage.records.audit import Audit
from triage.records.store import DatabaseError
from triage.user import Access, Outcome

_FOLDER = "trail"
_EVERY_SECONDS = 1.0
_IN_MEMORY_MAX = 10_000
_AT_ONCE = 500
# A page that is left open asks for the list every few seconds: that is one look.
_SAME_SECONDS = 300.0
_SAME_MAX = 10_000


class Trail:
    """Of this process. ``note`` never raises."""

    def __init__(self, audit: Audit, data_dir: Path) -> None:
        self._audit = audit
        self._folder = data_dir / _FOLDER
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._descriptor = -1
        self._in_memory: dict[str, Access] = {}
        self._lost = 0
        self._seen: dict[tuple[str, ...], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trail", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What was noted until now is entered, if the database answers; else it stays in its file."""
        self._stop.set()
        self._thread.join(10)

    def note(self, access: Access) -> None:
        line_id = token_hex(16)
        try:
            line = _written(line_id, access)
            with self._lock:
                self._write(line)
        except OSError as error:
            log().error("access_not_written", **describe(error))
            with self._lock:
                self._remember(line_id, access)

    def note_once(self, access: Access, same: tuple[str, ...] = ()) -> None:
        """As `note`, unless the same was noted in the last minutes. ``same``: what makes it the same."""
        key = same or (access.who, access.verb, access.study_instance_uid, access.outcome, access.address)
        now = time.monotonic()
        with self._lock:
            if now - self._seen.get(key, -_SAME_SECONDS) < _SAME_SECONDS:
                return
            if len(self._seen) >= _SAME_MAX:
                self._seen.clear()
            self._seen[key] = now
        self.note(access)

    # -- into the database -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        is_last = is_away = False
        while not is_last:
            is_last = self._stop.wait(_EVERY_SECONDS)
            try:
                self.enter()
                metrics.ACCESSES.labels("entered").inc()
            except (DatabaseError, OSError) as error:
                metrics.ACCESSES.labels("failed").inc()
                if not is_away:  # once, however long the database is away
                    log().error("accesses_not_entered", **describe(error))
                is_away = True
            else:
                is_away = False

    def enter(self) -> None:
        """Everything noted so far, also by processes that are dead. Raise DatabaseError, OSError: nothing is lost."""
        with self._lock:
            self._set_aside()
            waiting, lost = dict(self._in_memory), self._lost
        self._audit.enter(waiting)
        with self._lock:
            for line_id in waiting:
                del self._in_memory[line_id]
            self._lost -= lost
        if lost:
            metrics.ACCESSES_LOST.inc(lost)
            log().error("accesses_lost", count=lost)
        for path in (*self._folder.glob("*.lines"), *self._folder.glob("*.new")):
            self._enter_file(path)

    def _enter_file(self, path: Path) -> None:
        with _unlocked(path) as is_ours:
            if is_ours:
                for some in _read(path):
                    self._audit.enter(some)
                path.unlink(missing_ok=True)

    def _open(self) -> int:
        """Locked before it has its name, so that nobody can take it for left behind. Raise OSError."""
        while self._path is None:
            name = token_hex(8)
            new = self._folder / f"{name}.new"
            self._descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                self._path = new.rename(self._folder / f"{name}.lines")
            except FileNotFoundError:  # somebody has taken it for a dead one's, just before it was locked
                os.close(self._descriptor)
        return self._descriptor

    def _write(self, line: bytes) -> None:
        """Whole, or in no file that another line is added to. Raise OSError."""
        if os.write(self._open(), line) != len(line):
            self._set_aside()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _set_aside(self) -> None:
        if self._path is not None:
            self._path = None
            os.close(self._descriptor)

    def _remember(self, line_id: str, access: Access) -> None:
        if len(self._in_memory) < _IN_MEMORY_MAX:
            self._in_memory[line_id] = access
        else:
            self._lost += 1


@contextmanager
def _unlocked(path: Path) -> Iterator[bool]:
    """Whether nobody writes there any more; nobody else enters it meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _written(line_id: str, access: Access) -> bytes:
    told = asdict(access) | {"at": access.at.isoformat(), "line_id": line_id}
    return json.dumps(told).encode() + b"\n"


def _read(path: Path) -> Iterator[dict[str, Access]]:
    """Some at a time. A line that a crash tore off is of an answer that never left."""
    some: dict[str, Access] = {}
    for line in path.read_bytes().splitlines():
        with suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            line_id = told.pop("line_id")
            at, outcome = datetime.fromisoformat(told["at"]), Outcome(told["outcome"])
            some[line_id] = Access(**{**told, "at": at, "outcome": outcome})
        if len(some) >= _AT_ONCE:
            yield some
            some = {}
    yield some


@contextmanager
def active(trail: Trail, process: str) -> Iterator[None]:
    """While this process runs; its accesses are entered meanwhile."""
    who = f"{process} on {socket.gethostname()}"
    trail.note(Access(at=datetime.now(UTC), who=who, verb="application_start"))
    trail.start()
    try:
        yield
    finally:
        trail.note(Access(at=datetime.now(UTC), who=who, verb="application_stop"))
        trail.stop()
