"""Films scored and measured from the command line, without a database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import chests
import numpy as np
import pytest
from PIL import Image
from running import Daemon

import synthetic
from triage.phantom.film import phantom


def photograph(path: Path, film: np.ndarray) -> Path:
    Image.fromarray(film).save(path)
    return path


def test_each_file_gets_one_result_whatever_it_is(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    grey = synthetic.film(bits=8, rows=512, columns=512).astype(np.uint8)
    garbage = tmp_path / "garbage.dcm"
    garbage.write_bytes(bytes(128) + b"DICM" + b"\xff" * 500)
    text = tmp_path / "notes.txt"
    text.write_text("no film", encoding="utf-8")
    good = [
        photograph(tmp_path / "film.jpg", grey),
        photograph(tmp_path / "film.png", grey),
        chests.chest(tmp_path).path,
    ]
    bad = [chests.chest(tmp_path, BodyPartExamined="LEG").path, garbage, text, tmp_path / "absent.dcm"]
    scored = make_daemon().run("score", "--json", *map(str, good + bad))
    results = json.loads(scored.stdout)
    assert scored.returncode == 0  # each says for itself whether it was analysed
    assert [result["path"] for result in results] == [str(path) for path in good + bad]
    for result in results[: len(good)]:
        assert result["status"] == "analysed"
        assert 0 <= result["p_pneumonia"] <= 1
    for result in results[len(good) :]:
        assert (result["status"], result["p_pneumonia"], result["flagged"]) == ("not_analysed", None, False)
        assert result["reason"]
    assert results[len(good)]["reason"] == "not_chest_frontal"


def test_scoring_what_can_be_scored_ends_well(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    scored = make_daemon().run("score", str(chests.chest(tmp_path).path))
    assert scored.returncode == 0
    assert len(scored.stdout.splitlines()) == 1


def test_scoring_for_people_says_by_its_exit_code_that_a_film_was_not_analysed(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    films = [chests.chest(tmp_path).path, tmp_path / "absent.dcm"]
    scored = make_daemon().run("score", *map(str, films))
    assert scored.returncode == 1
    assert "absent.dcm: no such file" in scored.stderr
    assert len(scored.stdout.splitlines()) == 2


def test_the_limit_of_decoding_holds_offline_too(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    scored = make_daemon(decode_seconds=0.001).run("score", "--json", str(chests.chest(tmp_path).path))
    assert [result["reason"] for result in json.loads(scored.stdout)] == ["decode_timeout"]


@pytest.mark.timeout(400)
def test_labelled_films_are_measured(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    for number in range(4):
        for folder, kind in (("NORMAL", None), ("PNEUMONIA", "bacterial" if number % 2 else "viral")):
            (tmp_path / folder).mkdir(exist_ok=True)
            grey = np.rint(phantom(number, kind).pixels * 255).astype(np.uint8)
            photograph(tmp_path / folder / f"person{number}_{kind or 'normal'}_{number}.jpeg", grey)
    measured = make_daemon().run("evaluate", "--json", str(tmp_path))
    assert measured.returncode == 0, measured.stderr
    figures = json.loads(measured.stdout)
    assert figures["n"] == 8
    assert figures["true_positive"] + figures["false_negative"] == 4
    assert figures["true_negative"] + figures["false_positive"] == 4
    assert 0 <= figures["auc"] <= 1
    assert figures["three_class_accuracy"] is not None
