"""Lungs, heart, vessels, airways and gas of a small child, on the canvas of `triage.phantom.anatomy`."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.random import Generator

from triage.phantom.anatomy import (
    HEIGHT,
    LEFT,
    TOP,
    UNIT_PX,
    WIDTH,
    Child,
    Layer,
    Picture,
    X,
    Y,
    blurred,
    cage_width,
    step,
    to_px,
)

SIDE_BRANCHES = 0.42  # a step, of those wide enough
HILA = {-1: (-0.21, 0.50), 1: (0.24, 0.46)}


def lungs(anatomy: Child) -> Layer:
    """Depth of lung along the beam, in units."""
    cage = np.maximum(cage_width(anatomy), 1e-3)
    round_chest = np.maximum(1 - (np.abs(X) / cage) ** 2, 0) ** 0.38
    apex = np.clip((Y + 0.02) / 0.75, 0, 1) ** 0.4
    above = domes(anatomy) - Y
    base = step(above + 0.006, 0.012) * (0.72 + 0.28 * np.clip(above / 0.3, 0, 1))
    recess = 0.13 * step(above + 0.17, 0.34)
    depth = anatomy.depth * 0.80 * round_chest * apex * np.maximum(base, recess)
    return np.asarray(blurred(depth * beside_mediastinum(anatomy), 0.002), np.float32)


def domes(anatomy: Child) -> Layer:
    """Height of the diaphragm under each x, (1, W); the right one stands higher."""
    right = anatomy.dome + 0.75 * (X + 0.40) ** 2 + 2.2 * np.maximum(-X - 0.75, 0) ** 2
    left = anatomy.dome + 0.07 + 0.75 * (X - 0.42) ** 2 + 2.2 * np.maximum(X - 0.75, 0) ** 2
    return np.where(X < 0, right, left).astype(np.float32)


def beside_mediastinum(anatomy: Child) -> Layer:
    """Share of the lung's depth that the heart and the great vessels leave, 0 to 1; sharp borders."""
    base, bulge, thymus = anatomy.dome + 0.05, anatomy.heart_width, anatomy.thymus
    heights = (-0.3, 0.02, 0.16, 0.26, 0.36, 0.5 * base, 0.68 * base, 0.85 * base, base, base + 0.25)
    left = (0.13, 0.14, 0.19, 0.21, 0.20 + thymus, 0.28, 0.44 * bulge + 0.18, 0.55 * bulge + 0.31, 0.56, 0.3)
    right = (0.13, 0.14, 0.16, 0.17, 0.18 + thymus, 0.20, 0.11 + 0.3 * bulge, 0.11 + 0.32 * bulge, 0.24, 0.2)
    inside = np.minimum(
        _border(heights, left) + anatomy.heart_shift - X, _border(heights, right) - anatomy.heart_shift + X
    )
    return 1 - 0.88 * np.clip(np.maximum(inside, 0) / 0.14, 0, 1).astype(np.float32) ** 0.5


def _border(heights: tuple[float, ...], widths: tuple[float, ...]) -> Layer:
    return blurred(np.interp(Y, heights, widths).astype(np.float32), 0.045)


class Tree:
    """Branching lines from both hila outwards, in four layers by thickness, the thinnest first."""

    def __init__(self, rng: Generator, *, thinnest: float) -> None:
        self.layers: list[Picture] = [np.zeros((HEIGHT, WIDTH), np.uint8) for _ in range(4)]
        self._rng = rng
        self._thinnest = thinnest

    def grow(self, radius: float, branches: int, spread: float) -> None:
        """``branches`` from each hilum, fanned out with deviations of ``spread`` radians."""
        for side, (x, y) in HILA.items():
            for angle in np.linspace(-1.25, 1.3, branches):
                self._branch(x, y, side, angle + self._rng.normal(0, spread), radius)

    def _branch(self, x: float, y: float, side: int, angle: float, radius: float) -> None:
        """Angle 0 points outwards, a positive one towards the feet."""
        rng = self._rng
        for _ in range(5 + int(rng.random() * 4)):
            angle += rng.normal(0, 0.09)
            ahead = x + 0.034 * side * math.cos(angle), y + 0.034 * math.sin(angle)
            self._line((x, y), ahead, radius)
            (x, y), radius = ahead, radius * 0.955
            if radius > self._thinnest and rng.random() < SIDE_BRANCHES:
                turn = math.copysign(0.4 + 0.4 * rng.random(), rng.random() - 0.5)
                self._branch(x, y, side, angle + turn, radius * 0.6)
        if radius > self._thinnest:
            for turn in (-0.3, 0.35):
                self._branch(x, y, side, angle + turn + rng.normal(0, 0.1), radius * 0.75)

    def _line(self, a: tuple[float, float], b: tuple[float, float], radius: float) -> None:
        width = radius * 2 * UNIT_PX
        shade = min(max(width / 12 * 255, 35), 255)
        start, end = ((round((x - LEFT) * UNIT_PX * 16), round((y - TOP) * UNIT_PX * 16)) for x, y in (a, b))
        cv2.line(self.layers[min(int(width // 3), 3)], start, end, shade, max(1, round(width)), cv2.LINE_AA, 4)


def vessels(rng: Generator) -> Layer:
    """Vessels of both lungs, and some seen end-on near the hila."""
    tree = Tree(rng, thinnest=0.0035)
    tree.grow(0.017, 9, 0.1)
    for x, y in HILA.values():
        for _ in range(6):
            spot = to_px(np.array([x, y]) + rng.normal(0, (0.04, 0.09)))
            cv2.circle(
                tree.layers[3], np.round(spot).astype(int).tolist(), int(rng.uniform(4, 9)), 130, -1, cv2.LINE_AA
            )
    total = np.zeros((HEIGHT, WIDTH), np.float32)
    for layer, blur in zip(tree.layers, (0.002, 0.0025, 0.004, 0.008), strict=True):
        total += blurred(layer.astype(np.float32) / 255, blur)
    return total * 0.075 * rng.uniform(0.75, 1.15)


def airways(anatomy: Child) -> Layer:
    """What the air in the windpipe and the main bronchi takes away."""
    paper = np.zeros((HEIGHT, WIDTH), np.uint8)
    fork = 0.33 + 0.2 * (anatomy.rib_step - 0.12)
    for points, width in (
        (((0.0, -0.6), (-0.005, 0.0), (-0.02, fork)), 36),
        (((-0.02, fork), (-0.16, fork + 0.15)), 24),
        (((-0.02, fork), (0.18, fork + 0.16)), 20),
    ):
        cv2.polylines(paper, [np.round(to_px(np.array(points))).astype(np.int32)], False, 255, width)  # noqa: FBT003
    return blurred(paper.astype(np.float32) / 255, 0.014) * 0.10


def gas(anatomy: Child, rng: Generator) -> Layer:
    """Gas in the stomach and the bowel, below the left dome and further down."""
    total = np.zeros((HEIGHT, WIDTH), np.float32)
    bubbles = [(0.38, anatomy.dome + rng.uniform(0.24, 0.32), rng.uniform(0.12, 0.24), 0.09, 0.5)]
    bubbles += [(rng.uniform(-0.5, 0.7), rng.uniform(1.65, 1.95), rng.uniform(0.06, 0.16), 0.07, 0.3) for _ in range(7)]
    for x, y, width, height, depth in bubbles:
        inside = np.maximum(1 - ((X - x) / width) ** 2 - ((Y - y) / height) ** 2, 0)
        total += (depth * rng.uniform(0.1, 1) * inside**0.5).astype(np.float32)
    return blurred(total, 0.01) * 0.6
