"""From a data set to stored samples: everything is checked before anything is allocated or decoded."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from triage.errors import NotAnalysed, Reason
from triage.vision.codestream import (
    HTJ2K_SYNTAXES,
    JPEG_2000_SYNTAXES,
    JPEG_LS_SYNTAXES,
    JPEG_SYNTAXES,
    LOSSY_SYNTAXES,
    Codestream,
    check_rle,
    read_codestream,
)
from triage.vision.wavelets import decode_coarse, decode_htj2k, levels_to_skip

Samples = NDArray[np.unsignedinteger]
_Number = TypeVar("_Number", bound=np.generic)

NATIVE_SYNTAXES = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian})
# Not offered: big endian and Deflated (retired, or a bomb), and anything with more than one frame.
DECODED_SYNTAXES = (
    NATIVE_SYNTAXES | {RLELossless} | JPEG_SYNTAXES | JPEG_LS_SYNTAXES | JPEG_2000_SYNTAXES | HTJ2K_SYNTAXES
)
# The largest detectors make films of about 20 million pixels; the smallest film worth a look is 64 pixels wide.
MOST_PIXELS = 64 * 2**20
FEWEST_PIXELS_ACROSS = 64

_GREY = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_SAMPLES_OF_COLOUR = 3
# Share of samples that may have bits above HighBit set without being an overlay or a sign.
_STRAY_SHARE = 0.05
_SUBSAMPLE_SIDE = 512
# More than one byte of padding is against the standard, but met; it is less than a row of any film.
_MOST_PADDING_BYTES = 512
# OpenJPH does not clip: 16 bits hold, as signed, what films of so many bits come to without their finest wavelets.
_MOST_HTJ2K_BITS = 14
_BYTE = 8


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Image Pixel Module, PS3.3 C.7.6.3, once it has been found consistent."""

    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    planar_configuration: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        grey = (self.rows, self.columns)
        return grey if self.samples_per_pixel == 1 else (*grey, self.samples_per_pixel)

    @property
    def bytes_per_sample(self) -> int:
        return self.bits_allocated // 8

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype(f"<u{self.bytes_per_sample}")


