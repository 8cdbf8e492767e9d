"""A film at a fraction of its size, from JPEG 2000 and HTJ2K without their finest wavelets.

ISO/IEC 15444-1 (T.800) B.5: each decomposition level halves both sides, rounded up. What is left without the finest n
levels is the film through a low-pass filter, at every 2^n-th pixel from the first on.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Sequence

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from triage.vision.codestream import HTJ2K_SYNTAXES, Codestream

# T.800 F.3.8, as filters: what one coefficient adds to pixels around it, reversible (5/3: interpolation) or not (9/7).
_SYNTHESIS = {
    True: (0.5, 1.0, 0.5),
    False: (-0.0912717631, -0.0575435263, 0.5912717631, 1.1150870525, 0.5912717631, -0.0575435263, -0.0912717631),
}
# The film stays at least twice as large as it is wanted, so that the antialiased resize decides what is seen.
GAP = 2
# The interpreter has one ear for what nobody can catch; threads that train take turns.
_LISTENING = threading.Lock()


def levels_to_skip(rows: int, columns: int, *, levels: int, size_px: int) -> int:
    """The finest of ``levels`` decomposition levels that a square of ``size_px`` can do without (T.800 B.5)."""
    halvings = (min(rows, columns) // (GAP * size_px)).bit_length() - 1
    return max(0, min(halvings, levels))


def decode_coarse(frame: bytes, syntax: str, stream: Codestream, skipped: int) -> NDArray[np.unsignedinteger]:
    """Means over blocks of a grey, unsigned film, 2^``skipped`` pixels square; of HTJ2K 9 to 16 bits a sample alone.

    Overshoot near edges is clipped to ``stream.precision``, in HTJ2K to 0 alone. Raise whatever codecs raise.
    """
    decode = _htj2k if syntax in HTJ2K_SYNTAXES else _jpeg_2000
    coarse = decode(frame, stream.precision, skipped)
    means = np.rint(centred(coarse.astype(np.float32), synthesis=_SYNTHESIS[stream.is_reversible], levels=skipped))
    most = np.float32(2 ** (8 * coarse.itemsize) - 1)
    return np.clip(means, 0, most).astype(coarse.dtype)


def _htj2k(frame: bytes, _: int, skipped: int) -> NDArray[np.unsignedinteger]:
    signed: NDArray[np.int16] = decode_htj2k(frame, skipped).view(np.int16)
    return np.maximum(signed, 0).view(np.uint16)


def _jpeg_2000(frame: bytes, precision: int, skipped: int) -> NDArray[np.unsignedinteger]:
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
    with _LISTENING:
        hook, sys.unraisablehook = sys.unraisablehook, mentioned.append
        try:
            film: NDArray[np.integer] = imagecodecs.htj2k_decode(frame, skipres=skipped)
        finally:
            sys.unraisablehook = hook
    if mentioned:
        raise ValueError("broken off")
    return film


def centred(film: NDArray[np.float32], *, synthesis: Sequence[float], levels: int) -> NDArray[np.float32]:
    """From the film at every 2^n-th pixel to means over 2^n x 2^n: those it would have if the finest wavelets were 0.

    Without it the film would lie up to half a pixel of its own to the right and below of where it belongs.
    """
    first, shares = _shares(np.array(synthesis), levels)
    for axis in (0, 1):
        last = film.shape[axis] - 1
        at = np.arange(film.shape[axis]) + first
        mean = np.zeros_like(film)
        for n, share in enumerate(shares):
            mean += np.float32(share) * np.take(film, np.clip(at + n, 0, last), axis)
        film = mean
    return film


def _shares(synthesis: NDArray[np.float64], levels: int) -> tuple[int, NDArray[np.float64]]:
    """What each coefficient, from the ``first`` beside a block on, has in the block's mean: level by level upwards."""
    first, shares = 0, np.full(2**levels, 0.5**levels)
    reach = len(synthesis) // 2
    for _ in range(levels):
        finer = np.convolve(shares, synthesis)  # from first - reach on; a coefficient is at every second place
        odd = (first - reach) % 2
        first, shares = (first - reach + odd) // 2, finer[odd::2]
    return first, shares
