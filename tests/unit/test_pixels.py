"""What the network may see: the grayscale chain step by step, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import MPEG2MPML, ExplicitVRBigEndian

from synthetic import data_set, film
from triage.card import Preprocessing
from triage.errors import NotAnalysed, Reason
from triage.study import PixelImage
from triage.vision.pixels import prepare, read_pixels

STRETCH = Preprocessing(size_px=224, stretch_percentiles=(0.5, 99.5), mean=0.5, std=0.25)
FILM = film(12)
FULL = {"WindowCenter": 2048, "WindowWidth": 4096}


def seen(dataset: Dataset) -> NDArray[np.float32]:
    return read_pixels(dataset).pixels


def reason_of(dataset: Dataset) -> Reason | None:
    try:
        read_pixels(dataset)
    except NotAnalysed as refusal:
        return refusal.reason
    return None


def lut(first: int, outputs: list[int], bits: int) -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [len(outputs), first, bits])
    table.add_new("LUTData", "US", outputs)
    return table


def test_a_film_is_float32_between_0_and_1_and_bright_is_dense() -> None:
    pixels = seen(data_set(FILM, **FULL))
    assert pixels.dtype == np.float32
    assert pixels.shape == FILM.shape
    np.testing.assert_allclose(pixels, np.clip((FILM - 2047.5) / 4095 + 0.5, 0, 1), atol=1e-6)


@pytest.mark.fault(57)
def test_monochrome1_is_inverted_exactly_once() -> None:
    twin = data_set(4095 - FILM, **FULL, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(seen(twin), seen(data_set(FILM, **FULL)), atol=1e-6)


@pytest.mark.fault(58)
@pytest.mark.parametrize(
    ("interpretation", "shape", "inverted"),
    [
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "INVERSE", True),
        ("monochrome1 ", None, True),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_polarity_has_one_rule(interpretation: str, shape: str | None, inverted: bool) -> None:  # noqa: FBT001 - a table
    given = data_set(FILM, **FULL)
    given.PhotometricInterpretation = interpretation
    if shape:
        given.PresentationLUTShape = shape
    plain = seen(data_set(FILM, **FULL))
    np.testing.assert_allclose(seen(given), 1 - plain if inverted else plain, atol=1e-6)


@pytest.mark.fault(57)
def test_an_inverted_twin_without_a_window_is_the_same_film() -> None:
    twin = data_set(4095 - FILM, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(seen(twin), seen(data_set(FILM)), atol=2e-3)


@pytest.mark.fault(63)
def test_stored_bits_lie_below_high_bit() -> None:
    np.testing.assert_array_equal(seen(data_set(FILM << 4, **FULL, HighBit=15)), seen(data_set(FILM, **FULL)))


@pytest.mark.fault(63)
def test_overlay_bits_in_the_top_are_no_part_of_the_film() -> None:
    overlay = np.zeros_like(FILM)
    overlay[40:200, 40:200] = 1 << 12
    given = data_set(FILM | overlay, **FULL)
    given.add_new(0x60000102, "US", 12)
    np.testing.assert_array_equal(seen(given), seen(data_set(FILM, **FULL)))


@pytest.mark.fault(63)
def test_values_beyond_the_stored_bits_are_refused_not_wrapped() -> None:
    assert reason_of(data_set(film(14), bits=12)) is Reason.BAD_PIXELS


@pytest.mark.fault(62)
def test_signed_values_may_fill_the_unused_bits_with_their_sign() -> None:
    signed = (FILM.astype(np.int16) - 2048).astype(np.int16)
    window = {"WindowCenter": 0, "WindowWidth": 4096}
    given = data_set(signed.view(np.uint16), **window, PixelRepresentation=1)
    np.testing.assert_allclose(seen(given), seen(data_set(FILM, **FULL)), atol=1e-6)
    masked = data_set(signed.view(np.uint16) & 0xFFF, **window, PixelRepresentation=1)
    np.testing.assert_array_equal(seen(masked), seen(given))


def test_the_window_is_in_units_after_rescale() -> None:
    given = data_set(FILM, RescaleSlope="2", RescaleIntercept="-1000", WindowCenter=3096, WindowWidth=8191)
    np.testing.assert_allclose(seen(given), seen(data_set(FILM, **FULL)), atol=1e-3)


def test_a_falling_slope_turns_the_film_round() -> None:
    given = data_set(4095 - FILM, RescaleSlope="-1", RescaleIntercept="4095", **FULL)
    np.testing.assert_allclose(seen(given), seen(data_set(FILM, **FULL)), atol=1e-6)


@pytest.mark.fault(65)
@pytest.mark.parametrize("slope", ["0", "NaN", "inf"])
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_slope_that_is_none_is_passed_over(slope: str) -> None:
    given = data_set(FILM, **FULL)
    given.RescaleSlope, given.RescaleIntercept = slope, "0"
    np.testing.assert_array_equal(seen(given), seen(data_set(FILM, **FULL)))


@pytest.mark.fault(65)
def test_a_modality_table_comes_before_the_window() -> None:
    given = data_set(FILM, ModalityLUTSequence=[lut(0, [4095 - n for n in range(4096)], 16)], **FULL)
    np.testing.assert_allclose(seen(given), seen(data_set(4095 - FILM, **FULL)), atol=1e-6)


@pytest.mark.fault(65)
def test_a_broken_modality_table_is_bad_pixels() -> None:
    table = lut(0, [1, 2, 3], 16)
    table.LUTDescriptor = [4096, 0, 16]
    assert reason_of(data_set(FILM, ModalityLUTSequence=[table])) is Reason.BAD_PIXELS


@pytest.mark.fault(65)
def test_a_voi_table_is_used_and_clamps_at_its_ends() -> None:
    outputs = list(range(0, 4096, 2))
    pixels = seen(data_set(FILM, VOILUTSequence=[lut(1024, outputs, 12)]))
    expected = np.array(outputs)[np.clip(FILM.astype(int) - 1024, 0, 2047)] / 4095
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


@pytest.mark.fault(65)
def test_a_broken_voi_table_is_passed_over() -> None:
    table = lut(0, [1, 2, 3], 12)
    table.LUTDescriptor = [4096, 0, 12]
    np.testing.assert_array_equal(seen(data_set(FILM, VOILUTSequence=[table], **FULL)), seen(data_set(FILM, **FULL)))


WINDOWS: list[tuple[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = [
    ("LINEAR", lambda x: np.clip((x - 1999.5) / 999 + 0.5, 0, 1)),
    ("LINEAR_EXACT", lambda x: np.clip((x - 2000) / 1000 + 0.5, 0, 1)),
    ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 2000) / 1000))),
]


@pytest.mark.fault(65)
@pytest.mark.parametrize(("function", "formula"), WINDOWS)
def test_window_functions_are_those_of_the_standard(
    function: str, formula: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> None:
    pixels = seen(data_set(FILM, WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function))
    np.testing.assert_allclose(pixels, formula(FILM.astype(np.float64)), atol=1e-6)


@pytest.mark.fault(65)
def test_the_first_of_several_windows_counts() -> None:
    given = data_set(FILM, WindowCenter=[2048, 100], WindowWidth=[4096, 1])
    np.testing.assert_array_equal(seen(given), seen(data_set(FILM, **FULL)))


@pytest.mark.fault(65)
@pytest.mark.parametrize(
    ("center", "width"),
    [("2048", "0"), ("2048", "-5"), ("NaN", "4096"), ("2048", "1"), ("-2147483648", "1"), ("90000", "10"), ("", "100")],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_window_that_makes_no_sense_is_passed_over(center: str, width: str) -> None:
    given = data_set(FILM)
    given.WindowCenter, given.WindowWidth = center, width
    pixels = seen(given)
    assert np.isfinite(pixels).all()
    np.testing.assert_array_equal(pixels, seen(data_set(FILM)))


def test_without_a_window_the_film_fills_the_range() -> None:
    pixels = seen(data_set(FILM // 8 + 1000))
    assert pixels.min() == 0.0
    assert pixels.max() == 1.0
    assert 0.005 <= np.mean(pixels == 1.0) + np.mean(pixels == 0.0) < 0.05


def padded() -> NDArray[np.uint16]:
    pixels = FILM // 2 + 1000
    pixels[:, :60] = 4095
    return pixels


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_background_and_does_not_move_the_range(interpretation: str) -> None:
    given = data_set(padded(), PhotometricInterpretation=interpretation)
    given.add_new("PixelPaddingValue", "US", 4095)
    alone = seen(data_set(padded()[:, 60:], PhotometricInterpretation=interpretation))
    pixels = seen(given)
    assert not pixels[:, :60].any()
    np.testing.assert_allclose(pixels[:, 60:], alone, atol=5e-3)


def test_padding_may_be_a_range_and_negative() -> None:
    signed = padded().astype(np.int16) - 2048
    signed[:, :30] = 2046
    given = data_set(signed.view(np.uint16), PixelRepresentation=1)
    given.add_new("PixelPaddingValue", "SS", 2040)
    given.add_new("PixelPaddingRangeLimit", "SS", 2047)
    assert not seen(given)[:, :60].any()


@pytest.mark.fault(59)
def test_a_colour_capture_is_its_luminance() -> None:
    grey = (FILM >> 4).astype(np.uint8)
    given = data_set(np.dstack([grey] * 3), bits=8)
    np.testing.assert_allclose(seen(given), grey / 255, atol=1e-4)


@pytest.mark.fault(59)
def test_colour_by_plane_is_the_same_as_by_pixel() -> None:
    grey = (FILM >> 4).astype(np.uint8)
    colour = np.dstack([grey, grey // 2, grey // 3])
    by_plane = data_set(colour, bits=8, PlanarConfiguration=1, PixelData=np.moveaxis(colour, -1, 0).tobytes())
    np.testing.assert_array_equal(seen(by_plane), seen(data_set(colour, bits=8)))


@pytest.mark.fault(59)
def test_luma_is_taken_as_it_is() -> None:
    grey = (FILM >> 4).astype(np.uint8)
    ybr = np.dstack([grey, np.full_like(grey, 200), np.full_like(grey, 90)])
    given = data_set(ybr, bits=8, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(seen(given), grey / 255, atol=1e-6)


@pytest.mark.fault(59)
def test_halved_colour_has_two_lumas_in_four_bytes() -> None:
    grey = (FILM >> 4).astype(np.uint8)
    chroma = np.full((*grey.shape[:1], grey.shape[1] // 2, 2), 128, np.uint8)
    pairs = np.concatenate([grey.reshape(grey.shape[0], -1, 2), chroma], axis=2)
    given = data_set(np.dstack([grey] * 3), bits=8, PhotometricInterpretation="YBR_FULL_422", PixelData=pairs.tobytes())
    np.testing.assert_allclose(seen(given), grey / 255, atol=1e-6)


@pytest.mark.fault(60)
def test_a_palette_is_looked_up_and_out_of_range_is_clamped() -> None:
    grey = (FILM >> 4).astype(np.uint8)
    given = data_set(grey, bits=8, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        given.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [200, 0, 16])
        table = np.arange(200, dtype="<u2") * 256
        given.add_new(f"{colour}PaletteColorLookupTableData", "OW", table.tobytes())
    np.testing.assert_allclose(seen(given), np.minimum(grey, 199).astype(float) * 256 / 65535, atol=1e-6)


@pytest.mark.fault(60)
def test_an_empty_palette_is_bad_pixels() -> None:
    grey = (FILM >> 4).astype(np.uint8)
    assert reason_of(data_set(grey, bits=8, PhotometricInterpretation="PALETTE COLOR")) is Reason.BAD_PIXELS


REFUSED: list[tuple[dict[str, object], Reason]] = [
    ({"Rows": 65535, "Columns": 65535}, Reason.TOO_LARGE),
    ({"Rows": 46341, "Columns": 46341}, Reason.TOO_LARGE),
    ({"Rows": 0}, Reason.BAD_PIXELS),
    ({"Rows": None}, Reason.BAD_PIXELS),
    ({"Columns": 63}, Reason.BAD_PIXELS),
    ({"Rows": 321}, Reason.BAD_PIXELS),
    ({"Rows": 318}, Reason.BAD_PIXELS),
    ({"NumberOfFrames": 2}, Reason.BAD_PIXELS),
    ({"NumberOfFrames": 0}, Reason.BAD_PIXELS),
    ({"NumberOfFrames": 999999}, Reason.BAD_PIXELS),
    ({"BitsAllocated": 32}, Reason.BAD_PIXELS),
    ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, Reason.BAD_PIXELS),
    ({"BitsStored": 17}, Reason.BAD_PIXELS),
    ({"BitsStored": 0}, Reason.BAD_PIXELS),
    ({"HighBit": 16}, Reason.BAD_PIXELS),
    ({"HighBit": 3}, Reason.BAD_PIXELS),
    ({"PhotometricInterpretation": None}, Reason.BAD_PIXELS),
    ({"PhotometricInterpretation": "CMYK"}, Reason.BAD_PIXELS),
    ({"PhotometricInterpretation": "RGB"}, Reason.BAD_PIXELS),
    ({"SamplesPerPixel": 4}, Reason.BAD_PIXELS),
    ({"PixelData": b""}, Reason.MISSING_PIXELS),
    ({"PixelData": None}, Reason.MISSING_PIXELS),
    ({"PixelData": FILM.tobytes()[:-2]}, Reason.BAD_PIXELS),
    ({"PixelData": FILM.tobytes() + b"\0" * 1024}, Reason.BAD_PIXELS),
]


@pytest.mark.fault(51, 52, 53, 54, 55, 56, 61, 63, 64)
@pytest.mark.parametrize(("elements", "reason"), REFUSED)
def test_attributes_that_do_not_fit_are_refused_with_a_reason(elements: dict[str, object], reason: Reason) -> None:
    assert reason_of(data_set(FILM, **elements)) is reason


@pytest.mark.fault(55)
def test_no_pixels_at_all_are_missing_pixels() -> None:
    given = data_set(FILM)
    del given.PixelData
    assert reason_of(given) is Reason.MISSING_PIXELS
    assert reason_of(Dataset()) is Reason.MISSING_PIXELS


@pytest.mark.fault(64)
def test_float_pixels_are_bad_pixels() -> None:
    given = data_set(FILM)
    del given.PixelData
    given.FloatPixelData = b"\0" * 16
    assert reason_of(given) is Reason.BAD_PIXELS


@pytest.mark.fault(54)
def test_a_few_bytes_of_padding_are_accepted() -> None:
    assert reason_of(data_set(FILM, PixelData=FILM.tobytes() + b"\0\0")) is None


@pytest.mark.fault(68)
@pytest.mark.parametrize("syntax", [MPEG2MPML, ExplicitVRBigEndian, "1.2.3.4"])
def test_other_syntaxes_are_unsupported(syntax: str) -> None:
    given = data_set(FILM)
    given.file_meta.TransferSyntaxUID = syntax
    assert reason_of(given) is Reason.UNSUPPORTED_SYNTAX


def noise() -> NDArray[np.uint16]:
    return np.random.default_rng(3).integers(0, 4096, FILM.shape, dtype=np.uint16)


def mostly_white() -> NDArray[np.uint16]:
    pixels = np.full_like(FILM, 4095)
    pixels[:, :10] = FILM[:, 100:110]
    return pixels


@pytest.mark.fault(66)
@pytest.mark.parametrize("pixels", [np.zeros_like(FILM), np.full_like(FILM, 700), noise(), mostly_white()])
def test_blank_saturated_or_noisy_films_are_bad_pixels(pixels: NDArray[np.uint16]) -> None:
    assert reason_of(data_set(pixels, **FULL)) is Reason.BAD_PIXELS


@pytest.mark.fault(66)
def test_a_collimated_border_is_no_fault() -> None:
    pixels = FILM.copy()
    pixels[:60], pixels[-60:], pixels[:, :50] = 0, 0, 0
    assert reason_of(data_set(pixels, **FULL)) is None


def test_a_reason_holds_no_value_of_the_data_set() -> None:
    given = data_set(FILM, PatientName="CANARY^CANARY", PhotometricInterpretation="CANARY")
    with pytest.raises(NotAnalysed) as refusal:
        read_pixels(given)
    assert "CANARY" not in repr(refusal.value)
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


def test_a_prepared_film_is_a_stretched_square() -> None:
    pixels = prepare(read_pixels(data_set(FILM, **FULL)), STRETCH)
    assert pixels.shape == (224, 224)
    assert pixels.dtype == np.float32
    assert (pixels.min(), pixels.max()) == (0.0, 1.0)


def test_preparing_does_not_depend_on_exposure() -> None:
    bright = read_pixels(data_set(FILM, **FULL)).pixels
    dim = PixelImage(pixels=(0.3 + 0.2 * bright).astype(np.float32))
    np.testing.assert_allclose(prepare(dim, STRETCH), prepare(PixelImage(pixels=bright), STRETCH), atol=1e-3)


def test_a_film_of_the_right_size_is_not_resampled() -> None:
    pixels = (film(12, 224, 224) / 4095).astype(np.float32)
    no_stretch = Preprocessing(size_px=224, stretch_percentiles=(0.0, 100.0), mean=0.5, std=0.25)
    np.testing.assert_allclose(prepare(PixelImage(pixels=pixels), no_stretch), pixels, atol=1e-6)


def test_a_flat_film_cannot_be_prepared() -> None:
    with pytest.raises(NotAnalysed):
        prepare(PixelImage(pixels=np.full((300, 300), 0.5, np.float32)), STRETCH)


def test_shrinking_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 1], np.float32), (2048, 1024))
    ramp = np.linspace(0, 1, 2048, dtype=np.float32)[:, None]
    pixels = prepare(PixelImage(pixels=(0.5 * stripes + 0.5 * ramp).astype(np.float32)), STRETCH)
    assert math.isclose(float(pixels[112].std()), 0.0, abs_tol=0.01)
