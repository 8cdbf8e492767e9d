"""Explanations of files: over the film at its own size, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from daemon.environment import read_settings
from daemon.explanation import explained, kinds_of, png
from daemon.sandbox import Limits
from synthetic import data_set, film, write
from triage.errors import NotAnalysed, Reason, TriageError
from triage.policy import Policy
from triage.study import Explanation
from triage.vision.classifier import Classifier, load_classifier

QUICK = (Explanation.GRADIENT,)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(read_settings()[0].weights_card)


def drawn(path: Path, classifier: Classifier, kinds: tuple[Explanation, ...] = QUICK) -> Image.Image:
    return explained(path, kinds, classifier, Policy(), Limits())


def test_a_dicom_film_is_explained_at_its_own_size(classifier: Classifier, tmp_path: Path) -> None:
    path = write(data_set(film(rows=700, columns=520)), tmp_path / "film.dcm")
    found = drawn(path, classifier)
    assert found.width == 520
    assert 700 < found.height < 900
    shown = np.asarray(found.convert("L"), np.float64)[:700]
    assert np.corrcoef(shown.ravel(), film(rows=700, columns=520).ravel())[0, 1] > 0.7


def test_a_picture_and_a_dicom_film_of_the_same_child_are_explained_alike(
    classifier: Classifier, tmp_path: Path
) -> None:
    grey = film(bits=8, rows=512, columns=512).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "film.png")
    dicom = write(data_set(grey, bits=8), tmp_path / "film.dcm")
    one, other = (np.asarray(drawn(path, classifier), np.float64) for path in (tmp_path / "film.png", dicom))
    assert np.abs(one - other).mean() < 12  # the sandbox stretches the film it gives


def test_kinds_stand_side_by_side_and_all_is_said_if_none_is_named(classifier: Classifier, tmp_path: Path) -> None:
    path = write(data_set(film(rows=300, columns=300)), tmp_path / "film.dcm")
    assert drawn(path, classifier, kinds_of(())).width == 900
    assert kinds_of(["heat"]) == (Explanation.HEAT,)
    with pytest.raises(TriageError, match="superpixels, heat, gradient"):
        kinds_of(["saliency"])


@pytest.mark.parametrize(
    ("elements", "reason"),
    [({"PatientAge": "040Y"}, Reason.AGE_OUT_OF_RANGE), ({"BodyPartExamined": "LEG"}, Reason.NOT_CHEST_FRONTAL)],
)
def test_what_is_not_analysed_is_not_explained(
    classifier: Classifier, tmp_path: Path, elements: dict[str, str], reason: Reason
) -> None:
    path = write(data_set(film(), **elements), tmp_path / "film.dcm")
    with pytest.raises(NotAnalysed) as outcome:
        drawn(path, classifier)
    assert outcome.value.reason == reason


def test_what_does_not_look_like_a_chest_is_not_explained(classifier: Classifier, tmp_path: Path) -> None:
    pixels = np.rot90(film(bits=8, rows=512, columns=512).astype(np.uint8))
    Image.fromarray(pixels).save(tmp_path / "turned.png")
    with pytest.raises(NotAnalysed) as outcome:
        drawn(tmp_path / "turned.png", classifier)
    assert outcome.value.reason == Reason.NOT_A_CHEST_FILM


@pytest.mark.parametrize("name", ["absent.dcm", "garbage.dcm", "notes.txt"])
def test_what_is_no_film_is_refused(classifier: Classifier, tmp_path: Path, name: str) -> None:
    (tmp_path / "garbage.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 500)
    (tmp_path / "notes.txt").write_text("no film", encoding="utf-8")
    with pytest.raises(NotAnalysed):
        drawn(tmp_path / name, classifier)


def test_an_adult_film_is_stopped_by_its_age(classifier: Classifier) -> None:
    with pytest.raises(NotAnalysed):
        drawn(Path(str(get_testdata_file("RG1_UNCR.dcm", download=False))), classifier)


def test_a_png_holds_pixels_and_no_text(classifier: Classifier, tmp_path: Path) -> None:
    path = write(data_set(film(), PatientName="Canary^Child"), tmp_path / "film.dcm")
    written = png(drawn(path, classifier))
    assert b"Canary" not in written
    assert not any(chunk in written for chunk in (b"tEXt", b"iTXt", b"zTXt", b"eXIf"))
