"""Search parameters of QIDO-RS (PS3.18 8.3.4) as a query, with what the answer has to warn about."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from triage.query import HELD, UNIQUE, Level, Query, QueryError, conditions_of

LIMIT_DEFAULT, LIMIT_MAX = 100, 1000
OFFSET_MAX = 20_000
_PARAMETERS_MAX = 200
_UID = re.compile(r"[0-9.]{1,64}")
_PLACES = {Level.STUDY: "uid", Level.SERIES: "series", Level.IMAGE: "instance"}
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_PLAIN = frozenset({"limit", "offset", "fuzzymatching", "emptyvaluematching", "includefield"})
_UNSUPPORTED = {
    "fuzzymatching": "The fuzzymatching parameter is not supported. Only literal matching has been performed.",
    "emptyvaluematching": (
        "The emptyvaluematching parameter is not supported. Empty Value Matching has not been performed."
    ),
}
_UNMATCHED = "Some keys are not held here and have not been matched."


@dataclass(frozen=True, kw_only=True)
class Search:
    """``shown``: the attributes of an answer. ``warnings``: sentences."""

    query: Query
    shown: frozenset[str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Stated:
    keys: dict[str, list[str]] = field(default_factory=dict)
    plain: dict[str, list[str]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)


def address(path: Mapping[str, str]) -> dict[str, str]:
    """The UIDs of an address, by keyword. Raise QueryError."""
    uids = {UNIQUE[level]: path[name] for level, name in _PLACES.items() if name in path}
    if not all(_UID.fullmatch(uid) for uid in uids.values()):
        raise QueryError("not an UID")
    return uids


def read_search(stated: Iterable[tuple[str, str]], level: Level, path: Mapping[str, str]) -> Search:
    """``path``: the UIDs of the address, by keyword. Raise QueryError."""
    read = _sorted(stated)
    keys = {**read.keys, **{keyword: [uid] for keyword, uid in path.items()}}
    conditions, unmatched = conditions_of(keys, level)
    limit = min(_number(read.plain, "limit", LIMIT_DEFAULT), LIMIT_MAX)
    query = Query(level=level, conditions=conditions, limit=limit, offset=_number(read.plain, "offset", 0))
    if query.offset > OFFSET_MAX:
        raise QueryError(f"offset: more than {OFFSET_MAX}")
    warnings = [words for name, words in _UNSUPPORTED.items() if read.plain.get(name, [""])[-1].lower() == "true"]
    warnings += [_UNMATCHED] * bool(unmatched or read.unknown)
    return Search(query=query, shown=_shown(read, level, path), warnings=tuple(warnings))


def _sorted(stated: Iterable[tuple[str, str]]) -> _Stated:
    read = _Stated()
    for number, (name, value) in enumerate(stated):
        if number >= _PARAMETERS_MAX:
            raise QueryError(f"more than {_PARAMETERS_MAX} parameters")
        keyword = _keyword(name)
        if name.lower() in _PLAIN:
            read.plain.setdefault(name.lower(), []).append(value)
        elif keyword:
            read.keys.setdefault(keyword, []).append(value)
        else:  # within sequences, private, or not of DICOM: ignored, and said to be
            read.unknown.add(name)
    return read


def _keyword(name: str) -> str:
    """Of an attribute by tag or keyword; "" for what is none of the standard."""
    if _TAG.fullmatch(name):
        return keyword_for_tag(int(name, 16))
    return name if tag_for_keyword(name) is not None else ""


def _number(plain: Mapping[str, list[str]], name: str, default: int) -> int:
    value = plain.get(name, [str(default)])[-1]
    if not (value.isascii() and value.isdecimal() and len(value) < 10):  # noqa: PLR2004 - digits
        raise QueryError(f"{name}: not a number")
    return int(value)


def _shown(read: _Stated, level: Level, path: Mapping[str, str]) -> frozenset[str]:
    """Of its own level and what identifies it; of the levels above what is asked for, all if the address names none."""
    included = {part for value in read.plain.get("includefield", []) for part in value.split(",")}
    above = {keyword for each in Level if each < level for keyword in HELD[each]}
    own = {*HELD[level], *(UNIQUE[each] for each in Level if each <= level)}
    named = {_keyword(part) for part in included}
    named |= {keyword for each in Level if each < level for keyword in HELD[each] if UNIQUE[each] not in path}
    return frozenset(own | (above if "all" in included else above & named))
