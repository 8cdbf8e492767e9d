"""A film at a fraction of its size, from JPEG 2000 and HTJ2K without their finest wavelets.

ISO/IEC 15444-1 (T.800) B.5: each decomposition level halves both sides, rounded up. What is left without the finest n
levels is the film through a low-pass filter, at every 2^n-th pixel from the first on.
"""

from __future__ import annotations

import io
import sys

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from triage.vision.codestream import HTJ2K_SYNTAXES

# The film stays at least twice as large as it is wanted, so that the antialiased resize decides what is seen.
GAP = 2


def levels_to_skip(rows: int, columns: int, *, levels: int, size_px: int) -> int:
    """The finest of ``levels`` decomposition levels that a square of ``size_px`` can do without (T.800 B.5)."""
    halvings = (min(rows, columns) // (GAP * size_px)).bit_length() - 1
    return max(0, min(halvings, levels))


def decode_coarse(frame: bytes, syntax: str, *, precision: int, skipped: int) -> NDArray[np.unsignedinteger]:
    """A grey, unsigned stream without its finest levels; of HTJ2K 16-bit ones alone. Raise whatever codecs raise.

    Near edges the filter overshoots: JPEG 2000 is clipped to ``precision``, HTJ2K to 0 alone.
    """
    if syntax in HTJ2K_SYNTAXES:
        signed: NDArray[np.int16] = decode_htj2k(frame, skipped).view(np.int16)
        return np.maximum(signed, 0).view(np.uint16)
    picture = Jpeg2KImageFile(io.BytesIO(frame))
    # Pillow expects sides rounded to the nearest, where OpenJPEG rounds up as the standard says.
    picture._size = tuple(-(-side >> skipped) << skipped for side in picture.size)  # type: ignore[assignment]  # noqa: SLF001
    picture.reduce = skipped
    samples: NDArray[np.unsignedinteger] = np.asarray(picture)
    aligned: NDArray[np.unsignedinteger] = np.right_shift(samples, 8 * samples.itemsize - precision)
    return aligned


def decode_htj2k(frame: bytes, skipped: int = 0) -> NDArray[np.integer]:
    """Raise whatever imagecodecs does, and what it does not: ValueError for a film that broke off half-way.

    What OpenJPH finds wrong in the middle it mentions to the interpreter alone, and returns the film with whatever
    was in memory for the rest.
    """
    mentioned: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, mentioned.append
    try:
        film: NDArray[np.integer] = imagecodecs.htj2k_decode(frame, skipres=skipped)
    finally:
        sys.unraisablehook = hook
    if mentioned:
        raise ValueError("broken off")
    return film


def centred(film: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """From the film at every ``step``-th pixel to the mean over each ``step`` x ``step`` pixels, by interpolation.

    Without it the film would lie up to half a pixel of its own to the right and below of where it belongs. This is the
    mean that the whole film would have if its finest wavelets were 0: reversible synthesis (T.800 F.3) interpolates.
    """
    share = np.float32((step - 1) / (2 * step))
    for axis in (0, 1):
        after = np.take(film, np.arange(1, film.shape[axis] + 1), axis, mode="clip")
        film = film + share * (after - film)
    return film
