"""A query of DICOMweb as keys (PS3.18 8.3.4): attributes by keyword or tag, those in sequences with dots between."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from daemon.dicom.workitem import put

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_DEPTH_MAX = 3
_KEYS_MAX = 64
_NUMBER_MAX = 1_000_000


@dataclass(kw_only=True)
class Asked:
    """``ignored``: something was asked for that is not done here."""

    keys: Dataset = field(default_factory=Dataset, repr=False)
    limit: int | None = None
    offset: int = 0
    ignored: bool = False


def asked(parameters: Iterable[tuple[str, str]]) -> Asked:
    """Raise ValueError, in words that repeat nothing of the query, for what is no query."""
    found = Asked()
    for count, (name, value) in enumerate(parameters):
        if count >= _KEYS_MAX:
            raise ValueError("There are too many query parameters.")
        if name == "limit":
            found.limit = max(1, _number(value))
        elif name == "offset":
            found.offset = _number(value)
        elif name == "fuzzymatching":
            found.ignored |= value.lower() == "true"
        elif name != "includefield":  # all fields are told
            _add(found.keys, name.split("."), value)
    return found


def _number(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or len(value) > len(str(_NUMBER_MAX)):
        raise ValueError("limit and offset are whole numbers.")
    return int(value)


def _add(keys: Dataset, path: list[str], value: str) -> None:
    if len(path) > _DEPTH_MAX:
        raise ValueError("A query parameter goes too deep.")
    keyword = _keyword(path[0])
    tag = tag_for_keyword(keyword) or 0
    vr = dictionary_VR(tag)
    if len(path) > 1:
        if vr != "SQ":
            raise ValueError("A query parameter has an attribute in what is no sequence.")
        if tag not in keys:
            put(keys, keyword, [Dataset()])
        _add(keys[tag].value[0], path[1:], value)
    elif vr == "UI":
        keys[tag] = DataElement(tag, vr, value.replace(",", "\\"))
    elif vr != "SQ":
        put(keys, keyword, value)


def _keyword(name: str) -> str:
    keyword = keyword_for_tag(int(name, 16)) if _TAG.fullmatch(name) else name
    if tag_for_keyword(keyword) is None:
        raise ValueError("A query parameter names no attribute.")
    return keyword
