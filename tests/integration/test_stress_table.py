"""Films measured as they are and under shifts, with a network whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from making import CARD
from triage.card import Card
from triage.errors import Reason, TriageError
from triage.learning import shifts
from triage.learning.evaluation import Answer, answers, evaluate, summary
from triage.learning.films import labelled_films
from triage.learning.filmset import load_films
from triage.learning.out_of_fold import OutOfFold, read_out_of_fold, write_out_of_fold
from triage.learning.shifts import SHIFTS, Shift
from triage.learning.stress import fit_for_stress, probabilities_under, stress
from triage.phantom.film import phantom
from triage.study import Finding


@dataclass(frozen=True)
class Brightness:
    """A network that calls bright upper left corners pneumonia, and refuses films whose last pixel is white."""

    card: Card = field(default=CARD)

    def findings(self, batch: np.ndarray) -> list[Finding]:
        return [self.finding(film) for film in batch]

    def finding(self, film: np.ndarray) -> Finding:
        if film[-1, -1] > 0.99:
            return Finding(weights_sha256=self.card.sha256, reason=Reason.BAD_PIXELS)
        p = float(0.1 + 0.8 * (film[:40, :40].mean() > 0.5))
        return Finding(weights_sha256=self.card.sha256, p_normal=1 - p, p_bacterial=0.6 * p, p_viral=0.4 * p)


@cache
def child(number: int) -> np.ndarray:
    """450 x 540, 8 bits."""
    return np.rint(phantom(number).pixels[::2, ::2] * 255).astype(np.uint8)


def draw_film(path: Path, number: int, *, corner: int, last: int = 0) -> None:
    """A phantom with a corner of this grey, and a last corner too."""
    film = child(number).copy()
    film[:90, :108] = corner
    film[-5:, -6:] = last
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(film).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six normal films, five pneumonias it knows and one it does not, another that it refuses."""
    for number in range(6):
        draw_film(tmp_path / "films" / "NORMAL" / f"IM-{number:04}-0001.png", number, corner=10)
        draw_film(
            tmp_path / "films" / "PNEUMONIA" / f"person{number}_{('bacteria', 'virus')[number % 2]}_1.png",
            number,
            corner=250 if number else 10,
        )
    draw_film(tmp_path / "films" / "PNEUMONIA" / "person9_virus_1.png", 9, corner=250, last=255)
    return tmp_path / "films"


def test_refused_films_are_counted_and_in_no_figure(folder: Path) -> None:
    found = evaluate(folder, Brightness())
    assert (found["n"], found["not_analysed"], found["out_of_fold"], found["patients"]) == (12, 1, 0, 12)
    assert (found["true_positive"], found["false_negative"]) == (5, 1)
    assert found["sensitivity"] == pytest.approx(5 / 6)
    low, high = found["intervals"]["sensitivity"]
    assert low < 5 / 6 < high
    assert found["intervals"]["specificity"] == pytest.approx([0.025 ** (1 / 6), 1.0])


def sure_of_normal(folder: Path, tmp_path: Path, kind: str) -> OutOfFold:
    """Training's table, for films of one kind: other networks would have called all of them normal."""
    films = load_films(folder, CARD.preprocessing, lambda _text: None)
    rows = [i for i, film in enumerate(films.films) if kind in str(film.path)]
    card = tmp_path / "pneumonia.json"
    logits = np.tile([4.0, 0.0, 0.0], (len(rows), 1))
    write_out_of_fold(card, CARD.sha256, [films.digests()[i] for i in rows], [0] * len(rows), logits)
    found = read_out_of_fold(card, CARD.sha256)
    assert found
    return found


def test_films_trained_on_are_judged_by_the_network_that_was_not(folder: Path, tmp_path: Path) -> None:
    table = sure_of_normal(folder, tmp_path, "virus")
    given = list(answers(labelled_films(folder), Brightness(), table))
    trained_on = [answer for answer in given if answer.trained_on]
    assert {answer.film.path.name.split("_")[1] for answer in trained_on} == {"virus"}
    p_normal = np.exp(4.0) / (np.exp(4.0) + 2)
    judged = [answer.scores[0] for answer in trained_on if answer.scores is not None]
    assert judged == pytest.approx([p_normal] * 3)
    found = summary(given, CARD.threshold)
    assert (found["out_of_fold"], found["not_analysed"]) == (3, 1)  # the one it refuses is refused all the same
    assert found["true_positive"] == 2


