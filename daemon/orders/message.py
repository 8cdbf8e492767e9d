"""The orders in an HL7 v2 message. Total: whatever it is, orders come out or a refusal.

ORM^O01, OMG^O19 and OMI^O23, as IHE RAD TF-2 4.2 and 4.4 profile them. The library splits and unescapes; it is shown
only the segments and the escapes that are needed here, since over others it may take very long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hl7

from daemon.orders.header import Header, RefusalError
from triage.order import Order, priority_of
from triage.study import ClinicalPriority

_SEGMENTS = ("MSH", "PID", "ORC", "OBR", "TQ1", "IPC")
_USED_BYTES_MAX = 64 * 1024
_VALUE_CHARACTERS_MAX = 64
_TYPES = {"ORM": "O01", "OMG": "O19", "OMI": "O23"}
# HL7 table 0119: what says something of an order that stands, and what says that it does not stand any more.
_TELLS = frozenset(("NW", "SN", "NA", "XO", "XX", "XR", "RO", "SC", "SR", "RL", "RU"))
_CANCELS = frozenset(("CA", "OC", "CR", "DC", "OD", "DR"))
# What says nothing to us: refusals, requests that are not granted yet, the old half of a replacement, results.
_MEANS_NOTHING = frozenset((
    "OK", "UA", "UC", "UD", "UX", "UH", "UM", "UN", "UR", "HD", "OH", "HR", "OE", "OR", "RP", "RQ", "RR", "PR", "PA",
    "PC", "CH", "CN", "DE", "DF", "FU", "LI", "MC", "NR", "OF", "OP", "RE", "SS",
))  # fmt: skip
# HL7 table 0038: the status of a changed order (ORC-5).
_CANCELLED = frozenset({"CA", "DC"})
_ESCAPES = re.compile(r"(F|R|S|T|E|H|N|X([0-9A-Fa-f]{2})+)")
_MALFORMED = (hl7.HL7Exception, ValueError, IndexError, KeyError, AssertionError)


def orders_in(header: Header, accession_fields: Sequence[str]) -> list[Order]:
    """What its orders say. ``accession_fields``, like "OBR-18": the first that is filled counts. Raise RefusalError."""
    _refuse_foreign(header)
    try:
        message = hl7.parse("\r".join(_used(header)))
        return list(_orders(_Reader(message, header.separators[3]), accession_fields))
    except _MALFORMED as error:
        raise RefusalError("AE", 207, "MSH", "malformed") from error


def _refuse_foreign(header: Header) -> None:
    kind, trigger = header.part(9), header.part(9, 2)
    if kind not in _TYPES:
        raise RefusalError("AR", 200, "MSH-9", "not a type of message that is taken")
    if trigger not in {_TYPES[kind], ""}:
        raise RefusalError("AR", 201, "MSH-9", "not an event that is taken")
    if header.part(11) not in {"P", ""}:
        raise RefusalError("AR", 202, "MSH-11", "not for production")
    if header.part(12) and not header.part(12).startswith("2."):
        raise RefusalError("AR", 203, "MSH-12", "not a version that is taken")
    if not header.part(10):
        raise RefusalError("AE", 101, "MSH-10", "no message control ID")


def _used(header: Header) -> list[str]:
    lines = [
        line for line in header.text.split("\r") if line[:3] in _SEGMENTS and line[3:4] in {header.separators[0], ""}
    ]
    if sum(map(len, lines)) > _USED_BYTES_MAX:
        raise RefusalError("AE", 207, "MSH", "segments larger than 64 KiB")
    return lines


@dataclass(frozen=True)
class _Reader:
    message: Any
    escape: str

    def values(self, segment: Any, number: int, component: int = 1) -> list[str]:  # noqa: ANN401 - the library's list
        """Of each repetition of a field; HL7's "" for nothing (2.5.1, 2.5.3) and blanks are ""."""
        repetitions = segment[number] if number < len(segment) else []
        return [self._plain(_component(each, component), segment, number) for each in repetitions]

    def value(self, segment: Any, number: int, component: int = 1) -> str:  # noqa: ANN401 - the library's list
        """Of the first repetition that has one."""
        return next(filter(None, self.values(segment, number, component)), "")

    def _plain(self, value: str, segment: Any, number: int) -> str:  # noqa: ANN401 - the library's list
        where = f"{_name(segment)}-{number}"
        pieces = value.split(self.escape)
        if len(pieces) % 2 == 0 or not all(map(_ESCAPES.fullmatch, pieces[1::2])):
            raise RefusalError("AE", 102, where, "an escape sequence that cannot be used")
        plain = "" if value == '""' else str(self.message.unescape(value)).strip()
        if len(plain) > _VALUE_CHARACTERS_MAX or not plain.isprintable() or "\ufffd" in plain:
            raise RefusalError("AE", 102, where, "a value that is too long or not in its character set")
        return plain


