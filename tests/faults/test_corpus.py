"""Every odd file that the installed packages hold, and some that we make, through the real port of one real daemon."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pynetdicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from running import Daemon, running, wait_for

from absent import need
from faults import hostile
from faults.hostile import MIB, Sent, forget_peak, good, inserted, is_served, peak_rss, raw, travelling
from making import encoded

pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore::UserWarning")]
CANARY = "Kanarienvogel^Zwitschi"
UID = re.compile(r"(?!.{65})[0-9]+(\.[0-9]+)*")
# By status all that are not stored. None: no association, of syntaxes that we do not take and of directories of media.
OTHERS = {
    None: {
        *("DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-empty.dcm", "DICOMDIR-implicit", "DICOMDIR-nooffset"),
        *("DICOMDIR-nopatient", "DICOMDIR-reordered", "ExplVR_BigEnd.dcm", "MR_small_bigendian.dcm"),
        *("MR_small_expb.dcm", "SC_rgb_small_odd_big_endian.dcm", "image_dfl.dcm", "liver_expb_1frame.dcm"),
        *("rtdose_expb.dcm", "rtdose_expb_1frame.dcm", "MRImageStorage_ExplicitVRBigEndian.dcm"),
        *("SCImageStorage_Deflated.dcm", "OBXXXX1A_expb.dcm", "OBXXXX1A_expb_2frame.dcm", "SC_rgb_expb.dcm"),
        *("SC_rgb_expb_16bit.dcm", "SC_rgb_expb_16bit_2frame.dcm", "SC_rgb_expb_2frame.dcm"),
        *("SC_rgb_expb_32bit.dcm", "SC_rgb_expb_32bit_2frame.dcm", "emri_small_big_endian.dcm"),
        *("gdcm-US-ALOKA-16_big.dcm", "liver_expb.dcm"),
    },
    0xA900: {
        *("badVR.dcm", "rtdose.dcm", "rtdose_1frame.dcm", "rtplan.dcm", "rtplan_truncated.dcm", "chrJapMulti.dcm"),
        *("chrJapMultiExplicitIR6.dcm", "RTImageStorage.dcm", "bad_sequence.dcm"),
    },
    0xC000: {
        *("ExplVR_BigEndNoMeta.dcm", "README.txt", "UN_sequence.dcm", "crayons.icc", "README", "empty_charset_LEI.dcm"),
        *("meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm", "no_meta.dcm", "no_meta_group_length.dcm", "priv_SQ.dcm"),
        *("rtplan.dump", "rtstruct.dump", "zipMR.gz", "FileInfo.txt", "chrSQEncoding.dcm", "chrSQEncoding1.dcm"),
        *("deflated zeros", "text"),
    },
}
GROWTH_MIB = 160


def folders() -> Iterator[Path]:
    for room in ("test_files", "charset_files"):
        yield Path(pydicom.__file__).parent / "data" / room
    yield Path(pynetdicom.__file__).parent / "tests" / "dicom_files"
    need("data_store")
    import data_store  # noqa: PLC0415 - of the demonstration's extra

    yield Path(str(data_store.__file__)).parent / "data"


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was sent, and what anybody can read of it."""

    name: str
    sent: Sent
    texts: tuple[str, ...] = ()


def of_packages() -> Iterator[Known]:
    for folder in folders():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in {".py", ".pyc", ".json", ".md"}:
                yield as_sent(path)


def as_sent(path: Path) -> Known:
    """The bytes behind the File Meta Information, whatever they are."""
    meta = Dataset()
    with path.open("rb") as file, suppress(Exception):
        read_preamble(file, force=True)
        meta = _read_file_meta_info(file)
        start = file.tell()
    content = path.read_bytes()[start if len(meta) else 0 :]
    found = read(path)
    usual = Sent(content=content, sop=generate_uid(), syntax=str(ImplicitVRLittleEndian))
    sop, sop_class = text(meta, "MediaStorageSOPInstanceUID"), text(meta, "MediaStorageSOPClassUID")
    named = hostile.replace(
        usual,
        study=text(found, "StudyInstanceUID"),
        sop=next(filter(UID.fullmatch, (sop, text(found, "SOPInstanceUID"))), usual.sop),
        sop_class=next(filter(UID.fullmatch, (sop_class, text(found, "SOPClassUID"))), usual.sop_class),
        syntax=text(meta, "TransferSyntaxUID") or usual.syntax,
    )
    private = ("StudyInstanceUID", "SOPInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber")
    return Known(name=path.name, sent=named, texts=tuple(text(found, keyword) for keyword in private))


def read(path: Path) -> Dataset:
    with suppress(Exception):
        return dcmread(path, stop_before_pixels=True, force=True)
    return Dataset()


def text(dataset: Dataset, keyword: str) -> str:
    with suppress(Exception):
        return str(dataset.get(keyword) or "").strip(" \0")
    return ""


