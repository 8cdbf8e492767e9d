"""Study Root Query (PS3.4 C.4.1, C.6.2): C-FIND of what is held, at the levels STUDY, SERIES and IMAGE.

Hierarchical: an identifier names one study to ask for its series, one series to ask for its images. Answers come in
UTF-8. Where not everything could be looked at or told, the last status is not Success: nobody takes a part for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from daemon.dicom.exchange import (
    IDENTIFIER_DOES_NOT_MATCH,
    OUT_OF_RESOURCES,
    PENDING,
    PENDING_KEYS_IGNORED,
    SUCCESS,
    Question,
    Reply,
)
from triage.query import HELD, UNIQUE, Level, Query, QueryError, conditions_of
from triage.records.archive import Archive
from triage.vision.header import read_keys

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MATCHES_MAX = 2_000
_LEVELS = {level.name: level for level in Level}
# No keys: they say how to read the identifier, or where to.
_ABOUT = frozenset({"SpecificCharacterSet", "QueryRetrieveLevel", "RetrieveAETitle", "TimezoneOffsetFromUTC"})
# Required keys (PS3.4 C.6.2.1) that are not held: answered, empty.
_EMPTY = frozenset({"StudyTime", "StudyID", "SeriesNumber", "InstanceNumber"})
_UTF_8 = "ISO_IR 192"


@dataclass(frozen=True, kw_only=True)
class StudyRoot:
    """Reads, and never changes anything."""

    archive: Archive

    def find(self, question: Question) -> Iterator[Reply]:
        """See `daemon.dicom.exchange.Handler`."""
        try:
            query, asked, is_partly = _understood(read_keys(question.data_set))
        except QueryError as error:
            yield Reply(status=IDENTIFIER_DOES_NOT_MATCH, comment=str(error)[:64])
            return
        page = self.archive.find(query)
        pending = PENDING_KEYS_IGNORED if is_partly else PENDING
        for found in page.found:
            yield Reply(status=pending, data_set=_identifier(found, asked, query.level))
        if page.more:
            yield Reply(status=OUT_OF_RESOURCES, comment=f"more than {MATCHES_MAX} matches: narrow the query")
        elif page.older:
            yield Reply(status=OUT_OF_RESOURCES, comment="older studies not searched: narrow the query")
        else:
            yield Reply(status=SUCCESS)


def _understood(keys: Mapping[int, str]) -> tuple[Query, Sequence[str], bool]:
    """The query, the keywords asked for, and whether some keys are not held. Raise QueryError."""
    stated = {keyword_for_tag(tag): text for tag, text in keys.items()}  # private and unknown ones under ""
    level = _LEVELS.get(stated.get("QueryRetrieveLevel", "").strip())
    if level is None:
        raise QueryError("QueryRetrieveLevel: neither STUDY, SERIES nor IMAGE")
    _need_one_of_each(stated, level)
    asked = [keyword for keyword in stated if keyword not in _ABOUT]
    conditions, _ = conditions_of({keyword: [stated[keyword]] for keyword in asked if keyword}, level)
    held = {keyword for each in Level if each <= level for keyword in HELD[each]}
    query = Query(level=level, conditions=conditions, limit=MATCHES_MAX)
    return query, asked, not held.issuperset(asked)


def _need_one_of_each(stated: Mapping[str, str], level: Level) -> None:
    """The unique keys above the level (PS3.4 C.4.1.2.1)."""
    for above in (each for each in Level if each < level):
        uid = stated.get(UNIQUE[above], "").strip(" \0")
        if not uid or "\\" in uid:
            raise QueryError(f"{UNIQUE[above]}: one is needed at this level")


def _identifier(found: Mapping[str, Any], asked: Sequence[str], level: Level) -> Dataset:
    """What was asked for and is held, the required keys that are not, and what identifies it."""
    own = {*(UNIQUE[each] for each in Level if each <= level), *asked}
    told = {keyword: found.get(keyword) for keyword in own if keyword in found or keyword in _EMPTY}
    told |= {"QueryRetrieveLevel": level.name, "SpecificCharacterSet": _UTF_8}
    made = Dataset()
    for keyword, value in told.items():
        tag = tag_for_keyword(keyword) or 0
        # As received: a value that is none of its VR is told all the same.
        made[tag] = DataElement(tag, dictionary_VR(tag), _plain(value), validation_mode=config.IGNORE)
    return made


def _plain(value: Any) -> Any:  # noqa: ANN401 - text, number or a list of them
    return str(value) if isinstance(value, int) else value
