"""DICOMweb with independent clients: what is held is found and sent as it is stored, and nothing else is."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from sqlalchemy import Engine, text

from archiving import EXPLICIT, SIDE, Held, film, serving
from daemon.arrival import ContradictionError
from daemon.web import parts
from making import data_set, encoded

STUDY, SERIES = "1.2.1", "1.2.1.1"
INSTANCE = f"/studies/{STUDY}/series/{SERIES}/instances/1.2.3.1"
NAMES = {
    "ISO 2022 IR 87": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "GB18030": ("GB18030", "Wang^XiaoDong=王^小东"),
    "UTF-8": ("ISO_IR 192", "Müller^Zoë=李^明"),
}


@pytest.fixture
def held(engine: Engine, tmp_path: Path) -> Iterator[Held]:
    folder = tmp_path / "held"
    folder.mkdir(mode=0o700)
    with serving(Held(engine, folder)) as held:
        yield held


@pytest.fixture
def client(held: Held) -> DICOMwebClient:
    return DICOMwebClient(f"{held.base}/dicom-web")


def refused(held: Held, path: str, status: int, accept: str = "*/*", **parameters: Any) -> bool:
    answer = held.get(path, accept, **parameters)
    is_problem = answer.headers["content-type"] == "application/problem+json"
    return answer.status_code == status == answer.json()["status"] and is_problem


# -- searching -----------------------------------------------------------------------------------------------------


def test_a_client_finds_studies_series_and_instances(held: Held, client: DICOMwebClient) -> None:
    held.keep()
    held.keep(SOPInstanceUID="1.2.3.2", SeriesInstanceUID="1.2.1.2", Modality="DX")
    (study,) = client.search_for_studies(search_filters={"PatientID": "P1"})
    assert study["00080061"]["Value"] == ["CR", "DX"]
    assert (study["00201206"]["Value"], study["00201208"]["Value"]) == ([2], [2])
    assert study["00080030"] == {"vr": "TM"}  # required, and not held
    series = client.search_for_series(STUDY)
    assert [each["00080060"]["Value"] for each in series] == [["CR"], ["DX"]]
    (instance,) = client.search_for_instances(STUDY, SERIES)
    assert instance["00080018"]["Value"] == ["1.2.3.1"]
    assert client.search_for_studies(search_filters={"PatientID": "P2"}) == []


def test_pages_and_what_they_warn_of(held: Held) -> None:
    for number in range(3):
        held.keep(data_set(SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID=f"1.2.{number}"))
    first = held.get("/studies", limit=2)
    assert "Additional results can be requested" in first.headers["warning"]
    assert len(first.json()) == 2
    assert held.uids(limit=2) + held.uids(limit=2, offset=2) == held.uids()
    assert "warning" not in held.get("/studies").headers
    fuzzy = held.get("/studies", fuzzymatching="true").headers["warning"]
    assert "The fuzzymatching parameter is not supported. Only literal matching has been performed." in fuzzy
    assert held.get("/studies", offset=9).status_code == 204


def test_fields_of_the_study_are_told_below_it_where_they_are_asked_for(held: Held) -> None:
    held.keep(StudyDescription="Chest")
    (plain,) = held.get(f"/studies/{STUDY}/series").json()
    assert "00081030" not in plain
    for field in ("StudyDescription", "00081030", "all", "00100010,00081030"):
        (told,) = held.get(f"/studies/{STUDY}/series", includefield=field).json()
        assert told["00081030"]["Value"] == ["Chest"]
    (instance,) = held.get("/instances", SOPInstanceUID="1.2.3.1").json()
    assert instance["00100020"]["Value"] == ["P1"]


@pytest.mark.parametrize("key", ["PatientWeight", "00101030", "00091001", "00400275.00400009", "no such key"])
def test_a_key_that_is_not_held_is_not_matched_and_the_answer_says_so(held: Held, key: str) -> None:
    held.keep()
    answer = held.get("/studies", **{key: "70"})
    assert len(answer.json()) == 1
    assert "have not been matched" in answer.headers["warning"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "-1"),
        ("limit", "many"),
        ("offset", "1e9"),
        ("offset", "99999999"),
        ("StudyDate", "2026-01-01"),
        ("StudyInstanceUID", "../../etc/passwd"),
        ("PatientName", "*a" * 20),
        ("PatientID", "x" * 300),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_without_repeating_it(held: Held, name: str, value: str) -> None:
    assert refused(held, "/studies", 400, **{name: value})
    assert value not in held.get("/studies", **{name: value}).text


@pytest.mark.parametrize("charset", list(NAMES))
def test_names_come_out_right_in_whatever_character_set_they_came(
    held: Held, client: DICOMwebClient, charset: str
) -> None:
    terms, name = NAMES[charset]
    held.keep(SpecificCharacterSet=terms, PatientName=name)
    groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=False))
    ideographic = name.split("=")[1][0]
    (study,) = client.search_for_studies(search_filters={"PatientName": f"{ideographic}*"})
    assert study["00100010"]["Value"] == [groups]
    (told,) = client.retrieve_study_metadata(STUDY)
    assert told["00100010"]["Value"] == [groups]
    assert told["00080005"]["Value"] == ["ISO_IR 192"]
    (sent,) = client.retrieve_study(STUDY)
    assert str(sent.PatientName) == name


# -- retrieving ----------------------------------------------------------------------------------------------------


def test_objects_are_sent_byte_for_byte_as_they_are_stored(held: Held, client: DICOMwebClient) -> None:
    held.keep()
    stored = held.keep(SOPInstanceUID="1.2.3.2")
    assert [each.SOPInstanceUID for each in client.retrieve_study(STUDY)] == ["1.2.3.1", "1.2.3.2"]
    assert len(client.retrieve_series(STUDY, SERIES)) == 2
    one = held.get(f"/studies/{STUDY}/series/{SERIES}/instances/1.2.3.2", "application/dicom")
    assert one.content == stored.path.read_bytes()
    assert one.headers["content-type"] == f"application/dicom; transfer-syntax={EXPLICIT}"
    many = held.get(f"/studies/{STUDY}", 'multipart/related; type="application/dicom"; transfer-syntax=*')
    assert stored.path.read_bytes() in many.content
    assert many.headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert int(many.headers["content-length"]) == len(many.content)


@pytest.mark.parametrize(
    "accept",
    [
        'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.50',
        'multipart/related; type="application/dicom+xml"',
        "text/html",
    ],
)
def test_what_would_have_to_be_converted_is_not_acceptable(held: Held, accept: str) -> None:
    held.keep()
    assert refused(held, f"/studies/{STUDY}", 406, accept)


def test_metadata_is_the_header_without_bulk_data(held: Held, client: DICOMwebClient) -> None:
    made = film()
    made.add_new(0x00091010, "OB", b"\1" * 5000)
    made.add_new(0x00091011, "OB", b"\1" * 4)
    made.add_new(0x00181411, "DS", "1.5")
    held.keep(made)
    (told,) = client.retrieve_series_metadata(STUDY, SERIES)
    assert told["00280010"] == {"vr": "US", "Value": [SIDE]}
    assert told["00083002"]["Value"] == [EXPLICIT]
    assert told["00181411"]["Value"] == [1.5]
    assert not {"7FE00010", "00091010"} & told.keys()
    assert "InlineBinary" in told["00091011"]


def test_frames_are_the_pixels(held: Held, client: DICOMwebClient) -> None:
    made = film(NumberOfFrames="2")
    both = np.frombuffer(made.PixelData, "<u2").reshape(1, -1).repeat(2, axis=0) + np.array([[0], [1]], "<u2")
    made.PixelData = both.tobytes()
    held.keep(made)
    first, second = client.retrieve_instance_frames(STUDY, SERIES, "1.2.3.1", [1, 2])
    assert (np.frombuffer(second, "<u2") - np.frombuffer(first, "<u2") == 1).all()
    viewer = "multipart/related; type=application/octet-stream; transfer-syntax=*"
    assert both[1].tobytes() in held.get(f"{INSTANCE}/frames/2", viewer).content
    assert refused(held, f"{INSTANCE}/frames/3", 404)
    for stated in ("0", "x", "1,,2", "-1", "99999999999"):
        assert refused(held, f"{INSTANCE}/frames/{stated}", 400)


def test_a_compressed_frame_is_sent_as_it_is(held: Held) -> None:
    path = get_testdata_file("JPEG2000.dcm")
    source = dcmread(path)
    source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID = STUDY, SERIES, "1.2.3.1"
    held.keep(source, syntax=str(source.file_meta.TransferSyntaxUID))
    answer = held.get(f"{INSTANCE}/frames/1", "multipart/related; type=application/octet-stream; transfer-syntax=*")
    head, _, body = answer.content.partition(b"\r\n\r\n")
    assert b"Content-Type: image/jp2; transfer-syntax=1.2.840.10008.1.2.4.91" in head
    assert body.startswith(b"\xff\x4f\xff\x51")  # JPEG 2000's first markers
    assert refused(held, f"{INSTANCE}/frames/1", 406, "multipart/related; type=image/jpeg")


def test_a_picture_is_the_film_at_its_own_shape(held: Held) -> None:
    held.keep()
    for media_type, form in (("image/jpeg", "JPEG"), ("image/png", "PNG")):
        answer = held.get(f"{INSTANCE}/rendered", media_type)
        assert answer.headers["content-type"] == media_type
        with Image.open(io.BytesIO(answer.content), formats=[form]) as picture:
            assert picture.size == (SIDE, SIDE)
            assert np.asarray(picture)[32, 32] > np.asarray(picture)[2, 2]
    assert refused(held, f"{INSTANCE}/rendered", 406, "video/mp4")


# -- what is not there ---------------------------------------------------------------------------------------------


def test_what_retention_has_removed_is_gone_and_still_found(held: Held) -> None:
    first, second = held.keep(), held.keep(SOPInstanceUID="1.2.3.2")
    held.forget_bytes(first)
    rest = held.get(f"/studies/{STUDY}")
    assert rest.status_code == 206
    assert second.path.read_bytes() in rest.content
    assert [len(each.json()) for each in [held.get(f"/studies/{STUDY}/metadata")]] == [1]
    for path in ("", "/metadata", "/frames/1", "/rendered"):
        assert refused(held, INSTANCE + path, 410)
    held.forget_bytes(second)
    for path in ("", "/metadata"):
        assert refused(held, f"/studies/{STUDY}{path}", 410)
        assert refused(held, f"/studies/1.2.99{path}", 404)
    (study,) = held.get("/studies").json()
    assert study["00080056"]["Value"] == ["UNAVAILABLE"]


def test_what_is_in_quarantine_is_not_served_as_if_sound(held: Held) -> None:
    held.keep()
    other = encoded(film(SOPInstanceUID="1.2.3.9"))
    with pytest.raises(ContradictionError):
        held.keep_bytes(other, "1.2.3.10")
    assert refused(held, f"/studies/{STUDY}/series/{SERIES}/instances/1.2.3.9", 404)
    assert held.uids(f"/studies/{STUDY}/instances", "00080018") == ["1.2.3.1"]
    assert len(held.get(f"/studies/{STUDY}/metadata").json()) == 1


def test_a_file_that_was_altered_is_not_sent(held: Held) -> None:
    stored = held.keep()
    content = bytearray(stored.path.read_bytes())
    content[-1] ^= 1
    stored.path.write_bytes(content)
    for path in ("", "/metadata", "/frames/1", "/rendered"):
        assert refused(held, INSTANCE + path, 410)


def test_a_study_that_breaks_off_is_not_taken_for_whole(held: Held) -> None:
    held.keep()
    held.keep(SOPInstanceUID="1.2.3.2").path.unlink()
    with pytest.raises(Exception, match=r"(?i)incomplete|peer closed|disconnected"):
        held.get(f"/studies/{STUDY}")
    assert len(parts_free(held)) == 0


def parts_free(held: Held) -> list[str]:
    """Slots that were not given back: one more round than there are must succeed."""
    held.keep(SOPInstanceUID="1.2.4.1", StudyInstanceUID="1.2.4")
    answers = [held.get("/studies/1.2.4").status_code for _ in range(parts._AT_ONCE + 2)]
    return [str(status) for status in answers if status != 200]


# -- hostile -------------------------------------------------------------------------------------------------------


@pytest.mark.fault(127)
@pytest.mark.parametrize("uid", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "1.2.1%00", "a", "1" * 65, "1.2.1'--"])
def test_forged_uids_do_nothing(held: Held, uid: str) -> None:
    held.keep()
    for path in (f"/studies/{uid}", f"/studies/{uid}/metadata", f"/studies/{STUDY}/series/{uid}/instances"):
        answer = held.get(path)
        assert answer.status_code in (400, 404) or not answer.content  # ".." has the form of an UID, and names nothing
        assert "passwd" not in answer.text
    assert held.uids() == [STUDY]


@pytest.mark.fault(30)
def test_an_object_with_a_forged_uid_is_stored_and_found_like_any_other(held: Held) -> None:
    content = encoded(film(SOPInstanceUID="1.2.3.1")).replace(b"1.2.1.1\0", b"../../x\0")
    held.keep_bytes(content, "1.2.3.1")
    (series,) = held.get(f"/studies/{STUDY}/series").json()
    assert series["0020000E"]["Value"] == ["../../x"]
    assert refused(held, f"/studies/{STUDY}/series/..%2f..%2fx", 404)
    assert held.get(f"/studies/{STUDY}").status_code == 200


@pytest.mark.parametrize("depth", [50, 5_000])
def test_a_header_that_cannot_be_read_costs_its_child_alone(held: Held, depth: int) -> None:
    body = b""
    for _ in range(depth):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + body + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
        delimiter = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        body = struct.pack("<HH2sHL", 0x40, 0x275, b"SQ", 0, 0xFFFFFFFF) + item + delimiter
    content = encoded(data_set(SeriesInstanceUID=SERIES)) + body
    held.keep_bytes(content, "1.2.3.1")
    (study,) = held.uids()  # of its own, where nothing can be made out
    answer = held.get(f"/studies/{study}/metadata")
    assert answer.status_code == (200 if depth == 50 else 406)
    held.keep(SOPInstanceUID="1.2.4.1", StudyInstanceUID="1.2.4")
    assert held.get("/studies/1.2.4/metadata").status_code == 200


def test_nothing_is_changed_by_asking_and_nothing_but_get_is_answered(held: Held) -> None:
    held.keep()

    def rows() -> list[Any]:
        with held.engine.connect() as connection:
            tables = ("studies", "instances", "jobs", "events")
            return [connection.execute(text(f"SELECT * FROM {table}")).all() for table in tables]

    before = rows()
    for name in ("'; DROP TABLE studies; --", "%", "_*", "\\", '"', "[a-z]*"):
        assert held.get("/studies", PatientName=name, PatientID=name).status_code in (200, 204)
    for path in ("/studies", f"/studies/{STUDY}"):
        for method in ("POST", "DELETE", "PUT"):
            assert held.client.request(method, f"{held.base}/dicom-web{path}").status_code in (403, 405)
    assert rows() == before


@pytest.mark.fault(131)
def test_readers_at_once_all_get_whole_studies(held: Held) -> None:
    for number in range(4):
        held.keep(SOPInstanceUID=f"1.2.3.{number}")
    answers: list[tuple[int, int]] = []

    def read() -> None:
        answer = held.get(f"/studies/{STUDY}")
        answers.append((answer.status_code, answer.content.count(b"DICM")))

    threads = [threading.Thread(target=read) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(200, 4)] * 30


def test_a_data_set_that_was_read_back_equals_what_was_sent(held: Held, client: DICOMwebClient) -> None:
    made: Dataset = film(PatientComments="as it was")
    held.keep(made)
    sent = client.retrieve_instance(STUDY, SERIES, "1.2.3.1")
    assert sent == made
