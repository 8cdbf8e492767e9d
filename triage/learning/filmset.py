"""Labelled films in memory, as training takes them: one array of pixels, read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triage.card import Preprocessing
from triage.errors import TriageError
from triage.learning.augmentation import histograms_of
from triage.learning.films import LabelledFilm, labelled_films, read_labelled, split_by_patient
from triage.vision.pixels import prepare


@dataclass(frozen=True, kw_only=True, eq=False)
class Films:
    """``pixels`` uint8 (N, 1, size, size) after the stretch, ``labels`` int64 (N), ``histograms`` float32 (N, 256)."""

    films: Sequence[LabelledFilm]
    pixels: Tensor
    labels: Tensor
    histograms: Tensor

    def __len__(self) -> int:
        return len(self.films)

    def digests(self) -> list[str]:
        """Of the pixels of each film, in order."""
        return [hashlib.sha256(film.numpy().tobytes()).hexdigest() for film in self.pixels]

    def at(self, indices: Sequence[int]) -> Films:
        rows = torch.tensor(indices)
        return Films(
            films=[self.films[i] for i in indices],
            pixels=self.pixels[rows],
            labels=self.labels[rows],
            histograms=self.histograms[rows],
        )


def load_films(directory: Path, preprocessing: Preprocessing, progress: Callable[[str], None]) -> Films:
    """Raise TriageError where a film is unreadable or a pneumonia's kind is not stated."""
    films = labelled_films(directory)
    if unknown := [film for film in films if film.label is None]:
        raise TriageError(f"{unknown[0].path}: neither folder nor name says bacterial or viral, {len(unknown)} such")
    progress(f"reading {len(films)} films")
    pixels = torch.empty(len(films), 1, preprocessing.size_px, preprocessing.size_px, dtype=torch.uint8)
    for index, film in enumerate(films):
        prepared = prepare(read_labelled(film), preprocessing)
        pixels[index, 0] = torch.from_numpy(np.rint(prepared * 255).astype(np.uint8))
    labels = torch.tensor([film.label for film in films])
    return Films(films=films, pixels=pixels, labels=labels, histograms=histograms_of(pixels))


def split(films: Films, *, share: float, seed: int, strangers: set[str]) -> tuple[Films, Films]:
    """Films to train on and to validate on; see ``split_by_patient``."""
    sides = split_by_patient(films.films, films.digests(), share=share, seed=seed, held_out=strangers)
    training, validation = (films.at(side) for side in sides)
    return training, validation
