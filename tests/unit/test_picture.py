"""Explanations drawn: which colour means what, where, and what stands below."""

from __future__ import annotations

import numpy as np
import pytest

from triage.study import Explanation
from triage.vision.explain import Attribution
from triage.vision.picture import CAPTION, beside, on_film, picture, scaled, wrapped

HEIGHT, WIDTH = 300, 400
# The crop is the right half of the film; what speaks for pneumonia is its upper half.
BOX = (0.5, 0.0, 1.0, 1.0)


def attribution(*, segments: bool = True) -> Attribution:
    values = np.full((64, 64), -1, np.float32)
    values[:32] = 1
    numbers = np.repeat([[0], [1]], 32, axis=0) * np.ones(64, np.int64)
    return Attribution(values=values, segments=numbers if segments else None, box=BOX)


def drawn(kind: Explanation) -> np.ndarray:
    return np.asarray(picture(np.full((HEIGHT, WIDTH), 0.5, np.float32), attribution(), kind)).astype(int)


def leading(pixel: np.ndarray) -> str:
    return "grey" if np.ptp(pixel) < 8 else ("red", "green", "blue")[int(pixel.argmax())]


@pytest.mark.parametrize(
    ("kind", "towards"),
    [(Explanation.SUPERPIXELS, "green"), (Explanation.HEAT, "blue"), (Explanation.GRADIENT, "blue")],
)
def test_colours_say_for_and_against_where_the_crop_lies(kind: Explanation, towards: str) -> None:
    found = drawn(kind)
    assert leading(found[75, 300]) == towards
    assert leading(found[225, 300]) == "red"
    assert leading(found[75, 100]) == leading(found[225, 100]) == "grey"


def test_superpixels_have_yellow_edges() -> None:
    found = drawn(Explanation.SUPERPIXELS)
    yellow = (found[:HEIGHT] == (255, 220, 0)).all(2)
    assert yellow[148:152, 210:390].any(0).all()
    assert not yellow[:, :195].any()


@pytest.mark.parametrize("kind", list(Explanation))
def test_the_film_keeps_its_size_and_the_words_stand_below(kind: Explanation) -> None:
    found = drawn(kind)
    assert found.shape[1] == WIDTH
    assert found.shape[0] > HEIGHT
    assert found[HEIGHT:].max() == 255


def test_what_it_is_not_for_is_said_whole_however_narrow_the_film() -> None:
    assert CAPTION.startswith("For prioritisation only, not for diagnosis")
    for width in (120, 400, 4000):
        assert " ".join(wrapped(CAPTION, width, 12)) == CAPTION


def test_what_matters_little_is_left_as_it_is() -> None:
    faint = attribution()
    faint.values[32:] = -0.05
    found = np.asarray(picture(np.full((HEIGHT, WIDTH), 0.5, np.float32), faint, Explanation.SUPERPIXELS)).astype(int)
    assert leading(found[75, 300]) == "green"
    assert leading(found[225, 300]) == "grey"


def test_nothing_to_say_colours_nothing() -> None:
    values = np.zeros((64, 64), np.float32)
    assert not scaled(values).any()
    silent = Attribution(values=values, segments=None, box=BOX)
    found = np.asarray(picture(np.full((HEIGHT, WIDTH), 0.5, np.float32), silent, Explanation.HEAT)).astype(int)
    assert np.ptp(found[:HEIGHT], axis=2).max() == 0


def test_a_crop_that_reaches_beyond_the_film_is_cut_off() -> None:
    beyond = Attribution(values=np.ones((64, 64), np.float32), segments=None, box=(-0.1, -0.1, 0.5, 1.1))
    layer = on_film(beyond.values, beyond, np.zeros((HEIGHT, WIDTH, 3), np.uint8), 0)
    assert layer.shape == (HEIGHT, WIDTH)
    assert layer[:, :195].min() == 1
    assert layer[:, 205:].max() == 0


def test_without_superpixels_there_are_none_to_outline() -> None:
    with pytest.raises(ValueError, match="none to outline"):
        picture(np.zeros((HEIGHT, WIDTH), np.float32), attribution(segments=False), Explanation.SUPERPIXELS)


def test_pictures_stand_in_a_row() -> None:
    film = np.zeros((HEIGHT, WIDTH), np.float32)
    row = beside([picture(film, attribution(), kind) for kind in Explanation])
    assert row.width == 3 * WIDTH
