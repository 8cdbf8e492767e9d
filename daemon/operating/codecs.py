"""Every transfer syntax that we take, tried by a tiny film of our own, in the sandbox that films are decoded in."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from daemon.decoder import Decoder
from daemon.operating.verdict import Area, Verdict, fail, ok
from daemon.sandbox import Limits
from daemon.spool import part10_header
from triage.card import Preprocessing
from triage.policy import ungated
from triage.vision.codestream import HTJ2K_SYNTAXES, JPEG_2000_SYNTAXES
from triage.vision.frame import DECODED_SYNTAXES, NATIVE_SYNTAXES

_SIDE = 64
_CARELESS = Preprocessing(size_px=_SIDE, stretch_percentiles=(1.0, 99.0), mean=0.5, std=0.25)
# Of the range, on average: lossy syntaxes move a little.
_MOST_MOVED = 0.02


def look_at_codecs(limits: Limits) -> Iterator[Verdict]:
    """One verdict for each syntax that fails, or one for all."""
    with tempfile.TemporaryDirectory(prefix="triage-doctor-") as folder, Decoder(limits) as decoder:
        plain = _decoded(ExplicitVRLittleEndian, decoder, Path(folder))
        if isinstance(plain, str):
            words = f"no film can be decoded on this machine: {plain}"
            yield fail(Area.CODECS, words, "the decoder's child cannot live here: see decode_mib, and the sandbox")
            return
        failed = 0
        for syntax in sorted(DECODED_SYNTAXES):
            found = _decoded(syntax, decoder, Path(folder))
            moved = None if isinstance(found, str) else float(np.abs(found - plain).mean())
            if moved is None or moved > _MOST_MOVED:
                failed += 1
                words = found if isinstance(found, str) else f"decoded wrongly, by {moved:.2f} of the range"
                fix = "install imagecodecs as the project's constraints name it"
                yield fail(Area.CODECS, f"{syntax.name} ({syntax}): {words}", fix)
        if not failed:
            yield ok(Area.CODECS, f"{len(DECODED_SYNTAXES)} transfer syntaxes are decoded, in the sandbox")


def _decoded(syntax: UID, decoder: Decoder, folder: Path) -> NDArray[np.float32] | str:
    """What the network would see, or why nothing."""
    content = sample(syntax)
    path = folder / "sample"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    look = decoder.look(path, sha256=sha256, gate=ungated, preprocessing=_CARELESS)
    return look.pixels if look.pixels is not None else str(look.reason.words if look.reason else "nothing")


def sample(syntax: UID) -> bytes:
    """A wedge with a disc in it, as a Part 10 file."""
    dataset = _dataset(8 if syntax == JPEGBaseline8Bit else 12)
    if syntax == RLELossless:
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax not in NATIVE_SYNTAXES:
        pixels = np.frombuffer(dataset.PixelData, "<u1" if dataset.BitsAllocated == 8 else "<u2")  # noqa: PLR2004
        dataset.PixelData = encapsulate([_encoded(syntax, pixels.reshape(_SIDE, _SIDE))])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == ImplicitVRLittleEndian
    write_dataset(buffer, dataset)
    header = part10_header(dataset.SOPClassUID, dataset.SOPInstanceUID, syntax)
    return header + buffer.getvalue()


def _dataset(bits: int) -> Dataset:
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE]
    pixels = rows * 40 + ((rows - 32) ** 2 + (columns - 32) ** 2 < 300) * 1200  # noqa: PLR2004 - a disc in the middle
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, "2.25.1"
    dataset.StudyInstanceUID, dataset.Modality = "2.25.2", "CR"
    dataset.Rows = dataset.Columns = _SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (8, 8, 7) if bits == 8 else (16, 12, 11)  # noqa: PLR2004
    dataset.PixelRepresentation = 0
    dataset.PixelData = (pixels >> (12 - bits)).astype("<u1" if bits == 8 else "<u2").tobytes()  # noqa: PLR2004
    dataset["PixelData"].VR = "OW"
    return dataset


def _encoded(syntax: UID, pixels: NDArray[np.unsignedinteger]) -> bytes:
    jpeg = partial(imagecodecs.jpeg8_encode, pixels)
    if syntax in HTJ2K_SYNTAXES:
        return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))  # in the order RPCL, as OpenJPH does
    if syntax in JPEG_2000_SYNTAXES:
        return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="J2K", reversible=True, bitspersample=12))
    makers = {
        JPEGBaseline8Bit: partial(jpeg, level=95),
        JPEGExtended12Bit: partial(jpeg, level=95, bitspersample=12),
        JPEGLossless: partial(jpeg, lossless=True, bitspersample=12, predictor=6),
        JPEGLosslessSV1: partial(jpeg, lossless=True, bitspersample=12, predictor=1),
        JPEGLSLossless: partial(imagecodecs.jpegls_encode, pixels),
        JPEGLSNearLossless: partial(imagecodecs.jpegls_encode, pixels, level=2),
    }
    return bytes(makers[syntax]())
