"""Keys of a query for workitems as conditions on their studies: no more than the database can tell, and never too much.

What these conditions leave over is still to be matched by the standard's rules; what they leave out would not match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal, or_

from triage.records.tables import UtcDateTime, studies
from triage.study import ClinicalPriority

_UIDS = {"SOPInstanceUID": studies.c.workitem_uid, "StudyInstanceUID": studies.c.study_instance_uid}
_UIDS_MAX = 1000
_KEY_CHARACTERS_MAX = 320
_MOMENT = re.compile(r"\d{8}(\d\d){0,3}")


def conditions(keys: Mapping[str, str], now: ColumnElement[datetime]) -> list[ColumnElement[bool]]:
    """``keys``: by keyword, as they came, with * and ? where the standard knows them."""
    found = [_one(keyword, key.strip(" \0"), now) for keyword, key in keys.items()]
    return [each for each in found if each is not None]


def _one(keyword: str, key: str, now: ColumnElement[datetime]) -> ColumnElement[bool] | None:
    if not key.strip("*"):
        return None
    if keyword in _UIDS:
        uids = [uid.strip(" \0") for uid in key.split("\\")]
        return _UIDS[keyword].in_(uids) if len(uids) <= _UIDS_MAX else None
    if len(key) > _KEY_CHARACTERS_MAX or not key.isprintable():
        return None
    if keyword == "ScheduledProcedureStepPriority":
        priority = _PRIORITIES.get(key)
        return priority(now) if priority else None
    matched = _MATCHED.get(keyword)
    return matched(key) if matched else None


def _like(column: ColumnElement[str], key: str) -> ColumnElement[bool]:
    """As it is written; SQLite's LIKE also lets another case through."""
    trimmed = func.trim(column)
    return trimmed.like(_pattern(key), escape="\\") if {"*", "?"} & {*key} else trimmed == key


def _named(key: str) -> ColumnElement[bool] | None:
    """Whatever its case, and with further components, which may be empty. Databases fold no letters but these: names
    with others in them may all match.
    """
    if not key.isascii():
        return None
    name = func.trim(studies.c.patient_name)
    same = name.ilike(_pattern(key.rstrip("^=")) + "%", escape="\\")
    return or_(same, func.octet_length(name) != func.length(name))


def _pattern(key: str) -> str:
    escaped = re.sub(r"[\\%_]", r"\\\g<0>", key)
    return re.sub(r"\*+", "%", escaped).replace("?", "_")


def _within(column: ColumnElement[datetime], key: str) -> ColumnElement[bool] | None:
    """A range of whole days, hours, minutes or seconds in UTC; what is stated otherwise is not for the database."""
    first, dash, last = (part.strip() for part in key.partition("-"))
    if not dash or not all(_MOMENT.fullmatch(part) for part in (first, last) if part):
        return None
    try:
        start = _moment(first, "000000") if first else None
        end = _moment(last, "235959") + timedelta(seconds=1) if last else None
    except (ValueError, OverflowError):
        return None
    bounds = [column >= literal(start, UtcDateTime)] if start else []
    bounds += [column < literal(end, UtcDateTime)] if end else []
    return and_(*bounds) if bounds else None


def _moment(digits: str, rest: str) -> datetime:
    return datetime.strptime(digits + rest[len(digits) - 8 :], "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _high(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    stat = studies.c.clinical_priority == int(ClinicalPriority.STAT)
    return or_(stat, studies.c.flagged, studies.c.overdue_at <= now)


# As `daemon/dicom/workitem.py` says it.
_PRIORITIES: dict[str, Callable[[ColumnElement[datetime]], Any]] = {
    "HIGH": _high,
    "MEDIUM": lambda _: studies.c.clinical_priority == int(ClinicalPriority.URGENT),
    "LOW": lambda _: studies.c.clinical_priority == int(ClinicalPriority.ROUTINE),
}
_MATCHED: dict[str, Callable[[str], ColumnElement[bool] | None]] = {
    "PatientName": _named,
    "PatientID": partial(_like, studies.c.patient_id),
    "PatientSex": partial(_like, studies.c.patient_sex),
    # Told as far as VR SH goes.
    "AccessionNumber": partial(_like, func.substr(studies.c.accession_number, 1, 16)),
    "ScheduledProcedureStepStartDateTime": partial(_within, studies.c.waiting_since),
    "ExpectedCompletionDateTime": partial(_within, studies.c.overdue_at),
}
