"""Files on disk: written whole and durable, or not at all; named by their own sha256, never by received text.

    data_dir/incoming/    being written; emptied at start
    data_dir/instances/   ab/<sha256>.dcm
    data_dir/quarantine/  ab/<sha256>.dcm, bytes that contradict their command or cannot be identified

The order that needs no promise of the file system: write aside, fsync the file, rename, fsync the folder. All folders
are made, and made durable, at start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from triage.errors import TriageError

# One constant, so that the same instance is the same file after an upgrade (PS3.10 7.1 asks for the element).
IMPLEMENTATION_CLASS_UID = "2.25.146862405384711029376481253647893275012"
_SUFFIX = ".dcm"
_ZERO_PREAMBLE = bytes(128) + b"DICM"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A durable file. ``sha256`` is of the whole file: sha256sum(1) checks it."""

    path: Path
    sha256: str
    size_bytes: int


def part10_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble of zeros (nothing executable can hide in it) and File Meta Information, PS3.10 section 7.1."""
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # filled in by the writer
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid, validation_mode=0)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid, validation_mode=0)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid, validation_mode=0)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta, enforce_standard=False)
    return _ZERO_PREAMBLE + buffer.getvalue()


class Spool:
    """All files under one folder. Raises OSError when the disk does not do as asked; nothing is left behind then."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir
        self._incoming = data_dir / "incoming"
        self._instances = data_dir / "instances"
        self._quarantine = data_dir / "quarantine"

    def prepare(self) -> None:
        """Make the folders, private to the daemon. Call before anything else. Raise TriageError if they cannot be."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._shut_out_others()
        for folder in (self._incoming, self._instances, self._quarantine):
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
        left = list(self._incoming.iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def write(self, header: bytes, data_set: bytes | memoryview) -> StoredFile:
        """File and folder are fsynced when this returns. The same content again is written over itself."""
        digest = hashlib.sha256(header)
        digest.update(data_set)
        sha256 = digest.hexdigest()
        final = self.path(sha256)
        aside = self._incoming / token_hex(16)
        try:
            self._write_durably(aside, header, data_set)
            aside.rename(final)
            _fsync_folder(final.parent)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        return StoredFile(path=final, sha256=sha256, size_bytes=len(header) + len(data_set))

    def _write_durably(self, path: Path, header: bytes, data_set: bytes | memoryview) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for part in (header, data_set):
                view = memoryview(part)
                while view:
                    view = view[file.write(view) :]
            os.fsync(descriptor)

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
