"""Drawn anatomy of a small child's chest, from the front: how much each part weakens the beam, on one canvas.

Lengths are in units of half the width of the rib cage; the origin lies between the tips of the lungs, x grows to the
left of the child (the right of the film), y towards the feet. Weakening is in units of one such length of water.
Drawn from anatomy's textbooks by hand and eye; no film was copied or measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Layer = NDArray[np.floating]  # (H, W)
Picture = NDArray[np.uint8]  # (H, W)

UNIT_PX = 400  # pixels a unit
LEFT, TOP = -1.6, -0.85  # of the canvas
WIDTH, HEIGHT = 1280, 1160
X = (LEFT + np.arange(WIDTH, dtype=np.float32) / UNIT_PX)[None, :]
Y = (TOP + np.arange(HEIGHT, dtype=np.float32) / UNIT_PX)[:, None]
RIB_WIDTHS = (0.43, 0.64, 0.76, 0.83, 0.88, 0.92, 0.95, 0.975, 1.0, 1.01, 0.99, 0.80)
RIB_ENDS = (2.35, 2.45, 2.5, 2.5, 2.45, 2.4, 2.3, 2.15, 2.0, 1.85, 1.55, 1.1)  # radians round from the spine
UPPER_RIBS, FLOATING_RIBS = 5, 10  # the first so many; from this one on
WIDE_BLUR_PX = 24
RIB_STEP = 0.128


@dataclass(frozen=True, kw_only=True)
class Child:
    """What differs between children, lengths in units."""

    rib_step: float
    rib_drop: float
    rib_thickness: float
    dome: float
    heart_width: float
    heart_shift: float
    thymus: float
    depth: float
    fat: float
    arms_raised: float
    bone: float


def child(rng: Generator) -> Child:
    step = RIB_STEP * rng.uniform(0.94, 1.06)
    return Child(
        rib_step=step,
        rib_drop=rng.uniform(0.5, 0.72),
        rib_thickness=rng.uniform(0.036, 0.044),
        dome=step * rng.uniform(8.7, 9.5),
        heart_width=rng.uniform(0.40, 0.62),
        heart_shift=rng.uniform(-0.02, 0.04),
        thymus=max(0.0, rng.uniform(-0.05, 0.08)),
        depth=rng.uniform(1.2, 1.45),
        fat=rng.uniform(0.10, 0.2),
        arms_raised=rng.uniform(0.2, 1.0),
        bone=rng.uniform(1.0, 1.4),
    )


def to_px(points: NDArray[np.floating]) -> NDArray[np.float64]:
    return (np.asarray(points, np.float64) - (LEFT, TOP)) * UNIT_PX


def step(value: NDArray[np.floating], width: float) -> Layer:
    """Smooth rise from 0 to 1 over ``width`` around zero."""
    t = np.clip(value / width + 0.5, 0, 1).astype(np.float32)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def blurred(layer: Layer, units: float) -> Layer:
    """Gaussian blur; a wide one is made on a smaller copy, twenty times as fast."""
    sigma, (height, width) = units * UNIT_PX, layer.shape
    if sigma < WIDE_BLUR_PX or width < sigma:
        return np.asarray(cv2.GaussianBlur(layer, (0, 0), max(sigma, 0.3)), np.float32)
    small = cv2.resize(layer, (width // 8, height // 8), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / 8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def clouds(rng: Generator, size: float, octaves: int = 3) -> Layer:
    """Smooth noise of mean 0 and deviation about 1 whose largest blotches measure ``size``."""
    total = np.zeros((HEIGHT, WIDTH), np.float32)
    for octave in range(octaves):
        cells = UNIT_PX * size / 2**octave
        shape = (int(HEIGHT / cells) + 3, int(WIDTH / cells) + 3)
        coarse = rng.standard_normal(shape).astype(np.float32)
        total += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    return total


def tube(layer: Layer, points: NDArray[np.float64], radius: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
    """Add a bone along ``points`` (N, 2): a hard shell round a softer core, ``radius`` and ``weight`` (N,) a point."""
    px = to_px(points)
    margin = float(radius.max()) * UNIT_PX + 3
    x0, y0 = np.maximum(np.floor(px.min(0) - margin), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(px.max(0) + margin), (WIDTH, HEIGHT)).astype(int)
    if min(x1 - x0, y1 - y0) <= 0:
        return
    where = np.round(px - (x0, y0)).astype(np.int32)
    paper = np.full((y1 - y0, x1 - x0), 255, np.uint8)
    along = np.zeros(paper.shape, np.float32)
    for i, (a, b) in enumerate(pairwise(where)):
        cv2.line(paper, a.tolist(), b.tolist(), 0)
        cv2.line(along, a.tolist(), b.tolist(), i)
    distance, labels = cv2.distanceTransformWithLabels(paper, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    nearest = np.zeros(labels.max() + 1, np.int64)
    nearest[labels[paper == 0]] = along[paper == 0].astype(np.int64)
    place = nearest[labels]
    outer = radius[place] * UNIT_PX
    layer[y0:y1, x0:x1] += (_shell(np.asarray(distance, np.float32), outer) * weight[place] / UNIT_PX).astype(
        np.float32
    )


def _shell(distance: Layer, outer: Layer) -> Layer:
    inner = outer * 0.8
    whole = np.sqrt(np.maximum(outer**2 - distance**2, 0))
    core = np.sqrt(np.maximum(inner**2 - distance**2, 0))
    return np.asarray(2 * (whole - 0.75 * core))


def ribs(anatomy: Child, rng: Generator) -> Layer:
    layer = np.zeros((HEIGHT, WIDTH), np.float32)
    for side in (-1, 1):
        for level, (width, end) in enumerate(zip(RIB_WIDTHS, RIB_ENDS, strict=True)):
            t = np.linspace(0.07, end, 90)
            wobble = rng.normal(0, 0.006, 2)
            x = width * np.sin(t) * (1 + wobble[0])
            rise = (0.05 + 0.05 * (level < UPPER_RIBS)) * np.sin(np.minimum(t, np.pi / 2) * 2)
            y = rib_origin(anatomy, level) + wobble[1] + rib_drop(anatomy, level) * (1 - np.cos(t)) / 2 - rise
            depth = -0.62 * width * np.cos(t)
            speed = np.hypot(np.gradient(x), np.gradient(y))
            edge_on = np.clip(np.hypot(speed, np.gradient(depth)) / speed, 1, 3.2)
            front = np.clip((t - 1.3) / 0.9, 0, 1)
            radius = anatomy.rib_thickness * (1 + 0.25 * front) * (0.8 if level >= FLOATING_RIBS else 1)
            fade = np.clip((end - t) / 0.12, 0.25, 1)
            tube(layer, np.stack([side * x, y], 1), radius, 2.6 * edge_on * (1 - 0.4 * front) * fade)
    return layer * anatomy.bone


def rib_origin(anatomy: Child, level: int) -> float:
    return level * anatomy.rib_step


def rib_drop(anatomy: Child, level: int) -> float:
    """How much lower the front of a rib lies than its back, were it closed; the upper ones are steadier."""
    return anatomy.rib_drop * (0.4 + 0.12 * min(level, UPPER_RIBS))


def cage_width(anatomy: Child) -> Layer:
    """Inner half-width of the rib cage at each height, (H, 1)."""
    heights = [rib_origin(anatomy, level) + rib_drop(anatomy, level) / 2 - 0.05 for level in range(len(RIB_WIDTHS))]
    widths = np.array(RIB_WIDTHS) - anatomy.rib_thickness * 0.8
    widths[-2:] = widths[-3]
    top = rib_origin(anatomy, 0) - 0.02
    heights, levels = [top, top + 0.03, top + 0.09, *heights[1:]], [0.0, 0.31, 0.47, *widths[1:]]
    return blurred(np.interp(Y, heights, levels).astype(np.float32), 0.02)


def spine(anatomy: Child, rng: Generator) -> Layer:
    layer = np.zeros((HEIGHT, WIDTH), np.float32)
    near = slice(int((-0.3 - LEFT) * UNIT_PX), int((0.3 - LEFT) * UNIT_PX))
    for level in range(-6, 15):
        y = level * anatomy.rib_step + 0.03
        rows = slice(max(int((y - 0.12 - TOP) * UNIT_PX), 0), max(int((y + 0.12 - TOP) * UNIT_PX), 0))
        half = (0.105 + 0.004 * max(level, -3)) * rng.uniform(0.97, 1.03), anatomy.rib_step * 0.38
        layer[rows, near] += _vertebra(X[:, near], Y[rows] - y, half)
    column = 0.10 * step(0.115 - np.abs(X), 0.03) * np.ones_like(Y)
    return (layer + column) * anatomy.bone


def _vertebra(x: Layer, y: Layer, half: tuple[float, float]) -> Layer:
    """Body with its rim, both pedicles, both transverse processes, and the spinous process."""
    inside = np.maximum(np.abs(x) / half[0], np.abs(y) / half[1])
    total = step(1 - inside, 0.12) * (0.05 + 0.045 * step(inside - 0.84, 0.16))
    ring = np.hypot((np.abs(x) - 0.068) / 0.022, (y + 0.01) / 0.03)
    total = total + 0.05 * np.exp(-(((ring - 1) / 0.35) ** 2))
    total += 0.06 * np.exp(-(((np.abs(x) - 0.15) / 0.05) ** 2) - ((y + 0.03) / 0.025) ** 2)
    total += 0.05 * np.exp(-((x / 0.012) ** 2) - ((y - 0.03) / 0.04) ** 2)
    return np.asarray(total, np.float32)


def shoulders(anatomy: Child, rng: Generator) -> Layer:
    """Clavicles, shoulder blades and upper arms."""
    layer = np.zeros((HEIGHT, WIDTH), np.float32)
    tilt = rng.uniform(-0.03, 0.05)
    for side in (-1, 1):
        t = np.linspace(0, 1, 60)
        x = 0.10 + 0.68 * t
        y = 0.02 - 0.16 * t + 0.05 * np.sin(2 * np.pi * t) + tilt * side * t
        tube(layer, np.stack([side * x, y], 1), np.full(60, 0.034), np.full(60, 1.9))
        _shoulder_blade(layer, side, anatomy.arms_raised)
        lift = -0.55 * anatomy.arms_raised + 0.45 * (1 - anatomy.arms_raised)
        arm = np.stack([side * (0.98 + 0.62 * t), -0.12 + lift * t], 1)
        tube(layer, arm, 0.062 - 0.016 * np.minimum(3 * t, 1), np.full(60, 1.7))
    return layer * anatomy.bone


def _shoulder_blade(layer: Layer, side: int, raised: float) -> None:
    corners = np.array([(0.92, -0.10), (0.62, 0.02), (0.80 + 0.12 * raised, 0.52), (0.95, 0.12)])
    corners[:, 0] *= side
    paper = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(paper, [np.round(to_px(corners)).astype(np.int32)], 255)
    layer += blurred(paper.astype(np.float32) / 255, 0.012) * 0.045
    border = np.linspace(corners[3], corners[2], 40)
    tube(layer, border, np.full(40, 0.014), np.full(40, 2.2))


def torso(anatomy: Child) -> Layer:
    """Soft tissue without lungs: trunk, neck, jaw and arms."""
    edge = 1.06 + anatomy.fat * 0.55
    heights = (-1.0, -0.45, -0.32, -0.22, -0.1, 0.15, 0.5, 0.9, 1.4, 2.2)
    widths = (0.42, 0.40, 0.5, 0.78, 0.98, edge - 0.06, edge - 0.02, edge, edge, edge - 0.08)
    half = blurred(np.interp(Y, heights, widths).astype(np.float32), 0.05)
    thickness = np.interp(Y, (-1.0, -0.3, 0.1, 0.6, 2.2), (0.62, 0.66, 0.8, 1.0, 1.0)).astype(np.float32)
    trunk = np.maximum(1 - (X / half) ** 2, 0) ** 0.42 * thickness * anatomy.depth
    jaw = np.maximum(1 - (X / 0.52) ** 2 - ((Y + 0.66) / 0.36) ** 2, 0) ** 0.5
    layer = np.maximum(trunk, 1.35 * jaw + 0.25 * trunk)
    return np.maximum(layer, _arms(anatomy)).astype(np.float32)


def _arms(anatomy: Child) -> Layer:
    lift = -0.55 * anatomy.arms_raised + 0.45 * (1 - anatomy.arms_raised)
    along = np.clip((np.abs(X) - 0.75) / 0.9, 0, None)
    centre = -0.10 + lift * along * 1.45
    thick = np.maximum(1 - ((Y - centre) / (0.24 + anatomy.fat * 0.4)) ** 2, 0) ** 0.5
    return np.asarray(0.55 * thick * step(np.abs(X) - 0.78, 0.3), np.float32)
