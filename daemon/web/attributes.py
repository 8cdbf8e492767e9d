"""DICOM JSON (PS3.18 annex F) of what a search has found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from triage.query import Level

# Of each level what an answer has to name although it is not held: empty (PS3.18 10.6.3.3).
_EMPTY = {
    Level.STUDY: ("StudyTime", "ReferringPhysicianName", "StudyID"),
    Level.SERIES: ("SeriesNumber",),
    Level.IMAGE: ("InstanceNumber",),
}
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def as_json(found: Mapping[str, Any], level: Level, retrieve_url: str) -> dict[str, Any]:
    """By tag, in its order."""
    told = {**dict.fromkeys(_EMPTY[level]), **found, "RetrieveURL": retrieve_url}
    elements = [_element(keyword, value) for keyword, value in told.items()]
    return dict(sorted(elements))


def _element(keyword: str, value: Any) -> tuple[str, dict[str, Any]]:  # noqa: ANN401 - text, number or a list of them
    tag = tag_for_keyword(keyword) or 0
    vr = dictionary_VR(tag)
    values = value if isinstance(value, list) else [value] if value not in (None, "") else []
    shown = [_person(each) if vr == "PN" else each for each in values]
    return f"{tag:08X}", {"vr": vr, "Value": shown} if shown else {"vr": vr}


def _person(name: str) -> dict[str, str]:
    groups = zip(_GROUPS, name.split("="), strict=False)
    return {group: text for group, text in groups if text}