def made() -> Iterator[Known]:
    """Each with a canary in its patient's name."""
    for name, content, film in variants():
        sent = travelling(film, content)
        if film.StudyInstanceUID.encode() not in content:
            sent = hostile.replace(sent, study="")
        texts = (CANARY, *CANARY.split("^"), film.StudyInstanceUID, film.SOPInstanceUID)
        yield Known(name=name, sent=sent, texts=tuple(map(str, texts)))


def variants() -> Iterator[tuple[str, bytes, Dataset]]:
    for elements in ({"Rows": 65535, "Columns": 65535}, {"Rows": 0}, {"NumberOfFrames": 99_999}, {"PixelData": b""}):
        film = named(**elements)
        yield str(elements)[:40], encoded(film), film
    nest = raw(0x21, 0x1140, b"SQ", b"", 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    for depth in (50, 1000, 100_000):
        film = named()
        yield f"{depth} sequences", inserted(film, nest * depth), film
    for charset in ("ISO_IR 100", "ISO 2022 IR 87", "GB18030", "NONSENSE", ""):
        film = named(SpecificCharacterSet=charset)
        film.PatientComments = "x"
        yield charset, inserted(film, raw(0x10, 0x4000, b"LT", CANARY.encode() + b"\xff\xfe\x1b$B\x1b[31m\r\n")), film
    film = named()
    yield "element of 4 GiB", inserted(film, raw(0x21, 0x1010, b"OB", b"x", 0xFFFFFFF0)), film
    film = named()
    bomb = zlib.compressobj(wbits=-15)
    yield "deflated zeros", bomb.compress(bytes(100 * MIB)) + bomb.flush(), film
    film = named()
    yield "text", CANARY.encode() * 1000, film
    film = named()
    cut = encoded(film)
    yield "cut", cut[: len(cut) // 2], film
    film = named()
    siz = struct.pack(">HHIIIIIIIIH", 41, 0, 2**31, 2**31, 0, 0, 2**31, 2**31, 0, 0, 1) + bytes((15, 1, 1))
    film.PixelData = b"\xff\x4f\xff\x51" + siz
    yield "codestream in native pixels", encoded(film), film


def named(**elements: object) -> Dataset:
    return good(PatientName=CANARY, **elements)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Once warm: what libraries take at their first film is no growth."""
    settings = {"decode_mib": 512, "attempts_max": 2, "log_level": "debug", "batch_max": 2}
    with running(tmp_path_factory.mktemp("daemon"), **settings) as daemon:
        daemon.serve()
        assert is_served(daemon)
        yield daemon


@pytest.mark.fault(27, 28, 29, 30, 31, 37, 42, 43, 44, 45, 47, 50, 51, 52, 53, 55, 59, 62, 63, 68, 70)
def test_every_odd_file_is_survived_and_every_study_that_can_be_read_is_listed(daemon: Daemon) -> None:
    processes = {name: daemon.child(name) for name in ("receive", "work", "schedule", "web")}
    before = {name: process.memory_info().rss for name, process in processes.items()}
    for process in processes.values():
        forget_peak(process)
    corpus = [*of_packages(), *made()]
    statuses = [known.sent.to(daemon) for known in corpus]
    assert others(corpus, statuses) == OTHERS
    assert len(corpus) > 150
    assert statuses.count(0) > 100
    assert is_served(daemon)
    listed = wait_for(lambda: settled(daemon), 400, pause=1)
    for known, status in zip(corpus, statuses, strict=True):
        if status is not None and UID.fullmatch(known.sent.study):
            assert known.sent.study in listed, (known.name, status)
    assert all(analysis == "analysed" or reason for analysis, reason in listed.values())
    for name, process in processes.items():
        assert process.is_running(), name
        assert peak_rss(process) - before[name] < GROWTH_MIB * MIB, name
    assert_silent(daemon, corpus)


def others(corpus: list[Known], statuses: list[int | None]) -> dict[int | None, set[str]]:
    """Names by status, but of those stored."""
    found: dict[int | None, set[str]] = {}
    for known, status in zip(corpus, statuses, strict=True):
        if status != 0:
            found.setdefault(status, set()).add(known.name)
    return found


def settled(daemon: Daemon) -> dict[str, tuple[str, str | None]]:
    """Analysis and reason by study; nothing while one is pending."""
    rows = daemon.rows("SELECT study_instance_uid, analysis, reason FROM reading_worklist")
    found = {study: (analysis, reason) for study, analysis, reason in rows}
    return {} if any(analysis == "pending" for analysis, _ in found.values()) else found


def assert_silent(daemon: Daemon, corpus: list[Known]) -> None:
    """No text of a data set in what any process has written."""
    log = daemon.log()
    assert "Traceback" not in log
    assert "uncaught_exception" not in log
    telling = {each for known in corpus for each in known.texts if len(each) > 7}
    assert len(telling) > 100
    assert not [each for each in telling if each in log]
    names = "".join(str(path) for path in daemon.home.rglob("*"))
    assert not [each for each in telling if each in names]
