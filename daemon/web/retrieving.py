"""WADO-RS (PS3.18 10.4): objects as they are stored, their headers, frames and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from daemon.headers import Headers
from daemon.web.accepted import DICOM, JSON, MULTIPART, accepted, need, preferred
from daemon.web.parameters import address
from daemon.web.parts import Outlet, Part
from daemon.web.rendering import Rendering
from daemon.web.shield import RefusalError
from triage.errors import BusyError, NotAnalysed, Reason, StudyNotFoundError
from triage.query import QueryError
from triage.records.archive import FILES_MAX, Archive, HeldFile

_METADATA_MAX = 1_000
_FRAMES_MAX = 1_000
_OCTETS = "application/octet-stream"
_EXPLICIT = "1.2.840.10008.1.2.1"
# Of frames, by transfer syntax (PS3.18 8.7.3.3.2); all others are uncompressed.
_FRAME_TYPES = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70)), "image/jpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{end}" for end in (80, 81)), "image/jls"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{end}" for end in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{end}" for end in (201, 202, 203)), "image/jphc"),
}


@dataclass(frozen=True, kw_only=True)
class Retrieving:
    """Each answer is 404 where nothing is held under the address, 410 where the bytes are no more."""

    archive: Archive
    headers: Headers
    outlet: Outlet
    rendering: Rendering

    def objects(self, request: Request) -> Response:
        """Study, series or instance. 206 where retention has removed some of it."""
        files, is_whole = self._kept(request)
        ranges, syntaxes = accepted(request.headers.get("accept")), {each.transfer_syntax_uid for each in files}
        parts = [_whole(each) for each in files]
        try:
            if any(each.takes_part(DICOM, syntaxes) for each in ranges):
                answer = self.outlet.multipart(parts, DICOM)
            elif "instance" in request.path_params and any(each.takes(DICOM) for each in ranges):
                answer = self.outlet.alone(parts[0])
            else:
                raise RefusalError(406, _AS_STORED)
        except NotAnalysed as outcome:
            raise _gone(outcome) from None
        answer.status_code = 200 if is_whole else 206
        return answer

    def metadata(self, request: Request) -> Response:
        """Headers without bulk data, read from the files."""
        need(request.headers.get("accept"), JSON, "application/json")
        files, is_whole = self._kept(request, most=_METADATA_MAX)
        told = self.headers.metadata([each.sha256 for each in files])
        try:
            first = next(told)  # before the answer begins: it can still say that there is nothing
        except NotAnalysed as outcome:
            raise _gone(outcome) from None
        return StreamingResponse(_listed(chain((first,), told)), 200 if is_whole else 206, media_type=JSON)

    def frames(self, request: Request) -> Response:
        """Frames of one instance by their numbers, from 1, in the order asked for."""
        (file,), _ = self._kept(request)
        wanted = _numbers(request.path_params["frames"])
        media_type = _FRAME_TYPES.get(file.transfer_syntax_uid, _OCTETS)
        syntax = file.transfer_syntax_uid if media_type != _OCTETS else _EXPLICIT
        if not _takes_frames(request, media_type, syntax):
            raise RefusalError(406, _AS_STORED)
        try:
            there = self.headers.frames(file.sha256, file.size_bytes)
            if max(wanted) > len(there):
                raise RefusalError(404, "There are fewer frames.")
            content_type = f"{media_type}; transfer-syntax={syntax}"
            parts = [Part(sha256=file.sha256, content_type=content_type, ranges=there[each - 1]) for each in wanted]
            return self.outlet.multipart(parts, media_type)
        except NotAnalysed as outcome:
            raise _gone(outcome) from None

    def rendered(self, request: Request) -> Response:
        """The first frame as a picture, with the window it was stored with."""
        (file,), _ = self._kept(request)
        media_type = preferred(request.headers.get("accept"), "image/jpeg", "image/png")
        try:
            return Response(self.rendering.picture(file.sha256, media_type), media_type=media_type)
        except NotAnalysed as outcome:
            raise _gone(outcome) from None

    def _kept(self, request: Request, most: int = FILES_MAX) -> tuple[list[HeldFile], bool]:
        """The files under an address, and whether they are all that was ever held there."""
        try:
            uids = address(request.path_params)
        except QueryError as error:
            raise RefusalError(400, f"{error}.") from None
        held = self.archive.files(*uids.values())
        if not held:
            raise StudyNotFoundError("nothing is held under this address")
        if len(held) > most:
            raise RefusalError(413, f"More than {most} instances: ask for them by series or instance.")
        kept = [each for each in held if each.is_kept]
        if not kept:
            raise RefusalError(410, "Held no longer: the archive has it.")
        return kept, len(kept) == len(held)


_AS_STORED = "Objects are sent as they are stored, in their own transfer syntax."


def _whole(file: HeldFile) -> Part:
    content_type = f"{DICOM}; transfer-syntax={file.transfer_syntax_uid}"
    return Part(sha256=file.sha256, content_type=content_type, ranges=((0, file.size_bytes),))


def _takes_frames(request: Request, media_type: str, syntax: str) -> bool:
    ranges = accepted(request.headers.get("accept"))
    if any(each.takes_part(media_type, [syntax]) for each in ranges):
        return True
    # "Octets in any transfer syntax" is how viewers ask for frames as they are stored.
    return any(each.takes(MULTIPART) and each.inner == _OCTETS and each.syntax in ("*", syntax) for each in ranges)


def _numbers(frames: str) -> list[int]:
    stated = frames.split(",")
    if not all(each.isascii() and each.isdecimal() and 0 < len(each) < 8 for each in stated):  # noqa: PLR2004 - digits
        raise RefusalError(400, "Frames: numbers, apart by commas.")
    wanted = [int(each) for each in stated]
    if 0 in wanted or len(wanted) > _FRAMES_MAX:
        raise RefusalError(400, f"Frames: from 1, at most {_FRAMES_MAX} of them.")
    return wanted


def _listed(told: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """A JSON array, as it comes. One that fails in the middle breaks off: it is not JSON then."""
    before = b"["
    for each in told:
        yield before + json.dumps(each, ensure_ascii=False).encode()
        before = b","
    yield b"]"


def _gone(outcome: NotAnalysed) -> Exception:
    if outcome.reason in (Reason.PIXELS_UNREADABLE, Reason.RESOURCE_EXHAUSTED, Reason.DECODE_TIMEOUT):
        return BusyError(outcome.reason.words)
    if outcome.reason is Reason.PIXELS_DAMAGED:
        return RefusalError(410, f"The {outcome.reason.words}.")
    return RefusalError(406, f"It cannot be shown: {outcome.reason.words}.")
