"""Syslog (RFC 5424) to one repository: over TLS (RFC 5425), plain TCP with the same framing, or UDP (RFC 5426).

Syslog acknowledges nothing. On a stream, what was sent counts as arrived once the peer's kernel has it and the peer
has not closed; whatever is in doubt is sent again: rather twice than never.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

# Facility 10 (security), severity 5 (notice), as IHE's ATNA has it.
_PRIORITY = 10 * 8 + 5
_MESSAGE_ID = "DICOM+RFC3881"
_BOM = b"\xef\xbb\xbf"
_SECONDS = 10.0
_LOOK_SECONDS = 0.01


def entry(message: bytes, at: datetime, host: str) -> bytes:
    """``message``: UTF-8, which is said by the byte order mark (RFC 5424 6.4)."""
    header = f"<{_PRIORITY}>1 {at.isoformat(timespec='milliseconds')} {host} triage {os.getpid()} {_MESSAGE_ID} - "
    return header.encode("ascii", "replace") + _BOM + message


class Line(Protocol):
    """A connection to the repository. Every method raises OSError where it does not answer."""

    def send(self, entries: Sequence[bytes]) -> None:
        """Return once they have arrived, as far as can be told."""

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Repository:
    """``kind``: tls, tcp or udp. ``tls``: what it is spoken to over; it has to show a certificate for ``host``."""

    kind: str
    host: str
    port: int
    tls: Callable[[], ssl.SSLContext] | None = None

    def connect(self) -> Line:
        """Raise OSError."""
        if self.kind == "udp":
            return Datagrams(self.host, self.port)
        plain = socket.create_connection((self.host, self.port), _SECONDS)
        if self.kind == "tcp" or self.tls is None:
            return Stream(plain)
        try:
            return Stream(self.tls().wrap_socket(plain, server_hostname=self.host))
        except BaseException:
            plain.close()
            raise


class Datagrams:
    """Nobody knows whether they arrive."""

    def __init__(self, host: str, port: int) -> None:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind)
        self._socket.connect(address)

    def send(self, entries: Sequence[bytes]) -> None:
        for each in entries:
            self._socket.send(each)

    def close(self) -> None:
        self._socket.close()


class Stream:
    """Each entry after its length (RFC 5425 4.3)."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        connected.settimeout(_SECONDS)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_SECONDS * 1000))

    def send(self, entries: Sequence[bytes]) -> None:
        self._refuse_closed()
        self._socket.sendall(b"".join(b"%d %b" % (len(each), each) for each in entries))
        self._settle()
        self._refuse_closed()

    def _settle(self) -> None:
        """Wait until the peer's kernel has acknowledged every byte."""
        deadline = time.monotonic() + _SECONDS
        while _unacknowledged(self._socket):
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(_LOOK_SECONDS)

    def _refuse_closed(self) -> None:
        """It has nothing to say to us but that it goes."""
        looking = select.poll()
        looking.register(self._socket, select.POLLIN)
        while looking.poll(_LOOK_SECONDS * 1000):
            self._socket.settimeout(_LOOK_SECONDS)
            try:
                if not self._socket.recv(4096):
                    raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
            except (TimeoutError, ssl.SSLWantReadError):  # a message of TLS itself
                break
            finally:
                self._socket.settimeout(_SECONDS)

    def close(self) -> None:
        self._socket.close()


def _unacknowledged(connected: socket.socket) -> int:
    """Bytes, SIOCOUTQ of tcp(7)."""
    (waiting,) = struct.unpack("i", fcntl.ioctl(connected, termios.TIOCOUTQ, struct.pack("i", 0)))
    return int(waiting)
