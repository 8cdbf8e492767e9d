"""A film as a picture for browsers, decoded as any other film is: in the sandbox."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from daemon.decoder import Decoder
from daemon.kept import Kept
from daemon.web.places import Places
from triage.card import Preprocessing
from triage.errors import NotAnalysed, Reason
from triage.policy import ungated

# Nobody sees more on a page, and each side costs as much memory as the other.
_SIDE_MAX = 2048
_SIDE_MIN = 64
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}


@dataclass(frozen=True)
class Rendering:
    """One picture at a time: readers must not take the processor from the films that wait."""

    kept: Kept
    decoder: Decoder
    turn: Places = field(default_factory=lambda: Places("other films are being drawn"), repr=False)

    def picture(self, sha256: str, media_type: str) -> bytes:
        """Windowed as stored, bright = dense, at most 2048 pixels a side. Raise NotAnalysed, BusyError."""
        greys = np.rint(self.film(sha256, _SIDE_MAX) * 255).astype(np.uint8)
        written = io.BytesIO()
        Image.fromarray(greys).save(written, _FORMATS[media_type])  # pixels alone, no text beside them
        return written.getvalue()

    def film(self, sha256: str, side_max: int) -> NDArray[np.float32]:
        """(H, W) in [0, 1], its longer side as it is or ``side_max``. Raise NotAnalysed, BusyError."""
        with self.turn.taken(), self.kept.reading(sha256) as path:
            pixels, shape = self._look(path, sha256, side_max)
            side = max(*shape, _SIDE_MIN)
            if side < side_max:  # the sandbox gives squares: this one was drawn out
                pixels, shape = self._look(path, sha256, side)
        share = min(1.0, side_max / max(shape))
        rows, columns = (max(1, round(length * share)) for length in shape)
        drawn = Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR)
        return np.clip(np.asarray(drawn, np.float32), 0.0, 1.0)

    def _look(self, path: Path, sha256: str, size_px: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """A square of it, and rows and columns that it has."""
        whole = Preprocessing(size_px=size_px, stretch_percentiles=(0.0, 100.0), mean=0.0, std=1.0)
        look = self.decoder.look(path, sha256=sha256, gate=ungated, preprocessing=whole)
        if look.pixels is None or look.shape is None:
            raise NotAnalysed(look.reason or Reason.DECODE_ERROR)
        return look.pixels, look.shape
