"""A film read for a square of 224 pixels: sooner there, and the same square, score and reasons as the whole film."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from daemon.environment import read_settings
from synthetic import compressed, data_set, film
from triage.errors import NotAnalysed, Reason
from triage.phantom.film import phantom
from triage.study import PixelImage
from triage.vision.classifier import Classifier, load_classifier
from triage.vision.frame import read_geometry, read_samples
from triage.vision.pixels import prepare, read_film, read_pixels

Pixels = NDArray[np.unsignedinteger]
Film = NDArray[np.float32]
SIZE = 224
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(read_settings()[0].weights_card)


def jpeg_2000(pixels: Pixels, bits: int, **options: Any) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, codecformat="J2K", reversible=True, bitspersample=bits, **options)


def tiled(pixels: Pixels, _: int) -> bytes:
    """Of 8 bits: Pillow mixes up tiles of more."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG2000", no_jp2=True, tile_size=(500, 300), num_resolutions=4)
    return file.getvalue()


def htj2k(pixels: Pixels, _: int, **options: Any) -> bytes:
    return imagecodecs.htj2k_encode(pixels, **{"reversible": True, **options})


def lossless_jpeg(pixels: Pixels, bits: int, predictor: int) -> bytes:
    return imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=bits, predictor=predictor)


IN_TILES = "JPEG 2000 in tiles"
Encode = Callable[[Pixels, int], bytes]
WHOLE: dict[str, tuple[str, Encode]] = {
    "JPEG lossless .57": (JPEGLossless, partial(lossless_jpeg, predictor=6)),
    "JPEG lossless .70": (JPEGLosslessSV1, partial(lossless_jpeg, predictor=1)),
    "JPEG-LS": (JPEGLSLossless, lambda pixels, _: imagecodecs.jpegls_encode(pixels)),
}
REDUCED: dict[str, tuple[str, Encode]] = {
    "JPEG 2000": (JPEG2000Lossless, jpeg_2000),
    IN_TILES: (JPEG2000Lossless, tiled),
    "JPEG 2000 lossy": (
        JPEG2000,
        lambda pixels, bits: imagecodecs.jpeg2k_encode(pixels, level=65, codecformat="J2K", bitspersample=bits),
    ),
    "HTJ2K": (HTJ2KLossless, htj2k),
    "HTJ2K in tiles": (HTJ2KLossless, partial(htj2k, tile=(500, 300))),
    "HTJ2K lossy": (HTJ2K, partial(htj2k, reversible=False, level=0.0005)),
}


def coded(name: str, pixels: Pixels, bits: int = 12, **elements: object) -> Dataset:
    given = data_set(pixels, bits=bits, **elements)
    if name == "raw":
        return given
    if name == "RLE":
        given.compress(RLELossless, encoding_plugin="pylibjpeg")
        return given
    syntax, encode = (WHOLE | REDUCED)[name]
    return compressed(given, encode(pixels, bits), syntax)


def reason_of(dataset: Dataset, size_px: int | None) -> Reason | None:
    try:
        read_pixels(dataset, size_px)
    except NotAnalysed as refusal:
        return refusal.reason
    return None


def p_pneumonia(film: Film, classifier: Classifier) -> float:
    return 1.0 - float(classifier.score(film[None])[0, 0])


def both(dataset: Dataset, classifier: Classifier) -> tuple[Film, Film]:
    """Prepared from the reduced and from the whole film."""
    preprocessing = classifier.card.preprocessing
    reduced = read_pixels(dataset, SIZE)
    assert reduced.shape == (dataset.Rows, dataset.Columns)
    assert max(reduced.pixels.shape) < max(reduced.shape)
    return prepare(reduced, preprocessing), prepare(read_pixels(dataset), preprocessing)


@cache
def chest(rows: int, columns: int, bits: int) -> Pixels:
    pixels = film(bits, rows, columns)
    return pixels.astype(np.uint8) if bits == 8 else pixels


