"""Orders as hospital systems send them, put together by hand."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

_serial = count(1)


def msh(kind: str = "ORM^O01", *, control_id: str | None = None, version: str = "2.3.1", charset: str = "") -> str:
    number = f"M{next(_serial)}" if control_id is None else control_id
    return f"MSH|^~\\&|RIS|NORTH|TRIAGE|X|20260105080000||{kind}|{number}|P|{version}||||||{charset}"


def order(
    accession_number: str,
    priority: str = "S",
    *,
    patient_id: str = "",
    control: str = "NW",
    control_id: str | None = None,
    charset: str = "",
    name: str = "Invented^Child",
) -> str:
    """ORM^O01 as IHE RAD-4 has it in 2.3.1: accession number in OBR-18, priority in ORC-7.6."""
    pid = f"PID|||{patient_id}^^^NORTH||{name}"
    orc = f"ORC|{control}|PL1|FL1||SC||^^^^^{priority}"
    obr = f"OBR|1|PL1|FL1|71046^Chest^C4||||||||||||||{accession_number}"
    return "\r".join((msh(control_id=control_id, charset=charset), pid, "PV1||I", orc, obr)) + "\r"


def imaging_order(accession_numbers: Sequence[str], priority: str, *, patient_id: str = "") -> str:
    """OMI^O23 as IHE has it in 2.5.1: priority in TQ1-9, accession number in IPC-1 of each procedure step."""
    pid = f"PID|||{patient_id}^^^NORTH^MR~999^^^X^PI||Invented^Child"
    steps = [f"IPC|{number}|RP1|1.2.3|SPS{n}|CR" for n, number in enumerate(accession_numbers)]
    lines = (
        msh("OMI^O23^OMI_O23", version="2.5.1"),
        pid,
        "ORC|NW|PL1",
        f"TQ1|1||||||||{priority}",
        "OBR|1|PL1||71046^Chest",
    )
    return "\r".join((*lines, *steps)) + "\r"


def framed(message: str | bytes, encoding: str = "utf-8") -> bytes:
    return b"\x0b" + (message.encode(encoding) if isinstance(message, str) else message) + b"\x1c\r"


class Sender:
    """A peer with a socket and nothing else."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._ahead = b""

    def say(self, message: str | bytes, encoding: str = "utf-8") -> str:
        """The answer, "" if the connection was closed instead."""
        self.connection.sendall(framed(message, encoding))
        return self.hear()

    def hear(self) -> str:
        while b"\x1c\r" not in self._ahead:
            try:
                received = self.connection.recv(65536)
            except ConnectionResetError:
                received = b""
            if not received:
                return ""
            self._ahead += received
        answer, _, self._ahead = self._ahead.partition(b"\x1c\r")
        assert answer.startswith(b"\x0b")
        return answer[1:].decode("utf-8")


@contextmanager
def sender(port: int, seconds: float = 30.0, source: str = "127.0.0.1") -> Iterator[Sender]:
    with socket.create_connection(("127.0.0.1", port), seconds, source_address=(source, 0)) as connection:
        yield Sender(connection)


def code(answer: str) -> str:
    """MSA-1."""
    return answer.split("\r")[1].split("|")[1] if answer else ""
