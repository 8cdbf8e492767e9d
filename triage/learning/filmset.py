"""Labelled films in memory, as training takes them: one array of pixels, read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triage.card import Preprocessing
from triage.errors import TriageError
from triage.learning.augmentation import histograms_of
from triage.learning.blocks import Pixels, deblocked
from triage.learning.films import LabelledFilm, labelled_films, read_labelled
from triage.vision.pixels import prepare

_READERS = 4
_JPEG = (".jpeg", ".jpg")


@dataclass(frozen=True, kw_only=True, eq=False)
class Films:
    """``pixels`` uint8 (N, 1, size, size) after the stretch, ``labels`` int64 (N), ``histograms`` float32 (N, 256).

    ``smooth``: the same as ``pixels`` without the blocks of JPEG, where films came with them at this size.
    ``boxes`` float32 (N, 4): of the thorax, as left, top, right, bottom in shares; the whole film until it is located.
    """

    films: Sequence[LabelledFilm]
    pixels: Tensor
    smooth: Tensor
    labels: Tensor
    histograms: Tensor
    boxes: Tensor

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
            smooth=self.smooth[rows],
            labels=self.labels[rows],
            histograms=self.histograms[rows],
            boxes=self.boxes[rows],
        )


def load_films(directory: Path, preprocessing: Preprocessing, progress: Callable[[str], None]) -> Films:
    """Raise TriageError where a film is unreadable or a pneumonia's kind is not stated."""
    films = labelled_films(directory)
    if unknown := [film for film in films if film.label is None]:
        raise TriageError(f"{unknown[0].path}: neither folder nor name says bacterial or viral, {len(unknown)} such")
    progress(f"reading {len(films)} films")
    with ThreadPoolExecutor(_READERS) as readers:  # Pillow lets go of the lock
        read = list(readers.map(partial(pixels_of, preprocessing=preprocessing), films))
    pixels, smooth = (torch.from_numpy(np.stack(some))[:, None] for some in zip(*read, strict=True))
    labels = torch.tensor([film.label for film in films])
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(films), 1)
    return Films(
        films=films, pixels=pixels, smooth=smooth, labels=labels, histograms=histograms_of(pixels), boxes=whole
    )


def pixels_of(film: LabelledFilm, preprocessing: Preprocessing) -> tuple[Pixels, Pixels]:
    """Grey levels (size, size), as they are and without blocks. Raise TriageError, naming the file."""
    image = read_labelled(film)
    levels = np.rint(prepare(image, preprocessing) * 255).astype(np.uint8)
    has_blocks = film.path.suffix.lower() in _JPEG and max(image.pixels.shape) < 2 * preprocessing.size_px
    return levels, deblocked(levels) if has_blocks else levels
