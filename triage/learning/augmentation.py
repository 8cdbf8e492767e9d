"""What may differ between two hospitals' films of one child: exposure, geometry, sharpness, noise, borders, markers.

Tensor operations on whole batches; every draw comes from the generator passed in. Strengths are those of a first
reading of the films, not tuned on any test set.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from triage.card import Thorax
from triage.learning.blocks import as_jpeg
from triage.vision.bars import repeated
from triage.vision.crop import smoothed, stretched, widened

LEVELS = 256
# Share of the films that borrow another's exposure, and another's sharpness. The rest stay as they came.
BORROWING = 0.7
# Bars of collimation reach at most so far into a crop, each side, seen or taken off. On films framed tightly they
# cover lung.
WIDEST_BAR = 0.12
# Detail: from so many waves across a film on. Coarser ones are the child.
COARSEST_DETAIL = 8
# A film's detail is raised or lowered at most so many times: more would be noise.
LARGEST_GAIN = 2.5


def augmented(
    films: Tensor,
    histograms: Tensor,
    boxes: Tensor,
    generator: Generator,
    *,
    thorax: Thorax,
    percentiles: tuple[float, float],
) -> Tensor:
    """Films uint8 (N, 1, H, W), histograms (N, 256), boxes of the thorax (N, 4) to crops, each changed its own way.

    Crops float32 (N, 1, S, S) in [0, 1]. Ends with the stretch that inference applies: what a stretch undoes, the
    network need not learn. All tensors and the generator are on one device.
    """
    films = with_jpeg(with_borrowed_detail(films, generator), generator)
    x = smoothed(with_tone(films, histograms, generator), thorax.smoothing_px)
    x = with_geometry(x, widened(boxes, thorax.margin), generator, thorax.size_px)
    x = with_uneven_exposure(x, generator)
    x = with_sharpness(x, generator)
    x = with_noise(x, generator)
    x = with_patches(x, generator)
    x = with_borders(x, generator, widest=WIDEST_BAR)
    if thorax.without_bars:
        x = with_repeated_edges(x, generator)
    return restretched(x, generator, percentiles)


def uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, device=generator.device)


def chosen(generator: Generator, films: int, share: float) -> Tensor:
    """Return a mask (N, 1, 1, 1), true for about ``share`` of the films."""
    return torch.rand(films, 1, 1, 1, generator=generator, device=generator.device) < share


def histograms_of(films: Tensor) -> Tensor:
    """Films uint8 (N, 1, S, S) to shares of each level, float32 (N, 256)."""
    counts = torch.stack([torch.bincount(film.flatten().long(), minlength=LEVELS) for film in films])
    return counts / films[0].numel()


def with_tone(films: Tensor, histograms: Tensor, generator: Generator) -> Tensor:
    """Another exposure: a random rising curve a film, and for most of them the histogram of another film of the batch.

    Borrowed histograms cut the tie between how a film was exposed and what it shows.
    """
    count = len(films)
    cumulative = histograms.cumsum(1)  # (N, 256)
    lender = torch.randperm(count, generator=generator, device=generator.device)
    borrowed = torch.searchsorted(cumulative[lender], cumulative.clamp(max=1 - 1e-4)).clamp(max=LEVELS - 1)
    level = torch.arange(LEVELS, device=films.device).expand(count, LEVELS) / (LEVELS - 1)
    strength = uniform(generator, 0, 1, count, 1) * chosen(generator, count, BORROWING)[:, :, 0, 0]
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


def with_geometry(x: Tensor, boxes: Tensor, generator: Generator, size: int) -> Tensor:
    """Cut the boxes out as (N, 1, size, size): mirrored or not, turned (10 degrees) and sheared; black outside.

    Each side of a box is up to 5 % off, so that zoom, aspect and place vary as much as boxes are uncertain.
    """
    count = len(x)
    sides = boxes[:, 2:] - boxes[:, :2]
    boxes = boxes + sides.repeat(1, 2) * uniform(generator, -0.05, 0.05, count, 4)
    centre, half = boxes[:, 2:] + boxes[:, :2] - 1, boxes[:, 2:] - boxes[:, :2]
    angle = uniform(generator, -10, 10, count).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    mirror = torch.where(chosen(generator, count, 0.5).flatten(), -1.0, 1.0)
    shear = uniform(generator, -0.06, 0.06, count)
    rows = [
        torch.stack([mirror * half[:, 0] * cos, -half[:, 1] * sin + shear, centre[:, 0]], 1),
        torch.stack([mirror * half[:, 0] * sin, half[:, 1] * cos, centre[:, 1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), [count, 1, size, size], align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def with_borrowed_detail(films: Tensor, generator: Generator) -> Tensor:
    """Films uint8 (N, 1, S, S) as sharp, and as grainy, as others of the batch, in part.

    For most, the mean amplitude at each spatial frequency goes towards another film's. Films of one class may come from
    other devices, scanners or sizes than those of another, and a network finds that easier to see than pneumonia: the
    published normal films have a third more detail than the pneumonias.
    """
    count, side = len(films), films.shape[-1]
    x = films.float()
    waves = torch.fft.rfft2(x)
    across, down = (line(side, 1 / side, device=x.device) for line in (torch.fft.rfftfreq, torch.fft.fftfreq))
    ring = torch.hypot(across[None], down[:, None]).round().long().clamp(max=side // 2).flatten()  # waves a film
    amplitude = torch.zeros(count, side // 2 + 1, device=x.device).index_add_(1, ring, waves.abs().flatten(1))
    lender = torch.randperm(count, generator=generator, device=generator.device)
    strength = uniform(generator, 0, 1, count, 1) * chosen(generator, count, BORROWING)[:, :, 0, 0]
    gain = (amplitude[lender] / amplitude.clamp(min=1e-3)).clamp(min=1e-3) ** strength
    gain[:, :COARSEST_DETAIL] = 1
    gain = gain.clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    gain = functional.avg_pool1d(functional.pad(gain[:, None], (2, 2), mode="replicate"), 5, 1)[:, 0]
    changed: Tensor = torch.fft.irfft2(waves * gain[:, ring].view(waves.shape), s=x.shape[-2:])
    return changed.round().clamp(0, LEVELS - 1).to(torch.uint8)


def with_jpeg(films: Tensor, generator: Generator) -> Tensor:
    """Films uint8 (N, 1, H, W), half of them stored as a JPEG of quality 50 to 95: blocks on all kinds alike."""
    stored = films.cpu().clone()
    quality = uniform(generator, 50, 95, len(films)).int().tolist()
    for index in chosen(generator, len(films), 0.5).flatten().nonzero()[:, 0].tolist():
        stored[index, 0] = torch.from_numpy(as_jpeg(stored[index, 0].numpy(), quality[index]).copy())
    return stored.to(films.device)


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
    fine = torch.randn(x.shape, generator=generator, device=generator.device)
    coarse = 2 * functional.avg_pool2d(fine, 3, 1, 1)
    noise = torch.where(chosen(generator, len(x), 0.5), fine, coarse)
    return x + noise * uniform(generator, 0, 0.04, len(x), 1, 1, 1) * chosen(generator, len(x), 0.5)


def boxes(generator: Generator, count: int, side: int, *, smallest: float, largest: float) -> Tensor:
    """Return one rectangle a film, as a mask (N, 1, S, S); its sides are ``smallest`` to ``largest`` of the film's."""
    size = uniform(generator, smallest, largest, count, 2)
    start = uniform(generator, 0, 1, count, 2) * (1 - size)
    pixel = (torch.arange(side, device=generator.device) + 0.5) / side
    inside = (pixel >= start[..., None]) & (pixel < (start + size)[..., None])  # (N, 2, S)
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def with_patches(x: Tensor, generator: Generator) -> Tensor:
    """Things on the film: a burned-in marker (a third of the films), an electrode or a plate of even grey (a fifth)."""
    count, side = len(x), x.shape[-1]
    marker = boxes(generator, count, side, smallest=0.03, largest=0.12) & chosen(generator, count, 0.33)
    strokes = torch.randn(count, 1, side // 4, side // 4, generator=generator, device=generator.device)
    strokes = functional.interpolate(strokes, x.shape[2:]) > 0
    x = torch.where(marker & strokes, uniform(generator, 0.7, 1, count, 1, 1, 1), x)
    plate = boxes(generator, count, side, smallest=0.08, largest=0.3) & chosen(generator, count, 0.2)
    return torch.where(plate, uniform(generator, 0, 1, count, 1, 1, 1), x)


def with_borders(x: Tensor, generator: Generator, *, widest: float = 0.06) -> Tensor:
    """Collimation that reaches into a quarter of the films: bars of up to ``widest`` of each side, mostly black."""
    count, side = len(x), x.shape[-1]
    width = uniform(generator, -widest, widest, count, 4, 1)
    pixel = (torch.arange(side, device=generator.device) + 0.5) / side
    near, far = pixel < width[:, :2], pixel > 1 - width[:, 2:]  # (N, 2, S)
    bars = near | far
    outside = (bars[:, 0, :, None] | bars[:, 1, None, :])[:, None] & chosen(generator, count, 0.25)
    grey = uniform(generator, 0, 1, count, 1, 1, 1) * chosen(generator, count, 0.3)
    return torch.where(outside, grey, x)


def with_repeated_edges(x: Tensor, generator: Generator) -> Tensor:
    """A quarter of the films as they are cropped once bars were taken off: see `triage.vision.bars.repeated`."""
    count, side = len(x), x.shape[-1]
    width = (uniform(generator, -WIDEST_BAR, WIDEST_BAR, count, 4).clamp(min=0) * side).long()
    width = width * chosen(generator, count, 0.25)[:, :, 0, 0]
    return repeated(x, torch.cat([width[:, :2], side - width[:, 2:]], 1))


def restretched(x: Tensor, generator: Generator, percentiles: tuple[float, float]) -> Tensor:
    """Stretch as inference does, then up to 8 % off in contrast and brightness."""
    contrast = uniform(generator, 0.92, 1.08, len(x), 1, 1, 1)
    return (stretched(x, percentiles) * contrast + uniform(generator, -0.08, 0.08, len(x), 1, 1, 1)).clamp(0, 1)
