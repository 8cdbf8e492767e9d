"""Labelled films on disk: which exist, what they show, and whose they are, so that no patient is in two splits."""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triage.errors import NotAnalysed, TriageError
from triage.vision.pixels import read_film

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from triage.study import PixelImage

NORMAL, BACTERIAL, VIRAL = 0, 1, 2
ENDINGS = (".jpeg", ".jpg", ".png", ".dcm", ".dicom", "")
# Of the folders: PNEUMONIA says nothing of the kind, the film's name does, if anything.
FOLDERS = {"normal": NORMAL, "bacterial": BACTERIAL, "viral": VIRAL, "pneumonia": None}
PATIENT = re.compile(r"(person|IM-)(\d+)[_-]", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class LabelledFilm:
    """``label``: index into the classes, None for a pneumonia of unstated kind. ``patient``: a key, not a name.

    ``fold``: where a table puts the film, None where chance decides.
    """

    path: Path
    pneumonia: bool
    label: int | None
    patient: str
    fold: int | None = None


def labelled_films(source: Path) -> list[LabelledFilm]:
    """Films of a folder or of a table, see ``films_of_folder`` and ``films_of_table``. Raise TriageError."""
    return films_of_table(source) if source.suffix.lower() == ".csv" else films_of_folder(source)


def films_of_table(table: Path) -> list[LabelledFilm]:
    """Films of a CSV with a header: ``path`` (from the table's folder), ``label``, ``patient`` and perhaps ``fold``.

    Labels are normal, bacterial, viral or pneumonia. Raise TriageError, naming the line, for one that makes no sense.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TriageError(f"{table}: cannot be read as a table ({error})") from error
    films = [film_of_row(row, f"{table}, line {line}", table.parent) for line, row in enumerate(rows, start=2)]
    if not both_kinds(films):
        raise TriageError(f"{table}: needs films of both kinds, normal and pneumonia")
    folds: dict[str, int | None] = {}
    for film in films:
        if folds.setdefault(film.patient, film.fold) != film.fold:
            raise TriageError(f"{table}: patient {film.patient!r} is in two folds; one patient belongs in one")
    return films


def film_of_row(row: dict[str, str | None], place: str, folder: Path) -> LabelledFilm:
    """Raise TriageError, saying ``place``."""
    path, label, patient = ((row.get(name) or "").strip() for name in ("path", "label", "patient"))
    if not path or not patient or label.lower() not in FOLDERS:
        raise TriageError(f"{place}: needs a path, a patient and a label among {', '.join(FOLDERS)}")
    fold = (row.get("fold") or "").strip()
    if not (folder / path).is_file():
        raise TriageError(f"{place}: no file {path}")
    if fold and not fold.isdigit():
        raise TriageError(f"{place}: fold {fold!r} is not a whole number from 0")
    return LabelledFilm(
        path=folder / path,
        pneumonia=label.lower() != "normal",
        label=FOLDERS[label.lower()],
        patient=patient,
        fold=int(fold) if fold else None,
    )


def films_of_folder(directory: Path) -> list[LabelledFilm]:
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


def folds_by_patient(films: Sequence[LabelledFilm], digests: Sequence[str], *, count: int, seed: int) -> list[int]:
    """Fold of each film, 0 to ``count`` - 1. Films of one patient, or with one digest, stay together.

    A group's fold is a hash of its patients and ``seed``, unless a table says otherwise: adding films moves no other.
    Raise TriageError if a fold lacks normal films or pneumonias, or a group of films is in two folds of a table.
    """
    folds = [-1] * len(films)
    for group in groups(films, digests):
        stated = {fold for i in group if (fold := films[i].fold) is not None}
        if len(stated) > 1 or max(stated, default=0) >= count:
            raise TriageError(f"{films[group[0]].path}: in two folds under two names, or beyond fold {count - 1}")
        chance = int(draw(min(films[i].patient for i in group), seed) * count)
        fold = stated.pop() if stated else chance
        for index in group:
            folds[index] = fold
    for fold in range(count):
        if not both_kinds([film for film, its in zip(films, folds, strict=True) if its == fold]):
            raise TriageError(f"too few patients for {count} folds: each needs both normal films and pneumonias")
    return folds


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
