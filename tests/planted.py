"""A word of its own in every element of pydicom's dictionary that can hold text, a date or a number in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import date, timedelta
from itertools import count

from pydicom import Dataset
from pydicom.datadict import DicomDictionary

# Of commands, of what stands before a data set in a file, of a DICOMDIR; and what says how the rest is to be read.
_ELSEWHERE = {0x0000, 0x0002, 0x0004}
_CHARSET, _ITEMS = 0x00080005, 0xFFFA0000
_FIRST_DAY = date(1850, 1, 1)
_LETTERS = frozenset({"LO", "SH", "ST", "LT", "UT", "UC", "AE", "UR"})
_KINDS = _LETTERS | {"PN", "CS", "DA", "DT", "TM", "AS", "IS", "DS"}
# What an age can hold is short; no hash has a Y in it.
_AGE = "471Y"


def plant(dataset: Dataset, spared: Collection[str] = ()) -> list[str]:
    """What has been planted. ``spared``: keywords, and value representations, that stay as they are."""
    words = []
    for tag, kind, keyword, number in _elements():
        if keyword in spared or kind in spared:
            continue
        word = _word(kind, tag, number)
        dataset.add_new(tag, kind, word)
        words += [*word.split("^")[:1], date_as_read(word)] if kind in {"PN", "DA"} else [word]
    return words


def date_as_read(word: str) -> str:
    return "-".join((word[:4], word[4:6], word[6:])) if word.isdigit() else word


def _elements() -> Iterator[tuple[int, str, str, int]]:
    numbers = count()
    for tag, (kind, _, _, _, keyword) in sorted(DicomDictionary.items()):
        if kind in _KINDS and tag >> 16 not in _ELSEWHERE and tag != _CHARSET and tag < _ITEMS:
            yield tag, kind, keyword, next(numbers)


def _word(kind: str, tag: int, number: int) -> str:
    day = (_FIRST_DAY + timedelta(days=number)).strftime("%Y%m%d")
    forms = {
        "PN": f"KANARI{tag:08X}^Zwitschi",
        "CS": f"KANARI{tag:08X}",
        "DA": day,
        "DT": f"{day}114713.{number:06}",
        "TM": f"114713.{number:06}",
        "AS": _AGE,
        "IS": f"4713{number:06}",
        "DS": f"4714{number:06}.25",
    }
    return forms.get(kind, f"Kanari{tag:08X}")
