"""Pixels that are not what they should be: refused before they are decoded, or in a child that may die of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
import psutil
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from running import Daemon, running

import synthetic
from faults import hostile
from faults.hostile import MIB, chests, forget_peak, good, is_served, outcome, peak_rss, travelling
from making import encoded

pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore::UserWarning")]
FILM = synthetic.film(rows=320, columns=320)
ANALYSED = ("analysed", None)
DECODE_MIB = 512


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("daemon"), decode_mib=DECODE_MIB, decode_seconds=60) as daemon:
        daemon.serve()
        assert is_served(daemon)  # what libraries take at their first film is no growth
        yield daemon
        assert is_served(daemon)
        assert "Traceback" not in daemon.log()


def is_ours(process: psutil.Process) -> bool:
    """Not a decoding child, nor one that has just ended."""
    try:
        return "daemon.cli" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture(autouse=True)
def memory(daemon: Daemon) -> Iterator[None]:
    """No film costs any process of the daemon much more than a film may."""
    family = [process for process in daemon.family() if is_ours(process)]
    before = {process: process.memory_info().rss for process in family}
    for process in family:
        forget_peak(process)
    yield
    for process in family:
        assert process.is_running()
        assert peak_rss(process) - before[process] < 160 * MIB, process.cmdline()


def seen(daemon: Daemon, made: Dataset, content: bytes | None = None) -> tuple[str, str | None]:
    film = travelling(made, content)
    assert film.to(daemon) == 0
    return outcome(daemon, film.study)


def reason(daemon: Daemon, made: Dataset, content: bytes | None = None) -> str | None:
    analysis, found = seen(daemon, made, content)
    assert analysis == ("analysed" if found is None else "not_analysed")
    return found


SIZES: list[tuple[dict[str, Any], str]] = [
    ({"Rows": 65535, "Columns": 65535}, "too_large"),
    ({"Rows": 46341, "Columns": 46341}, "too_large"),
    ({"Rows": 0}, "bad_pixels"),
    ({"Rows": None}, "bad_pixels"),
    ({"Rows": 321}, "bad_pixels"),
    ({"Rows": 318}, "bad_pixels"),
    ({"Columns": 1}, "bad_pixels"),
    ({"PixelData": FILM.tobytes()[:-2000]}, "bad_pixels"),
    ({"PixelData": FILM.tobytes() + bytes(4000)}, "bad_pixels"),
    ({"PixelData": b""}, "missing_pixels"),
    ({"PixelData": None}, "missing_pixels"),
    ({"NumberOfFrames": 0}, "bad_pixels"),
    ({"NumberOfFrames": 4}, "bad_pixels"),
    ({"NumberOfFrames": 999_999}, "bad_pixels"),
    ({"PhotometricInterpretation": None}, "bad_pixels"),
    ({"PhotometricInterpretation": "CMYK"}, "bad_pixels"),
    ({"SamplesPerPixel": 3}, "bad_pixels"),
    ({"SamplesPerPixel": 65535}, "too_large"),
    ({"BitsAllocated": 1}, "bad_pixels"),
    ({"BitsAllocated": 12}, "bad_pixels"),
    ({"BitsAllocated": 32}, "bad_pixels"),
    ({"BitsAllocated": 64}, "bad_pixels"),
    ({"BitsStored": 0}, "bad_pixels"),
    ({"BitsStored": 17}, "bad_pixels"),
    ({"HighBit": 3}, "bad_pixels"),
    ({"BitsStored": 6, "HighBit": 5}, "bad_pixels"),
]


@pytest.mark.fault(51, 52, 53, 54, 55, 56, 61, 63, 64)
@pytest.mark.parametrize(("elements", "expected"), SIZES)
def test_attributes_that_do_not_fit_say_so(daemon: Daemon, elements: dict[str, Any], expected: str) -> None:
    made = good()
    for keyword, value in elements.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    assert reason(daemon, made) == expected


@pytest.mark.fault(52)
def test_rows_of_another_vr_are_read_or_refused(daemon: Daemon) -> None:
    made = good()
    del made.Rows
    content = hostile.inserted(made, hostile.raw(0x28, 0x10, b"UL", struct.pack("<L", 320)))
    assert reason(daemon, made, content) in {None, "bad_pixels", "decode_error"}


@pytest.mark.fault(64)
def test_float_pixels_are_refused(daemon: Daemon) -> None:
    made = good(PixelData=None)
    made.FloatPixelData = FILM.astype("<f4").tobytes()
    assert reason(daemon, made) == "bad_pixels"


def inverted_twin() -> Dataset:
    return good(PhotometricInterpretation="MONOCHROME1", PixelData=(4095 - FILM).tobytes())


def with_inverse_shape() -> Dataset:
    return good(
        PresentationLUTShape="INVERSE", PhotometricInterpretation="MONOCHROME1", PixelData=(4095 - FILM).tobytes()
    )


def shifted() -> Dataset:
    return good(HighBit=15, PixelData=(FILM << 4).tobytes())


def with_an_overlay() -> Dataset:
    made = good(PixelData=(FILM | (FILM % 2 << 12)).tobytes())
    made.add_new(0x60000102, "US", 12)
    return made


@pytest.mark.fault(57, 58, 63)
@pytest.mark.parametrize("twin", [inverted_twin, with_inverse_shape, shifted, with_an_overlay])
def test_the_same_film_written_another_way_has_the_same_probability(
    daemon: Daemon, twin: Callable[[], Dataset]
) -> None:
    films = [good(), twin()]
    assert [seen(daemon, film) for film in films] == [ANALYSED, ANALYSED]
    plain, other = (daemon.entry(film.StudyInstanceUID)["p_pneumonia"] for film in films)
    assert other == pytest.approx(plain, abs=0.02)


def coloured(interpretation: str) -> Dataset:
    grey = (FILM >> 4).astype(np.uint8)
    made = chests.dataset(np.dstack([grey] * 3), bits=8)
    made.SOPClassUID, made.Modality = "1.2.840.10008.5.1.4.1.1.7", "CR"
    made.PhotometricInterpretation = interpretation
    return made


def with_palette(entries: int, first: int) -> Dataset:
    made = chests.dataset((FILM >> 4).astype(np.uint8), bits=8, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [entries, first, 16])
        table = np.linspace(0, 65535, entries or 1).astype("<u2").tobytes() if entries else b""
        setattr(made, f"{colour}PaletteColorLookupTableData", table)
    return made


@pytest.mark.fault(59, 60)
@pytest.mark.parametrize("interpretation", ["RGB", "YBR_FULL", "YBR_RCT", "YBR_ICT"])
def test_a_colour_capture_is_answered(daemon: Daemon, interpretation: str) -> None:
    assert reason(daemon, coloured(interpretation)) in {None, "bad_pixels", "not_a_chest_film"}


@pytest.mark.fault(60)
@pytest.mark.parametrize(("entries", "first"), [(256, 0), (16, 0), (16, 240), (0, 0), (1, 0)])
def test_a_palette_that_reaches_beyond_its_table_is_clamped_or_refused(
    daemon: Daemon, entries: int, first: int
) -> None:
    made = with_palette(entries, first)
    assert reason(daemon, made) in {None, "bad_pixels", "not_a_chest_film", "decode_error"}


WINDOWS: list[dict[str, Any]] = [
    {"WindowCenter": "2048", "WindowWidth": "0"},
    {"WindowCenter": "2048", "WindowWidth": "-5"},
    {"WindowCenter": ["2048", "100"], "WindowWidth": ["4096", "20"]},
    {"WindowCenter": "2048", "WindowWidth": "4096", "VOILUTFunction": "SIGMOID"},
    {"RescaleSlope": "0", "RescaleIntercept": "0"},
]


@pytest.mark.fault(65)
@pytest.mark.parametrize("window", WINDOWS)
def test_any_window_and_slope_ends_in_a_film(daemon: Daemon, window: dict[str, Any]) -> None:
    assert seen(daemon, good(**window)) == ANALYSED


@pytest.mark.fault(65)
@pytest.mark.parametrize("value", [b"NaN ", b"inf ", b"-1e999", b"2147483648"])
@pytest.mark.parametrize("element", [0x1050, 0x1051, 0x1053])
def test_a_window_of_nonsense_never_ends_in_a_wrong_number(daemon: Daemon, element: int, value: bytes) -> None:
    made = good(**({"WindowCenter": "2048"} if element == 0x1051 else {"WindowWidth": "4096"}))
    content = hostile.inserted(made, hostile.raw(0x28, element, b"DS", value))
    assert reason(daemon, made, content) in {None, "bad_pixels", "not_a_chest_film"}


@pytest.mark.fault(65)
@pytest.mark.parametrize("descriptor", [[0, 0, 16], [4096, 0, 16], [4, 65535, 8], [4096, 0, 64]])
@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_broken_table_is_passed_over_or_refused(daemon: Daemon, keyword: str, descriptor: list[int]) -> None:
    table = Dataset()
    table.add_new(0x00283002, "US", descriptor)
    table.add_new(0x00283006, "OW", b"\0\1" * 8)
    made = good()
    setattr(made, keyword, Sequence([table]))
    assert reason(daemon, made) in {None, "bad_pixels", "not_a_chest_film", "decode_error"}


def noise() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 4096, FILM.shape, dtype=np.uint16)


@pytest.mark.fault(66)
@pytest.mark.parametrize(
    "pixels", [np.zeros_like(FILM), np.full_like(FILM, 700), np.full_like(FILM, 4095), noise()], ids=str
)
def test_a_film_that_shows_nothing_is_bad_pixels(daemon: Daemon, pixels: np.ndarray) -> None:
    assert reason(daemon, good(PixelData=pixels.tobytes())) == "bad_pixels"


@pytest.mark.fault(66, 67)
def test_a_collimated_film_with_a_marker_is_analysed(daemon: Daemon) -> None:
    pixels = FILM.copy()
    pixels[:12], pixels[-12:], pixels[:, :12], pixels[:, -12:] = 0, 0, 0, 0
    pixels[20:32, 20:28] = 4095
    assert seen(daemon, good(PixelData=pixels.tobytes())) == ANALYSED


# -- compressed ----------------------------------------------------------------------------------------------------


def compressed(frames: list[bytes], syntax: str, **elements: Any) -> Dataset:
    made = good(**elements)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate(frames)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    return made


BYTES = (FILM >> 4).astype(np.uint8)
STREAMS: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "JPEG lossless": (JPEGLosslessSV1, imagecodecs.ljpeg_encode(FILM, bitspersample=12), {}),
    "JPEG": (JPEGBaseline8Bit, imagecodecs.jpeg8_encode(BYTES), {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}),
    "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode(FILM), {}),
    "JPEG 2000": (
        JPEG2000Lossless,
        imagecodecs.jpeg2k_encode(FILM, codecformat="J2K", reversible=True, bitspersample=12),
        {},
    ),
    "HTJ2K": (HTJ2K, imagecodecs.htj2k_encode(FILM, reversible=True), {}),
}


def damaged(stream: bytes, how: str) -> bytes:
    middle = len(stream) // 2
    changed = bytearray(stream)
    if how == "cut":
        return stream[:middle]
    if how == "header alone":
        return stream[:64] + b"\xff\xd9"
    for at in range(middle, middle + 400, 3):
        changed[at % len(changed)] ^= 0x55
    return bytes(changed)


@pytest.mark.fault(70)
@pytest.mark.parametrize("how", ["cut", "header alone", "flipped"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_damaged_stream_ends_in_a_reason_or_a_film(daemon: Daemon, name: str, how: str) -> None:
    syntax, stream, elements = STREAMS[name]
    found = reason(daemon, compressed([damaged(stream, how)], syntax, **elements))
    assert found in {"decode_error", "bad_pixels"} if how != "flipped" else found != "internal_error"


def said_of_fragments(daemon: Daemon, content: bytes, syntax: str) -> str | None:
    """Of Pixel Data of undefined length with these bytes in it."""
    made = compressed([b"\0\0"], syntax)
    del made.PixelData
    pixels = hostile.raw(0x7FE0, 0x10, b"OB", content, 0xFFFFFFFF)
    return reason(daemon, made, encoded(made) + pixels)


@pytest.mark.fault(70)
def test_fragments_that_lie_are_refused(daemon: Daemon) -> None:
    syntax, stream, _ = STREAMS["JPEG-LS"]
    item = b"\xfe\xff\x00\xe0"
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    table = item + bytes(4)
    for content in (
        table + item + b"\xff\xff\xff\xff" + stream + end,
        table + item + struct.pack("<L", 2**31) + stream + end,
        item + struct.pack("<L", 8) + b"\xff" * 8 + item + struct.pack("<L", len(stream)) + stream + end,
        table + (item + bytes(4)) * 10_000 + end,
        table + end,
        b"",
    ):
        assert said_of_fragments(daemon, content, syntax) in {"decode_error", "bad_pixels", "missing_pixels", None}


@pytest.mark.fault(70)
def test_a_film_of_ten_thousand_fragments_is_answered(daemon: Daemon) -> None:
    syntax, stream, _ = STREAMS["JPEG-LS"]
    size = max(2, -(-len(stream) // 10_000) // 2 * 2)
    parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    item = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<L", len(part)) + part for part in parts)
    content = b"\xfe\xff\x00\xe0" + bytes(4) + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert said_of_fragments(daemon, content, syntax) in {None, "decode_error", "bad_pixels"}


def wavelet_bomb(side: int) -> bytes:
    """SIZ says side x side (T.800 A.5.1); behind it is nothing."""
    siz = struct.pack(">HHIIIIIIIIH", 41, 0, side, side, 0, 0, side, side, 0, 0, 1) + bytes((15, 1, 1))
    return b"\xff\x4f\xff\x51" + siz + bytes(4000) + b"\xff\xd9"


@pytest.mark.fault(71)
@pytest.mark.parametrize("side", [320, 20_000, 2**31])
@pytest.mark.parametrize("stated", [320, 8000, 20_000, 65535])
def test_a_small_stream_that_asks_for_gigabytes_is_refused(daemon: Daemon, side: int, stated: int) -> None:
    made = compressed([wavelet_bomb(side)], JPEG2000, Rows=stated, Columns=stated)
    assert reason(daemon, made) in {"bad_pixels", "too_large", "decode_error"}


@pytest.mark.fault(51, 71)
@pytest.mark.parametrize("syntax", [RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSLossless])
def test_a_few_bytes_cannot_be_a_large_film(daemon: Daemon, syntax: str) -> None:
    frame = struct.pack("<16L", 2, 64, 72, *([0] * 13)) + b"\x81\0" * 8
    made = compressed([frame], syntax, Rows=8000, Columns=8000)
    assert reason(daemon, made) in {"bad_pixels", "decode_error", "too_large"}


@pytest.mark.fault(68, 69)
@pytest.mark.parametrize(
    "syntax", [DeflatedExplicitVRLittleEndian, MPEG2MPML, "1.2.840.113619.5.2", "1.3.46.670589.33.1.4.1"]
)
def test_a_syntax_that_is_not_ours_is_not_agreed_on(daemon: Daemon, syntax: str) -> None:
    film = hostile.replace(travelling(good()), syntax=str(syntax))
    assert film.to(daemon) is None


@pytest.mark.fault(69)
def test_a_deflate_bomb_under_a_syntax_that_is_agreed_on_is_no_bomb(daemon: Daemon) -> None:
    bomb = zlib.compressobj(wbits=-15)
    content = bomb.compress(encoded(good())[:600] + bytes(300 * MIB)) + bomb.flush()
    made = good()
    assert travelling(made, content).to(daemon) in {0, 0xC000}


@pytest.mark.fault(62)
def test_signed_samples_are_analysed(daemon: Daemon) -> None:
    signed = (FILM.astype(np.int32) - 2048).astype("<i2").tobytes()
    assert seen(daemon, good(PixelRepresentation=1, PixelData=signed)) == ANALYSED
