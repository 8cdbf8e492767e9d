"""Synthetic frontal chest films of small children: a seed makes a child, a projection and an exposure, all invented.

For demonstrations and tests where real films cannot be had. Nothing is learned from them, and nothing may be claimed
from how a network judges them.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator

from triage.phantom.anatomy import (
    LEFT,
    TOP,
    UNIT_PX,
    Child,
    Layer,
    blurred,
    child,
    clouds,
    ribs,
    shoulders,
    spine,
    step,
    torso,
)
from triage.phantom.lesions import consolidation, interstitial
from triage.phantom.organs import airways, gas, lungs, vessels
from triage.study import PixelImage

Pneumonia = Literal["bacterial", "viral"]

LUNG_DENSITY = 0.15  # of water
FILM_HEIGHT, FILM_WIDTH = 900, 1080


def phantom(seed: int, pneumonia: Pneumonia | None = None) -> PixelImage:
    """Return a film of 900 x 1080, float32 in [0, 1], bright = dense. Same seed, same film.

    The child, the projection and the exposure depend on the seed alone, not on ``pneumonia``.
    """
    rng = np.random.default_rng(seed)
    weakening = chest(child(rng), rng, pneumonia, np.random.default_rng([seed, 1]))
    return PixelImage(pixels=exposed(projected(weakening, rng), rng))


def chest(anatomy: Child, rng: Generator, pneumonia: Pneumonia | None, disease: Generator) -> Layer:
    """Weakening of the beam by the whole child."""
    air = lungs(anatomy)
    tissue = air * (LUNG_DENSITY + 0.016 * clouds(rng, 0.05, 4)) + vessels(rng) * np.minimum(air * 1.6, 1)
    if pneumonia == "bacterial":
        tissue = consolidation(tissue, air, disease)
    elif pneumonia == "viral":
        tissue = interstitial(tissue, air, disease)
    outline = torso(anatomy)
    soft = outline * (1 + 0.008 * clouds(rng, 0.25, 3)) - air + tissue - airways(anatomy) - gas(anatomy, rng)
    bones = ribs(anatomy, rng) + spine(anatomy, rng) + shoulders(anatomy, rng)
    return np.asarray(np.maximum(soft, 0) + bones * step(outline - 0.1, 0.2), np.float32)


def projected(weakening: Layer, rng: Generator) -> Layer:
    """Turn, zoom and place the child on the film."""
    zoom = rng.uniform(0.98, 1.14)
    middle = -LEFT * UNIT_PX, (0.74 - TOP) * UNIT_PX
    turn = cv2.getRotationMatrix2D(middle, rng.normal(0, 2.0), zoom)
    turn[0, 1] += rng.normal(0, 0.015)
    turn[:, 2] = turn[:, 2] + np.array([FILM_WIDTH / 2, FILM_HEIGHT / 2]) - middle + rng.normal(0, 14, 2)
    return np.asarray(cv2.warpAffine(weakening, turn, (FILM_WIDTH, FILM_HEIGHT), flags=cv2.INTER_LINEAR), np.float32)


def exposed(weakening: Layer, rng: Generator) -> Layer:
    """Scatter, noise of few photons, tone curve, borders and the side marker."""
    film: Layer = weakening + rng.uniform(0.05, 0.2) * (blurred(weakening, 0.18) - weakening)
    film = blurred(film, rng.uniform(0.6, 1.1) / UNIT_PX)
    grain = rng.standard_normal(film.shape, np.float32) * np.exp(film * 0.8) * np.float32(rng.uniform(0.003, 0.007))
    film = film + blurred(grain, 0.7 / UNIT_PX)
    film = sharpened(film, rng)
    low, high = rng.uniform(0.22, 0.36), np.percentile(film[::4, ::4], 96.0) * rng.uniform(0.9, 1.02)
    film = np.clip((film - low) / (high - low), 0, 1) ** rng.uniform(0.7, 1.0)
    film = film * rng.uniform(0.9, 1.0)
    return np.asarray(marked(collimated(film, rng), rng), np.float32)


def sharpened(film: Layer, rng: Generator) -> Layer:
    """Lift fine and middle detail, as the software of every CR reader does."""
    fine = film - blurred(film, 0.03)
    middle = film - blurred(film, 0.1)
    return film + rng.uniform(0.6, 1.2) * fine + rng.uniform(0.6, 1.1) * middle


def collimated(film: Layer, rng: Generator) -> Layer:
    """Blacken what the lead leaves white, at none to all of the borders."""
    top, bottom, left, right = (int(rng.uniform(-30, 22)) for _ in range(4))
    for border in (film[: max(top, 0)], film[FILM_HEIGHT - max(bottom, 0) :]):
        border[:] = 0.01
    film[:, : max(left, 0)] = 0.01
    film[:, FILM_WIDTH - max(right, 0) :] = 0.01
    return film


def marked(film: Layer, rng: Generator) -> Layer:
    """Burn in an R at the child's right."""
    place = int(rng.uniform(40, 130)), int(rng.uniform(60, 330))
    ink = np.zeros(film.shape, np.uint8)
    cv2.putText(ink, "R", place, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(1.3, 2.0), 255, 4, cv2.LINE_AA)
    return np.maximum(film, ink.astype(np.float32) / 255)