def _component(repetition: Any, number: int) -> str:  # noqa: ANN401 - the library's list, or text
    parts = [repetition] if isinstance(repetition, str) else repetition
    found = parts[number - 1] if number <= len(parts) else ""
    while not isinstance(found, str):
        found = found[0] if found else ""
    return found


def _name(segment: Any) -> str:  # noqa: ANN401 - the library's list
    return str(segment[0][0])


@dataclass
class _Group:
    """The segments of one order by name."""

    segments: dict[str, list[Any]]

    def of(self, name: str) -> list[Any]:
        return self.segments.get(name, [])


def _groups(message: Any) -> Iterator[_Group]:  # noqa: ANN401 - the library's list
    """Each ORC begins one; a second OBR under the same ORC is another order of the same kind."""
    group: _Group | None = None
    for segment in message:
        name = _name(segment)
        if name == "ORC" or (name == "OBR" and group is not None and group.of("OBR")):
            if group is not None:
                yield group
            group = _Group({"ORC": [segment]} if name == "ORC" or group is None else {"ORC": group.of("ORC")})
        if name in {"OBR", "TQ1", "IPC"}:
            if group is None:
                raise RefusalError("AE", 100, name, "no ORC before it")
            group.segments.setdefault(name, []).append(segment)
    if group is None:
        raise RefusalError("AE", 100, "ORC", "no order in it")
    yield group


def _orders(reader: _Reader, accession_fields: Sequence[str]) -> Iterator[Order]:
    patient_id = _patient_id(reader)
    for group in _groups(reader.message):
        (order_segment,) = group.of("ORC")
        control, status = reader.value(order_segment, 1).upper(), reader.value(order_segment, 5).upper()
        if not control:
            raise RefusalError("AE", 101, "ORC-1", "no order control")
        if control in _MEANS_NOTHING:
            continue
        if control not in _TELLS | _CANCELS:
            raise RefusalError("AE", 103, "ORC-1", "not a known order control")
        cancelled = control in _CANCELS or status in _CANCELLED
        priority = None if cancelled else _priority(reader, group)
        for number in _accession_numbers(reader, group, accession_fields):
            yield Order(accession_number=number, patient_id=patient_id, clinical_priority=priority, cancelled=cancelled)


def _patient_id(reader: _Reader) -> str:
    """PID-3.1, of the repetition that says of itself that it is the medical record number (MR) if there is one."""
    found = [segment for segment in reader.message if _name(segment) == "PID"]
    if len(found) > 1:
        raise RefusalError("AE", 100, "PID", "several patients")
    if not found:
        return ""
    numbers, kinds = reader.values(found[0], 3), reader.values(found[0], 3, 5)
    own = (number for number, kind in zip(numbers, kinds, strict=True) if kind == "MR" and number)
    return next(own, "") or reader.value(found[0], 3) or reader.value(found[0], 2)


def _accession_numbers(reader: _Reader, group: _Group, accession_fields: Sequence[str]) -> list[str]:
    """More than one where the procedure steps (IPC) of an order have their own."""
    for place in accession_fields:
        name, _, number = place.partition("-")
        found = [reader.value(segment, int(number)) for segment in group.of(name)]
        if any(found):
            return list(dict.fromkeys(filter(None, found)))
    sent = (place for place in accession_fields if group.of(place.partition("-")[0]))
    words = f"no accession number in {', '.join(accession_fields)}"
    raise RefusalError("AE", 101, next(sent, accession_fields[0]), words)


def _priority(reader: _Reader, group: _Group) -> ClinicalPriority | None:
    """The most urgent that is stated: TQ1-9, ORC-7.6, OBR-27.6, and OBR-5 of old versions. None if none is."""
    places = (("TQ1", 9, 1), ("ORC", 7, 6), ("OBR", 27, 6), ("OBR", 5, 1))
    stated: dict[str, str] = {}  # where each first stands
    for name, number, component in places:
        for segment in group.of(name):
            for code in filter(None, reader.values(segment, number, component)):
                stated.setdefault(code, f"{name}-{number}")
    known = [priority for priority in map(priority_of, stated) if priority is not None]
    if stated and not known:
        raise RefusalError("AE", 103, next(iter(stated.values())), "not a known priority")
    return min(known, default=None)
