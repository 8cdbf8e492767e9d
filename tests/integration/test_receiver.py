"""What the sender is told, and what is kept, listed and queued by then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import dsutils
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import OperationalError

from daemon.arrival import Arrivals, ContradictionError
from daemon.bell import Ringer, SocketBell
from daemon.dicom.association import StoreRequest
from daemon.folder import Folder
from daemon.kept import StoredFile
from daemon.receiver import HEAD_BYTES, STATUS_OF, InstanceDeposit, Receiver, Watermark
from daemon.spool import Draft, Spool
from daemon.telemetry import Pseudonym
from making import CR, POLICY, data_set, encoded
from triage.records.intake import Intake, Receipt
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import instances, jobs
from triage.study import ReceivedInstance

SR = "1.2.840.10008.5.1.4.1.1.88.11"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "data", Folder(tmp_path / "data"))
    spool.prepare()
    return spool


@pytest.fixture
def receiver(engine: Engine, spool: Spool) -> Iterator[Receiver]:
    arrivals = Arrivals(kept=spool.kept, intake=Intake(Store(engine), POLICY))
    ringer = Ringer(Store(engine), spool.root)
    yield Receiver(spool=spool, arrivals=arrivals, ringer=ringer, pseudonym=Pseudonym(spool.root))
    ringer.close()


def begun(receiver: Receiver, **changes: str) -> InstanceDeposit:
    uids = {"sop_class_uid": CR, "sop_instance_uid": "1.2.3.1", "transfer_syntax_uid": ExplicitVRLittleEndian}
    request = StoreRequest(calling_ae="PACS", called_ae="TRIAGE", address="127.0.0.1", **(uids | changes))
    return receiver.begin(request)


def stored(receiver: Receiver, content: bytes, pieces: int = 3, **changes: str) -> int:
    """The status of a data set that comes in pieces."""
    deposit, size = begun(receiver, **changes), max(1, -(-len(content) // pieces))
    for start in range(0, len(content), size):
        deposit.write(memoryview(content)[start : start + size])
    return deposit.finish()


def worklist(engine: Engine) -> list[tuple[str, str, str | None]]:
    return [(e.study_instance_uid, e.analysis, e.reason) for e in Reading(Store(engine)).worklist()]


def kept(spool: Spool) -> int:
    return len(list(spool.kept.files(0)))


def test_success_means_file_study_instance_and_job(receiver: Receiver, engine: Engine, spool: Spool) -> None:
    assert stored(receiver, encoded(data_set())) == 0x0000
    assert worklist(engine) == [("1.2.1", "pending", None)]
    with engine.connect() as connection:
        (sha256,) = connection.execute(select(instances.c.sha256)).scalars()
        assert connection.execute(select(jobs.c.state)).scalars().all() == ["queued"]
    assert spool.kept.path(sha256).read_bytes().endswith(encoded(data_set()))


@pytest.mark.fault(32)
def test_the_same_instance_again_is_success_and_no_second_job(receiver: Receiver, engine: Engine, spool: Spool) -> None:
    assert [stored(receiver, encoded(data_set())) for _ in range(2)] == [0, 0]
    with engine.connect() as connection:
        assert len(connection.execute(select(jobs)).all()) == 1
    assert kept(spool) == 1


@pytest.mark.fault(50)
def test_another_kind_of_object_is_stored_and_listed_as_not_analysed(receiver: Receiver, engine: Engine) -> None:
    assert stored(receiver, encoded(data_set(SOPClassUID=SR)), sop_class_uid=SR) == 0x0000
    assert worklist(engine) == [("1.2.1", "not_analysed", "unsupported_sop_class")]


@pytest.mark.fault(29)
@pytest.mark.parametrize("changes", [{"SOPInstanceUID": "1.2.3.999"}, {"SOPClassUID": SR}])
def test_a_data_set_that_contradicts_its_command_is_refused_quarantined_and_listed(
    receiver: Receiver, engine: Engine, spool: Spool, changes: dict[str, str]
) -> None:
    assert stored(receiver, encoded(data_set(**changes))) == 0xA900
    assert worklist(engine) == [("1.2.1", "not_analysed", "quarantined")]
    assert (kept(spool), len(list(spool.kept.files(0, quarantined=True)))) == (0, 1)


@pytest.mark.fault(27)
@pytest.mark.parametrize("changes", [{"SOPInstanceUID": None}, {"SOPClassUID": None}])
def test_an_object_that_names_no_instance_cannot_be_understood(
    receiver: Receiver, engine: Engine, spool: Spool, changes: dict[str, None]
) -> None:
    assert stored(receiver, encoded(data_set(**changes))) == 0xC000
    assert worklist(engine) == [("1.2.1", "not_analysed", "quarantined")]
    assert len(list(spool.kept.files(0, quarantined=True))) == 1


@pytest.mark.fault(46)
def test_an_empty_data_set_cannot_be_understood(receiver: Receiver, spool: Spool) -> None:
    assert stored(receiver, b"") == 0xC000
    assert kept(spool) == 0


@pytest.mark.fault(28, 30, 31)
@pytest.mark.parametrize("uid", [None, "../../etc/passwd", "..", "1.2.<script>", "1" * 65])
def test_an_object_without_a_usable_study_is_listed_under_a_key_of_its_own(
    receiver: Receiver, engine: Engine, uid: str | None
) -> None:
    made = data_set(StudyInstanceUID=None)
    content = encoded(made)
    if uid is not None:
        padded = uid.encode() + b"\0" * (len(uid) % 2)
        content += b"\x20\x00\x0d\x00UI" + len(padded).to_bytes(2, "little") + padded
    assert stored(receiver, content) == 0x0000
    ((study, analysis, reason),) = worklist(engine)
    assert study.startswith("2.25.")
    assert (analysis, reason) == ("not_analysed", "identity_conflict")


@pytest.mark.fault(42, 44)
def test_bytes_that_cannot_be_parsed_are_kept_and_listed(receiver: Receiver, engine: Engine, spool: Spool) -> None:
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    assert stored(receiver, nested) == 0x0000
    ((_, analysis, reason),) = worklist(engine)
    assert (analysis, reason, kept(spool)) == ("not_analysed", "decode_error", 1)


@pytest.mark.fault(42, 43)
def test_a_film_that_breaks_behind_its_study_is_listed_under_it(receiver: Receiver, engine: Engine) -> None:
    nested = b"\x21\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    assert stored(receiver, encoded(data_set()) + nested) == 0x0000
    assert worklist(engine) == [("1.2.1", "not_analysed", "decode_error")]


@pytest.mark.fault(11)
def test_an_instance_that_does_not_come_to_its_end_leaves_nothing(receiver: Receiver, spool: Spool) -> None:
    deposit = begun(receiver)
    deposit.write(memoryview(encoded(data_set())))
    assert len(list((spool.root / "incoming").glob("*/*"))) == 1
    deposit.discard()
    assert list((spool.root / "incoming").glob("*/*")) == []
    assert kept(spool) == 0


@pytest.mark.fault(41)
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("text_bytes", [10, HEAD_BYTES])
def test_a_header_longer_than_what_is_kept_of_it_is_read_from_the_file(
    receiver: Receiver, engine: Engine, syntax: str, text_bytes: int
) -> None:
    made = data_set(TextValue="x" * text_bytes, BitsAllocated=16, PixelRepresentation=0, PixelData=bytes(8))
    content = dsutils.encode(made, is_implicit_vr=syntax == ImplicitVRLittleEndian, is_little_endian=True)
    deposit = begun(receiver, transfer_syntax_uid=syntax)
    deposit.write(memoryview(content))
    assert deposit.finish() == 0
    assert worklist(engine) == [("1.2.1", "pending", None)]


@pytest.mark.fault(75)
def test_a_full_disk_is_out_of_resources_and_mends_by_itself(
    receiver: Receiver, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Draft, "write", full)
        assert stored(receiver, encoded(data_set())) == 0xA700
    assert worklist(engine) == []
    assert stored(receiver, encoded(data_set())) == 0x0000


@pytest.mark.fault(85)
def test_a_database_that_fails_is_out_of_resources_never_success(receiver: Receiver, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO elsewhere"))
    assert stored(receiver, encoded(data_set())) == 0xA700
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO jobs"))
    assert worklist(engine) == []


@pytest.mark.fault(88)
def test_a_connection_that_broke_is_tried_again(
    receiver: Receiver, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = Intake.receive, [OperationalError("", {}, Exception())]

    def break_once(self: Intake, received: ReceivedInstance) -> Receipt:
        if failures:
            raise failures.pop()
        return real(self, received)

    monkeypatch.setattr(Intake, "receive", break_once)
    assert stored(receiver, encoded(data_set())) == 0x0000
    assert worklist(engine) == [("1.2.1", "pending", None)]


def test_each_exception_has_its_row_and_the_last_row_is_for_everything() -> None:
    kinds = [kind for kind, _, _ in STATUS_OF]
    assert kinds[-1] is Exception
    assert all(status != 0 for _, status, _ in STATUS_OF)
    assert next(status for kind, status, _ in STATUS_OF if issubclass(ContradictionError, kind)) == 0xA900


def test_a_queued_job_rings_the_bell(receiver: Receiver, engine: Engine, spool: Spool) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL rings by itself, see test_bell")
    bell = SocketBell(spool.root)
    stored(receiver, encoded(data_set()))
    assert bell.wait(0.0)
    assert not bell.wait(0.0)
    bell.close()


@pytest.mark.fault(76)
def test_associations_are_refused_below_the_watermark_and_taken_again_above_it(spool: Spool) -> None:
    now = 0.0
    free = [10]

    class Disk(Spool):
        def free_mib(self) -> int:
            return free[0]

    watermark = Watermark(Disk(spool.root, spool.kept), free_mib_min=100, clock=lambda: now)
    assert watermark()
    free[0] = 1000
    assert watermark()  # looked less than a second ago
    now = 1.5
    assert not watermark()


@pytest.mark.fault(80)
def test_an_orphan_left_by_a_crash_is_listed_later(receiver: Receiver, engine: Engine, spool: Spool) -> None:
    content = encoded(data_set())
    assert stored(receiver, content) == 0x0000
    with engine.begin() as connection:
        for table in ("jobs", "instances", "studies"):
            connection.execute(text(f"DELETE FROM {table}"))
    (file,) = spool.kept.files(0)
    path = spool.kept.path(file.sha256)
    receiver.arrivals.admit(StoredFile(path=path, sha256=file.sha256, size_bytes=file.size_bytes))
    assert worklist(engine) == [("1.2.1", "pending", None)]
