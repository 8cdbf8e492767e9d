"""Where the thorax is on a film, and whether the film looks like a frontal chest film at all: one small network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from triage.card import Thorax
from triage.vision.bars import cut, inside, repeated, uncut
from triage.vision.efficientnet import STEM_CHANNELS, ConvNorm, inverted_residuals

SIDE_PX = 112
TRUNK_BLOCKS, TRUNK_CHANNELS, GRID = 9, 112, 7  # of EfficientNet-Lite0, up to a sixteenth of the side
NARROW_CHANNELS = 24
# A child's thorax on most films: left, top, right, bottom.
USUAL_BOX = (0.1, 0.13, 0.9, 0.92)
MEAN, DEVIATION = 0.59, 0.29


class Locator(nn.Module):
    """Films (N, 1, H, W) in [0, 1] as ``pixels.prepare`` gives them, to boxes (N, 4) and likeness (N).

    Boxes are left, top, right, bottom in shares of the film, and may reach beyond it. Likeness is above 0 for what
    looks like a frontal chest film, upright or mirrored, and 0 or less for anything else; its size is no probability.
    """

    usual_box: Tensor
    centre: Tensor
    whitening: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, STEM_CHANNELS, kernel=3, stride=2)
        self.blocks = nn.Sequential(*inverted_residuals()[:TRUNK_BLOCKS])
        self.box = place(4)
        self.chest = place(1)
        self.register_buffer("usual_box", torch.tensor(USUAL_BOX), persistent=False)
        self.register_buffer("centre", torch.zeros(TRUNK_CHANNELS))
        self.register_buffer("whitening", torch.zeros(TRUNK_CHANNELS, TRUNK_CHANNELS))

    def forward(self, films: Tensor) -> tuple[Tensor, Tensor]:
        found = self.features(films)
        return self.boxes(found), torch.minimum(self.chest_logit(found), self.familiarity(found))

    def features(self, films: Tensor) -> Tensor:
        """Return the map (N, 112, 7, 7)."""
        if films.shape[2:] != (SIDE_PX, SIDE_PX):
            films = functional.interpolate(films, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)
        films = ((films - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)
        found: Tensor = self.blocks(self.stem(films))
        return found

    def boxes(self, found: Tensor) -> Tensor:
        off: Tensor = self.box(found)
        return self.usual_box + 0.3 * off

    def chest_logit(self, found: Tensor) -> Tensor:
        """Of (N): a chest film rather than one of the impostors it was trained with."""
        logit: Tensor = self.chest(found)
        return logit[:, 0]

    def familiarity(self, found: Tensor) -> Tensor:
        """Of (N): 1 at the centre of the films trained on, 0 where hardly any of them lies, whatever else is there.

        By Mahalanobis distance, as K. Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution
        Samples", NeurIPS 2018: kinds of impostors that nobody thought of are far from the films, too.
        """
        strange = (found.mean((2, 3)) - self.centre) @ self.whitening.T
        return 1 - strange.square().sum(1)


def located(
    locator: Locator, films: Tensor, thorax: Thorax, percentiles: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Films (N, 1, S, S) in [0, 1] to films to be cropped (N, 1, S, S), boxes (N, 4) on them and likeness (N).

    Without bars, if the card says so: neither the locator sees them nor what is cropped, which repeats the edge there.
    """
    if not thorax.without_bars:
        return films, *locator(films)
    ranges = inside(films)
    boxes, likeness = locator(cut(films, ranges, percentiles))
    return repeated(films, ranges), uncut(boxes, ranges, films), likeness


def place(numbers: int) -> nn.Sequential:
    """From a map to a few numbers that depend on what is where."""
    return nn.Sequential(
        nn.Conv2d(TRUNK_CHANNELS, NARROW_CHANNELS, 1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(NARROW_CHANNELS * GRID * GRID, numbers),
    )
