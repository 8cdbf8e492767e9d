"""C-FIND at the Study Root (PS3.4 C.4.1): pynetdicom and dcmtk's findscu ask for what is held."""

from __future__ import annotations

import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from listening import Site, listening, wait_for
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from sqlalchemy import Engine, text

from archiving import Held
from daemon.arrival import ContradictionError
from daemon.dicom import study_root
from daemon.dicom.command import C_FIND_RQ, Command
from daemon.dicom.exchange import Exchange
from daemon.dicom.study_root import STUDY_ROOT_FIND, StudyRoot
from making import data_set, encoded
from triage.records import archive as rooms

BOTH = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
PENDING, PARTLY, SUCCESS, CANCELLED = 0xFF00, 0xFF01, 0x0000, 0xFE00
# Names as files hold them, and as they read.
NAMES = {
    "ISO 2022 IR 87": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "GB18030": ("GB18030", "Wang^XiaoDong=王^小东"),
    "UTF-8": ("ISO_IR 192", "Müller^Zoë=李^明"),
    "Latin 1": ("ISO_IR 100", "Äneas^Rüdiger"),
    "Greek": ("ISO_IR 126", "Διονυσιος"),
}


@pytest.fixture
def held(engine: Engine, tmp_path: Path) -> Held:
    folder = tmp_path / "held"
    folder.mkdir(mode=0o700)
    return Held(engine, folder)


@pytest.fixture
def site(held: Held) -> Iterator[Site]:
    with listening(handlers={(STUDY_ROOT_FIND, C_FIND_RQ): StudyRoot(archive=held.archive).find}) as site:
        yield site


def identifier(level: str = "STUDY", **keys: Any) -> Dataset:
    made = Dataset()
    made.QueryRetrieveLevel = level
    made.StudyInstanceUID = ""
    for keyword, value in keys.items():
        setattr(made, keyword, value)
    return made


def find(site: Site, level: str = "STUDY", **keys: Any) -> tuple[list[int], list[Dataset]]:
    return ask(site, identifier(level, **keys))


def ask(site: Site, keys: Dataset) -> tuple[list[int], list[Dataset]]:
    with site.associate((STUDY_ROOT_FIND, BOTH)) as association:
        answers = list(association.send_c_find(keys, STUDY_ROOT_FIND))
    return [status.Status for status, _ in answers], [each for _, each in answers if each is not None]


def test_a_study_is_found_with_what_is_held_of_it(site: Site, held: Held) -> None:
    held.keep()
    held.keep(SOPInstanceUID="1.2.3.2")
    keys = {"PatientName": "INVENTED*", "StudyDate": "20260101-", "ModalitiesInStudy": "", "AccessionNumber": ""}
    statuses, (study,) = find(site, **keys, NumberOfStudyRelatedInstances="", PatientID="")
    assert statuses == [PENDING, SUCCESS]
    told = {element.keyword: element.value for element in study}
    assert told == {
        "SpecificCharacterSet": "ISO_IR 192",
        "StudyDate": "20260105",
        "AccessionNumber": "A1",
        "QueryRetrieveLevel": "STUDY",
        "ModalitiesInStudy": "CR",
        "PatientName": "Invented^Child",
        "PatientID": "P1",
        "StudyInstanceUID": "1.2.1",
        "NumberOfStudyRelatedInstances": 2,
    }


def test_series_and_images_are_found_below_a_study(site: Site, held: Held) -> None:
    held.keep()
    held.keep(SOPInstanceUID="1.2.3.2")
    held.keep(SOPInstanceUID="1.2.3.3", SeriesInstanceUID="1.2.1.2", Modality="DX")
    _, series = find(site, "SERIES", StudyInstanceUID="1.2.1", SeriesInstanceUID="", Modality="")
    assert [(each.SeriesInstanceUID, each.Modality) for each in series] == [("1.2.1.1", "CR"), ("1.2.1.2", "DX")]
    keys = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.1"}
    statuses, images = find(site, "IMAGE", **keys, SOPInstanceUID="", SOPClassUID="")
    assert [each.SOPInstanceUID for each in images] == ["1.2.3.1", "1.2.3.2"]
    assert statuses == [PENDING, PENDING, SUCCESS]


