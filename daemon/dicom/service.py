"""What is done on an established association: messages come in piece by piece, each is answered by this same thread.

pynetdicom has negotiated; from here on the stream is ours, PS3.8 9.2 in the one state Sta6. A film goes to whoever
keeps it as it comes, never as a whole through memory; the small data set of a question is gathered (``exchange``).
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from daemon.dicom.command import C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ, Command, answer, parse_command
from daemon.dicom.exchange import CANCELLED, DATA_SET_BYTES_MAX, PENDING_STATUSES, Exchange
from daemon.dicom.guard import A_ABORT, Outcome
from daemon.dicom.inlet import EndedError, Inlet
from daemon.dicom.negotiation import VERIFICATION
from daemon.dicom.transfers import Transfers
from daemon.metrics import INSTANCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

COMMAND_SET_BYTES_MAX = 64 * 1024
# PS3.7 annex C, PS3.4 table B.2-1.
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND_UID = 0xC001
STATUS_MAX = 0xFFFF

_P_DATA_TF, _A_RELEASE_RQ, _A_ABORT = 4, 5, 7
_A_RELEASE_RP = bytes.fromhex("06 00 00000004 00000000")
# A PDV's length, context and message control header (PS3.8 9.3.5.1, E.2).
_PDV_HEADER = struct.Struct(">LBB")
_CONTROL_BYTES = 2
_IS_COMMAND, _IS_LAST = 1, 2
# A PDU of ours, where the peer sets no limit.
_PDU_BYTES = 128 * 1024


@dataclass(frozen=True, kw_only=True)
class StoreRequest:
    """One C-STORE as announced: both UIDs as in the command set, only their form checked.

    ``transfers``: of its association.
    """

    calling_ae: str
    called_ae: str
    address: str
    sop_class_uid: str
    sop_instance_uid: str = field(repr=False)
    transfer_syntax_uid: str
    transfers: Transfers = field(default_factory=Transfers, repr=False, compare=False)


class Deposit(Protocol):
    """Where a data set goes while it arrives. It ends with ``finish`` or ``discard``, or with what it raised."""

    def write(self, part: memoryview) -> None: ...

    def finish(self) -> int:
        """The status to answer."""

    def discard(self) -> None:
        """The rest will not come, or is not wanted."""


class Reception:
    """One C-STORE while its data set arrives. Whatever fails becomes the status of this one instance."""

    def __init__(self, begin: Callable[[], Deposit] | None, bytes_max: int, status: int = OUT_OF_RESOURCES) -> None:
        """Without ``begin`` the data set is taken, nothing of it kept, and ``status`` the answer."""
        self._room, self._status = bytes_max, status
        self._deposit: Deposit | None = None
        try:
            self._deposit = begin() if begin else None
        except Exception:  # noqa: BLE001 - the receiver has its own table of statuses; this is the last line
            self._deposit = None

    def write(self, part: memoryview) -> None:
        if self._deposit is None:
            return
        self._room -= len(part)
        if self._room < 0:
            self.discard()
            return
        try:
            self._deposit.write(part)
        except Exception:  # noqa: BLE001 - as above
            self.discard()

    def finish(self) -> int:
        if self._deposit is None:
            return self._status
        deposit, self._deposit = self._deposit, None
        try:
            status = deposit.finish()
        except Exception:  # noqa: BLE001 - as above
            return OUT_OF_RESOURCES
        return int(status) if isinstance(status, int) and SUCCESS <= status <= STATUS_MAX else OUT_OF_RESOURCES

    def discard(self) -> None:
        if self._deposit is not None:
            deposit, self._deposit = self._deposit, None
            deposit.discard()


class Gathering:
    """The data set of a question while it arrives; of one that is too large only so much that it shows."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, part: memoryview) -> None:
        self.content += part[: DATA_SET_BYTES_MAX + 1 - len(self.content)]

    def discard(self) -> None:
        self.content.clear()


