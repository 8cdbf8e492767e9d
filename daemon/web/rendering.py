"""A film as a picture for browsers, decoded as any other film is: in the sandbox."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from daemon.decoder import Decoder, Look
from daemon.kept import Kept
from triage.card import Preprocessing
from triage.errors import BusyError, NotAnalysed, Reason
from triage.policy import ungated

# Nobody sees more on a page, and each side costs as much memory as the other.
_SIDE_MAX = 2048
_SIDE_MIN = 64
_WAIT_SECONDS = 30.0
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}


@dataclass(frozen=True)
class Rendering:
    """One picture at a time: readers must not take the processor from the films that wait."""

    kept: Kept
    decoder: Decoder
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def picture(self, sha256: str, media_type: str) -> bytes:
        """Windowed as stored, bright = dense, at most 2048 pixels a side. Raise NotAnalysed, BusyError."""
        if not self.turn.acquire(timeout=_WAIT_SECONDS):
            raise BusyError("other pictures are being drawn")
        try:
            with self.kept.reading(sha256) as path:
                shape = self._look(path, sha256, _SIDE_MIN).shape or (1, 1)
                side = min(max(shape), _SIDE_MAX)
                look = self._look(path, sha256, max(side, _SIDE_MIN))
        finally:
            self.turn.release()
        return _encoded(look, _FORMATS[media_type], side)

    def _look(self, path: Path, sha256: str, size_px: int) -> Look:
        """The sandbox gives squares only: a first look says how long the film is."""
        whole = Preprocessing(size_px=size_px, stretch_percentiles=(0.0, 100.0), mean=0.0, std=1.0)
        look = self.decoder.look(path, sha256=sha256, gate=ungated, preprocessing=whole)
        if look.pixels is None or look.shape is None:
            raise NotAnalysed(look.reason or Reason.DECODE_ERROR)
        return look


def _encoded(look: Look, form: str, side: int) -> bytes:
    """Pixels alone, no text beside them."""
    rows, columns = look.shape or (1, 1)
    longest = max(rows, columns)
    size = (max(1, round(columns * side / longest)), max(1, round(rows * side / longest)))
    square = Image.fromarray(np.round(np.asarray(look.pixels) * 255).astype(np.uint8))
    written = io.BytesIO()
    square.resize(size, Image.Resampling.BILINEAR).save(written, form)
    return written.getvalue()