def test_required_keys_that_are_not_held_come_empty_and_the_answer_says_so(site: Site, held: Held) -> None:
    held.keep()
    statuses, (study,) = find(site, StudyTime="", StudyID="", PatientWeight="70")
    assert statuses == [PARTLY, SUCCESS]
    assert (study.StudyTime, study.StudyID, "PatientWeight" in study) == ("", "", False)


@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("PATIENT", {}),
        ("", {}),
        ("SERIES", {}),
        ("SERIES", {"StudyInstanceUID": ["1.2.1", "1.2.2"]}),
        ("IMAGE", {"StudyInstanceUID": "1.2.1"}),
        ("STUDY", {"PatientName": "*a" * 20}),
        ("STUDY", {"PatientID": "?" * 300}),
    ],
)
def test_an_identifier_that_cannot_be_answered_is_refused(
    site: Site, held: Held, level: str, keys: dict[str, Any]
) -> None:
    held.keep()
    made = Dataset()
    made.QueryRetrieveLevel = level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pydicom.config.settings.writing_validation_mode", 0)  # a peer may send what pydicom would not
        for keyword, value in keys.items():
            setattr(made, keyword, value)
        statuses, replies = ask(site, made)
    assert (statuses, replies) == ([0xA900], [])


@pytest.mark.fault(37)
@pytest.mark.parametrize("charset", list(NAMES))
def test_names_come_out_right_in_whatever_character_set_they_came(site: Site, held: Held, charset: str) -> None:
    terms, name = NAMES[charset]
    held.keep(SpecificCharacterSet=terms, PatientName=name)
    _, (study,) = find(site, PatientName="")
    assert str(study.PatientName) == name
    # And are found by each group, asked for in a character set of the peer's own.
    keys = identifier(SpecificCharacterSet=terms, PatientName=name.split("=")[-1][:3] + "*")
    _, replies = ask(site, keys)
    assert [str(each.PatientName) for each in replies] == [name]


def nested(depth: int, *, measured: bool) -> bytes:
    """Sequences within sequences, of stated or of undefined length; made by hand, as no library would."""
    body = b""
    for _ in range(depth):
        size = len(body) if measured else 0xFFFFFFFF
        item = struct.pack("<HHL", 0xFFFE, 0xE000, size) + body
        item += b"" if measured else struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
        size = len(item) if measured else 0xFFFFFFFF
        body = struct.pack("<HH2sHL", 0x40, 0x275, b"SQ", 0, size) + item
        body += b"" if measured else struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return body


@pytest.mark.fault(133)
@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("depth", [10, 6_000])
def test_deep_sequences_cost_nobody_anything(held: Held, depth: int, *, measured: bool) -> None:
    held.keep()
    exchange = Exchange(
        handlers={(STUDY_ROOT_FIND, C_FIND_RQ): StudyRoot(archive=held.archive).find},
        calling_ae="PEER",
        called_ae="TRIAGE",
        address="127.0.0.1",
    )
    command = Command(
        kind=C_FIND_RQ, message_id=1, has_data_set=True, sop_class_uid=STUDY_ROOT_FIND, sop_instance_uid=""
    )
    content = bytearray(encoded(identifier()) + nested(depth, measured=measured))
    replies = list(exchange.replies(command, STUDY_ROOT_FIND, ExplicitVRLittleEndian, content))
    statuses = [reply.status for reply, _ in replies]
    assert statuses in ([PARTLY, SUCCESS], [0xC000], [0xA700])