def subsample(samples: NDArray[_Number]) -> NDArray[_Number]:
    """About 512 x 512 of the samples, as a view: enough for statistics."""
    rows, columns = samples.shape[:2]
    return samples[:: 1 + rows // _SUBSAMPLE_SIDE, :: 1 + columns // _SUBSAMPLE_SIDE]


def number(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Raise NotAnalysed(BAD_PIXELS) if the value is absent without a default, or is not one whole number."""
    value = dataset.get(keyword)
    if value is None or value == "":
        value = default
    with suppress(Exception):
        if value is not None and int(value) == value:
            return int(value)
    raise NotAnalysed(Reason.BAD_PIXELS)


def words(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip().upper()


def read_geometry(dataset: Dataset) -> Geometry:
    """PS3.3 C.7.6.3.1: raise NotAnalysed unless this is one frame of plausible size, 8 or 16 bits allocated."""
    if "PixelData" not in dataset and ("FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset):
        raise NotAnalysed(Reason.BAD_PIXELS)
    if not dataset.get("PixelData"):
        raise NotAnalysed(Reason.MISSING_PIXELS)
    bits_stored = number(dataset, "BitsStored")
    geometry = Geometry(
        rows=number(dataset, "Rows"),
        columns=number(dataset, "Columns"),
        samples_per_pixel=number(dataset, "SamplesPerPixel", 1),
        photometric_interpretation=words(dataset, "PhotometricInterpretation"),
        planar_configuration=number(dataset, "PlanarConfiguration", 0),
        bits_allocated=number(dataset, "BitsAllocated"),
        bits_stored=bits_stored,
        high_bit=number(dataset, "HighBit", bits_stored - 1),
        is_signed=number(dataset, "PixelRepresentation", 0) == 1,
    )
    _check_size(geometry, number(dataset, "NumberOfFrames", 1))
    _check_bits(geometry)
    return geometry


def _check_size(geometry: Geometry, number_of_frames: int) -> None:
    if number_of_frames != 1 or min(geometry.rows, geometry.columns) < FEWEST_PIXELS_ACROSS:
        raise NotAnalysed(Reason.BAD_PIXELS)
    if geometry.rows * geometry.columns * geometry.samples_per_pixel > MOST_PIXELS:
        raise NotAnalysed(Reason.TOO_LARGE)


def _check_bits(geometry: Geometry) -> None:
    """PS3.5 8.1.1: the stored bits lie within the allocated ones."""
    grey = geometry.samples_per_pixel == 1 and geometry.photometric_interpretation in _GREY
    colour = geometry.samples_per_pixel == _SAMPLES_OF_COLOUR and geometry.photometric_interpretation in _COLOUR
    inside = 0 < geometry.bits_stored <= geometry.high_bit + 1 <= geometry.bits_allocated
    if not ((grey or colour) and inside and geometry.bits_allocated in (8, 16)):
        raise NotAnalysed(Reason.BAD_PIXELS)


def read_samples(dataset: Dataset, geometry: Geometry, size_px: int | None = None) -> Samples:
    """Codes of the stored bits alone: unsigned (rows, columns), or (rows, columns, 3) as RGB or with Y first.

    A negative value is its two's complement in BitsStored bits. Where a square of ``size_px`` is all that is wanted,
    JPEG 2000 and HTJ2K may come as means over blocks of 2 x 2, 4 x 4, ... (see ``wavelets``). Raise NotAnalysed.
    """
    syntax = transfer_syntax_uid(dataset)
    if syntax not in DECODED_SYNTAXES:
        raise NotAnalysed(Reason.UNSUPPORTED_SYNTAX)
    if syntax in NATIVE_SYNTAXES:
        return _stored_bits(dataset, _native(dataset.PixelData, geometry), geometry)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == RLELossless:
        return _stored_bits(dataset, _rle(frame, geometry), geometry)
    stream = read_codestream(frame, syntax)
    _check_codestream(stream, geometry)
    skipped = _levels_to_skip(dataset, syntax, stream, geometry, size_px) if size_px else 0
    if skipped:
        # Whatever goes wrong here: the whole film decides whether, and why, it is refused.
        with suppress(Exception):
            return _coarse(frame, syntax, stream, geometry, skipped)
    return _whole(dataset, frame, syntax, stream, geometry)


def _levels_to_skip(dataset: Dataset, syntax: str, stream: Codestream, geometry: Geometry, size_px: int) -> int:
    """0 where a mean of values would not mean what the values do: beside padding, signs, tables, other bits."""
    mixed = (
        geometry.samples_per_pixel > 1
        or geometry.photometric_interpretation == "PALETTE COLOR"
        or geometry.is_signed
        or geometry.high_bit + 1 != geometry.bits_stored
        or any(keyword in dataset for keyword in ("PixelPaddingValue", "ModalityLUTSequence"))
        or _has_embedded_overlays(dataset)
    )
    fits = syntax not in HTJ2K_SYNTAXES or (stream.precision > _BYTE and geometry.bits_stored <= _MOST_HTJ2K_BITS)
    if mixed or not fits:
        return 0
    return levels_to_skip(geometry.rows, geometry.columns, levels=stream.levels, size_px=size_px)


def _coarse(frame: bytes, syntax: str, stream: Codestream, geometry: Geometry, skipped: int) -> Samples:
    """Raise ValueError if it is not what was asked for, or whatever a codec raises."""
    samples = decode_coarse(frame, syntax, stream, skipped)
    wanted = tuple(-(-side >> skipped) for side in geometry.shape)
    if samples.shape != wanted or _stray_share(subsample(samples), geometry) > _STRAY_SHARE:
        raise ValueError("not the film")
    # Wavelets overshoot where black meets white.
    white = samples.dtype.type(2**geometry.bits_stored - 1)
    clipped: Samples = np.minimum(samples, white)
    return clipped


def _whole(dataset: Dataset, frame: bytes, syntax: str, stream: Codestream, geometry: Geometry) -> Samples:
    samples = _decode(frame, syntax, stream)
    if samples.shape not in (geometry.shape, geometry.shape[:2]):
        raise NotAnalysed(Reason.BAD_PIXELS)
    unsigned: Samples = samples.view(f"u{samples.itemsize}")
    if stream.precision <= geometry.bits_stored:
        return _narrowed(unsigned, geometry.bits_stored)
    if syntax in LOSSY_SYNTAXES and not geometry.is_signed:
        # Ringing may overshoot the stored bits: cut it off, where a mask would make white black.
        white = unsigned.dtype.type(2**geometry.bits_stored - 1)
        clipped: Samples = np.minimum(unsigned, white)
        return clipped
    return _stored_bits(dataset, unsigned, geometry)


def transfer_syntax_uid(dataset: Dataset) -> str:
    meta = getattr(dataset, "file_meta", None) or Dataset()
    return str(meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian)


def _native(data: bytes, geometry: Geometry) -> Samples:
    """PS3.5 8.2 and annex A: raise NotAnalysed(BAD_PIXELS) if the length does not fit."""
    halved = geometry.photometric_interpretation == "YBR_FULL_422"
    per_row = geometry.columns * geometry.samples_per_pixel * geometry.bytes_per_sample
    per_row = per_row * 2 // 3 if halved else per_row
    if not 0 <= len(data) - per_row * geometry.rows <= _MOST_PADDING_BYTES:
        raise NotAnalysed(Reason.BAD_PIXELS)
    samples = np.frombuffer(data, geometry.dtype, count=per_row * geometry.rows // geometry.bytes_per_sample)
    if halved:
        # PS3.3 C.7.6.3.1.2: Y1 Y2 Cb Cr for each two pixels.
        return samples.reshape(geometry.rows, -1, 4)[:, :, :2].reshape(geometry.rows, geometry.columns)
    if geometry.samples_per_pixel == _SAMPLES_OF_COLOUR and geometry.planar_configuration == 1:
        return np.moveaxis(samples.reshape(_SAMPLES_OF_COLOUR, geometry.rows, geometry.columns), 0, -1)
    return samples.reshape(geometry.shape)


def _rle(frame: bytes, geometry: Geometry) -> Samples:
    """PS3.5 annex G: one segment for each byte of each sample."""
    check_rle(
        frame,
        segments=geometry.samples_per_pixel * geometry.bytes_per_sample,
        segment_bytes=geometry.rows * geometry.columns,
    )
    planes = np.frombuffer(imagecodecs.dicomrle_decode(frame, geometry.dtype), geometry.dtype)
    shape = (geometry.samples_per_pixel, geometry.rows, geometry.columns)
    if planes.size < np.prod(shape):
        raise NotAnalysed(Reason.BAD_PIXELS)
    samples = np.moveaxis(planes[: np.prod(shape)].reshape(shape), 0, -1)
    return samples.reshape(geometry.shape)


def _check_codestream(stream: Codestream, geometry: Geometry) -> None:
    """PS3.5 8.2.1, 8.2.3 and 8.2.4: the stream and the attributes shall agree."""
    stated = (geometry.rows, geometry.columns, geometry.samples_per_pixel)
    if (stream.rows, stream.columns, stream.components) != stated or stream.precision > geometry.bits_allocated:
        raise NotAnalysed(Reason.BAD_PIXELS)


def _decode(frame: bytes, syntax: str, stream: Codestream) -> NDArray[np.integer]:
    if syntax in JPEG_SYNTAXES:
        # In one pass to grey: Y of YCbCr, luminance of RGB. Process 14 has no colour transform.
        grey = stream.components == _SAMPLES_OF_COLOUR and not stream.is_lossless_jpeg
        return imagecodecs.jpeg8_decode(frame, outcolorspace="GRAYSCALE" if grey else None)
    if syntax in JPEG_LS_SYNTAXES:
        return imagecodecs.jpegls_decode(frame)
    if syntax in JPEG_2000_SYNTAXES:
        return imagecodecs.jpeg2k_decode(frame, numthreads=1)
    return decode_htj2k(frame)


def _stored_bits(dataset: Dataset, cells: Samples, geometry: Geometry) -> Samples:
    """PS3.5 8.1.1: BitsStored bits up to HighBit; above them lie a sign or overlays, else the attributes are wrong."""
    shift = geometry.high_bit + 1 - geometry.bits_stored
    above = geometry.bits_allocated - geometry.high_bit - 1
    if above and _stray_share(subsample(cells), geometry) > _STRAY_SHARE and not _has_embedded_overlays(dataset):
        raise NotAnalysed(Reason.BAD_PIXELS)
    return _narrowed(np.right_shift(cells, cells.dtype.type(shift)) if shift else cells, geometry.bits_stored)


def _stray_share(cells: NDArray[np.generic], geometry: Geometry) -> float:
    above = np.right_shift(cells.astype(np.uint32), geometry.high_bit + 1)
    if not above.any():
        return 0.0
    full = 2 ** (geometry.bits_allocated - geometry.high_bit - 1) - 1
    negative = np.right_shift(cells.astype(np.uint32), geometry.high_bit) & 1
    is_sign = geometry.is_signed & (above == full) & (negative == 1)
    return float(np.mean((above != 0) & ~is_sign))


def _has_embedded_overlays(dataset: Dataset) -> bool:
    """Overlays in unused bits, retired in 2004 (PS3.3 C.9.2): OverlayBitPosition (60xx,0102) is not 0."""
    positions = (dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2))
    return any(position is not None and position.value for position in positions)


def _narrowed(cells: NDArray[np.unsignedinteger], bits: int) -> Samples:
    if bits == 8 * cells.itemsize:
        return cells
    return cells & cells.dtype.type(2**bits - 1)
