"""Data sets that are not what they should be: stored where they can be, listed with their reason, in nobody's way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from listening import established
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian, JPEGLosslessSV1, generate_uid
from running import Daemon, running

from faults import hostile
from faults.hostile import EXPLICIT, Sent, good, inserted, is_served, outcome, raw, travelling
from making import encoded

pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore::UserWarning")]
ANALYSED = ("analysed", None)
SUCCESS, OUT_OF_RESOURCES, CONTRADICTION, CANNOT_UNDERSTAND, BAD_UID = 0x0000, 0xA700, 0xA900, 0xC000, 0xC001
ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("daemon"), dicom_instance_mib_max=48) as daemon:
        yield daemon.serve()
        assert is_served(daemon)
        assert "Traceback" not in daemon.log()


def not_analysed(reason: str) -> tuple[str, str]:
    return "not_analysed", reason


def studies(daemon: Daemon) -> set[str]:
    return {str(entry["study_instance_uid"]) for entry in daemon.worklist()}


def quarantined(daemon: Daemon) -> int:
    return len(daemon.files("quarantine"))


# -- who it is -----------------------------------------------------------------------------------------------------


@pytest.mark.fault(27)
@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID"])
def test_an_object_that_names_no_instance_is_refused_kept_aside_and_its_study_is_listed(
    daemon: Daemon, keyword: str
) -> None:
    made, nameless, before = good(), good(), quarantined(daemon)
    delattr(nameless, keyword)
    assert travelling(made, encoded(nameless)).to(daemon) == CANNOT_UNDERSTAND
    assert quarantined(daemon) == before + 1
    assert outcome(daemon, nameless.StudyInstanceUID) == not_analysed("quarantined")


@pytest.mark.fault(28, 30, 31)
@pytest.mark.parametrize(
    "uid", [None, "", "..", "../../etc/passwd", "/etc/passwd", "1.2.%2e%2e", "1.2.\0.3", "1.2.A", "1" * 65, "9" * 5000]
)
def test_a_film_without_a_usable_study_is_listed_under_a_key_of_its_own(daemon: Daemon, uid: str | None) -> None:
    before, made = studies(daemon), good(StudyInstanceUID=None)
    value = b"" if uid is None else uid.encode() + b"\0" * (len(uid) % 2)
    content = encoded(made) if uid is None else inserted(made, raw(0x20, 0x0D, b"UI", value))
    assert travelling(made, content).to(daemon) == SUCCESS
    (study,) = studies(daemon) - before
    assert study.startswith("2.25.")
    assert outcome(daemon, study) == not_analysed("identity_conflict")
    assert not [path for path in daemon.data_dir.rglob("*") if "passwd" in path.name or path.name == ".."]


@pytest.mark.fault(29)
@pytest.mark.parametrize("changed", ["sop", "sop_class"])
def test_a_film_that_contradicts_its_command_is_kept_aside_and_its_study_is_listed(
    daemon: Daemon, changed: str
) -> None:
    film, before = travelling(good()), quarantined(daemon)
    other = {"sop": generate_uid(), "sop_class": "1.2.840.10008.5.1.4.1.1.7"}[changed]
    assert hostile.replace(film, **{changed: str(other)}).to(daemon) == CONTRADICTION
    assert quarantined(daemon) == before + 1
    assert outcome(daemon, film.study) == not_analysed("quarantined")


@pytest.mark.fault(30, 31)
@pytest.mark.parametrize("uid", ["1" * 65, "../../etc/passwd", "..", "1.2.A", "", "1.2%2e", "1..2"])
def test_a_bad_uid_in_a_command_costs_its_instance_and_not_the_association(daemon: Daemon, uid: str) -> None:
    film = travelling(good())
    commands = [hostile.store_command(film.sop_class.encode(), each.encode()) for each in (uid, film.sop)]
    with hostile.socket.create_connection(("127.0.0.1", daemon.dicom_port), timeout=60) as peer:
        established(peer, hostile.associate_rq(transfer_syntax=EXPLICIT))
        assert [hostile.store(peer, film.content, each) for each in commands] == [BAD_UID, SUCCESS]


@pytest.mark.fault(31)
@pytest.mark.parametrize("study", ["1.02.003.{}", "1.2.{}\0", "1.2.{} "])
def test_leading_zeros_and_odd_padding_are_forgiven(daemon: Daemon, study: str) -> None:
    number = generate_uid(prefix=None)[5:25]
    made = good(StudyInstanceUID=None)
    uid = study.format(number).encode()
    content = inserted(made, raw(0x20, 0x0D, b"UI", uid + uid[-1:] * (len(uid) % 2) if uid[-1] in b"\0 " else uid))
    assert travelling(made, content).to(daemon) == SUCCESS
    assert outcome(daemon, study.format(number).strip("\0 ")) == ANALYSED


@pytest.mark.fault(32, 34)
def test_the_same_film_again_and_from_two_senders_at_once_is_one_row_and_one_job(daemon: Daemon) -> None:
    film = travelling(good())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: film.to(daemon), range(8))) == [SUCCESS] * 8
    assert outcome(daemon, film.study) == ANALYSED
    told = "SELECT count(*), count(job_id) FROM instances LEFT JOIN jobs USING (instance_id) WHERE sop_instance_uid=:u"
    assert daemon.rows(told, u=film.sop) == [(1, 1)]


@pytest.mark.fault(33, 35)
@pytest.mark.parametrize("keyword", ["PatientName", "StudyInstanceUID"])
def test_other_content_under_the_same_instance_is_kept_too_and_marked(daemon: Daemon, keyword: str) -> None:
    first = good()
    kept = ["StudyInstanceUID", "SOPInstanceUID", "SeriesInstanceUID"]
    second = good(**{each: first[each].value for each in kept if each != keyword}, ImageComments="another")
    films = [travelling(first), travelling(second)]
    assert [film.to(daemon) for film in films] == [SUCCESS, SUCCESS]
    for film in films:
        assert outcome(daemon, film.study) == ANALYSED
        assert daemon.entry(film.study)["identity_conflict"]
    hashes = daemon.rows("SELECT DISTINCT sha256 FROM instances WHERE sop_instance_uid = :u", u=first.SOPInstanceUID)
    assert len(hashes) == 2


@pytest.mark.fault(36)
def test_a_film_of_another_patient_in_a_known_study_is_analysed_and_marked(daemon: Daemon) -> None:
    first = good(PatientID="INV-7")
    second = good(PatientID="INV-8", StudyInstanceUID=first.StudyInstanceUID)
    assert [travelling(each).to(daemon) for each in (first, second)] == [SUCCESS, SUCCESS]
    assert outcome(daemon, first.StudyInstanceUID) == ANALYSED
    entry = daemon.entry(first.StudyInstanceUID)
    assert (entry["patient_id"], entry["identity_conflict"]) == ("INV-7", True)


# -- what it says --------------------------------------------------------------------------------------------------

NAMES = {
    "no character set": ("", "Äß^Õ".encode()),
    "unknown character set": ("NONSENSE", "Äß^Õ".encode()),
    "UTF-8 declared as Latin-1": ("ISO_IR 100", "山田^太郎".encode()),
    "invalid UTF-8": ("ISO_IR 192", b"\xff\xfe\xc3\x28^\xed\xa0\x80"),
    "broken escapes": ("ISO 2022 IR 87\\ISO 2022 IR 149", b"A^B=\x1b$B\x1b(\xff\xff\x1b$)C"),
    "GB18030": ("GB18030", "王^小东".encode("gb18030")),
    "escapes and control characters": ("ISO_IR 192", b"A\x1b[31m\x07\0B^C\r\nlevel=error"),
    "right to left and no width": ("ISO_IR 192", "A\u202eB\u200b^C".encode()),
    "script": ("", b"<script>alert(1)</script>^<img src=x onerror=alert(1)>"),
    "SQL": ("", b"'; DROP TABLE studies; --^%s%n{{7*7}}"),
    "formula": ("", b"=cmd|' /C calc'!A0^@SUM(1)"),
    "long": ("", b"A" * 60_000),
    "a thousand values": ("", b"A\\" * 1000),
}


@pytest.mark.fault(37, 38, 39, 40)
@pytest.mark.parametrize("name", NAMES)
def test_a_film_with_any_text_is_analysed_and_listed_in_one_plain_line(daemon: Daemon, name: str) -> None:
    charset, value = NAMES[name]
    made = good(PatientName=None)
    if charset:
        made.add_new(0x00080005, "CS", charset.split("\\"))
    value += b" " * (len(value) % 2)
    assert travelling(made, inserted(made, raw(0x10, 0x10, b"PN", value))).to(daemon) == SUCCESS
    assert outcome(daemon, made.StudyInstanceUID) == ANALYSED
    shown = daemon.entry(made.StudyInstanceUID)["patient_name"]
    assert len(shown) <= 256
    assert shown.isprintable()
    page = daemon.get("/").text
    assert "<script>alert" not in page
    assert "<img src=x" not in page


@pytest.mark.fault(40, 41)
@pytest.mark.parametrize("size", [2**16, 2**20, 8 * 2**20])
def test_a_film_with_much_text_or_private_bytes_is_analysed(daemon: Daemon, size: int) -> None:
    made = good()
    made.add_new(0x00404000, "UT", "x" * size)
    made.add_new(0x00211010, "OB", bytes(size))
    assert travelling(made).to(daemon) == SUCCESS
    assert outcome(daemon, made.StudyInstanceUID) == ANALYSED


@pytest.mark.fault(41)
def test_a_film_with_ten_thousand_private_elements_is_analysed(daemon: Daemon) -> None:
    made = good()
    for number in range(10_000):
        made.add_new((0x0021 + 2 * (number // 200), 0x1000 + number % 200), "LO", "x")
    assert travelling(made).to(daemon) == SUCCESS
    assert outcome(daemon, made.StudyInstanceUID) == ANALYSED


@pytest.mark.fault(41)
def test_an_object_over_the_limit_is_out_of_resources_and_leaves_nothing(daemon: Daemon) -> None:
    made, before = good(), daemon.files("instances")
    made.add_new(0x00211010, "OB", bytes(49 * 2**20))
    assert travelling(made).to(daemon) == OUT_OF_RESOURCES
    assert daemon.files("instances") == before
    assert not daemon.files("incoming")


@pytest.mark.fault(48)
@pytest.mark.parametrize("day", ["99991231", "00010101", "20261399", "today", "", "2026.01.05", "1" * 60])
def test_any_date_of_the_study_is_taken_and_arrival_decides(daemon: Daemon, day: str) -> None:
    made = good(StudyDate=None)
    value = day.encode() + b" " * (len(day) % 2)
    assert travelling(made, inserted(made, raw(8, 0x20, b"DA", value))).to(daemon) == SUCCESS
    assert outcome(daemon, made.StudyInstanceUID) == ANALYSED


OTHERS: list[tuple[dict[str, str], str]] = [
    ({"BodyPartExamined": "LEG"}, "not_chest_frontal"),
    ({"BodyPartExamined": "B\u00e4cken"}, "not_chest_frontal"),
    ({"ViewPosition": "LL"}, "not_chest_frontal"),
    ({"ViewPosition": ""}, "view_unknown"),
    ({"BodyPartExamined": ""}, "body_part_unknown"),
    ({"PatientAge": "040Y"}, "age_out_of_range"),
    ({"PatientAge": "XYZY"}, "age_unknown"),
    ({"Modality": "MR"}, "unsupported_modality"),
    ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
]


@pytest.mark.fault(48, 49)
@pytest.mark.parametrize(("elements", "reason"), OTHERS)
def test_a_film_that_is_not_for_the_network_says_why(daemon: Daemon, elements: dict[str, str], reason: str) -> None:
    made = good(SpecificCharacterSet="ISO_IR 192", **elements)
    assert travelling(made).to(daemon) == SUCCESS
    assert outcome(daemon, made.StudyInstanceUID) == not_analysed(reason)


@pytest.mark.fault(50)
@pytest.mark.parametrize("branch", ["104.1", "88.11", "88.59", "11.1", "66.4", "9.1.1"])
def test_an_object_beside_the_film_changes_nothing_about_its_study(daemon: Daemon, branch: str) -> None:
    film = good()
    beside = hostile.chests.bare("1.2.840.10008.5.1.4.1.1." + branch, "OT")
    beside.StudyInstanceUID = film.StudyInstanceUID
    assert travelling(film).to(daemon) == SUCCESS
    assert outcome(daemon, film.StudyInstanceUID) == ANALYSED
    assert travelling(beside).to(daemon) == SUCCESS
    assert outcome(daemon, film.StudyInstanceUID) == ANALYSED


# -- how it is encoded ---------------------------------------------------------------------------------------------


def nested(depth: int, group: int) -> bytes:
    opening = raw(group, 0x1140, b"SQ", b"", 0xFFFFFFFF) + ITEM
    return opening * depth + (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * depth


def twice(made: Dataset) -> bytes:
    return inserted(made, raw(0x10, 0x20, b"LO", b"INV-1 ")) + b""


def out_of_order(made: Dataset) -> bytes:
    return encoded(made) + raw(0x10, 0x4000, b"LT", b"late")


ODD: dict[str, Callable[[Dataset], bytes]] = {
    "50 sequences": lambda made: inserted(made, nested(50, 0x21)),
    "a wrong group length": lambda made: inserted(made, raw(0x10, 0, b"UL", b"\xff\xff\xff\x7f")),
    "group 0002": lambda made: inserted(made, raw(2, 0x10, b"UI", b"1.2.840.10008.1.2\0")),
    "an element twice": twice,
    "an element out of order": out_of_order,
    "an odd length": lambda made: inserted(made, raw(0x10, 0x4000, b"LT", b"odd")),
    "a stray delimiter at the end": lambda made: encoded(made) + b"\xfe\xff\xdd\xe0\0\0\0\0",
    "an unknown VR": lambda made: inserted(made, raw(0x21, 0x1010, b"ZZ", b"what")),
    "a sequence of nonsense": lambda made: inserted(made, raw(0x21, 0x1010, b"SQ", b"nonsense" * 9)),
    "a private sequence without creator": lambda made: inserted(made, nested(1, 0x21)),
}


@pytest.mark.fault(42, 43)
@pytest.mark.parametrize("name", ODD)
def test_an_oddly_encoded_film_is_listed_under_its_study(daemon: Daemon, name: str) -> None:
    made = good()
    assert travelling(made, ODD[name](made)).to(daemon) == SUCCESS
    analysis, reason = outcome(daemon, made.StudyInstanceUID)
    assert (analysis, reason) == ANALYSED or reason in {"decode_error", "bad_pixels"}


BROKEN: dict[str, Callable[[Dataset], bytes]] = {
    "20,000 sequences behind the study": lambda made: inserted(made, nested(20_000, 0x21)),
    "250 sequences behind the study": lambda made: inserted(made, nested(250, 0x21)),
    "a sequence without end": lambda made: inserted(made, raw(0x21, 0x1140, b"SQ", ITEM, 0xFFFFFFFF)),
    "an element of 4 GiB": lambda made: inserted(made, raw(0x21, 0x1010, b"OB", b"x" * 8, 0xFFFFFFF0)),
    "cut in its pixels": lambda made: encoded(made)[:-50_000],
    "cut behind the study": lambda made: encoded(made)[: encoded(made).index(made.StudyInstanceUID.encode()) + 80],
}


@pytest.mark.fault(42, 43, 45, 47)
@pytest.mark.parametrize("name", BROKEN)
def test_a_film_that_breaks_behind_its_study_is_listed_under_it_and_says_why(daemon: Daemon, name: str) -> None:
    made = good()
    assert travelling(made, BROKEN[name](made)).to(daemon) == SUCCESS
    analysis, reason = outcome(daemon, made.StudyInstanceUID)
    assert analysis == "not_analysed"
    assert reason in {"decode_error", "bad_pixels", "missing_pixels", "too_large"}


UNREADABLE: dict[str, Callable[[Dataset], bytes]] = {
    "20,000 sequences before the study": lambda made: inserted(made, nested(20_000, 8)),
    "an element of 4 GiB before the study": lambda made: inserted(made, raw(9, 0x1010, b"OB", b"x" * 8, 0xFFFFFFF0)),
    "nothing but zeros": lambda made: bytes(len(encoded(made))),
    "nothing but text": lambda _: b"<html>" * 5000,
}


@pytest.mark.fault(42, 47)
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_film_of_which_no_study_can_be_read_is_kept_and_listed_or_set_aside(daemon: Daemon, name: str) -> None:
    made, before, aside = good(), studies(daemon), quarantined(daemon)
    status = travelling(made, UNREADABLE[name](made)).to(daemon)
    new = studies(daemon) - before
    assert status in {SUCCESS, CANNOT_UNDERSTAND}
    assert len(new) == 1 if status == SUCCESS else quarantined(daemon) == aside + 1
    for study in new - {made.StudyInstanceUID}:
        assert outcome(daemon, study) in {not_analysed("decode_error"), not_analysed("identity_conflict")}


@pytest.mark.fault(44)
@pytest.mark.parametrize("agreed", [ImplicitVRLittleEndian, JPEGLosslessSV1])
def test_a_film_in_another_syntax_than_agreed_is_not_lost(daemon: Daemon, agreed: str) -> None:
    made, before, aside = good(), studies(daemon), quarantined(daemon)
    status = hostile.replace(travelling(made), syntax=str(agreed)).to(daemon)
    assert status in {SUCCESS, CANNOT_UNDERSTAND}
    assert studies(daemon) - before or quarantined(daemon) > aside


@pytest.mark.fault(46)
def test_an_empty_data_set_cannot_be_understood(daemon: Daemon) -> None:
    before = studies(daemon)
    assert Sent(content=b"", sop=generate_uid()).to(daemon) == CANNOT_UNDERSTAND
    assert studies(daemon) == before
