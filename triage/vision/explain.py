"""Why the network says what it says of one film: what speaks for pneumonia, what against, and where.

By perturbation (``superpixels``): parts of the crop are hidden by an even grey, which the network knows from training,
and the log-odds of pneumonia are fitted by the parts left in sight: M. T. Ribeiro et al., "Why Should I Trust You?",
KDD 2016. By gradient (``gradient``): at a map that still has a place, what differs from the map of an even grey times
the mean gradient on the way from there, summed over channels: M. Sundararajan et al., "Axiomatic Attribution for Deep
Networks", ICML 2017. Either shows what moves this network, not where disease is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.segmentation import slic
from torch import Tensor
from torch.nn import functional

from triage.vision.classifier import Classifier

SAMPLES = 400
SEGMENTS = 60
# The longer the thread from a part to the next, the rounder the parts: films have few edges to follow.
COMPACTNESS = 0.2
# Quantiles of the crop's grey levels, in which parts are hidden by turns.
GREYS = (0.2, 0.8)
# Of the exponential kernel over cosine distance, as in the paper's code.
KERNEL_WIDTH = 0.25
RIDGE = 1.0
# After these blocks the map has a sixteenth of the crop's side: the last that is not too coarse to show.
PLACED_BLOCKS = 11
# Of the way from the even grey; and which grey of the crop that is, as a quantile.
STEPS = 4
PLAIN_GREY = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution:
    """What each place adds to the log-odds of pneumonia; above 0 speaks for it.

    ``values`` float32 (S, S), of the crop; ``segments`` int (S, S) numbers its superpixels from 0, None where there are
    none. ``box``: where the crop lies on the film, as left, top, right, bottom in shares of its width and height.
    """

    values: NDArray[np.float32]
    segments: NDArray[np.int64] | None
    box: tuple[float, float, float, float]


def superpixels(film: NDArray[np.float32], classifier: Classifier, *, samples: int = SAMPLES) -> Attribution:
    """Film (size, size) in [0, 1], as ``pixels.prepare`` gives it. The same film always gives the same answer."""
    crop, box = crop_of(film, classifier)
    segments = segments_of(crop)
    shown, bright = masks(int(segments.max()) + 1, samples), np.arange(samples) % 2
    answers = log_odds_of(hidden(crop, segments, shown, greys_of(crop)[bright]), classifier)
    weights = fitted(np.column_stack([shown, bright]), answers)[:-1]  # what the grey itself says is left out
    return Attribution(values=weights[segments].astype(np.float32), segments=segments, box=box)


def gradient(film: NDArray[np.float32], classifier: Classifier) -> Attribution:
    """Film as above. Two passes forth and ``STEPS`` halves back: some 50 ms on one core."""
    crop, box = crop_of(film, classifier)
    plain = np.full_like(crop, np.quantile(crop, PLAIN_GREY))
    network = classifier.network
    with torch.no_grad():
        placed, nothing = network.blocks[:PLACED_BLOCKS](network.stem(classifier.normalised(np.stack([crop, plain]))))
    way = (torch.arange(STEPS, device=placed.device) + 0.5)[:, None, None, None] / STEPS
    between = torch.lerp(nothing[None], placed[None], way).requires_grad_()
    with torch.enable_grad():
        last = network.head(network.blocks[PLACED_BLOCKS:](between))
        (slopes,) = torch.autograd.grad(log_odds(network.fc(last.mean((2, 3)))).sum(), between)
    values = (slopes.mean(0) * (placed - nothing)).sum(0)  # (S / 16, S / 16)
    spread = functional.interpolate(values[None, None], crop.shape, mode="bicubic")[0, 0]
    return Attribution(values=spread.cpu().numpy(), segments=None, box=box)


def crop_of(
    film: NDArray[np.float32], classifier: Classifier
) -> tuple[NDArray[np.float32], tuple[float, float, float, float]]:
    """What the network is shown of a film, (S, S), and where it lies on it."""
    crops = classifier.crops(film[None])
    left, top, right, bottom = (float(side) for side in crops.boxes[0])
    return crops.pixels[0], (left, top, right, bottom)


def segments_of(crop: NDArray[np.float32]) -> NDArray[np.int64]:
    found = slic(crop, SEGMENTS, COMPACTNESS, sigma=1, start_label=0, channel_axis=None)
    return np.asarray(found, np.int64)


def masks(segments: int, samples: int) -> NDArray[np.float64]:
    """Which segments are shown, (samples, segments) of 0 and 1: at first all, then each by the toss of a coin."""
    shown = np.random.default_rng(0).integers(0, 2, (samples, segments)).astype(np.float64)
    shown[0] = 1
    return shown


def greys_of(crop: NDArray[np.float32]) -> NDArray[np.float32]:
    """A dark and a bright grey of the crop, (2): what is hidden by one alone would be found where the other is."""
    return np.quantile(crop, GREYS).astype(np.float32)


def hidden(
    crop: NDArray[np.float32], segments: NDArray[np.int64], shown: NDArray[np.float64], greys: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Crops (samples, S, S) with the segments that are not shown each in its sample's grey (samples)."""
    return np.where(shown[:, segments] > 0, crop, greys[:, None, None]).astype(np.float32)


def log_odds_of(crops: NDArray[np.float32], classifier: Classifier) -> NDArray[np.float64]:
    """Calibrated log-odds of pneumonia (N) of crops (N, S, S)."""
    with torch.inference_mode():
        return np.asarray(log_odds(classifier.crop_logits(crops)).cpu().numpy(), np.float64)


def log_odds(logits: Tensor) -> Tensor:
    """Logits (N, 3) to ln(P(pneumonia) / P(normal)), (N)."""
    return torch.logsumexp(logits[:, 1:], 1) - logits[:, 0]


def fitted(shown: NDArray[np.float64], answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight of each column (columns): ridge regression, samples that hide little counting more."""
    distance = 1 - np.sqrt(shown.mean(1))  # cosine distance to all shown
    weight = np.exp(-((distance / KERNEL_WIDTH) ** 2))
    centred, aim = (x - np.average(x, axis=0, weights=weight) for x in (shown, answers))
    square = (centred * weight[:, None]).T @ centred + RIDGE * np.eye(shown.shape[1])
    return np.asarray(np.linalg.solve(square, (centred * weight[:, None]).T @ aim), np.float64)
