"""What has happened to a study, in order: its events, and the places on the worklist that it moved between."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from sqlalchemy import Column, Connection, Insert, ScalarSelect, bindparam, func, insert, select, text

from triage.records.settled import last_numbers
from triage.records.store import Store
from triage.records.tables import events, instances
from triage.study import Event, EventKind
from triage.worklist import count_up_to

_ID, _AT = events.c.event_id, events.c.at
_MOST, _MOST_PROGRESS = 1000, 20
_OPENED_SECONDS = 600
# So many numbers are given out while no transaction of ours is open.
_LATE_NUMBERS = 2000


class History:
    """Events are only ever added. ``note`` belongs to the transaction of what it tells."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(
        self,
        connection: Connection,
        study_instance_uid: str,
        kind: EventKind,
        *,
        who: str = "",
        words: str = "",
        ranks: tuple[int, int] | None = None,
    ) -> None:
        """``ranks``: before and after; the same place twice is no move."""
        before, after = ranks if ranks and ranks[0] != ranks[1] else (None, None)
        row = {"study_instance_uid": study_instance_uid, "kind": kind, "who": who[:64], "words": words[:320]}
        connection.execute(self._adding, row | {"rank_from": before, "rank_to": after})

    def note_opened(self, study_instance_uid: str, who: str) -> None:
        """Somebody looks at the study: told once in ten minutes of each. Raise StudyNotFoundError."""
        told = select(_ID).where(
            events.c.study_instance_uid == study_instance_uid,
            events.c.kind == EventKind.OPENED.value,
            events.c.who == who[:64],
            self._store.after(-_OPENED_SECONDS) < _AT,
        )
        with self._store.reading() as connection:
            if connection.execute(told.limit(1)).first():
                return
        with self._store.writing() as connection:
            self._store.lock_study(connection, study_instance_uid)
            if not connection.execute(told.limit(1)).first():
                self.note(connection, study_instance_uid, EventKind.OPENED, who=who)

    @cached_property
    def _adding(self) -> Insert:
        row: dict[str, Any] = {column.name: bindparam(column.name) for column in events.columns if column is not _ID}
        return insert(events).values(row | {"at": self._store.now()})

    def rank(self, connection: Connection, study_instance_uid: str, *, in_time: bool = False) -> int:
        """Place of an open study; 0 if it is read or not held. Grows with the open studies, not with those read.

        ``in_time``: the place that it would have if it were not overdue.
        """
        count = text(count_up_to(self._store.clock, if_open=True, in_time=in_time))
        return int(connection.execute(count, {"uid": study_instance_uid}).scalar_one())

    def of_study(self, study_instance_uid: str) -> list[Event]:
        """From the first to the last, receipts of its instances included; at most the last 1,000 of either kind, of
        progress the last 20: some performers tell every per cent.
        """
        of_study = select(events).where(events.c.study_instance_uid == study_instance_uid).order_by(_ID.desc())
        is_progress = events.c.kind == EventKind.PROGRESSED.value
        noted, progressed = of_study.where(~is_progress).limit(_MOST), of_study.where(is_progress).limit(_MOST_PROGRESS)
        received = (
            select(instances.c.received_at, instances.c.calling_ae, instances.c.sop_class_uid)
            .where(instances.c.study_instance_uid == study_instance_uid)
            .order_by(instances.c.instance_id.desc())
        )
        with self._store.reading() as connection:
            happened = [_event(row) for each in (noted, progressed) for row in connection.execute(each).mappings()]
            happened += [
                Event(event_id=None, at=at, kind=EventKind.RECEIVED, who=ae, words="an instance was received")
                for at, ae, _ in connection.execute(received.limit(_MOST))
            ]
        return sorted(happened, key=lambda event: (event.at, event.event_id is None, event.event_id or 0))

    def version(self) -> str:
        """While it stays, nothing has happened to any study.

        The last event and the last instance. On PostgreSQL one may be committed after a later one: so it also has how
        many there are among the last numbers.
        """
        with self._store.reading() as connection:
            last = last_numbers(connection)
            if self._store.backend == "sqlite":
                return "{}-{}".format(*last)
            counts = (_among_last(_ID, last.event_id), _among_last(instances.c.instance_id, last.instance_id))
            return "{}-{}-{}-{}".format(*last, *connection.execute(select(*counts)).one())


def _among_last(key: Column[int], end: int) -> ScalarSelect[int]:
    return select(func.count()).where(key > end - _LATE_NUMBERS).scalar_subquery()


def _event(row: Any) -> Event:  # noqa: ANN401 - a row mapping
    told = {name: row[name] for name in ("event_id", "at", "who", "words", "rank_from", "rank_to")}
    return Event(**told, kind=EventKind(row["kind"]))
