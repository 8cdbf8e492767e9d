"""Which films another look may be asked for: those of a study, one film, or all that ended for one reason."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, select

from triage.errors import Reason
from triage.records.store import Store
from triage.records.tables import IS_OPEN, IS_UNREAD, instances, jobs, studies

# instance_ids by Study Instance UID.
Films = dict[str, list[int]]


class Again:
    """Every method is one transaction. Only films that are still kept, of their study's current reading."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of_uid(self, uid: str) -> Films:
        """Of a study, or one that is a film itself."""
        return self._films((instances.c.study_instance_uid == uid) | (instances.c.sop_instance_uid == uid))

    def of_reason(self, reason: Reason, since: datetime | None = None) -> Films:
        """Of studies that nobody has read, received since."""
        which = IS_UNREAD & (jobs.c.reason == reason.value)
        return self._films(which & (instances.c.received_at >= since) if since else which)

    def _films(self, which: ColumnElement[bool]) -> Films:
        query = (
            select(instances.c.study_instance_uid, instances.c.instance_id)
            .join(jobs, jobs.c.instance_id == instances.c.instance_id)
            .join(studies, studies.c.study_instance_uid == instances.c.study_instance_uid)
            .where(which & ~IS_OPEN & instances.c.pixels_deleted_at.is_(None))
            .where(instances.c.episode == studies.c.episode)
            .order_by(instances.c.instance_id)
        )
        found: Films = {}
        with self._store.reading() as connection:
            for uid, instance_id in connection.execute(query):
                found.setdefault(uid, []).append(instance_id)
        return found
