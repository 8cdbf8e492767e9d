"""Since when open studies wait, where a clock that stood ahead has left that in the future.

Whoever comes later stands after them all (`triage.worklist.arrival`), so it lasts for as long as the list is not empty;
and who is listed with the time at which he really came stands before them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, func, select, update

from triage.records.queue import STEP_SECONDS
from triage.records.store import Store
from triage.records.tables import IS_UNREAD, studies
from triage.study import ClinicalPriority

_UID, _SINCE = studies.c.study_instance_uid, studies.c.waiting_since
_COLUMNS = (_UID, _SINCE, studies.c.received_at, studies.c.overdue_at, studies.c.waiting_limit_minutes)
# Named, so that the index of open studies is looked into rather than read.
_IS_OPEN = IS_UNREAD & studies.c.clinical_priority.in_([int(each) for each in ClinicalPriority])
_MOMENT = timedelta(milliseconds=1)


class Waiting:
    """Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def is_ahead(self) -> bool:
        """Whether anybody waits since a time that is still to come. Small steps pass by themselves."""
        ahead = select(_UID).where(_IS_OPEN & (studies.c.waiting_since > self._store.after(STEP_SECONDS)))
        with self._store.reading() as connection:
            return connection.execute(ahead.limit(1)).first() is not None

    def mend(self) -> int:
        """Pull back all who wait since later than now, by as much as the last of them. Nobody changes place."""
        with self._store.writing() as connection:
            now = connection.execute(select(self._store.now())).scalar_one()
            ahead = select(*_COLUMNS).where(_IS_OPEN & (studies.c.waiting_since > now)).order_by(_SINCE, _UID)
            rows = connection.execute(ahead).mappings().all()
            if rows:
                changes = _pulled(rows, now, self._last(connection, now))
                # In one order: two that change the same studies cannot wait for each other.
                connection.execute(_PULL, sorted(changes, key=lambda change: str(change["uid"])))
        return len(rows)

    def _last(self, connection: Connection, now: datetime) -> datetime | None:
        """Of those who wait since a time that has been."""
        past = select(func.max(_SINCE)).where(_IS_OPEN & (studies.c.waiting_since <= now))
        found: datetime | None = connection.execute(past).scalar()
        return found


# Not one that was reopened since it was looked at.
_PULL = (
    update(studies)
    .where((studies.c.study_instance_uid == bindparam("uid")) & (studies.c.waiting_since == bindparam("seen")))
    .values({name: bindparam(f"new_{name}") for name in ("waiting_since", "received_at", "overdue_at")})
)


def _pulled(rows: Sequence[RowMapping], now: datetime, before: datetime | None) -> Iterator[dict[str, Any]]:
    """``rows`` in their order; ``before``: where the last stands who stays. It makes no limit longer."""
    excess = rows[-1]["waiting_since"] - now
    for row in rows:
        since = row["waiting_since"] - excess
        since = since if before is None else max(since, before + _MOMENT)
        limit = timedelta(minutes=row["waiting_limit_minutes"])
        yield {
            "uid": row["study_instance_uid"],
            "seen": row["waiting_since"],
            "new_waiting_since": since,
            "new_received_at": min(row["received_at"], since),
            "new_overdue_at": min(row["overdue_at"], since + limit),
        }
        before = since
