"""Films kept in a folder: of a local disk, or one that several machines share.

    data_dir/instances/   ab/<sha256>.dcm
    data_dir/quarantine/  ab/<sha256>.dcm, bytes that contradict their command or cannot be identified

The order that needs no promise of the file system: the file aside is fsynced, renamed, and its folder fsynced. All
folders are made, and made durable, at start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from daemon.kept import ROOMS, KeptFile, name, room


class Folder:
    """The verbs of `daemon.kept.Kept`. What is read is checked by who decodes it, in the sandbox."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def prepare(self) -> None:
        for each in ROOMS:
            (self._root / each).mkdir(mode=0o700, exist_ok=True)
            for number in range(256):
                (self._root / each / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
            fsync_folder(self._root / each)

    def check(self) -> None:
        """`prepare` has seen it."""

    def path(self, sha256: str, *, quarantined: bool = False) -> Path:
        """Where a file of this content lies, or would lie."""
        return self._root / room(quarantined=quarantined) / name(sha256)

    def keep(self, aside: Path, sha256: str, size_bytes: int) -> Path:
        """``aside`` is fsynced, and on the same volume; ``size_bytes`` is what a bucket checks."""
        del size_bytes
        final = self.path(sha256)
        aside.rename(final)
        fsync_folder(final.parent)
        return final

    @contextmanager
    def reading(self, sha256: str, *, quarantined: bool = False) -> Iterator[Path]:
        yield self.path(sha256, quarantined=quarantined)

    def quarantine(self, sha256: str) -> None:
        here, there = self.path(sha256), self.path(sha256, quarantined=True)
        if there.exists() and not here.exists():
            return
        here.rename(there)
        fsync_folder(there.parent)
        fsync_folder(here.parent)

    def delete(self, sha256: str, *, quarantined: bool = False) -> None:
        self.path(sha256, quarantined=quarantined).unlink(missing_ok=True)

    def files(self, older_than_seconds: float, *, quarantined: bool = False) -> Iterator[KeptFile]:
        newest = time.time() - older_than_seconds
        for path in (self._root / room(quarantined=quarantined)).glob("*/*.dcm"):
            with suppress(FileNotFoundError):
                status = path.stat()
                if status.st_mtime <= newest:
                    written_at = datetime.fromtimestamp(status.st_mtime, UTC)
                    yield KeptFile(sha256=path.stem, size_bytes=status.st_size, written_at=written_at)


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
