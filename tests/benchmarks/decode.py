"""Milliseconds from a file to probabilities, by size and compression: decoding, preparing, and the network.

Beside it pydicom with pylibjpeg, which only decodes; and the floor, the bytes of file and pixels over the rate at which
this machine copies memory, measured in the same turns.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.pixels import pixel_array
from pydicom.uid import JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1
from rich.console import Console
from rich.table import Table

from tests import synthetic
from tests.benchmarks import figures, network
from triage.card import Preprocessing
from triage.vision.pixels import prepare, read_dicom

SIDE, BITS = 2048, 12
SMALL = 224
ROUNDS = 5
COPIED_BYTES = 64 * 2**20


def measure(out: Path) -> bool:
    """No goal: figures only."""
    devices = {device: network.loaded(device) for device in network.devices()}
    preprocessing = devices["cpu"].card.preprocessing
    passes = {device: network.rates(classifier)[network.SERVED] for device, classifier in devices.items()}
    kinds = made()
    seconds = {kind: timed(file, preprocessing) for kind, file in kinds.items()}
    show(seconds, passes)
    figures.keep(out, "decode", {"seconds": seconds, "network_seconds_a_film": passes})
    return True


def made() -> dict[str, bytes]:
    """The same synthetic film in each form, as Part 10 files."""
    film = synthetic.film(BITS, SIDE, SIDE)
    plain = synthetic.data_set(film, bits=BITS)
    small = synthetic.data_set(synthetic.film(8, SMALL, SMALL).astype(np.uint8), bits=8)
    jpeg = partial(imagecodecs.jpeg8_encode, film, lossless=True, bitspersample=BITS)
    jpeg_2000 = imagecodecs.jpeg2k_encode(film, codecformat="J2K", reversible=True, bitspersample=BITS)
    frames = {
        "JPEG lossless .57": (JPEGLossless, jpeg(predictor=6)),
        "JPEG lossless .70": (JPEGLosslessSV1, jpeg(predictor=1)),
        "JPEG 2000 .90": (JPEG2000Lossless, jpeg_2000),
    }
    files = {f"{SMALL} px": filed(small), f"{SIDE} px": filed(plain)}
    for name, (syntax, frame) in frames.items():
        compressed = synthetic.compressed(synthetic.data_set(film, bits=BITS), frame, syntax)
        files[f"{SIDE} px, {name}"] = filed(compressed)
    return files


def filed(dataset: pydicom.Dataset) -> bytes:
    file = io.BytesIO()
    meta = dataset.file_meta
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def timed(file: bytes, preprocessing: Preprocessing) -> dict[str, float]:
    blank = np.zeros(COPIED_BYTES, np.uint8)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: prepare(read_dicom(io.BytesIO(file)), preprocessing),
        "peer": partial(by_pydicom, file),
        "copy": blank.copy,
    }
    seconds = figures.in_turns(ways, ROUNDS)
    pixels = by_pydicom(file).nbytes
    return {**seconds, "floor": (len(file) + pixels) * seconds.pop("copy") / COPIED_BYTES}


def by_pydicom(file: bytes) -> np.ndarray:
    dataset = pydicom.dcmread(io.BytesIO(file))
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    return pixel_array(dataset, decoding_plugin="pylibjpeg" if compressed else "")


def show(seconds: dict[str, dict[str, float]], passes: dict[str, dict[int, float]]) -> None:
    table = Table(title="From a file to probabilities, milliseconds a film")
    columns = ["", "decode", "floor", "pydicom"]
    for device in passes:
        columns += [f"+ {device}, one", f"+ {device}, many"]
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    for kind, found in seconds.items():
        row = [found["ours"], found["floor"], found["peer"]]
        for of_batch in passes.values():
            row += [found["ours"] + of_batch[1], found["ours"] + min(of_batch.values())]
        table.add_row(kind, *(f"{1000 * each:.1f}" for each in row))
    table.caption = (
        "decode: with preparation, in this process. pydicom: decoding alone. one, many: with the network, one film or "
        "the best batch; sums of medians, though in the worker decoding and network overlap."
    )
    Console().print(table)
