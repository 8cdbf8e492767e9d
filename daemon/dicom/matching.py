"""Attribute matching of queries (PS3.4 C.2.2.2), at a cost that no key can drive up: no backtracking, no recursion."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

# Longer ones match nothing: no value that is held is as long.
KEY_CHARACTERS_MAX = 320
_RANGED = frozenset({"DA", "TM", "DT"})
_WILD = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
# Everything matches: an empty key, and "*" (PS3.4 C.2.2.2.3, C.2.2.2.4).
_UNIVERSAL = frozenset({"", "*"})


def matches(vr: str, key: str, value: str) -> bool:
    """Whether a value matches a key of this value representation; several UIDs have backslashes between them.

    Names of persons are compared without regard to case, all else as it is written.
    """
    key, value = key.strip(" \0"), value.strip(" \0")
    if key in _UNIVERSAL:
        return True
    if vr == "UI":
        return value in _uids(key)
    if len(key) > KEY_CHARACTERS_MAX:
        return False
    if vr in _RANGED and "-" in key:
        return _within(key, value)
    if vr == "PN":
        key, value = key.casefold().rstrip("^="), value.casefold().rstrip("^=")
    if vr in _WILD and ("*" in key or "?" in key):
        return _pattern(key)(value)
    return key == value


def _within(key: str, value: str) -> bool:
    """A range, open at either end; compared to the precision of its ends."""
    first, _, last = (part.strip() for part in key.partition("-"))
    return bool(value) and (not first or value[: len(first)] >= first) and (not last or value[: len(last)] <= last)


@lru_cache(maxsize=4)
def _uids(key: str) -> frozenset[str]:
    """There may be thousands, held against thousands."""
    return frozenset(uid.strip(" \0") for uid in key.split("\\"))


@lru_cache(maxsize=64)
def _pattern(key: str) -> Callable[[str], bool]:
    """The pieces between stars, each sought after the one before: the first place that fits is as good as any."""
    head, *rest = re.sub(r"\*+", "*", key).split("*")
    first, *middle = [_piece(piece) for piece in (head, *rest[:-1])]
    last = _piece(rest[-1]) if rest else None

    def fits(value: str) -> bool:
        if last is None:
            return first.fullmatch(value) is not None
        found = first.match(value)
        for piece in middle:
            found = found and piece.search(value, found.end())
        place = len(value) - len(rest[-1])
        return found is not None and place >= found.end() and last.fullmatch(value, place) is not None

    return fits


def _piece(text: str) -> re.Pattern[str]:
    """Without stars: characters and dots, which cannot backtrack."""
    return re.compile("".join("." if character == "?" else re.escape(character) for character in text), re.DOTALL)