@dataclass(kw_only=True)
class Service:
    """Serves one association to its end. ``contexts``: syntaxes of each accepted presentation context.

    ``pdu_bytes_max``: the peer's, 0 for none. ``questions`` counts final answers by their status.
    """

    inlet: Inlet
    send: Callable[[bytes], None]
    contexts: Mapping[int, tuple[str, str]]
    begin_store: Callable[[Command, str], Deposit]
    exchange: Exchange
    instance_bytes_max: int
    pdu_bytes_max: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    questions: Counter[int] = field(default_factory=Counter)
    echoes: int = 0
    _encoded: bytearray = field(default_factory=bytearray)
    _context_id: int = 0
    _command: Command | None = None
    _reception: Reception | Gathering | None = None
    # The question that is being answered and its context and data set, and whether its end has been asked for.
    _asked: tuple[Command, int, bytearray | None] | None = None
    _is_cancelled: bool = False

    def serve(self) -> None:
        """Return once the peer has released the association. Raise EndedError as the inlet does."""
        try:
            while True:
                kind, length = self.inlet.pdu()
                if kind == _P_DATA_TF:
                    self._p_data(length)
                    if self._asked is not None:
                        self._reply(*self._asked)
                elif kind == _A_RELEASE_RQ:
                    self.send(_A_RELEASE_RP)
                    return
                else:
                    raise EndedError(Outcome.ABORTED, b"" if kind == _A_ABORT else A_ABORT)
        finally:
            if self._reception is not None:
                self._reception.discard()

    def _p_data(self, length: int) -> None:
        """A P-DATA-TF PDU: PDVs with a fragment each (PS3.8 9.3.5)."""
        while True:
            if length < _PDV_HEADER.size:
                raise EndedError(Outcome.ABORTED, A_ABORT)
            size, context_id, control = _PDV_HEADER.unpack(self.inlet.take(_PDV_HEADER.size))
            length -= size + _PDV_HEADER.size - _CONTROL_BYTES
            if size < _CONTROL_BYTES or length < 0:
                raise EndedError(Outcome.ABORTED, A_ABORT)
            self._fragment(context_id, control, size - _CONTROL_BYTES)
            if not length:
                return

    def _fragment(self, context_id: int, control: int, size: int) -> None:
        expected = not self._encoded or context_id == self._context_id
        in_turn = bool(control & _IS_COMMAND) == (self._command is None)
        if context_id not in self.contexts or not expected or not in_turn:
            raise EndedError(Outcome.ABORTED, A_ABORT)
        if self._command is None:
            self._add_to_command(context_id, size)
        else:
            self._pass_on(size)
        if control & _IS_LAST:
            self._end_of_command() if self._command is None else self._end_of_data_set(self._command)

    def _add_to_command(self, context_id: int, size: int) -> None:
        if not self._encoded:
            self.inlet.begin_message()
            self._context_id = context_id
        if len(self._encoded) + size > COMMAND_SET_BYTES_MAX:
            raise EndedError(Outcome.ABORTED, A_ABORT)
        while size:
            part = self.inlet.portion(size)
            self._encoded += part
            size -= len(part)

    def _pass_on(self, size: int) -> None:
        while size:
            part = self.inlet.portion(size)
            size -= len(part)
            if self._reception is not None:
                self._reception.write(part)

    def _end_of_command(self) -> None:
        try:
            command = parse_command(self._encoded)
        except ValueError:
            raise EndedError(Outcome.ABORTED, A_ABORT) from None
        abstract_syntax, _ = self.contexts[self._context_id]
        if command.kind == C_CANCEL_RQ and not command.has_data_set:
            self._is_cancelled |= self._asked is not None and command.message_id == self._asked[0].message_id
            self._end_of_message()
        elif self._asked is not None:
            raise EndedError(Outcome.ABORTED, A_ABORT)  # one operation at a time was agreed on (PS3.7 D.3.3.3)
        elif command.kind == C_ECHO_RQ and not command.has_data_set:
            self.echoes += 1
            self._answer(command, SUCCESS)
        else:
            self._command, self._reception = command, self._begin(command, abstract_syntax)
            if not command.has_data_set:
                self._end_of_data_set(command)

    def _begin(self, command: Command, abstract_syntax: str) -> Reception | Gathering:
        if self.exchange.answers(abstract_syntax):
            return Gathering()
        if command.kind != C_STORE_RQ or abstract_syntax == VERIFICATION:
            raise EndedError(Outcome.ABORTED, A_ABORT)  # a service nobody negotiated, or an answer to nothing
        if not command.sop_class_uid or not command.sop_instance_uid:
            return Reception(None, 0, CANNOT_UNDERSTAND_UID)
        _, transfer_syntax = self.contexts[self._context_id]
        return Reception(lambda: self.begin_store(command, transfer_syntax), self.instance_bytes_max)

    def _end_of_data_set(self, command: Command) -> None:
        reception, self._reception = self._reception, None
        if isinstance(reception, Gathering):  # answered once its PDU has been read
            self._asked = command, self._context_id, reception.content if command.has_data_set else None
            self._is_cancelled = False
            self._end_of_message()
            return
        status = reception.finish() if reception else OUT_OF_RESOURCES
        self.statuses[status] += 1
        INSTANCES.labels(f"{status:04X}").inc()
        self._answer(command, status)

    def _reply(self, command: Command, context_id: int, content: bytearray | None) -> None:
        """Every reply of a question, until a final one or its C-CANCEL (PS3.7 9.3.2.3)."""
        replies = self.exchange.replies(command, *self.contexts[context_id], content)
        status = CANCELLED
        for reply, data_set in replies:
            status = CANCELLED if reply.status in PENDING_STATUSES and self._hears_cancel() else reply.status
            if status == CANCELLED:
                self._send_message(context_id, answer(command, status))
                replies.close()
                break
            self._send_message(context_id, answer(command, status, reply.comment, has_data_set=data_set is not None))
            if data_set is not None:
                self._send_message(context_id, data_set, is_command=False)
        self.questions[status] += 1
        self._asked = None
        self.inlet.end_message()

    def _hears_cancel(self) -> bool:
        """Look at what the peer has sent meanwhile: nothing else may have come than that, or the end."""
        while not self._is_cancelled and (self._encoded or self.inlet.has_waiting()):
            kind, length = self.inlet.pdu()
            if kind != _P_DATA_TF:
                raise EndedError(Outcome.ABORTED, b"" if kind == _A_ABORT else A_ABORT)
            self._p_data(length)
        return self._is_cancelled

    def _answer(self, command: Command, status: int) -> None:
        self._send_message(self._context_id, answer(command, status))
        self._end_of_message()

    def _end_of_message(self) -> None:
        self._encoded.clear()
        self._command = None
        self.inlet.end_message()

    def _send_message(self, context_id: int, content: bytes, *, is_command: bool = True) -> None:
        for pdu in _pdus(context_id, content, _IS_COMMAND if is_command else 0, self.pdu_bytes_max or _PDU_BYTES):
            self.send(pdu)


def _pdus(context_id: int, content: bytes, control: int, bytes_max: int) -> Iterator[bytes]:
    """P-DATA-TF PDUs of one PDV each, no variable field longer than the peer takes (PS3.8 D.1)."""
    most = max(1, min(bytes_max, _PDU_BYTES) - _PDV_HEADER.size)
    for start in range(0, len(content) or 1, most):
        part = content[start : start + most]
        is_last = _IS_LAST if start + most >= len(content) else 0
        pdv = _PDV_HEADER.pack(len(part) + _CONTROL_BYTES, context_id, control | is_last) + part
        yield struct.pack(">BxL", _P_DATA_TF, len(pdv)) + pdv