@pytest.mark.parametrize("shape", [(2048, 2048), (1955, 1841), (903, 1500), (450, 700), (224, 300)])
def test_the_square_of_an_uncompressed_film_is_what_pillow_makes_of_the_whole(
    shape: tuple[int, int], classifier: Classifier
) -> None:
    given = data_set(film(12, *shape), **WINDOW)
    whole = Image.fromarray(read_pixels(given).pixels)
    resized = np.asarray(whole.resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=2.0))
    low, high = np.percentile(resized, classifier.card.preprocessing.stretch_percentiles)
    expected = np.clip((resized - low) / (high - low), 0, 1)
    np.testing.assert_allclose(prepare(read_pixels(given, SIZE), classifier.card.preprocessing), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["raw", "RLE", *WHOLE])
@pytest.mark.parametrize("elements", [{}, {"PhotometricInterpretation": "MONOCHROME1", **WINDOW}])
def test_films_without_wavelets_prepare_to_the_very_same_square(
    name: str, elements: dict[str, object], classifier: Classifier
) -> None:
    reduced, whole = both(coded(name, chest(1155, 1841, 12), **elements), classifier)
    np.testing.assert_array_equal(reduced, whole)


def test_so_do_colour_signs_and_padding(classifier: Classifier) -> None:
    grey = chest(1155, 941, 8)
    signed = data_set((chest(1155, 941, 12).astype(np.int16) - 2048).view(np.uint16), PixelRepresentation=1)
    padded = chest(1155, 941, 12).copy()
    padded[:, :200] = 4095
    padding = data_set(padded)
    padding.add_new("PixelPaddingValue", "US", 4095)
    jpeg = compressed(data_set(grey, bits=8), imagecodecs.jpeg8_encode(grey), JPEGBaseline8Bit)
    for given in (data_set(np.dstack([grey, grey // 2, grey]), bits=8), signed, padding, jpeg):
        reduced, whole = both(given, classifier)
        np.testing.assert_allclose(reduced, whole, atol=1e-6)


CASES: list[tuple[str, int, tuple[int, int], dict[str, object]]] = [
    *((name, 12, (1955, 1841), {}) for name in REDUCED if name != IN_TILES),
    (IN_TILES, 8, (1955, 1841), {}),
    *((name, 12, (1200, 949), {"PhotometricInterpretation": "MONOCHROME1"}) for name in ("JPEG 2000", "HTJ2K")),
    *((name, 12, (1000, 1001), {"WindowCenter": 2300, "WindowWidth": 2000}) for name in ("JPEG 2000", "HTJ2K")),
    *((name, 10, (903, 1843), {}) for name in ("JPEG 2000", "HTJ2K")),
    ("JPEG 2000", 8, (1001, 917), {}),
    ("JPEG 2000", 16, (1001, 917), {}),
    ("HTJ2K", 14, (1001, 917), {}),
]


@pytest.mark.parametrize(("name", "bits", "shape", "elements"), CASES)
def test_a_film_without_its_finest_wavelets_is_nearly_the_same_square(
    name: str, bits: int, shape: tuple[int, int], elements: dict[str, object], classifier: Classifier
) -> None:
    given = coded(name, chest(*shape, bits), bits, **elements)
    assert max(read_samples(given, read_geometry(given), SIZE).shape) <= (max(shape) + 1) // 2
    reduced, whole = both(given, classifier)
    difference = np.abs(reduced - whole)
    assert difference.mean() < 0.003
    assert difference.max() < 0.2
    assert abs(p_pneumonia(reduced, classifier) - p_pneumonia(whole, classifier)) < 0.01


@pytest.mark.parametrize("seed", range(6))
def test_the_score_of_a_drawn_film_stays_within_a_hundredth(seed: int, classifier: Classifier) -> None:
    drawn = Image.fromarray(phantom(seed, (None, "bacterial", "viral")[seed % 3]).pixels)
    large = np.asarray(drawn.resize((1900, 2100), Image.Resampling.BICUBIC))
    grain = np.random.default_rng(seed).normal(0, 0.01, large.shape)
    pixels = np.rint(np.clip(large + grain, 0, 1) * 4095).astype(np.uint16)
    for name in ("JPEG 2000", "HTJ2K"):
        reduced, whole = both(coded(name, pixels, **WINDOW), classifier)
        assert abs(p_pneumonia(reduced, classifier) - p_pneumonia(whole, classifier)) < 0.01


@pytest.mark.films
def test_the_score_of_a_real_film_stays_within_a_hundredth(films: Path, classifier: Classifier) -> None:
    paths = sorted((films / "pediatric-cxr-full").glob("*/*"))[::6]
    real = [read_film(path).pixels for path in paths]
    real = [pixels for pixels in real if min(pixels.shape) >= 4 * SIZE]
    assert real
    for pixels in real:
        grain = np.random.default_rng(0).normal(0, 0.005, pixels.shape)
        codes = np.rint(np.clip(pixels + grain, 0, 1) * 4095).astype(np.uint16)
        for name in ("raw", "JPEG 2000", "HTJ2K"):
            reduced, whole = both(coded(name, codes), classifier)
            assert np.abs(reduced - whole).mean() < 0.003
            assert abs(p_pneumonia(reduced, classifier) - p_pneumonia(whole, classifier)) < 0.01


FILM = chest(1000, 940, 12)


def lut() -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.add_new("LUTData", "US", list(range(4096)))
    return table


def padded_with_nothing() -> Dataset:
    given = coded("JPEG 2000", FILM)
    given.add_new("PixelPaddingValue", "US", 4095)
    return given


def with_overlays() -> Dataset:
    given = coded("JPEG 2000", FILM)
    given.add_new(0x60000102, "US", 12)
    return given


def wrapped() -> Dataset:
    frame = imagecodecs.jpeg2k_encode(FILM, codecformat="JP2", reversible=True, bitspersample=12)
    return compressed(data_set(FILM), frame, JPEG2000Lossless)


def shifted() -> Dataset:
    return compressed(data_set(FILM << 4, HighBit=15), jpeg_2000(FILM << 4, 16), JPEG2000Lossless)


def signed(encode: Encode, syntax: str) -> Dataset:
    values = (FILM.astype(np.int16) - 2048).astype(np.int16)
    return compressed(data_set(FILM, PixelRepresentation=1), encode(values, 16), syntax)


def twos_complement() -> Dataset:
    """Signed by its attributes alone: 0 is in the middle of the film, and beside it 4095."""
    codes = (FILM + 2048) & 4095
    return compressed(data_set(FILM, PixelRepresentation=1), jpeg_2000(codes, 12), JPEG2000Lossless)


def without_levels(encode: Encode, syntax: str, **options: int) -> Dataset:
    return compressed(data_set(FILM), encode(FILM, 12, **options), syntax)


DECODED_WHOLE: dict[str, Callable[[], Dataset]] = {
    "with padding": padded_with_nothing,
    "with a modality table": lambda: coded("JPEG 2000", FILM, ModalityLUTSequence=[lut()]),
    "with overlays in its bits": with_overlays,
    "in a wrapper": wrapped,
    "stored in the upper bits": shifted,
    "signed": lambda: signed(jpeg_2000, JPEG2000Lossless),
    "signed, HTJ2K": lambda: signed(htj2k, HTJ2KLossless),
    "signed by its attributes alone": twos_complement,
    "without levels": lambda: without_levels(jpeg_2000, JPEG2000Lossless, resolutions=1),
    "HTJ2K of 8 bits": lambda: coded("HTJ2K", chest(1000, 940, 8), 8),
    "HTJ2K of 16 bits": lambda: coded("HTJ2K", chest(1000, 940, 16), 16),
}


@pytest.mark.parametrize("name", DECODED_WHOLE)
def test_a_film_whose_values_do_not_mix_is_decoded_whole(name: str, classifier: Classifier) -> None:
    reduced, whole = both(DECODED_WHOLE[name](), classifier)
    np.testing.assert_array_equal(reduced, whole)


def test_one_level_is_better_than_none(classifier: Classifier) -> None:
    pixels = chest(1900, 1841, 12)
    given = without_levels(lambda *_, **options: jpeg_2000(pixels, 12, **options), JPEG2000Lossless, resolutions=2)
    given.Rows, given.Columns = pixels.shape
    geometry = read_geometry(given)
    assert read_samples(given, geometry, SIZE).shape == (950, 921)
    reduced, whole = both(given, classifier)
    assert np.abs(reduced - whole).mean() < 0.002


@pytest.mark.parametrize("name", ["JPEG 2000", "HTJ2K"])
def test_a_small_film_is_left_as_it_is(name: str) -> None:
    given = coded(name, chest(895, 1200, 12), **WINDOW)
    np.testing.assert_array_equal(read_pixels(given, 448).pixels, read_pixels(given).pixels)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.67, 0.97])
@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_stream_cut_short_has_the_reason_it_has_when_decoded_whole(name: str, share: float, end: bytes) -> None:
    syntax, encode = REDUCED[name]
    bits = 8 if name == IN_TILES else 12
    pixels = chest(1000, 940, bits)
    frame = encode(pixels, bits)
    given = compressed(data_set(pixels, bits=bits), frame[: int(len(frame) * share)] + end, syntax)
    assert reason_of(given, SIZE) is reason_of(given, None)
    assert end or reason_of(given, SIZE) is Reason.BAD_PIXELS


@pytest.mark.parametrize("name", ["JPEG 2000", "HTJ2K"])
def test_a_broken_stream_is_refused_or_shows_the_same_film(name: str, classifier: Classifier) -> None:
    syntax, encode = REDUCED[name]
    intact, preprocessing = encode(FILM, 12), classifier.card.preprocessing
    expected = prepare(read_pixels(compressed(data_set(FILM), intact, syntax)), preprocessing)
    rng = np.random.default_rng(1)
    for _ in range(10):
        frame = bytearray(intact)
        for at in rng.integers(200, len(frame) - 2, 5):
            frame[at] ^= int(rng.integers(1, 256))
        given = compressed(data_set(FILM), bytes(frame), syntax)
        if reason_of(given, SIZE) is None:
            assert np.abs(prepare(read_pixels(given, SIZE), preprocessing) - expected).mean() < 0.03


WRONG: list[tuple[Pixels, dict[str, object]]] = [
    (np.full_like(FILM, 700), {}),
    (np.random.default_rng(3).integers(0, 4096, FILM.shape, dtype=np.uint16), {}),
    (FILM, {"Rows": 999}),
    (FILM, {"Columns": 500}),
    (FILM, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}),
]


@pytest.mark.parametrize(("pixels", "elements"), WRONG)
@pytest.mark.parametrize("name", ["JPEG 2000", "HTJ2K"])
def test_a_film_that_is_blank_noise_or_mislabelled_is_refused_all_the_same(
    name: str, pixels: Pixels, elements: dict[str, object]
) -> None:
    syntax, encode = REDUCED[name]
    given = compressed(data_set(pixels, **{**WINDOW, **elements}), encode(pixels, 12), syntax)
    assert reason_of(given, SIZE) is Reason.BAD_PIXELS


@pytest.mark.parametrize("encode", [partial(jpeg_2000, bits=16), partial(htj2k, _=16)])
def test_values_beyond_the_stored_bits_are_refused_not_cut_off(encode: Callable[[Pixels], bytes]) -> None:
    pixels = chest(1000, 940, 14)
    syntax = HTJ2KLossless if encode.func is htj2k else JPEG2000Lossless
    assert reason_of(compressed(data_set(pixels, bits=12), encode(pixels), syntax), SIZE) is Reason.BAD_PIXELS


def test_a_picture_is_prepared_as_ever(classifier: Classifier, tmp_path: Path) -> None:
    grey = chest(1000, 940, 8)
    Image.fromarray(grey).save(tmp_path / "film.png")
    image = read_film(tmp_path / "film.png")
    twin = read_pixels(data_set(grey, bits=8, WindowCenter=127.5, WindowWidth=255, VOILUTFunction="LINEAR_EXACT"), SIZE)
    preprocessing = classifier.card.preprocessing
    np.testing.assert_allclose(prepare(image, preprocessing), prepare(twin, preprocessing), atol=1e-5)
    np.testing.assert_array_equal(
        prepare(PixelImage(pixels=image.pixels), preprocessing), prepare(image, preprocessing)
    )
