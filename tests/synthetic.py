"""Invented films: a drawn chest, and data sets around it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from triage.phantom.film import phantom

ROWS, COLUMNS = 320, 256


@cache
def _chest() -> NDArray[np.float32]:
    return phantom(1).pixels


def film(bits: int = 12, rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.uint16]:
    """A drawn chest with a little grain, all values used; the same for every call."""
    drawn = Image.fromarray(_chest()).resize((columns, rows), Image.Resampling.BILINEAR)
    brightness = np.asarray(drawn) + np.random.default_rng(7).normal(0, 0.01, (rows, columns))
    brightness = (brightness - brightness.min()) / np.ptp(brightness)
    return np.rint(brightness * (2**bits - 1)).astype(np.uint16)


def data_set(pixels: NDArray[np.unsignedinteger], *, bits: int = 12, **elements: object) -> Dataset:
    """A film as a digital radiograph, uncompressed; ``elements`` by keyword replace those given here."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3", "1.2.3.0"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "AP"
    dataset.PatientAge = "003Y"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else pixels.shape[2]
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def compressed(dataset: Dataset, frame: bytes, transfer_syntax_uid: str) -> Dataset:
    dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def write(dataset: Dataset, path: Path) -> Path:
    """As a Part 10 file."""
    meta = dataset.file_meta
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    FileDataset(path, dataset, file_meta=meta, preamble=b"\0" * 128).save_as(path, enforce_file_format=True)
    return path
