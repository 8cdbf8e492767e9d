"""How many levels a film can do without, and where its pixels then belong."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import imagecodecs
import numpy as np
import pytest
from pydicom.uid import HTJ2KLossless

from triage.vision.codestream import read_codestream
from triage.vision.wavelets import _SYNTHESIS, GAP, centred, decode_coarse, decode_htj2k, levels_to_skip

SIZE = 224


@pytest.mark.parametrize(
    ("rows", "columns", "levels", "skipped"),
    [
        (2048, 2048, 5, 2),
        (1955, 1841, 5, 2),
        (4000, 3000, 5, 2),
        (4000, 3584, 5, 3),
        (2048, 2048, 1, 1),
        (2048, 2048, 0, 0),
        (1792, 1792, 5, 2),
        (1791, 1792, 5, 1),
        (896, 5000, 5, 1),
        (895, 895, 5, 0),
        (64, 64, 5, 0),
    ],
)
def test_a_film_stays_twice_as_large_as_it_is_wanted(rows: int, columns: int, levels: int, skipped: int) -> None:
    assert levels_to_skip(rows, columns, levels=levels, size_px=SIZE) == skipped
    assert not skipped or min(rows, columns) >> skipped >= GAP * SIZE


@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_each_pixel_is_the_mean_of_those_it_stands_for(levels: int, reversible: bool) -> None:  # noqa: FBT001 - a table
    step = 2**levels
    ramp = np.add.outer(np.arange(128, dtype=np.float32), np.arange(192, dtype=np.float32) * 2)
    means = ramp.reshape(128 // step, step, 192 // step, step).mean((1, 3))
    found = centred(ramp[::step, ::step], synthesis=_SYNTHESIS[reversible], levels=levels)
    assert found.shape == means.shape
    inside = (slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(found[inside], means[inside], atol=1e-3)


@pytest.mark.parametrize("reversible", [True, False])
def test_the_mean_is_that_of_a_film_without_its_finest_wavelets(reversible: bool) -> None:  # noqa: FBT001 - a table
    coarse = np.random.default_rng(0).random((32, 40), np.float32)
    film = coarse
    for _ in range(2):
        film = synthesised(synthesised(film, _SYNTHESIS[reversible]).T, _SYNTHESIS[reversible]).T
    found = centred(coarse, synthesis=_SYNTHESIS[reversible], levels=2)
    inside = (slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(found[inside], film.reshape(32, 4, 40, 4).mean((1, 3))[inside], atol=1e-5)


def synthesised(rows: np.ndarray, synthesis: Sequence[float]) -> np.ndarray:
    between = np.zeros((2 * len(rows), rows.shape[1]))
    between[::2] = rows
    return np.apply_along_axis(np.convolve, 0, between, synthesis, "same")


@pytest.mark.parametrize("bits", [9, 12, 14])
def test_htj2k_does_not_wrap_black_to_white_where_wavelets_overshoot(bits: int) -> None:
    edges = np.kron(np.random.default_rng(0).integers(0, 2, (128, 128)), np.ones((4, 4))) * (2**bits - 1)
    frame = imagecodecs.htj2k_encode(edges.astype(np.uint16), reversible=True)
    assert imagecodecs.htj2k_decode(frame, skipres=1).max() > 2**15  # were it clipped, this test would be needless
    coarse = decode_coarse(frame, HTJ2KLossless, read_codestream(frame, HTJ2KLossless), 1)
    black = edges.reshape(256, 2, 256, 2).max((1, 3)) == 0
    assert coarse[black].max() < 2**bits * 0.7


@pytest.mark.fault(70)
def test_a_broken_htj2k_film_is_an_error_not_what_was_in_memory() -> None:
    film = np.random.default_rng(0).integers(0, 4096, (512, 512), np.uint16)
    frame = bytearray(imagecodecs.htj2k_encode(film, reversible=True))
    middle = slice(len(frame) // 2, len(frame) // 2 + 5000)
    frame[middle] = bytes(byte ^ 0x5A for byte in frame[middle])
    hook = sys.unraisablehook
    with pytest.raises(ValueError, match="broken off"):
        decode_htj2k(bytes(frame))
    assert sys.unraisablehook is hook
