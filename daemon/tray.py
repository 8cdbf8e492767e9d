"""Files in hand: a folder of this process's own in a room that many processes share, on one machine or on several.

room/<token>/        files being written or read here
room/<token>.lock    locked as long as the process lives, flock(2): the lock ends with it, however it ends
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

_LOCK = ".lock"
# Files straight in the room are those of an earlier release, which may still run for a while beside this one.
_STRAY_SECONDS = 3600.0


class Tray:
    """Made when first needed. Raises OSError."""

    def __init__(self, room: Path) -> None:
        self._room = room
        self._turn = threading.Lock()
        self._lock: int | None = None  # held open to the end of the process
        self._folder: Path | None = None

    def prepare(self) -> None:
        self._room.mkdir(mode=0o700, exist_ok=True)

    def place(self) -> Path:
        """For a new file. Its name tells nothing."""
        with self._turn:
            if self._folder is None:
                self._folder = self._taken()
        return self._folder / token_hex(16)

    def _taken(self) -> Path:
        while True:
            folder = self._room / token_hex(16)
            lock = folder.with_suffix(_LOCK)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if lock.exists():  # else somebody has taken it for a dead one's, just before it was locked
                folder.mkdir(mode=0o700)
                self._lock = descriptor
                return folder
            os.close(descriptor)

    def holds(self, path: Path) -> bool:
        return self._folder is not None and path.parent == self._folder

    def clear_dead(self) -> int:
        """Remove the files of processes that are no more; how many. Those of the living stay, wherever they run."""
        return sum(self._cleared(lock) for lock in self._room.glob(f"*{_LOCK}")) + self._clear_strays()

    def _cleared(self, lock: Path) -> int:
        folder = lock.with_suffix("")
        if folder == self._folder:  # on NFS closing it a second time would end our own lock
            return 0
        with _unlocked(lock) as is_dead:
            if not is_dead:
                return 0
            count = len(list(folder.iterdir())) if folder.is_dir() else 0
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)
            lock.unlink(missing_ok=True)  # last: as long as it is there, somebody can try again
        return count

    def _clear_strays(self) -> int:
        count = 0
        for path in self._room.iterdir():
            with suppress(FileNotFoundError):
                is_stray = path.suffix != _LOCK and path.is_file()
                if is_stray and path.stat().st_mtime < time.time() - _STRAY_SECONDS:
                    path.unlink()
                    count += 1
        return count


@contextmanager
def _unlocked(lock: Path) -> Iterator[bool]:
    """Whether nobody holds this lock; then we do for a moment."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
