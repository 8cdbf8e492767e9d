"""Command sets (PS3.7 6.3.1 and annex E): implicit VR, little endian, all of group 0000."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from daemon.dicom.negotiation import usable_uid

# PS3.7 E.1, Command Field. The answer to a request has the highest bit set as well.
C_STORE_RQ = 0x0001
C_FIND_RQ = 0x0020
C_ECHO_RQ = 0x0030
C_CANCEL_RQ = 0x0FFF
N_GET_RQ = 0x0110
N_SET_RQ = 0x0120
N_ACTION_RQ = 0x0130
ANSWER = 0x8000
# Command Data Set Type of a message without data set, and of one with it.
NO_DATA_SET = 0x0101
_DATA_SET = 0x0001

_AFFECTED_SOP_CLASS_UID = 0x0002
_REQUESTED_SOP_CLASS_UID = 0x0003
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
_COMMAND_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE_UID = 0x1000
_REQUESTED_SOP_INSTANCE_UID = 0x1001
_ATTRIBUTE_IDENTIFIER_LIST = 0x1005
_ACTION_TYPE_ID = 0x1008
_HEADER = struct.Struct("<HHL")
_US = struct.Struct("<H")
_TAG = struct.Struct("<HH")
_COMMENT_MAX = 64


@dataclass(frozen=True, kw_only=True)
class Command:
    """A request. The UIDs, affected or requested, are "" unless usable. ``message_id`` of a C-CANCEL: of what it ends.

    ``action``: Action Type ID, 0 without one. ``attributes``: tags that an N-GET asks for.
    """

    kind: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str = field(repr=False)
    action: int = 0
    attributes: tuple[int, ...] = ()


def parse_command(encoded: bytes | bytearray) -> Command:
    """Raise ValueError for what is no command set, or lacks what every request has. Other elements are passed over."""
    elements = dict(_elements(encoded))
    kind = _number(elements, _COMMAND_FIELD)
    return Command(
        kind=kind,
        message_id=_number(elements, _MESSAGE_ID_BEING_RESPONDED_TO if kind == C_CANCEL_RQ else _MESSAGE_ID),
        has_data_set=_number(elements, _COMMAND_DATA_SET_TYPE) != NO_DATA_SET,
        sop_class_uid=_uid(elements, _AFFECTED_SOP_CLASS_UID) or _uid(elements, _REQUESTED_SOP_CLASS_UID),
        sop_instance_uid=_uid(elements, _AFFECTED_SOP_INSTANCE_UID) or _uid(elements, _REQUESTED_SOP_INSTANCE_UID),
        action=_number(elements, _ACTION_TYPE_ID) if _ACTION_TYPE_ID in elements else 0,
        attributes=_tags(elements.get(_ATTRIBUTE_IDENTIFIER_LIST, b"")),
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


def _tags(value: bytes) -> tuple[int, ...]:
    """Of an AT; nothing of one that is cut short."""
    whole = len(value) - len(value) % _TAG.size
    return tuple(group << 16 | element for group, element in _TAG.iter_unpack(value[:whole]))


def answer(request: Command, status: int, comment: str = "", *, has_data_set: bool = False) -> bytes:
    """The response to a request (PS3.7 9.3 and 10.3), encoded. ``comment``: Error Comment, ASCII."""
    body = (
        _text(_AFFECTED_SOP_CLASS_UID, request.sop_class_uid)
        + _short(_COMMAND_FIELD, request.kind | ANSWER)
        + _short(_MESSAGE_ID_BEING_RESPONDED_TO, request.message_id)
        + _short(_COMMAND_DATA_SET_TYPE, _DATA_SET if has_data_set else NO_DATA_SET)
        + _short(_STATUS, status)
        + _text(_ERROR_COMMENT, comment[:_COMMENT_MAX], padding=b" ")
        + _text(_AFFECTED_SOP_INSTANCE_UID, request.sop_instance_uid)
        + (_short(_ACTION_TYPE_ID, request.action) if request.action else b"")
    )
    return _HEADER.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _short(element: int, value: int) -> bytes:
    return _HEADER.pack(0, element, _US.size) + _US.pack(value)


def _text(element: int, text: str, padding: bytes = b"\0") -> bytes:
    """Nothing for what is not known."""
    value = text.encode("ascii", "replace")
    value += padding * (len(value) % 2)
    return _HEADER.pack(0, element, len(value)) + value if value else b""
