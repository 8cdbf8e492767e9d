"""What networks say of films they were not fitted to, as they are and changed: logits, to be calibrated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from triage.learning.filmset import Films
from triage.learning.fitting import Recipe, View
from triage.vision.crop import cropped, widened
from triage.vision.efficientnet import EfficientNetLite0, channels_last
from triage.vision.folding import folded

_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """``plain``: logits (N, 3) of films as they are; ``shifted``: (copies, N, 3), each copy changed its own way."""

    plain: NDArray[np.float64]
    shifted: NDArray[np.float64]

    @classmethod
    def empty(cls, films: int, copies: int) -> Answers:
        return cls(plain=np.full((films, 3), np.nan), shifted=np.full((copies, films, 3), np.nan))

    def fill(self, rows: list[int], answers: Answers) -> None:
        self.plain[rows], self.shifted[:, rows] = answers.plain, answers.shifted

    def all(self) -> NDArray[np.float64]:
        """Logits ((1 + copies) N, 3): plain, then copy by copy."""
        return np.concatenate([self.plain, *self.shifted])

    def evenly(self) -> NDArray[np.float64]:
        """Logits (2 copies N, 3): the plain ones as often as there are changed ones, then copy by copy."""
        return np.concatenate([self.plain] * len(self.shifted) + [*self.shifted])


@torch.inference_mode()
def judged(network: EfficientNetLite0, films: Films, view: View, recipe: Recipe) -> Answers:
    """In float32, as in use. The copies depend on nothing but the films and the recipe's seed."""
    network = channels_last(folded(network)).to(view.device)
    generator = Generator(view.device).manual_seed(recipe.seed)
    parts = torch.split(torch.arange(len(films)), _AT_ONCE)
    plain = [network(view.z_score(plain_crops(films, rows, view))) for rows in parts]
    copies = [
        [network(view.z_score(view.changed(films, rows, generator))) for rows in parts]
        for _ in range(recipe.shifted_copies)
    ]
    return Answers(plain=_logits(plain), shifted=np.stack([_logits(copy) for copy in copies]))


def plain_crops(films: Films, rows: Tensor, view: View) -> Tensor:
    """As a classifier shows them to its network."""
    pixels, boxes = films.pixels[rows].to(view.device).float() / 255, films.boxes[rows].to(view.device)
    return cropped(pixels, widened(boxes, view.thorax.margin), view.thorax, view.preprocessing.stretch_percentiles)


def _logits(parts: list[Tensor]) -> NDArray[np.float64]:
    return torch.cat(parts).double().cpu().numpy()
