"""One film, every encoding: the same pixels, whoever compressed it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame
from pydicom.pixels import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)

from absent import missing
from synthetic import compressed, data_set, film, write
from triage.card import Preprocessing
from triage.errors import NotAnalysed, Reason
from triage.vision.frame import read_geometry, read_samples
from triage.vision.pixels import prepare, read_film, read_picture

STRETCH = Preprocessing(size_px=224, stretch_percentiles=(0.5, 99.5), mean=0.5, std=0.25)
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
FILM = film(12)
# Mean of the network input: it changes only if the chain does, and then every threshold has to be looked at.
RG1_INPUT_MEAN = 0.7464


def sample(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    if path is None:
        missing("pydicom-data (pip install pydicom-data)")
    return Path(str(path))


def refusal_of(path: Path) -> Reason | None:
    try:
        read_film(path)
    except NotAnalysed as refusal:
        return refusal.reason
    return None


@pytest.mark.fault(57, 74)
@pytest.mark.parametrize(("name", "tolerance"), [("RG1_UNCI", 2e-3), ("RG1_J2KR", 0.0), ("RG1_J2KI", 2e-3)])
def test_a_real_chest_film_is_the_same_in_each_encoding(name: str, tolerance: float) -> None:
    plain = prepare(read_film(sample("RG1_UNCR.dcm")), STRETCH)
    np.testing.assert_allclose(prepare(read_film(sample(f"{name}.dcm")), STRETCH), plain, atol=tolerance)


@pytest.mark.fault(57)
def test_a_real_chest_film_has_dense_bones_and_dark_lungs() -> None:
    pixels = prepare(read_film(sample("RG1_UNCR.dcm")), STRETCH)
    spine, lungs = pixels[60:140, 108:116].mean(), pixels[80:120, [60, 65, 160, 165]].mean()
    assert spine > lungs + 0.2
    assert pixels.mean() == pytest.approx(RG1_INPUT_MEAN, abs=1e-3)


@pytest.mark.fault(74)
@pytest.mark.parametrize(
    "name",
    [
        "JPEG-LL.dcm",
        "JPGLosslessP14SV1_1s_1f_8b.dcm",
        "693_J2KI.dcm",
        "MR2_J2KI.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "JPEG2000.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR-SIEMENS-DICOM-WithOverlays.dcm",
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_stored_values_agree_with_an_independent_decoder(name: str) -> None:
    dataset = dcmread(sample(name))
    geometry = read_geometry(dataset)
    samples = read_samples(dataset, geometry).astype(np.int64)
    theirs = pixel_array(dataset, raw=False).astype(np.int64)
    np.testing.assert_array_equal(samples, theirs & (2**geometry.bits_stored - 1))


@pytest.mark.fault(74)
def test_extended_jpeg_of_12_bits_agrees_with_an_independent_decoder() -> None:
    dataset = dcmread(sample("JPGExtended.dcm"))
    samples = read_samples(dataset, read_geometry(dataset)).astype(int)
    assert np.abs(samples - pixel_array(dataset).astype(int)).max() <= 1


DCMTK: list[tuple[list[str], int, float]] = [
    (["dcmcjpeg", "+e1"], 12, 0.0),  # lossless, selection value 1
    (["dcmcjpeg", "+el", "+sv", "6"], 12, 0.0),  # lossless, process 14
    (["dcmcjpeg", "+ee", "+q", "95"], 12, 0.03),  # extended, 12 bits
    (["dcmcjpeg", "+eb", "+q", "95"], 8, 0.05),  # baseline
    (["dcmcjpls", "+el"], 12, 0.0),
    (["dcmcjpls", "+en", "+md", "2"], 12, 0.003),
    (["dcmcrle"], 12, 0.0),
    (["dcmcrle"], 8, 0.0),
]


@pytest.mark.fault(74)
@pytest.mark.parametrize(("command", "bits", "tolerance"), DCMTK)
def test_a_film_compressed_by_dcmtk_is_the_same_film(
    dcmtk: Path, tmp_path: Path, command: list[str], bits: int, tolerance: float
) -> None:
    if shutil.which(command[0]) is None:
        missing(f"{command[0]} of dcmtk")
    pixels = FILM if bits == 12 else (FILM >> 4).astype(np.uint8)
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    plain = write(data_set(pixels, bits=bits, **window), tmp_path / "plain.dcm")
    coded = tmp_path / "coded.dcm"
    subprocess.run([dcmtk / command[0], *command[1:], plain, coded], check=True, capture_output=True)
    assert dcmread(coded).file_meta.TransferSyntaxUID.is_encapsulated
    np.testing.assert_allclose(read_film(coded).pixels, read_film(plain).pixels, atol=tolerance)


def shown(pixels: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.rint(pixels * 255).astype(int)


@pytest.mark.fault(57)
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_dcmtk_renders_the_same_polarity_and_window(dcmtk: Path, tmp_path: Path, interpretation: str) -> None:
    if shutil.which("dcm2pnm") is None:
        missing("dcm2pnm of dcmtk")
    path = write(
        data_set(FILM, WindowCenter=1800, WindowWidth=2500, PhotometricInterpretation=interpretation), tmp_path / "a"
    )
    subprocess.run([dcmtk / "dcm2pnm", "+Wi", "1", path, tmp_path / "a.pgm"], check=True, capture_output=True)
    theirs = np.asarray(Image.open(tmp_path / "a.pgm")).astype(int)
    assert np.abs(theirs - shown(read_film(path).pixels)).max() <= 1


ENCODERS: dict[str, tuple[str, Callable[[], bytes], float]] = {
    "JPEG 2000 lossless": (
        JPEG2000Lossless,
        lambda: imagecodecs.jpeg2k_encode(FILM, codecformat="J2K", reversible=True, bitspersample=12),
        0.0,
    ),
    "JPEG 2000 lossless in a wrapper": (
        JPEG2000Lossless,
        lambda: imagecodecs.jpeg2k_encode(FILM, codecformat="JP2", reversible=True, bitspersample=12),
        0.0,
    ),
    "JPEG 2000 lossy": (JPEG2000, lambda: imagecodecs.jpeg2k_encode(FILM, level=90, codecformat="J2K"), 0.01),
    "HTJ2K lossless": (HTJ2KLossless, lambda: imagecodecs.htj2k_encode(FILM, reversible=True), 0.0),
    "HTJ2K under the general syntax": (HTJ2K, lambda: imagecodecs.htj2k_encode(FILM, reversible=True), 0.0),
    "JPEG-LS": (JPEGLSLossless, lambda: imagecodecs.jpegls_encode(FILM), 0.0),
    "JPEG lossless of 16 bits": (
        JPEGLossless,
        lambda: imagecodecs.jpeg8_encode(FILM, lossless=True, bitspersample=16),
        0.0,
    ),
}


@pytest.mark.fault(74)
@pytest.mark.parametrize("name", ENCODERS)
def test_a_compressed_film_is_the_same_film(tmp_path: Path, name: str) -> None:
    syntax, encode, tolerance = ENCODERS[name]
    path = write(compressed(data_set(FILM, **WINDOW), encode(), syntax), tmp_path / "coded.dcm")
    plain = read_film(write(data_set(FILM, **WINDOW), tmp_path / "plain.dcm")).pixels
    np.testing.assert_allclose(read_film(path).pixels, plain, atol=tolerance)


@pytest.mark.fault(68, 74)
def test_htj2k_agrees_with_an_independent_decoder(tmp_path: Path) -> None:
    frame = imagecodecs.htj2k_encode(FILM, reversible=True)
    path = write(compressed(data_set(FILM), frame, HTJ2KLossless), tmp_path / "coded.dcm")
    np.testing.assert_array_equal(pixel_array(path), FILM)


@pytest.mark.fault(71)
@pytest.mark.parametrize(
    "elements", [{"Rows": 160}, {"Columns": 128}, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}]
)
@pytest.mark.parametrize("name", ["JPEG 2000 lossless", "HTJ2K lossless", "JPEG-LS", "JPEG lossless of 16 bits"])
def test_a_stream_that_disagrees_with_the_attributes_is_refused(
    tmp_path: Path, name: str, elements: dict[str, object]
) -> None:
    syntax, encode, _ = ENCODERS[name]
    path = write(compressed(data_set(FILM, **elements), encode(), syntax), tmp_path / "coded.dcm")
    assert refusal_of(path) is Reason.BAD_PIXELS


@pytest.mark.fault(70)
@pytest.mark.parametrize("name", ENCODERS)
def test_a_stream_cut_short_is_refused_not_filled_with_grey(tmp_path: Path, name: str) -> None:
    syntax, encode, _ = ENCODERS[name]
    frame = encode()
    path = write(compressed(data_set(FILM), frame[: len(frame) * 2 // 3], syntax), tmp_path / "coded.dcm")
    assert refusal_of(path) is Reason.BAD_PIXELS


@pytest.mark.fault(70)
def test_rle_cut_short_is_refused(dcmtk: Path, tmp_path: Path) -> None:
    plain = write(data_set(FILM), tmp_path / "plain.dcm")
    subprocess.run([dcmtk / "dcmcrle", plain, tmp_path / "coded.dcm"], check=True, capture_output=True)
    frame = get_frame(dcmread(tmp_path / "coded.dcm").PixelData, 0, number_of_frames=1)
    for length in (len(frame) - 1000, len(frame) // 3):
        path = write(compressed(data_set(FILM), frame[:length], RLELossless), tmp_path / "cut.dcm")
        assert refusal_of(path) in {Reason.BAD_PIXELS, Reason.DECODE_ERROR}


def test_rle_of_16_bits_is_not_read_as_8(dcmtk: Path, tmp_path: Path) -> None:
    plain = write(data_set(FILM), tmp_path / "plain.dcm")
    subprocess.run([dcmtk / "dcmcrle", plain, tmp_path / "coded.dcm"], check=True, capture_output=True)
    coded = dcmread(tmp_path / "coded.dcm")
    coded.BitsAllocated, coded.BitsStored, coded.HighBit = 8, 8, 7
    assert refusal_of(write(coded, tmp_path / "wrong.dcm")) is Reason.BAD_PIXELS


def uncompressed_bomb(folder: Path) -> Path:
    path = write(data_set(FILM, Rows=65535, Columns=65535, PixelData=b"\0\0"), folder / "native.dcm")
    assert path.stat().st_size < 1000
    return path


def jpeg_2000_bomb(folder: Path, **elements: object) -> Path:
    frame = bytearray(imagecodecs.jpeg2k_encode(FILM[:64, :64], codecformat="J2K"))
    frame[8:16] = (20_000).to_bytes(4) * 2  # Xsiz, Ysiz
    frame[24:32] = (20_000).to_bytes(4) * 2  # one tile
    return write(
        compressed(data_set(FILM, **elements), bytes(frame[:4094]) + b"\xff\xd9", JPEG2000Lossless), folder / "j2k.dcm"
    )


def rle_bomb(folder: Path) -> Path:
    header = b"".join(n.to_bytes(4, "little") for n in (2, 64, 66, *[0] * 13))
    given = data_set(FILM, Rows=65000, Columns=1000)
    return write(compressed(given, header + b"\x81\0\x81\0", RLELossless), folder / "rle.dcm")


BOMBS: list[tuple[Callable[[Path], Path], Reason]] = [
    (uncompressed_bomb, Reason.TOO_LARGE),
    (lambda folder: jpeg_2000_bomb(folder, Rows=20_000, Columns=20_000), Reason.TOO_LARGE),
    (jpeg_2000_bomb, Reason.BAD_PIXELS),
    (rle_bomb, Reason.BAD_PIXELS),
]

MEASURE = """
import resource, sys, pathlib, warnings
from triage.vision.pixels import read_dicom
from triage.errors import NotAnalysed
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_dicom(pathlib.Path(sys.argv[1]).open("rb"), *map(int, sys.argv[2:]))
except NotAnalysed as refusal:
    print(refusal.reason.value, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.fault(71)
@pytest.mark.parametrize("size_px", [[], ["224"]])
@pytest.mark.parametrize(("make", "reason"), BOMBS)
def test_a_bomb_is_refused_without_memory_for_it(
    tmp_path: Path, make: Callable[[Path], Path], reason: Reason, size_px: list[str]
) -> None:
    root = str(Path(__file__).resolve().parents[2])
    shown = subprocess.run(
        [sys.executable, "-c", MEASURE, make(tmp_path), *size_px], check=True, capture_output=True, text=True, cwd=root
    )
    said, kilobytes = shown.stdout.split()
    assert said == reason
    assert int(kilobytes) < 32 * 1024


def test_pictures_of_8_and_16_bits_are_the_same_film(tmp_path: Path) -> None:
    grey = (FILM >> 4).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "rgb.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey).save(tmp_path / "8.jpeg", quality=95)
    plain = read_picture(tmp_path / "8.png").pixels
    np.testing.assert_allclose(plain, grey / 255, atol=1e-6)
    for name, tolerance in (("rgb.png", 1e-6), ("16.png", 1e-6), ("8.jpeg", 0.05)):
        np.testing.assert_allclose(read_film(tmp_path / name).pixels, plain, atol=tolerance)


def test_exif_does_not_turn_a_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((FILM >> 4).astype(np.uint8)).save(tmp_path / "turned.jpeg", exif=exif)
    assert read_picture(tmp_path / "turned.jpeg").pixels.shape == FILM.shape


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (40_000, 20_000)).save(tmp_path / "huge.png")
    Image.new("1", (9_000, 9_000)).save(tmp_path / "large.png")
    assert refusal_of(tmp_path / "huge.png") is Reason.TOO_LARGE
    assert refusal_of(tmp_path / "large.png") is Reason.TOO_LARGE


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"\0" * 128 + b"DICM"])
def test_a_file_that_is_neither_has_a_reason(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd").write_bytes(content)
    assert refusal_of(tmp_path / "odd") in {Reason.DECODE_ERROR, Reason.MISSING_PIXELS}


@pytest.mark.films
def test_the_same_film_at_full_size_and_at_224_pixels_looks_the_same(films: Path) -> None:
    small = {path.name: path for path in (films / "pediatric-cxr-224").glob("*/*")}
    pairs = [(path, small[path.name]) for path in sorted((films / "pediatric-cxr-full").glob("*/*"))[::8]]
    assert pairs
    for full, tiny in pairs:
        difference = prepare(read_film(full), STRETCH) - prepare(read_film(tiny), STRETCH)
        assert np.abs(difference).mean() < 0.02, full.name
