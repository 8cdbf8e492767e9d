"""Studies whose wait has gone over its limit: they rise by the clock alone, and their history says so."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import ScalarSelect, func, select

from triage.errors import StudyNotFoundError
from triage.records.history import History
from triage.records.store import Store
from triage.records.tables import IS_UNREAD, events, studies
from triage.study import EventKind, Status

_UID = studies.c.study_instance_uid
_MOST = 100


class Overdue:
    """Every method asks and tells in transactions of one study each: whoever receives films waits for none of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._history = History(store)

    def note(self, most: int = _MOST) -> int:
        """How many were told of now; of those that are late the longest comes first."""
        late = IS_UNREAD & (studies.c.overdue_at <= self._store.now()) & _told().is_(None)
        with self._store.reading() as connection:
            uids = connection.execute(select(_UID).where(late).order_by(studies.c.overdue_at).limit(most)).scalars()
            found = list(uids)
        count = 0
        for uid in found:
            with suppress(StudyNotFoundError):  # erased since
                count += self._note(uid)
        return count

    def _note(self, study_instance_uid: str) -> bool:
        """False if it was read meanwhile, or another has told."""
        with self._store.writing() as connection:
            row = self._store.lock_study(connection, study_instance_uid)
            mine = studies.c.study_instance_uid == study_instance_uid
            told = connection.execute(select(_told()).where(mine)).scalar()
            if row["status"] == Status.READ or told is not None:
                return False
            before = self._history.rank(connection, study_instance_uid, in_time=True)
            ranks = before, self._history.rank(connection, study_instance_uid)
            words = f"waited over the limit of {row['waiting_limit_minutes']} min"
            self._history.note(connection, study_instance_uid, EventKind.OVERDUE, words=words, ranks=ranks)
        return True


def _told() -> ScalarSelect[int]:
    """The event of this wait; NULL if there is none. As a value: so an index is asked, study by study."""
    began = events.alias("began")
    reopened = (began.c.study_instance_uid == _UID) & (began.c.kind == EventKind.REOPENED)
    since = func.coalesce(select(func.max(began.c.event_id)).where(reopened).scalar_subquery(), 0)
    of_wait = (events.c.study_instance_uid == _UID) & (events.c.event_id > since)
    return select(func.max(events.c.event_id)).where(of_wait & (events.c.kind == EventKind.OVERDUE)).scalar_subquery()
