"""What may differ between two hospitals' films of one child: exposure, geometry, sharpness, noise, borders, markers.

Tensor operations on whole batches; every draw comes from the generator passed in. Strengths are those of a first
reading of the films, not tuned on any test set.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

LEVELS = 256


def augmented(films: Tensor, histograms: Tensor, generator: Generator, *, percentiles: tuple[float, float]) -> Tensor:
    """Films uint8 (N, 1, S, S), histograms (N, 256), to float32 (N, 1, S, S) in [0, 1], each changed its own way.

    Ends with the stretch that inference applies: what a stretch undoes, the network need not learn.
    """
    x = with_tone(films, histograms, generator)
    x = with_geometry(x, generator)
    x = with_uneven_exposure(x, generator)
    x = with_sharpness(x, generator)
    x = with_noise(x, generator)
    x = with_patches(x, generator)
    x = with_borders(x, generator)
    return restretched(x, generator, percentiles)


def uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def chosen(generator: Generator, films: int, share: float) -> Tensor:
    """Return a mask (N, 1, 1, 1), true for about ``share`` of the films."""
    return torch.rand(films, 1, 1, 1, generator=generator) < share


def histograms_of(films: Tensor) -> Tensor:
    """Films uint8 (N, 1, S, S) to shares of each level, float32 (N, 256)."""
    counts = torch.stack([torch.bincount(film.flatten().long(), minlength=LEVELS) for film in films])
    return counts / films[0].numel()


def with_tone(films: Tensor, histograms: Tensor, generator: Generator) -> Tensor:
    """Another exposure: a random rising curve a film, and for half of them the histogram of another film of the batch.

    Borrowed histograms cut the tie between how a film was exposed and what it shows.
    """
    count = len(films)
    cumulative = histograms.cumsum(1)  # (N, 256)
    lender = torch.randperm(count, generator=generator)
    borrowed = torch.searchsorted(cumulative[lender], cumulative.clamp(max=1 - 1e-4)).clamp(max=LEVELS - 1)
    level = torch.arange(LEVELS).expand(count, LEVELS) / (LEVELS - 1)
    strength = uniform(generator, 0, 1, count, 1) * chosen(generator, count, 0.5)[:, :, 0, 0]
    curve = torch.lerp(level, borrowed / (LEVELS - 1), strength)
    curve = rising_curves(curve, generator)
    return curve.gather(1, films.flatten(1).long()).view(films.shape)


def rising_curves(level: Tensor, generator: Generator) -> Tensor:
    """Levels (N, 256) in [0, 1] through a gamma (0.6 to 1.7) and a random rising curve of six pieces, in [0, 1]."""
    count = len(level)
    level = level ** torch.exp(uniform(generator, -0.5, 0.5, count, 1))
    steps = torch.exp(uniform(generator, -0.6, 0.6, count, 6))
    knots = functional.pad((steps / steps.sum(1, keepdim=True)).cumsum(1), (1, 0))  # (N, 7)
    place = level.clamp(0, 1 - 1e-6) * 6
    piece = place.long()
    start, end = knots.gather(1, piece), knots.gather(1, piece + 1)
    return torch.lerp(start, end, place - piece)


def with_geometry(x: Tensor, generator: Generator) -> Tensor:
    """Mirror; turn (12 degrees), zoom (0.8 to 1.25), aspect (0.8 to 1.25), shear and shift (8 %); black outside."""
    count = len(x)
    angle = uniform(generator, -12, 12, count).deg2rad()
    zoom = torch.exp(uniform(generator, -0.22, 0.22, count))
    aspect = torch.exp(uniform(generator, -0.11, 0.11, count))
    mirror = torch.where(chosen(generator, count, 0.5).flatten(), -1.0, 1.0)
    shear = uniform(generator, -0.08, 0.08, count)
    shift = uniform(generator, -0.16, 0.16, count, 2)  # of a width of 2
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([mirror * zoom * aspect * cos, -zoom * sin + shear, shift[:, 0]], 1),
        torch.stack([mirror * zoom * sin, zoom / aspect * cos, shift[:, 1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def with_uneven_exposure(x: Tensor, generator: Generator) -> Tensor:
    """Heel effect and scatter: a smooth field of 0.8 to 1.2 over half of the films."""
    field = uniform(generator, 0.8, 1.2, len(x), 1, 3, 3)
    field = functional.interpolate(field, x.shape[2:], mode="bilinear", align_corners=True)
    return torch.where(chosen(generator, len(x), 0.5), x * field, x).clamp(0, 1)


def with_sharpness(x: Tensor, generator: Generator) -> Tensor:
    """From a blur to a hard edge filter for two thirds; for a quarter, the detail of a smaller image."""
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blurred = functional.avg_pool2d(functional.pad(blurred, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = uniform(generator, -1.0, 1.2, len(x), 1, 1, 1) * chosen(generator, len(x), 0.67)
    x = (x + amount * (x - blurred)).clamp(0, 1)
    side = int(x.shape[-1] * uniform(generator, 0.35, 0.9, 1).item())
    small = functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
    coarse = functional.interpolate(small, x.shape[2:], mode="bilinear")
    return torch.where(chosen(generator, len(x), 0.25), coarse, x)


def with_noise(x: Tensor, generator: Generator) -> Tensor:
    """Quantum noise of up to 4 % for half of the films, fine or coarse."""
    fine = torch.randn(x.shape, generator=generator)
    coarse = 2 * functional.avg_pool2d(fine, 3, 1, 1)
    noise = torch.where(chosen(generator, len(x), 0.5), fine, coarse)
    return x + noise * uniform(generator, 0, 0.04, len(x), 1, 1, 1) * chosen(generator, len(x), 0.5)


def boxes(generator: Generator, count: int, side: int, *, smallest: float, largest: float) -> Tensor:
    """Return one rectangle a film, as a mask (N, 1, S, S); its sides are ``smallest`` to ``largest`` of the film's."""
    size = uniform(generator, smallest, largest, count, 2)
    start = uniform(generator, 0, 1, count, 2) * (1 - size)
    pixel = (torch.arange(side) + 0.5) / side
    inside = (pixel >= start[..., None]) & (pixel < (start + size)[..., None])  # (N, 2, S)
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def with_patches(x: Tensor, generator: Generator) -> Tensor:
    """Things on the film: a burned-in marker (a third of the films), an electrode or a plate of even grey (a fifth)."""
    count, side = len(x), x.shape[-1]
    marker = boxes(generator, count, side, smallest=0.03, largest=0.12) & chosen(generator, count, 0.33)
    strokes = torch.randn(count, 1, side // 4, side // 4, generator=generator)
    strokes = functional.interpolate(strokes, x.shape[2:]) > 0
    x = torch.where(marker & strokes, uniform(generator, 0.7, 1, count, 1, 1, 1), x)
    plate = boxes(generator, count, side, smallest=0.08, largest=0.3) & chosen(generator, count, 0.2)
    return torch.where(plate, uniform(generator, 0, 1, count, 1, 1, 1), x)


def with_borders(x: Tensor, generator: Generator) -> Tensor:
    """Collimation for a third of the films: bars of up to 12 % on each side, mostly black."""
    count, side = len(x), x.shape[-1]
    width = uniform(generator, -0.04, 0.12, count, 4, 1)
    pixel = (torch.arange(side) + 0.5) / side
    near, far = pixel < width[:, :2], pixel > 1 - width[:, 2:]  # (N, 2, S)
    bars = near | far
    outside = (bars[:, 0, :, None] | bars[:, 1, None, :])[:, None] & chosen(generator, count, 0.33)
    grey = uniform(generator, 0, 1, count, 1, 1, 1) * chosen(generator, count, 0.3)
    return torch.where(outside, grey, x)


def restretched(x: Tensor, generator: Generator, percentiles: tuple[float, float]) -> Tensor:
    """Stretch as inference does (on every fourth pixel, for speed), then up to 8 % off in contrast and brightness."""
    share = torch.tensor(percentiles) / 100
    low, high = torch.quantile(x[:, :, ::4, ::4].flatten(1), share, dim=1).view(2, len(x), 1, 1, 1)
    x = (x - low) / (high - low).clamp(min=0.05)
    contrast = uniform(generator, 0.92, 1.08, len(x), 1, 1, 1)
    return (x * contrast + uniform(generator, -0.08, 0.08, len(x), 1, 1, 1)).clamp(0, 1)
