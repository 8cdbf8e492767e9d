"""What arrives: written whole and durable on this machine, then kept; named by its own sha256, never by received text.

    data_dir/incoming/    being written: a tray for each process that receives

Where it is kept from then on is `daemon.kept`'s: a folder, or a bucket.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import cast

from daemon.folder import fsync_folder
from daemon.kept import Kept, StoredFile
from daemon.tray import Tray
from triage.errors import TriageError

# One constant, so that the same instance is the same file after an upgrade (PS3.10 7.1 asks for the element).
IMPLEMENTATION_CLASS_UID = "2.25.146862405384711029376481253647893275012"
_ZERO_PREAMBLE = bytes(128) + b"DICM"
# (0002,0001), File Meta Information Version.
_VERSION = struct.pack("<HH2sHL2s", 2, 1, b"OB", 0, 2, b"\0\1")
_LIBC = ctypes.CDLL(None)
_SYNC_FILE_RANGE_WRITE = 2
_FLUSHED_BYTES = 2**20
# Digested and written at a time. Each lets go of the interpreter and waits for it again: piece by piece, as PDUs come,
# and with several senders that costs as much as the work.
_GATHERED_BYTES = 512 * 1024
# What a burst took beyond these is given back.
_IDLE_BUFFERS_MAX = 16


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
        self._path = spool.incoming.place()
        self._gathered, self._waiting = spool.lend_buffer(), 0
        self._digest = hashlib.sha256()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)  # last: from here on there is something to close
        self._written = self._flushing = 0
        try:
            self.write(header)
        except BaseException:
            self.discard()
            raise

    def write(self, part: bytes | memoryview) -> None:
        view = memoryview(part)
        while view:
            room = self._gathered[self._waiting :]
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self._waiting += count
            view = view[count:]
            if count == len(room):
                self._put_down()

    def _put_down(self) -> None:
        view, self._waiting = self._gathered[: self._waiting], 0
        self._digest.update(view)
        while view:
            done = os.write(self._descriptor, view)
            self._written += done
            view = view[done:]
        if self._written - self._flushing >= _FLUSHED_BYTES:
            _begin_flush(self._descriptor, self._flushing, self._written)
            self._flushing = self._written

    def keep(self) -> StoredFile:
        """Durable and kept when this returns; then `Spool.let_go`. The same content again is written over itself."""
        try:
            self._put_down()
            sha256 = self._digest.hexdigest()
            os.fsync(self._descriptor)
            path = self._spool.kept.keep(self._path, sha256, self._written)
        except BaseException:
            self.discard()
            raise
        self._close()
        return StoredFile(path=path, sha256=sha256, size_bytes=self._written)

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
            self._spool.take_back(self._gathered)


def _begin_flush(descriptor: int, start: int, end: int) -> None:
    """Let the disk begin while the rest still arrives: sync_file_range(2). It promises nothing; fsync does."""
    _LIBC.sync_file_range(descriptor, ctypes.c_int64(start), ctypes.c_int64(end - start), _SYNC_FILE_RANGE_WRITE)


class Spool:
    """What is written here goes to ``kept``. Raises OSError where either does not do as asked: nothing is left here.

    Where films are kept a whole file may stay if its folder failed: another sender may rely on that content by now.
    """

    def __init__(self, data_dir: Path, kept: Kept) -> None:
        self.root = data_dir
        self.kept = kept
        self._room = data_dir / "incoming"
        self.incoming = Tray(self._room)
        self._buffers: list[bytearray] = []

    def prepare(self) -> None:
        """Make the folders, private to the daemon. Call before anything else. Raise TriageError if they cannot be."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._shut_out_others()
        self.incoming.prepare()
        self.kept.prepare()
        fsync_folder(self.root)

    def _shut_out_others(self) -> None:
        """A folder that holds other things is left as it is: to shut it could lock somebody else out."""
        status = self.root.stat()
        if not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return
        empty_or_ours = self._room.is_dir() or not any(self.root.iterdir())
        if status.st_uid != os.geteuid() or not empty_or_ours:
            raise TriageError(f"data_dir {self.root}: open to other users; name a folder of its own, with mode 0700")
        self.root.chmod(0o700)

    def clear_incoming(self) -> int:
        """Remove what dead receivers left half-written: nobody was told it had been stored."""
        return self.incoming.clear_dead()

    def lend_buffer(self) -> memoryview:
        """To one draft at a time; used again, because new memory costs a fault a page."""
        with suppress(IndexError):
            return memoryview(self._buffers.pop())
        return memoryview(bytearray(_GATHERED_BYTES))

    def take_back(self, lent: memoryview) -> None:
        """Whoever had it can write nothing more through what was lent: another draft's film will be in it."""
        buffer = cast("bytearray", lent.obj)
        lent.release()
        if len(self._buffers) < _IDLE_BUFFERS_MAX:
            self._buffers.append(buffer)

    def write(self, header: bytes, data_set: bytes | memoryview) -> StoredFile:
        """All at once; see ``Draft``."""
        draft = Draft(self, header)
        try:
            draft.write(data_set)
        except BaseException:
            draft.discard()
            raise
        return draft.keep()

    def let_go(self, stored: StoredFile) -> None:
        """Nobody here reads it any more: a copy of what is kept elsewhere goes."""
        if self.incoming.holds(stored.path):
            stored.path.unlink(missing_ok=True)

    def free_mib(self) -> int:
        """Space left for what arrives."""
        return shutil.disk_usage(self.root).free // 2**20
