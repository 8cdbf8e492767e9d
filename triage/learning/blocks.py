"""JPEG's blocks of 8 x 8 pixels: taken off films that came with them, and put on films at will.

On a film stored at the network's own size the blocks are as large as small vessels, and how plain they are depends on
the film's sharpness, and with it on where it came from: a network finds that before it finds pneumonia.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

SIDE = 8
# Places of the grid that are averaged, in each direction: every second one, which is hardly worse than all.
STEP = 2


def as_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Grey levels (H, W) after a baseline JPEG of this quality, 1 to 95."""
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG", quality=quality)
    return np.asarray(Image.open(stored).convert("L"))


def deblocked(pixels: Pixels, quality: int = 75) -> Pixels:
    """Grey levels (H, W) without a grid: the mean of JPEGs of the film displaced, each put back.

    A. Nosratinia, "Enhancement of JPEG-Compressed Images by Re-application of JPEG", J. VLSI Signal Process. 27, 2001.
    """
    height, width = pixels.shape
    wide = np.pad(pixels, SIDE, mode="edge")
    total, places = np.zeros(pixels.shape, np.float32), range(0, SIDE, STEP)
    for down in places:
        for right in places:
            displaced = np.ascontiguousarray(wide[down : down + height + SIDE, right : right + width + SIDE])
            total += as_jpeg(displaced, quality)[SIDE - down :, SIDE - right :][:height, :width]
    return np.rint(total / len(places) ** 2).astype(np.uint8)
