"""What an associated peer sends, through one buffer: nothing is copied or kept that somebody does not ask for."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING

from daemon.dicom.guard import A_ABORT, A_ABORT_INVALID_PARAMETER, QUIET_SECONDS, Outcome, acknowledge_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.dicom.guard import Journal, ListenerLimits

# Eight of the largest PDUs that we ask for: with several senders as much as that is there at a time.
BUFFER_BYTES = 1024 * 1024
_PDU_HEADER = struct.Struct(">BxL")


class EndedError(Exception):
    """The association is over. ``last_words``: a PDU that the peer should still be sent."""

    def __init__(self, outcome: Outcome, last_words: bytes = b"") -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.last_words = last_words


class Inlet:
    """Reads in one thread. Every method raises EndedError: at the end of the stream, past a deadline, if dismissed."""

    def __init__(
        self, sock: socket.socket, limits: ListenerLimits, journal: Journal, is_dismissed: Callable[[], bool]
    ) -> None:
        self._socket = sock
        self._limits = limits
        self._journal = journal
        self._is_dismissed = is_dismissed
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0
        self._message_deadline = float("inf")
        self.touch()
        sock.settimeout(QUIET_SECONDS)

    def close(self) -> None:
        """Let the buffer go now: the association around it is a cycle, and the collector may come much later."""
        self._buffer = memoryview(b"")
        self._start = self._end = 0

    def touch(self) -> None:
        """Time spent by us on an answer is not idleness of the peer."""
        self._heard = time.monotonic()

    def begin_message(self) -> None:
        self._message_deadline = time.monotonic() + self._limits.dimse_seconds

    def end_message(self) -> None:
        self._message_deadline = float("inf")
        self.touch()

    @property
    def silent_seconds(self) -> float:
        """Since the last byte, if the peer is not in the middle of a message."""
        return time.monotonic() - self._heard if self._message_deadline == float("inf") else 0.0

    def pdu(self) -> tuple[int, int]:
        """Type and length of the next PDU, its content still to be read (PS3.8 9.3)."""
        if self._start == self._end:
            self._receive(self._heard + self._limits.idle_seconds)
        self._pdu_deadline = time.monotonic() + self._limits.pdu_seconds
        kind, length = _PDU_HEADER.unpack(self.take(_PDU_HEADER.size))
        if length > self._limits.pdu_bytes_max:
            raise EndedError(Outcome.ABORTED, A_ABORT_INVALID_PARAMETER)
        return kind, length

    def has_waiting(self) -> bool:
        """Whether the peer has sent something that is not read yet; never waits."""
        if self._start != self._end or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return True
        waiting = select.poll()
        try:
            waiting.register(self._socket, select.POLLIN)
        except (OSError, ValueError):  # cut by us
            return True
        return bool(waiting.poll(0))

    def take(self, count: int) -> bytes:
        """So many bytes, few of them."""
        while self._end - self._start < count:
            self._receive(self._pdu_deadline)
        self._start += count
        return bytes(self._buffer[self._start - count : self._start])

    def portion(self, most: int) -> memoryview:
        """At least one byte, at most so many; only good until the next call of any method."""
        if self._start == self._end:
            self._receive(self._pdu_deadline)
        start, self._start = self._start, min(self._start + most, self._end)
        return self._buffer[start : self._start]

    def drain(self, seconds: float) -> None:
        """Read and forget, until the peer has closed: closing before would take our last words away from it."""
        self.end_message()
        deadline = time.monotonic() + seconds
        while True:
            self._start = self._end = 0
            self._receive(deadline)

    def _receive(self, deadline: float) -> None:
        """Add to the buffer whatever is there."""
        self._make_room()
        deadline = min(deadline, self._message_deadline)
        while True:
            if self._is_dismissed():
                raise EndedError(Outcome.ABORTED, A_ABORT)
            if time.monotonic() > deadline:
                raise EndedError(Outcome.TIMEOUT, A_ABORT)
            try:
                got = self._socket.recv_into(self._buffer[self._end :])
            except TimeoutError:
                continue
            except (OSError, ValueError):  # reset by the peer, or cut by us
                got = 0
            break
        if not got:
            raise EndedError(Outcome.CLOSED)
        self._end += got
        self._journal.bytes_received += got
        acknowledge_now(self._socket)
        self.touch()

    def _make_room(self) -> None:
        if self._start:
            left = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(left)] = left
            self._start, self._end = 0, len(left)
