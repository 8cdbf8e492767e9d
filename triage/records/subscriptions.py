"""Who is told of which workitems, and up to where it has been: kept here, so that no restart loses any of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Column, Connection, RowMapping, delete, insert, or_, select, update

from triage.records.settled import Settled
from triage.records.store import Store
from triage.records.tables import events, instances, studies, subscribers, subscriptions, workitems
from triage.study import EventKind, Status
from triage.workitem import STATES, STATES_AFTER, StepState

# The UID that stands for all workitems (PS3.4 CC.2.3.1).
ALL_WORKITEMS = "1.2.840.10008.5.1.4.34.5"
# And for those that match keys (PS3.4 CC.2.3.3): such subscriptions are refused.
FILTERED_WORKITEMS = "1.2.840.10008.5.1.4.34.5.1"
_BATCH = 200
_CAME_AT = instances.c.received_at
_SILENT = (EventKind.OPINION, EventKind.OPENED, EventKind.OTHER)


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A UPS State Report; or UPS Cancel Requested, by ``asked_by``, for a ``reason`` that may be ""; or a UPS Progress
    Report, of what has been said of the ``progress`` by now, in the DICOM JSON model (PS3.4 CC.2.4).
    """

    workitem_uid: str
    state: StepState
    asked_by: str = ""
    reason: str = field(default="", repr=False)
    progress: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a subscriber is to be told next, and the last rows that it then knows of, where there are new ones.

    ``wishes``: its subscriptions whose first state is among the notices.
    """

    notices: Sequence[Notice]
    wishes: frozenset[str] = frozenset()
    event: RowMapping | None = field(repr=False)
    instance: RowMapping | None = field(repr=False)
    is_last: bool


class Subscriptions:
    """Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._settled = Settled(store)

    def subscribe(self, ae_title: str, workitem_uid: str) -> None:
        """To one workitem, or to all: then nothing said before about single ones holds any longer."""
        with self._store.reading() as connection:
            start = self._settled.start(connection)
        with self._store.writing() as connection:
            new = {"ae_title": ae_title, **start._asdict()}
            connection.execute(self._store.insert_if_absent(subscribers).values(new))
            self._forget(connection, ae_title, None if workitem_uid == ALL_WORKITEMS else workitem_uid)
            row = {"ae_title": ae_title, "workitem_uid": workitem_uid, "excluded": False, "told": False}
            connection.execute(insert(subscriptions).values(row))

    def unsubscribe(self, ae_title: str, workitem_uid: str) -> None:
        with self._store.writing() as connection:
            self._forget(connection, ae_title, None if workitem_uid == ALL_WORKITEMS else workitem_uid)
            if self._to_all(connection, ae_title):
                row = {"ae_title": ae_title, "workitem_uid": workitem_uid, "excluded": True, "told": True}
                connection.execute(insert(subscriptions).values(row))

    def suspend(self, ae_title: str) -> None:
        """Workitems that come from now on are not subscribed to; those that are there stay so."""
        same = (subscriptions.c.ae_title == ae_title) & (subscriptions.c.workitem_uid == ALL_WORKITEMS)
        with self._store.writing() as connection:
            connection.execute(update(subscriptions).where(same).values(suspended_at=self._store.now()))

    def _forget(self, connection: Connection, ae_title: str, workitem_uid: str | None) -> None:
        """Its subscription to one workitem, or all of them."""
        mine = subscriptions.c.ae_title == ae_title
        only = mine if workitem_uid is None else mine & (subscriptions.c.workitem_uid == workitem_uid)
        connection.execute(delete(subscriptions).where(only))

    def _to_all(self, connection: Connection, ae_title: str) -> bool:
        same = (subscriptions.c.ae_title == ae_title) & (subscriptions.c.workitem_uid == ALL_WORKITEMS)
        return connection.execute(select(subscriptions.c.told).where(same)).first() is not None

    # -- telling ---------------------------------------------------------------------------------------------------

    def subscribed(self) -> list[str]:
        """Application entities that have any subscription."""
        with self._store.reading() as connection:
            return list(connection.execute(select(subscriptions.c.ae_title).distinct()).scalars())

    def take_turn(self, ae_title: str, seconds: float) -> bool:
        """Whether it is the caller's to tell this subscriber for so long; others then leave it alone."""
        free = or_(subscribers.c.lease_until.is_(None), subscribers.c.lease_until <= self._store.now())
        take = update(subscribers).where((subscribers.c.ae_title == ae_title) & free)
        with self._store.writing() as connection:
            return connection.execute(take.values(lease_until=self._store.after(seconds))).rowcount > 0

    def end_turn(self, ae_title: str) -> None:
        with self._store.writing() as connection:
            mine = update(subscribers).where(subscribers.c.ae_title == ae_title)
            connection.execute(mine.values(lease_until=None))

    def told(self, ae_title: str, batch: Batch) -> None:
        """All of the batch has arrived.

        If its last row has been erased since, SQLite gives the number to another: then the same is told once more.
        """
        ends = ((events.c.event_id, events.c.at, batch.event), (instances.c.instance_id, _CAME_AT, batch.instance))
        with self._store.writing() as connection:
            for key, at, row in ends:
                if row is not None and _still_stands(connection, key, at, row):
                    place = update(subscribers).where(subscribers.c.ae_title == ae_title)
                    connection.execute(place.values({key.name: row[key.name]}))
            # Not those that were made while the batch was on its way: their first state was not in it.
            answered = (subscriptions.c.ae_title == ae_title) & subscriptions.c.workitem_uid.in_(batch.wishes)
            connection.execute(update(subscriptions).where(answered).values(told=True))

    def due(self, ae_title: str) -> Batch | None:
        """None if there is nothing."""
        with self._store.reading() as connection:
            at = connection.execute(select(subscribers).where(subscribers.c.ae_title == ae_title)).mappings().first()
            if at is None:
                return None
            wishes = _Wishes.of(connection, ae_title)
            until = self._settled.numbers(connection)
            happened = self._between(connection, events.c.event_id, at["event_id"], until.event_id)
            came = self._between(connection, instances.c.instance_id, at["instance_id"], until.instance_id)
            notices = [*_first_states(connection, wishes), *_states(connection, wishes, happened, came)]
        if not notices and not happened and not came:
            return None
        return Batch(
            notices=list(dict.fromkeys(reversed(notices)))[::-1],  # the last word of each stays last
            wishes=wishes.untold,
            event=happened[-1] if happened else None,
            instance=came[-1] if came else None,
            is_last=len(happened) < _BATCH and len(came) < _BATCH,
        )

    def _between(self, connection: Connection, key: Column[int], number: int, until: int) -> Sequence[RowMapping]:
        later = select(key.table).where((key > number) & (key <= until)).order_by(key).limit(_BATCH)
        return connection.execute(later).mappings().all()


