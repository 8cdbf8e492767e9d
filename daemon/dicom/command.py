"""Command sets (PS3.7 6.3.1 and annex E): implicit VR, little endian, all of group 0000."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from daemon.dicom.negotiation import usable_uid

# PS3.7 E.1, Command Field. The answer to a request has the highest bit set as well.
C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
ANSWER = 0x8000
# Command Data Set Type of a message without data set.
NO_DATA_SET = 0x0101

_AFFECTED_SOP_CLASS_UID = 0x0002
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
_COMMAND_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_AFFECTED_SOP_INSTANCE_UID = 0x1000
_HEADER = struct.Struct("<HHL")
_US = struct.Struct("<H")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A request. The UIDs are "" unless usable."""

    kind: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str = field(repr=False)


def parse_command(encoded: bytes | bytearray) -> Command:
    """Raise ValueError for what is no command set, or lacks what every request has. Other elements are passed over."""
    elements = dict(_elements(encoded))
    return Command(
        kind=_number(elements, _COMMAND_FIELD),
        message_id=_number(elements, _MESSAGE_ID),
        has_data_set=_number(elements, _COMMAND_DATA_SET_TYPE) != NO_DATA_SET,
        sop_class_uid=_uid(elements, _AFFECTED_SOP_CLASS_UID),
        sop_instance_uid=_uid(elements, _AFFECTED_SOP_INSTANCE_UID),
    )


def _elements(encoded: bytes | bytearray) -> list[tuple[int, bytes]]:
    found, place = [], 0
    while place < len(encoded):
        try:
            group, element, length = _HEADER.unpack_from(encoded, place)
        except struct.error:
            raise ValueError("an element is cut short") from None
        place += _HEADER.size + length
        if group != 0 or place > len(encoded):
            raise ValueError("not an element of a command set")
        found.append((element, bytes(encoded[place - length : place])))
    return found


def _number(elements: dict[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != _US.size:
        raise ValueError(f"(0000,{element:04X}) is missing or no US")
    return int(_US.unpack(value)[0])


def _uid(elements: dict[int, bytes], element: int) -> str:
    return usable_uid(elements.get(element, b"").decode("ascii", "replace"))


def answer(request: Command, status: int) -> bytes:
    """C-STORE-RSP or C-ECHO-RSP (PS3.7 9.3.1.2, 9.3.5.2), encoded."""
    body = (
        _text(_AFFECTED_SOP_CLASS_UID, request.sop_class_uid)
        + _short(_COMMAND_FIELD, request.kind | ANSWER)
        + _short(_MESSAGE_ID_BEING_RESPONDED_TO, request.message_id)
        + _short(_COMMAND_DATA_SET_TYPE, NO_DATA_SET)
        + _short(_STATUS, status)
        + _text(_AFFECTED_SOP_INSTANCE_UID, request.sop_instance_uid)
    )
    return _HEADER.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _short(element: int, value: int) -> bytes:
    return _HEADER.pack(0, element, _US.size) + _US.pack(value)


def _text(element: int, uid: str) -> bytes:
    """Nothing for an UID that is not known."""
    value = uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    return _HEADER.pack(0, element, len(value)) + value if value else b""
