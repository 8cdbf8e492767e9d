"""The invented morning as files: what a sender would send, and what can be read back of it."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from absent import missing
from daemon.demo.morning import SYNTAXES, Film, morning_from, prepare, public_films
from daemon.demo.stage import free_ports
from daemon.settings import Settings
from triage.errors import TriageError
from triage.study import ClinicalPriority
from triage.vision.header import parse_header
from triage.vision.pixels import read_film

FILM = np.hypot(*np.mgrid[0:1:130j, 0:1:150j]).astype(np.float32) / 1.5


def films(count: int) -> list[Film]:
    return [Film(shows="synthetic, bacterial", truth="bacterial", paint=lambda: FILM) for _ in range(count)]


def test_every_syntax_and_polarity_gives_the_film_back(tmp_path: Path) -> None:
    prepared = list(prepare(films(10), tmp_path, seed=1))
    assert {film.transfer_syntax_uid for film in prepared} == set(SYNTAXES)
    for film in prepared:
        assert np.abs(read_film(film.path).pixels - FILM).max() < 1 / 4000


def test_headers_are_those_of_a_childs_frontal_chest_film(tmp_path: Path) -> None:
    for film in prepare(films(5), tmp_path, seed=1):
        header = parse_header(film.path)
        assert header.modality in {"CR", "DX"}
        assert (header.body_part_examined, header.view_position) == ("CHEST", "AP")
        assert header.age_years is not None
        assert 1 <= header.age_years <= 5
        assert header.study_instance_uid == film.study_instance_uid


def test_order_priorities_are_read_back(tmp_path: Path) -> None:
    priorities = [parse_header(film.path).clinical_priority for film in prepare(films(10), tmp_path, seed=1)]
    assert priorities[4] is ClinicalPriority.URGENT
    assert priorities[9] is ClinicalPriority.STAT


def test_what_a_film_shows_is_not_in_its_file(tmp_path: Path) -> None:
    (film,) = prepare(films(1), tmp_path, seed=1)
    written = film.path.read_bytes().lower()
    assert not any(word in written for word in (b"bacteri", b"viral", b"pneumonia", b"normal"))


def test_pictures_of_a_folder_are_wrapped_and_dicom_files_go_as_they_are(tmp_path: Path) -> None:
    folder, outbox = tmp_path / "films", tmp_path / "outbox"
    (folder / "NORMAL").mkdir(parents=True)
    outbox.mkdir()
    Image.fromarray((FILM * 255).astype(np.uint8)).save(folder / "NORMAL" / "a.png")
    (folder / "notes.txt").write_text("not a film")
    (first,) = prepare(films(1), tmp_path, seed=1)
    first.path.rename(folder / "b.dcm")
    prepared = list(prepare(morning_from(folder, 40, seed=1), outbox, seed=1))
    assert {film.film.truth for film in prepared} == {"normal", ""}
    assert first.study_instance_uid in {film.study_instance_uid for film in prepared}


def test_a_file_that_is_no_film_is_left_out(tmp_path: Path) -> None:
    folder, outbox = tmp_path / "films", tmp_path / "outbox"
    folder.mkdir()
    outbox.mkdir()
    (folder / "broken.png").write_bytes(b"not a picture")
    assert list(prepare(morning_from(folder, 40, seed=1), outbox, seed=1)) == []


def test_public_films_get_fresh_uids_and_keep_the_rest(tmp_path: Path) -> None:
    public = list(public_films())
    if not public:
        missing("pydicom-data")
    file, shows = public[0]
    (film,) = prepare([Film(shows=shows, file=file, fresh_uids=True)], tmp_path, seed=1)
    before, after = dcmread(file), dcmread(film.path)
    assert after.StudyInstanceUID != before.StudyInstanceUID
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert after.PixelData == before.PixelData
    assert after.PhotometricInterpretation == before.PhotometricInterpretation


@pytest.mark.parametrize("name", ["dicom_port", "http_port"])
def test_port_in_use_is_named(name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(**{"dicom_port": 0, "http_port": 0, name: taken.getsockname()[1]})
        with pytest.raises(TriageError, match=f"TRIAGE_{name.upper()}"):
            free_ports(settings)


def test_studies_made_twice_are_other_studies(tmp_path: Path) -> None:
    first, again = ({film.study_instance_uid for film in prepare(films(2), tmp_path, seed=1)} for _ in range(2))
    assert not first & again
