"""Labelled films on disk: which exist, what they show, and whose they are, so that no patient is in two splits."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triage.errors import NotAnalysed, TriageError
from triage.vision.pixels import read_film

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from triage.study import PixelImage

NORMAL, BACTERIAL, VIRAL = 0, 1, 2
ENDINGS = (".jpeg", ".jpg", ".png", ".dcm", ".dicom", "")
# Of the folders: PNEUMONIA says nothing of the kind, the film's name does, if anything.
FOLDERS = {"normal": NORMAL, "bacterial": BACTERIAL, "viral": VIRAL, "pneumonia": None}
PATIENT = re.compile(r"(person|IM-)(\d+)[_-]", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class LabelledFilm:
    """``label``: index into the classes, None for a pneumonia of unstated kind. ``patient``: a key, not a name."""

    path: Path
    pneumonia: bool
    label: int | None
    patient: str


def labelled_films(directory: Path) -> list[LabelledFilm]:
    """Films in folders NORMAL and PNEUMONIA (or normal, bacterial, viral; any case), ordered by folder and name.

    Raise TriageError if there is no such folder, or not both normal films and pneumonias.
    """
    if not directory.is_dir():
        raise TriageError(f"{directory}: not a folder")
    folders = sorted(d for d in directory.iterdir() if d.is_dir() and d.name.lower() in FOLDERS)
    if not folders:
        raise TriageError(f"{directory}: no folders NORMAL and PNEUMONIA (or normal, bacterial, viral)")
    films = [labelled(path) for folder in folders for path in sorted(folder.iterdir()) if is_film(path)]
    if not both_kinds(films):
        raise TriageError(f"{directory}: needs films of both kinds, normal and pneumonia")
    return films


def both_kinds(films: Sequence[LabelledFilm]) -> bool:
    return {film.pneumonia for film in films} == {False, True}


def is_film(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in ENDINGS


def labelled(path: Path) -> LabelledFilm:
    label = FOLDERS[path.parent.name.lower()]
    if label is None:
        name = path.name.lower()
        label = BACTERIAL if "bacteria" in name else VIRAL if "virus" in name or "viral" in name else None
    return LabelledFilm(path=path, pneumonia=label != NORMAL, label=label, patient=patient_of(path.name))


def patient_of(name: str) -> str:
    """``person7_bacteria_1``, ``person7_virus_2`` -> one key; ``IM-0001-0002``, ``NORMAL2-IM-0001-0001`` -> another.

    A name of no known form is a patient of its own.
    """
    found = PATIENT.search(name)
    return f"{found[1].lower()}{int(found[2])}" if found else name


def read_labelled(film: LabelledFilm) -> PixelImage:
    """Raise TriageError, naming the file, if it cannot be read: these are training films, not patients' studies."""
    try:
        return read_film(film.path)
    except (NotAnalysed, OSError) as error:
        raise TriageError(f"{film.path}: cannot be read as a film ({error})") from error


def split_by_patient(
    films: Sequence[LabelledFilm], digests: Sequence[str], *, share: float, seed: int, held_out: Iterable[str] = ()
) -> tuple[list[int], list[int]]:
    """Indices for training and for validation. Films of one patient, or with one digest, stay together.

    A group's place is a hash of its patients and ``seed``, so adding films moves no other. Patients ``held_out`` go to
    validation. Raise TriageError if either side lacks normal films or pneumonias.
    """
    held = set(held_out)
    training: list[int] = []
    validation: list[int] = []
    for group in groups(films, digests):
        patients = sorted({films[i].patient for i in group})
        side = validation if held.intersection(patients) or draw(patients[0], seed) < share else training
        side.extend(group)
    for side in (training, validation):
        if not both_kinds([films[i] for i in side]):
            raise TriageError("too few patients to split: each side needs both normal films and pneumonias")
    return sorted(training), sorted(validation)


def groups(films: Sequence[LabelledFilm], digests: Sequence[str]) -> list[list[int]]:
    """Indices of films that share a patient or a digest, directly or through others."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for film, digest in zip(films, digests, strict=True):
        parent[root(f"film {digest}")] = root(f"patient {film.patient}")
    together: dict[str, list[int]] = {}
    for index, film in enumerate(films):
        together.setdefault(root(f"patient {film.patient}"), []).append(index)
    return list(together.values())


def draw(key: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on nothing but its arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8]) / 2**64
