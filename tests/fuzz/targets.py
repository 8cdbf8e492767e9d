"""What reads bytes of strangers, each as a function that must end in an answer or in the one error it names."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields

from daemon.dicom.exchange import Exchange
from daemon.dicom.guard import Journal, ListenerLimits
from daemon.dicom.inlet import EndedError, Inlet
from daemon.dicom.service import Service, StoreRequest
from triage.errors import NotAnalysed
from triage.study import Header
from triage.vision.codestream import (
    HTJ2K_SYNTAXES,
    JPEG_2000_SYNTAXES,
    JPEG_LS_SYNTAXES,
    JPEG_SYNTAXES,
    check_rle,
    read_codestream,
)
from triage.vision.header import HEADER_TAGS, IDENTIFIER_CHARACTERS, TEXT_CHARACTERS, parse_head, parse_header
from triage.vision.part10 import read_beginning

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
SERIES_INSTANCE_UID = 0x0020000E
STREAM_SYNTAXES = [*sorted(JPEG_SYNTAXES | JPEG_LS_SYNTAXES | JPEG_2000_SYNTAXES | HTJ2K_SYNTAXES), "1.2.3"]
LIMITS = ListenerLimits(pdu_seconds=5, idle_seconds=5, dimse_seconds=5, pdu_bytes_max=64 * 1024)
INSTANCE_BYTES_MAX = 2000
LARGEST_SIDE = 2**32


@dataclass
class Kept:
    """A deposit that must not get more than it may."""

    size: int = 0

    def write(self, part: memoryview) -> None:
        self.size += len(part)
        assert self.size <= INSTANCE_BYTES_MAX

    def finish(self) -> int:
        return 0

    def discard(self) -> None:
        self.size = 0


def guard(content: bytes) -> None:
    """PDUs of an associated peer, up to its last one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(content)
        theirs.shutdown(socket.SHUT_WR)
        service = Service(
            inlet=Inlet(ours, LIMITS, Journal(), lambda: False),
            send=lambda _: None,
            contexts={1: ("1.2.840.10008.5.1.4.1.1.1", IMPLICIT), 3: ("1.2.840.10008.1.1", IMPLICIT)},
            begin_store=_begin,
            exchange=Exchange(handlers={}, calling_ae="PACS", called_ae="TRIAGE", address="127.0.0.1"),
            instance_bytes_max=INSTANCE_BYTES_MAX,
        )
        with suppress(EndedError):
            service.serve()
    assert all(0 <= status <= 0xFFFF for status in service.statuses)


def _begin(request: StoreRequest) -> Kept:
    assert 0 < len(request.sop_instance_uid) <= 64
    assert set(request.sop_instance_uid) <= set("0123456789.")
    return Kept()


def header(content: bytes) -> None:
    """A data set as it begins, and as a kept file."""
    _check(parse_head(content, EXPLICIT))
    _check(parse_head(content, IMPLICIT))
    with suppress(NotAnalysed):
        _check(parse_header(content))
    with suppress(NotAnalysed):
        read_beginning(io.BytesIO(content), tags=HEADER_TAGS, last=SERIES_INSTANCE_UID)  # type: ignore[arg-type]


def _check(found: Header | None) -> None:
    """No text is longer than a column, nor breaks a line."""
    for each in fields(Header) if found else ():
        value = getattr(found, each.name)
        if isinstance(value, str):
            assert len(value) <= max(IDENTIFIER_CHARACTERS, TEXT_CHARACTERS)
            assert not {"\n", "\r", "\0", "\x1b"} & set(value)
            value.encode("utf-8")


def codestream(content: bytes) -> None:
    """A frame of which the first byte says how it is compressed."""
    syntax, frame = STREAM_SYNTAXES[content[0] % len(STREAM_SYNTAXES)] if content else "", content[1:]
    with suppress(NotAnalysed):
        found = read_codestream(frame, syntax)
        assert max(found.rows, found.columns) <= LARGEST_SIDE
        assert 0 <= found.levels <= 32
    with suppress(NotAnalysed):
        check_rle(frame, segments=2, segment_bytes=1000)


TARGETS: dict[str, Callable[[bytes], None]] = {"guard": guard, "header": header, "codestream": codestream}


# -- to begin with -------------------------------------------------------------------------------------------------


def seeds(name: str) -> Iterator[bytes]:
    """Sound input, made here."""
    yield from {"guard": _messages, "header": _headers, "codestream": _streams}[name]()


def _messages() -> Iterator[bytes]:
    from listening import p_data, pdu, store_rq, us  # noqa: PLC0415 - found once the target is instrumented

    yield p_data(3, us(0x0100, 0x30) + us(0x0110, 1) + us(0x0800, 0x0101)) + pdu(5, bytes(4))
    yield p_data(3, store_rq()) + p_data(0, bytes(700)) + p_data(2, bytes(8)) + pdu(7, bytes(4))
    yield p_data(3, store_rq(b"1.2.A")) + p_data(2, bytes(3000)) + p_data(3, store_rq()) + p_data(2, bytes(8))


def _headers() -> Iterator[bytes]:
    from daemon.spool import part10_header  # noqa: PLC0415 - as above
    from making import data_set, encoded  # noqa: PLC0415 - as above

    made = data_set(PatientAge="003Y", StudyDate="20260105", ViewPosition="AP", BodyPartExamined="CHEST")
    made.SpecificCharacterSet = "ISO 2022 IR 87"
    plain = encoded(made)
    yield plain + b"\xe0\x7f\x10\0OW\0\0\x08\0\0\0" + bytes(8)
    yield part10_header("1.2.840.10008.5.1.4.1.1.1", "1.2.3.1", EXPLICIT) + plain
    yield plain + b"\x54\0\x20\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 3


def _streams() -> Iterator[bytes]:
    import imagecodecs  # noqa: PLC0415 - as above
    import numpy as np  # noqa: PLC0415 - as above

    film = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 4096
    made = {
        "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_encode(film, bitspersample=12),
        "1.2.840.10008.1.2.4.50": imagecodecs.jpeg8_encode((film >> 4).astype(np.uint8)),
        "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode(film),
        "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_encode(film, codecformat="J2K", reversible=True),
        "1.2.840.10008.1.2.4.201": imagecodecs.htj2k_encode(film, reversible=True),
    }
    for syntax, stream in made.items():
        yield bytes((STREAM_SYNTAXES.index(syntax),)) + stream
