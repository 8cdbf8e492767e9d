"""What was received while the database was away, in the order it came: a line each, on disk before Success.

    data_dir/ledger/<host>-<process>-<random>     its process holds a lock on it for as long as it lives

A line holds a digest, a size, a calling AE title and a time: nothing of a patient. One that a crash tore off was never
acknowledged. A ledger whose process is dead is read by whichever receiver starts next.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex

from daemon.folder import fsync_folder
from daemon.notation import this_host

_FOLDER = "ledger"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An instance that is durable under its sha256; ``noted_at`` in seconds by this host's clock."""

    sha256: str
    size_bytes: int
    calling_ae: str
    noted_at: float


class Ledger:
    """Of this process. Raises OSError where the disk does not do as asked: then nothing has been promised."""

    def __init__(self, data_dir: Path) -> None:
        folder = data_dir / _FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path, self._descriptor = _new(folder)
        fsync_folder(folder)
        self._lock = threading.Lock()
        self.count = 0

    def note(self, sha256: str, size_bytes: int, calling_ae: str) -> None:
        """Durable when this returns."""
        entry = Entry(sha256=sha256, size_bytes=size_bytes, calling_ae=calling_ae, noted_at=time.time())
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with self._lock:
            end = os.fstat(self._descriptor).st_size
            try:
                _write(self._descriptor, line)
            except OSError:
                os.ftruncate(self._descriptor, end)
                raise
            self.count += 1

    def entries(self) -> list[Entry]:
        """All so far, the oldest first."""
        return list(_read(self.path))

    def forget(self, count: int) -> bool:
        """Empty it if it has no more than so many: they are all in the database. Whether it is empty."""
        with self._lock:
            if self.count > count:
                return False
            os.ftruncate(self._descriptor, 0)
            os.fsync(self._descriptor)
            self.count = 0
            return True

    def inherit(self) -> int:
        """Take over what dead processes have left. How many entries; they come before those of this process."""
        left = [path for path in sorted(self.path.parent.iterdir()) if path != self.path]
        return sum(self._take_over(path) for path in left)

    def _take_over(self, path: Path) -> int:
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0  # its process lives
            taken = list(_read(path))
            for entry in taken:
                self._copy(entry)
            path.unlink()  # only now: after a crash in between both are read, and the second time changes nothing
            return len(taken)
        return 0

    def _copy(self, entry: Entry) -> None:
        with self._lock:
            _write(self._descriptor, json.dumps(asdict(entry)).encode() + b"\n")
            self.count += 1

    def close(self) -> None:
        """It goes if nothing stands in it."""
        with self._lock:
            if os.fstat(self._descriptor).st_size == 0:
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)


def _new(folder: Path) -> tuple[Path, int]:
    """Locked. Another process may have taken it for a dead one's before it was: then it is gone, and makes way."""
    while True:
        path = folder / f"{this_host()}-{os.getpid()}-{token_hex(4)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def is_open(data_dir: Path) -> bool:
    """Whether anything stands in any ledger."""
    with suppress(FileNotFoundError):
        return any(path.stat().st_size for path in (data_dir / _FOLDER).iterdir())
    return False


def count_open(data_dir: Path) -> int:
    """Entries in all ledgers of this folder."""
    with suppress(FileNotFoundError):
        return sum(len(list(_read(path))) for path in (data_dir / _FOLDER).iterdir())
    return 0


def _write(descriptor: int, line: bytes) -> None:
    left = memoryview(line)
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


def _read(path: Path) -> Iterator[Entry]:
    for line in path.read_bytes().splitlines():
        with suppress(ValueError, TypeError):  # torn
            yield Entry(**json.loads(line))
