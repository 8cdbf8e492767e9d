"""An audit repository: listens for syslog, takes the frames apart and validates every audit message."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lxml import etree

from ports import free_port

SCHEMA = etree.RelaxNG(etree.parse(Path(__file__).resolve().parent / "audit_message.rng"))
_HEADER = re.compile(rb"<85>1 (\S+) (\S+) triage \d+ DICOM\+RFC3881 - \xef\xbb\xbf")


def read(entry: bytes) -> etree._Element:
    """The audit message of a syslog entry, which is as it should be."""
    header = _HEADER.match(entry)
    assert header, entry[:100]
    return valid(entry[header.end() :])


def valid(message: bytes) -> etree._Element:
    root = etree.fromstring(message)
    SCHEMA.assertValid(root)
    return root


def kind(message: etree._Element) -> str:
    """Event, type if it has one, and outcome: "User Authentication/Login 4"."""
    event = message.find("EventIdentification")
    codes = [event.find("EventID"), *event.findall("EventTypeCode")]
    return "/".join(code.get("originalText") for code in codes) + " " + event.get("EventOutcomeIndicator")


class Collector:
    """Over TCP, with TLS if it has a context; what it has heard stays when it closes and opens again."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.entries: list[bytes] = []
        self.port = free_port()

    @property
    def messages(self) -> list[etree._Element]:
        return [read(entry) for entry in self.entries]

    @property
    def kinds(self) -> list[str]:
        return [kind(message) for message in self.messages]

    @contextmanager
    def listening(self) -> Iterator[None]:
        connections: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", self.port)) as server:
            accepting = threading.Thread(target=self._accept, args=(server, connections))
            accepting.start()
            try:
                yield
            finally:
                server.shutdown(socket.SHUT_RDWR)
                for connection in connections:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                accepting.join()

    def _accept(self, server: socket.socket, connections: list[socket.socket]) -> None:
        readers = []
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                try:
                    secure = self.tls.wrap_socket(connection, server_side=True) if self.tls else connection
                except OSError:
                    connection.close()
                    continue
                connections.append(secure)
                readers.append(threading.Thread(target=self._read, args=(secure,)))
                readers[-1].start()
        for reader in readers:
            reader.join()

    def _read(self, connection: socket.socket) -> None:
        ahead = b""
        with connection, suppress(OSError):
            while received := connection.recv(65536):
                ahead += received
                ahead = self._taken(ahead)

    def _taken(self, ahead: bytes) -> bytes:
        """All whole frames (RFC 5425 4.3), and what is left."""
        while True:
            length, space, rest = ahead.partition(b" ")
            if not space or len(rest) < int(length):
                return ahead
            self.entries.append(rest[: int(length)])
            ahead = rest[int(length) :]
