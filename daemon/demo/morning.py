"""An invented morning of films, written as DICOM files: what the demonstration's sender sends.

Films are synthetic, or real ones from a folder; the patients are always invented, save for DICOM files of the folder,
which go out as they are. What a film is said to show (its truth) never enters the files.
"""

from __future__ import annotations

import importlib.util
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from triage.errors import NotAnalysed
from triage.phantom.film import Pneumonia, phantom
from triage.vision.part10 import MAGIC, PREAMBLE_BYTES
from triage.vision.pixels import read_film

Truth = Literal["normal", "bacterial", "viral", "pneumonia", ""]
Paint = Callable[[], NDArray[np.float32]]

SURNAMES = ("Invented", "Madeup", "Imaginary", "Pretend", "Fictional", "Makebelieve")
NAMES = ("Apricot", "Bramble", "Clementine", "Damson", "Elder", "Fig", "Gooseberry", "Hazel", "Juniper", "Kumquat")
SYNTAXES = (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, ImplicitVRLittleEndian, JPEGLSLossless)
PRIORITIES = {4: "HIGH", 9: "STAT", 15: "HIGH"}  # by place in the morning; the others are ROUTINE
PNEUMONIAS: tuple[Pneumonia, ...] = ("bacterial", "viral")
SHARE_OF_PNEUMONIAS = 0.36  # more than in life, so that a short morning shows something
STORED_MAX = 4095  # 12 bits
PICTURES = frozenset({".jpg", ".jpeg", ".png"})
# Real films that anybody can have: an adult's chest (MONOCHROME1) and a leg. Neither is for this classifier.
PUBLIC_FILMS = {"RG1_J2KR.dcm": "an adult's chest", "RG3_UNCR.dcm": "a leg"}


@dataclass(frozen=True, kw_only=True)
class Film:
    """One film of the morning: ``file`` if it goes out as it is, else ``paint`` gives float32 (H, W) in [0, 1]."""

    shows: str
    truth: Truth = ""
    paint: Paint | None = None
    file: Path | None = None
    fresh_uids: bool = False


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A film as a file ready to be sent."""

    path: Path
    film: Film
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str


def synthetic_morning(count: int, seed: int) -> list[Film]:
    """``count`` films, mixed: synthetic ones, and the public ones where their package is installed."""
    public = [Film(shows=shows, file=file, fresh_uids=True) for file, shows in public_films()][: max(0, count - 2)]
    drawn = count - len(public)
    sick = round(drawn * SHARE_OF_PNEUMONIAS)
    kinds = [PNEUMONIAS[i % 2] if i < sick else None for i in range(drawn)]
    films = [_synthetic(seed * 1000 + i, kind) for i, kind in enumerate(kinds)] + public
    random.Random(seed).shuffle(films)
    return films


def _synthetic(seed: int, kind: Pneumonia | None) -> Film:
    truth: Truth = kind or "normal"
    return Film(shows=f"synthetic, {truth}", truth=truth, paint=lambda: phantom(seed, kind).pixels)


def public_films() -> Iterator[tuple[Path, str]]:
    """Films of the package pydicom-data, from its folder: nothing is ever downloaded."""
    package = importlib.util.find_spec("data_store")
    for folder in (package.submodule_search_locations or []) if package else []:
        for name, shows in PUBLIC_FILMS.items():
            file = Path(folder) / "data" / name
            if file.is_file():
                yield file, shows


def morning_from(folder: Path, count: int, seed: int) -> list[Film]:
    """At most ``count`` films of a folder and those below it, mixed; empty if it has none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and (_is_picture(path) or _is_dicom(path)))
    draw = random.Random(seed)
    chosen = draw.sample(files, min(count, len(files)))
    return [_found(path, truth_of(path, folder)) for path in chosen]


