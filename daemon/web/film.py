"""The films of a study, to be looked at: as they were sent, or as pictures that the sandbox has decoded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, BinaryIO

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse
from numpy.typing import NDArray
from PIL import Image

from daemon.decoder import Decoder
from daemon.kept import Kept, verify
from daemon.telemetry import log
from daemon.web.rendering import Rendering
from daemon.web.schemas import Uid, failures
from triage.errors import BusyError, NotAnalysed, Reason, StudyNotFoundError
from triage.records.reading import Reading

_CHUNK_BYTES = 256 * 1024
_GREYS = {8: 2**8 - 1, 16: 2**16 - 1}
# These may pass: the same film can be drawn later.
_PASSING = frozenset({Reason.PIXELS_UNREADABLE, Reason.RESOURCE_EXHAUSTED, Reason.DECODE_TIMEOUT})
_WINDOW = r"^(0|1|0?\.\d{1,6}|1\.0{1,6}),(0?\.\d{1,6}|1|1\.0{1,6})$"


class Form(StrEnum):
    """What a picture's numbers are: greys of 8 bits, or 16 bits of which red is the upper half and green the lower."""

    GREY = "grey"
    PACKED = "packed"


Number = Annotated[int, Query(ge=1, le=1000, description="Which film: 1 is the one most likely ill, then by arrival.")]
Size = Annotated[int, Query(ge=64, le=2048, description="Pixels of the longer side, unless the film has fewer.")]
FormOf = Annotated[Form, Query(description="Greys to be looked at, or 16 bits for a program that windows them.")]
Window = Annotated[
    str | None,
    Query(
        pattern=_WINDOW,
        description="CENTRE,WIDTH between 0 and 1 of the film as its own window shows it, e.g. 0.5,1.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Films:
    """Of studies, by their place in them."""

    reading: Reading
    kept: Kept
    decoder: Decoder

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/studies/{uid}")
        for name, media_type, answer in (
            ("/film.png", "image/png", self.picture),
            ("/film.dcm", "application/dicom", self.file),
        ):
            form = {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}, "description": "It."}
            described: dict[str, Any] = {"responses": {200: form, **failures(400, 404, 422, 500, 503)}}
            router.add_api_route(name, answer, response_class=Response, **described)
        return router

    def picture(
        self, uid: Uid, window: Window = None, size: Size = 1024, number: Number = 1, form: FormOf = Form.GREY
    ) -> Response:
        """The film as PNG, bright where it is dense, by its own window. For prioritisation only, not for diagnosis.

        404 where it is no longer kept or cannot be decoded.
        """
        film = self._decoded(self._sha256(uid, number), size)
        if window:
            film = windowed(film, *(float(part) for part in window.split(",")))
        return Response(png(film, form), media_type="image/png")

    def file(self, uid: Uid, number: Number = 1) -> Response:
        """The stored file: the data set as it was sent, DICOM Part 10."""
        opened = self._opened(self._sha256(uid, number))
        named = {"content-disposition": 'attachment; filename="film.dcm"'}
        return StreamingResponse(_chunks(opened), media_type="application/dicom", headers=named)

    def _sha256(self, uid: str, number: int) -> str:
        films = self.reading.films(uid)
        if number > len(films):
            raise StudyNotFoundError("this film is not kept" if films else "no film of this study is kept")
        return films[number - 1]

    def _opened(self, sha256: str) -> BinaryIO:
        """Who has opened it may read it to its end, even where it is deleted meanwhile."""
        try:
            with self.kept.reading(sha256) as path:
                verify(path, sha256)
                return path.open("rb")
        except NotAnalysed as outcome:
            raise _refused(outcome.reason) from None
        except OSError as error:
            log().warning("film_unreadable", error=type(error).__name__)
            raise _refused(Reason.PIXELS_UNREADABLE) from None

    def _decoded(self, sha256: str, size: int) -> NDArray[np.float32]:
        try:
            return self._rendering.film(sha256, size)
        except NotAnalysed as outcome:
            raise _refused(outcome.reason) from None

    @cached_property
    def _rendering(self) -> Rendering:
        return Rendering(kept=self.kept, decoder=self.decoder)


def _refused(reason: Reason) -> Exception:
    if reason in _PASSING:
        return BusyError(f"the film cannot be drawn now: {reason.words}")
    return StudyNotFoundError(f"the film cannot be drawn: {reason.words}")


def windowed(film: NDArray[np.float32], centre: float, width: float) -> NDArray[np.float32]:
    """Black and white at half a width from the centre; a width of 0 would show nothing."""
    shown = (film - np.float32(centre)) / np.float32(max(width, 1e-6)) + np.float32(0.5)
    clipped: NDArray[np.float32] = np.clip(shown, np.float32(0), np.float32(1))
    return clipped


def png(film: NDArray[np.float32], form: Form) -> bytes:
    """Pixels alone, no text beside them."""
    written = io.BytesIO()
    if form is Form.GREY:
        greys = np.rint(film * _GREYS[8]).astype(np.uint8)
        Image.fromarray(greys).save(written, "PNG", compress_level=1)
    else:
        whole = np.rint(film * _GREYS[16]).astype(np.uint16)
        halves = ((whole >> 8).astype(np.uint8), (whole & 255).astype(np.uint8), np.zeros(whole.shape, np.uint8))
        Image.fromarray(np.dstack(halves)).save(written, "PNG", compress_level=1)
    return written.getvalue()


def _chunks(opened: BinaryIO) -> Iterator[bytes]:
    with opened:
        while chunk := opened.read(_CHUNK_BYTES):
            yield chunk
