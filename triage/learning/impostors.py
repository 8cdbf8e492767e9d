"""What is not a frontal chest film, made of films and of nothing: what the gate is trained to refuse.

Every kind maps films float32 (N, 1, S, S) in [0, 1] to as many impostors of the same shape. Afterwards they are
changed in tone, sharpness and noise like genuine films, so that nothing but what they show tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

from triage.learning.augmentation import chosen, uniform

Kind = Callable[[Tensor, Generator], Tensor]


def turned(films: Tensor, generator: Generator) -> Tensor:
    """On a side or head down, most by exactly that; mirrored or not."""
    count = len(films)
    quarters = torch.randint(1, 4, (count,), generator=generator, device=films.device) * 90.0
    angle = quarters + uniform(generator, -45, 45, count) * chosen(generator, count, 0.4).flatten()
    size = torch.stack([mirrored(count, generator), torch.ones_like(angle)], 1)
    return mapped(films, angle.deg2rad(), size, torch.zeros_like(size), torch.zeros_like(size))


def inverted(films: Tensor, _generator: Generator) -> Tensor:
    """Black for white."""
    return 1 - films


def part(films: Tensor, generator: Generator) -> Tensor:
    """A quarter to a half of width and of height."""
    count = len(films)
    size = uniform(generator, 0.25, 0.5, count, 2)
    start = uniform(generator, 0, 1, count, 2) * (1 - size)
    return windowed(films, start, size)


def half(films: Tensor, generator: Generator) -> Tensor:
    """Left, right, upper or lower: one lung, or what is above or below."""
    count = len(films)
    across = chosen(generator, count, 0.5)[:, 0, 0]  # (N, 1)
    size = torch.cat([torch.where(across, 0.5, 1.0), torch.where(across, 1.0, 0.5)], 1)
    start = (1 - size) * chosen(generator, count, 0.5)[:, 0, 0]
    return windowed(films, start, size)


def shuffled(films: Tensor, generator: Generator) -> Tensor:
    """Its four quarters in another order, the same for all."""
    order = torch.randperm(4, generator=generator, device=generator.device).tolist()
    if order == [0, 1, 2, 3]:
        order = [3, 2, 1, 0]
    quarters = [quarter for band in films.chunk(2, 2) for quarter in band.chunk(2, 3)]
    a, b, c, d = (quarters[place] for place in order)
    return torch.cat([torch.cat([a, b], 3), torch.cat([c, d], 3)], 2)


def paired(films: Tensor, generator: Generator) -> Tensor:
    """Two films on one, side by side or one above the other."""
    other = films[torch.randperm(len(films), generator=generator, device=generator.device)]
    beside = squeezed(torch.cat([films, other], 3), films)
    above = squeezed(torch.cat([films, other], 2), films)
    return torch.where(chosen(generator, len(films), 0.5), beside, above)


def clouded(films: Tensor, generator: Generator) -> Tensor:
    """Noise of all grains, coarse to fine, of no shape."""
    made = torch.zeros_like(films)
    for side in (2, 4, 8, 16, 32, 64):
        grain = torch.randn(len(films), 1, side, side, generator=generator, device=films.device)
        weight = uniform(generator, 0, 1, len(films), 1, 1, 1) ** 2
        made = made + weight * functional.interpolate(grain, films.shape[2:], mode="bicubic")
    return normed(made)


def shaped(films: Tensor, generator: Generator) -> Tensor:
    """Ellipses and bars of different greys on a slope, up to eight of them."""
    count = len(films)
    across, down = axes(films)
    lean = uniform(generator, -1, 1, 2, count, 1, 1, 1)
    made = lean[0] * across + lean[1] * down
    for _ in range(8):
        angle = uniform(generator, 0, math.pi, count, 1, 1, 1)
        reach = uniform(generator, 0.05, 0.8, count, 1, 1, 1)
        squareness = uniform(generator, 1, 8, count, 1, 1, 1)
        x, y = (axis - uniform(generator, -0.9, 0.9, count, 1, 1, 1) for axis in (across, down))
        u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
        aspect = uniform(generator, 0.15, 1, count, 1, 1, 1)
        inside = (u / reach).abs() ** squareness + (v / reach / aspect).abs() ** squareness < 1
        made = torch.where(inside & chosen(generator, count, 0.6), uniform(generator, -1.5, 1.5, count, 1, 1, 1), made)
    return normed(made)


def limbs(films: Tensor, generator: Generator) -> Tensor:
    """One to three limbs side by side: soft tissue, in it one or two shafts of bone with a joint, on air."""
    count = len(films)
    across, down = axes(films)
    lying = torch.where(chosen(generator, count, 0.25), math.pi / 2, 0.0)
    angle = lying + uniform(generator, -0.5, 0.5, count, 1, 1, 1)
    u, v = across * angle.cos() + down * angle.sin(), down * angle.cos() - across * angle.sin()
    many = torch.randint(1, 4, (count, 1, 1, 1), generator=generator, device=films.device)
    width = uniform(generator, 0.2, 0.7, count, 1, 1, 1) / many**0.5
    made = torch.zeros_like(films)
    for number in range(3):
        axis = (number - (many - 1) / 2) * 2.1 * width + uniform(generator, -0.15, 0.15, count, 1, 1, 1) * v
        made = torch.where(number < many, torch.maximum(made, limb(u - axis, v, width, generator)), made)
    return normed(made)


def limb(u: Tensor, v: Tensor, width: Tensor, generator: Generator) -> Tensor:
    """Thickness of soft tissue and bone along the beam, at places ``u`` across it and ``v`` along."""
    count = len(u)
    joint = uniform(generator, -1, 1, count, 1, 1, 1)
    swell = 1 + 0.3 * torch.exp(-(((v - joint) / 0.25) ** 2))
    soft = chord(u, width * swell)
    two = chosen(generator, count, 0.5)
    apart = torch.where(two, 0.35 * width, 0.0)
    shaft = torch.where(two, 0.2, 0.35) * width * (swell + 0.6 * torch.exp(-(((v - joint) / 0.12) ** 2)))
    gap = 1 - uniform(generator, 0.3, 1, count, 1, 1, 1) * torch.exp(-(((v - joint) / 0.02) ** 2))
    bones = sum(chord(u - side * apart, shaft) - 0.8 * chord(u - side * apart, 0.6 * shaft) for side in (-1, 1))
    return soft + uniform(generator, 1, 3, count, 1, 1, 1) * bones * gap


def chord(u: Tensor, radius: Tensor) -> Tensor:
    """Length of the beam within a cylinder."""
    return (radius**2 - u**2).clamp(min=0).sqrt()


def axes(films: Tensor) -> tuple[Tensor, Tensor]:
    """Places of pixels across and down, -1 to 1."""
    line = torch.linspace(-1, 1, films.shape[-1], device=films.device)
    return line[None, None, None, :], line[None, None, :, None]


def normed(made: Tensor) -> Tensor:
    """To [0, 1], each by itself."""
    low, high = made.amin((2, 3), keepdim=True), made.amax((2, 3), keepdim=True)
    return (made - low) / (high - low).clamp(min=1e-6)


def mirrored(count: int, generator: Generator) -> Tensor:
    return torch.where(chosen(generator, count, 0.5).flatten(), -1.0, 1.0)


def mapped(films: Tensor, angle: Tensor, size: Tensor, place: Tensor, middle: Tensor) -> Tensor:
    """Films seen through a window of ``size`` about ``place``, turned about ``middle``: (N, 2), in -1 to 1."""
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    offset = middle[:, :, None] + turn @ (place - middle)[:, :, None]
    affine = torch.cat([turn @ torch.diag_embed(size), offset], 2)
    grid = functional.affine_grid(affine, list(films.shape), align_corners=False)
    return functional.grid_sample(films, grid, align_corners=False)


def windowed(films: Tensor, start: Tensor, size: Tensor) -> Tensor:
    """Cut out the windows: their corners (N, 2) and sides (N, 2), across and down, in shares."""
    affine = torch.cat([torch.diag_embed(size), (2 * start + size - 1)[:, :, None]], 2)
    grid = functional.affine_grid(affine, list(films.shape), align_corners=False)
    return functional.grid_sample(films, grid, padding_mode="border", align_corners=False)


def squeezed(wide: Tensor, films: Tensor) -> Tensor:
    return functional.interpolate(wide, films.shape[2:], mode="bilinear", antialias=True)


KINDS: dict[str, Kind] = {
    kind.__name__: kind for kind in (turned, inverted, part, half, shuffled, paired, clouded, shaped, limbs)
}
