"""Accesses to studies: who did what, when, from where, and how it ended. Rows are only ever added."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, select

from triage.records.account_tables import accesses
from triage.records.store import Store
from triage.user import Access, Outcome

_COLUMNS = [accesses.c[name] for name in ("access_id", "at", "who", "verb", "study_instance_uid", "outcome", "address")]
_WIDTHS = {"who": 64, "verb": 32, "study_instance_uid": 64, "address": 64}


class Audit:
    """Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def enter(self, lines: Mapping[str, Access]) -> None:
        """By their own identifiers: a line that was entered before is left as it is."""
        rows = [_row(line_id, access) for line_id, access in lines.items()]
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


def _row(line_id: str, access: Access) -> dict[str, object]:
    cut = {name: _plain(getattr(access, name))[:width] for name, width in _WIDTHS.items()}
    return {"line_id": line_id, "at": access.at, "outcome": access.outcome.value, **cut}


def _plain(text: str) -> str:
    """What either database takes: one line that it refused would hold up all that come after it."""
    return "".join(character for character in text if character.isprintable())
