"""What the network may see of a film: DICOM or picture in, float32 in [0, 1] out, bright = dense, or a reason why not.

Decoding and its checks are in ``frame``, the grayscale chain of PS3.3 in ``greyscale``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.tag import BaseTag, Tag

from triage.card import Preprocessing
from triage.errors import NotAnalysed, Reason
from triage.study import PixelImage
from triage.vision.frame import FEWEST_PIXELS_ACROSS, MOST_PIXELS, Samples, read_geometry, read_samples, subsample
from triage.vision.greyscale import Tones, tones
from triage.vision.part10 import MAGIC, PREAMBLE_BYTES, exceptions_as_reasons, read_part10
from triage.vision.wavelets import GAP

_KEYWORDS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RescaleIntercept",
    "RescaleSlope",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "PresentationLUTShape",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
)
_OVERLAY_BIT_POSITIONS = [Tag(group, 0x0102) for group in range(0x6000, 0x6020, 2)]
PIXEL_TAGS: list[BaseTag | int] = [*(Tag(keyword) for keyword in _KEYWORDS), *_OVERLAY_BIT_POSITIONS]

# A film at its ends (black or white) in more than this share shows nothing.
_SATURATED_SHARE = 0.95
_SATURATED_WITHIN = 0.002
_LEAST_SPREAD = 0.004
# Standard deviation of the film seen from afar, as a share of its own: near 1 for shapes, small for noise.
_LEAST_STRUCTURE = 0.4
_SEEN_FROM_AFAR = (16, 16)
_STRIP_ROWS = 64


def read_film(path: Path) -> PixelImage:
    """DICOM if its content says so, else JPEG or PNG. Raise NotAnalysed, or OSError if the file cannot be read."""
    with path.open("rb") as file:
        is_dicom = file.read(PREAMBLE_BYTES + len(MAGIC))[PREAMBLE_BYTES:] == MAGIC
        file.seek(0)
        return read_dicom(file) if is_dicom else _read_picture(file)


def read_picture(path: Path) -> PixelImage:
    """JPEG or PNG, 8 or 16 bits, colour to grey; EXIF is not looked at. Raise NotAnalysed, or OSError as open()."""
    with path.open("rb") as file:
        return _read_picture(file)


def read_dicom(file: BinaryIO, size_px: int | None = None) -> PixelImage:
    """A Part 10 file; for ``size_px`` see ``read_pixels``. Raise NotAnalysed."""
    return read_pixels(read_part10(file, tags=PIXEL_TAGS, stop_before_pixels=False), size_px)


def read_pixels(dataset: Dataset, size_px: int | None = None) -> PixelImage:
    """Raise NotAnalysed, and nothing else.

    Where the film is only to be prepared at ``size_px``, that can be said: it then comes at a fraction of its size, in
    a fraction of the time, and prepares to the same square; but for wavelets, which come close to it.
    """
    with exceptions_as_reasons():
        geometry = read_geometry(dataset)
        samples = read_samples(dataset, geometry, size_px)
        shown = tones(dataset, geometry, samples)
        _check(shown(subsample(samples)))
        film = _in_blocks(shown, samples, size_px)
        return PixelImage(pixels=film, whole=(geometry.rows, geometry.columns))


def _in_blocks(shown: Tones, samples: Samples, size_px: int | None) -> NDArray[np.float32]:
    """The means over blocks of pixels with which Pillow's resize in ``prepare`` would begin, or the film itself.

    The whole of it never is: some rows at a time stay in the processor's cache, and numpy widens them to eight times.
    """
    blocks = down, across = [max(1, side // (GAP * size_px)) if size_px else 1 for side in samples.shape[:2]]
    film = np.empty([-(-side // block) for side, block in zip(samples.shape, blocks, strict=False)], np.float32)
    rows = -(-_STRIP_ROWS // down)
    for top in range(0, len(film), rows):
        strip = shown(samples[top * down : (top + rows) * down])
        if max(blocks) > 1:
            strip = np.asarray(Image.fromarray(strip).reduce((across, down)))
        film[top : top + rows] = strip
    return film


def prepare(image: PixelImage, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Network input (size, size) in [0, 1]: squashed to a square and stretched between two percentiles.

    Antialiased bilinear came nearest to the published 224-pixel films, of ten ways. Raise NotAnalysed if it is flat.
    """
    size = (preprocessing.size_px, preprocessing.size_px)
    height, width = image.sides
    film = Image.fromarray(image.pixels).resize(size, Image.Resampling.BILINEAR, (0, 0, width, height), GAP)
    pixels = np.asarray(film, np.float32)
    low, high = np.percentile(pixels, preprocessing.stretch_percentiles)
    if not high > low:
        raise NotAnalysed(Reason.BAD_PIXELS)
    stretched: NDArray[np.float32] = np.clip((pixels - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return stretched


def _read_picture(file: BinaryIO) -> PixelImage:
    with exceptions_as_reasons():
        return PixelImage(pixels=checked(_picture_samples(file)))


def _picture_samples(file: BinaryIO) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = Image.open(file, formats=("JPEG", "PNG"))
        except Image.DecompressionBombError:
            raise NotAnalysed(Reason.TOO_LARGE) from None
    if picture.width * picture.height > MOST_PIXELS:
        raise NotAnalysed(Reason.TOO_LARGE)
    if min(picture.size) < FEWEST_PIXELS_ACROSS:
        raise NotAnalysed(Reason.BAD_PIXELS)
    if picture.mode.startswith("I"):
        return np.asarray(picture).astype(np.float32) / np.float32(2**16 - 1)
    return np.asarray(picture.convert("L")).astype(np.float32) / np.float32(2**8 - 1)


def checked(film: NDArray[np.float32]) -> NDArray[np.float32]:
    """Raise NotAnalysed(BAD_PIXELS) for a film that is blank, saturated or noise: nobody could read it."""
    _check(subsample(film))
    return film


def _check(part: NDArray[np.float32]) -> None:
    seen = np.ascontiguousarray(part)
    afar = np.asarray(Image.fromarray(seen).resize(_SEEN_FROM_AFAR, Image.Resampling.BOX))
    saturated = np.mean((seen <= _SATURATED_WITHIN) | (seen >= 1.0 - _SATURATED_WITHIN))
    spread = float(seen.std())
    if not spread >= _LEAST_SPREAD or saturated > _SATURATED_SHARE or afar.std() < _LEAST_STRUCTURE * spread:
        raise NotAnalysed(Reason.BAD_PIXELS)
