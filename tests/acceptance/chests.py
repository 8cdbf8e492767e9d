"""Invented chest films as files, and the same film in the syntaxes that PACS send."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from pydicom import Dataset
from pydicom.uid import JPEG2000, HTJ2KLossless, JPEG2000Lossless, generate_uid

import synthetic

CR = "1.2.840.10008.5.1.4.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
PRIVATE = "1.3.6.1.4.1.55555.1.1"


@dataclass(frozen=True, kw_only=True)
class Film:
    """A file, and what it says of itself."""

    path: Path
    study: str
    sop: str
    dataset: Dataset


def chest(folder: Path, *, side: int = 512, bits: int = 12, **elements: Any) -> Film:
    """A small child's frontal film, Explicit VR Little Endian; ``elements`` by keyword, None deletes."""
    pixels = synthetic.film(bits=bits, rows=side, columns=side)
    if bits == 8:
        pixels = pixels.astype(np.uint8)
    return filed(folder, dataset(pixels, bits=bits, **elements))


def dataset(pixels: np.ndarray, *, bits: int = 12, **elements: Any) -> Dataset:
    """Each has UIDs of its own."""
    made = synthetic.data_set(pixels, bits=bits)
    made.SOPClassUID, made.Modality = CR, "CR"
    made.SOPInstanceUID, made.StudyInstanceUID, made.SeriesInstanceUID = (generate_uid() for _ in range(3))
    made.PatientName, made.PatientID, made.StudyDate = "Invented^Child", "INV-1", "20260105"
    for keyword, value in elements.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def filed(folder: Path, made: Dataset) -> Film:
    folder.mkdir(exist_ok=True)
    path = synthetic.write(made, folder / f"{made.SOPInstanceUID[-24:]}.dcm")
    return Film(path=path, study=made.StudyInstanceUID, sop=made.SOPInstanceUID, dataset=made)


def bare(sop_class_uid: str, modality: str) -> Dataset:
    """An object without an image."""
    made = Dataset()
    made.file_meta = synthetic.data_set(synthetic.film()).file_meta
    made.SOPClassUID, made.Modality = sop_class_uid, modality
    made.SOPInstanceUID, made.StudyInstanceUID, made.SeriesInstanceUID = (generate_uid() for _ in range(3))
    made.PatientName, made.PatientID = "Invented^Child", "INV-2"
    return made


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """A transfer syntax: how dcmtk makes it of an uncompressed film, and how its storescu proposes it."""

    name: str
    make: tuple[str, ...]
    propose: str

    def compressed(self, film: Film, dcmtk: Path) -> Path:
        """The same film, same identifiers, in this syntax."""
        out = film.path.with_suffix(f".{self.name}.dcm")
        program, *options = self.make
        subprocess.run([dcmtk / program, *options, film.path, out], check=True, capture_output=True)
        return out


LOSSLESS = (
    Syntax(name="explicit", make=("dcmconv", "+te"), propose="-x="),
    Syntax(name="implicit", make=("dcmconv", "+ti"), propose="-xi"),
    Syntax(name="rle", make=("dcmcrle",), propose="-xr"),
    Syntax(name="jpeg-lossless", make=("dcmcjpeg", "+e1", "+un"), propose="-xs"),
    Syntax(name="jpeg-ls", make=("dcmcjpls", "+el", "+un"), propose="-xt"),
)
BASELINE = Syntax(name="jpeg-baseline", make=("dcmcjpeg", "+eb", "+un"), propose="-xy")
EXTENDED = Syntax(name="jpeg-extended", make=("dcmcjpeg", "+ee", "+bt", "+un"), propose="-xx")
# Process 14 with any selection value; storescu can propose only the one above, dcmsend both.
ANY_SELECTION = Syntax(name="jpeg-lossless-any", make=("dcmcjpeg", "+el", "+sv", "6", "+un"), propose="")

# dcmtk can carry JPEG 2000 but not make it.
WAVELETS: dict[str, Callable[[np.ndarray], bytes]] = {
    JPEG2000Lossless: partial(imagecodecs.jpeg2k_encode, codecformat="J2K", reversible=True, bitspersample=12),
    JPEG2000: partial(imagecodecs.jpeg2k_encode, codecformat="J2K", level=90),
    HTJ2KLossless: partial(imagecodecs.htj2k_encode, reversible=True),
}


def wavelets(folder: Path, syntax: str) -> Film:
    """A small child's frontal film of 12 bits in JPEG 2000 or HTJ2K."""
    pixels = synthetic.film(rows=512, columns=512)
    return filed(folder, synthetic.compressed(dataset(pixels), WAVELETS[syntax](pixels), syntax))
