"""Files as multipart/related (PS3.18 8.6.1.2), part after part as they are read: never a study in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from secrets import token_hex
from typing import BinaryIO

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from daemon.kept import Kept, verify
from triage.errors import BusyError

_CHUNK_BYTES = 2**20
_AT_ONCE = 16
_WAIT_SECONDS = 1.0
# A client that takes nothing for so long is left.
_STALL_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file, or of one what lies at ``ranges``: (start, length)."""

    sha256: str
    content_type: str
    ranges: Sequence[tuple[int, int]]

    @property
    def size_bytes(self) -> int:
        return sum(length for _, length in self.ranges)


@dataclass(frozen=True, kw_only=True)
class Outlet:
    """Sends what is kept. Each file is held against its sha256 first: what was altered is not sent as if sound."""

    kept: Kept
    slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_AT_ONCE), repr=False)

    def multipart(self, parts: Sequence[Part], inner: str) -> StreamingResponse:
        """Raise NotAnalysed if the first cannot be sent, BusyError.

        If a later one cannot, the connection ends before the announced length: nobody takes a part for the whole.
        """
        boundary = token_hex(16)
        heads = [_head(part, boundary, is_first=number == 0) for number, part in enumerate(parts)]
        last = f"\r\n--{boundary}--\r\n".encode()
        size = sum(map(len, heads)) + sum(part.size_bytes for part in parts) + len(last)
        media_type = f'multipart/related; type="{inner}"; boundary={boundary}'
        return self._sending(chain(self._framed(parts, heads), (last,)), size, media_type)

    def alone(self, part: Part) -> StreamingResponse:
        """Without a frame around it. Raises as above."""
        return self._sending(self._framed([part], [b""]), part.size_bytes, part.content_type)

    def _sending(self, content: Iterator[bytes], size: int, media_type: str) -> StreamingResponse:
        if not self.slots.acquire(timeout=_WAIT_SECONDS):
            raise BusyError("other files are being sent")
        try:
            first = next(content)  # opens the first file: if it is not there, the answer can still say so
        except BaseException:
            self.slots.release()
            raise
        answer = _Slotted(chain((first,), content), media_type=media_type, headers={"content-length": str(size)})
        answer.slots = self.slots
        return answer

    def _framed(self, parts: Sequence[Part], heads: Sequence[bytes]) -> Iterator[bytes]:
        for part, head in zip(parts, heads, strict=True):
            with self.kept.reading(part.sha256) as path:
                verify(path, part.sha256)
                with path.open("rb") as file:
                    yield head
                    for start, length in part.ranges:
                        yield from _read(file, start, length)


class _Slotted(StreamingResponse):
    """Gives its slot back, however it ends."""

    slots: threading.Semaphore

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def patient(event: Message) -> None:
            async with asyncio.timeout(_STALL_SECONDS):
                await send(event)

        try:
            await super().__call__(scope, receive, patient)
        finally:
            self.slots.release()


def _head(part: Part, boundary: str, *, is_first: bool) -> bytes:
    before = "" if is_first else "\r\n"
    return f"{before}--{boundary}\r\nContent-Type: {part.content_type}\r\n\r\n".encode()


def _read(file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    file.seek(start)
    while length:
        chunk = file.read(min(length, _CHUNK_BYTES))
        if not chunk:
            return  # shorter than it was a moment ago: the announced length will be missed
        length -= len(chunk)
        yield chunk
