"""Files on disk: written whole and durable, or not at all; named by their own sha256, never by received text.

    data_dir/incoming/    being written; emptied at start
    data_dir/instances/   ab/<sha256>.dcm
    data_dir/quarantine/  ab/<sha256>.dcm, bytes that contradict their command or cannot be identified

The order that needs no promise of the file system: write aside, fsync the file, rename, fsync the folder. All folders
are made, and made durable, at start.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from triage.errors import TriageError

# One constant, so that the same instance is the same file after an upgrade (PS3.10 7.1 asks for the element).
IMPLEMENTATION_CLASS_UID = "2.25.146862405384711029376481253647893275012"
_SUFFIX = ".dcm"
_ZERO_PREAMBLE = bytes(128) + b"DICM"
# (0002,0001), File Meta Information Version.
_VERSION = struct.pack("<HH2sHL2s", 2, 1, b"OB", 0, 2, b"\0\1")
_LIBC = ctypes.CDLL(None)
_SYNC_FILE_RANGE_WRITE = 2
_FLUSHED_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A durable file. ``sha256`` is of the whole file: sha256sum(1) checks it."""

    path: Path
    sha256: str
    size_bytes: int


def part10_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble of zeros (nothing executable can hide in it) and File Meta Information, PS3.10 section 7.1."""
    meta = _VERSION + b"".join(
        _uid(element, uid)
        for element, uid in (
            (0x0002, sop_class_uid),
            (0x0003, sop_instance_uid),
            (0x0010, transfer_syntax_uid),
            (0x0012, IMPLEMENTATION_CLASS_UID),
        )
    )
    return _ZERO_PREAMBLE + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta)) + meta


def _uid(element: int, uid: str) -> bytes:
    """Explicit VR, little endian; by hand, because pydicom's writer takes as long as the disk."""
    value = uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value


class Draft:
    """A file that is being written, in ``incoming``. It ends with ``keep`` or ``discard``; raises OSError."""

    def __init__(self, spool: Spool, header: bytes) -> None:
        self._spool = spool
        self._path = spool.incoming / token_hex(16)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._digest = hashlib.sha256()
        self._written = self._flushing = 0
        try:
            self.write(header)
        except BaseException:
            self.discard()
            raise

    def write(self, part: bytes | memoryview) -> None:
        self._digest.update(part)
        view = memoryview(part)
        while view:
            done = os.write(self._descriptor, view)
            self._written += done
            view = view[done:]
        if self._written - self._flushing >= _FLUSHED_BYTES:
            _begin_flush(self._descriptor, self._flushing, self._written)
            self._flushing = self._written

    def keep(self) -> StoredFile:
        """File and folder are fsynced when this returns. The same content again is written over itself."""
        sha256 = self._digest.hexdigest()
        final = self._spool.path(sha256)
        try:
            os.fsync(self._descriptor)
            self._path.rename(final)
            _fsync_folder(final.parent)
        except BaseException:
            self.discard()
            raise
        self._close()
        return StoredFile(path=final, sha256=sha256, size_bytes=self._written)

    def discard(self) -> None:
        """Nothing is left behind. Doing it twice is no error."""
        self._close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        """Once: the number may be another thread's file by now."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)


def _begin_flush(descriptor: int, start: int, end: int) -> None:
    """Let the disk begin while the rest still arrives: sync_file_range(2). It promises nothing; fsync does."""
    _LIBC.sync_file_range(descriptor, ctypes.c_int64(start), ctypes.c_int64(end - start), _SYNC_FILE_RANGE_WRITE)


class Spool:
    """All files under one folder. Raises OSError when the disk does not do as asked; nothing is left behind then."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir
        self.incoming = data_dir / "incoming"
        self._instances = data_dir / "instances"
        self._quarantine = data_dir / "quarantine"

    def prepare(self) -> None:
        """Make the folders, private to the daemon. Call before anything else. Raise TriageError if they cannot be."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._shut_out_others()
        for folder in (self.incoming, self._instances, self._quarantine):
            folder.mkdir(mode=0o700, exist_ok=True)
        for room in (self._instances, self._quarantine):
            for number in range(256):
                (room / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
            _fsync_folder(room)
        _fsync_folder(self.root)

    def _shut_out_others(self) -> None:
        """A folder that holds other things is left as it is: to shut it could lock somebody else out."""
        status = self.root.stat()
        if not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return
        empty_or_ours = self._instances.is_dir() or not any(self.root.iterdir())
        if status.st_uid != os.geteuid() or not empty_or_ours:
            raise TriageError(f"data_dir {self.root}: open to other users; name a folder of its own, with mode 0700")
        self.root.chmod(0o700)

    def clear_incoming(self) -> int:
        """Remove what a crash left half-written: nobody was told it had been stored. Only the receiver may call it."""
        left = list(self.incoming.iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def write(self, header: bytes, data_set: bytes | memoryview) -> StoredFile:
        """All at once; see ``Draft``."""
        draft = Draft(self, header)
        try:
            draft.write(data_set)
        except BaseException:
            draft.discard()
            raise
        return draft.keep()

    def path(self, sha256: str, *, quarantined: bool = False) -> Path:
        """Where a file of this content lies, or would lie."""
        room = self._quarantine if quarantined else self._instances
        return room / sha256[:2] / (sha256 + _SUFFIX)

    def quarantine(self, stored: StoredFile) -> None:
        """Move a file out of the instances, durably."""
        room = self.path(stored.sha256, quarantined=True)
        stored.path.rename(room)
        _fsync_folder(room.parent)
        _fsync_folder(stored.path.parent)

    def delete(self, sha256: str, *, quarantined: bool = False) -> None:
        """Deleting what is not there is no error."""
        self.path(sha256, quarantined=quarantined).unlink(missing_ok=True)

    def files(self, older_than_seconds: float, *, quarantined: bool = False) -> Iterator[StoredFile]:
        """Every kept file last written at least so long ago."""
        newest = time.time() - older_than_seconds
        room = self._quarantine if quarantined else self._instances
        for path in room.glob(f"*/*{_SUFFIX}"):
            with suppress(FileNotFoundError):
                status = path.stat()
                if status.st_mtime <= newest:
                    yield StoredFile(path=path, sha256=path.stem, size_bytes=status.st_size)

    def free_mib(self) -> int:
        """Space left for us on the volume."""
        return shutil.disk_usage(self.root).free // 2**20


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
