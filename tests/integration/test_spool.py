"""Files: whole and durable, or not there; named by their content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian

from daemon import spool as module
from daemon.folder import Folder
from daemon.spool import IMPLEMENTATION_CLASS_UID, Draft, Spool, part10_header
from making import CR
from triage.errors import TriageError

HEADER = part10_header(CR, "1.2.3.4", ExplicitVRLittleEndian)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "data", Folder(tmp_path / "data"))
    spool.prepare()
    return spool


def left(spool: Spool) -> list[Path]:
    """Files, but the locks of those who write."""
    return [path for path in spool.root.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.fault(30)
def test_a_file_is_named_by_the_sha256_of_all_of_it(spool: Spool) -> None:
    stored = spool.write(HEADER, b"data set")
    content = stored.path.read_bytes()
    assert content == HEADER + b"data set"
    assert stored.sha256 == stored.path.stem == hashlib.sha256(content).hexdigest()
    assert stored.size_bytes == len(content)


def test_the_header_is_a_part_10_header_with_nothing_in_its_preamble(tmp_path: Path) -> None:
    path = tmp_path / "empty.dcm"
    path.write_bytes(HEADER)
    meta = dcmread(path).file_meta
    assert (meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) == ("1.2.3.4", ExplicitVRLittleEndian)
    assert HEADER[:128] == bytes(128)
    assert "ImplementationVersionName" not in meta  # it would change the name of the file with each release


def test_the_header_is_what_pydicom_would_write() -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CR, "1.2.3.4"
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, IMPLEMENTATION_CLASS_UID
    meta.FileMetaInformationVersion = b"\0\1"
    meta.FileMetaInformationGroupLength = 0
    file = DicomBytesIO()
    write_file_meta_info(file, meta, enforce_standard=False)
    assert HEADER[132:] == file.getvalue()


def test_a_file_written_in_pieces_is_the_same_file(spool: Spool) -> None:
    content = bytes(range(256)) * 20_000  # over several flushes
    draft = Draft(spool, HEADER)
    for start in range(0, len(content), 70_001):
        draft.write(memoryview(content)[start : start + 70_001])
    assert list(spool.kept.files(0)) == []
    assert draft.keep() == spool.write(HEADER, content)


def test_of_drafts_side_by_side_and_one_after_the_other_none_holds_a_byte_of_another(spool: Spool) -> None:
    sides = [(number, Draft(spool, HEADER)) for number in (1, 2)]
    for _ in range(40):
        for number, draft in sides:
            draft.write(memoryview(bytes([number]) * 30_011))
    kept = [(number, draft.keep()) for number, draft in sides]
    kept.append((3, spool.write(HEADER, bytes([3]) * 7)))
    for number, stored in kept:
        content = stored.path.read_bytes()
        assert content == HEADER + bytes([number]) * (len(content) - len(HEADER))
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert [stored.size_bytes - len(HEADER) for _, stored in kept] == [1_200_440, 1_200_440, 7]


@pytest.mark.parametrize("end", [Draft.keep, Draft.discard])
def test_a_draft_that_has_ended_reaches_no_other_film(spool: Spool, end: Callable[[Draft], object]) -> None:
    ended = Draft(spool, HEADER)
    end(ended)
    draft = Draft(spool, HEADER)  # where it was gathered
    with pytest.raises(ValueError, match="released"):
        ended.write(b"late")
    assert draft.keep().path.read_bytes() == HEADER


def test_a_burst_leaves_no_more_buffers_than_are_used_again(spool: Spool) -> None:
    for draft in [Draft(spool, HEADER) for _ in range(20)]:
        draft.discard()
    again = [spool.lend_buffer() for _ in range(20)]
    assert [buffer.nbytes for buffer in again] == [module._GATHERED_BYTES] * 20
    assert len([buffer for buffer in again if any(buffer[:132])]) == module._IDLE_BUFFERS_MAX


def test_without_memory_for_another_draft_nothing_is_left_open_or_behind(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    drafts = [Draft(spool, HEADER)]  # the only one there is memory for
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(module, "bytearray", fail, raising=False)
    for _ in range(3):
        with pytest.raises(MemoryError):
            Draft(spool, HEADER)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    drafts.pop().discard()
    assert left(spool) == []


def test_a_discarded_draft_leaves_no_file_and_closes_none_but_its_own(spool: Spool, tmp_path: Path) -> None:
    draft = Draft(spool, HEADER)
    draft.discard()
    with (tmp_path / "another").open("wb") as another:  # under the number that has become free
        draft.discard()
        another.write(b"whole")
    assert (tmp_path / "another").read_bytes() == b"whole"
    assert left(spool) == []


@pytest.mark.fault(80)
def test_file_and_folder_are_fsynced_before_write_returns(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_rename(self: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(self, target)

    monkeypatch.setattr(module.os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    spool.write(HEADER, b"data set")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.fault(75, 78)
@pytest.mark.parametrize("step", ["fsync", "write"])
def test_a_disk_that_fails_leaves_nothing_behind(spool: Spool, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(module.os, "fsync", fail)
    else:
        monkeypatch.setattr(module.os, "write", fail)
    with pytest.raises(OSError, match="No space"):
        spool.write(HEADER, b"data set")
    assert left(spool) == []


def test_the_same_content_twice_is_one_file(spool: Spool) -> None:
    assert spool.write(HEADER, b"data set") == spool.write(HEADER, b"data set")
    assert len(list(spool.kept.files(0))) == 1


@pytest.mark.fault(83)
def test_folders_and_files_are_for_the_daemon_alone(spool: Spool) -> None:
    stored = spool.write(HEADER, b"data set")
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in (spool.root, stored.path.parent))
    assert stat.S_IMODE(stored.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("before", ["empty", "a spool"])
def test_a_folder_of_ours_that_is_open_to_others_is_shut(tmp_path: Path, before: str) -> None:
    folder = tmp_path / "data"
    if before == "a spool":
        Spool(folder, Folder(folder)).prepare()
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    Spool(folder, Folder(folder)).prepare()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.fault(83)
def test_an_open_folder_that_holds_other_things_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "letter").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(TriageError, match="open to other users"):
        Spool(tmp_path, Folder(tmp_path)).prepare()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


@pytest.mark.fault(83)
def test_an_open_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o770)
    monkeypatch.setattr(module.os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(TriageError, match="open to other users"):
        Spool(tmp_path, Folder(tmp_path)).prepare()


def test_quarantine_is_another_room_and_deleting_twice_is_no_error(spool: Spool) -> None:
    stored = spool.write(HEADER, b"data set")
    spool.kept.quarantine(stored.sha256)
    assert not stored.path.exists()
    (kept,) = spool.kept.files(0, quarantined=True)
    assert kept.sha256 == stored.sha256
    for _ in range(2):
        spool.kept.delete(stored.sha256, quarantined=True)
    assert list(spool.kept.files(0, quarantined=True)) == []
