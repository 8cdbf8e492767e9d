"""Films in a bucket: nothing is said to be kept that is not, nothing is decoded that is not what was kept."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import func, select, update

from daemon.arrival import Arrivals
from daemon.bucket import Bucket, PixelStoreError
from daemon.gauges import Gauges
from daemon.kept import KeptFile, verify
from daemon.scheduler import Sweeps
from daemon.settings import DEFAULT_WEIGHTS
from daemon.spool import Spool, part10_header
from daemon.tray import Tray
from making import CR, POLICY, data_set, encoded
from stores import BUCKET, KEYS, Bad, Fault, bad_store, s3_server
from triage.errors import NotAnalysed, Reason, TriageError
from triage.jobs import RetryRule
from triage.records import schema
from triage.records.intake import Intake
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.store import Store, open_engine
from triage.records.tables import instances, jobs

HEADER = part10_header(CR, "1.2.3.4", ExplicitVRLittleEndian)
SECONDS = 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bad(server: str) -> Iterator[Bad]:
    with bad_store(server) as bad:
        yield bad


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(bad: Bad, tmp_path: Path) -> Bucket:
    """A prefix of its own for each test."""
    where = f"s3://{BUCKET}/site/{tmp_path.name}"
    return Bucket(where, Tray(tmp_path / "data" / "fetched"), seconds=SECONDS, endpoint=bad.url)


@pytest.fixture
def spool(bucket: Bucket, tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "data", bucket)
    spool.prepare()
    return spool


def left(spool: Spool) -> list[Path]:
    return [path for path in spool.root.rglob("*") if path.is_file() and path.suffix != ".lock"]


def kept(spool: Spool, *, quarantined: bool = False) -> list[KeptFile]:
    return list(spool.kept.files(-60, quarantined=quarantined))


def test_what_is_written_is_kept_and_read_back_and_nothing_stays_here(spool: Spool) -> None:
    stored = spool.write(HEADER, b"data set")
    assert stored.path.read_bytes() == HEADER + b"data set"  # to be parsed, before the row is written
    spool.let_go(stored)
    assert left(spool) == []
    (file,) = kept(spool)
    assert (file.sha256, file.size_bytes) == (stored.sha256, stored.size_bytes)
    assert abs(datetime.now(UTC) - file.written_at) < timedelta(minutes=5)
    with spool.kept.reading(stored.sha256) as path:
        assert path.read_bytes() == HEADER + b"data set"
        verify(path, stored.sha256)
    assert left(spool) == []


def test_the_store_is_told_the_sha256_of_what_it_gets(spool: Spool, bad: Bad) -> None:
    told = []

    def listen(handler: object, passage: object) -> None:
        told.append(passage.headers.get("x-amz-checksum-sha256"))  # type: ignore[attr-defined] # a Passage
        handler.answer(*passage.forward())  # type: ignore[attr-defined] # as above

    bad.faults = [Fault("PUT", listen)]
    stored = spool.write(HEADER, b"data set")
    assert told == [base64.b64encode(bytes.fromhex(stored.sha256)).decode()]


def test_a_large_film_goes_in_parts_and_comes_back_whole(spool: Spool, bad: Bad) -> None:
    content = bytes(range(256)) * 4096 * 40  # 40 MiB
    stored = spool.write(HEADER, content)
    assert sum(method == "PUT" for method, _ in bad.seen) == 3
    with spool.kept.reading(stored.sha256) as path:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == stored.sha256


def test_the_same_content_twice_is_one_object(spool: Spool) -> None:
    assert spool.write(HEADER, b"data set").sha256 == spool.write(HEADER, b"data set").sha256
    assert len(kept(spool)) == 1


def test_quarantine_is_another_room_and_deleting_twice_is_no_error(spool: Spool) -> None:
    stored = spool.write(HEADER, b"data set")
    spool.kept.quarantine(stored.sha256)
    assert kept(spool) == []
    assert [each.sha256 for each in kept(spool, quarantined=True)] == [stored.sha256]
    for _ in range(2):
        spool.kept.delete(stored.sha256, quarantined=True)
    assert kept(spool, quarantined=True) == []


def test_only_what_is_old_enough_is_listed(spool: Spool) -> None:
    spool.write(HEADER, b"data set")
    assert list(spool.kept.files(60)) == []


def test_a_store_that_fails_for_a_moment_is_tried_again(spool: Spool, bad: Bad) -> None:
    bad.faults = [Fault("PUT", bad.fails, times=2)]
    spool.write(HEADER, b"data set")
    assert len(kept(spool)) == 1


@pytest.mark.parametrize("fault", ["fails", "stalls", "refuses", "cuts_what_it_keeps"])
def test_what_is_not_kept_is_an_error_in_bounded_time_and_leaves_nothing(spool: Spool, bad: Bad, fault: str) -> None:
    bad.faults = [Fault("PUT", getattr(bad, fault))]
    started = time.monotonic()
    with pytest.raises(PixelStoreError):
        spool.write(HEADER, b"data set")
    assert time.monotonic() - started < 10 * SECONDS  # else it would be as long as the library pleases
    bad.faults = []
    assert left(spool) == []
    assert kept(spool) == []
    spool.write(HEADER, b"data set")
    assert len(kept(spool)) == 1


def test_an_object_whose_size_cannot_be_asked_for_is_not_kept(spool: Spool, bad: Bad) -> None:
    bad.faults = [Fault("HEAD", bad.fails)]
    with pytest.raises(PixelStoreError):
        spool.write(HEADER, b"data set")
    assert left(spool) == []


@pytest.mark.fault(117)
def test_an_answer_that_is_lost_doubles_nothing(spool: Spool, bad: Bad) -> None:
    bad.faults = [Fault("PUT", bad.keeps_and_says_nothing, times=1)]
    spool.write(HEADER, b"data set")
    assert len(kept(spool)) == 1


@pytest.mark.parametrize("fault", ["fails", "stalls", "refuses", "cuts_its_answer"])
def test_a_film_that_does_not_come_cannot_be_read_just_now(spool: Spool, bad: Bad, fault: str) -> None:
    stored = spool.write(HEADER, b"data set" * 1000)
    spool.let_go(stored)
    bad.faults = [Fault("GET", getattr(bad, fault))]
    with pytest.raises(NotAnalysed) as outcome, spool.kept.reading(stored.sha256):
        pass
    assert outcome.value.reason is Reason.PIXELS_UNREADABLE
    assert left(spool) == []


def test_an_answer_cut_once_is_asked_for_again(spool: Spool, bad: Bad) -> None:
    stored = spool.write(HEADER, b"data set" * 100_000)
    bad.faults = [Fault("GET", bad.cuts_its_answer, times=1)]
    with spool.kept.reading(stored.sha256) as path:
        verify(path, stored.sha256)


@pytest.mark.fault(81)
@pytest.mark.parametrize("fault", ["alters_its_answer", "shortens_its_answer"])
def test_a_film_that_comes_altered_is_seen_to_be(spool: Spool, bad: Bad, fault: str) -> None:
    stored = spool.write(HEADER, b"data set")
    bad.faults = [Fault("GET", getattr(bad, fault))]
    with spool.kept.reading(stored.sha256) as path, pytest.raises(NotAnalysed) as outcome:
        verify(path, stored.sha256)
    assert outcome.value.reason is Reason.PIXELS_DAMAGED


def test_a_film_that_is_gone_is_missing_but_a_bucket_that_is_gone_is_no_fault_of_the_film(
    spool: Spool, bad: Bad, tmp_path: Path
) -> None:
    with pytest.raises(NotAnalysed) as outcome, spool.kept.reading("0" * 64):
        pass
    assert outcome.value.reason is Reason.PIXELS_DAMAGED
    elsewhere = Bucket("s3://elsewhere", Tray(tmp_path / "data" / "fetched"), seconds=SECONDS, endpoint=bad.url)
    with pytest.raises(NotAnalysed) as outcome, elsewhere.reading("0" * 64):
        pass
    assert outcome.value.reason is Reason.PIXELS_UNREADABLE


def test_a_store_that_refuses_us_is_for_a_person_to_mend_and_one_that_is_away_is_not(
    spool: Spool, bad: Bad, tmp_path: Path
) -> None:
    spool.kept.check()
    elsewhere = Bucket("s3://elsewhere", Tray(tmp_path), seconds=SECONDS, endpoint=bad.url)
    with pytest.raises(TriageError, match=r"s3://elsewhere.*404"):
        elsewhere.check()
    bad.faults = [Fault("GET", bad.refuses)]
    with pytest.raises(TriageError, match="403"):
        spool.kept.check()
    bad.faults = [Fault("GET", bad.fails)]
    with pytest.raises(PixelStoreError):
        spool.kept.check()


def test_no_word_of_the_store_reaches_an_error(spool: Spool, bad: Bad) -> None:
    bad.faults = [Fault("PUT", bad.fails)]
    with pytest.raises(PixelStoreError) as error:
        spool.write(HEADER, b"data set")
    assert str(error.value) == "[Errno 5] PUT: GenericError"
    assert error.value.__cause__ is None


# -- what the sweeps do with it --------------------------------------------------------------------------------------


@pytest.fixture
def sweeps(spool: Spool, sqlite_url: str) -> Iterator[Sweeps]:
    engine = open_engine(sqlite_url)
    schema.upgrade(engine)
    store = Store(engine)
    yield Sweeps(
        store=store,
        queue=Queue(store, POLICY),
        spool=spool,
        arrivals=Arrivals(kept=spool.kept, intake=Intake(store, POLICY)),
        ring=lambda: None,
        rule=RetryRule(),
        lease_seconds=60.0,
        pending_seconds=300.0,
        retention_days=7.0,
        free_mib_min=0,
        gauges=Gauges(store=store, queue=Queue(store, POLICY), weights_card=DEFAULT_WEIGHTS),
    )
    engine.dispose()


@pytest.mark.fault(94)
def test_an_object_whose_row_was_never_written_is_listed_once(
    sweeps: Sweeps, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.let_go(spool.write(HEADER, encoded(data_set(SOPInstanceUID="1.2.3.4"))))
    sweeps.adopt_orphans()  # too young: its row may be on the way
    assert Reading(sweeps.store).worklist() == []
    monkeypatch.setattr("daemon.scheduler._ORPHAN_SECONDS", -60.0)
    for _ in range(2):
        sweeps.adopt_orphans()
    assert [entry.analysis for entry in Reading(sweeps.store).worklist()] == ["pending"]
    assert left(spool) == []


def test_an_object_that_is_not_what_its_name_says_is_not_listed_and_stops_no_other(
    sweeps: Sweeps, spool: Spool, bad: Bad, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (4, 5):
        header = part10_header(CR, f"1.2.3.{number}", ExplicitVRLittleEndian)
        spool.let_go(spool.write(header, encoded(data_set(SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID="1.2"))))
    monkeypatch.setattr("daemon.scheduler._ORPHAN_SECONDS", -60.0)
    listing = Fault("GET", lambda handler, passage: handler.answer(*passage.forward()), times=1)
    bad.faults = [listing, Fault("GET", bad.alters_its_answer, times=1)]
    sweeps.adopt_orphans()
    with sweeps.store.reading() as connection:
        assert connection.execute(select(func.count()).select_from(instances)).scalar_one() == 1
    assert "orphan_unreadable" in capsys.readouterr().out


def test_old_objects_go_and_their_rows_stay(sweeps: Sweeps, spool: Spool, bad: Bad) -> None:
    stored = spool.write(HEADER, encoded(data_set(SOPInstanceUID="1.2.3.4")))
    sweeps.arrivals.admit(stored)
    with sweeps.store.writing() as connection:
        connection.execute(update(jobs).values(state="done"))
        connection.execute(update(instances).values(received_at=sweeps.store.after(-8 * 86400)))
    bad.faults = [Fault("POST", bad.fails)]
    with pytest.raises(PixelStoreError):
        sweeps.delete_expired_files()
    bad.faults = []
    sweeps.delete_expired_files()  # the next turn
    assert kept(spool) == []
    assert len(Reading(sweeps.store).worklist()) == 1


@pytest.mark.fault(82)
def test_copies_of_a_dead_reader_go_when_another_starts(bucket: Bucket) -> None:
    room = bucket._tray._room
    room.parent.mkdir()
    reader = (
        "import os, sys, pathlib; from daemon.tray import Tray; tray = Tray(pathlib.Path(sys.argv[1]));"
        "tray.prepare(); tray.place().write_bytes(b'a film'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", reader, str(room)], check=False).returncode == 9
    assert [path for path in room.rglob("*") if path.is_file() and path.suffix != ".lock"]
    bucket.prepare()
    assert [path for path in room.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