def _still_stands(connection: Connection, key: Column[int], at: Column[datetime], row: RowMapping) -> bool:
    """Whether nothing else has its number."""
    of_study = key.table.c.study_instance_uid == row["study_instance_uid"]
    same = (key == row[key.name]) & of_study & (at == row[at.name])
    return connection.execute(select(key).where(same)).first() is not None


def is_subscribed(connection: Connection, workitem_uid: str) -> bool:
    """Whether anybody is told of it."""
    own = subscriptions.c.workitem_uid == workitem_uid
    to_all = subscriptions.c.workitem_uid == ALL_WORKITEMS
    out = select(subscriptions.c.ae_title).where(own & subscriptions.c.excluded)
    heard = (own & ~subscriptions.c.excluded) | (to_all & subscriptions.c.ae_title.not_in(out))
    return connection.execute(select(subscriptions.c.ae_title).where(heard).limit(1)).first() is not None


@dataclass(frozen=True, kw_only=True)
class _Wishes:
    """What one subscriber wants to hear of. ``until``: only of workitems from before then."""

    named: frozenset[str]
    excluded: frozenset[str]
    all: bool
    until: datetime | None
    untold: frozenset[str]

    @staticmethod
    def of(connection: Connection, ae_title: str) -> _Wishes:
        mine = select(subscriptions).where(subscriptions.c.ae_title == ae_title)
        rows = connection.execute(mine).mappings().all()
        everything = next((row for row in rows if row["workitem_uid"] == ALL_WORKITEMS), None)
        return _Wishes(
            named=frozenset(row["workitem_uid"] for row in rows if not row["excluded"]) - {ALL_WORKITEMS},
            excluded=frozenset(row["workitem_uid"] for row in rows if row["excluded"]),
            all=everything is not None,
            until=everything["suspended_at"] if everything else None,
            untold=frozenset(row["workitem_uid"] for row in rows if not row["told"]),
        )

    def include(self, workitem_uid: str, since: datetime) -> bool:
        if workitem_uid in self.named:
            return True
        return self.all and workitem_uid not in self.excluded and (self.until is None or since <= self.until)


