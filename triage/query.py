"""What is looked for among the studies held: levels, keys and matching as PS3.4 C.2.2.2 has them, bounded.

A condition is total: whatever a peer sends either becomes one, or is refused before the database hears of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TypeAlias

from triage.errors import TriageError

LIST_MAX = 500
VALUE_CHARACTERS_MAX = 256
STARS_MAX = 8
_UID = re.compile(r"[0-9.]{1,64}")
_DATE = re.compile(r"[0-9]{8}")
_OLDEST, _NEWEST = "00000000", "99999999"


class QueryError(TriageError):
    """The query cannot be understood; the text names the key, and repeats no value."""


class Level(IntEnum):
    """Of the Study Root model (PS3.4 C.6.2)."""

    STUDY = 0
    SERIES = 1
    IMAGE = 2


class Kind(StrEnum):
    """How a key is matched."""

    UID = "uid"
    DATE = "date"
    TEXT = "text"
    NAME = "name"
    CODES = "codes"
    SHOWN = "shown"  # not at all: it is only returned


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """Single value and list of UID matching."""

    keyword: str
    values: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Between:
    """Range matching of dates, both ends included: YYYYMMDD."""

    keyword: str
    first: str = field(repr=False)
    last: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Like:
    """Wild card matching: "*" for any characters, "?" for one. Several patterns: one of them is enough."""

    keyword: str
    patterns: tuple[str, ...] = field(repr=False)
    is_name: bool = False

    @property
    def is_exact(self) -> bool:
        return not self.is_name and len(self.patterns) == 1 and not set(self.patterns[0]) & set("*?")


Condition: TypeAlias = OneOf | Between | Like

# What is held of each level, and how it is matched. Keywords of PS3.6.
HELD: dict[Level, dict[str, Kind]] = {
    Level.STUDY: {
        "StudyInstanceUID": Kind.UID,
        "StudyDate": Kind.DATE,
        "AccessionNumber": Kind.TEXT,
        "ModalitiesInStudy": Kind.CODES,
        "StudyDescription": Kind.TEXT,
        "PatientName": Kind.NAME,
        "PatientID": Kind.TEXT,
        "PatientBirthDate": Kind.DATE,
        "PatientSex": Kind.TEXT,
        "NumberOfStudyRelatedSeries": Kind.SHOWN,
        "NumberOfStudyRelatedInstances": Kind.SHOWN,
        "InstanceAvailability": Kind.SHOWN,
    },
    Level.SERIES: {
        "SeriesInstanceUID": Kind.UID,
        "Modality": Kind.CODES,
        "NumberOfSeriesRelatedInstances": Kind.SHOWN,
        "InstanceAvailability": Kind.SHOWN,
    },
    Level.IMAGE: {
        "SOPInstanceUID": Kind.UID,
        "SOPClassUID": Kind.UID,
        "AvailableTransferSyntaxUID": Kind.SHOWN,
        "InstanceAvailability": Kind.SHOWN,
    },
}
# The key of an object at each level.
UNIQUE = {Level.STUDY: "StudyInstanceUID", Level.SERIES: "SeriesInstanceUID", Level.IMAGE: "SOPInstanceUID"}


@dataclass(frozen=True, kw_only=True)
class Query:
    """``offset`` and ``limit`` count what matches, in an order that stays the same."""

    level: Level
    conditions: tuple[Condition, ...] = ()
    limit: int = 100
    offset: int = 0

    def of(self, *levels: Level) -> tuple[Condition, ...]:
        """The conditions on attributes of these levels."""
        keywords = {keyword for level in levels for keyword in HELD[level]}
        return tuple(condition for condition in self.conditions if condition.keyword in keywords)


def kind_of(keyword: str, level: Level) -> Kind | None:
    """None for what is not held at this level or above."""
    found = (HELD[each].get(keyword) for each in Level if each <= level)
    return next((kind for kind in found if kind), None)


def conditions_of(keys: Mapping[str, Sequence[str]], level: Level) -> tuple[tuple[Condition, ...], frozenset[str]]:
    """Conditions, and the keywords that could not be matched because nothing of the kind is held.

    Values as received; an empty one matches everything (universal matching). Raise QueryError.
    """
    conditions, unmatched = [], set()
    for keyword, values in keys.items():
        stated = tuple(value.strip(" \0") for value in values if value.strip(" \0*"))
        if not stated:
            continue
        kind = kind_of(keyword, level)
        if kind is None or kind is Kind.SHOWN:
            unmatched.add(keyword)
        else:
            conditions.append(_KINDS[kind](keyword, stated))
    return tuple(conditions), frozenset(unmatched)


def _uids(keyword: str, values: Sequence[str]) -> Condition:
    uids = tuple(dict.fromkeys(_split(values, r"[\\,]")))
    if len(uids) > LIST_MAX:
        raise QueryError(f"{keyword}: more than {LIST_MAX} values")
    if not all(_UID.fullmatch(uid) for uid in uids):
        raise QueryError(f"{keyword}: not a list of UIDs")
    return OneOf(keyword=keyword, values=uids)


def _dates(keyword: str, values: Sequence[str]) -> Condition:
    first, dash, last = _single(keyword, values).replace(" ", "").partition("-")
    first, last = first or _OLDEST, (last if dash else first) or _NEWEST
    if not (_DATE.fullmatch(first) and _DATE.fullmatch(last)):
        raise QueryError(f"{keyword}: neither a date YYYYMMDD nor a range of them")
    return Between(keyword=keyword, first=first, last=last)


def _text(keyword: str, values: Sequence[str]) -> Condition:
    return Like(keyword=keyword, patterns=(_pattern(keyword, _single(keyword, values)),))


def _name(keyword: str, values: Sequence[str]) -> Condition:
    pattern = _pattern(keyword, _single(keyword, values).rstrip("^= ") or "*")
    return Like(keyword=keyword, patterns=(pattern,), is_name=True)


def _codes(keyword: str, values: Sequence[str]) -> Condition:
    codes = tuple(dict.fromkeys(_split(values, r"[\\,]")))
    if len(codes) > STARS_MAX:
        raise QueryError(f"{keyword}: more than {STARS_MAX} values")
    return Like(keyword=keyword, patterns=tuple(_pattern(keyword, code.upper()) for code in codes))


def _split(values: Iterable[str], separators: str) -> list[str]:
    return [part.strip() for value in values for part in re.split(separators, value) if part.strip()]


def _single(keyword: str, values: Sequence[str]) -> str:
    if len(values) > 1:
        raise QueryError(f"{keyword}: one value only")
    return values[0]


def _pattern(keyword: str, value: str) -> str:
    """Stars beside each other are one. Few stars and characters: no pattern may take long to match."""
    pattern = re.sub(r"\*+", "*", value)
    if len(pattern) > VALUE_CHARACTERS_MAX or pattern.count("*") > STARS_MAX:
        raise QueryError(f"{keyword}: more than {VALUE_CHARACTERS_MAX} characters or {STARS_MAX} wild cards")
    if not pattern.isprintable():
        raise QueryError(f"{keyword}: holds control characters")
    return pattern


_KINDS: dict[Kind, Callable[[str, Sequence[str]], Condition]] = {
    Kind.UID: _uids,
    Kind.DATE: _dates,
    Kind.TEXT: _text,
    Kind.NAME: _name,
    Kind.CODES: _codes,
}
