"""What the table of shifts does to a film: something, always the same, and nothing at strength 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image

from triage.card import Preprocessing
from triage.errors import NotAnalysed
from triage.learning import shifts
from triage.learning.shifts import CLEAN, SHIFTS, Shift
from triage.phantom.film import phantom
from triage.study import PixelImage
from triage.vision.pixels import prepare

PREPROCESSING = Preprocessing(size_px=224, stretch_percentiles=(1.0, 99.0), mean=0.5, std=0.25)
DIGEST = "0123456789abcdef"
each_shift = pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.words)


@pytest.fixture(scope="module")
def film() -> PixelImage:
    return PixelImage(pixels=phantom(7).pixels[::2, ::2])  # half the size: a quarter of the time


def seen(film: PixelImage) -> np.ndarray:
    return prepare(film, PREPROCESSING)


@each_shift
def test_strength_0_leaves_the_film_as_it_is(shift: Shift, film: PixelImage) -> None:
    assert replace(shift, strength=0).apply(film, DIGEST) is film
    assert CLEAN.apply(film, DIGEST) is film


@each_shift
def test_every_strength_changes_what_the_network_sees_and_leaves_a_film(shift: Shift, film: PixelImage) -> None:
    changed = shift.apply(film, DIGEST).pixels
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    before, after = seen(film), seen(PixelImage(pixels=changed))
    assert np.abs(before - after).max() > 1 / 255
    assert after.std() > 0.1


def test_stronger_is_further(film: PixelImage) -> None:
    further: dict[str, list[tuple[float, float]]] = {}
    for shift in SHIFTS:
        moved = np.abs(seen(film) - seen(shift.apply(film, DIGEST))).mean()
        little = shift.name in ("JPEG quality", "resolution")  # the fewer, the worse
        sign = "down" if shift.strength < 0 else ""
        further.setdefault(shift.name + sign, []).append(((-1 if little else 1) * abs(shift.strength), moved))
    for name, steps in further.items():
        moves = [moved for _, moved in sorted(steps)]
        assert moves == sorted(moves), name


@each_shift
def test_a_film_is_changed_the_same_way_every_time(shift: Shift, film: PixelImage) -> None:
    assert np.array_equal(shift.apply(film, DIGEST).pixels, shift.apply(film, DIGEST).pixels)


@pytest.mark.parametrize("name", ["noise", "turned", "displaced by", "side marker"])
def test_another_film_is_changed_another_way(name: str, film: PixelImage) -> None:
    shift = next(shift for shift in SHIFTS if shift.name == name)
    versions = {shift.apply(film, f"{number:016x}").pixels.tobytes() for number in range(8)}
    assert len(versions) > 1


def test_names_and_strengths_say_each_row_once() -> None:
    assert len({shift.words for shift in SHIFTS}) == len(SHIFTS) == 48


def test_a_film_that_nobody_could_read_any_more_is_refused(film: PixelImage) -> None:
    blackened = Shift(name="all black", strength=1, change=lambda film, _s, _r: film.point([0] * 256), label="")
    with pytest.raises(NotAnalysed):
        blackened.apply(film, DIGEST)


# One by one, on films whose answer is known


def ramp() -> Image.Image:
    return Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (64, 1)))


def levels(change: Callable[..., Image.Image], strength: float) -> np.ndarray:
    return np.asarray(change(ramp(), strength, Random(1)))[0].astype(int)


def test_gamma_keeps_black_and_white_and_moves_the_middle() -> None:
    brighter, darker = levels(shifts.gamma, 1), levels(shifts.gamma, -1)
    assert (brighter[0], brighter[255], darker[0], darker[255]) == (0, 255, 0, 255)
    assert brighter[64] == round(255 * (64 / 255) ** 0.5)
    assert darker[64] == round(255 * (64 / 255) ** 2)


def test_a_narrower_window_cuts_off_at_both_ends() -> None:
    found = levels(shifts.window, 0.4)
    assert (found == 0).sum() == pytest.approx(0.2 * 256, abs=2)
    assert (found == 255).sum() == pytest.approx(0.2 * 256, abs=2)


def test_a_level_moved_cuts_off_at_one_end() -> None:
    found = levels(shifts.level, 0.2)
    assert found[0] == 51
    assert (found == 255).sum() == pytest.approx(0.2 * 256, abs=2)


def test_noise_has_the_deviation_it_says_whatever_the_size_of_the_film() -> None:
    for side in (224, 1792):
        grey = Image.fromarray(np.full((side, side), 128, np.uint8))
        noisy = shifts.noise(grey, 0.05, Random(3)).resize((224, 224), Image.Resampling.BOX)
        # At 1792 four grains lie in each pixel of the small film: half the deviation.
        assert np.asarray(noisy).std() / 255 == pytest.approx(0.05 if side == 224 else 0.025, rel=0.1)


def test_a_mirrored_film_is_mirrored() -> None:
    assert (levels(shifts.mirror, 1) == np.arange(256)[::-1]).all()


def test_borders_have_their_width_and_grey() -> None:
    grey = Image.fromarray(np.full((200, 300), 128, np.uint8))
    for change, value in ((shifts.black_borders, 0), (shifts.white_borders, 255)):
        film = np.asarray(change(grey, 0.1, Random(1)))
        assert film.shape == (200, 300)
        assert (film[:20] == value).all()
        assert (film[:, -30:] == value).all()
        assert (film[20:-20, 30:-30] == 128).all()


def test_displaced_and_zoomed_films_lie_where_they_say() -> None:
    film = np.zeros((100, 100), np.uint8)
    film[45:55, 45:55] = 255
    picture = Image.fromarray(film)
    larger = np.asarray(shifts.zoom(picture, 0.2, Random(1)))
    assert (larger > 127).sum() == pytest.approx(144, abs=25)
    moved = np.argwhere(np.asarray(shifts.displacement(picture, 0.1, Random(1))) > 127).mean(axis=0)
    assert np.abs(moved - 49.5) == pytest.approx([10, 10], abs=0.6)


def test_black_at_the_sides_makes_a_chest_narrower_for_the_network(film: PixelImage) -> None:
    padded = next(shift for shift in SHIFTS if shift.words == "black at the sides 20%").apply(film, DIGEST).pixels
    assert padded.shape == (film.pixels.shape[0], round(1.2 * film.pixels.shape[1]))


@pytest.mark.parametrize("seed", range(6))
def test_markers_and_text_stay_at_the_edges(seed: int) -> None:
    dark = Image.fromarray(np.full((900, 1080), 20, np.uint8))
    marked = np.asarray(shifts.marker(dark, 0.09, Random(seed))) > 128
    rows, columns = np.argwhere(marked).T
    assert rows.max() < 0.2 * 900
    assert columns.max() < 0.12 * 1080 or columns.min() > 0.88 * 1080
    written = np.asarray(shifts.text(dark, 3, Random(seed))) > 128
    assert written[:110].any()
    assert written[-110:].any()
    assert not written[110:-110].any()