def _first_states(connection: Connection, wishes: _Wishes) -> Iterator[Notice]:
    """What a subscription finds when it begins (PS3.4 CC.2.3.3)."""
    if not wishes.untold:
        return
    query = select(studies.c.workitem_uid, studies.c.status)
    named = studies.c.workitem_uid.in_(wishes.untold)
    wanted = or_(named, studies.c.status != Status.READ) if ALL_WORKITEMS in wishes.untold else named
    for uid, status in connection.execute(query.where(wanted)):
        yield Notice(workitem_uid=uid, state=STATES[Status(status)])
    over = select(workitems.c.workitem_uid, workitems.c.state).where(workitems.c.workitem_uid.in_(wishes.untold))
    for uid, state in connection.execute(over.where(workitems.c.state.is_not(None))):
        yield Notice(workitem_uid=uid, state=StepState(state))


def _states(
    connection: Connection, wishes: _Wishes, happened: Sequence[RowMapping], came: Sequence[RowMapping]
) -> Iterator[Notice]:
    uids = {row["study_instance_uid"] for row in (*happened, *came)}
    said = workitems.c.workitem_uid == studies.c.workitem_uid
    held = (
        select(studies, workitems.c.progress).outerjoin(workitems, said).where(studies.c.study_instance_uid.in_(uids))
    )
    now = {row["study_instance_uid"]: row for row in connection.execute(held).mappings()}
    past = _past(connection, uids)
    # Without those erased since they were read.
    happened, came = ([row for row in rows if row["study_instance_uid"] in now] for rows in (happened, came))
    for place, row in enumerate(happened):
        uid = row["study_instance_uid"]
        is_last_word = not any(
            later["study_instance_uid"] == uid and later["kind"] in STATES_AFTER for later in happened[place + 1 :]
        )
        yield from _of_event(wishes, row, now[uid], past.get(uid, []), is_last_word=is_last_word)
    for row in came:
        study = now[row["study_instance_uid"]]
        if wishes.include(study["workitem_uid"], study["waiting_since"]):
            yield Notice(workitem_uid=study["workitem_uid"], state=STATES[Status(study["status"])])


def _past(connection: Connection, uids: set[str]) -> dict[str, list[RowMapping]]:
    """Workitems that have ended, by study, in their order."""
    mine = workitems.c.study_instance_uid.in_(uids) & workitems.c.state.is_not(None)
    found: dict[str, list[RowMapping]] = {}
    for row in connection.execute(select(workitems).where(mine).order_by(workitems.c.last_event_id)).mappings():
        found.setdefault(row["study_instance_uid"], []).append(row)
    return found


def _of_event(
    wishes: _Wishes, event: RowMapping, study: RowMapping, past: Sequence[RowMapping], *, is_last_word: bool
) -> Iterator[Notice]:
    """``is_last_word``: no later event tells the study's state, so that it is the one that it has now."""
    kind = EventKind(event["kind"])
    if kind in (EventKind.CANCEL_ASKED, EventKind.PROGRESSED):
        yield from _of_reading(wishes, event, study, past)
        return
    former = next((row["workitem_uid"] for row in past if row["last_event_id"] >= event["event_id"]), None)
    if former and kind in STATES_AFTER and wishes.include(former, study["received_at"]):
        yield Notice(workitem_uid=former, state=STATES_AFTER[kind])
    is_current = (former is None and kind not in _SILENT) or kind is EventKind.RELEASED
    if not is_current or not wishes.include(study["workitem_uid"], study["waiting_since"]):
        return
    if kind in STATES_AFTER and kind is not EventKind.RELEASED:
        yield Notice(workitem_uid=study["workitem_uid"], state=STATES_AFTER[kind])
    elif is_last_word:
        yield Notice(workitem_uid=study["workitem_uid"], state=STATES[Status(study["status"])])


def _of_reading(wishes: _Wishes, event: RowMapping, study: RowMapping, past: Sequence[RowMapping]) -> Iterator[Notice]:
    """Somebody wants it cancelled, or its performer tells how far it is: nothing to tell where it has ended since."""
    uid = study["workitem_uid"]
    has_ended = study["status"] != Status.READING or any(row["last_event_id"] >= event["event_id"] for row in past)
    if has_ended or not wishes.include(uid, study["waiting_since"]):
        return
    if event["kind"] == EventKind.PROGRESSED:
        yield Notice(workitem_uid=uid, state=StepState.IN_PROGRESS, progress=study["progress"] or "{}")
    else:
        asked_by = event["who"] or "unknown"
        yield Notice(workitem_uid=uid, state=StepState.IN_PROGRESS, asked_by=asked_by, reason=event["words"])
