"""Synthetic films: reproducible, shaped like a child's chest, and ill only in the lungs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from triage.phantom.film import FILM_HEIGHT, FILM_WIDTH, Pneumonia, phantom

SEEDS = (3, 4)


@cache
def film(seed: int, pneumonia: Pneumonia | None = None) -> NDArray[np.float32]:
    return phantom(seed, pneumonia).pixels


def middle(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The part of every film that holds lungs, heart and spine."""
    return pixels[200:600, 200:-200]


def test_same_seed_gives_the_same_film() -> None:
    assert np.array_equal(phantom(3, "viral").pixels, film(3, "viral"))


def test_other_seed_gives_another_child() -> None:
    assert np.abs(film(3) - film(4)).mean() > 0.03


@pytest.mark.parametrize("pneumonia", [None, "bacterial", "viral"])
def test_film_is_float32_between_black_and_white(pneumonia: Pneumonia | None) -> None:
    pixels = film(3, pneumonia)
    assert pixels.shape == (FILM_HEIGHT, FILM_WIDTH)
    assert pixels.dtype == np.float32
    assert 0.0 <= pixels.min() < 0.05
    assert 0.9 < pixels.max() <= 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_bright_is_dense(seed: int) -> None:
    rows = middle(film(seed))
    spine = rows[:, rows.shape[1] // 2 - 15 : rows.shape[1] // 2 + 15].mean()
    right_lung = rows[:, 60:140].mean()
    assert spine > right_lung + 0.25


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pneumonia", ["bacterial", "viral"])
def test_pneumonia_whitens_the_lungs_and_leaves_the_rest(seed: int, pneumonia: Pneumonia) -> None:
    changed = film(seed, pneumonia) - film(seed)
    assert (middle(changed) > 0.1).mean() > 0.03
    assert np.abs(changed[:60]).mean() < 0.01  # neck and shoulders
    assert np.abs(changed[-60:]).mean() < 0.02  # belly; the exposure follows the whole film a little


def test_kinds_of_pneumonia_look_different() -> None:
    assert np.abs(film(3, "bacterial") - film(3, "viral")).mean() > 0.01
