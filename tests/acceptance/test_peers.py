"""Other people's software sends; what arrives is listed and looked at."""

from __future__ import annotations

from pathlib import Path

import chests
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEGLossless, generate_uid
from running import Daemon, wait_for
from sending import dcmsend, echoscu, send, send_as, storescu


@pytest.mark.fault(12)
def test_dcmtk_gets_an_answer_to_its_echo(daemon: Daemon, dcmtk: Path) -> None:
    assert echoscu(dcmtk, daemon).returncode == 0


@pytest.mark.parametrize("syntax", [*chests.LOSSLESS, chests.BASELINE, chests.EXTENDED], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_a_film_is_listed_and_analysed_in_every_syntax(
    daemon: Daemon, dcmtk: Path, tmp_path: Path, syntax: chests.Syntax, program: str
) -> None:
    film = chests.chest(tmp_path, bits=8 if syntax is chests.BASELINE else 12, PatientName=f"Invented^{program}")
    file = syntax.compressed(film, dcmtk)
    if program == "storescu":
        sent = storescu(dcmtk, daemon, file, propose=syntax.propose)
    else:
        sent = dcmsend(dcmtk, daemon, file)
    assert sent.returncode == 0, sent.stderr + sent.stdout
    entry = daemon.settled(film.study)
    assert (entry["analysis"], entry["patient_name"]) == ("analysed", f"Invented^{program}")
    sent_as = str(dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    # dcmsend makes Explicit VR of Implicit VR where both are accepted.
    expected = sent_as if (program, syntax.name) != ("dcmsend", "implicit") else ExplicitVRLittleEndian
    assert stored_syntax(daemon, film) == expected


def test_lossless_jpeg_of_any_selection_value_is_analysed(daemon: Daemon, dcmtk: Path, tmp_path: Path) -> None:
    film = chests.chest(tmp_path)
    sent = dcmsend(dcmtk, daemon, chests.ANY_SELECTION.compressed(film, dcmtk))
    assert sent.returncode == 0, sent.stderr + sent.stdout
    assert daemon.settled(film.study)["analysis"] == "analysed"
    assert stored_syntax(daemon, film) == JPEGLossless


@pytest.mark.parametrize("syntax", chests.WAVELETS)
def test_a_film_in_jpeg_2000_is_analysed(daemon: Daemon, tmp_path: Path, syntax: str) -> None:
    film = chests.wavelets(tmp_path, syntax)
    assert send(daemon, film.dataset) == [0]
    assert daemon.settled(film.study)["analysis"] == "analysed"
    assert stored_syntax(daemon, film) == syntax


def test_a_film_that_states_view_and_body_part_as_codes_is_analysed(daemon: Daemon, tmp_path: Path) -> None:
    plain = {"ViewPosition": None, "BodyPartExamined": None}
    coded = {"ViewCodeSequence": [code("399348003")], "AnatomicRegionSequence": [code("816094009")]}
    film = chests.chest(tmp_path, SOPClassUID=DigitalXRayImageStorageForPresentation, Modality="DX", **plain, **coded)
    assert send(daemon, film.dataset) == [0]
    assert daemon.settled(film.study)["analysis"] == "analysed"


def code(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = value, "SCT"
    return item


def stored_syntax(daemon: Daemon, film: chests.Film) -> str:
    query = "SELECT transfer_syntax_uid FROM instances WHERE sop_instance_uid = :sop"
    ((stored,),) = daemon.rows(query, sop=film.sop)
    return str(stored)


@pytest.mark.fault(74)
def test_the_same_film_has_the_same_probability_in_every_lossless_syntax(
    daemon: Daemon, dcmtk: Path, tmp_path: Path
) -> None:
    probabilities = set()
    for syntax in chests.LOSSLESS:
        film = chests.chest(tmp_path, side=2048, bits=16)
        assert storescu(dcmtk, daemon, syntax.compressed(film, dcmtk), propose=syntax.propose).returncode == 0
        probabilities.add(daemon.settled(film.study)["p_pneumonia"])
    assert len(probabilities) == 1
    assert None not in probabilities


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("name", "reason"), [("RG1_UNCR.dcm", "age_out_of_range"), ("RG3_UNCR.dcm", "not_chest_frontal")]
)
def test_a_real_film_of_another_kind_is_listed_but_not_analysed(
    daemon: Daemon, dcmtk: Path, name: str, reason: str
) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    assert dcmsend(dcmtk, daemon, path).returncode == 0
    entry = daemon.settled(dcmread(path, stop_before_pixels=True).StudyInstanceUID)
    assert (entry["analysis"], entry["reason"], entry["flagged"]) == ("not_analysed", reason, False)


@pytest.mark.fault(50)
@pytest.mark.parametrize("made", [(chests.CT, "CT"), (chests.BASIC_TEXT_SR, "SR"), (chests.PRIVATE, "OT")], ids=str)
def test_any_object_is_taken_and_listed(daemon: Daemon, made: tuple[str, str]) -> None:
    strange = chests.bare(*made)
    assert send(daemon, strange) == [0]
    entry = daemon.settled(strange.StudyInstanceUID)
    assert (entry["analysis"], entry["reason"]) == ("not_analysed", "unsupported_sop_class")


@pytest.mark.fault(32, 115)
def test_the_same_file_twice_is_one_entry_and_one_job(daemon: Daemon, dcmtk: Path, tmp_path: Path) -> None:
    film = chests.chest(tmp_path)
    for _ in range(2):
        assert dcmsend(dcmtk, daemon, film.path).returncode == 0
        assert daemon.settled(film.study)["analysis"] == "analysed"
    counts = (
        "SELECT count(DISTINCT i.instance_id), count(DISTINCT j.job_id), count(f.instance_id) FROM instances i "
        "LEFT JOIN jobs j USING (instance_id) LEFT JOIN findings f USING (instance_id) WHERE i.sop_instance_uid = :sop"
    )
    assert daemon.rows(counts, sop=film.sop) == [(1, 1, 1)]


@pytest.mark.fault(33, 35)
def test_other_content_under_the_same_uid_is_kept_too_and_both_are_marked(
    daemon: Daemon, dcmtk: Path, tmp_path: Path
) -> None:
    first = chests.chest(tmp_path / "first")
    second = chests.chest(tmp_path / "second", SOPInstanceUID=first.sop, PatientName="Invented^Other")
    for film in (first, second):
        assert dcmsend(dcmtk, daemon, film.path).returncode == 0
    for film in (first, second):
        entry = daemon.settled(film.study)
        assert (entry["analysis"], entry["identity_conflict"]) == ("analysed", True)
        assert "contradict" in entry["why"]
    hashes = daemon.rows("SELECT sha256 FROM instances WHERE sop_instance_uid = :sop", sop=first.sop)
    assert len(set(hashes)) == 2
    assert {sha256 for (sha256,) in hashes} <= {path.stem for path in daemon.files("instances")}


@pytest.mark.fault(29)
def test_a_data_set_that_contradicts_its_command_is_set_aside_and_listed(daemon: Daemon, tmp_path: Path) -> None:
    film = chests.chest(tmp_path)
    before = set(daemon.files("quarantine"))
    assert send_as(daemon, film.dataset, sop_instance_uid=generate_uid()) == 0xA900
    (aside,) = set(daemon.files("quarantine")) - before
    assert film.dataset.PixelData in aside.read_bytes()
    entry = daemon.entry(film.study)
    assert (entry["analysis"], entry["reason"]) == ("not_analysed", "quarantined")
    assert not daemon.files("incoming")


@pytest.mark.fault(46)
def test_an_empty_data_set_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    count = len(daemon.worklist())
    assert send_as(daemon, chests.chest(tmp_path).dataset, whole=b"") == 0xC000
    assert len(daemon.worklist()) == count
    assert daemon.echo()


@pytest.mark.fault(27)
def test_a_data_set_that_names_nothing_is_refused_and_kept_aside(daemon: Daemon, tmp_path: Path) -> None:
    film = chests.chest(tmp_path)
    before = set(daemon.files("quarantine"))
    nameless = b"\x10\x00\x10\x00PN\x04\x00A^B "  # PatientName alone, Explicit VR
    assert send_as(daemon, film.dataset, whole=nameless) == 0xC000
    assert len(set(daemon.files("quarantine")) - before) == 1


def test_dcmtk_sends_a_folder_in_one_association(daemon: Daemon, dcmtk: Path, tmp_path: Path) -> None:
    films = [chests.chest(tmp_path, side=320) for _ in range(12)]
    assert dcmsend(dcmtk, daemon, *(film.path for film in films)).returncode == 0
    studies = {film.study for film in films}
    wait_for(
        lambda: studies <= {e["study_instance_uid"] for e in daemon.worklist() if e["analysis"] == "analysed"},
        60,
    )