@pytest.mark.fault(133)
def test_private_keys_are_not_matched(site: Site, held: Held) -> None:
    held.keep()
    private = identifier()
    private.add_new(0x00091001, "LO", "anything")
    private.add_new(0x00091002, "OB", b"\0" * 1000)
    assert ask(site, private)[0] == [PARTLY, SUCCESS]


def test_nothing_is_changed_by_asking(site: Site, held: Held) -> None:
    held.keep()

    def rows() -> list[Any]:
        with held.engine.connect() as connection:
            tables = ("studies", "instances", "jobs", "events")
            return [connection.execute(text(f"SELECT * FROM {table}")).all() for table in tables]

    before = rows()
    for name in ("'; DROP TABLE studies; --", "%", "_*", "\\", '"', "[a-z]*", "*" * 64):
        find(site, PatientName=name, PatientID=name)
    find(site, StudyInstanceUID="1.2.1", PatientID="P1", StudyDate="20260105")
    assert rows() == before


def test_more_matches_than_are_told_do_not_pass_for_all(
    site: Site, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        held.keep(SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID=f"1.2.{number}")
    monkeypatch.setattr(study_root, "MATCHES_MAX", 3)
    assert find(site)[0] == [PENDING] * 3 + [0xA700]
    monkeypatch.setattr(study_root, "MATCHES_MAX", 9)
    assert find(site)[0] == [PENDING] * 4 + [SUCCESS]
    monkeypatch.setattr(rooms, "STUDIES_LOOKED_AT_MAX", 2)
    assert find(site, PatientName="inv*")[0] == [PENDING] * 2 + [0xA700]


def test_what_is_in_quarantine_is_not_found(site: Site, held: Held) -> None:
    held.keep()
    with pytest.raises(ContradictionError):
        held.keep_bytes(_content("1.2.3.9"), "1.2.3.10")
    _, (study,) = find(site, StudyInstanceUID="1.2.1", NumberOfStudyRelatedInstances="")
    assert study.NumberOfStudyRelatedInstances == 1
    _, images = find(site, "IMAGE", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1", SOPInstanceUID="")
    assert [each.SOPInstanceUID for each in images] == ["1.2.3.1"]


def _content(instance: str) -> bytes:
    return encoded(data_set(SOPInstanceUID=instance, SeriesInstanceUID="1.2.1.1", PatientID="P1"))


def test_a_cancelled_question_ends(site: Site, held: Held) -> None:
    for number in range(60):
        held.keep(data_set(SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID=f"1.2.{number}"))
    statuses = []
    with site.associate((STUDY_ROOT_FIND, BOTH)) as association:
        for status, _ in association.send_c_find(identifier(), STUDY_ROOT_FIND, msg_id=7):
            if not statuses:
                threading.Thread(target=association.send_c_cancel, args=(7, None, STUDY_ROOT_FIND)).start()
            statuses.append(status.Status)
        assert association.is_established
    # Cancelled in time or finished before: never anything else.
    assert statuses[-1] in (CANCELLED, SUCCESS)


def test_dcmtk_finds_studies_and_images(site: Site, held: Held, dcmtk: Path, tmp_path: Path) -> None:
    held.keep(SpecificCharacterSet="GB18030", PatientName="Wang^XiaoDong=王^小东")
    asked = ["-k", "PatientName=wang*", "-k", "StudyInstanceUID", "-k", "StudyDate=20260105"]
    command = [dcmtk / "findscu", "-S", "-aec", "TRIAGE", "-X", "-od", tmp_path, "localhost", str(site.port)]
    subprocess.run([*command, "-k", "QueryRetrieveLevel=STUDY", *asked], check=True, capture_output=True)
    (reply,) = tmp_path.glob("rsp*.dcm")
    found = dcmread(reply, force=True)
    assert (found.StudyInstanceUID, str(found.PatientName)) == ("1.2.1", "Wang^XiaoDong=王^小东")
    assert wait_for(lambda: site.ends)
    assert site.ends[0].questions == {SUCCESS: 1}
