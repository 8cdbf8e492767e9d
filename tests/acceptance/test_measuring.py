"""`triage evaluate` as people and machines call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import Daemon

from daemon.settings import DEFAULT_WEIGHTS
from triage.card import read_card
from triage.learning.out_of_fold import digest_of, path_beside, write_out_of_fold
from triage.phantom.film import phantom
from triage.vision.pixels import prepare, read_film


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        for name, kind in (("NORMAL", None), ("PNEUMONIA", "bacterial")):
            path = tmp_path / "films" / name / f"person{number if kind else 10 + number}_bacteria_1.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(phantom(number, kind).pixels[::2, ::2] * 255).astype(np.uint8)).save(path)
    return tmp_path / "films"


def weights_of_its_own(tmp_path: Path) -> Path:
    """A copy of the shipped weights: their folder is not ours to write to."""
    for ending in (".json", ".safetensors"):
        source = DEFAULT_WEIGHTS.with_suffix(ending)
        (tmp_path / source.name).write_bytes(source.read_bytes())
    return tmp_path / DEFAULT_WEIGHTS.name


@pytest.mark.timeout(400)
def test_stress_and_page_come_from_one_command(
    make_daemon: Callable[..., Daemon], folder: Path, tmp_path: Path
) -> None:
    page = tmp_path / "MODEL_CARD.md"
    found = make_daemon().run("evaluate", "--json", "--sample", "5", "--model-card", str(page), str(folder))
    assert found.returncode == 0, found.stderr
    figures = json.loads(found.stdout)
    assert (figures["n"], figures["patients"], figures["not_analysed"]) == (6, 6, 0)
    assert figures["weights"] == read_card(DEFAULT_WEIGHTS).sha256
    stressed = figures["stress"]
    assert stressed["films"] == 5
    assert len(stressed["rows"]) == 49
    assert (stressed["rows"][0]["shift"], stressed["rows"][1]["strength"]) == ("as they are", 224)
    assert stressed["rows"][1]["mean_change"] <= 0.02
    text = page.read_text(encoding="utf-8")
    assert figures["weights"] in text
    assert all(f"| {row['shift']} |" in text for row in stressed["rows"])
    assert "### This run: films" in text  # and not where the folder lies
    assert str(tmp_path) not in text


def test_a_table_for_people_names_figures_and_intervals(make_daemon: Callable[..., Daemon], folder: Path) -> None:
    shown = make_daemon().run("evaluate", str(folder))
    assert shown.returncode == 0, shown.stderr
    for words in ("sensitivity", "specificity", "calibration error", "AUC", "[", "not analysed"):
        assert words in shown.stdout
    assert str(folder) not in shown.stdout


def test_films_trained_on_are_looked_up_and_left_out_of_the_stress(
    make_daemon: Callable[..., Daemon], folder: Path, tmp_path: Path
) -> None:
    card_path = weights_of_its_own(tmp_path)
    card = read_card(card_path)
    trained_on = sorted(folder.rglob("*.jpeg"))[::3]
    digests = [digest_of(prepare(read_film(path), card.preprocessing)) for path in trained_on]
    write_out_of_fold(card_path, card.sha256, digests, [0, 1], np.zeros((2, 3)))
    daemon = make_daemon(weights_card=card_path)
    found = daemon.run("evaluate", "--json", "--stress", str(folder))
    assert found.returncode == 0, found.stderr
    figures = json.loads(found.stdout)
    assert (figures["n"], figures["out_of_fold"]) == (6, 2)
    assert (figures["stress"]["films"], figures["stress"]["trained_on"]) == (4, False)
    path_beside(card_path).write_text("# weights of others\n", encoding="utf-8")
    refused = daemon.run("evaluate", "--json", str(folder))
    assert refused.returncode == 2
    assert "out-of-fold" in refused.stderr
