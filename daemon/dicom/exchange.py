"""Questions on an established association: every request but C-STORE and C-ECHO, and who answers them.

A question's data set is small and read as a whole; what it may cost is bounded here, before anybody looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import ImplicitVRLittleEndian

from daemon.dicom.command import C_FIND_RQ, Command
from daemon.telemetry import describe, log
from triage.records.store import DatabaseError

# A question with all keys that anybody asks for has two kilobytes.
DATA_SET_BYTES_MAX = 256 * 1024

# PS3.7 annex C.
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
UNRECOGNIZED_OPERATION = 0x0211
RESOURCE_LIMITATION = 0x0213
# PS3.4 tables C.4-1, CC.2.8-2.
PENDING = 0xFF00
PENDING_KEYS_IGNORED = 0xFF01
PENDING_STATUSES = (PENDING, PENDING_KEYS_IGNORED)
CANCELLED = 0xFE00
OUT_OF_RESOURCES = 0xA700
IDENTIFIER_DOES_NOT_MATCH = 0xA900
UNABLE_TO_PROCESS = 0xC000


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request. The UIDs are "" unless usable; ``data_set`` is None where the request came without.

    ``abstract_syntax``: of the presentation context, which may be another than the SOP class (PS3.4 CC.3.1).
    """

    calling_ae: str
    called_ae: str
    address: str
    abstract_syntax: str
    kind: int
    sop_class_uid: str
    sop_instance_uid: str = field(repr=False)
    action: int
    attributes: tuple[int, ...]
    encoded: bytes | None = field(repr=False)
    transfer_syntax: str

    @cached_property
    def data_set(self) -> Dataset:
        """Empty where the request came without. Raise what pydicom raises: the exchange answers for it."""
        return decoded(self.encoded or b"", self.transfer_syntax)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One response. ``comment``: Error Comment, without anything of a patient."""

    status: int
    data_set: Dataset | None = field(default=None, repr=False)
    comment: str = ""


Handler = Callable[[Question], Iterable[Reply]]
# By abstract syntax and command field. A handler yields replies, the last of them final; closed early if cancelled.
Handlers = Mapping[tuple[str, int], Handler]


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """The questions of one association."""

    handlers: Handlers
    calling_ae: str
    called_ae: str
    address: str

    def answers(self, abstract_syntax: str) -> bool:
        return any(abstract_syntax == uid for uid, _ in self.handlers)

    def replies(
        self, command: Command, abstract_syntax: str, transfer_syntax: str, encoded: bytearray | None
    ) -> Generator[tuple[Reply, bytes | None], None, None]:
        """Each with its data set encoded. Never raises: what goes wrong is the last status."""
        question = Question(
            calling_ae=self.calling_ae,
            called_ae=self.called_ae,
            address=self.address,
            abstract_syntax=abstract_syntax,
            kind=command.kind,
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            action=command.action,
            attributes=command.attributes,
            encoded=None if encoded is None else bytes(encoded),
            transfer_syntax=transfer_syntax,
        )
        handler = self.handlers.get((abstract_syntax, command.kind))
        if handler is None:
            yield Reply(status=UNRECOGNIZED_OPERATION), None
        elif encoded is not None and len(encoded) > DATA_SET_BYTES_MAX:
            yield Reply(status=_too_much(command), comment="data set is too large"), None
        else:
            yield from _answered(handler, question)


def _answered(handler: Handler, question: Question) -> Iterator[tuple[Reply, bytes | None]]:
    try:
        for reply in handler(question):
            found = reply.data_set
            yield reply, None if found is None else encoded(found, question.transfer_syntax)
    except DatabaseError as error:
        log().error("database_unavailable", **describe(error))
        is_find = question.kind == C_FIND_RQ
        yield Reply(status=OUT_OF_RESOURCES if is_find else RESOURCE_LIMITATION, comment="database is away"), None
    except Exception as error:  # noqa: BLE001 - whatever was asked costs this question only
        log().warning("question_failed", calling_ae=question.calling_ae, kind=question.kind, **describe(error))
        yield Reply(status=UNABLE_TO_PROCESS if question.kind == C_FIND_RQ else PROCESSING_FAILURE), None


def _too_much(command: Command) -> int:
    return OUT_OF_RESOURCES if command.kind == C_FIND_RQ else RESOURCE_LIMITATION


def decoded(content: bytes, transfer_syntax: str) -> Dataset:
    """Raise what pydicom raises, RecursionError for sequences that go too deep."""
    return read_dataset(
        BytesIO(content), is_implicit_VR=transfer_syntax == ImplicitVRLittleEndian, is_little_endian=True
    )


def encoded(data_set: Dataset, transfer_syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, transfer_syntax == ImplicitVRLittleEndian
    write_dataset(buffer, data_set)
    return buffer.getvalue()
