"""JPEG's blocks: seen, taken off, and put on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triage.learning.augmentation import with_jpeg
from triage.learning.blocks import as_jpeg, deblocked


@pytest.fixture(scope="module")
def soft() -> np.ndarray:
    """Without blocks: a soft shape and fine grain."""
    y, x = np.mgrid[-1:1:96j, -1:1:104j]
    grain = np.random.default_rng(1).normal(0, 6, y.shape)
    return (120 + 80 * np.exp(-(x**2) * 2 - y**2) * np.sin(3 * x + 2 * y) + grain).clip(0, 255).astype(np.uint8)


def blockiness(pixels: np.ndarray) -> float:
    """Steps at the edges of blocks over steps within."""
    steps = np.abs(np.diff(pixels.astype(float), axis=1))
    at_edges = np.arange(steps.shape[1]) % 8 == 7
    return float(steps[:, at_edges].mean() / steps[:, ~at_edges].mean())


def test_blocks_are_taken_off_and_the_film_comes_nearer_to_what_it_was(soft: np.ndarray) -> None:
    stored = as_jpeg(soft, 40)
    assert blockiness(soft) == pytest.approx(1, abs=0.1)
    assert blockiness(stored) > 1.5
    again = deblocked(stored, 40)
    assert again.shape == soft.shape
    assert again.dtype == np.uint8
    assert blockiness(again) - 1 < 0.3 * (blockiness(stored) - 1)
    errors = [np.square(film.astype(float) - soft).mean() for film in (stored, again)]
    assert errors[1] < errors[0]


def test_a_flat_film_stays_flat() -> None:
    assert (deblocked(np.full((40, 33), 77, np.uint8)) == 77).all()


def test_about_half_of_the_films_get_blocks_and_the_rest_stay(soft: np.ndarray) -> None:
    films = torch.from_numpy(np.stack([soft] * 64))[:, None]
    stored = with_jpeg(films, torch.Generator().manual_seed(1))
    same = (stored == films).flatten(1).all(1)
    assert 20 <= same.sum() <= 44
    assert torch.equal(with_jpeg(films, torch.Generator().manual_seed(1)), stored)
    assert len({film.numpy().tobytes() for film in stored[~same]}) > 10  # of different qualities
