"""Bars of one even grey along a film's sides: collimation, padding, frames. They show nothing of a child."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from triage.vision.crop import stretched

# Of the film's range of grey: a line is even within it, and lines of one bar are alike within it.
EVENNESS = 0.05
# Wider ones are no bars: more of the film than that is even, and the gate shall see it.
WIDEST = 0.3
# Every fourth pixel of a line is looked at; of them one at each end may be something else, a marker's or a scratch's.
_STEP, _STRAY = 4, 1


def inside(films: Tensor) -> Tensor:
    """Films (N, 1, H, W) in [0, 1] to what lies within their bars, int64 (N, 4): left, top, right, bottom in pixels.

    Right and bottom are not part of it. One line more than is even is left out: resizing has mixed it with the bar.
    """
    height, width = films.shape[2:]
    (left, right), (top, bottom) = _thickness(films[:, 0, ::_STEP]), _thickness(films[:, 0, :, ::_STEP].mT)
    return torch.stack([left, top, width - right, height - bottom], 1)


def _thickness(lines: Tensor) -> tuple[Tensor, Tensor]:
    """Lines (N, pixels, count), side by side, to how many belong to a bar at the near end and at the far end, (N)."""
    levels = lines.sort(dim=1).values
    even = levels[:, -1 - _STRAY] - levels[:, _STRAY] < EVENNESS
    grey = levels[:, levels.shape[1] // 2]
    return _leading(even, grey), _leading(even.flip(1), grey.flip(1))


def _leading(even: Tensor, grey: Tensor) -> Tensor:
    alike = even & ((grey - grey[:, :1]).abs() < EVENNESS)
    count = alike.long().cumprod(1).sum(1)
    return torch.where((count > 0) & (count <= WIDEST * even.shape[1]), count + 1, 0)


def has_bars(films: Tensor, ranges: Tensor) -> Tensor:
    """Of (N): whether anything of the film lies outside its range."""
    height, width = films.shape[2:]
    return (ranges != ranges.new_tensor([0, 0, width, height])).any(1)


def repeated(films: Tensor, ranges: Tensor) -> Tensor:
    """Films (N, 1, H, W) of any type, where what lies outside of their ranges repeats the range's edge."""
    height, width = films.shape[2:]
    left, top, right, bottom = ranges[:, :, None].unbind(1)
    down = torch.arange(height, device=films.device).clamp(top, bottom - 1)[:, None, :, None]
    across = torch.arange(width, device=films.device).clamp(left, right - 1)[:, None, None, :]
    return films.gather(2, down.expand_as(films)).gather(3, across.expand_as(films))


def cut(films: Tensor, ranges: Tensor, percentiles: tuple[float, float]) -> Tensor:
    """Films (N, 1, S, S) in [0, 1], without their bars: enlarged to S again, and stretched by what is left."""
    barred = has_bars(films, ranges)
    if not barred.any():
        return films
    within = shares(ranges[barred], films)
    centre, half = within[:, 2:] + within[:, :2] - 1, within[:, 2:] - within[:, :2]
    affine = torch.cat([torch.diag_embed(half), centre[:, :, None]], 2)
    grid = functional.affine_grid(affine, list(films[barred].shape), align_corners=False)
    found = films.clone()
    found[barred] = stretched(functional.grid_sample(films[barred], grid, align_corners=False), percentiles)
    return found


def uncut(boxes: Tensor, ranges: Tensor, films: Tensor) -> Tensor:
    """Boxes (N, 4) in shares of what ``cut`` left of films, in shares of the films."""
    within = shares(ranges, films)
    size = within[:, 2:] - within[:, :2]
    return boxes * size.repeat(1, 2) + within[:, :2].repeat(1, 2)


def shares(ranges: Tensor, films: Tensor) -> Tensor:
    height, width = films.shape[2:]
    return ranges / ranges.new_tensor([width, height, width, height])