def _found(path: Path, truth: Truth) -> Film:
    shows = f"film, {truth or 'not labelled'}"
    if _is_picture(path):
        return Film(shows=shows, truth=truth, paint=lambda: read_film(path).pixels)
    return Film(shows=shows, truth=truth, file=path)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(PREAMBLE_BYTES + len(MAGIC))[PREAMBLE_BYTES:] == MAGIC


def truth_of(path: Path, folder: Path) -> Truth:
    """What the names say, the file's before its folders': normal, bacterial, viral or pneumonia; "" if nothing."""
    parts = [path.stem, *reversed(path.relative_to(folder).parts[:-1]), folder.resolve().name]
    words: dict[str, Truth] = {
        "bacteri": "bacterial",
        "vir(us|al)": "viral",
        "pneumonia": "pneumonia",
        "normal": "normal",
    }
    for part in parts:
        said = [truth for word, truth in words.items() if re.search(rf"(?<![a-z]){word}", part.lower())]
        if said:
            return "" if "normal" in said and len(said) > 1 else said[0]
    return ""


def prepare(films: Sequence[Film], outbox: Path, seed: int) -> Iterator[Prepared]:
    """Write the films to ``outbox`` one by one; one that cannot be read is left out."""
    draw = random.Random(seed)
    for number, film in enumerate(films):
        try:
            dataset = _dataset(film, number, draw)
        except NotAnalysed:
            continue
        path = outbox / f"{number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        yield Prepared(
            path=path,
            film=film,
            sop_class_uid=str(dataset.file_meta.MediaStorageSOPClassUID),
            transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
            study_instance_uid=str(dataset.StudyInstanceUID),
        )


def _dataset(film: Film, number: int, draw: random.Random) -> Dataset:
    if film.paint is not None:
        dataset = invented_study(number, draw)
        _put_pixels(dataset, film.paint(), inverted=number % 5 == 1)
        _compress(dataset, SYNTAXES[number % len(SYNTAXES)])
        return dataset
    dataset = dcmread(film.file or Path())
    if film.fresh_uids:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(dataset, keyword, generate_uid())
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def invented_study(number: int, draw: random.Random) -> Dataset:
    """Everything of a child's chest film but its pixels. Names say that nobody is meant."""
    now = datetime.now(UTC)
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.Modality = "CR" if number % 2 else "DX"
    dataset.SOPClassUID = ComputedRadiographyImageStorage if number % 2 else DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (generate_uid() for _ in range(3))
    dataset.PatientName = f"{SURNAMES[number // len(NAMES) % len(SURNAMES)]}^{NAMES[number % len(NAMES)]}"
    dataset.PatientID = f"DEMO-{number + 1:04d}"
    dataset.PatientAge = f"{draw.randint(1, 5):03d}Y"
    dataset.PatientSex = draw.choice("FMO")
    dataset.AccessionNumber = f"DEMO{number + 1:06d}"
    dataset.StudyDate, dataset.StudyTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.StudyDescription = "CHEST AP (DEMONSTRATION)"
    dataset.BodyPartExamined, dataset.ViewPosition = "CHEST", "AP"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.RequestedProcedurePriority = PRIORITIES.get(number, "ROUTINE")
    dataset.Manufacturer = "Invented for a demonstration"
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    return dataset


def _put_pixels(dataset: Dataset, film: NDArray[np.float32], *, inverted: bool) -> None:
    stored = np.rint(np.clip(film, 0, 1) * STORED_MAX).astype(np.uint16)
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = (STORED_MAX - stored if inverted else stored).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def _compress(dataset: Dataset, syntax: UID) -> None:
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    elif syntax.is_compressed:
        stored = dataset.pixel_array
        stream = (
            imagecodecs.jpegls_encode(stored)
            if syntax == JPEGLSLossless
            else imagecodecs.jpeg2k_encode(stored, codecformat="j2k", level=0, reversible=True, bitspersample=12)
        )
        dataset.PixelData = encapsulate([bytes(stream)])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
