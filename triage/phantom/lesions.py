"""Pneumonia drawn into the lungs of a phantom: filled air spaces (bacterial) or thickened interstitium (viral)."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from triage.phantom.anatomy import HEIGHT, WIDTH, Layer, X, Y, blurred, clouds, step
from triage.phantom.organs import HILA, Tree

# Centre and half axes of what a lobe shows from the front; the right middle and the left lower lobe hide borders.
LOBES = {
    "right upper": (-0.46, 0.32, 0.40, 0.30),
    "right middle": (-0.42, 0.86, 0.40, 0.26),
    "right lower": (-0.55, 0.96, 0.44, 0.36),
    "left upper": (0.46, 0.42, 0.38, 0.36),
    "left lower": (0.52, 0.95, 0.46, 0.38),
}


def consolidation(tissue: Layer, air: Layer, rng: Generator) -> Layer:
    """Fill two or three lobes, leaving the bronchi open, dark branches in white; some streaks elsewhere."""
    filled = np.zeros((HEIGHT, WIDTH), np.float32)
    for name in rng.choice(list(LOBES), size=int(rng.choice((2, 2, 3))), replace=False):
        filled = np.maximum(filled, _lobe(LOBES[name], rng))
    haze = blurred(filled, 0.14) * 0.45
    filled = np.maximum(filled, haze) * np.clip(0.9 + 0.12 * clouds(rng, 0.12, 3), 0.3, 1)
    open_bronchi = _strands(rng, 0.011, 5) * filled
    filled = np.clip(filled - 0.4 * open_bronchi, 0, 1)
    lobar = tissue + filled * np.maximum(air * 0.95 - tissue, 0)
    return interstitial(lobar, air, rng, strength=rng.uniform(0.8, 1.1))


def _lobe(place: tuple[float, float, float, float], rng: Generator) -> Layer:
    x, y, width, height = place
    size = rng.uniform(1.0, 1.4)
    x, y = x + rng.normal(0, 0.04), y + rng.normal(0, 0.04)
    radius = np.hypot((X - x) / (width * size), (Y - y) / (height * size))
    edge = radius + 0.16 * clouds(rng, 0.3, 4)
    return step(1 - edge, rng.uniform(0.25, 0.6)) * np.float32(rng.uniform(0.75, 1.0))


def interstitial(tissue: Layer, air: Layer, rng: Generator, strength: float = 1.0) -> Layer:
    """Both sides: streaks from the hila outwards, cuffs round the bronchi, patchy haze most dense in the middle."""
    middle = sum(np.exp(-(((X - x) / 0.42) ** 2) - ((Y - y - 0.15) / 0.5) ** 2) for x, y in HILA.values())
    streaks = blurred(_strands(rng, 0.021, 12), 0.004)
    patches = np.clip(0.5 + 0.5 * clouds(rng, 0.16, 4), 0, 1.3)
    share = rng.uniform(0.75, 1.2) * (0.36 * middle + 0.18) * patches + 0.30 * middle * streaks
    return np.asarray(tissue + strength * np.clip(share, 0, 0.7) * np.maximum(air - tissue, 0), np.float32)


def _strands(rng: Generator, radius: float, count: int) -> Layer:
    tree = Tree(rng, thinnest=radius / 4)
    tree.grow(radius, count, 0.15)
    return np.asarray(np.max(tree.layers, axis=0), np.float32) / 255
