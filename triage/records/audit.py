"""Accesses to studies: who did what, when, from where, and how it ended.

Rows are only ever added; what they hold for a repository alone goes when it has been told.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, select, update

from triage.records.account_tables import accesses
from triage.records.store import Store
from triage.records.tables import studies, workitems
from triage.user import Access, Outcome, Subject

_COLUMNS = [accesses.c[name] for name in ("access_id", "at", "who", "verb", "study_instance_uid", "outcome", "address")]
# A row that waits no longer: what it tells of a question may name a patient.
_DONE: dict[str, Any] = {"waits": False, "details": case((accesses.c.verb == "find", ""), else_=accesses.c.details)}
_WIDTHS = {"who": 64, "verb": 32, "study_instance_uid": 64, "address": 64}


class Audit:
    """Every method is one transaction. ``forwards``: what is entered waits until a repository has been told of it."""

    def __init__(self, store: Store, *, forwards: bool = False) -> None:
        self._store = store
        self._forwards = forwards

    def enter(self, lines: Mapping[str, Access]) -> None:
        """By their own identifiers: a line that was entered before is left as it is."""
        rows = [_row(line_id, access) | {"waits": self._forwards} for line_id, access in lines.items()]
        if rows:
            with self._store.writing() as connection:
                connection.execute(self._store.insert_if_absent(accesses), rows)

    def list(
        self,
        most: int,
        before: int | None = None,
        *,
        same: Mapping[str, str | None],
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[Access]:
        """The newest first; ``before``: an access_id, for the next page. ``same``: columns and what they hold."""
        asked = {name: value for name, value in same.items() if value is not None}
        wanted: list[ColumnElement[bool]] = [accesses.c[name] == value for name, value in asked.items()]
        wanted += [accesses.c.access_id < before] if before is not None else []
        wanted += [accesses.c.at >= since] if since else []
        wanted += [accesses.c.at < until] if until else []
        query = select(*_COLUMNS).where(*wanted).order_by(accesses.c.access_id.desc()).limit(most)
        with self._store.reading() as connection:
            rows = connection.execute(query).mappings()
            return [Access(**{**row, "outcome": Outcome(row["outcome"])}) for row in rows]

    # -- for a repository ------------------------------------------------------------------------------------------

    def waiting(self, most: int) -> Sequence[tuple[Access, Subject | None]]:
        """In the order of entry, with whose study it was, if it is held."""
        columns = [*_COLUMNS, accesses.c.details]
        query = select(*columns).where(accesses.c.waits).order_by(accesses.c.access_id).limit(most)
        with self._store.reading() as connection:
            rows = connection.execute(query).mappings().all()
            subjects = _subjects(connection, {row["study_instance_uid"] for row in rows} - {""})
        return [
            (Access(**{**row, "outcome": Outcome(row["outcome"])}), subjects.get(row["study_instance_uid"]))
            for row in rows
        ]

    def told(self, access_ids: Collection[int]) -> None:
        """The repository has them."""
        with self._store.writing() as connection:
            connection.execute(update(accesses).where(accesses.c.access_id.in_(access_ids)).values(_DONE))

    def give_up_beyond(self, most: int) -> int:
        """How many of the oldest will not be told any more; they stay in the table."""
        newest = select(accesses.c.access_id).where(accesses.c.waits).order_by(accesses.c.access_id.desc())
        with self._store.writing() as connection:
            last = connection.execute(newest.offset(most).limit(1)).scalar()
            if last is None:
                return 0
            old = update(accesses).where(accesses.c.waits & (accesses.c.access_id <= last)).values(_DONE)
            return connection.execute(old).rowcount


def _subjects(connection: Connection, uids: Collection[str]) -> dict[str, Subject]:
    """By the UID of a study, or of a workitem of it."""
    own = [studies.c[each.name] for each in fields(Subject)]
    past = workitems.join(studies, workitems.c.study_instance_uid == studies.c.study_instance_uid)
    asked = (
        (select(workitems.c.workitem_uid.label("asked"), *own).select_from(past), workitems.c.workitem_uid),
        (select(studies.c.workitem_uid.label("asked"), *own), studies.c.workitem_uid),
        (select(studies.c.study_instance_uid.label("asked"), *own), studies.c.study_instance_uid),
    )
    found = {}
    for query, column in asked:
        for row in connection.execute(query.where(column.in_(uids))).mappings() if uids else ():
            found[row["asked"]] = Subject(**{name: value for name, value in row.items() if name != "asked"})
    return found


def _row(line_id: str, access: Access) -> dict[str, object]:
    cut = {name: _plain(getattr(access, name))[:width] for name, width in _WIDTHS.items()}
    return {"line_id": line_id, "at": access.at, "outcome": access.outcome.value, "details": access.details, **cut}


def _plain(text: str) -> str:
    """What either database takes: one line that it refused would hold up all that come after it."""
    return "".join(character for character in text if character.isprintable())
