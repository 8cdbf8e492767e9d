"""Messages in their frames: HL7's minimal lower layer protocol (MLLP, release 1), with a limit to everything.

A frame is <VT> message <FS><CR>. Nothing but line ends stands between frames; a <VT> in the midst of one begins it
anew.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

_VT, _FS, _CR = b"\x0b", b"\x1c", b"\r"
_BETWEEN = b"\r\n"
_CHUNK_BYTES = 64 * 1024
# How often a thread that waits looks whether it is to stop.
_LOOK_SECONDS = 0.25
# Of a message that is too large so much is kept, for its header and for people to see what it was.
HEAD_BYTES = 4096


class Outcome(StrEnum):
    """How a connection came to its end. ``HALF_MESSAGE``: closed by the peer before the frame was whole.
    ``INSECURE``: no TLS could be agreed on.
    """

    CLOSED = "closed"
    SILENT = "silent"
    SLOW = "slow"
    HALF_MESSAGE = "half_message"
    GARBAGE = "garbage"
    UNANSWERED = "unanswered"
    STOPPED = "stopped"
    INSECURE = "insecure"


class EndedError(Exception):
    """No further message comes on this connection."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one peer may cost. ``message_seconds``: from a frame's first byte to its last, and for an answer."""

    message_bytes_max: int = 2**20
    message_seconds: float = 30.0
    idle_seconds: float = 3600.0
    connections_max: int = 32
    connections_per_address_max: int = 16


@dataclass(frozen=True)
class Frame:
    """A message without its frame; only its head where it was too large."""

    content: bytes
    is_whole: bool


class Frames:
    """The frames of one connection, one after the other."""

    def __init__(self, connection: socket.socket, limits: Limits, is_stopping: Callable[[], bool]) -> None:
        self._connection = connection
        self._limits = limits
        self._is_stopping = is_stopping
        self._ahead = bytearray()
        self._deadline = 0.0
        self._is_within = False

    def next(self) -> Frame:
        """Raise EndedError."""
        self._is_within, self._deadline = False, time.monotonic() + self._limits.idle_seconds
        self._skip_to_start()
        self._is_within, self._deadline = True, time.monotonic() + self._limits.message_seconds
        return self._frame()

    def _skip_to_start(self) -> None:
        while True:
            self._ahead = self._ahead.lstrip(_BETWEEN)
            if self._ahead:
                break
            self._receive()
        if not self._ahead.startswith(_VT):
            raise EndedError(Outcome.GARBAGE)
        del self._ahead[:1]

    def _frame(self) -> Frame:
        content, is_whole = bytearray(), True
        while True:
            part, end, rest = self._ahead.partition(_FS)
            _, begun_anew, again = part.rpartition(_VT)
            if begun_anew:
                content, is_whole, part = bytearray(), True, again
            content += part
            self._ahead = rest
            if len(content) > self._limits.message_bytes_max:
                is_whole = False
            if not is_whole:  # the rest is let pass
                del content[HEAD_BYTES:]
            if end:
                return Frame(bytes(content), is_whole)
            self._receive()

    def _receive(self) -> None:
        """At least one byte more."""
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise EndedError(Outcome.SLOW if self._is_within else Outcome.SILENT)
            if not self._is_within and self._is_stopping():
                raise EndedError(Outcome.STOPPED)
            self._connection.settimeout(min(left, _LOOK_SECONDS))
            try:
                received = self._connection.recv(_CHUNK_BYTES)
            except TimeoutError:
                continue
            except OSError:
                received = b""
            if not received:
                raise EndedError(Outcome.HALF_MESSAGE if self._is_within else Outcome.CLOSED)
            self._ahead += received
            return

    def send(self, answer: bytes) -> None:
        """Raise EndedError if the peer does not take it."""
        with contextlib.suppress(OSError):
            self._connection.settimeout(self._limits.message_seconds)
            self._connection.sendall(_VT + answer + _FS + _CR)
            return
        raise EndedError(Outcome.UNANSWERED)
