"""Open studies with their places, worked out for those that are shown and no more.

The view works out every column of every open study before its first row is there: of 10,000 that takes SQLite 33 ms,
PostgreSQL 15. Here the places come first, of narrow rows, and columns only for what has been chosen: 2.4 and 0.7 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import Boolean, ColumnElement, FromClause, Integer, Select, String, literal_column, select, text

from triage.records.tables import studies
from triage.study import WorklistEntry
from triage.worklist import Clock, computed, next_places, place, places

_COMPUTED: Mapping[str, Any] = {
    "waiting_seconds": Integer(), "clinical_priority": String(), "overdue": Boolean(), "why": String()
}  # fmt: skip


def every_place(clock: Clock) -> FromClause:
    """``rank`` and ``study_instance_uid`` of all open studies."""
    return _placed(places(clock))


def first_places(clock: Clock, most: int, after: str | None = None) -> FromClause:
    """Of the first ``most``, or of those that come after a study."""
    words = {"most": most} if after is None else {"most": most, "uid": after}
    return _placed(next_places(clock, after=after is not None), **words)


def place_of(clock: Clock, study_instance_uid: str) -> FromClause:
    """Of one study; no row if it is not open."""
    return _placed(place(clock), uid=study_instance_uid)


def _placed(words: str, **values: object) -> FromClause:
    found = text(words).bindparams(**values).columns(rank=Integer(), study_instance_uid=String())
    return found.subquery("placed")


def said(name: str, clock: Clock) -> ColumnElement[Any]:
    """What the view says of a study beside its row: "why", "overdue" and so on."""
    return literal_column(computed("studies", clock)[name], _COMPUTED[name]).label(name)


def entries(clock: Clock, placed: FromClause) -> Select[Any]:
    """The rows of the view for those that are ``placed``, in no order."""
    names = [field.name for field in fields(WorklistEntry)][1:]
    columns = [said(name, clock) if name in _COMPUTED else studies.c[name] for name in names]
    query = select(placed.c.rank, *columns)
    return query.join_from(placed, studies, studies.c.study_instance_uid == placed.c.study_instance_uid)
