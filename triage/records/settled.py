"""Up to which number nothing can come any more, of events and of instances.

On PostgreSQL a number may be committed after a larger one, however much later. Whoever goes on from the last number
that it has seen would pass that one over. On SQLite, where one writes at a time, the last number is always settled.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from threading import Lock
from typing import NamedTuple

from sqlalchemy import Connection, func, select, text

from triage.records.store import Store
from triage.records.tables import events, instances

# A transaction that may have a number holds this lock since before it got it, and until it ends.
_WRITERS = text("""
SELECT DISTINCT l.virtualtransaction FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'relation' AND d.datname = current_database() AND l.pid <> pg_backend_pid()
  AND l.relation IN (to_regclass('events'), to_regclass('instances'))
  AND l.granted AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareLock', 'ShareUpdateExclusiveLock')
""")
_START_BACK = 1000


class Numbers(NamedTuple):
    """The last of each, 0 where there is none."""

    event_id: int
    instance_id: int


def last_numbers(connection: Connection) -> Numbers:
    """That anybody can see."""
    event_id, instance_id = connection.execute(_LAST).one()
    return Numbers(event_id or 0, instance_id or 0)


_LAST = select(
    select(func.max(events.c.event_id)).scalar_subquery(), select(func.max(instances.c.instance_id)).scalar_subquery()
)


class Settled:
    """Remembers between looks whom it waits for; threads may share it."""

    def __init__(self, store: Store) -> None:
        self._has_writers = store.backend == "postgresql"
        self._lock = Lock()
        self._settled = Numbers(0, 0)
        self._marked = Numbers(0, 0)
        self._awaited: AbstractSet[str] = frozenset()

    def numbers(self, connection: Connection) -> Numbers:
        """What the next statement reads up to these is all there will ever be."""
        with self._lock:
            # First the numbers: who may have a smaller one is then among those who write, or has ended.
            last = last_numbers(connection)
            writers = self._writers(connection)
            if not writers:
                self._settled, self._awaited = last, frozenset()
            elif not self._awaited & writers:
                self._settled = self._marked if self._awaited else self._settled
                self._marked, self._awaited = last, writers
            return self._settled

    def start(self, connection: Connection) -> Numbers:
        """To go on from, for who begins now: perhaps a little early, never too late."""
        settled = self.numbers(connection)
        last = last_numbers(connection)
        return Numbers(
            max(settled.event_id, last.event_id - _START_BACK), max(settled.instance_id, last.instance_id - _START_BACK)
        )

    def _writers(self, connection: Connection) -> AbstractSet[str]:
        if not self._has_writers:
            return frozenset()
        return frozenset(connection.execute(_WRITERS).scalars())
