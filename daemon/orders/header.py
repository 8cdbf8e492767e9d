"""The header of an HL7 v2 message (MSH): who sends what, in which separators and character set; and the refusal."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

# HL7 table 0211 by Python's names. Without one: UTF-8, or else Latin-1.
_CHARSETS = {
    "ASCII": "ascii", "UNICODE UTF-8": "utf-8", "UNICODE": "utf-8", "UTF-8": "utf-8",
    **{f"8859/{n}": f"iso8859_{n}" for n in (*range(1, 10), 15)},
    "ISO IR14": "shift_jis", "ISO IR87": "iso2022_jp", "ISO IR159": "iso2022_jp_1",
    "GB 18030-2000": "gb18030", "KS X 1001": "euc_kr", "BIG-5": "big5",
}  # fmt: skip
# The field separator, and MSH-2: four characters, three of old without sub-components, five from 2.7 on.
_SEPARATORS = re.compile(r"[!-/:-@\[-`{-~]{4,6}")


class RefusalError(Exception):
    """The message cannot be used. ``code``: of HL7 table 0357; ``where``: segment and field. No value of it is told."""

    def __init__(self, answer: str, code: int, where: str, problem: str) -> None:
        super().__init__(problem)
        self.answer, self.code, self.where, self.problem = answer, code, where, problem


@dataclass(frozen=True, kw_only=True)
class Header:
    """MSH as received, each field still escaped, "" where absent; and the message's text, by its character set."""

    separators: str = "|^~\\&"
    fields: tuple[str, ...] = field(default=(), repr=False)
    charset: str = "utf-8"
    text: str = field(default="", repr=False)

    def raw(self, number: int) -> str:
        """MSH-``number``, from 3 on."""
        return self.fields[number - 1] if number <= len(self.fields) else ""

    def part(self, number: int, component: int = 1) -> str:
        """Without control characters."""
        parts = self.raw(number).split(self.separators[1])
        value = parts[component - 1] if component <= len(parts) else ""
        return "".join(filter(str.isprintable, value)).strip()

    @property
    def who(self) -> str:
        """Sending application and facility."""
        return "@".join(filter(None, (self.part(3), self.part(4))))

    @property
    def is_acknowledged_at_once(self) -> bool:
        """Whether the sender speaks enhanced mode and wants a commit acknowledgement (MSH-15)."""
        return self.part(15) in {"AL", "SU", "ER"}


def read_header(content: bytes) -> Header:
    """Raise RefusalError if there is none."""
    first = re.split(rb"[\r\n]", content, maxsplit=1)[0]
    if not first.startswith(b"MSH") or len(first) < len(r"MSH|^~\&|"):
        raise RefusalError("AR", 100, "MSH", "no message header")
    separator = first[3:4]
    characters = (separator + first.split(separator)[1]).decode("latin_1")
    if not _SEPARATORS.fullmatch(characters) or len(set(characters)) < len(characters):
        raise RefusalError("AR", 102, "MSH-2", "encoding characters that cannot be used")
    separators = (characters + "&")[:5]
    charset = _charset(first, separator, separators)
    text = re.sub(r"\r\n?|\n", "\r", _decoded(content, charset))
    fields = text.split("\r", 1)[0].split(separators[0])
    return Header(separators=separators, fields=tuple(fields), charset=charset or "utf-8", text=text)


def _charset(first: bytes, separator: bytes, separators: str) -> str:
    """Python's name for MSH-18, "" if it says nothing. Of several the first that is more than ASCII."""
    fields = first.split(separator)
    stated = fields[17].decode("latin_1") if len(fields) > 17 else ""  # noqa: PLR2004 - MSH-18; MSH-1 is the separator
    names = [name.strip().upper() for name in stated.split(separators[2]) if name.strip()]
    known = [_CHARSETS[name] for name in names if name in _CHARSETS]
    return next((name for name in known if name != "ascii"), known[0] if known else "")


def _decoded(content: bytes, charset: str) -> str:
    """A name that cannot be read costs no order: it is replaced, and looked at only where it matters."""
    try:
        return content.decode(charset or "utf-8")
    except UnicodeDecodeError:
        return content.decode(charset, errors="replace") if charset else content.decode("latin_1")


def digest(header: Header | None, content: bytes) -> str:
    """Of sender, control ID and all that follows the header: the same if the message is sent again."""
    if header is None:
        return hashlib.sha256(content).hexdigest()
    _, _, rest = header.text.partition("\r")
    parts = header.raw(3), header.raw(4), header.raw(10), rest
    return hashlib.sha256("\r".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
