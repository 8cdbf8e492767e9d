"""What arrives: written whole and durable on this machine, then kept; named by its own sha256, never by received text.

    data_dir/incoming/    being written: a tray for each process that receives

Where it is kept from then on is `daemon.kept`'s: a folder, or a bucket.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from daemon.folder import fsync_folder
from daemon.kept import Kept, StoredFile
from daemon.tray import Tray
from triage.errors import TriageError

# One constant, so that the same instance is the same file after an upgrade (PS3.10 7.1 asks for the element).
IMPLEMENTATION_CLASS_UID = "2.25.146862405384711029376481253647893275012"
_ZERO_PREAMBLE = bytes(128) + b"DICM"


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
    """What is written here goes to ``kept``. Raises OSError where either does not do as asked: nothing is left then."""

    def __init__(self, data_dir: Path, kept: Kept) -> None:
        self.root = data_dir
        self.kept = kept
        self._room = data_dir / "incoming"
        self._incoming = Tray(self._room)

    def prepare(self) -> None:
        """Make the folders, private to the daemon. Call before anything else. Raise TriageError if they cannot be."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._shut_out_others()
        self._incoming.prepare()
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
        return self._incoming.clear_dead()

    def write(self, header: bytes, data_set: bytes | memoryview) -> StoredFile:
        """Durable and kept when this returns; then `let_go`. The same content again is written over itself."""
        digest = hashlib.sha256(header)
        digest.update(data_set)
        sha256, size_bytes = digest.hexdigest(), len(header) + len(data_set)
        aside = self._incoming.place()
        try:
            self._write_durably(aside, header, data_set)
            path = self.kept.keep(aside, sha256, size_bytes)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        return StoredFile(path=path, sha256=sha256, size_bytes=size_bytes)

    def _write_durably(self, path: Path, header: bytes, data_set: bytes | memoryview) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for part in (header, data_set):
                view = memoryview(part)
                while view:
                    view = view[file.write(view) :]
            os.fsync(descriptor)

    def let_go(self, stored: StoredFile) -> None:
        """Nobody here reads it any more: a copy of what is kept elsewhere goes."""
        if self._incoming.holds(stored.path):
            stored.path.unlink(missing_ok=True)

    def free_mib(self) -> int:
        """Space left for what arrives."""
        return shutil.disk_usage(self.root).free // 2**20