def test_out_of_fold_answers_are_calibrated_as_the_card_says(folder: Path, tmp_path: Path) -> None:
    table = sure_of_normal(folder, tmp_path, "person3_virus")
    warm = Brightness(card=Card(**{**vars(CARD), "temperature": 2.0}))
    (scores,) = [a.scores for a in answers(labelled_films(folder), warm, table) if a.trained_on]
    assert scores is not None
    assert scores[0] == pytest.approx(np.exp(2.0) / (np.exp(2.0) + 2))


def rows_of(folder: Path, *table: Shift, **changes: Any) -> dict[str, dict[str, Any]]:
    films = labelled_films(folder)
    return {row["shift"]: row for row in stress(films, Brightness(**changes), table)}


def test_each_row_says_what_the_shift_did(folder: Path) -> None:
    def cover(grey: int) -> Callable[..., Image.Image]:
        def change(film: Image.Image, strength: float, _: object) -> Image.Image:
            film = film.copy()
            film.paste(grey, (0, 0, round(strength * film.width), round(strength * film.height)))
            return film

        return change

    found = rows_of(
        folder,
        Shift(name="corner darkened", strength=0.25, change=cover(5), label=""),
        Shift(name="corner lit", strength=0.25, change=cover(250), label=""),
        Shift(name="white borders", strength=0.06, change=shifts.white_borders, label=""),
    )
    clean, dark, lit, white = found.values()
    assert next(iter(found)) == "as they are"
    assert (clean["sensitivity"], clean["specificity"]) == (pytest.approx(5 / 6), 1.0)
    assert (clean["flips"], clean["mean_change"]) == (None, None)
    assert clean["refused"] == pytest.approx(1 / 13)
    assert (dark["sensitivity"], dark["specificity"], dark["flips"]) == (0.0, 1.0, pytest.approx(5 / 12))
    assert dark["mean_change"] == pytest.approx(0.8 * 5 / 12)
    assert (lit["sensitivity"], lit["specificity"], lit["flips"]) == (1.0, 0.0, pytest.approx(7 / 12))
    assert (white["refused"], white["auc"], white["flips"]) == (1.0, None, None)
    assert white["intervals"]["auc"] is None
    assert lit["intervals"]["flips"][0] < 7 / 12 < lit["intervals"]["flips"][1]
    assert {row["films"] for row in found.values()} == {13}


def test_the_whole_table_runs_on_films_and_says_the_same_twice(folder: Path) -> None:
    done: list[int] = []
    films = labelled_films(folder)[5:8]
    rows = stress(films, Brightness(), SHIFTS, done.append)
    assert len(rows) == 49
    assert sum(done) == 3
    assert rows[1]["mean_change"] <= 0.02  # the same films at 224 pixels
    again = probabilities_under(SHIFTS[:4], films, Brightness())
    assert np.array_equal(again, probabilities_under(SHIFTS[:4], films, Brightness()), equal_nan=True)


def test_a_file_that_is_no_film_is_refused_in_every_row(folder: Path) -> None:
    (folder / "NORMAL" / "broken.png").write_bytes(b"no film")
    films = [film for film in labelled_films(folder) if film.path.name in ("broken.png", "IM-0001-0001.png")]
    assert [row["refused"] for row in stress(films, Brightness(), SHIFTS[:2])] == [0.5] * 3


def test_films_trained_on_are_not_stressed_while_there_are_others(folder: Path) -> None:
    films = labelled_films(folder)
    half = [Answer(film=film, scores=None, trained_on=index % 2 == 0) for index, film in enumerate(films)]
    chosen, trained_on = fit_for_stress(half, None)
    assert not trained_on
    assert {film.path for film in chosen} == {film.path for film in films[1::2]}
    everything = [Answer(film=film, scores=None, trained_on=True) for film in films]
    assert fit_for_stress(everything, None)[1]
    assert len(fit_for_stress(everything, None)[0]) == 13


def test_a_sample_is_drawn_by_patient_and_is_always_the_same(folder: Path) -> None:
    for number in range(6):  # a second film of each
        draw_film(folder / "NORMAL" / f"IM-{number:04}-0002.png", number, corner=10)
    given = [Answer(film=film, scores=None) for film in labelled_films(folder)]
    chosen, _ = fit_for_stress(given, 12)
    assert chosen == fit_for_stress(given[::-1], 12)[0]
    assert len(chosen) == 12
    halves = [
        patient for patient in {film.patient for film in chosen} if sum(f.patient == patient for f in chosen) == 1
    ]
    assert len([patient for patient in halves if patient.startswith("im-")]) <= 1
    with pytest.raises(TriageError, match="take more"):
        fit_for_stress(given, 1)
