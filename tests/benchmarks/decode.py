"""Milliseconds from a film's bytes to what the network gets, by compression: read, decoded and prepared, one thread.

Beside it the same with the whole film decoded, and pydicom with its plug-ins, which only decodes. All take turns.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.pixels import pixel_array
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests import synthetic
from tests.benchmarks import figures, network
from triage.card import Preprocessing
from triage.vision.classifier import Classifier
from triage.vision.pixels import prepare, read_dicom

SIDE, BITS = 2048, 12
ROUNDS = 9
# Milliseconds on two quiet cores of an AMD EPYC.
GOALS = {
    "uncompressed": 12,
    "RLE": 25,
    "lossless .57": 40,
    "lossless .70": 40,
    "JPEG-LS": 105,
    "JPEG 2000": 45,
    "HTJ2K": 12,
}
# Of P(pneumonia), between the reduced and the whole film.
MOST_MOVED = 0.01


@dataclass(frozen=True, kw_only=True)
class Row:
    """Seconds, and how far P(pneumonia) lies from that of the film decoded whole."""

    ours: float
    whole: float
    peer: float
    moved: float
    goal: float

    def figures(self, name: str) -> tuple[figures.Figure, figures.Figure]:
        peer = "pydicom, decoding alone,", 1000 * self.peer
        whole = figures.by_limit(f"{name}: read, decoded, prepared", 1000 * self.ours, "ms", 1000 * self.goal, peer)
        return whole, figures.by_limit(f"{name}: P moved from the whole film's", self.moved, "", MOST_MOVED)


def measure(out: Path) -> list[figures.Figure]:
    classifier = network.loaded("cpu")
    rows = {name: measured(file, GOALS[name] / 1000, classifier) for name, file in made().items()}
    told = [figure for name, row in rows.items() for figure in row.figures(name)]
    figures.keep(out, "decode", told, {"seconds": {name: asdict(row) for name, row in rows.items()}})
    return told


def made() -> dict[str, bytes]:
    """The same drawn film in each form, as Part 10 files."""
    film = synthetic.film(BITS, SIDE, SIDE)
    jpeg = partial(imagecodecs.jpeg8_encode, film, lossless=True, bitspersample=BITS)
    frames = {
        "lossless .57": (JPEGLossless, jpeg(predictor=6)),
        "lossless .70": (JPEGLosslessSV1, jpeg(predictor=1)),
        "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode(film)),
        "JPEG 2000": (
            JPEG2000Lossless,
            imagecodecs.jpeg2k_encode(film, codecformat="J2K", reversible=True, bitspersample=BITS),
        ),
        "HTJ2K": (HTJ2KLossless, imagecodecs.htj2k_encode(film, reversible=True)),
    }
    runs = synthetic.data_set(film, bits=BITS)
    runs.compress(RLELossless, encoding_plugin="pylibjpeg")
    files = {"uncompressed": filed(synthetic.data_set(film, bits=BITS)), "RLE": filed(runs)}
    for name, (syntax, frame) in frames.items():
        files[name] = filed(synthetic.compressed(synthetic.data_set(film, bits=BITS), frame, syntax))
    return files


def filed(dataset: pydicom.Dataset) -> bytes:
    file = io.BytesIO()
    meta = dataset.file_meta
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def measured(file: bytes, goal: float, classifier: Classifier) -> Row:
    preprocessing = classifier.card.preprocessing
    reduced, whole = partial(reduced_film, file, preprocessing), partial(whole_film, file, preprocessing)
    ways: dict[str, Callable[[], object]] = {"ours": reduced, "whole": whole, "peer": partial(by_pydicom, file)}
    seconds = figures.in_turns(ways, ROUNDS)
    normal = classifier.score(np.stack([reduced(), whole()]))[:, 0]
    return Row(**seconds, moved=float(abs(normal[0] - normal[1])), goal=goal)


def reduced_film(file: bytes, preprocessing: Preprocessing) -> np.ndarray:
    return prepare(read_dicom(io.BytesIO(file), preprocessing.size_px), preprocessing)


def whole_film(file: bytes, preprocessing: Preprocessing) -> np.ndarray:
    return prepare(read_dicom(io.BytesIO(file)), preprocessing)


def by_pydicom(file: bytes) -> np.ndarray:
    dataset = pydicom.dcmread(io.BytesIO(file))
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    plugin = "pyjpegls" if dataset.file_meta.TransferSyntaxUID == JPEGLSLossless else "pylibjpeg"
    return pixel_array(dataset, decoding_plugin=plugin if compressed else "")
