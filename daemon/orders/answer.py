"""The acknowledgement of a message (HL7 2.9.2 and 2.9.3), in the sender's version, separators and character set."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import count

from daemon.orders.header import Header, RefusalError

_TEXTS = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    103: "Table value not found",
    200: "Unsupported message type",
    201: "Unsupported event code",
    202: "Unsupported processing id",
    203: "Unsupported version id",
    207: "Application internal error",
}
_FIELD_CHARACTERS_MAX = 227
_serial = count(int(time.time() * 1000) % 10**10)


def acknowledge(header: Header | None, refusal: RefusalError | None = None) -> bytes:
    """AA, or AE or AR with what was wrong; CA, CE, CR where the sender asked for a commit acknowledgement."""
    told = header or Header()
    answer = refusal.answer if refusal else "AA"
    if told.is_acknowledged_at_once:
        answer = "C" + answer[1]
    bar = told.separators[0]
    lines = [_msh(told), bar.join(("MSA", answer, _cut(told.raw(10))))]
    if refusal:
        lines.append(_err(told, refusal))
    return "".join(f"{line}\r" for line in lines).encode(told.charset, errors="replace")


def _msh(told: Header) -> str:
    bar, hat = told.separators[0], told.separators[1]
    trigger = told.part(9, 2)
    fields = ["MSH", told.separators[1:], *(_cut(told.raw(number)) for number in (5, 6, 3, 4))]
    fields += [
        datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000"),
        "",
        hat.join(("ACK", trigger, "ACK") if trigger else ("ACK",)),
    ]
    fields += [f"T{next(_serial)}", _cut(told.raw(11)) or "P", _cut(told.raw(12)) or "2.5.1"]
    fields += ["", "", "", "", "", _cut(told.raw(18))]
    return bar.join(fields).rstrip(bar)


def _err(told: Header, refusal: RefusalError) -> str:
    """ERR-1 until version 2.4; ERR-2 to 4 and 7 since."""
    bar, hat, ampersand = told.separators[0], told.separators[1], told.separators[4]
    segment, _, number = refusal.where.partition("-")
    words = _TEXTS[refusal.code]
    place = hat.join(filter(None, (segment, "1", number)))
    if told.part(12) and told.part(12) < "2.5":
        code = ampersand.join((str(refusal.code), words, "HL70357"))
        return bar.join(("ERR", hat.join((segment, "1", number, code))))
    code = hat.join((str(refusal.code), words, "HL70357"))
    return bar.join(("ERR", "", place, code, "E", "", "", refusal.problem))


def _cut(raw: str) -> str:
    return "".join(filter(str.isprintable, raw))[:_FIELD_CHARACTERS_MAX]
